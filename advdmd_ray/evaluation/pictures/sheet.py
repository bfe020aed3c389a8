"""Where the tiles of a comparison lie: a note in the picture's own file, so that each can be taken out again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeAlias

from PIL import Image, PngImagePlugin
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

_KEY = "advdmd-tiles"
Pixels: TypeAlias = Annotated[int, Field(ge=0)]
Number: TypeAlias = Annotated[int, Field(ge=1)]
Box = tuple[int, int, int, int]
"""Left, upper, right and lower edge, pixels."""


@dataclass(frozen=True, slots=True)
class Row:
    """The tiles of one sampler.

    Attributes:
        label: Its name.
        top: Of its first line of tiles, pixels.
        lines: Lines of tiles, each with one of every prompt.
    """

    label: str
    top: Pixels
    lines: Number


@dataclass(frozen=True, slots=True)
class Sheet:
    """Where the tiles of a comparison lie.

    Attributes:
        prompts: Label of each column.
        rows: The samplers, from the top.
        left: Of the first column, pixels.
        width: Of a tile, pixels.
        height: Of a tile, pixels.
        gap: Between two tiles, pixels.
        enlarged: Times that each pixel of an image was repeated in both directions.
    """

    prompts: Annotated[tuple[str, ...], Field(min_length=1)]
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]
    left: Pixels
    width: Number
    height: Number
    gap: Pixels
    enlarged: Number

    def boxes(self, row: Row) -> list[Box]:
        """The tiles of a sampler, line by line."""
        return [
            (
                x := self.left + column * (self.width + self.gap),
                y := row.top + line * (self.height + self.gap),
                x + self.width,
                y + self.height,
            )
            for line in range(row.lines)
            for column in range(len(self.prompts))
        ]

    def fits(self, width: int, height: int) -> bool:
        """Whether all tiles lie in a picture of so many pixels."""
        last = [self.boxes(row)[-1] for row in self.rows]
        return all(right <= width and lower <= height for _, _, right, lower in last)


_SHEET = TypeAdapter(Sheet)


def note(sheet: Sheet) -> bytes:
    """What a file keeps of a sheet."""
    return _SHEET.dump_json(sheet)


def png_note(sheet: Sheet) -> PngImagePlugin.PngInfo:
    """The same as a chunk of a PNG."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(_KEY, note(sheet).decode())
    return info


def read_sheet(path: Path) -> Sheet | None:
    """The note of a picture; None if it has none, or one that does not fit it.

    Raises:
        OSError: if it is no picture.
    """
    with Image.open(path) as picture:
        kept: Mapping[str | tuple[int, int], object] = picture.info
        text = kept.get(_KEY, kept.get("comment"))
        size = picture.size
    if not isinstance(text, str | bytes):
        return None
    try:
        sheet = _SHEET.validate_json(text)
    except ValidationError:
        return None
    return sheet if sheet.fits(*size) else None
