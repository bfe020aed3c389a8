"""What a scene is: a background and up to four shapes on 24x24 pixels."""

from dataclasses import dataclass

SIDE = 24
"""Height and width of an image, pixels."""
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "yellow": (1.0, 1.0, 0.0),
    "magenta": (1.0, 0.0, 1.0),
    "cyan": (0.0, 1.0, 1.0),
}
"""Red, green and blue in [0, 1] of each colour of a shape."""
BACKGROUNDS = {"black": (0.0, 0.0, 0.0), "gray": (0.5, 0.5, 0.5), "white": (1.0, 1.0, 1.0)}
SIZES = {"small": 4.0, "big": 6.0}
"""Side of a shape, pixels, that each word stands for."""
SIZE_BOUNDARY = 5.0
"""Sides below this are small, pixels."""
MAX_OBJECTS = 4
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""Direction from the second to the first shape, x rightwards and y downwards."""
RELATION_MARGIN = 2.0
"""Least distance of two centres along a relation's axis, pixels."""
RELATION_SLACK = 0.5
"""How much farther two centres may lie apart across a relation's axis than along it, pixels: measured centres err."""


@dataclass(frozen=True, slots=True)
class Item:
    """One shape of a scene.

    Attributes:
        shape: Of `SHAPES`.
        colour: Of `COLOURS`.
        side: Height and width, pixels.
        x: Centre of its bounding box from the left edge, pixels.
        y: Likewise from the upper edge.
    """

    shape: str
    colour: str
    side: float
    x: float
    y: float

    @property
    def size(self) -> str:
        """`small` or `big`."""
        return "small" if self.side < SIZE_BOUNDARY else "big"


@dataclass(frozen=True, slots=True)
class Scene:
    """A background and shapes that do not touch.

    Attributes:
        background: Of `BACKGROUNDS`.
        items: One to four shapes.
    """

    background: str
    items: tuple[Item, ...]


def related(first: Item, relation: str, second: Item) -> bool:
    """Whether `first` stands in the relation to `second`: at least as far along its axis as across, and by 2 pixels.

    Args:
        first: A shape.
        relation: Of `RELATIONS`.
        second: Another shape.
    """
    x, y = RELATIONS[relation]
    dx, dy = first.x - second.x, first.y - second.y
    along, across = dx * x + dy * y, abs(dx * y) + abs(dy * x)
    return along >= RELATION_MARGIN - RELATION_SLACK and along >= across - RELATION_SLACK
