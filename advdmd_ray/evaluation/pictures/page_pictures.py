"""Pictures in a page: small ones as they are, of large ones a thumbnail, each with the way to the file beside it."""

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from PIL import Image

Item = TypeVar("Item")
_KINDS = {".png": "png", ".jpg": "jpeg"}
_QUALITY = 85
_SHRINK = 0.8


@dataclass(frozen=True, slots=True)
class PagePicture:
    """A picture as a page shows it.

    Attributes:
        shown: Data URI of the picture, or of its thumbnail: a page that is moved still shows it.
        whole: Where the file is, relative to the page.
    """

    shown: str
    whole: str


def page_picture(path: Path, page: Path, *, most_bytes: int, width: int) -> PagePicture:
    """A picture for a page.

    Args:
        path: PNG or JPEG (`.jpg`).
        page: The page that shows it.
        most_bytes: A file of more is shown as a JPEG of at most so many, at least 1,000.
        width: Most pixels of such a JPEG's width.

    Raises:
        FileNotFoundError: if it is not there.
    """
    data, kind = path.read_bytes(), _KINDS[path.suffix]
    if len(data) > most_bytes:
        data, kind = thumbnail(path, most_bytes, width), "jpeg"
    whole = Path(os.path.relpath(path, page.parent)).as_posix()
    return PagePicture(f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}", quote(whole))


def thumbnail(path: Path, most_bytes: int, width: int) -> bytes:
    """A picture as a JPEG of at most so many bytes and so wide, and narrower where that is needed."""
    with Image.open(path) as picture:
        picture.draft("RGB", (width, width))  # a JPEG need not be decoded at full size
        board = picture.convert("RGB")
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
