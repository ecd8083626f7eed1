"""Slices to logits and class activation maps, by a 2D classifier."""

import tonno_core.encoding.quick_timm  # noqa: F401 - before any module of this room imports timm itself
