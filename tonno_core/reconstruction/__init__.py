"""From a volume and an encoder to heatmaps: the folder that names all stages.

planes.py      which planes, and on which grid they are put together
passes.py      the encoder's passes over them, which may be stopped and gone on with
projected.py   what the encoder said about a class, and the heatmaps that this gives: also others, later
run.py         all of it for a volume: `reconstruct`, and its parts `project` and `resume`
result.py      what comes out
"""

from tonno_core.reconstruction.passes import CPU_BATCH
from tonno_core.reconstruction.result import Reconstruction
from tonno_core.reconstruction.run import project, reconstruct, resume

__all__ = ["CPU_BATCH", "Reconstruction", "project", "reconstruct", "resume"]
