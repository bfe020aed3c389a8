"""The judge of images of several sizes: each size beside real images of its own, and all together."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from jaxtyping import Float, Int64
from torch import Tensor

from advdmd_ray.evaluation.judges.contract import Judge, JudgeScore


class SizedJudge:
    """Scores images of several sizes.

    Row r of its prompts is asked for in size r modulo the number of sizes, so every prompt is in every size. It gives
    the figures of each size, under keys that name it, and before them those of all: their means, weighted.

    Args:
        judges: One for each size, of the same prompts and figures.
        names: Of the sizes.
        weights: Of the sizes, in any unit.
    """

    def __init__(self, judges: Sequence[Judge], names: Sequence[str], weights: Sequence[float]) -> None:
        first = judges[0]
        self._judges, self._names, self._weights = tuple(judges), tuple(names), tuple(weights)
        self.name, self.headline = first.name, first.headline
        self.features: Callable[[Tensor], Tensor] = first.features
        self.prompts = tuple(prompt for prompt in first.prompts for _ in judges)
        of_each = (
            replace(figure, key=_key(figure.key, name), label=f"{figure.label}, {name}")
            for name in names
            for figure in first.figures
        )
        self.figures = (*first.figures, *of_each)

    def score(self, features: Float[Tensor, "n ..."], rows: Int64[Tensor, " n"]) -> JudgeScore:
        """See `Judge`."""
        sizes = rows % len(self._judges)
        return self._joined(
            [
                judge.score(features[sizes == size], rows[sizes == size] // len(self._judges))
                for size, judge in enumerate(self._judges)
            ]
        )

    def ceiling(self) -> JudgeScore:
        """See `Judge`."""
        return self._joined([judge.ceiling() for judge in self._judges])

    def _joined(self, scores: Sequence[JudgeScore]) -> JudgeScore:
        together = {
            key: sum(weight * score.figures[key] for weight, score in zip(self._weights, scores, strict=True))
            / sum(self._weights)
            for key in scores[0].figures
        }
        of_each = {
            _key(key, name): value
            for name, score in zip(self._names, scores, strict=True)
            for key, value in score.figures.items()
        }
        return JudgeScore(together | of_each, sum(score.images for score in scores))


def _key(figure: str, size: str) -> str:
    """A plain word."""
    return f"{figure}_{size.replace(' ', '')}"
