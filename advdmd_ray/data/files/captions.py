"""Captions, in whatever form others keep them: a text, bytes of one, a list, an object, a JSON file."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from advdmd_ray.data.files.items import NO_CAPTION
from advdmd_ray.errors import UserError
from advdmd_ray.reading import decoded, is_blank, shown, text_fault

KEYS = ("text", "caption", "prompt", "captions")
"""What an object calls its caption, beside `data.caption_column`."""
MOST_CHARACTERS = 10_000
"""Of a caption; no text encoder here reads a quarter of it, and what is longer is no caption."""
MOST_DEEP = 16
"""Lists and objects in each other in which a caption stands."""
MOST_DIGITS = 1000


def caption_keys(column: str) -> tuple[str, ...]:
    """The names of a caption, the first that is there counts."""
    return tuple(dict.fromkeys((column, *KEYS)))


@dataclass(frozen=True, slots=True)
class Said:
    """What is said of an image.

    Attributes:
        caption: Empty: nothing.
        fault: What is wrong with the caption; empty: nothing.
        several: Whether other captions are there too, which are not used.
    """

    caption: str = ""
    fault: str = ""
    several: bool = False


NOTHING = Said()


def caption_in(value: object, column: str) -> Said:
    """The caption that a value is or holds, the first of several.

    Args:
        value: A text, its bytes, a list of captions, of which the first that says something counts, or an object.
        column: `data.caption_column`.
    """
    texts = _texts_in(value, column, MOST_DEEP)
    try:
        caption = next(texts, "")
    except ValueError as error:
        return Said(fault=str(error))
    try:
        return Said(caption, several=any(_differ(caption, other) for other in texts))
    except ValueError:  # what stands behind a caption need not be one
        return Said(caption)


def _texts_in(value: object, column: str, depth: int) -> Iterator[str]:
    """The texts that say something, in their order.

    Raises:
        ValueError: with what stands there instead, or why it is no text.
    """
    if depth == 0:
        raise ValueError(f"its caption is nested more than {MOST_DEEP} deep")
    match value:
        case None:
            return
        case str() | bytes():
            text = _text(value)
            if not is_blank(text):
                yield text
        case Mapping():
            yield from _texts_in(_named(value, column), column, depth - 1)
        case Sequence() if value and all(isinstance(each, tuple) for each in value):  # a map, as Arrow gives it
            yield from _texts_in(dict(value), column, depth)
        case Sequence():
            for each in value:
                yield from _texts_in(each, column, depth - 1)
        case _:
            raise ValueError(f"its caption is no text (it is {value!r:.40})")


def _text(value: str | bytes) -> str:
    if isinstance(value, str):
        return value.removeprefix("\ufeff")  # a mark that was copied with a text
    try:
        return decoded(value)
    except ValueError as error:
        raise ValueError(f"its caption {error}") from None


def _named(value: Mapping[Any, object], column: str) -> list[object]:
    """What an object has under names of captions."""
    named = [value[key] for key in caption_keys(column) if key in value]
    if not named and value:
        keys = ", ".join(shown(str(key)) for key in list(value)[:5])
        raise ValueError(f"its caption has none of {', '.join(caption_keys(column))} (it has {keys})")
    return named


def _differ(one: str, other: str) -> bool:
    return one.split() != other.split()


def said_beside(files: Iterable[tuple[str, Callable[[], bytes]]], column: str, table: Said) -> Said:
    """What is said of an image in its table and in the files beside it, the first that says something.

    Args:
        files: Names and how to read them, the best first.
        column: `data.caption_column`.
        table: What a table says.
    """
    found = table
    for name, read in files:
        if found.fault:
            break
        own = _caption_file(name, read, column)
        if not found.caption:
            found = own
        elif own.several or (own.caption and _differ(found.caption, own.caption)):
            found = replace(found, several=True)
    return found


def _caption_file(name: str, read: Callable[[], bytes], column: str) -> Said:
    """The caption in a file beside an image."""
    try:
        text = decoded(read())
        value = strict_json(text) if name.lower().endswith(".json") else text
    except UserError:  # it cannot be read, and ends the run
        raise
    except ValueError as error:
        return Said(fault=f"its caption {error} ({name})")
    return caption_in(value, column)


def strict_json(text: str) -> Any:
    """JSON whose objects have each key once.

    Raises:
        ValueError: with what is wrong.
    """
    try:
        return json.loads(text, object_pairs_hook=_each_once, parse_int=_number)
    except json.JSONDecodeError:
        raise ValueError("is no whole JSON") from None
    except RecursionError:
        raise ValueError("is JSON that is nested too deeply") from None


def _number(digits: str) -> float:
    """Python makes no whole number of thousands of digits."""
    return int(digits) if len(digits) < MOST_DIGITS else float(digits)


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
