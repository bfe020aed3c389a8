"""Draws scenes that fit a prompt: what it leaves open is chosen at random."""

from collections.abc import Sequence

import numpy as np

from advdmd_ray.data.shapes.scene import BACKGROUNDS, COLOURS, MAX_OBJECTS, RELATIONS, SIDE, SIZES, Item, Scene, related
from advdmd_ray.data.shapes.skills import HELD_OUT_PAIRS, ShapePrompt

CELL = 8
"""Side of a cell, pixels. Every shape stands in the middle of a cell, and the codec's patches are the cells: what a
place has belongs to one token, so that a small network can learn the rest, which is following prompts."""
_LAYOUTS = 500


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
    if not 1 <= count <= MAX_OBJECTS:
        raise ValueError(f"a scene has 1 to {MAX_OBJECTS} shapes, {prompt.text!r} asks for {count}")
    for _ in range(_LAYOUTS):
        background = prompt.background or str(generator.choice(tuple(BACKGROUNDS)))
        cells = generator.choice((SIDE // CELL) ** 2, count, replace=False)
        items: list[Item] = []
        for phrase, cell in zip(prompt.phrases, cells, strict=True):
            size = phrase.size or str(generator.choice(tuple(SIZES)))
            colour = phrase.colour or _open_colour(phrase.shape, generator, held_out=held_out)
            row, column = divmod(int(cell), SIDE // CELL)
            items.append(Item(phrase.shape, colour, SIZES[size], (column + 0.5) * CELL, (row + 0.5) * CELL))
        if prompt.relation is None or _only_related(items[0], prompt.relation, items[1]):
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
