"""Draws scenes with smooth edges, without any library's rasteriser, so that the same scene is the same pixels."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from advdmd_ray.data.shapes.scene import BACKGROUNDS, COLOURS, SIDE, Item, Scene

_Y, _X = np.mgrid[0:SIDE, 0:SIDE] + 0.5
_ARM = 1 / 3
"""Width of a cross's arm, as a share of its side."""


def coverage(shape: str, side: float, x: float, y: float) -> Float[np.ndarray, "24 24"]:
    """Share of each pixel that a shape covers, in [0, 1], from the signed distance of the pixel's centre to its edge.

    Args:
        shape: Of `SHAPES`; a triangle points upwards.
        side: Height and width of its bounding box, pixels.
        x: Centre of the bounding box from the left edge, pixels.
        y: Likewise from the upper edge.

    Raises:
        ValueError: The shape is unknown.
    """
    dx, dy, half = _X - x, _Y - y, side / 2
    if shape == "circle":
        distance = np.hypot(dx, dy) - half
    elif shape == "square":
        distance = np.maximum(abs(dx), abs(dy)) - half
    elif shape == "cross":
        arm = side * _ARM / 2
        distance = np.minimum(np.maximum(abs(dx) - half, abs(dy) - arm), np.maximum(abs(dx) - arm, abs(dy) - half))
    elif shape == "triangle":
        # Its flanks run from the upper middle to the lower corners: slope 2, so the normal is (2, -1) / sqrt(5).
        distance = np.maximum(dy - half, (2 * abs(dx) - (dy + half)) / np.sqrt(5.0))
    else:
        raise ValueError(f"a shape is a circle, square, triangle or cross, got {shape!r}")
    return np.clip(0.5 - distance, 0.0, 1.0)


def item_coverage(item: Item) -> Float[np.ndarray, "24 24"]:
    """`coverage` of one shape of a scene."""
    return coverage(item.shape, item.side, item.x, item.y)


def render(scene: Scene) -> Float[np.ndarray, "3 24 24"]:
    """Draw a scene: float32 red, green and blue in [-1, 1]."""
    image = np.empty((3, SIDE, SIDE))
    image[:] = np.asarray(BACKGROUNDS[scene.background])[:, None, None]
    for item in scene.items:
        share = item_coverage(item)
        image += share * (np.asarray(COLOURS[item.colour])[:, None, None] - image)
    return (2.0 * image - 1.0).astype(np.float32)


def render_all(scenes: Sequence[Scene]) -> Float[np.ndarray, "n 3 24 24"]:
    """Draw scenes, in their order."""
    return np.stack([render(scene) for scene in scenes])
