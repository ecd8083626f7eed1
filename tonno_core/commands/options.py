"""The library's messages in the words of the command line."""

from __future__ import annotations

import re

import click

from tonno_core.errors import arguments_in, rename

# What a message may end with: alternatives, the first of which begins with such a word.
_ADVICE = re.compile(r"(?s)(.*[;:.?]) ((?:choose|clean|close|give|leave|let|lower|name|try|use) .*)", re.IGNORECASE)
_OR = re.compile(r", (?:or|else) ")


def as_options(message: str) -> str:
    """Name the arguments in a message as the running command's options: `slice_size` becomes ``--slice-size``.

    An argument that this command has no option for is named as another command's; advice to give it is left out, where
    it does not name that command. Outside of a command the message stays as it is.

    Args:
        message: With arguments in backquotes.

    Returns:
        The message with options.
    """
    context = click.get_current_context(silent=True)
    return message if context is None else as_options_of(context.command, context.find_root().command, message)


def as_options_of(running: click.Command, root: click.Command, message: str) -> str:
    """Name the arguments in a message as a command's options; see `as_options`.

    Args:
        running: The command, which decides where commands differ.
        root: The group of all commands.
        message: With arguments in backquotes.

    Returns:
        The message with options.
    """
    others = list(root.commands.values()) if isinstance(root, click.Group) else []
    own, known = _options([running]), _options([*others, running])
    return rename(_without_foreign_advice(message, known.keys() - own.keys()), known | own)


def _options(commands: list[click.Command]) -> dict[str, str]:
    """Return options by their arguments' names; `method` and `stage` may mean an option that takes several."""
    options = [option for command in commands for option in command.params if isinstance(option, click.Option)]
    named = {str(option.name): max(option.opts, key=len) for option in options}
    singular = {name.removesuffix("s"): text for name, text in named.items() if name in ("methods", "stages")}
    return singular | named


def _without_foreign_advice(message: str, foreign: set[str]) -> str:
    """Leave out those alternatives of a message's advice that name an argument which the command does not have."""
    parted = _ADVICE.fullmatch(message)
    if parted is None:
        return message
    alternatives = _OR.split(parted[2])
    kept = [text for text in alternatives if "`tonno " in text or not foreign.intersection(arguments_in(text))]
    if len(kept) == len(alternatives):
        return message
    if not kept:
        return parted[1].rstrip(";:")
    advice = ", or ".join(kept)
    return f"{parted[1]} {advice[0].upper() if parted[2][0].isupper() else advice[0]}{advice[1:]}"
