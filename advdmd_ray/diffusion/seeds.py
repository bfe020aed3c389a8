"""Randomness that belongs to the work: every draw is named by a path, whoever makes it and whenever.

A draw depends on its seed and its path only, never on the worker, the batch or the order. Draws are made on the
CPU, whose generator is the same on every machine; the normal transform may differ in the last bit between
processor families, nothing else does.
"""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def derive_seed(run_seed: int, *path: int | str) -> int:
    """The seed of the piece of work at `path`, such as `derive_seed(run_seed, "group", ordinal, sample)`.

    BLAKE2b over the parts, each with its type and length, so that no two paths are spelled alike.

    Returns:
        An integer in [0, 2**63); the same in every process and on every platform.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (run_seed, *path):
        spelled = (f"s{part}" if isinstance(part, str) else f"i{int(part)}").encode()
        digest.update(len(spelled).to_bytes(8, "big") + spelled)
    return int.from_bytes(digest.digest(), "big") >> 1


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
