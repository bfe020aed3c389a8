"""A group from its actor through a reward worker to a tensor of the learner, over Ray actors; and its scoring alone.

The networks' work is left out: the trajectories are there, and a reward is one number of each state. The pages of the
object store were all in use before, by each contestant's own processes, as after the first minutes of a run: a page
costs whoever fills it for the first time, and again each process that has not seen it.
"""

import importlib
import importlib.util
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

from advdmd_ray.stations.records import TrajectoryGroup
from benchmarks.host.contest import OURS, Field, Row, Turn
from benchmarks.host.rows.product_group import GroupLearner, GroupMaker, GroupScorer
from benchmarks.local_ray import local_ray

SAMPLES, STEPS, LATENT = 16, 4, (16, 64, 64)
"""33.5 MB: five states and three means of each of 16 trajectories, at 512 x 512 pixels."""
STORE_BYTES = 2**29
TURNS_TO_FILL = 24
"""A turn has 33.5 MB, and Ray frees no object in the second after its last use."""
PICKLED, QUEUE, LIMIT = "pickled dict of tensors", "TransferQueue", "limit: two copies"
CALLS = "limit: Ray's calls with plain arrays"
MISSING = "not installed; pip install --no-deps --target DIR -r benchmarks/rivals.txt, then make bench RIVALS=DIR"


def made_group(samples: int = SAMPLES, steps: int = STEPS, latent: tuple[int, ...] = LATENT) -> TrajectoryGroup:
    """A group of random values."""
    draw = np.random.default_rng(0)
    return TrajectoryGroup(
        ordinal=0,
        prompt_id=0,
        policy_version=0,
        seeds=np.arange(samples, dtype=np.int64),
        sigmas=np.linspace(1, 0, steps + 1, dtype=np.float32),
        latents=draw.standard_normal((samples, steps + 1, *latent), np.float32),
        means=draw.standard_normal((samples, steps - 1, *latent), np.float32),
        stds=np.ones(steps - 1, np.float32),
    )


def rewarded(latents: Tensor) -> Tensor:
    """`[n, K]` one number of each state that an action reached."""
    return latents[:, 1:, 0, 0, 0].clone()


def _tensors(group: TrajectoryGroup) -> dict[str, Tensor]:
    return {"latents": torch.from_numpy(group.latents), "means": torch.from_numpy(group.means)}


def _dense(rows: Tensor) -> Tensor:
    """`[n, ...]` of the jagged tensor that TransferQueue gives, whose rows are alike and side by side: no copy."""
    return rows.values().unflatten(0, (SAMPLES, -1))


@ray.remote(num_cpus=0)
class _Dict:
    """Hands on a dict of tensors, pickled by Ray."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._tensors = _tensors(made_group())

    def made(self) -> dict[str, Tensor]:
        return self._tensors

    def scored(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return tensors | {"rewards": rewarded(tensors["latents"])}

    def learned(self, tensors: dict[str, Tensor]) -> int:
        batch = {name: torch.stack([tensor]) for name, tensor in tensors.items()}
        return sum(tensor.numel() for tensor in batch.values())


@ray.remote(num_cpus=0)
class _Arrays:
    """Hands on plain arrays that nobody checks or copies: what is left is Ray's own, whatever is built on it."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        group = made_group()
        self._arrays = (group.latents, group.means)

    def made(self) -> tuple[np.ndarray, np.ndarray]:
        return self._arrays

    def scored(self, arrays: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return rewarded(torch.from_dlpack(arrays[0])).numpy()

    def learned(self, arrays: tuple[np.ndarray, np.ndarray], rewards: np.ndarray) -> int:
        return sum(torch.from_dlpack(array).numel() for array in (*arrays, rewards))


@ray.remote(num_cpus=0)
class _Queue:
    """Hands on the rows of a group through TransferQueue's key-value interface."""

    def __init__(self) -> None:
        transfer_queue = importlib.import_module("transfer_queue")  # a rival, not a dependency
        self._dict = importlib.import_module("tensordict").TensorDict

        torch.set_num_threads(1)
        self._queue = transfer_queue
        transfer_queue.init()
        self._tensors = self._dict(_tensors(made_group()), batch_size=SAMPLES)
        self._keys = [str(sample) for sample in range(SAMPLES)]

    def made(self) -> None:
        self._queue.kv_batch_put(keys=self._keys, partition_id="train", fields=self._tensors)

    def scored(self, _: None) -> None:
        came = self._queue.kv_batch_get(keys=self._keys, partition_id="train", select_fields="latents")
        rewards = self._dict({"rewards": rewarded(_dense(came["latents"]))}, batch_size=SAMPLES)
        self._queue.kv_batch_put(keys=self._keys, partition_id="train", fields=rewards)

    def learned(self, _: None) -> int:
        batch = self._queue.kv_batch_get(keys=self._keys, partition_id="train")
        return sum(_dense(batch[name]).numel() for name in ("latents", "means", "rewards"))

    def cleared(self) -> None:
        self._queue.kv_clear(keys=self._keys, partition_id="train")


class _Passed:
    """A turn of three actors that hand values on."""

    def __init__(self, actor: Any, values: int) -> None:
        self._maker, self._scorer, self._learner = (actor.remote() for _ in range(3))
        self._values = values

    def __call__(self) -> float:
        began = time.perf_counter()
        made = self._maker.made.remote()
        if ray.get(self._learned(made, self._scorer.scored.remote(made))) != self._values:
            raise RuntimeError("a contestant's learner got another number of values")
        return time.perf_counter() - began

    def _learned(self, made: Any, scored: Any) -> Any:  # noqa: ARG002 - what is scored has all of it
        return self._learner.learned.remote(scored)


class _Referred(_Passed):
    """The same, where scores travel on their own, as ours do."""

    def _learned(self, made: Any, scored: Any) -> Any:
        return self._learner.learned.remote(made, scored)


class _Scoring:
    """A turn of scoring alone: the group is there, and its scores are waited for, not read."""

    def __init__(self, maker: Any, scorer: Any) -> None:
        self._maker, self._scorer = maker, scorer

    def __call__(self) -> float:
        made = self._maker.made.remote()
        ray.wait([made])
        began = time.perf_counter()
        ray.wait([self._scorer.scored.remote(made)])
        return time.perf_counter() - began


class _Queued(_Passed):
    def __call__(self) -> float:
        took = super().__call__()
        ray.get(self._maker.cleared.remote())
        return took


class _Copied:
    """The limit: the values into shared memory that is in use, and out of it into a new tensor."""

    def __init__(self) -> None:
        group = made_group()
        self._arrays = (group.latents, group.means)
        self._shared = tuple(
            torch.empty_like(torch.from_numpy(array)).share_memory_().numpy() for array in self._arrays
        )

    def __call__(self) -> float:
        began = time.perf_counter()
        for array, shared in zip(self._arrays, self._shared, strict=True):
            np.copyto(shared, array)
        kept = [shared.copy() for shared in self._shared]
        took = time.perf_counter() - began
        del kept
        return took


class _Ours:
    """A turn of the product's own stations."""

    def __init__(self) -> None:
        group = made_group()
        self._maker: Any = GroupMaker.remote(group)
        self._scorer: Any = GroupScorer.remote()
        self._learner: Any = GroupLearner.remote()
        self._rewards = rewarded(torch.from_numpy(group.latents)).numpy()

    def __call__(self) -> float:
        began = time.perf_counter()
        group = self._maker.made.remote()
        rewards = ray.get(self._learner.learned.remote(group, self._scorer.scored.remote(group)))
        took = time.perf_counter() - began
        np.testing.assert_array_equal(rewards[0], self._rewards)
        return took


def seen(turns: Mapping[str, Turn]) -> Mapping[str, Turn]:
    """The same contestants, once the processes of each have used all pages of the object store."""
    for turn in turns.values():
        for _ in range(TURNS_TO_FILL):
            turn()
    return turns


@contextmanager
def _scoring() -> Iterator[Field]:
    with local_ray(store_bytes=STORE_BYTES):
        maker: Any = GroupMaker
        ours = _Scoring(maker.remote(made_group()), GroupScorer.remote())
        yield Field(seen({OURS: ours, PICKLED: _Scoring(_Dict.remote(), _Dict.remote())}))


@contextmanager
def _opened() -> Iterator[Field]:
    states = SAMPLES * int(np.prod(LATENT))
    values = states * 2 * STEPS + SAMPLES * STEPS
    with local_ray(store_bytes=STORE_BYTES):
        turns: dict[str, Turn] = {
            OURS: _Ours(),
            PICKLED: _Passed(_Dict, values),
            CALLS: _Referred(_Arrays, values),
            LIMIT: _Copied(),
        }
        if importlib.util.find_spec("transfer_queue") is None:
            yield Field(seen(turns), {QUEUE: MISSING})
            return
        transfer_queue = importlib.import_module("transfer_queue")  # a rival, not a dependency

        transfer_queue.init()
        yield Field(seen(turns | {QUEUE: _Queued(_Queue, values)}))
        transfer_queue.close()


BUFFER = Row(
    "buffer",
    "a group of 33.5 MB from its actor through a reward worker to a tensor of the learner",
    _opened,
    goals={PICKLED: 10.0, QUEUE: 5.0, LIMIT: 0.5},
)
SCORING = Row("scoring", "scores of a group of 33.5 MB that is in the object store", _scoring, goals={PICKLED: 10.0})
