"""Captions, in whatever form others keep them: a text, bytes of one, a list, an object, a JSON file."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from advdmd_ray.data.files.items import NO_CAPTION
from advdmd_ray.reading import decoded, is_blank, text_fault

KEYS = ("text", "caption", "prompt", "captions")
"""What an object calls its caption, beside `data.caption_column`."""
MOST_CHARACTERS = 10_000
"""Of a caption; no text encoder here reads a quarter of it, and what is longer is no caption."""


def caption_keys(column: str) -> tuple[str, ...]:
    """The names of a caption, the first that is there counts."""
    return tuple(dict.fromkeys((column, *KEYS)))


def caption_in(value: object, column: str) -> str:
    """The caption that a value is or holds; empty if it is none.

    Args:
        value: A text, its bytes, a list of captions, of which the first that says something counts, or an object.
        column: `data.caption_column`.

    Raises:
        ValueError: with what it is instead, or why it is no text.
    """
    match value:
        case None:
            return ""
        case str():
            return value.removeprefix("\ufeff")  # a mark that was copied with a text
        case bytes():
            try:
                return decoded(value)
            except ValueError as error:
                raise ValueError(f"its caption {error}") from None
        case Mapping():
            named = [value[key] for key in caption_keys(column) if key in value]
            if not named and value:
                keys = ", ".join(map(str, list(value)[:5]))
                raise ValueError(f"its caption has none of {', '.join(caption_keys(column))} (it has {keys})")
            return caption_in(named, column)
        case Sequence() if value and all(isinstance(each, tuple) for each in value):  # a map, as Arrow gives it
            return caption_in(dict(value), column)
        case Sequence():
            return next((text for each in value if not is_blank(text := caption_in(each, column))), "")
        case _:
            raise ValueError(f"its caption is no text (it is {value!r:.40})")


def caption_file(name: str, content: bytes, column: str) -> str:
    """The caption in a file beside an image.

    Raises:
        ValueError: with what is wrong.
    """
    try:
        text = decoded(content)
        value = strict_json(text) if name.lower().endswith(".json") else text
    except ValueError as error:
        raise ValueError(f"its caption {error} ({name})") from None
    return caption_in(value, column)


def strict_json(text: str) -> Any:
    """JSON whose objects have each key once.

    Raises:
        ValueError: with what is wrong.
    """
    try:
        return json.loads(text, object_pairs_hook=_each_once)
    except json.JSONDecodeError:
        raise ValueError("is no whole JSON") from None
    except RecursionError:
        raise ValueError("is JSON that is nested too deeply") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"has the key {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return content


def caption_fault(caption: str) -> str | None:
    """What keeps a caption from being learnt, or None."""
    if is_blank(caption):
        return NO_CAPTION
    if len(caption) > MOST_CHARACTERS:
        return f"its caption has more than {MOST_CHARACTERS} characters (it has {len(caption)})"
    fault = text_fault(caption)
    return None if fault is None else f"its caption {fault}"
