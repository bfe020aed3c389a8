"""Every group is given out once, in order, never too old; the first commit wins; bytes are counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.errors import UserError
from advdmd_ray.stations.buffer.index import BufferIndex, BufferStats, CommitResult, check_capacity
from advdmd_ray.stations.records import GroupInfo


def info(ordinal: int, policy_version: int = 0, size_bytes: int = 10) -> GroupInfo:
    return GroupInfo(ordinal, 0, 0, 4, policy_version, 0, size_bytes, (0.0,), (1.0,))


def index(*, max_bytes: int = 100, max_policy_age: int = 2) -> BufferIndex[str]:
    return BufferIndex(max_bytes=max_bytes, max_policy_age=max_policy_age)


def ordinals(groups: tuple[tuple[GroupInfo, str], ...] | None) -> list[int] | None:
    return None if groups is None else [row.ordinal for row, _ in groups]


def test_a_take_gives_all_groups_in_order_with_their_references_or_none() -> None:
    buffer = index()
    buffer.commit(info(2), "c")
    buffer.commit(info(0), "a")
    assert buffer.take(3, 0).groups is None
    buffer.commit(info(1), "b")
    groups = buffer.take(3, 0).groups
    assert groups is not None
    assert [(row.ordinal, reference) for row, reference in groups] == [(0, "a"), (1, "b"), (2, "c")]
    assert buffer.take(1, 0).groups is None


def test_the_first_commit_of_an_ordinal_wins_while_held_taken_or_settled() -> None:
    buffer = index()
    assert buffer.commit(info(0), "first") is CommitResult.ACCEPTED
    assert buffer.commit(info(0), "second") is CommitResult.DUPLICATE
    groups = buffer.take(1, 0).groups
    assert groups is not None
    assert groups[0][1] == "first"
    assert buffer.commit(info(0), "third") is CommitResult.DUPLICATE
    buffer.settle([0])
    assert buffer.commit(info(0), "fourth") is CommitResult.DUPLICATE
    assert buffer.stats() == BufferStats(groups=0, bytes=0)


def test_a_group_older_than_the_cap_is_never_given_out_and_may_be_issued_again() -> None:
    buffer = index(max_policy_age=1)
    buffer.commit(info(0, policy_version=3), "fits")
    buffer.commit(info(1, policy_version=2), "too old")
    take = buffer.take(2, current_version=4)
    assert take.groups is None
    assert take.dropped == (1,)
    assert buffer.commit(info(1, policy_version=4), "again") is CommitResult.ACCEPTED
    take = buffer.take(2, current_version=4)
    assert take.dropped == ()
    assert take.groups is not None
    assert [reference for _, reference in take.groups] == ["fits", "again"]


def test_stale_groups_are_dropped_even_while_others_are_missing() -> None:
    buffer = index(max_policy_age=0)
    buffer.commit(info(1, policy_version=0), "stale")
    assert buffer.take(2, current_version=1).dropped == (1,)
    assert buffer.stats().bytes == 0


def test_a_group_from_a_version_that_was_rolled_back_is_dropped() -> None:
    buffer = index()
    buffer.commit(info(0, policy_version=5), "zombie")
    take = buffer.take(1, current_version=3)
    assert (take.groups, take.dropped) == (None, (0,))


def test_a_take_is_undone_when_bytes_are_lost_and_the_same_groups_come_again_in_order() -> None:
    buffer = index()
    for ordinal, reference in enumerate("abc"):
        buffer.commit(info(ordinal), reference)
    buffer.take(1, 0)
    buffer.settle([0])
    buffer.take(2, 0)
    held = buffer.stats().bytes
    buffer.give_back([1])
    assert buffer.stats().bytes == held - info(1).size_bytes
    assert buffer.take(2, 0).groups is None
    with pytest.raises(ValueError, match="ordinal 2 is settled, but it was not taken"):
        buffer.settle([2])
    assert buffer.commit(info(1), "b again") is CommitResult.ACCEPTED
    groups = buffer.take(2, 0).groups
    assert groups is not None
    assert [reference for _, reference in groups] == ["b again", "c"]
    buffer.settle([1, 2])


@pytest.mark.parametrize("lost", [[0], [1], [0, 2]])
def test_what_was_not_taken_or_is_settled_cannot_be_given_back(lost: list[int]) -> None:
    buffer = index()
    for ordinal in range(3):
        buffer.commit(info(ordinal), "x")
    buffer.take(1, 0)
    buffer.settle([0])
    before = buffer.stats()
    with pytest.raises(ValueError, match=f"ordinal {lost[0]} is given back, but it was not taken"):
        buffer.give_back(lost)
    assert buffer.stats() == before


def test_room_keeps_a_place_for_each_outstanding_lease_and_a_commit_is_never_refused_for_it() -> None:
    buffer = index(max_bytes=30)
    assert buffer.room(10, outstanding=2)
    assert not buffer.room(10, outstanding=3)
    for ordinal in range(3):
        buffer.commit(info(ordinal), "x")
    assert not buffer.room(1)
    assert buffer.commit(info(3), "beyond the cap") is CommitResult.ACCEPTED
    buffer.take(2, 0)
    assert not buffer.room(10)
    buffer.settle([0, 1])
    assert buffer.room(10)
    assert not buffer.room(11)


def test_a_cap_that_cannot_hold_one_cycle_is_refused_at_the_start() -> None:
    check_capacity(80, 10, 8)
    with pytest.raises(UserError, match=r"buffer\.max_bytes = 79: .* at least 80"):
        check_capacity(79, 10, 8)


def test_settling_what_was_not_taken_or_twice_raises_and_changes_nothing() -> None:
    buffer = index()
    buffer.commit(info(0), "a")
    with pytest.raises(ValueError, match="ordinal 0 is settled, but it was not taken"):
        buffer.settle([0])
    buffer.take(1, 0)
    with pytest.raises(ValueError, match="ordinal 1"):
        buffer.settle([0, 1])
    with pytest.raises(ValueError, match="twice"):
        buffer.settle([0, 0])
    buffer.settle([0])
    with pytest.raises(ValueError, match="ordinal 0"):
        buffer.settle([0])


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="max_bytes=0"):
        BufferIndex(max_bytes=0, max_policy_age=0)
    with pytest.raises(ValueError, match="count of at least 1"):
        index().take(0, 0)
    with pytest.raises(ValueError, match="negative"):
        index().commit(info(-1), "x")


def test_a_resumed_index_passes_over_what_is_settled() -> None:
    buffer: BufferIndex[str] = BufferIndex(max_bytes=9, max_policy_age=0, start=4, settled=[5, 6])
    assert buffer.commit(info(3), "x") is CommitResult.DUPLICATE
    assert buffer.commit(info(5), "x") is CommitResult.DUPLICATE
    for ordinal in (4, 7, 8):
        buffer.commit(info(ordinal), "x")
    assert ordinals(buffer.take(3, 0).groups) == [4, 7, 8]
    buffer.settle([8, 4, 7])


def test_memory_of_settled_ordinals_does_not_grow() -> None:
    buffer = index()
    for ordinal in range(500):
        buffer.commit(info(ordinal), "x")
        buffer.take(1, 0)
        buffer.settle([ordinal])
    assert [len(part) for part in (buffer._settled, buffer._rows, buffer._taken)] == [0, 0, 0]


@given(order=st.permutations(range(24)), counts=st.lists(st.integers(1, 5), min_size=60, max_size=60))
def test_whatever_the_order_of_commits_each_group_is_given_out_once_in_order(
    order: list[int], counts: list[int]
) -> None:
    buffer = index(max_policy_age=100)
    commits = iter(order)
    committed: set[int] = set()
    seen: list[int] = []

    def take(count: int) -> bool:
        got = ordinals(buffer.take(count, 0).groups)
        if got is not None:
            seen.extend(got)
            buffer.settle(got)
        assert buffer.stats().bytes == sum(committed) - sum(seen)
        return got is not None

    for count in counts:
        ordinal = next(commits, None)
        if ordinal is not None:
            committed.add(ordinal)
            assert buffer.commit(info(ordinal, size_bytes=ordinal), "x") is CommitResult.ACCEPTED
        take(count)
    while take(1):
        pass
    assert seen == list(range(24))


class Plain:
    """What is held, by ordinal; each take looks at all that it asks for."""

    def __init__(self, max_policy_age: int) -> None:
        self.age, self.versions, self.taken, self.settled, self.cursor = max_policy_age, {}, set(), set(), 0

    def take(self, count: int, version: int) -> tuple[list[int] | None, tuple[int, ...]]:
        window = [o for o in range(self.cursor, self.cursor + 100) if o not in self.settled][:count]
        held = [o for o in window if o in self.versions]
        dropped = tuple(o for o in held if not 0 <= version - self.versions[o] <= self.age)
        for ordinal in dropped:
            del self.versions[ordinal]
        if len(held) < count or dropped:
            return None, dropped
        self.cursor = window[-1] + 1
        self.taken.update(window)
        return window, dropped


events = st.one_of(
    st.tuples(st.just("commit"), st.integers(0, 12), st.integers(0, 3)),
    st.tuples(st.just("take"), st.integers(1, 4), st.integers(0, 3)),
    st.tuples(st.sampled_from(["settle", "give back"]), st.integers(0, 3), st.just(0)),
)


@given(events=st.lists(events, max_size=60), age=st.integers(0, 2))
def test_takes_are_those_of_a_plain_buffer_that_looks_at_every_group(
    events: list[tuple[str, int, int]], age: int
) -> None:
    buffer, plain = index(max_bytes=10**6, max_policy_age=age), Plain(age)
    for event, number, version in events:
        some = sorted(plain.taken)[: number + 1]
        if event == "commit":
            new = number not in plain.versions and number not in plain.settled
            assert (buffer.commit(info(number, version), "x") is CommitResult.ACCEPTED) == new
            plain.versions.setdefault(number, version) if new else None
        elif event == "take":
            took = buffer.take(number, version)
            assert (ordinals(took.groups), took.dropped) == plain.take(number, version)
        elif event == "settle":
            buffer.settle(some)
            plain.taken.difference_update(some)
            plain.settled.update(some)
            for ordinal in some:
                del plain.versions[ordinal]
        else:
            buffer.give_back(some)
            for ordinal in some:
                del plain.versions[ordinal]
            plain.cursor = min(plain.taken, default=plain.cursor)
            plain.taken.clear()
        assert buffer.stats().groups == len(plain.versions)
