"""Weights of a learner, packed, on their way to all workers of a node, loaded and verified."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
import torch
from torch import Tensor, nn

from advdmd_ray.stations.records import LoadReport
from advdmd_ray.stations.weights.loading import VersionedModule
from advdmd_ray.stations.weights.snapshot import Manifest, Snapshot, pack
from advdmd_ray.stations.weights.store import WeightStore
from benchmarks.host.contest import OURS, Field, Row
from benchmarks.local_ray import local_ray

PER_WORKER, ONCE = "ray.put for each worker", "ray.put once"


def _network(layers: int, width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(layers))).requires_grad_(requires_grad=False)


@ray.remote(num_cpus=0)
class _Learner:
    """Has the newest weights; another value in each turn, as nothing may be loaded twice."""

    def __init__(self, layers: int, width: int) -> None:
        torch.set_num_threads(1)
        self._network = _network(layers, width)

    def packed(self, version: int) -> tuple[Manifest, Any]:
        """As the product publishes them."""
        snapshot = pack("student", version, self._state(version))
        return snapshot.manifest, snapshot.payload

    def put(self, version: int, copies: int) -> list[ray.ObjectRef]:
        """The naive way."""
        state = self._state(version)
        return [ray.put(state) for _ in range(copies)]

    def _state(self, version: int) -> Mapping[str, Tensor]:
        for parameter in self._network.parameters():
            parameter.view(-1)[0] = version
        return dict(self._network.named_parameters())


@ray.remote(num_cpus=0)
class _Worker:
    """Runs the weights."""

    def __init__(self, layers: int, width: int) -> None:
        torch.set_num_threads(1)
        self._network = _network(layers, width)
        self._versioned = VersionedModule("worker", self._network)

    def load(self, manifest: Manifest, payload: Any) -> LoadReport | None:
        """As the product loads them."""
        return self._versioned.load(Snapshot(manifest, payload))

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """The naive way: nothing is verified."""
        self._network.load_state_dict(state)


class _Turns:
    """The turns of all contestants on the same actors."""

    def __init__(self, workers: int, layers: int, width: int) -> None:
        self._learner: Any = _Learner.remote(layers, width)
        self._workers: Sequence[Any] = [_Worker.remote(layers, width) for _ in range(workers)]
        self._version = 0

    def ours(self) -> float:
        began = self._next()
        manifest_ref, payload = self._learner.packed.options(num_returns=2).remote(self._version)
        manifest: Any = ray.get(manifest_ref)
        store: WeightStore[Any] = WeightStore({"student": self._version})
        store.publish(manifest, payload)
        for report in ray.get([worker.load.remote(manifest, payload) for worker in self._workers]):
            store.verify(report)
        return time.perf_counter() - began

    def naive(self, copies: int) -> float:
        began = self._next()
        references = ray.get(self._learner.put.remote(self._version, copies))
        count = len(self._workers)
        states = references * (count // copies)
        ray.get([worker.load_state.remote(state) for worker, state in zip(self._workers, states, strict=True)])
        return time.perf_counter() - began

    def _next(self) -> float:
        self._version += 1
        return time.perf_counter()


@contextmanager
def _opened(workers: int, layers: int, width: int) -> Iterator[Field]:
    with local_ray():
        turns = _Turns(workers, layers, width)
        rivals = {PER_WORKER: partial(turns.naive, workers)}
        if workers > 1:
            rivals[ONCE] = partial(turns.naive, 1)
        yield Field({OURS: turns.ours, **rivals})


SIXTEEN = Row(
    "weights",
    "50 MB of weights for 16 workers of a node: packed, loaded by all and verified",
    partial(_opened, workers=16, layers=48, width=512),
    goals={PER_WORKER: 5.0},
)
LARGE = Row(
    "weights_large",
    "500 MB of weights for 1 worker: packed, loaded and verified",
    partial(_opened, workers=1, layers=30, width=2048),
    goals={PER_WORKER: 1.0},
)
