"""The tasks of a run's workers, with stand-ins for Ray's actors that only note what they are asked."""

from concurrent.futures import Future
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ObjectLostError

from advdmd_ray.config import Config
from advdmd_ray.controller.protocols import Task
from advdmd_ray.errors import BytesLostError, WorkerLostError
from advdmd_ray.runtime import crew, ray_shell
from advdmd_ray.runtime.crew import Crew
from advdmd_ray.runtime.ray_shell import RayShell
from advdmd_ray.runtime.worker_actors import RolloutActor
from advdmd_ray.stations import work
from advdmd_ray.stations.records import Lease
from advdmd_ray.stations.weights.snapshot import pack
from advdmd_ray.stations.weights.store import Published
from ray_world import TABLE, World, started
from small_parts import Mixer, lease, rollout_worker

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
