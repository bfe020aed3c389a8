"""Images of several sizes as tiles of one."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import UInt8


def framed(images: Sequence[UInt8[np.ndarray, "_ _ c"]]) -> UInt8[np.ndarray, "n h w c"]:
    """Each image in the middle of a white one that has room for any of them; images of one size stay as they are.

    Args:
        images: RGB, at least one.
    """
    height, width = room_for(image.shape[:2] for image in images)
    tiles = np.full((len(images), height, width, images[0].shape[2]), 255, dtype=np.uint8)
    for tile, image in zip(tiles, images, strict=True):
        top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
        tile[top : top + image.shape[0], left : left + image.shape[1]] = image
    return tiles


def room_for(sizes: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Height and width of the smallest tile that has room for each size, given as height and width."""
    heights, widths = zip(*sizes, strict=True)
    return max(heights), max(widths)


def size_name(pixels: tuple[int, int]) -> str:
    """A size as people write it: height x width."""
    return f"{pixels[0]} x {pixels[1]}"
