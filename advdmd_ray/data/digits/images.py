"""scikit-learn's bundled handwritten digits (UCI, 1,797 real 8x8 images) with a fixed split and fixed prompts.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998,
as shipped with scikit-learn (no download).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

GREY_LEVELS = 16.0
"""Ink runs from 0 (paper) to 16 (full) in the source images."""

HELD_OUT = 360
SPLIT_SEED = 20260428


@dataclass(frozen=True, slots=True)
class Digits:
    """One part of the data set.

    Attributes:
        images: `[n, 1, 8, 8]` float32 in [-1, 1]; -1 is paper, 1 is full ink.
        labels: `[n]` int64 in 0..9.
    """

    images: Float[Tensor, "n 1 8 8"]
    labels: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)


def load_digits(split: Literal["train", "held_out"]) -> Digits:
    """Return the training part (1,437 images) or the held-out part (360 images).

    The split is stratified by label and drawn once with the fixed seed `SPLIT_SEED`: the parts are disjoint, together
    they are the whole data set, and they are the same in every process.

    Args:
        split: Which part.
    """
    # scikit-learn takes longer to import than everything a rollout actor does before its first group.
    from sklearn.datasets import load_digits as bundled_digits  # noqa: PLC0415
    from sklearn.model_selection import train_test_split  # noqa: PLC0415

    pixels, labels = (np.asarray(part) for part in bundled_digits(return_X_y=True))
    train, held_out = train_test_split(
        np.arange(len(labels)), test_size=HELD_OUT, stratify=labels, random_state=SPLIT_SEED, shuffle=True
    )
    chosen = np.sort(train if split == "train" else held_out)
    images = torch.from_numpy(pixels[chosen].astype(np.float32)).view(-1, 1, 8, 8)
    return Digits(
        images=images * (2.0 / GREY_LEVELS) - 1.0,
        labels=torch.from_numpy(labels[chosen].astype(np.int64)),
    )
