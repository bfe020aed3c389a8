"""Images as files have them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def picture(value: int, size: tuple[int, int] = (8, 8)) -> bytes:
    """A PNG of one grey, width x height."""
    stream = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), value, dtype=np.uint8)).save(stream, format="PNG")
    return stream.getvalue()


def write_captioned(folder: Path, count: int, size: tuple[int, int] = (8, 8)) -> Path:
    """A folder of so many pictures, each with its caption beside it."""
    folder.mkdir(parents=True)
    content = picture(128, size)
    for number in range(count):
        (folder / f"{number:03d}.png").write_bytes(content)
        (folder / f"{number:03d}.txt").write_text(f"picture {number}")
    return folder
