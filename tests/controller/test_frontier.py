"""Every ordinal settles exactly once, with its own prompt and seed, and never too old, whatever happens."""

import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from advdmd_ray.controller.frontier import PromptFrontier, lease_limit
from advdmd_ray.controller.prompt_order import Work, epoch_order, work_of
from advdmd_ray.errors import CheckpointError
from advdmd_ray.seeding import derive_seed
from advdmd_ray.stations.buffer.index import BufferIndex, CommitResult
from advdmd_ray.stations.records import GroupInfo, Lease

PROMPTS = 5
GROUP_BYTES = 10


def frontier(lease_s: float = 10.0) -> PromptFrontier:
    return PromptFrontier(3, PROMPTS, lease_s)


def take(source: PromptFrontier, worker: str = "a", now: float = 0.0, limit: int = 1000) -> Lease:
    lease = source.lease(now, worker, 0, limit)
    assert lease is not None
    return lease


@given(seed=st.integers(0, 2**31), prompts=st.integers(1, 40), epoch=st.integers(0, 5))
def test_an_epoch_shows_every_prompt_once(seed: int, prompts: int, epoch: int) -> None:
    ids = [work_of(seed, prompts, epoch * prompts + position).prompt_id for position in range(prompts)]
    assert sorted(ids) == list(range(prompts))


def test_epochs_and_runs_differ_in_order_and_seeds_never_repeat() -> None:
    orders = {tuple(epoch_order(seed, 50, epoch)) for seed in range(3) for epoch in range(4)}
    assert len(orders) == 12
    seeds = [work_of(run, 10, ordinal).seed for run in range(3) for ordinal in range(200)]
    assert len(set(seeds)) == 600
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_every_prompt_comes_first_about_equally_often() -> None:
    first = Counter(work_of(run, 4, 0).prompt_id for run in range(2000))
    assert all(abs(count - 500) < 100 for count in first.values())


def test_the_order_and_the_seeds_are_fixed_for_ever() -> None:
    assert [work_of(0, 10, o).prompt_id for o in range(10)] == [2, 1, 3, 5, 0, 4, 6, 8, 9, 7]
    assert work_of(0, 10, 12) == Work(prompt_id=9, seed=3756726911364755809)
    assert derive_seed(0, "group", 12) == 3756726911364755809


def test_work_needs_prompts_and_an_ordinal() -> None:
    with pytest.raises(ValueError, match="prompts >= 1"):
        work_of(0, 0, 0)
    with pytest.raises(ValueError, match="ordinal >= 0"):
        work_of(0, 1, -1)


def test_new_ordinals_come_in_order_below_the_limit() -> None:
    source = frontier()
    leases = [take(source, limit=3) for _ in range(3)]
    assert [lease.ordinal for lease in leases] == [0, 1, 2]
    assert all(lease.attempt == 0 for lease in leases)
    assert source.lease(0.0, "a", 0, 3) is None
    assert source.lease(0.0, "a", 1, 4) == Lease(3, 0, work_of(3, PROMPTS, 3).prompt_id, work_of(3, PROMPTS, 3).seed, 1)


def test_lost_leases_are_issued_again_lowest_first_with_the_same_prompt_and_seed() -> None:
    source = frontier()
    first = [take(source, worker) for worker in ("a", "b", "a", "b")]
    assert [lease.ordinal for lease in (first[3], first[1]) if source.lost(lease)] == [3, 1]
    assert not source.lost(first[1])
    again = source.lease(5.0, "c", 7, 0)
    assert again == Lease(1, 1, first[1].prompt_id, first[1].seed, 7)
    assert [take(source).ordinal for _ in range(2)] == [3, 4]
    assert source.reserved == 5


def test_an_overdue_lease_is_reported_with_worker_and_time_and_issued_again() -> None:
    source = frontier(lease_s=10)
    take(source, "slow", now=0)
    take(source, "fast", now=5)
    assert source.expire(9.9) == ()
    (overdue,) = source.expire(12)
    assert (overdue.lease.ordinal, overdue.worker, overdue.since) == (0, "slow", 0)
    assert source.expire(12) == ()
    assert take(source, "fast", now=12).attempt == 1
    assert [(s.lease.ordinal, s.worker, s.since) for s in source.outstanding()] == [(0, "fast", 12), (1, "fast", 5)]


def test_a_late_commit_of_an_overdue_lease_completes_the_ordinal() -> None:
    source = frontier(lease_s=1)
    take(source)
    source.expire(2)
    assert source.complete(0)
    assert not source.complete(0)
    assert take(source).ordinal == 1
    source.settle([0])
    assert not source.complete(0)


def test_a_dropped_group_is_issued_again() -> None:
    source = frontier()
    take(source)
    source.complete(0)
    assert source.lease(0.0, "a", 0, 1) is None
    source.reissue([0])
    source.reissue([0])
    assert take(source).attempt == 1
    assert source.lease(0.0, "a", 0, 1) is None


def test_settling_twice_or_never_leased_or_never_committed_raises_and_changes_nothing() -> None:
    source = frontier()
    take(source)
    take(source)
    source.complete(0)
    with pytest.raises(ValueError, match="ordinal 2 was never leased"):
        source.settle([0, 2])
    with pytest.raises(ValueError, match="ordinal 1 is settled before a group"):
        source.settle([0, 1])
    with pytest.raises(ValueError, match="twice"):
        source.settle([0, 0])
    assert source.first_unsettled == 0
    source.settle([0])
    with pytest.raises(ValueError, match="ordinal 0 is settled already"):
        source.settle([0])
    with pytest.raises(ValueError, match="ordinal 0 is settled already"):
        source.reissue([0])
    with pytest.raises(ValueError, match="never leased"):
        source.complete(9)
    assert source.first_unsettled == 1


def test_after_restoring_all_unsettled_ordinals_are_issued_again() -> None:
    source = frontier()
    before = [take(source) for _ in range(5)]
    source.complete(1)
    source.complete(2)
    source.settle([1])
    state = json.loads(json.dumps(source.state()))
    restored = PromptFrontier.from_state(state, run_seed=3, prompts=PROMPTS, lease_s=1)
    assert restored.first_unsettled == 0
    assert restored.settled_beyond() == (1,)
    assert restored.reserved == 4
    again = [take(restored) for _ in range(4)]
    assert [(x.ordinal, x.attempt, x.prompt_id, x.seed) for x in again] == [
        (x.ordinal, 1, x.prompt_id, x.seed) for x in before if x.ordinal != 1
    ]
    assert take(restored).ordinal == 5
    twice = PromptFrontier.from_state(restored.state(), run_seed=3, prompts=PROMPTS, lease_s=1)
    assert [take(twice).attempt for _ in range(5)] == [2, 2, 2, 2, 1]


@given(
    run=st.integers(0, 99), prompts=st.integers(1, 12), ordinal=st.integers(0, 1000), substitution=st.integers(0, 30)
)
def test_substitutes_of_an_ordinal_are_of_its_epoch_and_differ_as_long_as_there_are_prompts(
    run: int, prompts: int, ordinal: int, substitution: int
) -> None:
    works = [work_of(run, prompts, ordinal, count) for count in range(substitution, substitution + prompts)]
    if not substitution:
        assert works[0] == work_of(run, prompts, ordinal)
        assert {work.prompt_id for work in works} == set(range(prompts))
    assert len({work.seed for work in works}) == prompts
    assert work_of(run, prompts, ordinal + 1).seed not in {work.seed for work in works}
    with pytest.raises(ValueError, match="substitution >= 0"):
        work_of(run, prompts, ordinal, -1)


def test_the_prompts_of_substitutes_are_fixed_for_ever() -> None:
    assert [work_of(0, 10, 3, count).prompt_id for count in range(10)] == [5, 3, 0, 4, 6, 8, 9, 7, 2, 1]


def test_an_ordinal_whose_prompt_was_replaced_keeps_the_substitute_over_a_checkpoint_until_it_settles() -> None:
    source = frontier()
    first, other = take(source), take(source)
    source.lost(first)
    source.substitute(0)
    again = take(source)
    assert (again.ordinal, again.attempt) == (0, 1)
    assert (again.prompt_id, again.seed) == (work_of(3, PROMPTS, 0, 1).prompt_id, work_of(3, PROMPTS, 0, 1).seed)
    assert again.prompt_id != first.prompt_id
    restored = PromptFrontier.from_state(source.state(), run_seed=3, prompts=PROMPTS, lease_s=1)
    assert (take(restored).prompt_id, take(restored).prompt_id) == (again.prompt_id, other.prompt_id)
    source.complete(0)
    source.settle([0])
    assert source.state()["substitutions"] == []
    with pytest.raises(ValueError, match="ordinal 0 is settled already"):
        source.substitute(0)


def test_a_checkpoint_from_before_there_were_substitutes_goes_on_without_any() -> None:
    source = frontier()
    lease = take(source)
    state = source.state()
    del state["substitutions"]
    assert take(PromptFrontier.from_state(state, run_seed=3, prompts=PROMPTS, lease_s=1)).prompt_id == lease.prompt_id


def test_a_run_without_a_checkpoint_starts_the_stream_and_one_with_it_goes_on() -> None:
    fresh = PromptFrontier.from_state(None, run_seed=3, prompts=PROMPTS, lease_s=1)
    assert take(fresh) == take(frontier())
    again = PromptFrontier.from_state(fresh.state(), run_seed=3, prompts=PROMPTS, lease_s=1)
    assert take(again).attempt == 1


def test_a_state_of_another_run_or_a_malformed_one_is_refused() -> None:
    source = frontier()
    take(source)
    state = source.state()
    with pytest.raises(CheckpointError, match="run_seed=3, this run has 4"):
        PromptFrontier.from_state(state, run_seed=4, prompts=PROMPTS, lease_s=1)
    with pytest.raises(CheckpointError, match="prompts=5, this run has 6"):
        PromptFrontier.from_state(state, run_seed=3, prompts=6, lease_s=1)
    bad: list[dict[str, object]] = [
        {"unsettled": [[1, 1]]},
        {"unsettled": [[0, 0]]},
        {"unsettled": [0]},
        {"unsettled": [[0, 1], [0, 1]]},
        {"next_ordinal": "many"},
        {"substitutions": [[1, 1]]},
        {"substitutions": [[0, 0]]},
        {"substitutions": 1},
    ]
    for change in bad:
        with pytest.raises(CheckpointError, match="prompt frontier"):
            PromptFrontier.from_state(state | change, run_seed=3, prompts=PROMPTS, lease_s=1)
    with pytest.raises(CheckpointError, match="keys"):
        PromptFrontier.from_state({"next_ordinal": 0}, run_seed=3, prompts=PROMPTS, lease_s=1)


@given(o=st.integers(0, 10**6), v=st.integers(0, 10**4), g=st.integers(1, 64), age=st.integers(0, 8))
def test_the_lease_limit_is_exactly_the_age_cap(o: int, v: int, g: int, age: int) -> None:
    assert (o < lease_limit(v, g, age)) == (o // g - v <= age)


@given(v=st.integers(0, 10**4), g=st.integers(1, 64), age=st.integers(0, 8))
def test_the_learner_never_waits_for_an_ordinal_beyond_the_limit(v: int, g: int, age: int) -> None:
    assert v * g + g - 1 < lease_limit(v, g, age)


def test_the_lease_limit_refuses_senseless_arguments() -> None:
    for arguments in ((-1, 1, 0), (0, 0, 0), (0, 1, -1)):
        with pytest.raises(ValueError, match="groups_per_cycle"):
            lease_limit(*arguments)


class Run(RuleBasedStateMachine):
    """A run without networks: actors, a buffer, a learner, deaths, overdue leases, kills and restores."""

    @initialize(groups=st.integers(1, 4), age=st.integers(0, 2), spare=st.integers(0, 6), lease_s=st.integers(2, 6))
    def start(self, groups: int, age: int, spare: int, lease_s: int) -> None:
        self.groups, self.age, self.lease_s = groups, age, float(lease_s)
        self.cap = (groups + spare) * GROUP_BYTES
        self.now = 0.0
        self.substitutions: dict[int, int] = {}
        self.jobs: list[tuple[str, Lease]] = []
        self.version = 0
        self.trained: list[int] = []
        self.too_old = 0
        self.frontier = PromptFrontier(1, PROMPTS, self.lease_s)
        self.index: BufferIndex[Lease] = BufferIndex(max_bytes=self.cap, max_policy_age=age)
        self.save()

    @rule()
    def save(self) -> None:
        self.saved = (json.dumps(self.frontier.state()), self.version, list(self.trained), dict(self.substitutions))

    @rule(really=st.sampled_from([False, False, False, True]))
    def kill_and_restore(self, really: bool) -> None:
        if not really:  # most draws spare the run, so that it gets somewhere between kills
            return
        state, self.version, trained, substitutions = self.saved
        self.trained, self.substitutions = list(trained), dict(substitutions)
        self.jobs = []
        self.frontier = PromptFrontier.from_state(json.loads(state), run_seed=1, prompts=PROMPTS, lease_s=self.lease_s)
        self.index = BufferIndex(
            max_bytes=self.cap,
            max_policy_age=self.age,
            start=self.frontier.first_unsettled,
            settled=self.frontier.settled_beyond(),
        )

    @rule(workers=st.text("abcd", min_size=1, max_size=12))
    def lease(self, workers: str) -> None:
        for worker in workers:
            self.give(worker)

    def give(self, worker: str) -> bool:
        limit = lease_limit(self.version, self.groups, self.age)
        if not self.index.room(GROUP_BYTES, self.frontier.reserved):
            limit = self.frontier.next_ordinal
        lease = self.frontier.lease(self.now, worker, self.version, limit)
        if lease is None:
            return False
        work = work_of(1, PROMPTS, lease.ordinal, self.substitutions.get(lease.ordinal, 0))
        assert (lease.prompt_id, lease.seed) == (work.prompt_id, work.seed)
        self.jobs.append((worker, lease))
        return True

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), count=st.integers(1, 12))
    def commit(self, data: st.DataObject, count: int) -> None:
        for _ in range(min(count, len(self.jobs))):
            self.finish(data.draw(st.integers(0, len(self.jobs) - 1)))

    @rule(cycles=st.integers(1, 3), kept=st.integers(0, 3))
    def quiet_cycles(self, cycles: int, kept: int) -> None:
        """Some quiet cycles, in which the slowest `kept` groups stay under way."""
        for _ in range(cycles):
            while sum(self.give(worker) for worker in "abcd"):
                pass
            while len(self.jobs) > kept:
                self.finish(-1)
            self.train()

    def finish(self, position: int) -> None:
        _, lease = self.jobs.pop(position)
        info = GroupInfo(lease.ordinal, lease.prompt_id, 0, 2, lease.policy_version, 0, GROUP_BYTES, (0.0,), (0.0,))
        if self.index.commit(info, lease) is CommitResult.ACCEPTED:
            assert self.frontier.complete(lease.ordinal)
        else:
            assert not self.frontier.complete(lease.ordinal)

    @rule(worker=st.sampled_from("abcd"))
    def lose(self, worker: str) -> None:
        for _, lease in [job for job in self.jobs if job[0] == worker]:
            self.frontier.lost(lease)
        self.jobs = [job for job in self.jobs if job[0] != worker]

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), give_up=st.booleans())
    def fault(self, data: st.DataObject, give_up: bool) -> None:
        """What came of a lease is no group; after some attempts another prompt takes the ordinal's place."""
        _, lease = self.jobs.pop(data.draw(st.integers(0, len(self.jobs) - 1)))
        wanted = self.frontier.wants(lease.ordinal)
        self.frontier.lost(lease)
        assert self.frontier.wants(lease.ordinal) == wanted
        if give_up and wanted:
            self.frontier.substitute(lease.ordinal)
            self.substitutions[lease.ordinal] = self.substitutions.get(lease.ordinal, 0) + 1

    @rule(worker=st.sampled_from("abcd"))
    def vanish(self, worker: str) -> None:
        # Nobody sees this death: only the deadline can.
        self.jobs = [job for job in self.jobs if job[0] != worker]

    @rule(seconds=st.integers(1, 5))
    def expire(self, seconds: int) -> None:
        # The slow worker is not dead: its job stays and may commit late.
        self.now += seconds
        assert all(self.now - held.since >= self.lease_s for held in self.frontier.expire(self.now))

    @rule(data=st.data())
    def lose_bytes(self, data: st.DataObject) -> None:
        """The learner takes the groups of a cycle and finds some of their bytes gone."""
        took = self.index.take(self.groups, self.version)
        self.too_old += len(took.dropped)
        self.frontier.reissue(took.dropped)
        if took.groups is None:
            return
        ordinals = [info.ordinal for info, _ in took.groups]
        lost = data.draw(st.lists(st.sampled_from(ordinals), min_size=1, unique=True))
        self.index.give_back(lost)
        self.frontier.reissue(lost)

    @rule()
    def train(self) -> None:
        took = self.index.take(self.groups, self.version)
        self.too_old += len(took.dropped)
        self.frontier.reissue(took.dropped)
        if took.groups is None:
            return
        for info, lease in took.groups:
            assert 0 <= self.version - info.policy_version <= self.age
            assert info.policy_version == lease.policy_version
            self.trained.append(info.ordinal)
        ordinals = [info.ordinal for info, _ in took.groups]
        self.index.settle(ordinals)
        self.frontier.settle(ordinals)
        self.version += 1

    @invariant()
    def every_ordinal_is_trained_exactly_once_and_in_order(self) -> None:
        assert self.trained == list(range(self.version * self.groups))
        assert self.frontier.first_unsettled == len(self.trained)

    @invariant()
    def nothing_is_dropped_for_age(self) -> None:
        assert self.too_old == 0

    @invariant()
    def the_byte_cap_holds(self) -> None:
        assert self.index.stats().bytes <= self.cap

    def teardown(self) -> None:
        """From any state the run goes on: three more cycles, with the workers that are left."""
        goal = self.version + 3
        for _ in range(200):
            self.now += self.lease_s
            self.frontier.expire(self.now)
            while self.give("d"):
                pass
            while self.jobs:
                self.finish(0)
            self.train()
            if self.version >= goal:
                break
        assert self.version >= goal
        self.every_ordinal_is_trained_exactly_once_and_in_order()
        self.nothing_is_dropped_for_age()


Run.TestCase.settings = settings(max_examples=200, stateful_step_count=40)
TestAnyInterleaving = Run.TestCase


def test_leases_of_a_version_follow_the_pacing_law_in_a_long_run() -> None:
    source = frontier()
    groups, age = 4, 1
    leased = {v: [] for v in range(6)}
    for version in range(6):
        while (lease := source.lease(0.0, "a", version, lease_limit(version, groups, age))) is not None:
            leased[version].append(lease.ordinal)
    assert [len(ordinals) for ordinals in leased.values()] == [8, 4, 4, 4, 4, 4]
    assert all(a[-1] < b[0] for a, b in pairwise(leased.values()))
    assert np.max(leased[5]) // groups - 5 == age


def test_a_group_that_waits_to_be_scored_is_not_overdue() -> None:
    source = PromptFrontier(0, 10, lease_s=10)
    lease = source.lease(0, "rollout-0", 0, 8)
    assert lease is not None
    assert source.made(lease, 5)
    assert source.expire(100) == ()
    assert source.renew(lease, 100, "reward-0")
    assert source.expire(109) == ()
    (overdue,) = source.expire(110)
    assert (overdue.lease, overdue.worker) == (lease, "reward-0")


def test_a_group_that_is_made_after_its_lease_was_given_to_another_leaves_that_lease_as_it_is() -> None:
    source = frontier(lease_s=10)
    lease = take(source)
    source.expire(10)
    again = take(source, "b", now=10)
    assert source.made(lease, 12)
    assert [held.lease for held in source.expire(20)] == [again]
    assert source.made(lease, 21)
    assert source.expire(100) == ()
    assert not source.lost(again)
    assert source.lost(lease)


def test_a_renewed_lease_starts_its_time_again_and_outlives_its_first_holder() -> None:
    source = PromptFrontier(0, 10, lease_s=10)
    lease = source.lease(0, "rollout-0", 0, 8)
    assert lease is not None
    assert source.renew(lease, 8, "reward-0")
    assert source.expire(12) == ()
    assert source.lost(lease)
    again = source.lease(14, "rollout-1", 0, 8)
    assert again is not None
    assert again.ordinal == lease.ordinal
    assert source.renew(lease, 14, "reward-0")  # the first of the two to be committed counts
    assert source.outstanding()[0].lease == again
    assert source.complete(again.ordinal)
    assert not source.renew(lease, 15, "reward-0")


def test_a_group_that_comes_late_but_before_its_next_lease_is_not_made_twice() -> None:
    source = PromptFrontier(0, 10, lease_s=10)
    lease = source.lease(0, "rollout-0", 0, 2)
    assert lease is not None
    assert [held.lease for held in source.expire(11)] == [lease]
    assert source.renew(lease, 12, "reward-0")
    following = source.lease(13, "rollout-0", 0, 2)
    assert following is not None
    assert following.ordinal == 1
    assert source.lease(13, "rollout-1", 0, 2) is None
    assert [held.worker for held in source.expire(22)] == ["reward-0"]
    assert source.renew(lease, 22, "reward-1")
    assert source.complete(lease.ordinal)
