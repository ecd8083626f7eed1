"""CAMs against those of captum and pytorch-grad-cam where these compute the same; docs/cam.md has where they do not.

Neither package is in an extra. `pip install captum grad-cam` runs these tests; the figures are of captum 0.9.0 and
grad-cam 1.5.7.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.encoding.test_cam_papers import SIZE, blobs, network
from tests.hooks import exact_network
from tonno_core.encoding.classifier import Classifier, stage_modules
from tonno_core.settings import CamKind


def test_gradcam_is_signed_as_captums() -> None:
    attr = pytest.importorskip("captum.attr", reason="captum is in no extra: pip install captum")
    model, slices = exact_network("resnet10t", SIZE), blobs(2)
    encoder, signs = Classifier(model, ("a", "b"), channels=1), set()
    for stage, (_, module) in enumerate(stage_modules(model), start=1):
        expected = attr.LayerGradCam(model, model.get_submodule(module)).attribute(slices[:, None], target=1)[:, 0]
        found = encoder.cam(slices, [(1, stage)], "gradcam")[1][1, stage]
        torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=1e-12)  # float64, sums in another order
        signs |= set(found.sign().unique().tolist())
    assert {-1.0, 1.0} <= signs


@pytest.mark.parametrize(
    ("name", "kind", "method"),
    [
        ("resnet10t", "gradcam", "GradCAM"),
        ("swin", "gradcam", "GradCAM"),
        ("resnet10t", "layercam", "LayerCAM"),
        ("swin", "layercam", "LayerCAM"),
        ("resnet10t", "gradcam++", "GradCAMPlusPlus"),
    ],
)
def test_pictures_are_those_of_pytorch_grad_cam(name: str, kind: CamKind, method: str) -> None:
    package = pytest.importorskip("pytorch_grad_cam", reason="it is in no extra: pip install grad-cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    model: Any = network(name)
    if kind == "gradcam++":  # gradients beside whose squares its 1e-6 is nothing
        with torch.no_grad():
            model.get_classifier().weight.mul_(1e5)
    slices, encoder = blobs(2), Classifier(model, ("a", "b"), channels=1)
    asked = [targets.ClassifierOutputTarget(index) for index in (0, 1)]  # each slice another class
    shown = 0
    for stage, (_, module) in enumerate(stage_modules(model), start=1):
        layers = [model.get_submodule(module)]
        layout = (lambda values: values.permute(0, 3, 1, 2)) if name == "swin" else None
        with getattr(package, method)(model=model, target_layers=layers, reshape_transform=layout) as cam:
            picture = cam(input_tensor=slices[:, None], targets=asked)
        found = encoder.cam(slices, [(0, stage), (1, stage)], kind)[1]
        maps = torch.stack([found[index, stage][index] for index in (0, 1)]).clamp_min(0)
        shown += bool(maps.any())
        # 0..1, enlarged, and 0..1 again, with 1e-7 beside the peak and in float32.
        enlarged = F.interpolate(_spanned(maps)[:, None], (SIZE, SIZE), mode="bilinear", align_corners=False)[:, 0]
        torch.testing.assert_close(torch.from_numpy(picture).double(), _spanned(enlarged), rtol=0, atol=1e-5)
    assert shown >= 2  # at other stages all may speak against the class, as random networks say


def _spanned(maps: torch.Tensor) -> torch.Tensor:
    """Bring each map to 0..1."""
    shifted = maps - maps.amin(dim=(1, 2), keepdim=True)
    return shifted / (shifted.amax(dim=(1, 2), keepdim=True) + 1e-7)
