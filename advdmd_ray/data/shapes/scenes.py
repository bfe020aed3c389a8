"""Draws scenes that fit a prompt: what it leaves open is chosen at random."""

from collections.abc import Sequence

import numpy as np

from advdmd_ray.data.shapes.prompts import HELD_OUT_PAIRS, ShapePrompt
from advdmd_ray.data.shapes.scene import BACKGROUNDS, COLOURS, MAX_OBJECTS, RELATIONS, SIDE, SIZES, Item, Scene, related

LATTICE = 4.0
"""Side of a cell, pixels. Every shape stands in the middle of the smallest square of cells that holds it: with the
codec's patches for cells, a small network has few different patches to learn."""
GAP = 2.0
"""Least distance of two bounding boxes, pixels."""
_LAYOUTS = 500
_BIG_ROOM = {1: 1, 2: 2, 3: 1, 4: 0}
"""How many of so many shapes may be big where the prompt leaves it open, so that they fit in."""


def draw_scene(prompt: ShapePrompt, generator: np.random.Generator, *, held_out: bool = False) -> Scene:
    """Draw a scene that fits the prompt.

    Args:
        prompt: What the scene must have.
        generator: The source of every choice.
        held_out: Whether shapes whose colour is left open may get one of the held-out colours. What the prompt names it
            gets in any case.

    Raises:
        ValueError: The prompt's shapes do not fit into an image.
    """
    count = len(prompt.phrases)
    if count not in _BIG_ROOM:
        raise ValueError(f"a scene has 1 to {MAX_OBJECTS} shapes, {prompt.text!r} asks for {count}")
    for _ in range(_LAYOUTS):
        background = prompt.background or str(generator.choice(tuple(BACKGROUNDS)))
        room = _BIG_ROOM[count] - sum(phrase.size == "big" for phrase in prompt.phrases)
        items: list[Item] = []
        for phrase in prompt.phrases:
            size = phrase.size or str(generator.choice(tuple(SIZES) if room > 0 else ("small",)))
            room -= phrase.size is None and size == "big"
            colour = phrase.colour or _open_colour(phrase.shape, generator, held_out=held_out)
            item = _place(phrase.shape, colour, SIZES[size], items, generator)
            if item is None:
                break
            items.append(item)
        if len(items) == count and (prompt.relation is None or _only_related(items[0], prompt.relation, items[1])):
            order = generator.permutation(count)
            return Scene(background, tuple(items[index] for index in order))
    raise ValueError(f"no layout found for {prompt.text!r}")


def draw_scenes(prompts: Sequence[ShapePrompt], seed: int, *, held_out: bool = False) -> list[Scene]:
    """Draw one scene for each prompt; the same prompts and seed give the same scenes."""
    generator = np.random.default_rng(seed)
    return [draw_scene(prompt, generator, held_out=held_out) for prompt in prompts]


def _only_related(first: Item, relation: str, second: Item) -> bool:
    """Whether the relation holds and no other one does, so that a drawn scene has one reading."""
    return [other for other in RELATIONS if related(first, other, second)] == [relation]


def _open_colour(shape: str, generator: np.random.Generator, *, held_out: bool) -> str:
    allowed = [colour for colour in COLOURS if held_out or (colour, shape) not in HELD_OUT_PAIRS]
    return str(generator.choice(allowed))


def _place(shape: str, colour: str, side: float, others: Sequence[Item], generator: np.random.Generator) -> Item | None:
    """A free place for one more shape, every one with the same chance, or None."""
    half = LATTICE * np.ceil(side / LATTICE) / 2
    line = np.arange(half, SIDE - half + LATTICE / 2, LATTICE)
    x, y = (axis.ravel() for axis in np.meshgrid(line, line))
    free = np.ones(x.size, dtype=bool)
    for other in others:
        free &= np.maximum(abs(x - other.x), abs(y - other.y)) >= (side + other.side) / 2 + GAP
    if not free.any():
        return None
    chosen = generator.choice(np.flatnonzero(free))
    return Item(shape, colour, side, float(x[chosen]), float(y[chosen]))
