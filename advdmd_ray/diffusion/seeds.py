"""Randomness that belongs to the work: every draw is named by a path, whoever makes it and whenever.

A draw depends on its seed and its path only, never on the worker, the batch or the order. Draws are made on the
CPU, whose generator is the same on every machine; the normal transform may differ in the last bit between
processor families, nothing else does.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from advdmd_ray.seeding import derive_seed


def _generator(seed: int, path: tuple[int | str, ...]) -> torch.Generator:
    return torch.Generator(device="cpu").manual_seed(derive_seed(seed, *path))


def noise(shape: Sequence[int], seed: int, *path: int | str) -> Float[Tensor, "..."]:
    """Float32 standard normal noise of `shape`, on the CPU, from its own generator."""
    return torch.randn(tuple(shape), generator=_generator(seed, path), dtype=torch.float32)


def uniform(shape: Sequence[int], seed: int, *path: int | str) -> Float[Tensor, "..."]:
    """Float32 numbers of `shape`, uniform in [0, 1), on the CPU, from their own generator."""
    return torch.rand(tuple(shape), generator=_generator(seed, path), dtype=torch.float32)


def group_noise(shape: Sequence[int], seeds: Sequence[int], *path: int | str) -> Float[Tensor, "b ..."]:
    """One row of `noise(shape, seed, *path)` per seed: row i depends on `seeds[i]` and the path only.

    Args:
        shape: Shape of one row, without the batch.
        seeds: One seed per row, at least one.
        path: Names the draw, for example `"step", k`.
    """
    return torch.stack([noise(shape, seed, *path) for seed in seeds])
