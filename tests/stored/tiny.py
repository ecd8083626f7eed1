"""A network of a few thousand weights, known to timm as `tonno_stored` once this file is imported.

Stored files must be small; timm's smallest models have a hundred times as many weights.
"""

from __future__ import annotations

from typing import Any

from timm.models import generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet, _create_resnet

NAME = "tonno_stored"
# Without an entry, timm logs a line for each model that it makes.
default_cfgs = generate_default_cfgs(
    {NAME: {"url": "", "num_classes": 1000, "input_size": (3, 32, 32), "first_conv": "conv1.0", "classifier": "fc"}}
)


@register_model
def tonno_stored(pretrained: bool = False, **options: Any) -> ResNet:
    """A ResNet of four stages with 4 to 12 channels."""
    shape = {"block": BasicBlock, "layers": (1, 1, 1, 1), "stem_width": 4, "stem_type": "deep", "avg_down": True}
    return _create_resnet(NAME, pretrained, **{**shape, "channels": (4, 6, 8, 12), **options})
