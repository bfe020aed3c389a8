"""Images of several sizes: each size is judged beside its own real images, and all together by their weights."""

import pytest
import torch
from torch import Tensor

from advdmd_ray.evaluation.judges.contract import Figure, JudgeScore, whole_images
from advdmd_ray.evaluation.judges.sized import SizedJudge

PROMPTS = ("a", "b")


class Brightness:
    """Says the mean of what it is shown, and that every prompt was asked for in turn."""

    name, headline = "files", "mean"
    prompts: tuple[str, ...] = PROMPTS
    figures = (Figure("mean", "mean", "lower", share=False),)
    features = staticmethod(whole_images)

    def __init__(self, best: float) -> None:
        self._best = best

    def score(self, features: Tensor, rows: Tensor) -> JudgeScore:
        assert rows.unique().tolist() == [0, 1]
        assert torch.equal(features[:, 1], rows.float())
        return JudgeScore({"mean": float(features[:, 0].mean())}, len(features))

    def ceiling(self) -> JudgeScore:
        return JudgeScore({"mean": self._best}, 10)


def test_each_size_has_figures_of_its_own_and_all_together_are_their_mean_by_weight() -> None:
    judge = SizedJudge([Brightness(1.0), Brightness(5.0)], ["8 x 16", "16 x 8"], [3, 1])
    assert judge.prompts == ("a", "a", "b", "b")
    assert [figure.key for figure in judge.figures] == ["mean", "mean_8x16", "mean_16x8"]
    assert {figure.better for figure in judge.figures} == {"lower"}
    rows = torch.arange(8) % 4
    # The first size is shown twos, the second sixes; beside each the row that its own judge must be given.
    features = torch.stack([torch.where(rows % 2 == 0, 2.0, 6.0), (rows // 2).float()], dim=1)
    assert judge.score(features, rows) == JudgeScore({"mean": 3.0, "mean_8x16": 2.0, "mean_16x8": 6.0}, 8)
    assert judge.ceiling().figures == {"mean": pytest.approx(2.0), "mean_8x16": 1.0, "mean_16x8": 5.0}
    assert judge.ceiling().images == 20
