"""Models of the benchmark for GPUs, ready to be measured on the CPU."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.models import FULL, TINY
from benchmarks.parts import Settings, Subject
from benchmarks.publishing import Actor

CPU = torch.device("cpu")
QUICK = Settings(CPU, engine="torch", warm_up=1, repeats=1)
MODELS = {model.name: model for model in (*TINY, *FULL)}
TINY_NAMES = [model.name for model in TINY]
FULL_NAMES = [model.name for model in FULL]


def subject_of(name: str, folder: Path, settings: Settings = QUICK) -> Subject:
    """A model by its name; its headers go into a new folder there."""
    return Subject.of(MODELS[name], settings, folder / name)


@dataclass(frozen=True)
class Reference:
    """To a stored value."""

    place: int


class BesideUs:
    """An actor in this process, behind a store that copies; it takes no values but stored ones, paths and manifests.

    Attributes:
        stored: Every value that came, in its order.
        called: Every method, in its order.
    """

    def __init__(self, subject: Subject) -> None:
        self.actor = Actor(subject.model.name, subject.settings)
        self.stored: list[Any] = []
        self.called: list[str] = []

    def put(self, value: Any) -> Reference:
        self.stored.append(copy.deepcopy(value))
        return Reference(len(self.stored) - 1)

    def call(self, method: str, *values: Any) -> Any:
        assert not any(isinstance(value, tuple | dict) for value in values), "bytes go through the store"
        self.called.append(method)
        had = [self.stored[value.place] if isinstance(value, Reference) else value for value in values]
        return getattr(self.actor, method)(*had)


@contextmanager
def beside_us(subject: Subject) -> Iterator[BesideUs]:
    """In the place of an actor over Ray."""
    yield BesideUs(subject)
