"""What captions say of relations, as numbers, and captions beyond the prompt table to test text encoders with."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from advdmd_ray.data.shapes.scene import BACKGROUNDS, COLOURS, RELATIONS, SHAPES, SIZES
from advdmd_ray.data.shapes.skills import (
    HELD_OUT_PAIRS,
    ShapePrompt,
    all_prompts,
    dense_text,
    draw_dense,
)

OPPOSITES = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_EXAM_SHARE = 4
"""One in so many captions is asked, the others fit a probe."""


def sides(prompt: ShapePrompt) -> Float[np.ndarray, " 8"]:
    """On which side of the other each shape stands: x and y of every kind in turn, in -1, 0, 1; 0 where none is said.

    x points rightwards and y downwards. With the two shapes of the relation exchanged all signs turn.
    """
    found = np.zeros((len(SHAPES), 2), dtype=np.float32)
    if prompt.relation is not None:
        first, second = (SHAPES.index(phrase.shape) for phrase in prompt.phrases[:2])
        found[first] = RELATIONS[prompt.relation]
        found[second] = -found[first]
    return found.ravel()


def facts(prompt: ShapePrompt) -> Float[np.ndarray, " 47"]:
    """All that a caption states, 0 where it says nothing.

    `sides`; the number of each shape; whether each shape has each colour, and each size; which background it is.
    """
    counts = np.zeros(len(SHAPES), dtype=np.float32)
    coloured = np.zeros((len(SHAPES), len(COLOURS)), dtype=np.float32)
    sized = np.zeros((len(SHAPES), len(SIZES)), dtype=np.float32)
    for phrase in prompt.phrases:
        shape = SHAPES.index(phrase.shape)
        counts[shape] += 1
        coloured[shape] += [colour == phrase.colour for colour in COLOURS]
        sized[shape] += [size == phrase.size for size in SIZES]
    ground = np.array([ground == prompt.background for ground in BACKGROUNDS], dtype=np.float32)
    return np.concatenate([sides(prompt), counts, coloured.clip(max=1).ravel(), sized.clip(max=1).ravel(), ground])


def draw_lessons(count: int, seed: int) -> tuple[ShapePrompt, ...]:
    """Captions for a text encoder to learn from: `count` dense ones, and the table's others eight times each.

    A dense caption with a relation is followed by `swapped` of it, which has the same words. Held-out combinations are
    among them: it is scenes of them that nobody is shown. No caption is of a kind that `draw_exam` asks about.

    Args:
        count: About how many dense captions.
        seed: Seeds the choice.
    """
    found: list[ShapePrompt] = []
    draw = random.Random(seed)  # noqa: S311 - no secret
    while len(found) < count:
        prompt = draw_dense(draw)
        if prompt.relation is None:
            found.append(prompt)
        elif not _asked(prompt):
            found += [prompt, swapped(prompt)]
    return (*found, *[prompt for prompt in all_prompts() if prompt.skill != "dense"] * 8)


def draw_relations(count: int, seed: int) -> tuple[ShapePrompt, ...]:
    """Different dense captions that state a relation, beyond the prompt table, for a denoiser to learn relations from.

    None asks for a held-out combination, and none is of a kind that `draw_exam` asks about.

    Args:
        count: How many.
        seed: Seeds the choice.
    """
    found: dict[str, ShapePrompt] = {}
    fresh = _fresh(random.Random(seed))  # noqa: S311 - no secret
    while len(found) < count:
        prompt = next(fresh)
        if prompt.relation is not None and not prompt.held_out and not _asked(prompt):
            found.setdefault(prompt.text, prompt)
    return tuple(found.values())


def sides_of(prompts: Sequence[ShapePrompt]) -> Float[Tensor, "n 8"]:
    """`sides` of each."""
    return torch.from_numpy(np.stack([sides(prompt) for prompt in prompts]))


def swapped(prompt: ShapePrompt) -> ShapePrompt:
    """The caption with the two shapes of its relation exchanged: the same words, and the opposite of it.

    Raises:
        ValueError: It states no relation, or is no dense prompt.
    """
    _check_turns(prompt)
    first, second, *others = prompt.phrases
    phrases = (second, first, *others)
    return replace(prompt, phrases=phrases, text=dense_text(phrases, prompt.relation, prompt.background))


def reversed_relation(prompt: ShapePrompt) -> ShapePrompt:
    """The caption with the opposite relation in place of its own.

    Raises:
        ValueError: It states no relation, or is no dense prompt.
    """
    _check_turns(prompt)
    relation = OPPOSITES[str(prompt.relation)]
    return replace(prompt, relation=relation, text=dense_text(prompt.phrases, relation, prompt.background))


def draw_exam(groups: int, seed: int, *, fitted: bool = False) -> tuple[ShapePrompt, ...]:
    """Draw dense captions with a relation, each in four versions one after the other.

    They are the caption, `swapped`, `reversed_relation`, and both. Who answers by the words and not by their order is
    right on half of each pair; who answers by the order and not by the relation, on one of two pairs. Coloured shapes
    are never held-out ones; placements may be.

    Args:
        groups: A quarter of the captions.
        seed: Seeds the choice.
        fitted: Captions to fit a probe on; by default others, to ask it about.
    """
    found: dict[str, ShapePrompt] = {}
    for prompt in _fresh(random.Random(seed)):  # noqa: S311 - as above
        if len(found) >= 4 * groups:
            break
        coloured = {(phrase.colour, phrase.shape) for phrase in prompt.phrases}
        if prompt.relation is None or not coloured.isdisjoint(HELD_OUT_PAIRS) or _asked(prompt) == fitted:
            continue
        opposite = reversed_relation(prompt)
        versions = (prompt, swapped(prompt), opposite, swapped(opposite))
        if prompt.text not in found:
            found |= {version.text: version for version in versions}
    return tuple(found.values())


def _check_turns(prompt: ShapePrompt) -> None:
    if prompt.relation is None or prompt.skill != "dense":
        raise ValueError(f"only a dense caption with a relation can be turned round, got {prompt.text!r}")


def _fresh(draw: random.Random) -> Iterator[ShapePrompt]:
    """Dense captions of whose kind, see `_kind`, the prompt table has none."""
    known = {_kind(prompt) for prompt in all_prompts() if prompt.skill == "dense"}
    while True:
        prompt = draw_dense(draw)
        if _kind(prompt) not in known:
            yield prompt


def _asked(prompt: ShapePrompt) -> bool:
    """Whether it, and all others of its kind, are asked and not fitted on."""
    return crc32(_kind(prompt).encode()) % _EXAM_SHARE == 0


def _kind(prompt: ShapePrompt) -> str:
    """What `swapped` and `reversed_relation` leave as it is."""
    axis = tuple(map(abs, RELATIONS[prompt.relation])) if prompt.relation is not None else None
    pair, others = sorted(map(str, prompt.phrases[:2])), tuple(map(str, prompt.phrases[2:]))
    return repr((pair, others, axis, prompt.background))
