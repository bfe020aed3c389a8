"""The buffer's index: the one owner of row state. It holds `GroupInfo` and opaque references, never bytes.

A group passes through: committed (held) -> taken by the learner -> settled -> forgotten. One that is dropped, as it
is too old or its bytes are gone, is as if it had never been committed: its ordinal is issued again, and its next commit
counts. The index is pure state for one thread and waits for nothing; whoever waits calls it again.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from advdmd_ray.errors import UserError
from advdmd_ray.stations.records import GroupInfo

Reference = TypeVar("Reference")


class CommitResult(Enum):
    """What became of a commit."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True)
class Take(Generic[Reference]):
    """What one call of `take` gave.

    Attributes:
        groups: The groups asked for, in ordinal order, or None while one of them is missing.
        dropped: Ordinals dropped by this call; they must be issued again.
    """

    groups: tuple[tuple[GroupInfo, Reference], ...] | None
    dropped: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BufferStats:
    """What is held now.

    Attributes:
        groups: Number of groups.
        bytes: Their serialised bytes.
    """

    groups: int
    bytes: int


def check_capacity(max_bytes: int, group_bytes: int, groups_per_cycle: int) -> None:
    """Refuses a byte cap that would deadlock: one that cannot hold the groups of one learner cycle.

    Raises:
        UserError: if `groups_per_cycle * group_bytes > max_bytes`.
    """
    required = groups_per_cycle * group_bytes
    if required > max_bytes:
        raise UserError(
            f"buffer.max_bytes = {max_bytes}: one cycle takes {groups_per_cycle} groups of {group_bytes} bytes; "
            f"set buffer.max_bytes to at least {required} or lower rollout.group_size or rollout.groups_per_cycle"
        )


class BufferIndex(Generic[Reference]):
    """Row state, admission by bytes, and the learner's cursor.

    Args:
        max_bytes: Cap of `room`, in serialised bytes.
        max_policy_age: Largest `current_version - policy_version` that `take` gives out.
        start: First ordinal that is not settled, when a run resumes.
        settled: Settled ordinals at or above `start`, when a run resumes.

    Raises:
        ValueError: for a cap below 1, or a negative age or start.
    """

    def __init__(self, *, max_bytes: int, max_policy_age: int, start: int = 0, settled: Iterable[int] = ()) -> None:
        if max_bytes < 1 or max_policy_age < 0 or start < 0:
            raise ValueError(f"got max_bytes={max_bytes}, max_policy_age={max_policy_age}, start={start}")
        self._max_bytes = max_bytes
        self._max_policy_age = max_policy_age
        self._rows: dict[int, tuple[GroupInfo, Reference]] = {}
        self._bytes = 0
        # Everything below the low watermark is settled; above it, what `_settled` lists.
        self._low = start
        self._settled = {ordinal for ordinal in settled if ordinal >= start}
        self._advance_watermark()
        self._cursor = self._low
        self._taken: set[int] = set()
        # The take that is waited for: what it asked for, its ordinals, and those of them that are not held.
        self._asked: tuple[int, int, int] | None = None
        self._window: tuple[int, ...] = ()
        self._missing: set[int] = set()
        self._arrived: list[int] = []  # no longer missing since the last call, not looked at yet

    def commit(self, info: GroupInfo, reference: Reference) -> CommitResult:
        """Takes a group in. The first commit of an ordinal wins; never refused for lack of room, never blocks.

        Raises:
            ValueError: for a negative ordinal or size.
        """
        if info.ordinal < 0 or info.size_bytes < 0:
            raise ValueError(f"ordinal and size must not be negative, got {info.ordinal} and {info.size_bytes}")
        if info.ordinal in self._rows or self._is_settled(info.ordinal):
            return CommitResult.DUPLICATE
        self._rows[info.ordinal] = (info, reference)
        self._bytes += info.size_bytes
        if info.ordinal in self._missing:
            self._missing.remove(info.ordinal)
            self._arrived.append(info.ordinal)
        return CommitResult.ACCEPTED

    def room(self, size_bytes: int, outstanding: int = 0) -> bool:
        """Whether one more group of `size_bytes` may be leased, asked before a new ordinal is leased.

        True iff `held + (outstanding + 1) * size_bytes <= max_bytes`: each outstanding lease keeps its place. An
        ordinal issued again already has its place and needs no room, and new ordinals are leased in order, so the
        groups that the learner waits for can always come in and a full buffer cannot deadlock (see `check_capacity`).

        Args:
            size_bytes: Expected size of a group.
            outstanding: Ordinals leased or to be issued again, not yet committed.
        """
        return self._bytes + (outstanding + 1) * size_bytes <= self._max_bytes

    def take(self, count: int, current_version: int) -> Take[Reference]:
        """The next `count` groups in ordinal order, all of them or none.

        Guarantee: no group is given out whose age `current_version - policy_version` lies outside
        [0, max_policy_age]. Such groups among the next `count` are dropped, even when others are still missing, so that
        they are issued again at once.

        Asked again for the same groups, it looks only at those that were committed meanwhile.

        Raises:
            ValueError: for a count below 1.
        """
        if self._asked != (count, current_version, self._cursor):
            self._look_at(count, current_version)
        dropped = tuple(ordinal for ordinal in sorted(self._arrived) if self._unfit(ordinal, current_version))
        self._arrived.clear()
        for ordinal in dropped:
            self._remove(ordinal)
        self._missing.update(dropped)
        if self._missing:
            return Take(None, dropped)
        self._cursor = self._window[-1] + 1
        self._taken.update(self._window)
        return Take(tuple(self._rows[ordinal] for ordinal in self._window), dropped)

    def give_back(self, lost: Iterable[int]) -> None:
        """Undoes what was taken and is not settled: the bytes of some of these groups are gone.

        Those of `lost` are dropped and must be issued again; all are given out again, in order, once they are held.

        Raises:
            ValueError: for a lost ordinal that is not taken or is settled.
        """
        for ordinal in self._all_taken(lost, "given back"):
            self._remove(ordinal)
        self._cursor = min(self._taken, default=self._cursor)
        self._taken.clear()
        self._asked = None

    def settle(self, ordinals: Iterable[int]) -> None:
        """Says that the learner is finished with these groups; their references are forgotten, their bytes freed.

        Nothing changes if one of them is refused.

        Raises:
            ValueError: for an ordinal that is not taken, is settled before, or stands there twice.
        """
        settled = self._all_taken(ordinals, "settled")
        if len(set(settled)) != len(settled):
            raise ValueError(f"an ordinal is settled twice: {list(settled)}")
        for ordinal in settled:
            self._remove(ordinal)
        self._taken.difference_update(settled)
        self._settled.update(settled)
        self._advance_watermark()

    def stats(self) -> BufferStats:
        """What is held now."""
        return BufferStats(groups=len(self._rows), bytes=self._bytes)

    def _all_taken(self, ordinals: Iterable[int], done: str) -> tuple[int, ...]:
        """The same ordinals, once all of them are taken and not settled."""
        ordinals = tuple(ordinals)
        for ordinal in ordinals:
            if ordinal not in self._taken:
                raise ValueError(f"ordinal {ordinal} is {done}, but it was not taken or is settled already")
        return ordinals

    def _look_at(self, count: int, current_version: int) -> None:
        """Finds the next `count` ordinals; only a resumed run has settled ones to pass over."""
        if count < 1:
            raise ValueError(f"a take needs a count of at least 1, got {count}")
        following = (ordinal for ordinal in itertools.count(self._cursor) if not self._is_settled(ordinal))
        self._window = tuple(itertools.islice(following, count))
        self._arrived = [ordinal for ordinal in self._window if ordinal in self._rows]
        self._missing = set(self._window).difference(self._arrived)
        self._asked = count, current_version, self._cursor

    def _unfit(self, ordinal: int, current_version: int) -> bool:
        row = self._rows.get(ordinal)
        return row is not None and not 0 <= current_version - row[0].policy_version <= self._max_policy_age

    def _remove(self, ordinal: int) -> None:
        self._bytes -= self._rows.pop(ordinal)[0].size_bytes

    def _is_settled(self, ordinal: int) -> bool:
        return ordinal < self._low or ordinal in self._settled

    def _advance_watermark(self) -> None:
        while self._low in self._settled:
            self._settled.remove(self._low)
            self._low += 1
