"""ToNNO for 3D Slicer: the module, its panel, its logic and its test. What they do is in ToNNOSlicerLib."""

import logging
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
    """What Slicer shows of the module before it is opened."""

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
            "Select a volume and a model, click Reconstruct, move the threshold, correct, export.</p>"
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
    """When the application has started: the module Sample Data lists the sample too."""
    from ToNNOSlicerLib import sample_data

    sample_data.register()


class ToNNOSlicerWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The shell that Slicer knows; the panel is ToNNOSlicerLib.widget.Panel."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.panel = None
        self._parameterNode = None
        self._connection = None

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        from ToNNOSlicerLib.widget import Panel

        uiWidget = slicer.util.loadUI(self.resourcePath("UI/ToNNOSlicer.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = ToNNOSlicerLogic()
        self.panel = Panel(self.ui, self.logic.mrml, self.resourcePath)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndClose)
        self._watchViews()
        self.setParameterNode(self.logic.getParameterNode())

    def cleanup(self):
        """The application closes, or the module is loaded again."""
        self.removeObservers()
        if self.panel is None:
            return
        self.setParameterNode(None)
        self.panel.cleanUp()
        self.panel = None

    def enter(self):
        """The module is shown."""
        self.setParameterNode(self.logic.getParameterNode())

    def exit(self):
        """Another module is shown. A run goes on; no effect of the editor stays active."""
        if self.panel is not None:
            self.panel.editor.rest()

    def onReload(self):
        """Forget the library's modules, so that they are read again with this file."""
        for name in [name for name in sys.modules if name.partition(".")[0] == "ToNNOSlicerLib"]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller, event):
        self.setParameterNode(None)
        self.panel.onSceneClosing()

    def onSceneEndClose(self, caller, event):
        self._watchViews()
        self.setParameterNode(self.logic.getParameterNode())

    def setParameterNode(self, parameterNode):
        """Connect the panel with a parameter node, or with none."""
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._connection)
            if self.hasObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParameterNodeModified):
                self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParameterNodeModified)
        self._parameterNode = parameterNode
        if parameterNode is not None:
            self._connection = parameterNode.connectGui(self.ui)
            self.addObserver(parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParameterNodeModified)
        self.panel.setParameters(parameterNode)

    def _onParameterNodeModified(self, caller=None, event=None):
        self.panel.onParameters()

    def _watchViews(self):
        for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            if not self.hasObserver(node, vtk.vtkCommand.ModifiedEvent, self._onViewMoved):
                self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._onViewMoved)

    def _onViewMoved(self, caller, event):
        if self.panel is not None and caller is self.panel.why.view:
            self.panel.why.update()


class ToNNOSlicerLogic(ScriptedLoadableModuleLogic):
    """For the panel and for scripts: `mrml` does what the panel's buttons do to the scene."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        from ToNNOSlicerLib.logic import ToNNOLogic

        self.mrml = ToNNOLogic(slicer.mrmlScene, slicer.app.applicationLogic())

    def getParameterNode(self):
        from ToNNOSlicerLib.parameter_node import ToNNOSlicerParameterNode

        return ToNNOSlicerParameterNode(super().getParameterNode())


class ToNNOSlicerTest(ScriptedLoadableModuleTest):
    """The whole path on the sample, in the application, with the shipped model.

    Run by Reload and Test, and by the extension's build machines. Skipped where the engine's packages are missing,
    as they are on those machines; a click on Reconstruct installs them.
    """

    TIMEOUT_S = 600
    OPTIONS: dict = {}  # noqa: RUF012  parameters other than the module's own

    def setUp(self):
        reason = _reasonToSkip(slicer.modules.tonnoslicer.widgetRepresentation().self())
        if reason:
            self.skipTest(reason)
        slicer.mrmlScene.Clear()

    def runTest(self):
        """What Reload and Test calls, without a runner that would know what a skipped test is."""
        try:
            self.setUp()
            self.test_sampleToSegmentation()
        except unittest.SkipTest as reason:
            logging.warning(f"ToNNO's test is skipped: {reason}")
            self.delayDisplay(f"Skipped: {reason}")

    def test_sampleToSegmentation(self):
        from ToNNOSlicerLib.sample import LESIONS

        self.delayDisplay("The sample is drawn and reconstructed")
        widget = slicer.modules.tonnoslicer.widgetRepresentation().self()
        panel = widget.panel
        panel.input.onSample()
        panel.parameters.quality = type(panel.parameters.quality)("fast")
        for name, value in self.OPTIONS.items():
            setattr(panel.parameters, name, value)
        widget.ui.runButton.click()
        self.assertNotEqual(panel.controller.state, "idle", widget.ui.messageLabel.text)
        end = time.monotonic() + self.TIMEOUT_S
        while panel.controller.state != "idle" and time.monotonic() < end:
            slicer.app.processEvents()
            time.sleep(0.01)
        self.assertEqual(panel.controller.state, "idle", "the run did not end")
        self.assertIsNotNone(panel.result.heatmap, widget.ui.messageLabel.text)
        self.assertIsNotNone(panel.result.segment)
        self.assertEqual(len(panel.findings.findings), len(LESIONS))
        for centre, radii, _brightness in LESIONS:
            nearest = min(_distance(finding.centroidRAS, centre) for finding in panel.findings.findings)
            self.assertLess(nearest, max(radii))
        before = sum(finding.volumeMm3 for finding in panel.findings.findings)
        widget.ui.thresholdSlider.value = widget.ui.thresholdSlider.value * 1.2
        self.assertLess(sum(finding.volumeMm3 for finding in panel.findings.findings), before)
        self.delayDisplay("Passed")


def _reasonToSkip(widget):
    from ToNNOSlicerLib import install

    if widget.panel.input.python is not None:  # an interpreter that the user has chosen is trusted
        return ""
    rows = install.missing(widget.resourcePath("requirements.txt")).rows()
    names = ", ".join(name for name, _size in rows)
    return f"the engine's packages are missing ({names}); click Reconstruct once to install them" if names else ""


def _distance(a, b):
    return sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) ** 0.5
