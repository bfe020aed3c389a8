"""Every consumer sees every group once, in order, never too old; the first commit wins; bytes are counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.errors import UserError
from advdmd_ray.stations.buffer.index import BufferIndex, CommitResult, check_capacity
from advdmd_ray.stations.records import GroupInfo


def info(ordinal: int, policy_version: int = 0, size_bytes: int = 10) -> GroupInfo:
    return GroupInfo(ordinal, 0, 4, policy_version, 0, size_bytes, (0.0,), (1.0,))


def index(*consumers: str, max_bytes: int = 100, max_policy_age: int = 2, start: int = 0) -> BufferIndex[str]:
    return BufferIndex(consumers or ("learner",), max_bytes=max_bytes, max_policy_age=max_policy_age, start=start)


def ordinals(groups: tuple[tuple[GroupInfo, str], ...] | None) -> list[int] | None:
    return None if groups is None else [row.ordinal for row, _ in groups]


def test_a_take_gives_all_groups_in_order_with_their_references_or_none() -> None:
    buffer = index()
    buffer.commit(info(2), "c")
    buffer.commit(info(0), "a")
    assert buffer.take("learner", 3, 0).groups is None
    assert buffer.missing("learner", 3) == (1,)
    buffer.commit(info(1), "b")
    assert buffer.missing("learner", 3) == ()
    groups = buffer.take("learner", 3, 0).groups
    assert groups is not None
    assert [(row.ordinal, reference) for row, reference in groups] == [(0, "a"), (1, "b"), (2, "c")]
    assert buffer.take("learner", 1, 0).groups is None


def test_the_first_commit_of_an_ordinal_wins_while_held_taken_or_settled() -> None:
    buffer = index()
    assert buffer.commit(info(0), "first") is CommitResult.ACCEPTED
    assert buffer.commit(info(0), "second") is CommitResult.DUPLICATE
    groups = buffer.take("learner", 1, 0).groups
    assert groups is not None
    assert groups[0][1] == "first"
    assert buffer.commit(info(0), "third") is CommitResult.DUPLICATE
    assert buffer.settle("learner", [0]) == (0,)
    assert buffer.commit(info(0), "fourth") is CommitResult.DUPLICATE
    stats = buffer.stats(0)
    assert (stats.committed, stats.duplicates, stats.bytes, stats.groups) == (1, 3, 0, 0)


def test_each_consumer_has_its_own_cursor_and_bytes_are_freed_by_the_last() -> None:
    buffer = index("learner", "audit")
    for ordinal in range(4):
        buffer.commit(info(ordinal), str(ordinal))
    assert ordinals(buffer.take("learner", 3, 0).groups) == [0, 1, 2]
    assert ordinals(buffer.take("audit", 2, 0).groups) == [0, 1]
    assert buffer.settle("learner", [0, 1, 2]) == ()
    assert buffer.stats(0).bytes == 40
    assert buffer.settle("audit", [1]) == (1,)
    assert buffer.settle("audit", [0]) == (0,)
    assert buffer.stats(0).bytes == 20
    assert ordinals(buffer.take("audit", 2, 0).groups) == [2, 3]
    assert ordinals(buffer.take("learner", 1, 0).groups) == [3]


def test_a_group_older_than_the_cap_is_never_given_out_and_may_be_issued_again() -> None:
    buffer = index(max_policy_age=1)
    buffer.commit(info(0, policy_version=3), "fits")
    buffer.commit(info(1, policy_version=2), "too old")
    take = buffer.take("learner", 2, current_version=4)
    assert take.groups is None
    assert take.dropped == (1,)
    assert buffer.missing("learner", 2) == (1,)
    assert buffer.commit(info(1, policy_version=4), "again") is CommitResult.ACCEPTED
    take = buffer.take("learner", 2, current_version=4)
    assert take.dropped == ()
    assert take.groups is not None
    assert [reference for _, reference in take.groups] == ["fits", "again"]
    assert buffer.stats(4).dropped == {"age": 1, "future": 0, "lost": 0}


def test_stale_groups_are_dropped_even_while_others_are_missing() -> None:
    buffer = index(max_policy_age=0)
    buffer.commit(info(1, policy_version=0), "stale")
    assert buffer.take("learner", 2, current_version=1).dropped == (1,)
    assert buffer.stats(1).bytes == 0


def test_a_group_from_a_version_that_was_rolled_back_is_dropped() -> None:
    buffer = index()
    buffer.commit(info(0, policy_version=5), "zombie")
    take = buffer.take("learner", 1, current_version=3)
    assert (take.groups, take.dropped) == (None, (0,))
    assert buffer.stats(3).dropped["future"] == 1


def test_a_consumer_does_not_see_the_second_group_of_an_ordinal_it_has_taken() -> None:
    buffer = index("learner", "audit", max_policy_age=0)
    buffer.commit(info(0, policy_version=0), "old")
    buffer.take("learner", 1, 0)
    assert buffer.take("audit", 1, 1).dropped == (0,)
    assert buffer.settle("learner", [0]) == ()
    buffer.commit(info(0, policy_version=1), "new")
    buffer.commit(info(1, policy_version=1), "next")
    assert ordinals(buffer.take("learner", 1, 1).groups) == [1]
    groups = buffer.take("audit", 1, 1).groups
    assert groups is not None
    assert groups[0][1] == "new"
    assert buffer.settle("audit", [0]) == (0,)


def test_a_take_is_undone_when_bytes_are_lost_and_the_same_groups_come_again_in_order() -> None:
    buffer = index()
    for ordinal, reference in enumerate("abc"):
        buffer.commit(info(ordinal), reference)
    buffer.take("learner", 1, 0)
    buffer.settle("learner", [0])
    buffer.take("learner", 2, 0)
    held = buffer.stats(0).bytes
    buffer.give_back("learner", [1])
    assert buffer.stats(0).dropped["lost"] == 1
    assert buffer.stats(0).bytes == held - info(1).size_bytes
    assert buffer.missing("learner", 2) == (1,)
    assert buffer.take("learner", 2, 0).groups is None
    with pytest.raises(ValueError, match="settles ordinal 2, which it has not taken"):
        buffer.settle("learner", [2])
    assert buffer.commit(info(1), "b again") is CommitResult.ACCEPTED
    groups = buffer.take("learner", 2, 0).groups
    assert groups is not None
    assert [reference for _, reference in groups] == ["b again", "c"]
    assert buffer.settle("learner", [1, 2]) == (1, 2)


@pytest.mark.parametrize("lost", [[0], [1], [0, 2]])
def test_what_was_not_taken_or_is_settled_cannot_be_given_back(lost: list[int]) -> None:
    buffer = index()
    for ordinal in range(3):
        buffer.commit(info(ordinal), "x")
    buffer.take("learner", 1, 0)
    buffer.settle("learner", [0])
    before = buffer.stats(0)
    with pytest.raises(ValueError, match=f"learner gives back ordinal {lost[0]}, which it has not taken"):
        buffer.give_back("learner", lost)
    assert buffer.stats(0) == before


def given_back_by_one_of_two() -> BufferIndex[str]:
    """An index whose only group both consumers have taken and the learner has given back."""
    buffer = index("learner", "audit")
    buffer.commit(info(0), "a")
    buffer.take("learner", 1, 0)
    buffer.take("audit", 1, 0)
    buffer.give_back("learner", [0])
    return buffer


def test_what_one_consumer_gives_back_another_keeps_and_does_not_see_twice() -> None:
    buffer = given_back_by_one_of_two()
    assert buffer.settle("audit", [0]) == ()
    buffer.commit(info(0), "a again")
    assert buffer.missing("audit", 1) == (1,)
    assert ordinals(buffer.take("learner", 1, 0).groups) == [0]
    assert buffer.settle("learner", [0]) == (0,)


def test_bytes_that_both_consumers_find_gone_are_dropped_once() -> None:
    buffer = given_back_by_one_of_two()
    buffer.give_back("audit", [0])
    assert buffer.stats(0).dropped["lost"] == 1
    buffer.commit(info(0), "a again")
    assert ordinals(buffer.take("audit", 1, 0).groups) == ordinals(buffer.take("learner", 1, 0).groups) == [0]


def test_room_keeps_a_place_for_each_outstanding_lease_and_a_commit_is_never_refused_for_it() -> None:
    buffer = index(max_bytes=30)
    assert buffer.room(10, outstanding=2)
    assert not buffer.room(10, outstanding=3)
    for ordinal in range(3):
        buffer.commit(info(ordinal), "x")
    assert not buffer.room(1)
    assert buffer.commit(info(3), "beyond the cap") is CommitResult.ACCEPTED
    buffer.take("learner", 2, 0)
    assert not buffer.room(10)
    buffer.settle("learner", [0, 1])
    assert buffer.room(10)
    assert not buffer.room(11)


def test_a_cap_that_cannot_hold_one_cycle_is_refused_at_the_start() -> None:
    check_capacity(80, 10, 8)
    with pytest.raises(UserError, match=r"buffer\.max_bytes = 79: .* at least 80"):
        check_capacity(79, 10, 8)


def test_settling_what_was_not_taken_or_twice_raises_and_changes_nothing() -> None:
    buffer = index()
    buffer.commit(info(0), "a")
    with pytest.raises(ValueError, match="ordinal 0, which it has not taken"):
        buffer.settle("learner", [0])
    buffer.take("learner", 1, 0)
    with pytest.raises(ValueError, match="ordinal 1"):
        buffer.settle("learner", [0, 1])
    with pytest.raises(ValueError, match="twice"):
        buffer.settle("learner", [0, 0])
    assert buffer.settle("learner", [0]) == (0,)
    with pytest.raises(ValueError, match="ordinal 0"):
        buffer.settle("learner", [0])


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="distinct names"):
        BufferIndex(["a", "a"], max_bytes=1, max_policy_age=0)
    with pytest.raises(ValueError, match="distinct names"):
        BufferIndex([], max_bytes=1, max_policy_age=0)
    with pytest.raises(ValueError, match="max_bytes=0"):
        BufferIndex(["a"], max_bytes=0, max_policy_age=0)
    with pytest.raises(ValueError, match="unknown consumer 'b'"):
        index("a").take("b", 1, 0)
    with pytest.raises(ValueError, match="count of at least 1"):
        index("a").take("a", 0, 0)
    with pytest.raises(ValueError, match="negative"):
        index().commit(info(-1), "x")


def test_a_resumed_index_passes_over_what_is_settled() -> None:
    buffer: BufferIndex[str] = BufferIndex(["learner"], max_bytes=9, max_policy_age=0, start=4, settled=[5, 6])
    assert buffer.commit(info(3), "x") is CommitResult.DUPLICATE
    assert buffer.commit(info(5), "x") is CommitResult.DUPLICATE
    assert buffer.missing("learner", 3) == (4, 7, 8)
    for ordinal in (4, 7, 8):
        buffer.commit(info(ordinal), "x")
    assert ordinals(buffer.take("learner", 3, 0).groups) == [4, 7, 8]
    buffer.settle("learner", [8, 4, 7])
    assert buffer.missing("learner", 1) == (9,)


def test_the_oldest_age_is_that_of_the_oldest_held_group() -> None:
    buffer = index()
    assert buffer.stats(5).oldest_age == 0
    buffer.commit(info(0, policy_version=4), "x")
    buffer.commit(info(1, policy_version=3), "x")
    assert buffer.stats(5).oldest_age == 2


def test_memory_of_settled_ordinals_does_not_grow() -> None:
    buffer = index()
    for ordinal in range(500):
        buffer.commit(info(ordinal), "x")
        buffer.take("learner", 1, 0)
        buffer.settle("learner", [ordinal])
    sizes = [len(part) for part in (buffer._settled, buffer._rows, buffer._finished, buffer._taken["learner"])]
    assert sizes == [0, 0, 0, 0]
    assert buffer.stats(0).settled == 500


@given(order=st.permutations(range(24)), counts=st.lists(st.integers(1, 5), min_size=60, max_size=60), data=st.data())
def test_in_any_order_each_consumer_sees_each_group_exactly_once(
    order: list[int], counts: list[int], data: st.DataObject
) -> None:
    buffer = index("learner", "audit", "judge", max_policy_age=100)
    seen: dict[str, list[int]] = {"learner": [], "audit": [], "judge": []}
    commits = iter(order)
    finished: list[int] = []
    for count in counts:
        ordinal = next(commits, None)
        if ordinal is not None:
            assert buffer.commit(info(ordinal, size_bytes=ordinal), "x") is CommitResult.ACCEPTED
        consumer = data.draw(st.sampled_from(sorted(seen)))
        got = ordinals(buffer.take(consumer, count, 0).groups)
        if got is not None:
            seen[consumer] += got
            finished += buffer.settle(consumer, got)
        held = set(order[: buffer.stats(0).committed]) - set(finished)
        assert buffer.stats(0).bytes == sum(held)
    for consumer, taken in seen.items():
        while (got := ordinals(buffer.take(consumer, 1, 0).groups)) is not None:
            taken.extend(got)
            finished += buffer.settle(consumer, got)
        assert taken == list(range(24))
    assert sorted(finished) == list(range(24))
    assert buffer.stats(0).bytes == 0
