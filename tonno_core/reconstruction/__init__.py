"""From a volume and an encoder to heatmaps: the folder that names all stages.

planes.py      which planes, and on which grid they are put together
projected.py   what the encoder said to them, and the heatmaps that this gives: also others, later
run.py         the passes through the encoder; `reconstruct`
result.py      what comes out
"""

from tonno_core.reconstruction.result import Reconstruction
from tonno_core.reconstruction.run import CPU_BATCH, project, reconstruct

__all__ = ["CPU_BATCH", "Reconstruction", "project", "reconstruct"]
