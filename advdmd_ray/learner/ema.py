"""Exponential moving average of named tensors: the student that is judged and exported."""

from collections.abc import Mapping

import torch
from torch import Tensor

from advdmd_ray.errors import CheckpointError


class Ema:
    """Keeps `e <- decay e + (1 - decay) x`, started at the initial weights.

    After n updates with x_1 .. x_n: `e_n = decay^n x_0 + (1 - decay) sum_i decay^(n - i) x_i`. The coefficients sum
    to 1 at any n, so no bias correction is needed. The average is kept in float32 on the CPU.

    Args:
        state: initial weights x_0, name -> floating-point tensor; copied.
        decay: in [0, 1); 0 copies the latest weights.

    Raises:
        ValueError: for a decay outside [0, 1).
    """

    def __init__(self, state: Mapping[str, Tensor], decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        self.decay = decay
        self._average = {name: _copy(tensor) for name, tensor in state.items()}

    @torch.no_grad()
    def update(self, state: Mapping[str, Tensor]) -> None:
        """Moves the average towards `state`, which must have the same names and shapes.

        Raises:
            ValueError: if names or shapes differ.
        """
        difference = _difference(self._average, state)
        if difference:
            raise ValueError(f"EMA: {difference}")
        latest = [state[name].detach().to(average) for name, average in self._average.items()]
        torch._foreach_lerp_(list(self._average.values()), latest, 1 - self.decay)  # pyright: ignore[reportPrivateImportUsage] - one call for all tensors

    def state(self) -> dict[str, Tensor]:
        """A copy of the average, float32 on the CPU."""
        return {name: tensor.clone() for name, tensor in self._average.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Replaces the average by a copy of `state`, such as one that `state()` gave.

        Raises:
            CheckpointError: if names or shapes differ.
        """
        difference = _difference(self._average, state)
        if difference:
            raise CheckpointError(f"EMA does not fit: {difference}")
        self._average = {name: _copy(state[name]) for name in self._average}


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True)


def _difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str | None:
    """The first disagreement in names or shapes, or None."""
    names = sorted(ours.keys() ^ theirs.keys())
    if names:
        return f"names differ, first {names[0]!r} ({len(names)} in all)"
    for name, tensor in ours.items():
        if tensor.shape != theirs[name].shape:
            return f"{name} has shape {tuple(theirs[name].shape)}, expected {tuple(tensor.shape)}"
    return None
