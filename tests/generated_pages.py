"""The reference pages of the documents, written from the code: ``python -m tests.generated_pages``.

docs/commands.md has the help of every command, docs/api.md the docstrings of what ``import tonno_core`` offers and of
what docs/python.md names beside it. A test compares them with the committed files.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import click
from docstring_parser import Docstring, DocstringStyle, parse

import tonno_core
from tests.documents import ROOT
from tonno_core.cli import cli

_WRITTEN = "<!-- Written by `make reference` from the code: change that, not this page. -->"
_WIDTH = 110  # of a signature in one line
_BESIDE = {
    "tonno_core.bundle.ready": ("ReadyModel", "prepare_model"),
    "tonno_core.slicing.region": ("Region",),
    "tonno_core.volume.exchange": (
        "from_xyz", "to_xyz", "from_monai", "to_monai", "from_torchio", "to_torchio",
    ),
    "tonno_core.reconstruction.features": ("reconstruct_features", "principal_components"),
}  # fmt: skip


def pages() -> dict[str, str]:
    """Texts by their files' names in docs/."""
    return {name: "\n".join(lines()) + "\n" for name, lines in (("commands.md", _commands), ("api.md", _api))}


# --- commands


def _commands() -> Iterator[str]:
    yield from (_WRITTEN, "", "# The command `tonno`", "")
    yield from (
        "What `tonno COMMAND --help` says. Guides: [reconstruct.md](reconstruct.md), [training.md](training.md).",
        "",
    )
    for name, command in cli.commands.items():
        summary, _, _ = (command.help or "").partition("\n\n")
        yield f"- [`tonno {name}`](#tonno-{name}): {_markdown(summary)}"
    for name, command in cli.commands.items():
        context = click.Context(command, info_name=f"tonno {name}")
        usage = " ".join(command.get_usage(context).split()[1:])
        yield from ("", f"## `tonno {name}`", "", f"    {usage}", "", *_help(command))
        for option in command.params:
            if isinstance(option, click.Option) and (record := option.get_help_record(context)):
                yield f"- `{record[0]}`: {_markdown(option.help or '')}{_given(option)}"


def _help(command: click.Command) -> Iterator[str]:
    """A command's help; a paragraph that click leaves as it stands (a backspace before it) is a code block."""
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        verbatim = paragraph.startswith("\b")
        yield from (f"    {line}" for line in paragraph.splitlines()[1:]) if verbatim else [_markdown(paragraph)]
        yield ""


def _given(option: click.Option) -> str:
    """Whether an option must be given, else its default."""
    if option.required:
        return " Required."
    default = option.show_default if isinstance(option.show_default, str) else f"{option.default}"
    return f" Default: {_markdown(default)}." if option.show_default else ""


def _markdown(text: str) -> str:
    """Help in Markdown: options as code, its own signs as they are."""
    escaped = re.sub(r"([*_<])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<![\w`-])--[a-z][a-z0-9-]*", r"`\g<0>`", escaped)


# --- Python


def _api() -> Iterator[str]:
    yield from (_WRITTEN, "", "# The Python interface", "")
    yield "What `import tonno_core as tonno` offers, and what else the guide, [python.md](python.md), names."
    for name in tonno_core.__all__:
        yield from _entry(f"## `tonno.{name}`", getattr(tonno_core, name))
    for module, names in _BESIDE.items():
        yield from ("", f"## `{module}`")
        for name in names:
            yield from _entry(f"### `{name}`", getattr(importlib.import_module(module), name))


def _entry(heading: str, item: Any) -> Iterator[str]:
    """A function, or a class with its public methods and properties."""
    yield from ("", heading, "")
    if not (inspect.isclass(item) and issubclass(item, Exception)):
        yield from ("```text", *_signature(item), "```", "")
    parsed = _parsed(item)
    yield _text(parsed.description)
    for title, parts in _parts(parsed, item).items():
        yield from ("", f"{title}:", "", *parts)


def _parts(parsed: Docstring, item: Any) -> dict[str, list[str]]:
    """Sections of a docstring, and a class's members, as lists by their titles; none is empty."""
    found = {
        "Attributes" if inspect.isclass(item) else "Arguments": [
            f"- `{param.arg_name}`: {_text(param.description)}" for param in parsed.params
        ],
        "Returns": [f"- {_text(parsed.returns.description)}"] if parsed.returns else [],
        "Raises": [f"- `{error.type_name}`: {_text(error.description)}" for error in parsed.raises],
        "Methods and properties": list(_members(item)) if inspect.isclass(item) else [],
    }
    return {title: parts for title, parts in found.items() if parts}


def _members(item: type) -> Iterator[str]:
    for name, member in vars(item).items():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if name.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
            continue
        parsed = _parsed(function)
        names = [part.partition(":")[0].partition(" = ")[0] for part in _parameters(function)]
        call = "" if isinstance(member, property) else f"({', '.join(names)})"
        returns = f" Returns: {_text(parsed.returns.description)}" if parsed.returns else ""
        yield f"- `{name}{call}`: {_text(parsed.description)}{returns}"


def _signature(item: Any) -> list[str]:
    parts = _parameters(item)
    returned = "" if inspect.isclass(item) else f" -> {inspect.signature(item).return_annotation}"
    whole = f"{item.__name__}({', '.join(parts)}){returned}"
    if len(whole) <= _WIDTH:
        return [whole]
    return [f"{item.__name__}(", *(f"    {part}," for part in parts), f"){returned}"]


def _parameters(item: Callable[..., Any]) -> list[str]:
    """Parameters as they stand in a signature, without `self`."""
    signs = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    found: list[str] = []
    for parameter in inspect.signature(item).parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and "*" not in found:
            found.append("*")
        empty = parameter.empty
        annotation = "" if parameter.annotation is empty else f": {parameter.annotation}"
        default = "" if parameter.default is empty else f" = {_default(parameter.default)}"
        found.append(f"{signs.get(parameter.kind, '')}{parameter.name}{annotation}{default}")
    return found


def _default(value: object) -> str:
    """A default as it is written, `...` for what has no such form."""
    return "..." if repr(value).startswith("<") else repr(value)


def _parsed(item: Any) -> Docstring:
    return parse(item.__doc__ or "", DocstringStyle.GOOGLE)


def _text(text: str | None) -> str:
    """A docstring's text in Markdown, in one line."""
    return " ".join((text or "").replace("``", "`").split())


if __name__ == "__main__":
    for page, content in pages().items():
        (ROOT / "docs" / page).write_text(content, encoding="utf-8")
        print(f"docs/{page}")
