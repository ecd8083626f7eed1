"""The scene's side of the module: MRML only, no qt."""

from ToNNOSlicerLib.logic.errors import EditedByHandError, ToNNOUserError
from ToNNOSlicerLib.logic.findings import Finding
from ToNNOSlicerLib.logic.inputs import Input
from ToNNOSlicerLib.logic.logic import ToNNOLogic
from ToNNOSlicerLib.logic.profile import Profile, Why

__all__ = ["EditedByHandError", "Finding", "Input", "Profile", "ToNNOLogic", "ToNNOUserError", "Why"]
