"""Exponential moving average of named tensors: the student that is judged and exported, the heads that judge."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from advdmd_ray.learner.engine_state import fitting, require_fit, shapes_of


def warm_decay(decay: float, updates: int) -> float:
    """Decay of the update that follows so many: `min(decay, (1 + n) / (10 + n))`, n = `updates`.

    Why: at a constant decay d the initial weights keep the share d^n of the average, 60 % after 25 updates at 0.98.
    With the warm-up they keep `1 / binomial(n + 9, 9)` until d is reached: 10 % after one update, 0.05 % after five.
    The formula is that of TensorFlow's `ExponentialMovingAverage`, torch_ema and diffusers' `EMAModel`, which differ
    only in whether the first update has n = 0 or 1.

    Args:
        decay: reached in the end, in [0, 1).
        updates: n, those made before, >= 0.
    """
    return min(decay, (1 + updates) / (10 + updates))


class Ema:
    """Keeps `e <- d e + (1 - d) x` with the decays d of `warm_decay`, started at the initial weights.

    The coefficients of all weights seen sum to 1 at any time, so no bias correction is needed. The average is kept in
    float32 on the CPU; weights on another device come over one tensor at a time.

    Args:
        weights: initial weights, name and floating-point tensor; copied.
        decay: in [0, 1), reached after the warm-up; 0 copies the latest weights.

    Attributes:
        updates: How often it was moved; goes into a checkpoint beside `state()`.

    Raises:
        ValueError: for a decay outside [0, 1).
    """

    def __init__(self, weights: Iterable[tuple[str, Tensor]], decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        self._decay = decay
        self.updates = 0
        self._average = {name: _copy(tensor) for name, tensor in weights}

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The average itself, for reading until the next `update`."""
        return MappingProxyType(self._average)

    @torch.no_grad()
    def update(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Moves the average towards `weights`, which must have the same names and shapes.

        Raises:
            CheckpointError: if names or shapes differ; what came before is part of the average then.
        """
        share = 1 - warm_decay(self._decay, self.updates)
        for name, tensor in fitting(weights, shapes_of(self._average)):
            average = self._average[name]
            average.lerp_(tensor.detach().to(average), share)
        self.updates += 1

    def state(self) -> dict[str, Tensor]:
        """A copy of the average, float32 on the CPU."""
        return {name: tensor.clone() for name, tensor in self._average.items()}

    def load(self, state: Mapping[str, Tensor], updates: int) -> None:
        """Replaces the average by a copy of `state`, such as one that `state()` gave after so many updates.

        Raises:
            CheckpointError: if names or shapes differ.
        """
        require_fit(state, shapes_of(self._average))
        for name, tensor in self._average.items():
            tensor.copy_(state[name])
        self.updates = updates


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True)
