"""The start of a run's workers, and their tasks, with stand-ins for Ray's actors that only note what they are asked."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ObjectLostError

from advdmd_ray.config import Config
from advdmd_ray.controller.protocols import Task
from advdmd_ray.controller.start_clock import StartClock
from advdmd_ray.errors import BytesLostError, DeadlineError, UserError, WorkerLostError
from advdmd_ray.runs.lasting import Mark
from advdmd_ray.runtime import crew, ray_gang, ray_shell, waiting
from advdmd_ray.runtime.calls import MORE_TIME
from advdmd_ray.runtime.crew import Crew
from advdmd_ray.runtime.ray_shell import RayShell
from advdmd_ray.runtime.worker_actors import RolloutActor
from advdmd_ray.stations import work
from advdmd_ray.stations.encoded_texts import TextIndex
from advdmd_ray.stations.prompt_table import TableFacts
from advdmd_ray.stations.records import Lease
from advdmd_ray.stations.weights.snapshot import pack
from advdmd_ray.stations.weights.store import Published
from small_parts import Mixer, lease, rollout_worker

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

    def __init__(self, monkeypatch: pytest.MonkeyPatch, samples: Samples | None, *, room: bool = True) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.killed: list[str] = []
        self.freed: list[Group] = []
        for module in (ray_shell, ray_gang, crew, waiting):
            monkeypatch.setattr(module, "ray", self)
        monkeypatch.setattr(ray_gang, "placement_group", lambda *_, **__: Group(room=room))
        monkeypatch.setattr(ray_gang, "remove_placement_group", self.freed.append)
        monkeypatch.setattr(ray_gang, "placement_group_table", lambda _: {"bundles_to_node_id": {0: "a", 1: "a"}})
        monkeypatch.setattr(ray_gang, "PlacementGroupSchedulingStrategy", lambda *_, **__: None)
        monkeypatch.setattr(crew, "RolloutActor", Kind(self.events))
        monkeypatch.setattr(crew, "RewardActor", Kind(self.events))
        monkeypatch.setattr(ray_gang, "LearnerRank", Kind(self.events, "learner-"))
        monkeypatch.setattr(ray_shell, "source_of", lambda _: samples or _NoSamples())
        monkeypatch.setattr(ray_shell, "begin_encoding", lambda _: Call(self.events, "task", "encode").remote())
        monkeypatch.setattr(ray_shell, "encoded", self._encoded)
        monkeypatch.setattr(ray_shell, "make_shards", lambda *given: self.events.append(("team", "made", *given[1:3])))
        monkeypatch.setattr(ray_shell, "samples_progress", _silent)
        self.answers(monkeypatch, self._answer)

    @staticmethod
    def nodes() -> list[object]:
        return []

    @staticmethod
    def answers(monkeypatch: pytest.MonkeyPatch, answer: Callable[..., Any]) -> None:
        for module in (ray_shell, ray_gang):
            monkeypatch.setattr(module, "answer", answer)

    def _encoded(self, encoding: str, limit: float, _: object) -> tuple[TableFacts, list[str]]:
        assert limit == 300.0
        self.events.append(("driver", f"has the {encoding}"))
        return FACTS, ["shard"]

    @staticmethod
    def _answer(asked: str, *_: object) -> Any:
        return ("10.0.0.1", 7) if asked == "rendezvous of learner-0" else asked

    def put(self, what: object) -> str:
        assert what is FACTS
        return "facts"

    def wait(self, tickets: list[str], timeout: float, num_returns: int = 1) -> tuple[list[str], list[str]]:
        assert timeout > 0
        return tickets[-num_returns:], tickets[:-num_returns]

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
    shell = RayShell(Config.model_validate(CONFIG))
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


@pytest.mark.parametrize("samples", [None, Samples()])
def test_all_workers_import_while_one_of_them_encodes_the_prompts(
    samples: Samples | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(monkeypatch, samples)
    started(world)
    waited = world.at("driver", "has the encode of rollout-0")
    assert all(world.at(rank, "prepare") < waited for rank in ("learner-0", "learner-1"))
    assert all(world.at(name, "prepare", ("whole", False)) < waited for name in ("rollout-1", "reward-0"))
    # The one that encodes loads more of the pipeline than its transformer.
    assert world.at("rollout-0", "prepare", ("whole", True)) < world.at("rollout-0", "encode") < waited
    assert ("task", "encode") not in world.events


def test_images_that_workers_make_first_have_the_room_of_the_actors(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = Samples(3)
    world = World(monkeypatch, samples)
    started(world)
    made = world.at("team", "made", samples, TABLE)
    assert world.at("task", "encode") < world.at("driver", "has the encode of task") < made
    assert all(world.at(name, "hired") > made for name in ("rollout-0", "rollout-1", "reward-0"))
    assert not [event for event in world.events if event[1] == "encode" and event[0] != "task"]


def test_reward_workers_that_decode_images_import_the_whole_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, None)
    oracle = {"reward": {"workers": 1, "oracle_agreement": True}, "data": {"source": "shapes"}}
    RayShell(Config.model_validate(CONFIG | oracle)).start(None, StartClock(), MARK)
    assert ("reward-0", "prepare", ("whole", True)) in world.events


def test_a_gang_without_room_is_said_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, None, room=False)
    with pytest.raises(DeadlineError, match=f"waited 300 s for room for the learner's gang; {MORE_TIME}"):
        RayShell(Config.model_validate(CONFIG)).start(None, StartClock(), MARK)
    assert world.events == []


def test_every_wait_of_a_start_names_the_setting_that_waits_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, None)
    waited: dict[str, str] = {}

    def answer(asked: str, what: str, timeout_s: float = 0.0, remedy: str = "") -> Any:
        if timeout_s:
            waited[what] = remedy
        return world._answer(asked)

    world.answers(monkeypatch, answer)
    RayShell(Config.model_validate(CONFIG)).start(None, StartClock(), MARK)
    assert len(waited) == 3
    assert set(waited.values()) == {MORE_TIME}
    assert "ray.start_timeout_s" in MORE_TIME


SOME = {"rollout": {"actors": 3, "actors_min": 2}, "reward": {"workers": 2, "workers_min": 1}}


def late(world: World, *workers: str) -> None:
    """These workers are not up until the start has waited in vain."""

    def wait(tickets: list[str], timeout: float, num_returns: int = 1) -> tuple[list[str], list[str]]:
        ready = [ticket for ticket in tickets if not ticket.endswith(workers)][:num_returns]
        return ready, [ticket for ticket in tickets if ticket not in ready]

    world.wait = wait


def test_a_run_starts_once_as_many_are_up_as_it_may_start_with_and_the_others_are_coming(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(monkeypatch, None)
    late(world, "rollout-1", "reward-1")
    shell = RayShell(Config.model_validate(CONFIG | SOME))
    shell.start(None, StartClock(), MARK)
    assert world.events.count(("rollout-1", "open", *TABLE)) == 1
    assert shell.rollout_workers == ("rollout-0", "rollout-1", "rollout-2")
    assert set(shell._crew.coming()) >= {"rollout-1", "reward-1"}
    (line,) = caplog.messages
    assert line.startswith("the run starts without ")
    assert "rollout-1" in line
    assert "reward-1" in line


@pytest.mark.parametrize("workers", [("rollout-1", "rollout-2"), ("reward-0", "reward-1"), ("learner-0",)])
def test_a_run_does_not_start_with_fewer_or_without_a_rank(
    workers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(monkeypatch, None)
    late(world, *workers)
    with pytest.raises(DeadlineError, match=rf"{workers[0]}.* not up after 300 s"):
        RayShell(Config.model_validate(CONFIG | SOME)).start(None, StartClock(), MARK)


def test_a_run_that_says_no_more_waits_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, None)
    late(world, "rollout-1")
    with pytest.raises(DeadlineError, match=r"rollout-1 not up after 300 s"):
        RayShell(Config.model_validate(CONFIG)).start(None, StartClock(), MARK)


def test_a_worker_that_dies_at_its_start_ends_the_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, None)

    def answer(asked: str, what: str, *_: object) -> Any:
        if asked == "open of reward-0":
            raise WorkerLostError(f"{what}: its process ended")
        return world._answer(asked)

    world.answers(monkeypatch, answer)
    with pytest.raises(WorkerLostError, match="the start of reward-0: its process ended"):
        RayShell(Config.model_validate(CONFIG)).start(None, StartClock(), MARK)


def test_a_rank_that_does_not_see_the_run_folder_ends_the_start_before_the_texts_are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, None)

    def answer(asked: str, what: str, *_: object) -> Any:
        if asked == "sees of learner-1":
            raise UserError(f"{what}: not so")
        return world._answer(asked)

    world.answers(monkeypatch, answer)
    with pytest.raises(UserError, match="learner rank 1 to see the run folder: not so"):
        RayShell(Config.model_validate(CONFIG)).start(None, StartClock(), MARK)
    assert [event for event in world.events if event[0] == "driver"] == []
    assert ("learner-0", "sees", MARK) in world.events


def test_a_gang_that_was_lost_ends_and_another_joins_from_the_checkpoint_with_the_same_prompts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, None)
    shell = started(world)
    world.events.clear()
    shell.restart(Path("/runs/one/checkpoints/step-4"))
    assert world.killed == ["learner-0", "learner-1"]
    assert [event[:2] for event in world.events[:2]] == [("learner-0", "ping"), ("learner-1", "ping")], "who is lost?"
    assert len(world.freed) == 1
    hired = [event[0] for event in world.events if event[1] == "hired"]
    assert hired == ["learner-0", "learner-1"]
    for index, rank in enumerate(hired):
        join = (rank, "join", "10.0.0.1", 7, Path("/runs/one/checkpoints/step-4"), *TABLE)
        assert world.at(rank, "sees", MARK) < world.at(rank, "prepare") < world.at(*join), index
    forgetful = [event[0] for event in world.events if event[1] == "forget"]
    assert forgetful == ["rollout-0", "rollout-1"]


def test_a_shell_that_was_not_started_restarts_nothing() -> None:
    with pytest.raises(ValueError, match="start it first"):
        RayShell(Config.model_validate(CONFIG)).restart(None)


# Tasks ------------------------------------------------------------------------------------------------------------

STUDENT = Published(pack("student", 0, Mixer(1).state_dict()).manifest, "payload")


class Ticket:
    """A reference whose value the test gives."""

    def __init__(self) -> None:
        self.value: Future[Any] = Future()

    def future(self) -> Future[Any]:
        return self.value


class Asked:
    """A method of an actor that notes how it is called."""

    def __init__(self, process: "Process", name: str) -> None:
        self.process, self.name, self.returns = process, name, 1

    def options(self, num_returns: int) -> "Asked":
        self.returns = num_returns
        return self

    def remote(self, *arguments: Any) -> Any:
        self.process.calls.append((self.name, *arguments[:1]))
        tickets = [Ticket() for _ in range(self.returns)]
        return tickets if self.returns > 1 else tickets[0]


class Process:
    """A process under the name of a worker."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Asked:
        return Asked(self, name)


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    killed: list[Process] = []
    monkeypatch.setattr(crew.ray, "kill", killed.append)
    monkeypatch.setattr(ray_shell.ray, "put", lambda value: value)
    monkeypatch.setattr(Crew, "_started", lambda _crew, _worker: Process())
    return killed


def shell_of() -> RayShell:
    config = Config.model_validate({"rollout": {"actors": 1}})
    shell = RayShell(config)
    shell._crew = Crew(config, {"rollout-0": Process()})
    return shell


def landed(shell: RayShell, task: Task, value: Any) -> Any:
    """The outcome of a task whose first ticket has landed: with a value or an error."""
    future: Future[Any] = task.tickets[0].future()
    (future.set_exception if isinstance(value, Exception) else future.set_result)(value)
    assert task in shell.wait(1.0)
    return shell.outcome(task)


def test_a_group_is_handed_over_by_the_process_that_made_it(killed: list[Process]) -> None:
    shell = shell_of()
    first: Any = shell._crew["rollout-0"]
    made, lost = shell.generate("rollout-0", lease(0), STUDENT), shell.generate("rollout-0", lease(1), STUDENT)
    assert landed(shell, made, ("report", None)) == ("report", None)
    with pytest.raises(WorkerLostError):
        landed(shell, lost, ActorDiedError())
    assert killed == []
    shell.bring("rollout-0")
    shell.hand_over(made, lease(0))
    assert killed == [first]
    assert first.calls == [("generate", lease(0)), ("generate", lease(1)), ("hand_over", lease(0))]


@pytest.mark.parametrize(("payload", "asked"), [("group", ["group"]), (("group", "scores"), ["group", "scores"])])
def test_the_values_of_a_group_in_quarantine_are_asked_for_together(
    payload: Any, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_shell, "answer", lambda references, _: [f"batch of {each}" for each in references])
    assert RayShell(Config()).batches(payload) == tuple(f"batch of {each}" for each in asked)


def test_a_process_that_is_brought_gets_the_prompts_before_any_work_and_is_up_when_it_has_them(
    killed: list[Process],
) -> None:
    shell = shell_of()
    table: Any = TABLE
    shell._crew.table, first = table, shell._crew["rollout-0"]
    generating = shell.generate("rollout-0", lease(0), STUDENT)
    with pytest.raises(WorkerLostError):
        landed(shell, generating, ActorDiedError())
    coming = shell.bring("rollout-0")
    second: Any = shell._crew["rollout-0"]
    assert killed == [first]
    assert coming.process is second is not first
    assert landed(shell, coming, "rollout-0") == "rollout-0"
    shell.generate("rollout-0", Lease(0, 1, 0, 0, 0), STUDENT)
    assert second.calls == [("open", "facts"), ("generate", Lease(0, 1, 0, 0, 0))]


def test_a_ping_of_the_learner_is_one_of_all_its_ranks() -> None:
    shell = shell_of()
    ranks: Any = [Process(), Process()]
    shell._gang.ranks = ranks
    asked = shell.ping("learner")
    asked.tickets[0].future().set_result(None)
    assert shell.wait(0.1) == []
    assert landed(shell, shell.ping("rollout-0"), None) == "rollout-0"
    asked.tickets[1].future().set_exception(ActorDiedError())
    assert shell.wait(0.1) == [asked]
    with pytest.raises(WorkerLostError):
        shell.outcome(asked)
    assert [rank.calls for rank in ranks] == [[("ping",)]] * 2


def test_bytes_that_are_gone_take_no_process_with_them(killed: list[Process]) -> None:
    shell = shell_of()
    task = shell.generate("rollout-0", lease(0), STUDENT)
    with pytest.raises(BytesLostError):
        landed(shell, task, ObjectLostError("0" * 56, None, ""))
    assert killed == []


def test_an_actor_keeps_a_group_until_it_is_handed_over_and_no_longer() -> None:
    kind: Any = RolloutActor
    kind = kind.__ray_metadata__.modified_class
    actor = kind.__new__(kind)
    worker = rollout_worker(Mixer(1))
    actor._at_hand, actor.__dict__["_worker"] = {}, worker
    student = pack("student", 0, Mixer(1).state_dict())
    weights = student.manifest, student.payload
    both = [actor.generate(lease(ordinal), *weights) for ordinal in (0, 1)]
    assert [rest for _, rest in both] == [None, None]
    parts = [actor.hand_over(lease(ordinal))[1] for ordinal in (1, 0)]
    assert actor._at_hand == {}
    actor.generate(lease(2), *weights)
    actor.forget()
    assert actor._at_hand == {}
    alone = [work.hand_over(worker, worker.generate(lease(ordinal)))[1] for ordinal in (1, 0)]
    assert all(part.equals(whole) for part, whole in zip(parts, alone, strict=True))


def test_an_actor_and_a_reward_worker_are_hired_by_turns_so_that_shares_of_a_card_meet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, None)
    started(world)
    hired = [who for who, what, *_ in world.events if what == "hired" and not who.startswith("learner")]
    assert hired == ["rollout-0", "reward-0", "rollout-1"]
