"""The judge of generated digits: a classifier trained on real digits, and a Frechet distance in pixels."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.svm import SVC
from torch import Tensor

from advdmd_ray.data.digits import GREY_LEVELS, Digits, load_digits
from advdmd_ray.diffusion.denoiser import Conditioning, Denoiser
from advdmd_ray.diffusion.kernels import Kernel
from advdmd_ray.diffusion.sampling import sample
from advdmd_ray.diffusion.seeds import derive_seed, group_noise


@dataclass(frozen=True, slots=True)
class JudgeScore:
    """What the judge says of a set of images.

    Attributes:
        accuracy: Share of images recognised as their label, in [0, 1].
        frechet: Frechet distance to the real training digits, in squared ink units (ink runs from 0 to 16).
        images: Number of images judged; the distance's bias depends on it, so compare equal numbers only.
    """

    accuracy: float
    frechet: float
    images: int


def ink(images: Float[Tensor, "n c h w"]) -> Float[np.ndarray, "n d"]:
    """Flatten images and change their unit from [-1, 1] to ink in [0, 16]; values outside are clipped."""
    return ((images.detach().double().clamp(-1, 1) + 1.0) * (GREY_LEVELS / 2.0)).flatten(1).numpy()


def frechet(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    """Frechet distance between Gaussians fitted to two sets of vectors (Dowson and Landau 1982; Heusel et al. 2017).

    `|mean_a - mean_b|^2 + tr(A) + tr(B) - 2 tr((A^(1/2) B A^(1/2))^(1/2))`. The last trace is the sum of the singular
    values of `A^(1/2) B^(1/2)`, with symmetric roots from an eigendecomposition: real, and stable for covariances that
    are singular (pixels that never carry ink).

    Args:
        a: One vector a row, at least two rows.
        b: Likewise.

    Returns:
        The distance, at least 0, in the squared unit of the vectors.

    Raises:
        ValueError: A set has fewer than two vectors.
    """
    if min(len(a), len(b)) < 2:  # noqa: PLR2004 - a covariance needs two
        raise ValueError(f"need at least two vectors in each set, got {len(a)} and {len(b)}")
    offset = a.mean(axis=0) - b.mean(axis=0)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    overlap = np.linalg.svd(_symmetric_root(cov_a) @ _symmetric_root(cov_b), compute_uv=False).sum()
    return max(float(offset @ offset + np.trace(cov_a) + np.trace(cov_b) - 2.0 * overlap), 0.0)


def _symmetric_root(covariance: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(min=0.0))) @ vectors.T


class Judge:
    """Scores images against real digits; fitted on the training part only, the same in every process.

    Args:
        train: The digits to learn from; default: the training part.
    """

    def __init__(self, train: Digits | None = None) -> None:
        digits = load_digits("train") if train is None else train
        self._real = ink(digits.images)
        # A radial-basis support vector machine: no randomness in the fit, and near perfect on these images.
        self._classifier = SVC(C=10.0, gamma="scale").fit(self._real, digits.labels.numpy())

    def accuracy(self, images: Float[Tensor, "n 1 8 8"], labels: Int[Tensor, " n"]) -> float:
        """Share of images recognised as their label.

        Args:
            images: In [-1, 1]; values outside are clipped.
            labels: In 0..9.
        """
        return float((self._classifier.predict(ink(images)) == labels.numpy()).mean())

    def frechet(self, images: Float[Tensor, "n 1 8 8"]) -> float:
        """Frechet distance to the real training digits, squared ink units; see `frechet`."""
        return frechet(ink(images), self._real)

    def score(self, images: Float[Tensor, "n 1 8 8"], labels: Int[Tensor, " n"]) -> JudgeScore:
        """Both figures of a set of images."""
        return JudgeScore(self.accuracy(images, labels), self.frechet(images), len(images))

    def ceiling(self) -> JudgeScore:
        """Both figures of the real held-out digits: what a perfect generator could reach."""
        held_out = load_digits("held_out")
        return self.score(held_out.images, held_out.labels)


@torch.no_grad()
def balanced_samples(
    denoiser: Denoiser,
    prompts: Conditioning,
    kernel: Kernel,
    sigmas: Float[Tensor, " k1"],
    shape: tuple[int, int, int],
    *,
    samples: int,
    seed: int,
    batch_size: int = 250,
) -> tuple[Float[Tensor, "n c h w"], Int[Tensor, " n"]]:
    """Sample every prompt equally often; sample i has prompt `i mod p` and draws from (seed, i) alone.

    So every sampler judged with one seed is given the same prompts and the same initial noise.

    Args:
        denoiser: Student, or guided teacher.
        prompts: The p encoded prompts.
        kernel: The transition kernel the denoiser was trained for.
        sigmas: K + 1 noise levels, the last 0.
        shape: `(c, h, w)` of a latent.
        samples: Number of images.
        seed: Of initial and step noise.
        batch_size: Images per call; changes memory and time, not the images.

    Returns:
        Final latents and the prompt id of each.
    """
    labels = torch.arange(samples) % len(prompts)
    images = []
    for rows in torch.arange(samples).split(batch_size):
        seeds = [derive_seed(seed, "judge", int(row)) for row in rows]
        start = group_noise(shape, seeds, "initial")
        images.append(sample(denoiser, prompts.select(labels[rows]), kernel, sigmas, start, seeds))
    return torch.cat(images), labels
