"""Slice views and a 3D view of a `slicer_host.Host`, rendered off screen by Slicer's own displayable managers.

Needs OpenGL without a screen: EGL with Mesa (Debian: libegl1 libegl-mesa0 libgl1), or OSMesa (libosmesa6).
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import slicer
import vtk
from slicer_host import Messages
from vtk.util.numpy_support import vtk_to_numpy

PACKAGES = "libegl1 libegl-mesa0 libgl1"
_SLICE_MANAGERS = (
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLColorLegendDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
)
_VOLUME_MANAGERS = (
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager3D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
)
_PROBE = """
import vtk
vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_OFF)
window = vtk.vtkRenderWindow()
window.SetOffScreenRendering(1)
window.AddRenderer(vtk.vtkRenderer())
window.Render()
print(window.GetClassName(), window.SupportsOpenGL())
"""


def whyNot() -> str | None:
    """None where views can be rendered here, else what is missing. Asked in a Python of its own: it may crash."""
    try:
        done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        done = None
    if done is not None and done.returncode == 0 and done.stdout.split()[1:] == ["1"]:
        return None
    return f"no OpenGL without a screen; on Debian or Ubuntu: apt-get install {PACKAGES}"


class View:
    """A window that is never shown."""

    def __init__(self, host, factory, managers: tuple[str, ...], node, size: tuple[int, int]) -> None:
        self.node = node
        self.renderer = vtk.vtkRenderer()
        search = Messages()  # for a window system; that there is no screen is no news
        self.window = vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(1)
        self.window.SetMultiSamples(0)
        self.window.SetSize(*size)
        self.window.AddRenderer(self.renderer)
        self.window.Render()
        search.close()
        self._interactor = vtk.vtkGenericRenderWindowInteractor()
        self.window.SetInteractor(self._interactor)
        factory.SetMRMLApplicationLogic(host.applicationLogic)
        for manager in managers:
            if not factory.IsDisplayableManagerRegistered(manager):
                factory.RegisterDisplayableManager(manager)
        self._group = factory.InstantiateDisplayableManagers(self.renderer)
        self._group.SetMRMLDisplayableNode(node)

    def render(self) -> vtk.vtkImageData:
        self.window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self.window)
        grab.SetInputBufferTypeToRGB()
        grab.ReadFrontBufferOff()
        grab.Update()
        image = vtk.vtkImageData()
        image.DeepCopy(grab.GetOutput())
        return image

    def pixels(self) -> np.ndarray:
        """Rows from the top, columns, RGB: uint8."""
        image = self.render()
        width, height, _ = image.GetDimensions()
        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, 3)[::-1]

    def close(self) -> None:
        self._group.SetMRMLDisplayableNode(None)
        self.window.Finalize()


class SliceView(View):
    """One of the host's slice views: "Red", "Yellow" or "Green". Made before what it shows, as in the application."""

    def __init__(self, host, name: str, size: tuple[int, int] = (480, 480)) -> None:
        self.logic = host.sliceLogics[name]
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        super().__init__(host, factory, _SLICE_MANAGERS, self.logic.GetSliceNode(), size)
        self.logic.ResizeSliceNode(*size)
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._image = vtk.vtkActor2D()
        self._image.SetMapper(self._mapper)
        self._image.GetProperty().SetDisplayLocationToBackground()
        self.renderer.AddViewProp(self._image)
        self.renderer.GetActiveCamera().ParallelProjectionOn()

    def fit(self, margin: float = 1.0) -> None:
        """Show all of the volumes, with some space around."""
        self.logic.FitSliceToAll()
        x, y, z = self.node.GetFieldOfView()
        self.node.SetFieldOfView(x * margin, y * margin, z)

    def render(self) -> vtk.vtkImageData:
        # The application does this in its event loop, before the view's next frame.
        self.logic.UpdatePipeline()
        picture = self.logic.GetImageDataConnection()
        self._image.SetVisibility(picture is not None)
        if picture is not None:
            self._mapper.SetInputConnection(picture)
        return super().render()


class ThreeDView(View):
    """A 3D view as the application opens it."""

    def __init__(self, host, size: tuple[int, int] = (480, 480)) -> None:
        logic = slicer.vtkMRMLViewLogic()
        logic.SetMRMLApplicationLogic(host.applicationLogic)
        logic.SetMRMLScene(host.scene)
        self._logic = logic
        factory = slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance()
        super().__init__(host, factory, _VOLUME_MANAGERS, logic.AddViewNode("1"), size)
        self.renderer.SetUseDepthPeeling(True)
        self.window.SetAlphaBitPlanes(True)

    def plain(self) -> None:
        """Black, with nothing but what is in the scene."""
        self.node.SetBoxVisible(False)
        self.node.SetAxisLabelsVisible(False)
        self.node.SetBackgroundColor(0.0, 0.0, 0.0)
        self.node.SetBackgroundColor2(0.0, 0.0, 0.0)

    def turn(self, azimuth: float, elevation: float) -> None:
        """Drag the view around its middle, by angles in degrees."""
        camera = self.renderer.GetActiveCamera()
        camera.Azimuth(azimuth)
        camera.Elevation(elevation)
        self.renderer.ResetCameraClippingRange()


def addCrosshair(host) -> None:
    """The crosshair that the application's scene begins with."""
    node = slicer.vtkMRMLCrosshairNode()
    node.SetCrosshairName("default")
    host.scene.AddNode(node)
