"""Licences and citations of the public data sets, as their publishers state them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

_STATED = "as whoever gave you the data states it"


@dataclass(frozen=True)
class Publication:
    """Who published a data set, and what that asks of its users.

    Attributes:
        title: Name of the data set.
        licence: Of the images.
        citations: To cite in whatever is made with it.
        home: Where it is published.
    """

    title: str
    licence: str
    citations: tuple[str, ...]
    home: str = ""

    def lines(self) -> list[str]:
        """Write it for a person."""
        where = [f"published at: {self.home}"] if self.home else []
        return [self.title, f"licence: {self.licence}", *(f"cite: {text}" for text in self.citations), *where]


PUBLICATIONS = {
    "autopet": Publication(
        "FDG-PET-CT-Lesions (AutoPET)",
        "CC BY 4.0 (of the collection at TCIA; the NIfTI copy's own page may state another)",
        (
            "Gatidis S, Kuestner T. A whole-body FDG-PET/CT dataset with manually annotated tumor lesions "
            "(FDG-PET-CT-Lesions). The Cancer Imaging Archive, 2022. doi 10.7937/gkr0-xv29",
            "Gatidis S, et al. A whole-body FDG-PET/CT dataset with manually annotated tumor lesions. Scientific Data, "
            "2022. doi 10.1038/s41597-022-01718-3",
        ),
        "https://www.cancerimagingarchive.net/collection/fdg-pet-ct-lesions/ (DICOM), "
        "https://fdat.uni-tuebingen.de/records/wf9fy-txq84 (NIfTI)",
    ),
    "mosmed": Publication(
        "MosMedData COVID19_1110",
        "CC BY-NC-ND 3.0: not for commercial use, and no changed copies may be passed on",
        (
            "Morozov SP, et al. MosMedData: Chest CT Scans With COVID-19 Related Findings Dataset. 2020. "
            "arXiv 2005.06465, doi 10.1101/2020.05.20.20100362",
        ),
        "https://mosmed.ai/en/datasets/covid191110/",
    ),
    "duke": Publication(
        "Duke-Breast-Cancer-MRI",
        "CC BY-NC 4.0: not for commercial use",
        (
            "Saha A, Harowicz MR, Grimm LJ, Weng J, Cain EH, Kim CE, Ghate SV, Walsh R, Mazurowski MA. Dynamic "
            "contrast-enhanced magnetic resonance images of breast cancer patients with tumor locations. The Cancer "
            "Imaging Archive, 2021. doi 10.7937/TCIA.e3sv-re93",
            "Saha A, et al. A machine learning approach to radiogenomics of breast cancer. British Journal of Cancer, "
            "2018. doi 10.1038/s41416-018-0185-8",
        ),
        "https://www.cancerimagingarchive.net/collection/duke-breast-cancer-mri/",
    ),
}


def publication_of(name: str, source: Path) -> Publication:
    """Return who published a data set; of a folder of one's own what it says of itself.

    Args:
        name: Of the recipe.
        source: The data set's folder, or a table in it.

    Returns:
        The publication. A BIDS folder states its own in ``dataset_description.json``.
    """
    if name in PUBLICATIONS:
        return PUBLICATIONS[name]
    folder = source if source.is_dir() else source.parent
    try:
        stated = json.loads((folder / "dataset_description.json").read_text(encoding="utf-8"))
        doi = str(stated.get("DatasetDOI") or "")
        cited = " ".join(filter(None, [str(stated.get("HowToAcknowledge") or ""), doi]))
        return Publication(
            str(stated.get("Name") or folder.name), str(stated.get("License") or _STATED), (cited or _STATED,)
        )
    except (OSError, ValueError, AttributeError, RecursionError):
        return Publication(folder.absolute().name, _STATED, (_STATED,))


def licence_files(source: Path) -> list[Path]:
    """Find files that state the licence of a copy.

    Args:
        source: The data set's folder, or a table in it.

    Returns:
        Such as TCIA's ``LICENSE``, in the folder and down to two below it.
    """
    folder = source if source.is_dir() else source.parent
    return [
        file for above in ("", "*/", "*/*/") for file in sorted(folder.glob(f"{above}LICEN[CS]E*")) if file.is_file()
    ]
