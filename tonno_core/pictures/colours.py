"""The colours of heatmaps, in pictures and in 3D Slicer's views. Nothing is imported, so that both can."""

from __future__ import annotations

# From the lowest value (0) through no evidence (0.5) to the highest (1).
STOPS = (0.0, 0.25, 0.49, 0.51, 0.75, 1.0)
COLD_HOT, BLUE_ORANGE = "cold-hot", "blue-orange"
# In blue-orange all lightnesses differ, so that it can be read with any colour vision, and none comes near the green of
# an outline; the distances are in the test of the module's colours.
PALETTES = {
    COLD_HOT: ("#c8f6ff", "#35a5ff", "#2f62ff", "#ff3526", "#ff7f1a", "#ffe070"),
    BLUE_ORANGE: ("#b8e2ff", "#3f8fe8", "#1a3fb0", "#8a3000", "#d96a00", "#ffb52e"),
}
