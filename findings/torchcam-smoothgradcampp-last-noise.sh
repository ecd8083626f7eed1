#!/usr/bin/env bash
# torchcam 0.5.0, SmoothGradCAMpp: the map is made of the activations of the last noisy image, not of the image, so that
# more samples make it no smoother.
#
# Expected: A_k, the activations at the image, weighted by what was averaged over the noisy samples, as in the class's
# docstring and the paper (arXiv 1908.01224): the noise in a map falls with the number of samples.
# Seen: the hooks go on recording while the samples pass. The map is the last sample's activations, noise and all (and its
# gradient, the ReLU factor of the weights), and two calls differ as much after 256 samples as after 4.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torchcam==0.5.0 torch==2.13.0 "numpy==2.4.6" 2>/dev/null
cat > "$folder/seen.py" <<'PYTHON'
import sys

import torch
from torch import nn
from torchcam.methods import SmoothGradCAMpp

torch.manual_seed(0)
# One channel, so that a map is that channel times one number.
model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 1)).eval()
for weight in model.parameters():
    nn.init.ones_(weight)
image = torch.zeros(1, 1, 16, 16)
image[0, 0, 4:8, 4:8] = 2.0
last = []
model[1].register_forward_hook(lambda module, inputs, output: last.append(output.detach()[:, 0]))


def norm(values):
    return values / values.max()


def maps(samples, calls=8):
    """Maps of several calls, and the largest difference of each to the image's activations and the last sample's."""
    with SmoothGradCAMpp(model, "1", num_samples=samples, std=0.3, input_shape=(1, 16, 16)) as extractor:
        found, from_image, from_last = [], [], []
        for _ in range(calls):
            last.clear()
            model(image)
            (cam,) = extractor(class_idx=0, normalized=False)
            found.append(norm(cam))
            from_image.append(float((norm(cam) - norm(last[0])).abs().max()))
            from_last.append(float((norm(cam) - norm(last[-1])).abs().max()))
    return float(torch.cat(found).std(dim=0).mean()), min(from_image), max(from_last)


seen = {samples: maps(samples) for samples in (4, 256)}
for samples, (spread, off, last_off) in seen.items():
    print(f"{samples} samples: spread of calls {spread:.3f}, off the image's map {off:.3f}, off the last's {last_off:.0e}")
same = 0.8 < seen[256][0] / seen[4][0] < 1.25  # of noise that is averaged, 1/8
sys.exit(0 if same and all(off > 0.1 and last_off < 1e-6 for _, off, last_off in seen.values()) else 1)
PYTHON
"$folder/venv/bin/python" "$folder/seen.py"
