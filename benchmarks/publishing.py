"""What a learner publishes after a cycle, on its way from its device to a rollout actor's, in turns with naive ways.

With adapters they alone travel. A turn ends when the actor's network is ready to run: loaded, with merged adapters
merged, and of ours alone verified.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import ray
import torch
from torch import Tensor

from advdmd_ray.learner.engine_state import trainable
from advdmd_ray.learner.tensor_file import TensorStream
from advdmd_ray.models.families.base import TransformerDenoiser
from advdmd_ray.models.lora import sharing_copy
from advdmd_ray.runs.parts.networks import learning
from advdmd_ray.stations.records import LoadReport
from advdmd_ray.stations.weights.loading import Derived, VersionedModule
from advdmd_ray.stations.weights.snapshot import Manifest, Payload, Snapshot, digest_of, pack
from advdmd_ray.stations.weights.store import WeightStore
from benchmarks.local_ray import STORE_BYTES, local_ray
from benchmarks.models import model_named
from benchmarks.parts import Settings, Subject, acting_student, random_teacher
from benchmarks.rollouts import OURS
from benchmarks.timing import Stopwatch, Timing, timed_in_turns

SAVED, PUT = "torch.save and load", "ray.put of the state dict"
HALF_A_CARD = 0.5
"""Ray gives an actor the card that the driver has too."""
AT_ONCE = 3
"""Copies of what is published that may lie in Ray's store: the newest, the one before, a rival's."""


class Actor:
    """The network of a rollout actor, in the process where this is made.

    Args:
        name: Of the model.
        settings: Of the benchmark.
    """

    def __init__(self, name: str, settings: Settings) -> None:
        with tempfile.TemporaryDirectory() as folder:
            subject = Subject.of(model_named(name), settings, Path(folder) / "model")
        self._device = subject.device
        self._network = acting_student(subject, random_teacher(subject))
        self._names = list(trainable(self._network))
        self._versioned = VersionedModule("rollout-0", self._network)

    def load(self, manifest: Manifest, payload: Payload) -> LoadReport | None:
        """As a run's actor loads: see `VersionedModule`."""
        report = self._versioned.load(Snapshot(manifest, payload))
        self._wait()
        return report

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """The naive way."""
        self._network.load_state_dict(state, strict=False)
        for part in self._network.modules():
            if isinstance(part, Derived):
                part.derive()
        self._wait()

    def load_file(self, path: str) -> None:
        """The naive way, from a file of torch's."""
        self.load_state(torch.load(path, weights_only=True))

    def digest(self) -> str:
        """Of what was published, as the network holds it."""
        state = self._network.state_dict()
        return digest_of({name: state[name] for name in self._names})

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class Reached(Protocol):
    """An actor in another process, and the store on the way to it."""

    def put(self, value: Any) -> Any:
        """Stores a value and gives a reference to it."""
        ...

    def call(self, method: str, *values: Any) -> Any:
        """What a method of `Actor` gives; of references it gets the values."""
        ...


class _OverRay:
    """An actor behind Ray's object store."""

    def __init__(self, name: str, settings: Settings) -> None:
        gpus = HALF_A_CARD if settings.device.type == "cuda" else 0
        self._actor: Any = ray.remote(Actor).options(num_cpus=0, num_gpus=gpus).remote(name, settings)

    def put(self, value: Any) -> Any:
        return ray.put(value)

    def call(self, method: str, *values: Any) -> Any:
        return ray.get(getattr(self._actor, method).remote(*values))


@contextmanager
def over_ray(subject: Subject) -> Iterator[Reached]:
    """An actor of a local Ray, for as long as it is needed."""
    store = max(STORE_BYTES, AT_ONCE * published_bytes(subject))
    with local_ray(store_bytes=store):
        yield _OverRay(subject.model.name, subject.settings)


def published_bytes(subject: Subject) -> int:
    """Of the weights that learn, float32; of a whole network a little more, as tables that do not learn count too."""
    return torch.float32.itemsize * (subject.sizes.adapters or subject.sizes.transformer)


def learnt_weights(subject: Subject, teacher: TransformerDenoiser) -> dict[str, Tensor]:
    """A learner's student's weights that learn, on the device; copies, as turns change them."""
    student = learning(subject.config, sharing_copy(teacher), "student")
    weights = {name: weight.detach().clone() for name, weight in trainable(student).items()}
    teacher.requires_grad_(requires_grad=False)  # whose very tensors the student has
    return weights


class Publisher:
    """The learner's side.

    Args:
        weights: See `learnt_weights`.
        actor: Who loads.
        folder: For files.
    """

    def __init__(self, weights: Mapping[str, Tensor], actor: Reached, folder: Path) -> None:
        self._weights, self._actor, self._file = weights, actor, folder / "state.pt"
        self._store: WeightStore[Any] = WeightStore({"student": 1})
        self._turn, self._version = 0, 0

    @property
    def ways(self) -> Mapping[str, Callable[[], None]]:
        """Each contestant's turn; before it a weight changes, as nothing may be loaded twice."""
        return {OURS: self._published, SAVED: self._saved, PUT: self._put}

    def check(self) -> None:
        """Lets each take one more turn and looks at what the actor then holds.

        Raises:
            RuntimeError: if it is not what the learner has.
        """
        for name, turn in self.ways.items():
            turn()
            if self._actor.call("digest") != digest_of(self._weights):
                raise RuntimeError(f"{name}: the actor holds other weights than the learner")

    def _published(self) -> None:
        """As `Learner` copies and packs its student, and the shell hands it on."""
        self._change()
        self._version += 1
        snapshot = pack("student", self._version, TensorStream.of(self._weights).copied())
        self._store.publish(snapshot.manifest, self._actor.put(snapshot.payload))
        newest = self._store.latest("student")
        self._store.verify(self._actor.call("load", newest.manifest, newest.payload))

    def _saved(self) -> None:
        self._change()
        torch.save(dict(self._weights), self._file)
        self._actor.call("load_file", str(self._file))

    def _put(self) -> None:
        self._change()
        self._actor.call("load_state", self._actor.put({name: each.cpu() for name, each in self._weights.items()}))

    def _change(self) -> None:
        self._turn += 1
        for weight in self._weights.values():
            weight.view(-1)[0] = self._turn


def time_publishing(
    subject: Subject, teacher: TransformerDenoiser, actor: Reached, stopwatch: Stopwatch
) -> tuple[dict[str, Timing], int, int]:
    """Times all ways in turns.

    Returns:
        The timings, and how many bytes and tensors travel.
    """
    settings, weights = subject.settings, learnt_weights(subject, teacher)
    with tempfile.TemporaryDirectory() as folder:
        publisher = Publisher(weights, actor, Path(folder))
        timings = timed_in_turns(publisher.ways, stopwatch, warm_up=settings.warm_up, repeats=settings.repeats)
        publisher.check()
    return timings, sum(weight.nbytes for weight in weights.values()), len(weights)
