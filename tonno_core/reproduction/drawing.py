"""How figures look, and the files that each is written to."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tonno_core.output import Json, atomic_file, write_json, write_text
from tonno_core.pictures.drawing import FONT
from tonno_core.settings import CAM_NAMES, CamKind

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHOD_NAMES = {
    "averaged-cam": "Averaged CAM",
    "tomographic-cam": "Tomographic CAM",
    "matched-cam": "Matched CAM",
    "tonno": "ToNNO",
}
# Okabe and Ito's colours, which the colour-blind tell apart; marks and dashes say the same again.
METHOD_COLOURS = {
    "slicewise-cam": "#0072B2",
    "averaged-cam": "#E69F00",
    "tomographic-cam": "#009E73",
    "matched-cam": "#D55E00",
    "tonno": "#555555",
}
METHOD_MARKS = {"slicewise-cam": "s", "averaged-cam": "o", "tomographic-cam": "^", "matched-cam": "D", "tonno": "x"}
DPI = 130
STYLE = {
    **FONT,
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titleweight": "bold",
    "axes.titlesize": 12,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "tonno",  # the same figure, the same file
}


def method_name(method: str, cam: CamKind = "layercam") -> str:
    """Name a method as figures do.

    Args:
        method: One of `METHOD_NAMES`, or ``slicewise-cam``.
        cam: Kind of the activation maps, which names those of single slices.

    Returns:
        The name.
    """
    return METHOD_NAMES.get(method, f"slice-wise {CAM_NAMES[cam]}")


@dataclass(frozen=True)
class Claim:
    """A sentence that a figure must bear out.

    Attributes:
        text: The sentence with the figures that were measured.
        holds: Whether it does.
    """

    text: str
    holds: bool

    def line(self) -> str:
        """Return the claim as the command prints it.

        Returns:
            The sentence, after whether it holds.
        """
        return f"{'holds' if self.holds else 'DOES NOT HOLD'}: {self.text}"


def digits(value: float) -> str:
    """Write a number with three digits, without an exponent up to a million.

    Args:
        value: The number.

    Returns:
        Such as "1360" or "0.0213".
    """
    return f"{float(f'{value:.3g}'):g}"


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write a figure as ``NAME.png`` and ``NAME.svg``.

    Args:
        figure: The figure.
        folder: Where they go.
        name: Their name without its ending.

    Raises:
        TonnoError: A file cannot be written.
    """
    for kind, options in (("png", {"dpi": DPI}), ("svg", {"dpi": DPI, "metadata": {"Date": None}})):
        with atomic_file(folder / f"{name}.{kind}") as partial:
            figure.savefig(partial, format=kind, **options)


def save_numbers(
    folder: Path, name: str, rows: Sequence[Mapping[str, object]], facts: Json, claims: Sequence[Claim] = ()
) -> str:
    """Write what a figure shows as ``NAME.csv``, and how it was made and what it bears out as ``NAME.json``.

    Args:
        folder: Where they go.
        name: Their name without its ending.
        rows: One or more lines of the table, all with the same columns.
        facts: What the figure was made of, and what was measured beside the table.
        claims: What it must show.

    Returns:
        The claims, a line each.

    Raises:
        TonnoError: A file cannot be written.
    """
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / f"{name}.csv", table.getvalue())
    stated = [{"text": claim.text, "holds": claim.holds} for claim in claims]
    write_json(folder / f"{name}.json", {"figure": name, **facts, "claims": stated})
    return "\n".join(claim.line() for claim in claims)
