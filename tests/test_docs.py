"""Documents keep their word: links lead somewhere, pictures have words, and commands are those of the program."""

from __future__ import annotations

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import click
import pytest

from tests.documents import (
    DOCUMENTS,
    ROOT,
    alternative_texts,
    anchors,
    blocks,
    command_lines,
    links,
    python_blocks,
    spans,
)
from tests.generated_pages import pages
from tests.test_messages import library_texts
from tonno_core.cli import cli
from tonno_core.errors import TonnoError, rename

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
# Options in the documents that are other programs'.
_FOREIGN = {
    "--additional-module-paths", "--gres", "--mergeSegments", "--no-main-window", "--nproc-per-node", "--python-script",
    "--signal", "--strict",
}  # fmt: skip


@each_document
def test_relative_links_lead_to_files_and_headings(document: Path) -> None:
    for link in links(document):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


@each_document
def test_documents_and_pictures_that_are_named_are_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    named = re.findall(r"\bdocs/[\w/-]+\.(?:md|png)", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


@each_document
def test_pictures_have_words(document: Path) -> None:
    assert all(alternative_texts(document))


def test_documents_that_the_code_names_are_there() -> None:
    for folder in ("tonno_core", "ToNNOSlicer", "benchmarks", "tests"):
        for file in (ROOT / folder).rglob("*.py"):
            for name in re.findall(r"\bdocs/[\w/-]+\.(?:md|png)", file.read_text(encoding="utf-8")):
                assert (ROOT / name).exists(), f"{file}: {name}"


def parse(arguments: tuple[str, ...]) -> None:
    """Parse a command line as `tonno` does: a wrong option, value or number of arguments raises."""
    name, *rest = arguments
    command = cli.commands[name]
    with click.Context(cli, info_name="tonno") as group:
        command.make_context(name, rest, parent=group)


def options_of(*names: str) -> set[str]:
    """Options of commands."""
    found = {option for name in names for parameter in cli.commands[name].params for option in parameter.opts}
    return {option for option in found | {"--help", "--version"} if option.startswith("--")}


@cache
def known_options() -> set[str]:
    """Options of all commands, of the benchmarks and the worker, and of other programs."""
    scripts = [*(ROOT / "benchmarks").glob("*.py"), ROOT / "tonno_core" / "worker" / "__main__.py"]
    theirs = {name for file in scripts for name in re.findall(r'"(--[a-z][a-z-]*)"', file.read_text(encoding="utf-8"))}
    return options_of(*cli.commands) | theirs | _FOREIGN


@each_document
def test_command_lines_are_those_of_the_program(document: Path) -> None:
    for line in command_lines(document):
        arguments = line.tonno()
        if arguments is None:
            continue
        if line.is_abridged:
            assert {word.strip("[]") for word in arguments[1:] if re.match(r"\[?--", word)} <= options_of(arguments[0])
            continue
        try:
            parse(arguments)
        except (click.ClickException, TonnoError) as error:
            pytest.fail(f"{document.name}, line {line.line + 1}: tonno {' '.join(arguments)}: {error}")


@each_document
def test_commands_and_options_in_sentences_are_those_of_the_program(document: Path) -> None:
    if document.name == "CHANGELOG.md":  # it tells of the past
        return
    for span in spans(document):
        options = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", span))
        name = re.match(r"tonno ([a-z]+)", span)
        if name:
            assert name[1] in cli.commands, span
            assert options <= options_of(name[1]), span
        else:
            assert options <= known_options(), span


@each_document
def test_make_targets_and_modules_are_there(document: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for words in [line.words for line in command_lines(document)] + [
        tuple(shlex.split(span)) for span in spans(document) if span.startswith("make ")
    ]:
        if words[:1] == ("make",) and len(words) > 1:
            assert {word for word in words[1:] if "=" not in word} <= set(targets), words
        if words[:2] == ("python", "-m") and len(words) > 2 and words[2].startswith(("benchmarks.", "tests.")):
            assert (ROOT / words[2].replace(".", "/")).with_suffix(".py").exists(), words
        elif words[:1] == ("python",) and len(words) > 1 and words[1].endswith(".py"):
            assert (ROOT / words[1]).exists(), words


@each_document
def test_python_is_python(document: Path) -> None:
    for block in python_blocks(document):
        ast.parse(block.text, f"{document.name}, line {block.line + 1}")


@pytest.mark.parametrize("name", ["commands.md", "api.md"])
def test_reference_pages_say_what_the_code_says(name: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == pages()[name], "run `make reference`"


# --- docs/troubleshooting.md


def quoted_messages() -> list[str]:
    """Messages that the page quotes, one in each line of its blocks."""
    page = ROOT / "docs" / "troubleshooting.md"
    return [line for block in blocks(page) if block.language == "text" for line in block.text.splitlines()]


@cache
def said_by_the_code() -> str:
    """All texts of engine, module and Makefile in the users' words, with `{}` for what is put into them."""
    options = {str(option.name): option for command in cli.commands.values() for option in command.params}
    names = {name: max(option.opts, key=len) for name, option in options.items() if isinstance(option, click.Option)}
    texts = [rename(text, names | {"stage": "--stage", "method": "--method"}) for _, text in library_texts()]
    texts += re.findall(r'"([^"\n]+)"', (ROOT / "tonno_core" / "cli.py").read_text(encoding="utf-8"))
    for file in (ROOT / "ToNNOSlicer" / "ToNNOSlicerLib").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(re.sub(r"\{[^{}]*\}", "{}", node.value))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return "\n".join([rename(text, names) for text in texts] + [re.sub(r"\$\(\w+\)", "{}", makefile)])


@pytest.mark.parametrize("message", quoted_messages())
def test_messages_that_troubleshooting_quotes_are_in_the_code(message: str) -> None:
    assert re.sub(r"<[^<>]+>", "{}", message) in said_by_the_code()
