"""Whatever happens, the frontier says what a plain one says that looks at all its leases each time."""

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from advdmd_ray.controller.frontier import PromptFrontier
from advdmd_ray.stations.records import Lease


@dataclass
class Entry:
    """An ordinal that wants a group."""

    lease: Lease | None
    since: float = 0.0
    timed: bool = True


class Plain:
    """The same rules, with a search for each answer."""

    def __init__(self, lease_s: float) -> None:
        self.lease_s, self.next = lease_s, 0
        self.wanted: dict[int, Entry] = {}
        self.settled: set[int] = set()

    def lease(self, now: float, limit: int) -> int | None:
        queued = [ordinal for ordinal, entry in self.wanted.items() if entry.lease is None]
        if queued:
            return min(queued)
        if self.next >= limit:
            return None
        self.next += 1
        return self.next - 1

    def pass_on(self, lease: Lease, now: float, *, timed: bool) -> bool:
        entry = self.wanted.get(lease.ordinal)
        if entry is not None and entry.lease in (None, lease):
            self.wanted[lease.ordinal] = Entry(lease, now, timed)
        return entry is not None

    def expire(self, now: float) -> list[int]:
        overdue = [
            ordinal
            for ordinal, entry in sorted(self.wanted.items())
            if entry.lease is not None and entry.timed and now - entry.since >= self.lease_s
        ]
        for ordinal in overdue:
            self.wanted[ordinal] = Entry(None)
        return overdue


class Both(RuleBasedStateMachine):
    """Every call goes to both."""

    @initialize(lease_s=st.integers(1, 6))
    def start(self, lease_s: int) -> None:
        self.frontier, self.plain = PromptFrontier(1, 5, float(lease_s)), Plain(float(lease_s))
        self.now = 0.0
        self.leases: list[Lease] = []

    @rule(seconds=st.integers(0, 3), count=st.integers(1, 5), limit=st.integers(0, 12))
    def lease(self, seconds: int, count: int, limit: int) -> None:
        self.now += seconds
        for _ in range(count):
            lease = self.frontier.lease(self.now, "a", 0, limit)
            assert (None if lease is None else lease.ordinal) == self.plain.lease(self.now, limit)
            if lease is not None:
                self.leases.append(lease)
                self.plain.wanted[lease.ordinal] = Entry(lease, self.now)

    @rule(seconds=st.integers(0, 8))
    def expire(self, seconds: int) -> None:
        self.now += seconds
        assert [held.lease.ordinal for held in self.frontier.expire(self.now)] == self.plain.expire(self.now)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), scored=st.booleans())
    def pass_on(self, data: st.DataObject, *, scored: bool) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        said = self.frontier.renew(lease, self.now, "b") if scored else self.frontier.made(lease, self.now)
        assert said == self.plain.pass_on(lease, self.now, timed=scored)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        entry = self.plain.wanted.get(lease.ordinal)
        assert self.frontier.lost(lease) == (entry is not None and entry.lease == lease)
        if entry is not None and entry.lease == lease:
            self.plain.wanted[lease.ordinal] = Entry(None)

    @precondition(lambda self: self.plain.next)
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        ordinal = data.draw(st.integers(0, self.plain.next - 1))
        assert self.frontier.complete(ordinal) == (self.plain.wanted.pop(ordinal, None) is not None)

    @precondition(lambda self: set(range(self.plain.next)) - self.plain.settled)
    @rule(data=st.data())
    def drop_or_settle(self, data: st.DataObject) -> None:
        ordinal = data.draw(st.sampled_from(sorted(set(range(self.plain.next)) - self.plain.settled)))
        if ordinal in self.plain.wanted:
            self.frontier.reissue([ordinal])
            self.plain.wanted[ordinal] = Entry(None)
        else:
            self.frontier.settle([ordinal])
            self.plain.settled.add(ordinal)

    @invariant()
    def both_say_the_same(self) -> None:
        held = {ordinal: entry.lease for ordinal, entry in self.plain.wanted.items() if entry.lease is not None}
        unsettled = set(range(self.plain.next)) - self.plain.settled
        low = min(unsettled, default=self.plain.next)
        assert {one.lease.ordinal: one.lease for one in self.frontier.outstanding()} == held
        assert (self.frontier.leased, self.frontier.reserved) == (len(held), len(self.plain.wanted))
        assert self.frontier.next_ordinal == self.plain.next
        assert self.frontier.first_unsettled == low
        assert self.frontier.settled_beyond() == tuple(sorted(o for o in self.plain.settled if o > low))
        assert [self.frontier.wants(o) for o in range(15)] == [o in self.plain.wanted for o in range(15)]


Both.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestFrontierAndAPlainOne = Both.TestCase
