"""What a text, and a path, can be wherever it comes from: a file of settings or the command line."""

import re
import unicodedata
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator

MOST_NAME, MOST_PATH = 200, 3000
"""Bytes of a name between two slashes, of which file systems take 255, and of a path, of which Linux takes 4095: what
is written goes by a longer name until it is whole."""
MOST_PORT = 65535
_ADDRESS = re.compile(r"[^\s/]+:[0-9]{1,5}")
_SHOWN = 40
"""Most characters of a text that an error repeats."""


def shown(text: str) -> str:
    """A text in quotes as an error repeats it: its beginning, and nothing that a terminal obeys."""
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}..."


def text_fault(text: str, allowed: str = "") -> str | None:
    """What is wrong with a text, or None: it has control characters, or bytes that are no UTF-8.

    Args:
        text: Python hands other bytes on as lone surrogates.
        allowed: Control characters that may be in it.
    """
    for place, character in enumerate(text):
        kind = unicodedata.category(character)
        if kind == "Cs":
            return f"expected UTF-8 text, got other bytes at character {place} of {shown(text)}"
        if kind == "Cc" and character not in allowed:
            return f"expected text without control characters, got {shown(text)}"
    return None


def path_fault(text: str) -> str | None:
    """What is wrong with a path, or None; nothing is looked up."""
    if (fault := text_fault(text)) is not None:
        return fault
    if not text.strip():
        return "expected a path, got an empty text"
    longest = max((len(part.encode()) for part in PurePosixPath(text).parts), default=0)
    if longest > MOST_NAME:
        return f"expected names of at most {MOST_NAME} bytes between slashes, got one of {longest}: {shown(text)}"
    if len(text.encode()) > MOST_PATH:
        return f"expected a path of at most {MOST_PATH} bytes, got {len(text.encode())}: {shown(text)}"
    return None


def _path(text: str) -> str:
    if (fault := path_fault(text)) is not None:
        raise ValueError(fault)
    return text


def address_fault(text: str) -> str | None:
    """What is wrong with the address of a Ray cluster, or None; nobody is asked."""
    port = text.rpartition(":")[2]
    if text in {"auto", "local"} or (_ADDRESS.fullmatch(text) and 0 < int(port) <= MOST_PORT):
        return None
    return f"expected HOST:PORT with a port from 1 to {MOST_PORT}, auto or local, got {shown(text)}"


def _address(text: str) -> str:
    if (fault := address_fault(text)) is not None:
        raise ValueError(fault)
    return text


PathText = Annotated[str, AfterValidator(_path)]
"""A path as a setting."""
Address = Annotated[str, AfterValidator(_address)]
"""Of a Ray cluster, as a setting."""
