"""The start of a run's workers: in which order, who is waited for, and who is started again."""

from pathlib import Path
from typing import Any

import pytest

from advdmd_ray.config import Config
from advdmd_ray.controller.start_clock import StartClock
from advdmd_ray.errors import DeadlineError, UserError, WorkerLostError
from advdmd_ray.runtime.calls import MORE_TIME
from advdmd_ray.runtime.ray_shell import RayShell
from ray_world import CONFIG, MARK, TABLE, Samples, World, late, started

SOME = {"rollout": {"actors": 3, "actors_min": 2}, "reward": {"workers": 2, "workers_min": 1}}


def shell_of(world: World, more: dict[str, Any] | None = None) -> RayShell:
    return RayShell(Config.model_validate(CONFIG | (more or {})), world.clock)


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
    assert ("texts", "encode") not in world.events


def test_images_that_workers_make_first_have_the_room_of_the_actors(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = Samples(3)
    world = World(monkeypatch, samples)
    started(world)
    made = world.at("team", "made", samples, TABLE)
    assert world.at("texts", "encode") < world.at("driver", "has the encode of texts") < made
    assert all(world.at(name, "hired") > made for name in ("rollout-0", "rollout-1", "reward-0"))
    assert not [event for event in world.events if event[1] == "encode" and event[0] != "texts"]


def test_reward_workers_that_decode_images_import_the_whole_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, None)
    oracle = {"reward": {"workers": 1, "oracle_agreement": True}, "data": {"source": "shapes"}}
    shell_of(world, oracle).start(None, StartClock(), MARK)
    assert ("reward-0", "prepare", ("whole", True)) in world.events


def test_a_gang_without_room_is_said_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, None, room=False)
    with pytest.raises(DeadlineError, match=f"waited 300 s for room for the learner's gang; {MORE_TIME}"):
        shell_of(world).start(None, StartClock(), MARK)
    assert world.events == []


def test_every_wait_of_a_start_names_the_setting_that_waits_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, None)
    waited: dict[str, str] = {}

    def answer(asked: str, what: str, timeout_s: float = 0.0, remedy: str = "") -> Any:
        if timeout_s:
            waited[what] = remedy
        return world.answer(asked)

    world.answers(monkeypatch, answer)
    shell_of(world).start(None, StartClock(), MARK)
    assert len(waited) == 3
    assert set(waited.values()) == {MORE_TIME}
    assert "ray.start_timeout_s" in MORE_TIME


def test_a_run_starts_once_as_many_are_up_as_it_may_start_with_and_the_others_are_coming(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(monkeypatch, None)
    late(world, "rollout-1", "reward-1")
    shell = shell_of(world, SOME)
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
    with pytest.raises(DeadlineError, match=rf"({workers[0]}.* not up after|waited) 300 s"):
        shell_of(world, SOME).start(None, StartClock(), MARK)


def test_those_that_a_run_cannot_start_without_are_hired_first(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, None)
    least = {"rollout": {"actors": 3, "actors_min": 1}, "reward": {"workers": 3, "workers_min": 2}}
    shell_of(world, least).start(None, StartClock(), MARK)
    hired = [name for name, what, *_ in world.events if what == "hired" and not str(name).startswith("learner")]
    assert set(hired[:3]) == {"rollout-0", "reward-0", "reward-1"}
    assert len(hired) == 6


def test_a_run_that_says_no_more_waits_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, None)
    late(world, "rollout-1")
    with pytest.raises(DeadlineError, match=r"rollout-1 not up after 300 s"):
        shell_of(world).start(None, StartClock(), MARK)


def losing(world: World, monkeypatch: pytest.MonkeyPatch, asked: str, times: int) -> None:
    """What is asked is lost, so many times."""
    left = [times]

    def answer(other: str, what: str, *_: object) -> Any:
        if other == asked and left[0]:
            left[0] -= 1
            raise WorkerLostError(f"{what}: its process ended")
        return world.answer(other)

    world.answers(monkeypatch, answer)


@pytest.mark.parametrize("asked", ["open of reward-0", "ping of rollout-1"])
def test_a_worker_that_is_lost_at_its_start_is_started_again_under_its_name(
    asked: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world, name = World(monkeypatch), asked.partition(" of ")[2]
    losing(world, monkeypatch, asked, 2)
    shell_of(world).start(None, StartClock(), MARK)
    assert world.killed == [name, name]
    assert world.events.count((name, "hired")) == 3
    assert world.events.count((name, "open", *TABLE)) == (3 if asked.startswith("open") else 1)
    assert world.events[-1] != (name, "hired"), "each gets something to do"
    assert caplog.messages == [f"the start of {name}: its process ended; it is started again"] * 2


def test_a_worker_that_is_lost_at_every_start_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    losing(world, monkeypatch, "open of reward-0", 99)
    with pytest.raises(WorkerLostError, match="the start of reward-0: its process ended"):
        shell_of(world).start(None, StartClock(), MARK)
    assert world.events.count(("reward-0", "hired")) == 5


@pytest.mark.parametrize(
    "asked", ["sees of learner-1", "rendezvous of learner-0", "join of learner-1", "ping of learner-0"]
)
def test_a_gang_that_is_lost_at_its_start_is_placed_again_and_the_crew_stays(
    asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(monkeypatch)
    losing(world, monkeypatch, asked, 2)
    shell = shell_of(world)
    shell.start(None, StartClock(), MARK)
    assert shell.backend == "join of learner-0"
    assert world.killed == ["learner-0", "learner-1"] * 2
    assert len(world.freed) == 2
    for rank in ("learner-0", "learner-1"):
        assert world.events.count((rank, "hired")) == world.events.count((rank, "sees", MARK)) == 3
    for name in ("rollout-0", "rollout-1", "reward-0"):
        assert world.events.count((name, "hired")) == world.events.count((name, "open", *TABLE)) == 1


@pytest.mark.parametrize("asked", ["sees of learner-1", "rendezvous of learner-0", "join of learner-1"])
def test_a_gang_is_placed_again_as_often_as_learner_restarts_says(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world, more = World(monkeypatch), {"learner": {"ranks": 2, "restarts": 1}}
    losing(world, monkeypatch, asked, 99)
    with pytest.raises(WorkerLostError, match="its process ended"):
        shell_of(world, more).start(None, StartClock(), MARK)
    assert world.events.count(("learner-0", "hired")) == 2


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("rollout-1", "open"),
        ("learner-1", "sees"),
        ("learner-0", "rendezvous"),
        ("learner-1", "join"),
    ],
)
def test_one_that_answered_once_and_says_nothing_any_more_is_given_up_long_before_the_start_has_waited_in_vain(
    name: str, what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world, answered = World(monkeypatch), list[str]()

    def wait(tickets: list[str], timeout: float, num_returns: int = 1) -> tuple[list[str], list[str]]:
        first = world.events.count((name, "hired")) == 1
        silent = {f"{what} of {name}", *(answered and [f"ping of {name}"])} if first else set[str]()
        ready = [ticket for ticket in reversed(tickets) if ticket not in silent][:num_returns]
        world.now += 0.0 if ready else timeout
        answered.extend(ticket for ticket in ready if ticket == f"ping of {name}")
        return ready, [ticket for ticket in tickets if ticket not in ready]

    monkeypatch.setattr(world, "wait", wait)
    shell_of(world).start(None, StartClock(), MARK)
    assert world.events.count((name, "hired")) == 2
    assert f"{name} has not answered for 60 s" in caplog.text
    assert 60 <= world.now < 120


def test_a_rank_that_does_not_see_the_run_folder_ends_the_start_before_the_texts_are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, None)

    def answer(asked: str, what: str, *_: object) -> Any:
        if asked == "sees of learner-1":
            raise UserError(f"{what}: not so")
        return world.answer(asked)

    world.answers(monkeypatch, answer)
    with pytest.raises(UserError, match="learner rank 1 to see the run folder: not so"):
        shell_of(world).start(None, StartClock(), MARK)
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
