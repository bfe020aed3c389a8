"""Pictures in a page: small ones as they are, of large ones a thumbnail, of a comparison its tiles."""

import base64
import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image

from advdmd_ray.evaluation.pictures.sheet import Box

Item = TypeVar("Item")
_KINDS = {".png": "png", ".jpg": "jpeg"}
_QUALITY = 85
_SHRINK = 0.8


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture, or a part of one, as a page shows it.

    Attributes:
        path: PNG or JPEG (`.jpg`).
        most_bytes: What takes more is shown as a JPEG of at most so many, at least 1,000.
        width: Most pixels of such a JPEG's width.
        box: The part, in pixels; None: all of it.
        enlarged: Times that each pixel was repeated in both directions; it is shown without.
    """

    path: Path
    most_bytes: int
    width: int
    box: Box | None = None
    enlarged: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels before anything is made smaller, without the enlargement."""
        if self.box is None:
            with Image.open(self.path) as picture:
                return picture.size
        left, upper, right, lower = self.box
        return (right - left) // self.enlarged, (lower - upper) // self.enlarged


def encode(shown: Shown) -> tuple[str, bytes]:
    """A picture as a browser takes it.

    Returns:
        Its media type and its bytes.

    Raises:
        FileNotFoundError: if it is not there.
    """
    kind = _KINDS[shown.path.suffix]
    if shown.box is None:
        data = shown.path.read_bytes()
        if len(data) <= shown.most_bytes:
            return f"image/{kind}", data
        with Image.open(shown.path) as picture:
            picture.draft("RGB", (shown.width, shown.width))  # a JPEG need not be decoded at full size
            return "image/jpeg", thumbnail(picture.convert("RGB"), shown.most_bytes, shown.width)
    tile = _board(shown.path, shown.path.stat().st_mtime_ns).crop(shown.box)
    if shown.enlarged > 1:
        tile = tile.resize(shown.size, Image.Resampling.NEAREST)
    if kind == "png":
        buffer = io.BytesIO()
        tile.save(buffer, format="PNG", optimize=True)
        if buffer.tell() <= shown.most_bytes:
            return "image/png", buffer.getvalue()
    return "image/jpeg", thumbnail(tile, shown.most_bytes, shown.width)


@functools.lru_cache(maxsize=1)
def _board(path: Path, changed_ns: int) -> Image.Image:  # noqa: ARG001 - another file by this name has another time
    """A picture whose tiles are taken out one after the other."""
    with Image.open(path) as picture:
        return picture.convert("RGB")


def data_uri(shown: Shown) -> str:
    """A picture that is in the page itself."""
    kind, data = encode(shown)
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def thumbnail(board: Image.Image, most_bytes: int, width: int) -> bytes:
    """A picture as a JPEG of at most so many bytes and so wide, and narrower where that is needed."""
    board.info.clear()  # what is noted of the whole picture does not hold for this one
    side = min(width, board.width)
    while True:
        size = (side, max(1, round(board.height * side / board.width)))
        buffer = io.BytesIO()
        board.resize(size, Image.Resampling.LANCZOS).save(buffer, format="JPEG", quality=_QUALITY)
        if buffer.tell() <= most_bytes or side == 1:
            return buffer.getvalue()
        side = max(1, int(side * _SHRINK))


def evenly_spaced(items: Sequence[Item], most: int) -> list[Item]:
    """All items, or so many of them: the first, the last, and others evenly between; `most` is at least 2."""
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]
