"""The buffer's index: the one owner of row state. It holds `GroupInfo` and opaque references, never bytes.

A group passes through: committed (held) -> taken by each consumer -> settled by each consumer -> forgotten. A
group that is dropped, because it is too old or its bytes are gone, is as if it had never been committed: its ordinal is
issued again, and its next commit counts. The index is pure state for one thread and waits for nothing; whoever waits
calls it again.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic, Literal, TypeVar, get_args

from advdmd_ray.errors import UserError
from advdmd_ray.stations.records import GroupInfo

Reference = TypeVar("Reference")
DropReason = Literal["age", "future", "lost"]


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
    """Counters since the start, and gauges of now.

    Attributes:
        groups: Groups held.
        bytes: Serialised bytes held.
        committed: Accepted commits.
        duplicates: Refused commits.
        taken: Groups given out, summed over consumers.
        settled: Groups every consumer has finished.
        dropped: Groups dropped, by reason: `age` too old, `future` newer than the taker, `lost` bytes gone.
        oldest_age: Largest policy age of a held group, in versions; 0 when nothing is held.
    """

    groups: int
    bytes: int
    committed: int
    duplicates: int
    taken: int
    settled: int
    dropped: Mapping[DropReason, int]
    oldest_age: int


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
    """Row state, admission by bytes, and a cursor per named consumer.

    Args:
        consumers: Names of all consumers; each sees every group exactly once.
        max_bytes: Cap of `room`, in serialised bytes.
        max_policy_age: Largest `current_version - policy_version` that `take` gives out.
        start: First ordinal that is not settled, when a run resumes.
        settled: Settled ordinals at or above `start`, when a run resumes.

    Raises:
        ValueError: for no or repeated consumer names or a negative cap.
    """

    def __init__(
        self,
        consumers: Sequence[str],
        *,
        max_bytes: int,
        max_policy_age: int,
        start: int = 0,
        settled: Iterable[int] = (),
    ) -> None:
        if not consumers or len(set(consumers)) != len(consumers):
            raise ValueError(f"consumers need distinct names, at least one, got {list(consumers)}")
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
        self._cursor = dict.fromkeys(consumers, self._low)
        self._taken: dict[str, set[int]] = {name: set() for name in consumers}
        self._finished: dict[int, set[str]] = {}
        self._committed = self._duplicates = self._taken_count = self._settled_count = 0
        self._dropped: dict[DropReason, int] = dict.fromkeys(get_args(DropReason), 0)

    def commit(self, info: GroupInfo, reference: Reference) -> CommitResult:
        """Takes a group in. The first commit of an ordinal wins; never refused for lack of room, never blocks.

        Raises:
            ValueError: for a negative ordinal or size.
        """
        if info.ordinal < 0 or info.size_bytes < 0:
            raise ValueError(f"ordinal and size must not be negative, got {info.ordinal} and {info.size_bytes}")
        if info.ordinal in self._rows or self._is_settled(info.ordinal):
            self._duplicates += 1
            return CommitResult.DUPLICATE
        self._rows[info.ordinal] = (info, reference)
        self._bytes += info.size_bytes
        self._committed += 1
        return CommitResult.ACCEPTED

    def room(self, size_bytes: int, outstanding: int = 0) -> bool:
        """Whether one more group of `size_bytes` may be leased, asked before a new ordinal is leased.

        True iff `held + (outstanding + 1) * size_bytes <= max_bytes`: each outstanding lease keeps its place. An
        ordinal issued again already has its place and needs no room, and new ordinals are leased in order, so the
        groups a consumer waits for can always come in and a full buffer cannot deadlock (see `check_capacity`).

        Args:
            size_bytes: Expected size of a group.
            outstanding: Ordinals leased or to be issued again, not yet committed.
        """
        return self._bytes + (outstanding + 1) * size_bytes <= self._max_bytes

    def take(self, consumer: str, count: int, current_version: int) -> Take[Reference]:
        """The consumer's next `count` groups in ordinal order, all of them or none.

        Guarantee: no group is given out whose age `current_version - policy_version` lies outside
        [0, max_policy_age]. Such groups among the next `count` are dropped, with reason `age` or `future`, even
        when others are still missing, so that they are issued again at once. A consumer that had taken a dropped
        group before does not see it again.

        Raises:
            ValueError: for an unknown consumer or a count below 1.
        """
        window = self._window(consumer, count)
        dropped: list[int] = []
        for ordinal in window:
            reason = self._unfit(ordinal, current_version)
            if reason is not None:
                self._remove(ordinal, reason)
                dropped.append(ordinal)
        if any(ordinal not in self._rows for ordinal in window):
            return Take(None, tuple(dropped))
        self._cursor[consumer] = window[-1] + 1
        self._taken[consumer].update(window)
        self._taken_count += count
        return Take(tuple(self._rows[ordinal] for ordinal in window), tuple(dropped))

    def missing(self, consumer: str, count: int) -> tuple[int, ...]:
        """The ordinals that a `take` of `count` waits for; empty when it can succeed.

        Raises:
            ValueError: for an unknown consumer or a count below 1.
        """
        return tuple(ordinal for ordinal in self._window(consumer, count) if ordinal not in self._rows)

    def give_back(self, consumer: str, lost: Iterable[int]) -> None:
        """Undoes what the consumer took and has not settled: the bytes of some of these groups are gone.

        Those of `lost` are dropped and must be issued again; all are given out again, in order, once they are held.

        Raises:
            ValueError: for an unknown consumer, or a lost ordinal that it has not taken or has settled.
        """
        lost = tuple(lost)
        taken = self._taken_with(consumer, lost, "gives back")
        for ordinal in lost:
            if ordinal in self._rows:  # another consumer may have found its bytes gone first
                self._remove(ordinal, "lost")
        self._cursor[consumer] = min(taken, default=self._cursor[consumer])
        taken.clear()

    def settle(self, consumer: str, ordinals: Iterable[int]) -> tuple[int, ...]:
        """Says that the consumer is finished with these groups; nothing changes if one of them is refused.

        Returns:
            The ordinals that every consumer has now settled; their references are forgotten, their bytes freed.

        Raises:
            ValueError: for an unknown consumer, or an ordinal it has not taken or has settled before.
        """
        ordinals = tuple(ordinals)
        taken = self._taken_with(consumer, ordinals, "settles")
        if len(set(ordinals)) != len(ordinals):
            raise ValueError(f"{consumer} settles an ordinal twice: {list(ordinals)}")
        complete: list[int] = []
        for ordinal in ordinals:
            taken.remove(ordinal)
            finished = self._finished.setdefault(ordinal, set())
            finished.add(consumer)
            if len(finished) == len(self._cursor):
                complete.append(ordinal)
                self._forget(ordinal)
        self._advance_watermark()
        return tuple(complete)

    def stats(self, current_version: int) -> BufferStats:
        """Counters and gauges; ages are measured from `current_version`."""
        oldest = min((info.policy_version for info, _ in self._rows.values()), default=current_version)
        return BufferStats(
            groups=len(self._rows),
            bytes=self._bytes,
            committed=self._committed,
            duplicates=self._duplicates,
            taken=self._taken_count,
            settled=self._settled_count,
            dropped=dict(self._dropped),
            oldest_age=max(0, current_version - oldest),
        )

    def _taken_by(self, consumer: str) -> set[int]:
        if consumer not in self._taken:
            raise ValueError(f"unknown consumer {consumer!r}; known are {sorted(self._taken)}")
        return self._taken[consumer]

    def _taken_with(self, consumer: str, ordinals: Iterable[int], does: str) -> set[int]:
        """What the consumer has taken and not settled; refuses ordinals that are not among it."""
        taken = self._taken_by(consumer)
        for ordinal in ordinals:
            if ordinal not in taken:
                raise ValueError(f"{consumer} {does} ordinal {ordinal}, which it has not taken or settled before")
        return taken

    def _window(self, consumer: str, count: int) -> list[int]:
        """The next `count` ordinals of a consumer; only a resumed run has settled ones to pass over."""
        self._taken_by(consumer)
        if count < 1:
            raise ValueError(f"a take needs a count of at least 1, got {count}")
        window: list[int] = []
        ordinal = self._cursor[consumer]
        while len(window) < count:
            if not self._is_settled(ordinal):
                window.append(ordinal)
            ordinal += 1
        return window

    def _unfit(self, ordinal: int, current_version: int) -> DropReason | None:
        row = self._rows.get(ordinal)
        if row is None:
            return None
        age = current_version - row[0].policy_version
        if age > self._max_policy_age:
            return "age"
        return "future" if age < 0 else None

    def _remove(self, ordinal: int, reason: DropReason) -> None:
        self._bytes -= self._rows.pop(ordinal)[0].size_bytes
        self._dropped[reason] += 1

    def _forget(self, ordinal: int) -> None:
        self._bytes -= self._rows.pop(ordinal)[0].size_bytes
        del self._finished[ordinal]
        self._settled.add(ordinal)
        self._settled_count += 1

    def _is_settled(self, ordinal: int) -> bool:
        return ordinal < self._low or ordinal in self._settled

    def _advance_watermark(self) -> None:
        while self._low in self._settled:
            self._settled.remove(self._low)
            self._low += 1
