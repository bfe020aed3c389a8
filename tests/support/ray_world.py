"""A stand-in for Ray at the start of a run's workers: actors that only note what they are asked."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from advdmd_ray.config import Config
from advdmd_ray.controller.start_clock import StartClock
from advdmd_ray.runs.lasting import Mark
from advdmd_ray.runtime import crew, ray_gang, ray_shell, starting, waiting
from advdmd_ray.runtime.ray_shell import RayShell
from advdmd_ray.stations.encoded_texts import TextIndex
from advdmd_ray.stations.prompt_table import TableFacts

FACTS = TableFacts(("a", "b"), 2, TextIndex((), (), (), (), 0), TextIndex((), (), (), (), 0))
TABLE = ("facts", "shard")
MARK = Mark(Path("/runs/one/run.lock"), "node 1 a", "run.output")
CONFIG = {"rollout": {"actors": 2, "num_cpus": 0.5}, "reward": {"workers": 1}, "learner": {"ranks": 2}}


class Call:
    """A method of an actor: asking it is an event, and its answer its name."""

    def __init__(self, events: list[tuple[Any, ...]], who: str, what: str) -> None:
        self._events, self._who, self._what = events, who, what

    def remote(self, *given: Any, **named: Any) -> str:
        self._events.append((self._who, self._what, *given, *named.items()))
        return f"{self._what} of {self._who}"


class Actor:
    """Takes any call."""

    def __init__(self, events: list[tuple[Any, ...]], name: str) -> None:
        self._events, self.name = events, name

    def __getattr__(self, what: str) -> Call:
        return Call(self._events, self.name, what)


class Kind:
    """Stands for a class of actors."""

    def __init__(self, events: list[tuple[Any, ...]], prefix: str = "") -> None:
        self._events, self._prefix = events, prefix

    def options(self, **given: Any) -> "Kind":
        assert given["num_cpus"] >= 0
        return self

    def remote(self, _config: Config, name: str | int) -> Actor:
        self._events.append((f"{self._prefix}{name}", "hired"))
        return Actor(self._events, f"{self._prefix}{name}")


class Samples:
    """Images that a data source leaves to workers."""

    def __init__(self, *missing: int) -> None:
        self._missing = missing

    def shards(self) -> "Samples":
        return self

    def missing(self) -> tuple[int, ...]:
        return self._missing


class Group:
    """Stands for a placement group that has room, or has not."""

    def __init__(self, *, room: bool) -> None:
        self._room = room

    def wait(self, timeout_seconds: float) -> bool:
        assert timeout_seconds == 300.0
        return self._room


class World:
    """Stands for Ray: what is asked of it in order, and what it answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, samples: Samples | None = None, *, room: bool = True) -> None:
        self.now = 0.0
        self.events: list[tuple[Any, ...]] = []
        self.killed: list[str] = []
        self.freed: list[Group] = []
        for module in (ray_shell, ray_gang, crew, starting, waiting):
            monkeypatch.setattr(module, "ray", self)
        monkeypatch.setattr(ray_gang, "placement_group", lambda *_, **__: Group(room=room))
        monkeypatch.setattr(ray_gang, "remove_placement_group", self.freed.append)
        monkeypatch.setattr(ray_gang, "placement_group_table", lambda _: {"bundles_to_node_id": {0: "a", 1: "a"}})
        monkeypatch.setattr(ray_gang, "PlacementGroupSchedulingStrategy", lambda *_, **__: None)
        monkeypatch.setattr(crew, "RolloutActor", Kind(self.events))
        monkeypatch.setattr(crew, "RewardActor", Kind(self.events))
        monkeypatch.setattr(ray_gang, "LearnerRank", Kind(self.events, "learner-"))
        monkeypatch.setattr(ray_shell, "source_of", lambda _: samples or _NoSamples())
        monkeypatch.setattr(ray_shell, "text_actor", lambda *_: nullcontext((Actor(self.events, "texts"), None)))
        monkeypatch.setattr(ray_shell, "encoded", self._encoded)
        monkeypatch.setattr(ray_shell, "make_shards", lambda *given: self.events.append(("team", "made", *given[1:3])))
        monkeypatch.setattr(ray_shell, "samples_progress", _silent)
        self.answers(monkeypatch, self.answer)

    @staticmethod
    def nodes() -> list[object]:
        return []

    @staticmethod
    def answers(monkeypatch: pytest.MonkeyPatch, answer: Callable[..., Any]) -> None:
        for module in (ray_shell, starting):
            monkeypatch.setattr(module, "answer", answer)

    def _encoded(self, encoder: Actor, replace: object, limit: float, _: object) -> tuple[TableFacts, list[str]]:
        assert limit == 300.0
        assert callable(replace) or encoder.name == "texts"
        self.events.append(("driver", f"has the {encoder.encode.remote()}"))
        return FACTS, ["shard"]

    @staticmethod
    def answer(asked: str, *_: object) -> Any:
        return ("10.0.0.1", 7) if asked == "rendezvous of learner-0" else asked

    def put(self, what: object) -> str:
        assert what is FACTS
        return "facts"

    def wait(self, tickets: list[str], timeout: float, num_returns: int = 1) -> tuple[list[str], list[str]]:
        assert timeout >= 0
        self.now += 0.01
        return tickets[-num_returns:], tickets[:-num_returns]

    def clock(self) -> float:
        return self.now

    @staticmethod
    def get(ticket: str) -> str:
        return ticket

    def kill(self, actor: Actor) -> None:
        self.killed.append(actor.name)

    def at(self, *event: Any) -> int:
        return self.events.index(event)


class _NoSamples:
    def shards(self) -> None:
        return None


@contextmanager
def _silent() -> Iterator[None]:
    yield


def started(world: World) -> RayShell:
    shell = RayShell(Config.model_validate(CONFIG), world.clock)
    shell.start(None, StartClock(), MARK)
    assert shell.prompts == 2
    assert shell.backend == "join of learner-0"
    for name in ("rollout-0", "rollout-1", "reward-0"):
        assert world.events.count((name, "hired")) == 1
        assert world.events.count((name, "open", *TABLE)) == 1
    for rank in ("learner-0", "learner-1"):
        assert world.events.count((rank, "join", "10.0.0.1", 7, None, *TABLE)) == 1
        assert world.at(rank, "prepare") < world.at(rank, "join", "10.0.0.1", 7, None, *TABLE)
    return shell


def late(world: World, *workers: str) -> None:
    """These workers are not up until the start has waited in vain."""

    def wait(tickets: list[str], timeout: float, num_returns: int = 1) -> tuple[list[str], list[str]]:
        ready = [ticket for ticket in tickets if not ticket.endswith(workers)][:num_returns]
        world.now += 0.0 if ready else timeout
        return ready, [ticket for ticket in tickets if ticket not in ready]

    world.wait = wait
