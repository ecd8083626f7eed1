"""Limits of what is done while somebody waits: no mask, however scattered, blocks the window.

A threshold in the noise makes a hundred thousand parts of a mask. The time grows with the number of its runs of voxels
along i: one for each lone voxel, some 10,000 for a head with a hundred lesions, 40,000 for a ball 220 voxels across.
"""

from __future__ import annotations

from slicer.i18n import tr as _

# A mask of more runs is not searched for findings: they would take more than 0.2 s.
MOST_RUNS = 250_000
# In a mask of more runs, small parts are not left out: that would take more than half a second. So long a wait is worth
# it, since what is left of a heatmap's noise is searched then.
MOST_FILTERED_RUNS = 1_000_000
# The same while the slider moves, where a frame is a twentieth of a second.
MOST_PREVIEW_RUNS = 50_000
# The surface of a mask of more runs would take Slicer more than a second.
MOST_SURFACE_RUNS = 25_000
# Findings that are listed, and those whose diameters are drawn: the lines of 50 take a tenth of a second, of 500 ten.
MOST_LISTED, MOST_DRAWN = 500, 50
# What to click then.
FEWER = _("Raise the threshold, or leave out small parts.")
