"""Links and pictures of the documents lead somewhere, and each picture says in words what it shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_to_files_and_pictures_have_words(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    here = [link.partition("#")[0] for link in links if not link.startswith(("http", "#"))]
    named = re.findall(r"\bdocs/[\w/-]+\.(?:md|png)", text)
    assert [link for link in here if not (document.parent / link).exists()] == []
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert "![](" not in text
    assert all(re.search(r'alt="[^"]+"', picture) for picture in re.findall(r"<img[^>]*>", text))
