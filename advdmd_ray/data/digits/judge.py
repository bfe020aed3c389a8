"""The judge of generated digits: a classifier trained on real digits, a Fréchet distance and diversity in pixels."""

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from advdmd_ray.data.digits.images import GREY_LEVELS, Digits, load_digits
from advdmd_ray.data.digits.prompts import DIGIT_PROMPTS
from advdmd_ray.evaluation.judges.contract import Figure, JudgeScore, whole_images
from advdmd_ray.evaluation.judges.diversity import coverage, diversity, principal_components, within_prompt_distance
from advdmd_ray.evaluation.judges.frechet import frechet

REFERENCE_SEED = 20260428
"""Of the order in which real digits are taken to compare with: the data set lists them writer by writer."""


def ink(images: Float[Tensor, "n c h w"]) -> Float[np.ndarray, "n d"]:
    """Flatten images and change their unit from [-1, 1] to ink in [0, 16]; values outside are clipped."""
    return ((images.detach().double().clamp(-1, 1) + 1.0) * (GREY_LEVELS / 2.0)).flatten(1).numpy()


class DigitsJudge:
    """Scores images against real digits; fitted on the training part only, the same in every process.

    Figures: `frechet`, the distance to the real training digits in squared ink units (ink runs from 0 to 16);
    `accuracy`, the share of images recognised as the digit their prompt names; `diversity` and `coverage`, see
    `diversity.py`, the latter against as many training digits of each label as there are images of it.

    Args:
        train: The digits to learn from; default: the training part.
    """

    name = "digits"
    prompts = DIGIT_PROMPTS
    figures = (
        Figure("frechet", "Fréchet distance", "lower", share=False),
        Figure("accuracy", "accuracy", "higher", share=True),
        Figure("diversity", "diversity", "higher", share=False),
        Figure("coverage", "coverage", "higher", share=True),
    )
    headline = "frechet"
    features = staticmethod(whole_images)

    def __init__(self, train: Digits | None = None) -> None:
        # Whoever builds a learner imports this module; scikit-learn is slow to import.
        from sklearn.svm import SVC  # noqa: PLC0415

        digits = load_digits("train") if train is None else train
        self._real, self._labels = ink(digits.images), digits.labels.numpy()
        # A radial-basis support vector machine: no randomness in the fit, and near perfect on these images.
        self._classifier = SVC(C=10.0, gamma="scale").fit(self._real, self._labels)
        self._real_distances = within_prompt_distance(self._real, self._labels)
        self._order = np.random.default_rng(REFERENCE_SEED).permutation(len(self._labels))
        self._projection = principal_components(self._real)

    def accuracy(self, images: Float[Tensor, "n 1 8 8"], labels: Int64[Tensor, " n"]) -> float:
        """Share of images recognised as their label.

        Args:
            images: In [-1, 1]; values outside are clipped.
            labels: In 0..9.
        """
        return float((self._classifier.predict(ink(images)) == labels.numpy()).mean())

    def frechet(self, images: Float[Tensor, "n 1 8 8"]) -> float:
        """Fréchet distance to the real training digits, squared ink units; see `frechet`."""
        return frechet(ink(images), self._real)

    def score(self, images: Float[Tensor, "n 1 8 8"], rows: Int64[Tensor, " n"]) -> JudgeScore:
        """See `Judge`; the row of a prompt is its digit."""
        vectors, labels = ink(images), rows.numpy()
        figures = {
            "frechet": self.frechet(images),
            "accuracy": self.accuracy(images, rows),
            "diversity": diversity(within_prompt_distance(vectors, labels), self._real_distances),
            "coverage": coverage(self._projection(vectors), self._projection(self._real[self._matching(labels)])),
        }
        return JudgeScore(figures, len(images))

    def ceiling(self) -> JudgeScore:
        """See `Judge`: the 360 digits that were held out."""
        held_out = load_digits("held_out")
        return self.score(held_out.images, held_out.labels)

    def _matching(self, labels: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " m"]:
        """Training digits of all writers, as many of each label as `labels` has, or all there are."""
        wanted, order = np.bincount(labels, minlength=len(self.prompts)), self._order
        return np.concatenate([order[self._labels[order] == label][:count] for label, count in enumerate(wanted)])
