#!/usr/bin/env bash
# torchcam 0.5.0, GradCAMpp: the denominator of alpha is computed and never used, so that a map's peak is elsewhere than its
# own documentation's formula puts it.
#
# Expected: alpha = g^2 / (2 g^2 + g^3 sum A), as in the class's docstring and the paper, and the argument eps added to the
# denominator.
# Seen: the weights are sum g^2 ReLU(g), and eps, whatever it is, changes nothing: the division is done in place on
# alpha[mask], which is a copy. Below, one channel speaks for the class on the left, another on the right; by the formula
# (and by GradCAM) the right is stronger, and GradCAMpp shows the left.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torchcam==0.5.0 torch==2.13.0 "numpy==2.4.6" 2>/dev/null
cat > "$folder/seen.py" <<'PYTHON'
import sys

import torch
from torch import nn
from torchcam.methods import GradCAM, GradCAMpp


class Network(nn.Module):
    """Two channels as they are, behind a ReLU; the logit is 0.2 times the first's sum and 0.1 times the second's."""

    def __init__(self):
        super().__init__()
        self.layer = nn.ReLU()

    def forward(self, x):
        return self.layer(x).sum(dim=(2, 3)) @ torch.tensor([[0.2], [0.1]])


image = torch.zeros(1, 2, 4, 4)
image[0, 0, 1, 0], image[0, 1, 1, 3] = 1.0, 3.0  # left and right
image.requires_grad_()
model = Network().eval()


def left_and_right(method, **options):
    with method(model, "layer", input_shape=(2, 4, 4)) as extractor:
        (cam,) = extractor(class_idx=0, scores=model(image), normalized=False, **options)
    return [round(float(cam[0, 1, column]), 4) for column in (0, 3)]


slope, total = torch.tensor([0.2, 0.1]), torch.tensor([1.0, 3.0])
formula = 16 * slope.pow(2) / (2 * slope.pow(2) + slope.pow(3) * total) * slope * total
cubes = 16 * slope.pow(3) * total
seen = {
    "formula": [round(float(value), 4) for value in formula],
    "sum of cubes": [round(float(value), 4) for value in cubes],
    "GradCAM": left_and_right(GradCAM),
    "GradCAMpp": left_and_right(GradCAMpp),
    "GradCAMpp, eps=1000": left_and_right(GradCAMpp, eps=1000.0),
}
for name, values in seen.items():
    print(f"{name}: left {values[0]}, right {values[1]}")
wrong = seen["GradCAMpp"] == seen["GradCAMpp, eps=1000"] == seen["sum of cubes"] != seen["formula"]
sys.exit(0 if wrong and formula.argmax() == 1 and cubes.argmax() == 0 else 1)
PYTHON
"$folder/venv/bin/python" "$folder/seen.py"
