"""The few questions that the module asks, and the file dialogs.

In Slicer's testing mode nobody can answer: every question is answered with Cancel, every dialog with "".
"""

from __future__ import annotations

import logging
from contextlib import contextmanager

import qt
import slicer
from slicer.i18n import tr as _

CANCEL = ""


def choose(title: str, text: str, choices: dict[str, str], details: str = "") -> str:
    """Ask a question with a button for each answer, and Cancel.

    Args:
        title: Title of the window.
        text: The question.
        choices: The buttons' texts by the keys of the answers.
        details: A smaller text below the question.

    Returns:
        The key of the answer, or CANCEL.
    """
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
    # Compare texts: two Python wrappers of the same button need not be the same object.
    pressed = box.clickedButton()
    texts = {label: key for key, label in choices.items()}
    return CANCEL if pressed is None else texts.get(pressed.text, CANCEL)


def howToInstall(rows) -> str:
    """Ask before the first run what to do about missing packages.

    Args:
        rows: Pairs of a package's name and its size, as texts.

    Returns:
        "install", "wheels", "python" or CANCEL.
    """
    listed = "\n".join(f"    {name}: {size}" for name, size in rows)
    return choose(
        _("ToNNO: first use"),
        _("The engine needs packages that Slicer does not have yet:\n\n{listed}").format(listed=listed),
        {
            "install": _("Download and install"),
            "wheels": _("From a folder of wheels..."),
            "python": _("Use another Python..."),
        },
        _("Without internet access, choose a folder of wheel files, or another Python that has PyTorch."),
    )


def aboutHandWork(error, canBeNew: bool = True) -> str:
    """Ask before a segment that was edited by hand is overwritten.

    Args:
        error: The EditedByHandError.
        canBeNew: Whether to offer a new segment.

    Returns:
        "new", "overwrite" or CANCEL.
    """
    choices = {"new": _("Write a new segment")} if canBeNew else {}
    return choose(
        _("ToNNO: the segment was changed by hand"),
        error.message,
        {**choices, "overwrite": _("Overwrite")},
        error.nextStep,
    )


def aboutUnsavedCase(error) -> str:
    """Ask before a case of the worklist with unsaved work is closed.

    Args:
        error: The ToNNOUserError that says what is not saved.

    Returns:
        "save", "discard" or CANCEL.
    """
    return choose(
        _("ToNNO: not saved"),
        error.message,
        {"save": _("Save it"), "discard": _("Close it without")},
        error.nextStep,
    )


def otherModality(expected: str, modality: str) -> bool:
    """Ask whether to continue with a model that was trained on another kind of image.

    Args:
        expected: The kind of image that the model was trained on.
        modality: The volume's DICOM modality.

    Returns:
        True to continue.
    """
    answer = choose(
        _("ToNNO: another kind of image"),
        _("The model was made for {expected}; this volume is {found}.").format(expected=expected, found=modality),
        {"go": _("Go on all the same")},
        _("The heatmap may be meaningless. Choose another model or volume."),
    )
    return answer == "go"


def otherImage(concerns: list[str]) -> bool:
    """Ask whether to continue with an image that differs from those that the model was trained on.

    Args:
        concerns: A sentence for each difference.

    Returns:
        True to continue.
    """
    answer = choose(
        _("ToNNO: unlike the model's images"),
        "\n".join(concerns),
        {"go": _("Go on all the same")},
        _("The heatmap may be meaningless. Choose another model or volume, or go on and check it with care."),
    )
    return answer == "go"


def toClipboard(text: str) -> None:
    """Copy a text to the clipboard.

    Args:
        text: The text.
    """
    qt.QApplication.clipboard().setText(text)


def folder(title: str) -> str:
    """Ask for an existing folder.

    Args:
        title: Title of the dialog.

    Returns:
        The folder's path, or "" if the user cancels.
    """
    if _isUnattended(title):
        return ""
    return str(qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), title) or "")


def openFile(title: str) -> str:
    """Ask for an existing file.

    Args:
        title: Title of the dialog.

    Returns:
        The file's path, or "" if the user cancels.
    """
    return "" if _isUnattended(title) else _path(qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), title))


def saveFile(title: str, name: str, kinds: str) -> str:
    """Ask where to write a file.

    Args:
        title: Title of the dialog.
        name: The suggested name.
        kinds: A Qt filter such as ``NRRD (*.nrrd)``.

    Returns:
        The file's path, or "" if the user cancels.
    """
    if _isUnattended(title):
        return ""
    return _path(qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), title, name, kinds))


@contextmanager
def waiting():
    """Show the wait cursor inside the `with` block."""
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
