"""The row of the next lease: what is noted of a run, what is counted, and that its workers do what workers do."""

import asyncio
from collections import Counter
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.actor import ActorMethod

from advdmd_ray.controller.protocols import Task
from advdmd_ray.planning.virtual import virtual_manifests
from advdmd_ray.stations.records import Lease
from benchmarks.host.contest import OURS
from benchmarks.host.rows import lease
from benchmarks.host.rows.lease import LEASE, Moment, Size, WatchedLanding, counted_calls, figures, settings
from benchmarks.host.rows.virtual_workers import RewardHost, RolloutHost, shares

SIZE = Size(10, 8, cycles=2, generate=0.5)


class Ticket:
    """Stands for a reference."""

    def __init__(self) -> None:
        self.landing: Future[Any] = Future()

    def future(self) -> Future[Any]:
        return self.landing


def plain(host: Any) -> Any:
    """The class that a Ray actor is made of."""
    return host.__ray_metadata__.modified_class


def test_only_the_cycles_in_the_middle_count_and_calls_are_told_for_each_group() -> None:
    moments = [Moment(float(at), 0.1 * at, Counter(remote=32 * at, get=at)) for at in range(7)]
    waits = [(1.5, 9.0), (2.5, 0.001), (3.0, 0.003), (3.5, 0.003), (4.5, 9.0)]
    seconds, facts = figures(SIZE, moments, waits)
    assert 0.002 < seconds <= 0.003
    assert facts["half of them within, ms"] == 3.0
    assert facts["settled, groups/s"] == 8.0
    assert facts["driver, CPU ms a group"] == pytest.approx(12.5)
    assert (facts["ray remote, a group"], facts["ray get, a group"]) == (4.0, 0.125)


def test_a_run_has_the_cycles_that_its_figures_need_and_no_chores(tmp_path: Path) -> None:
    config = settings(SIZE, tmp_path)
    assert config.run.cycles == 2 + 2 * lease.UNCOUNTED
    assert (config.rollout.actors, config.reward.workers, config.rollout.groups_per_cycle) == (10, 1, 8)
    assert settings(lease.MANY, tmp_path).reward.workers == 100


def test_a_worker_is_free_from_the_landing_of_its_work_on() -> None:
    landing, ticket = WatchedLanding(), Ticket()
    task = landing.watch(Task("rollout-3", (ticket,)))
    landing.frees(task)
    assert not landing.free["rollout-3"]
    ticket.landing.set_result("made")
    assert len(landing.free["rollout-3"]) == 1
    assert landing.wait(0) == [task]


def test_calls_are_counted_only_meanwhile_and_still_do_what_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "put", lambda value: [value])
    monkeypatch.setattr(ActorMethod, "_remote", lambda _, args: args)
    with counted_calls() as calls:
        assert ray.put(3) == [3]
        assert [ActorMethod._remote(object.__new__(ActorMethod), each) for each in (4, 5)] == [4, 5]
    ray.put(6)
    assert calls == {"put": 1, "remote": 2}


def test_every_worker_has_a_host_and_every_host_has_workers() -> None:
    assert shares(["a", "b", "c"], 2) == [["a", "c"], ["b"]]
    assert shares(["a"], 2) == [["a"]]


def test_hosts_hand_on_which_group_it_is_and_say_once_of_each_version_that_it_was_loaded() -> None:
    async def story() -> None:
        maker, scorer = (plain(host)(["a", "b"], 0.0, 0.5, 0) for host in (RolloutHost, RewardHost))
        loads, leased = [], Lease(7, 0, 5, 11, 3)
        for version in (3, 3, 3, 4):
            report, _ = await maker.generate(leased, virtual_manifests(version)[0], None)
            loads.append((report.worker, report.load and report.load.version))
        assert loads == [("a", 3), ("b", 3), ("a", None), ("b", 4)]
        assert report.load.digest == virtual_manifests(4)[0].digest
        handed_over, group = await maker.hand_over(leased)
        assert handed_over.worker == "b"
        assert plain(RewardHost)([], 0.0, 0.5, 0), "a host may have no worker"
        (report, info), scores = await scorer.score(group, virtual_manifests(2)[1], None)
        assert (info.ordinal, info.prompt_id, info.policy_version, info.reward_version) == (7, 5, 3, 2)
        assert list(scores) == [7]
        assert report.load.stream == "discriminator"

    asyncio.run(story())


def test_the_goal_is_of_a_contestant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "local_ray", nullcontext)
    with LEASE.opened() as field:
        assert LEASE.goals.keys() <= field.turns.keys() - {OURS}
