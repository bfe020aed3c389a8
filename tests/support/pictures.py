"""Images as files have them."""

import io

import numpy as np
from PIL import Image


def picture(value: int, size: tuple[int, int] = (8, 8)) -> bytes:
    """A PNG of one grey, width x height."""
    stream = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), value, dtype=np.uint8)).save(stream, format="PNG")
    return stream.getvalue()
