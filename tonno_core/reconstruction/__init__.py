"""From a volume and an encoder to heatmaps: the folder that names all stages.

planes.py      which planes, and on which grid they are put together
passes.py      the encoder's passes over them, which may be stopped and gone on with
projected.py   the encoder's outputs for a class, and the heatmaps computed from them: also others, later
foreground.py  numbers of many heatmaps at the voxels of a mask, which stay on the device
run.py         all of it for a volume: `execute` with its parts `project` and `resume`; `reconstruct`, its face
result.py      what comes out
"""

from tonno_core.reconstruction.passes import CPU_BATCH
from tonno_core.reconstruction.result import Reconstruction
from tonno_core.reconstruction.run import execute, project, reconstruct, resume

__all__ = ["CPU_BATCH", "Reconstruction", "execute", "project", "reconstruct", "resume"]
