"""The documents as their readers see them: headings, links, pictures, and the commands and code that they show."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
# What a synopsis or an abridged command has, and one that can be typed has not.
_ABRIDGED = re.compile(r"\[[A-Za-z-]|\.\.\.|…")


@dataclass(frozen=True)
class Block:
    """A code block of a document, with the line before its text (0-based) and its language ('' if indented)."""

    document: Path
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Line:
    """A command line of a block, continued lines joined, its comment removed."""

    document: Path
    line: int
    words: tuple[str, ...]

    @property
    def is_abridged(self) -> bool:
        """Whether it is a synopsis, with brackets, dots, or NAMES to be replaced."""
        return any(_ABRIDGED.search(word) for word in self.words) or "NAME" in self.words

    def tonno(self) -> tuple[str, ...] | None:
        """Arguments of `tonno`, also under torchrun or srun; None for other programs."""
        words = list(self.words)
        if words[:1] == ["tonno"]:
            return tuple(words[1:])
        if "torchrun" in words and "tonno_core" in words:
            return tuple(words[words.index("tonno_core") + 1 :])
        return None


@cache
def tokens(document: Path) -> list[Token]:
    """All tokens of a document, those inside of paragraphs included."""
    found = MarkdownIt("commonmark").enable("table").parse(document.read_text(encoding="utf-8"))
    return [each for token in found for each in (token, *(token.children or []))]


def anchors(document: Path) -> set[str]:
    """Anchors of a document's headings, as GitHub makes them."""
    found, seen = tokens(document), Counter[str]()
    names = set()
    for token, inline in pairwise(found):
        if token.type == "heading_open":
            text = "".join(part.content for part in inline.children or [])
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            names.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return names


class _Tags(HTMLParser):
    """Links and pictures of HTML in Markdown."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.pictures: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.links += [value for name in ("href", "src") if (value := values.get(name))]
        if tag == "img":
            self.pictures.append(values.get("alt") or "")


def links(document: Path) -> list[str]:
    """Targets of a document's links and pictures."""
    found = [
        str(t.attrs.get("href") or t.attrs.get("src")) for t in tokens(document) if t.type in ("link_open", "image")
    ]
    return found + _tags(document).links


def alternative_texts(document: Path) -> list[str]:
    """What each picture of a document says in words, '' for none."""
    return [token.content for token in tokens(document) if token.type == "image"] + _tags(document).pictures


def _tags(document: Path) -> _Tags:
    tags = _Tags()
    for token in tokens(document):
        if token.type in ("html_block", "html_inline"):
            tags.feed(token.content)
    return tags


def blocks(document: Path) -> list[Block]:
    """Code blocks, fenced and indented."""
    return [
        Block(document, (token.map or [0])[0], token.info.strip(), token.content)
        for token in tokens(document)
        if token.type in ("fence", "code_block")
    ]


def spans(document: Path) -> list[str]:
    """Code inside of sentences, its line breaks as spaces."""
    return [" ".join(token.content.split()) for token in tokens(document) if token.type == "code_inline"]


def command_lines(document: Path) -> list[Line]:
    """Command lines of a document's blocks: those that begin with a program that the documents use."""
    found = []
    for block in blocks(document):
        if block.language not in ("", "bash", "sh"):
            continue
        text = block.text.replace("\\\n", " ")
        for line in text.splitlines():
            if re.match(r"(\.venv/bin/)?(tonno|make|pip|python|torchrun|srun) ", line):
                found.append(
                    Line(document, block.line, tuple(shlex.split(line.removeprefix(".venv/bin/"), comments=True)))
                )
    return found


def python_blocks(document: Path) -> list[Block]:
    """Blocks of Python."""
    return [block for block in blocks(document) if block.language == "python"]
