"""What a judge says, and what a judge is: figures with a direction, one of them the headline."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from advdmd_ray.errors import UserError


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that a judge gives.

    Attributes:
        key: Its name in `JudgeScore.figures`, in files and in the label of the series; a plain word.
        label: Its name for a reader.
        better: Whether higher or lower values are better.
        share: Whether it is a share in [0, 1], shown as a percentage.
    """

    key: str
    label: str
    better: Literal["higher", "lower"]
    share: bool


@dataclass(frozen=True, slots=True)
class JudgeScore:
    """What the judge says of a set of images.

    Attributes:
        figures: Value by the key of each of the judge's figures.
        images: Number of images judged; distances and coverage depend on it, so compare equal numbers only.
    """

    figures: Mapping[str, float]
    images: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the judge says of the student while it learns.

    Attributes:
        score: All figures.
        headline: The figure that samplers are compared by, negated where lower is better, or a scorer's mean: higher is
            always better.
    """

    score: JudgeScore
    headline: float


class Judge(Protocol):
    """Scores images against real ones; the same in every process.

    Attributes:
        name: The `data.source` whose images it judges.
        prompts: Image i of a judged set is asked for `prompts[i % len(prompts)]`; a prompt may stand there more than
            once.
        figures: What it gives, in the order to show.
        headline: Key of the figure to compare samplers by.
        features: What `score` needs of images in [-1, 1], `[n, c, h, w]`, row by row: a function that travels to the
            workers that draw them, so that images of a real model's size are never held together. `whole_images` for
            a judge of small ones.
    """

    name: str
    prompts: tuple[str, ...]
    figures: tuple[Figure, ...]
    headline: str
    features: Callable[[Tensor], Tensor]

    def score(self, features: Float[Tensor, "n ..."], rows: Int64[Tensor, " n"], /) -> JudgeScore:
        """All figures of a set of images.

        Args:
            features: Of each image; of whole images, values outside [-1, 1] are clipped.
            rows: Row of `prompts` that each was asked for.

        Raises:
            ValueError: There are too few images for one of the figures; 20 that follow the order of the prompts do.
        """
        ...

    def ceiling(self) -> JudgeScore:
        """All figures of real held-out images: what a perfect generator could reach."""
        ...


def whole_images(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """The features of a judge that looks at every pixel."""
    return images


def signed_headline(judge: Judge, score: JudgeScore) -> float:
    """The headline of a score, negated where lower is better, so that higher is always better."""
    (figure,) = (figure for figure in judge.figures if figure.key == judge.headline)
    value = score.figures[judge.headline]
    return value if figure.better == "higher" else -value


class ImageScorer(Protocol):
    """What gives each image one number for its prompt; see `evaluation.scorers`.

    Attributes:
        word: Its key among figures.
    """

    word: str

    def __call__(self, images: Tensor, prompts: Sequence[str], /) -> Tensor:
        """One finite number for each image."""
        ...


Scores: TypeAlias = Mapping[str, Tensor]
"""Of some images, `[n]` by the word of each scorer."""


def scores_of(scorers: Sequence[ImageScorer], images: Float[Tensor, "n c h w"], prompts: Sequence[str]) -> Scores:
    """What each scorer gives some images."""
    return {scorer.word: scorer(images, prompts) for scorer in scorers}


def with_scores(score: JudgeScore, scores: Sequence[Scores]) -> JudgeScore:
    """A judge's figures of a set of images, and beside them the means of what scorers gave the portions of it.

    Raises:
        UserError: if a scorer has the name of one of the judge's figures.
    """
    means = {word: float(torch.cat([part[word] for part in scores]).mean()) for word in (scores[0] if scores else {})}
    if taken := means.keys() & score.figures.keys():
        raise UserError(f"scorers.names: the judge has a figure called {min(taken)} too; rename the scorer")
    return replace(score, figures={**score.figures, **means})
