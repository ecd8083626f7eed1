#!/usr/bin/env bash
# grad-cam 1.5.7 (pytorch-grad-cam), GradCAMPlusPlus: a constant of 1e-6 beside squared gradients decides where the map has
# its peak, in the range of gradients that networks with mean pooling have.
#
# Expected: alpha = g^2 / (2 g^2 + g^3 sum A), as the code's comment says (eq. 19 of arXiv 1710.11063): 1 / (2 + g sum A)
# where g is not 0, at any size of g. With channels in other units (activations times 100, the weights behind them divided
# by 100) the network computes the same and the formula gives the same map.
# Seen: eps = 1e-6 is added to the denominator. Where g is below 1e-3 it outweighs 2 g^2, and the weights become sum g^3,
# up to a factor. A weight of 0.03 behind a mean of 7 x 7 cells, as in a ResNet-50, is a gradient of 6e-4. Below, the peak
# goes from the right to the left with the units.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile grad-cam==1.5.7 torch==2.13.0 torchvision==0.28.0 "numpy==2.4.6" 2>/dev/null
cat > "$folder/seen.py" <<'PYTHON'
import sys

import torch

try:
    import torchvision  # noqa: F401
except RuntimeError:  # of another build than torch; grad-cam needs none of its compiled operators
    missing = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        missing.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")

from pytorch_grad_cam import GradCAM, GradCAMPlusPlus
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn


def network(unit):
    """Two channels in some unit behind a ReLU, their means, and one logit: 2 times the first's and 1 times the second's."""
    model = nn.Sequential(
        nn.Conv2d(2, 2, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 1, bias=False)
    ).eval()
    with torch.no_grad():
        model[0].weight.copy_(unit * torch.eye(2)[:, :, None, None])
        model[4].weight.copy_(torch.tensor([[2.0, 1.0]]) / unit)
    return model


image = torch.zeros(1, 2, 8, 8)
image[0, 0, 3, 0], image[0, 1, 3, 7] = 1.0, 3.0  # left and right


def left_and_right(method, unit):
    model = network(unit)
    with method(model=model, target_layers=[model[1]]) as cam:
        found = cam(input_tensor=image, targets=[ClassifierOutputTarget(0)])[0]
    return round(float(model(image).detach()), 6), [round(float(found[3, column]), 3) for column in (0, 7)]


slope, total = torch.tensor([2.0, 1.0]) / 64, torch.tensor([1.0, 3.0])
formula = slope / (2 + slope * total) * total
formula = [round(float(value), 3) for value in formula / formula.max()]
print(f"formula, any unit: left {formula[0]}, right {formula[1]}")
seen = {}
for method in (GradCAM, GradCAMPlusPlus):
    for unit in (1.0, 100.0):
        logit, seen[method, unit] = left_and_right(method, unit)
        left, right = seen[method, unit]
        print(f"{method.__name__}, unit {unit:g}: logit {logit}, left {left}, right {right}")
same = seen[GradCAM, 1.0] == seen[GradCAM, 100.0]
right_at_one = all(abs(found - value) < 0.01 for found, value in zip(seen[GradCAMPlusPlus, 1.0], formula))
left, right = seen[GradCAMPlusPlus, 100.0]
sys.exit(0 if same and right_at_one and left > 0.99 and right < 0.5 else 1)
PYTHON
"$folder/venv/bin/python" "$folder/seen.py"
