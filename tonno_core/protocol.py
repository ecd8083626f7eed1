"""The messages between a client and the engine's process, one JSON object a line. Standard library only.

    request   {"v": 1, "id": 7, "type": "reconstruct", ...}         to the process, on its stdin
    event     {"v": 1, "id": 7, "type": "progress", ...}            from it, on its stdout; id null: of no request

Arrays never travel here: a message names the file that holds one. docs/worker.md lists all messages.
"""

from __future__ import annotations

import json
import math
from typing import Any

VERSION = 1
# A request has a few hundred bytes, a result's profiles up to half a million; what is longer is no message.
MAX_LINE = 1 << 22

# Each of these is answered by exactly one of FINAL.
ANSWERED = ("reconstruct", "refine", "resume", "describe", "export")
REQUESTS = (*ANSWERED, "stop", "cancel", "shutdown")
EVENTS = ("ready", "heartbeat", "progress", "preview", "result", "description", "cancelled", "error")
FINAL = ("result", "description", "cancelled", "error")

# Names of the client's temporary folders begin so; the process removes no others.
FOLDER_PREFIX = "tonno-engine-"

Message = dict[str, Any]


class ProtocolError(ValueError):
    """Says in a sentence why a line is no message of this version; the line itself is left out."""


def encode(kind: str, identifier: int | None, /, **fields: Any) -> bytes:
    """Return one message as a line of UTF-8.

    Args:
        kind: The message's type.
        identifier: The request's id; None for an event of no request.
        fields: The other fields. Numbers that JSON does not have (NaN, infinities) become null.

    Returns:
        The line with its line feed.
    """
    message = {"v": VERSION, "id": identifier, "type": kind, **fields}
    text = json.dumps(_plain(message), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # Half of a surrogate pair, as in names of files that are not UTF-8, becomes JSON's own escape of it.
    return text.encode(errors="backslashreplace") + b"\n"


def decode(line: bytes) -> Message:
    """Return the message of a line.

    Args:
        line: UTF-8, with or without its line feed.

    Returns:
        The message; its ``type`` is a string and its ``id`` a whole number or None.

    Raises:
        ProtocolError: For what is not JSON, not an object, too long, or of another version.
    """
    if len(line) > MAX_LINE:
        raise ProtocolError(f"a line of more than {MAX_LINE} bytes")
    try:
        message = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):  # of UTF-8, of JSON, of a number with thousands of digits; nested too deep
        raise ProtocolError("a line that is not JSON in UTF-8") from None
    if not isinstance(message, dict):
        raise ProtocolError(f"a JSON {type(message).__name__}, expected an object")
    if message.get("v") != VERSION or isinstance(message["v"], bool):
        raise ProtocolError(f"protocol version {_short(message.get('v'))}, expected {VERSION}")
    if not isinstance(message.get("type"), str):
        raise ProtocolError("a message without a type")
    identifier = message.setdefault("id", None)
    if identifier is not None and (not isinstance(identifier, int) or isinstance(identifier, bool)):
        raise ProtocolError(f"the id {_short(identifier)}, expected a whole number")
    return message


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
