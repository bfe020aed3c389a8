"""Exponential moving average of named tensors: the student that is judged and exported."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from advdmd_ray.learner.engine_state import fitting, require_fit, shapes_of


class Ema:
    """Keeps `e <- decay e + (1 - decay) x`, started at the initial weights.

    After n updates with x_1 .. x_n: `e_n = decay^n x_0 + (1 - decay) sum_i decay^(n - i) x_i`. The coefficients sum
    to 1 at any n, so no bias correction is needed. The average is kept in float32 on the CPU; weights on another
    device come over one tensor at a time.

    Args:
        weights: initial weights x_0, name and floating-point tensor; copied.
        decay: in [0, 1); 0 copies the latest weights.

    Raises:
        ValueError: for a decay outside [0, 1).
    """

    def __init__(self, weights: Iterable[tuple[str, Tensor]], decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        self.decay = decay
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
        for name, tensor in fitting(weights, shapes_of(self._average)):
            average = self._average[name]
            average.lerp_(tensor.detach().to(average), 1 - self.decay)

    def state(self) -> dict[str, Tensor]:
        """A copy of the average, float32 on the CPU."""
        return {name: tensor.clone() for name, tensor in self._average.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Replaces the average by a copy of `state`, such as one that `state()` gave.

        Raises:
            CheckpointError: if names or shapes differ.
        """
        require_fit(state, shapes_of(self._average))
        for name, tensor in self._average.items():
            tensor.copy_(state[name])


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True)
