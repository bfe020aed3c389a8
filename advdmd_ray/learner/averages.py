"""The moving averages of a learner: in the host memory of rank 0 alone."""

from collections.abc import Iterator, Mapping
from typing import Final

import torch
from torch import Tensor

from advdmd_ray.learner.checkpoint import Checkpoint
from advdmd_ray.learner.ema import Ema
from advdmd_ray.learner.engine import Engine
from advdmd_ray.learner.gang import Gang
from advdmd_ray.learner.tensor_file import TensorStream, cpu_copy

_NAMES: Final = {"student": "ema", "discriminator": "judge"}
"""Network -> its average's file in a checkpoint."""


class Averages:
    """Those of the student, which is judged and exported, and of the discriminator, which judges.

    Every rank calls every method that is marked as collective; what needs an average itself is for rank 0.

    Args:
        gang: Of all ranks.
        engines: By network, student and discriminator among them.
        decays: Network -> decay of its average, after the warm-up; with 0 it is the weights of the last cycle.
        device: Where the networks are.
    """

    def __init__(
        self, gang: Gang, engines: Mapping[str, Engine], decays: Mapping[str, float], device: torch.device
    ) -> None:
        self._gang, self._device = gang, device
        self._engines = {name: engines[name] for name in decays}
        self._averages: dict[str, Ema] = {}
        for name, engine in self._engines.items():
            weights = engine.weights()
            if gang.rank == 0:
                self._averages[name] = Ema(weights, decays[name])
            weights.drain()

    def update(self, keep: str) -> dict[str, Tensor]:
        """Follows the weights, one tensor at a time. Collective.

        Args:
            keep: The network whose weights are wanted besides, so that they are gathered once.

        Returns:
            Copies of these on the CPU; nothing on another rank than 0.
        """
        kept: dict[str, Tensor] = {}
        for name, engine in self._engines.items():
            weights = engine.weights()
            if self._gang.rank == 0:
                self._averages[name].update(_keeping(weights, kept) if name == keep else weights)
            weights.drain()
        return kept

    def of(self, network: str) -> Mapping[str, Tensor]:
        """The average itself, float32 on the CPU, until the next `update` or `load`; for reading.

        Raises:
            ValueError: on another rank than 0.
        """
        if self._gang.rank != 0:
            raise ValueError(f"rank {self._gang.rank} keeps no averages; ask rank 0")
        return self._averages[network].tensors

    def everywhere(self, network: str) -> Iterator[tuple[str, Tensor]]:
        """The average on the device of every rank, as rank 0 sends it, one tensor at a time. Collective."""
        for name, (dtype, shape) in self._engines[network].weights().layout.items():
            if self._gang.rank == 0:
                here = self._averages[network].tensors[name].to(self._device)
            else:
                here = torch.empty(shape, dtype=dtype, device=self._device)
            yield name, self._gang.from_first(here)

    def streams(self) -> dict[str, TensorStream]:
        """What a checkpoint stores of them, by file stem; nothing comes on another rank than 0."""
        return {_NAMES[name]: TensorStream.of(self.of(name) if self._gang.rank == 0 else {}) for name in self._engines}

    def load(self, checkpoint: Checkpoint, updates: int) -> None:
        """Goes on from those of a checkpoint, which were moved so often.

        Raises:
            CheckpointError: if they are of other networks.
        """
        for name, average in self._averages.items():
            average.load(checkpoint.load(_NAMES[name]), updates)


def _keeping(weights: TensorStream, kept: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The same weights, of which copies on the CPU are kept."""
    for name, weight in weights:
        kept[name] = cpu_copy(weight)
        yield name, weight
