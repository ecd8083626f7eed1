"""The few questions that the module asks, and the file dialogs.

In Slicer's testing mode nobody is there to answer: every question answers itself with Cancel, every dialog with "".
"""

from __future__ import annotations

import logging
from contextlib import contextmanager

import qt
import slicer
from slicer.i18n import tr as _

CANCEL = ""


def choose(title, text, choices, details="") -> str:
    """Ask with a button for each of `choices` (key to text) and Cancel; returns the key, or CANCEL."""
    if _isUnattended(title):
        return CANCEL
    box = qt.QMessageBox(slicer.util.mainWindow())
    box.setWindowTitle(title)
    box.setText(text)
    if details:
        box.setInformativeText(details)
    for label in choices.values():
        box.addButton(label, qt.QMessageBox.ActionRole)
    box.addButton(_("Cancel"), qt.QMessageBox.RejectRole)
    box.exec_()
    # By its text: two wrappers of one button need not be the same object.
    pressed = box.clickedButton()
    texts = {label: key for key, label in choices.items()}
    return CANCEL if pressed is None else texts.get(pressed.text, CANCEL)


def howToInstall(rows) -> str:
    """Ask before the first run what to do about missing packages: "install", "wheels", "python" or CANCEL."""
    listed = "\n".join(f"    {name}: {size}" for name, size in rows)
    return choose(
        _("ToNNO: first use"),
        _("The engine needs packages that Slicer does not have yet:\n\n{listed}").format(listed=listed),
        {
            "install": _("Download and install"),
            "wheels": _("From a folder of wheels..."),
            "python": _("Use another Python..."),
        },
        _("Without a network: choose a folder with the wheel files, or an existing Python that has PyTorch."),
    )


def aboutHandWork(error, canBeNew: bool = True) -> str:
    """Ask before something painted is overwritten: "new" (where that makes sense), "overwrite" or CANCEL."""
    choices = {"new": _("Write a new segment")} if canBeNew else {}
    return choose(
        _("ToNNO: the segment was changed by hand"),
        error.message,
        {**choices, "overwrite": _("Overwrite")},
        error.nextStep,
    )


def aboutUnsavedCase(error) -> str:
    """Ask before a case of the worklist is closed with work that is in no file: "save", "discard" or CANCEL."""
    return choose(
        _("ToNNO: not saved"),
        error.message,
        {"save": _("Save it"), "discard": _("Close it without")},
        error.nextStep,
    )


def otherModality(expected, found) -> bool:
    """Ask whether to go on with a model that was made for other images."""
    answer = choose(
        _("ToNNO: another kind of image"),
        _("The model was made for {expected}; this volume is {found}.").format(expected=expected, found=found),
        {"go": _("Go on all the same")},
        _("The heatmap may mean nothing. Choose another model or volume."),
    )
    return answer == "go"


def otherImage(concerns: list[str]) -> bool:
    """Ask whether to go on with an image that is unlike those that the model was trained on."""
    answer = choose(
        _("ToNNO: unlike the model's images"),
        "\n".join(concerns),
        {"go": _("Go on all the same")},
        _("The heatmap may mean nothing. Choose another model or volume, or go on and look twice."),
    )
    return answer == "go"


def toClipboard(text: str) -> None:
    """Put a text into the clipboard."""
    qt.QApplication.clipboard().setText(text)


def folder(title) -> str:
    """Ask for a folder that is there; "" for none."""
    if _isUnattended(title):
        return ""
    return str(qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), title) or "")


def openFile(title) -> str:
    """Ask for a file that is there; "" for none."""
    return "" if _isUnattended(title) else _path(qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), title))


def saveFile(title, name, kinds) -> str:
    """Ask where to write; "" for nowhere. kinds: a Qt filter such as ``NRRD (*.nrrd)``."""
    if _isUnattended(title):
        return ""
    return _path(qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), title, name, kinds))


@contextmanager
def waiting():
    """Show the wait cursor, while a file is written."""
    qt.QApplication.setOverrideCursor(qt.QCursor(qt.Qt.WaitCursor))
    try:
        yield
    finally:
        qt.QApplication.restoreOverrideCursor()


def _path(answer) -> str:
    return str((answer[0] if isinstance(answer, (tuple, list)) else answer) or "")


def _isUnattended(title) -> bool:
    if not slicer.app.testingEnabled():
        return False
    logging.info(f"Testing mode: the question {title!r} is canceled")
    return True
