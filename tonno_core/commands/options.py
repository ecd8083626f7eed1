"""The library's messages in the words of the command line."""

from __future__ import annotations

import click

from tonno_core.errors import rename


def as_options(message: str) -> str:
    """Name the arguments in a message as the running command's options: `slice_size` becomes ``--slice-size``.

    An argument that this command has no option for is named as another command's. Outside of a command the message
    stays as it is.

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
    parameters = [parameter for command in (*others, running) for parameter in command.params]
    options = [parameter for parameter in parameters if isinstance(parameter, click.Option)]
    return rename(message, {str(option.name): max(option.opts, key=len) for option in options})
