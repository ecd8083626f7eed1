"""ToNNO for 3D Slicer: the module, its widget, its logic and its test. The work is done in ToNNOSlicerLib."""

import logging
import math
import sys
import time
import unittest
from importlib.util import find_spec
from pathlib import Path

import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

DOCUMENTATION = "https://github.com/ToNNO-project/SlicerToNNO/blob/main/docs/slicer.md"
PAPER = "https://arxiv.org/abs/2404.13103"


class ToNNOSlicer(ScriptedLoadableModule):
    """Describes the module to Slicer."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        # The extension installs the engine beside this file; in a clone of the repository it lies one folder up.
        if find_spec("tonno_core") is None:
            sys.path.append(str(Path(__file__).resolve().parent.parent))
        parent.title = _("ToNNO")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = []
        parent.contributors = ["ToNNO contributors (ToNNO project)"]
        parent.helpText = _(
            "<p>Shows in 3D where a 2D classifier sees its finding, and turns that into a segmentation. "
            "Select a volume and a model, click Apply, move the threshold, correct, export.</p>"
            "<p><b>Research use only. Not a medical device, not for diagnosis.</b></p>"
            "<p>For more information, see the {start}documentation{end}.</p>"
        ).format(start=f'<a href="{DOCUMENTATION}">', end="</a>")
        parent.acknowledgementText = _(
            "<p>An independent implementation of M. Schmidt-Mengin, A. Benichoux, S. Belachew, N. Komodakis, "
            "N. Paragios: {start}ToNNO: Tomographic Reconstruction of a Neural Network's Output for Weakly Supervised "
            "Segmentation of 3D Medical Images{end}, CVPR 2024. Cite the paper where you use its method.</p>"
        ).format(start=f'<a href="{PAPER}">', end="</a>")
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """List the sample in the module Sample Data; called when the application has started."""
    from ToNNOSlicerLib import sample_data

    sample_data.register()


class ToNNOSlicerWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Connects the panel (ToNNOSlicerLib.panel.Panel) with Slicer's events."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.panel = None
        self._parameters = None
        self._connection = None
        self._isEntered = False

    def setup(self):
        """Make the panel."""
        ScriptedLoadableModuleWidget.setup(self)
        from ToNNOSlicerLib.panel import Panel

        uiWidget = slicer.util.loadUI(self.resourcePath("UI/ToNNOSlicer.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = ToNNOSlicerLogic()
        self.panel = Panel(self.ui, self.logic.mrml, self.resourcePath)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartImportEvent, self.onSceneStartImport)
        for event in (slicer.mrmlScene.EndCloseEvent, slicer.mrmlScene.EndImportEvent):
            self.addObserver(slicer.mrmlScene, event, self.onSceneReady)
        self._watchViews()

    def cleanup(self):
        """End the panel when the application closes or the module is reloaded."""
        if self.panel is not None:
            self._follow(None)
            self.panel.cleanUp()
            self.panel = None
        self.removeObservers()

    def enter(self):
        """Follow the scene's parameter node when the module is shown, and make it if there is none."""
        self._isEntered = True
        self._follow(self.logic.getParameterNode())
        self.panel.enter()

    def exit(self):
        """Release the editor when another module is shown; a run continues."""
        self._isEntered = False
        if self.panel is not None:
            self.panel.exit()

    def onReload(self):
        """Reload the modules of ToNNOSlicerLib together with this file."""
        for name in [name for name in sys.modules if name.partition(".")[0] == "ToNNOSlicerLib"]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)
        slicer.modules.ToNNOSlicerWidget.enter()  # the module is shown already, so Slicer does not call it

    def onSceneStartClose(self, caller, event):
        """End what depends on the scene before it closes.

        Args:
            caller: The scene.
            event: The event.
        """
        self._follow(None)
        self.panel.onSceneClosing()

    def onSceneStartImport(self, caller, event):
        """Follow no choices while a scene is read: the selectors lose their selection meanwhile.

        Args:
            caller: The scene.
            event: The event.
        """
        self._follow(None)

    def onSceneReady(self, caller, event):
        """Follow the choices of a scene that was closed or read.

        Args:
            caller: The scene.
            event: The event.
        """
        self._watchViews()
        if self._isEntered:
            self._follow(self.logic.getParameterNode())

    def _follow(self, parameters):
        """Let the panel follow a parameter node or None; the same node may hold other choices than before."""
        known = self._parameters
        if known is not None and known is not parameters:
            known.disconnectGui(self._connection)
            self.removeObserver(known, vtk.vtkCommand.ModifiedEvent, self._onParameters)
            known = None
        self.panel.session.setParameters(parameters)
        if parameters is not None and known is None:
            self._connection = parameters.connectGui(self.ui)
            self.addObserver(parameters, vtk.vtkCommand.ModifiedEvent, self._onParameters)
        self._parameters = parameters
        if parameters is None:
            self.logic.releaseParameterNode()

    def _onParameters(self, caller=None, event=None):
        self.panel.session.onParameters()

    def _watchViews(self):
        for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            if not self.hasObserver(node, vtk.vtkCommand.ModifiedEvent, self._onViewMoved):
                self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._onViewMoved)

    def _onViewMoved(self, caller, event):
        if self.panel is not None:
            self.panel.onViewMoved(caller)


class ToNNOSlicerLogic(ScriptedLoadableModuleLogic):
    """Holds the parameter node, and the ToNNOLogic that works on the scene (`mrml`)."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        from ToNNOSlicerLib.logic import ToNNOLogic

        self.mrml = ToNNOLogic(slicer.mrmlScene, slicer.app.applicationLogic())
        self._parameters = None

    def getParameterNode(self):
        """Return the scene's choices.

        The wrapper is kept while its node is the same, because a wrapper never stops observing its node.

        Returns:
            A ToNNOSlicerParameterNode.
        """
        from ToNNOSlicerLib.parameter_node import wrapped

        node = super().getParameterNode()
        if self._parameters is None or self._parameters.parameterNode is not node:
            self._parameters = wrapped(node)
        return self._parameters

    def releaseParameterNode(self):
        """Drop the wrapper of the choices: a closing scene empties its node, and it would fail to read that."""
        self._parameters = None


class ToNNOSlicerTest(ScriptedLoadableModuleTest):
    """Tests the path from the sample to a segmentation, in the application, with the shipped model.

    Reload and Test runs it, and so do the extension's build machines. It is skipped where the engine's packages are
    missing, as on those machines; a click on Apply installs them.
    """

    TIMEOUT_S = 600
    OPTIONS: dict = {}  # noqa: RUF012  choices other than the defaults

    def setUp(self):
        """Skip the test where packages are missing; else begin with an empty scene."""
        reason = _reasonToSkip(slicer.modules.tonnoslicer.widgetRepresentation().self())
        if reason:
            self.skipTest(reason)
        slicer.mrmlScene.Clear()

    def runTest(self):
        """Run the test for Reload and Test, which has no runner that could skip it."""
        try:
            self.setUp()
            self.test_sampleToSegmentation()
        except unittest.SkipTest as reason:
            logging.warning(f"ToNNO's test is skipped: {reason}")
            self.delayDisplay(f"Skipped: {reason}")

    def test_sampleToSegmentation(self):
        from ToNNOSlicerLib import sample_data
        from ToNNOSlicerLib.parameter_node import Quality
        from ToNNOSlicerLib.sample import LESIONS

        self.delayDisplay("The sample is drawn and reconstructed")
        widget = slicer.modules.tonnoslicer.widgetRepresentation().self()
        widget.enter()  # shown or not: without it there are no choices
        session = widget.panel.session
        session.set(inputVolume=sample_data.load(), quality=Quality.FAST, **self.OPTIONS)
        widget.ui.runButton.click()
        self.assertTrue(session.running.isRunning, widget.ui.messageLabel.text)
        end = time.monotonic() + self.TIMEOUT_S
        while session.running.isRunning and time.monotonic() < end:
            slicer.app.processEvents()
            time.sleep(0.01)
        self.assertFalse(session.running.isRunning, "the run did not end")
        result = session.result
        self.assertIsNotNone(result, widget.ui.messageLabel.text)
        self.assertIsNotNone(result.segment)
        self.assertEqual(len(result.findings), len(LESIONS))
        for centre, radii, _brightness in LESIONS:
            nearest = min(math.dist(finding.centroidRAS, centre) for finding in result.findings)
            self.assertLess(nearest, max(radii))
        before = sum(finding.volumeMm3 for finding in result.findings)
        widget.ui.thresholdSlider.value = widget.ui.thresholdSlider.value * 1.2
        self.assertLess(sum(finding.volumeMm3 for finding in session.result.findings), before)
        self.delayDisplay("Passed")


def _reasonToSkip(widget):
    from ToNNOSlicerLib import install

    if widget.panel.session.choices.python is not None:  # an interpreter that the user has chosen is trusted
        return ""
    rows = install.missing(widget.resourcePath("requirements.txt")).rows()
    names = ", ".join(name for name, _size in rows)
    return f"the engine's packages are missing ({names}); click Apply once to install them" if names else ""
