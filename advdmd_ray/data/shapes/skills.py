"""The language of the scenes: GenEval's six skills and a dense split in the manner of DPG-Bench.

Skills after GenEval (Ghosh et al., arXiv 2310.11513): single object, two objects, counting, colours, position,
attribute binding. A dense prompt states three to five facts at once, after DPG-Bench (Hu et al., arXiv 2403.05135).
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from advdmd_ray.data.shapes.scene import BACKGROUNDS, COLOURS, RELATIONS, SHAPES, SIZES

Skill = Literal["single_object", "two_objects", "counting", "colours", "position", "binding", "dense"]
SKILLS: tuple[Skill, ...] = get_args(Skill)
HELD_OUT_PAIRS = (("green", "circle"), ("magenta", "square"), ("cyan", "triangle"), ("yellow", "cross"))
"""Coloured shapes that no training scene has, named or not."""
HELD_OUT_PLACES = tuple(
    (SHAPES[i], relation, SHAPES[(i + 1 + j) % len(SHAPES)])
    for i, (j, relation) in itertools.product(range(len(SHAPES)), enumerate(("left of", "above", "below")))
)
"""Placements that no training prompt asks for in these words (their converse may be); as many of each shape."""
NUMBERS = {2: "two", 3: "three", 4: "four"}
PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}
DENSE_PROMPTS = 480
DENSE_SEED = 20260428
MIN_FACTS, MAX_FACTS = 3, 5


@dataclass(frozen=True, slots=True)
class Phrase:
    """What a prompt says of one shape; None where it says nothing.

    Attributes:
        shape: Of `SHAPES`.
        colour: Of `COLOURS`.
        size: Of `SIZES`.
    """

    shape: str
    colour: str | None = None
    size: str | None = None

    def __str__(self) -> str:
        return " ".join(word for word in ("a", self.size, self.colour, self.shape) if word)


@dataclass(frozen=True, slots=True)
class ShapePrompt:
    """A prompt and what it means. The scene has one shape for each phrase, and no other.

    Attributes:
        text: What the model is given.
        skill: Which skill it tries.
        phrases: One for each shape of the scene.
        relation: Relation of the first shape to the second, of `RELATIONS`, if the prompt states one.
        background: Of `BACKGROUNDS`, if the prompt states one.
    """

    text: str
    skill: Skill
    phrases: tuple[Phrase, ...]
    relation: str | None = None
    background: str | None = None

    @property
    def held_out(self) -> bool:
        """Whether it asks for a combination that training never shows."""
        pairs = any((phrase.colour, phrase.shape) in HELD_OUT_PAIRS for phrase in self.phrases)
        return pairs or self.place in HELD_OUT_PLACES

    @property
    def place(self) -> tuple[str, str, str] | None:
        """First shape, relation, second shape."""
        if self.relation is None:
            return None
        return (self.phrases[0].shape, self.relation, self.phrases[1].shape)

    @property
    def facts(self) -> int:
        """Number of facts: one for each phrase's coloured shape, one for each size, relation and background."""
        sizes = sum(phrase.size is not None for phrase in self.phrases)
        return len(self.phrases) + sizes + (self.relation is not None) + (self.background is not None)


def all_prompts() -> tuple[ShapePrompt, ...]:
    """Every prompt of the six skills and the dense split, seen and held out, in a fixed order without repeats."""
    found = {prompt.text: prompt for prompt in (*_skills(), *_dense())}
    return tuple(found.values())


def prompt_words() -> tuple[str, ...]:
    """Every word of the language, sorted."""
    return tuple(sorted({word for prompt in all_prompts() for word in prompt.text.split()}))


def _skills() -> Iterator[ShapePrompt]:
    for shape in SHAPES:
        for size in (None, *SIZES):
            phrase = Phrase(shape, size=size)
            yield ShapePrompt(str(phrase), "single_object", (phrase,))
        for number, word in NUMBERS.items():
            yield ShapePrompt(f"{word} {PLURALS[shape]}", "counting", (Phrase(shape),) * number)
        for colour in COLOURS:
            phrase = Phrase(shape, colour)
            yield ShapePrompt(str(phrase), "colours", (phrase,))
    for first, second in itertools.permutations(SHAPES, 2):
        pair = (Phrase(first), Phrase(second))
        yield ShapePrompt(f"{pair[0]} and {pair[1]}", "two_objects", pair)
        for relation in RELATIONS:
            yield ShapePrompt(f"{pair[0]} {relation} {pair[1]}", "position", pair, relation)
        for one, other in itertools.permutations(COLOURS, 2):
            coloured = (Phrase(first, one), Phrase(second, other))
            yield ShapePrompt(f"{coloured[0]} and {coloured[1]}", "binding", coloured)


def _dense() -> Iterator[ShapePrompt]:
    """As many as there are to be, all different."""
    draw = random.Random(DENSE_SEED)  # noqa: S311 - a fixed list of prompts, not a secret
    made: set[str] = set()
    while len(made) < DENSE_PROMPTS:
        prompt = draw_dense(draw)
        if prompt.text not in made:
            made.add(prompt.text)
            yield prompt


def draw_dense(draw: random.Random) -> ShapePrompt:
    """Two or three different coloured shapes, with sizes, a relation and a background until there are enough facts."""
    count = draw.choice((2, 2, 3))
    facts = draw.randint(max(MIN_FACTS, count + 1), MAX_FACTS)
    shapes, colours = draw.sample(SHAPES, count), draw.sample(tuple(COLOURS), count)
    extras = draw.sample(["relation", "background", *range(count)], facts - count)
    phrases = tuple(
        Phrase(shape, colour, draw.choice(tuple(SIZES)) if index in extras else None)
        for index, (shape, colour) in enumerate(zip(shapes, colours, strict=True))
    )
    relation = draw.choice(tuple(RELATIONS)) if "relation" in extras else None
    background = draw.choice(tuple(BACKGROUNDS)) if "background" in extras else None
    return ShapePrompt(dense_text(phrases, relation, background), "dense", phrases, relation, background)


def dense_text(phrases: Sequence[Phrase], relation: str | None, background: str | None) -> str:
    """The wording of a dense prompt; the relation stands between the first two of two or three phrases."""
    text = f" {relation or 'and'} ".join(str(phrase) for phrase in phrases[:2])
    text = " and ".join([text, *(str(phrase) for phrase in phrases[2:])])
    return text if background is None else f"{text} on {background}"
