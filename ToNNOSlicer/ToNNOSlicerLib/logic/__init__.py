"""The scene's side of the module: MRML only, no qt."""

from ToNNOSlicerLib.logic.errors import EditedByHandError, ToNNOUserError
from ToNNOSlicerLib.logic.logic import ToNNOLogic

__all__ = ["EditedByHandError", "ToNNOLogic", "ToNNOUserError"]
