"""Finds the shapes of an image and says which facts of a prompt hold. Exact, and independent of every network.

An image is read in four steps: the background is the most frequent of the three; each pixel is a mixture of the
background and the colour whose line to the background passes nearest; the connected pixels of one colour are one
object; an object is the shape whose drawing at its centre and area overlaps it best, if it overlaps well.

It is made for what the renderer draws and what comes close to it; docs/SHAPES.md has how often it is right under noise,
blur and the codec's round trip. Its limits:

* Objects of one colour less than 1.5 pixels apart can be read as one, of no shape; those of two colours may touch.
* A shape that the image's edge cuts by more than a fifth of its side may be read as another or as none; a rectangle
  with sides like 3 and 4 is read as a circle.
* Halved colour resolution, as JPEG's usual 4:2:0 has it, gives edges colours of their own: it is right on half of such
  images at quality 95, and on 99.9 % at quality 75 with full colour resolution.
* Objects below 6 pixels of area are not seen at all.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from advdmd_ray.data.shapes.render import coverage
from advdmd_ray.data.shapes.scene import BACKGROUNDS, COLOURS, SHAPES, SIDE, Item, Scene, related
from advdmd_ray.data.shapes.skills import ShapePrompt

MIN_AREA = 6.0
"""Objects that cover fewer pixels are specks and not counted."""
MIN_OVERLAP = 0.75
"""Least overlap (intersection over union) of an object with the drawing of its shape."""
MAX_TRIED = 6
"""Objects of a scene that are matched with a prompt's phrases, the largest ones."""
HALF = 0.5
UNKNOWN = "unknown"
"""Shape of an object that looks like none."""

_CROSS = ndimage.generate_binary_structure(2, 1)  # a pixel and its four neighbours
_PIXEL_CENTRES = np.arange(SIDE) + 0.5
_BACKGROUND_VALUES = np.asarray(list(BACKGROUNDS.values()))
_COLOUR_VALUES = np.asarray(list(COLOURS.values()))
_SIDE_OF_AREA = {
    "circle": np.sqrt(4 / np.pi),
    "square": 1.0,
    "triangle": np.sqrt(2.0),
    "cross": np.sqrt(9 / 5),
}
"""Side of a shape of area 1."""
_CENTRE_OF_MASS = {"circle": 0.0, "square": 0.0, "triangle": 1 / 6, "cross": 0.0}
"""How far below its bounding box's centre a shape's centre of mass lies, in sides."""


@dataclass(frozen=True, slots=True)
class Correctness:
    """What the checker says of one image and one prompt.

    Attributes:
        correct: The image has what the prompt names, and no other object.
        facts: Share of the prompt's facts that hold, in [0, 1], for the best assignment of objects to phrases.
    """

    correct: bool
    facts: float


def read_scene(image: Float[np.ndarray, "3 24 24"]) -> Scene:
    """Find background and objects of an image with values in [-1, 1]; values outside are clipped.

    An object that looks like no shape has the shape `UNKNOWN`; its side is that of a square of its area.
    """
    pixels = (np.clip(image, -1.0, 1.0).astype(np.float64) + 1.0) / 2.0
    background = int(np.bincount(_nearest(pixels, _BACKGROUND_VALUES).ravel(), minlength=3).argmax())
    colour, share = _mixture(pixels, _BACKGROUND_VALUES[background])
    items = [
        _item(name, share * mask)
        for index, name in enumerate(COLOURS)
        for mask in _objects((colour == index) & (share >= HALF), share, colour == index)
    ]
    return Scene(tuple(BACKGROUNDS)[background], tuple(items))


def check(image: Float[np.ndarray, "3 24 24"], prompt: ShapePrompt) -> Correctness:
    """Read an image and compare it with a prompt."""
    return compare(read_scene(image), prompt)


def compare(scene: Scene, prompt: ShapePrompt) -> Correctness:
    """Compare a scene with a prompt: every assignment of its objects to the phrases is tried.

    Of more than six objects the largest six are tried: the number of assignments grows with the fourth power, and a
    scene with more objects than phrases is not correct in any case.
    """
    largest = sorted(scene.items, key=lambda item: (-item.side, item.x, item.y))[:MAX_TRIED]
    tried = Scene(scene.background, tuple(largest))
    best = max(
        (_facts(tried, prompt, chosen) for chosen in _assignments(len(largest), len(prompt.phrases))),
        default=0,
    )
    exact = len(scene.items) == len(prompt.phrases) and best == prompt.facts
    return Correctness(exact, best / prompt.facts)


def score(image: Float[np.ndarray, "3 24 24"], prompt: ShapePrompt) -> float:
    """One figure in [0, 1]: 1 or 0 for the six skills as in GenEval, the share of facts for dense prompts."""
    verdict = check(image, prompt)
    return verdict.facts if prompt.skill == "dense" else float(verdict.correct)


def _assignments(objects: int, phrases: int) -> Iterator[tuple[int | None, ...]]:
    """Every choice of one object, or none, for each phrase; no object is chosen twice."""
    if objects >= phrases:
        yield from itertools.permutations(range(objects), phrases)
        return
    for places in itertools.permutations(range(phrases), objects):
        chosen: list[int | None] = [None] * phrases
        for index, place in enumerate(places):
            chosen[place] = index
        yield tuple(chosen)


def _facts(scene: Scene, prompt: ShapePrompt, chosen: tuple[int | None, ...]) -> int:
    """Number of the prompt's facts that hold if phrase i speaks of object `chosen[i]`."""
    objects = [None if index is None else scene.items[index] for index in chosen]
    named = [
        item is not None and item.shape == phrase.shape and phrase.colour in (None, item.colour)
        for item, phrase in zip(objects, prompt.phrases, strict=True)
    ]
    held = sum(named) + (prompt.background is not None and prompt.background == scene.background)
    for item, phrase, there in zip(objects, prompt.phrases, named, strict=True):
        held += item is not None and there and phrase.size is not None and phrase.size == item.size
    if prompt.relation is not None and all(named[:2]):
        first, second = objects[:2]
        held += first is not None and second is not None and related(first, prompt.relation, second)
    return held


def _nearest(pixels: Float[np.ndarray, "3 h w"], values: Float[np.ndarray, "n 3"]) -> Int[np.ndarray, "h w"]:
    return np.square(pixels[None] - values[:, :, None, None]).sum(axis=1).argmin(axis=0)


def _mixture(
    pixels: Float[np.ndarray, "3 h w"], background: Float[np.ndarray, " 3"]
) -> tuple[Int[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """The colour whose line to the background passes nearest to each pixel, and its share in [0, 1]."""
    lines = _COLOUR_VALUES - background
    offset = (pixels - background[:, None, None]).reshape(3, -1)
    shares = np.clip(lines @ offset / np.square(lines).sum(axis=1, keepdims=True), 0.0, 1.0)
    missed = np.square(offset[None] - shares[:, None] * lines[:, :, None]).sum(axis=1)
    colour = missed.argmin(axis=0)
    share = np.take_along_axis(shares, colour[None], axis=0)[0]
    return colour.reshape(pixels.shape[1:]), share.reshape(pixels.shape[1:])


def _objects(
    core: Bool[np.ndarray, "h w"], share: Float[np.ndarray, "h w"], own: Bool[np.ndarray, "h w"]
) -> Iterator[Bool[np.ndarray, "h w"]]:
    """Masks of the connected objects: their pixels covered by at least half, and the edge pixels beside them."""
    labels, count = cast("tuple[Int[np.ndarray, 'h w'], int]", ndimage.label(core, _CROSS))
    sizes = np.bincount(labels.ravel())
    for label in range(1, count + 1):
        # Noise leaves many specks that are too small with all their neighbours.
        if sizes[label] * _CROSS.sum() < MIN_AREA:
            continue
        inside = labels == label
        mask = inside | (ndimage.binary_dilation(inside, _CROSS) & own & (labels == 0))
        if share[mask].sum() >= MIN_AREA:
            yield mask


def _item(colour: str, share: Float[np.ndarray, "h w"]) -> Item:
    """The shape whose drawing at the object's centre of mass and area overlaps it best."""
    area = float(share.sum())
    x, y = (float((share * places).sum()) / area for places in (_PIXEL_CENTRES, _PIXEL_CENTRES[:, None]))
    best, overlap = Item(UNKNOWN, colour, area**0.5, x, y), MIN_OVERLAP
    for shape in SHAPES:
        side = float(_SIDE_OF_AREA[shape]) * area**0.5
        fitted = Item(shape, colour, side, x, y - _CENTRE_OF_MASS[shape] * side)
        drawn = coverage(shape, side, fitted.x, fitted.y)
        found = float(np.minimum(drawn, share).sum() / np.maximum(drawn, share).sum())
        if found >= overlap:
            best, overlap = fitted, found
    return best
