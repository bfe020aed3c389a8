"""A schedule: everything outside of the controller that decides how a run goes, as plain data that shrinks."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

from hypothesis import strategies as st

from advdmd_ray.config import Config

Moment = Literal["idle", "generate", "hand_over", "score", "bring", "learn", "publish", "join"]
"""What a process is at when a fault meets it; `bring`: it comes up.

A gang of the learner learns, which is all of its work, publishes its first weights, or joins once it is placed again.
"""
Kind = Literal["dies", "hangs", "stuck", "slow", "no_room", "node_dies", "deadly"]
Wrong = Literal["loads others", "says others", "ordinal", "prompt_id", "policy_version", "reward_version", "seed"]
"""What is wrong with what a worker does: it loads other weights than were published and says so itself, or is found out
by what it says; or this of a scored group is another than its lease has."""
GROUP_BYTES = 2**16  # the smallest cap that the configuration takes, so that any cap is a number of groups
NEVER = math.inf


@dataclass(frozen=True, slots=True)
class Fault:
    """What befalls a process, once. The gang is one.

    Attributes:
        kind: `hangs` says nothing, `stuck` answers though its device hangs, `slow` takes longer this time, `no_room`
            comes up late, `node_dies` takes all processes of the node with it and the bytes that lie there, `deadly`
            is a death by the prompt.
        moment: What the process is at.
        worker: Which of the workers that are ever at it.
        after: So many such moments pass first; for `idle`, seconds.
        share: Of the time of its work that has passed; beyond 1 it is over, and nobody knows.
        lasts: Seconds of a hang, or more that slow work takes; until Ray says that a process is dead.
    """

    kind: Kind
    moment: Moment
    worker: int
    after: int
    share: float
    lasts: float

    @property
    def name(self) -> str:
        """Kind and moment."""
        return f"{self.kind} ({self.moment})".replace("_", " ")


@dataclass(frozen=True, slots=True)
class End:
    """How a life of the driver ends before the run does.

    Attributes:
        kind: `stop` is a request, `driver` a death between two instructions.
        at: Seconds from the start; which look at the clock.
    """

    kind: Literal["stop", "driver"]
    at: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """A run and all that happens to it.

    Attributes:
        actors: Rollout actors.
        workers: Reward workers.
        leases: Groups that an actor may have at hand.
        groups: Of a cycle.
        cycles: Of the run.
        age: Largest policy age.
        room: Groups that the buffer has room for beyond those of one cycle.
        warm: Cycles of smaller groups at the beginning.
        at_once: Whether a rollout hands its group over itself, as in one process.
        lease_s: See `rollout.lease_s`.
        hang_s: See `ray.hang_s`.
        checkpoints: Cycles between two.
        keep: See `learner.keep_checkpoints`.
        restarts: See `learner.restarts`.
        cycle_timeout_s: See `learner.cycle_timeout_s`.
        paces: Seconds of generate, hand over, score, bring, and the learner's work.
        spread: Factors of these, used in turn.
        order: Which of the tasks that are over are told of next, used in turn.
        faults: Of rollout actors and reward workers.
        gang: Of the learner's gang.
        ends: Of the lives of the driver, one after the other.
        refused: Checkpoints that the disk refuses, counted from 0.
        damaged: Those that are damaged once they are written, counted from 0.
        alike: Whether a version that is made again on another course has the same bytes.
        gone: Fetches that find bytes gone, counted from 0, each with those groups of the cycle, as bits.
        unread: Scorings that find bytes gone, counted from 0.
        not_finite: Ordinals whose first so many attempts are not finite, and who finds it.
        deadly: Prompts that end their process, as long as `deaths` are left.
        deaths: How often they do.
        still: When the driver itself stands still, counted in waits, and for how many seconds.
        late: Workers, counted over both roles, that are not up when a life begins.
        wishes: When the owner asks for how many workers of a role, seconds from the beginning.
        wrong: Work that comes with what is wrong, counted over all that could, and what it is.
    """

    actors: int
    workers: int
    leases: int
    groups: int
    cycles: int
    age: int
    room: int
    warm: int
    at_once: bool
    lease_s: float
    hang_s: float
    checkpoints: int
    keep: int
    restarts: int
    cycle_timeout_s: float
    paces: tuple[float, ...]
    spread: tuple[float, ...]
    order: tuple[int, ...]
    faults: tuple[Fault, ...]
    gang: tuple[Fault, ...]
    ends: tuple[End, ...]
    refused: frozenset[int]
    damaged: frozenset[int]
    alike: bool
    gone: tuple[tuple[int, int], ...]
    unread: frozenset[int]
    not_finite: tuple[tuple[int, int, str], ...]
    deadly: frozenset[int]
    deaths: int
    still: tuple[tuple[int, float], ...]
    late: frozenset[int]
    wishes: tuple[tuple[int, str, int], ...]
    wrong: tuple[tuple[Wrong, int], ...]

    @property
    def ordinals(self) -> int:
        """Groups of the whole run."""
        return self.groups * self.cycles

    def config(self) -> Config:
        """The run's configuration: deadlines end no run here, so that one that stands still is found out."""
        return config_of(
            self.actors,
            self.workers,
            self.leases,
            self.groups,
            self.cycles,
            self.age,
            self.room,
            self.warm,
            self.lease_s,
            self.hang_s,
            self.checkpoints,
            self.keep,
            self.restarts,
            self.cycle_timeout_s,
        )


PROMPTS = 5
PATIENT_S, START_S, GANG_HANG_S = 1e6, 60.0, 20.0


@lru_cache(maxsize=4096)
def config_of(
    actors: int,
    workers: int,
    leases: int,
    groups: int,
    cycles: int,
    age: int,
    room: int,
    warm: int,
    lease_s: float,
    hang_s: float,
    checkpoints: int,
    keep: int,
    restarts: int,
    cycle_timeout_s: float,
) -> Config:
    """See `Schedule`."""
    return Config.model_validate(
        {
            "run": {"cycles": cycles},
            "rollout": {
                "actors": actors,
                "leases": leases,
                "group_size": 4,
                "warm_group_size": 2 if warm else None,
                "groups_per_cycle": groups,
                "max_policy_age": age,
                "lease_s": lease_s,
            },
            "cadence": {"dmd_updates": 1, "warm_dmd_updates": warm},
            "reward": {"workers": workers},
            "buffer": {"max_bytes": (groups + room) * GROUP_BYTES, "take_timeout_s": PATIENT_S},
            "learner": {
                "engine": "torch",
                "cycle_timeout_s": cycle_timeout_s,
                "hang_s": GANG_HANG_S,
                "checkpoint_cycles": checkpoints,
                "keep_checkpoints": keep,
                "restarts": restarts,
            },
            **{name: {"batch_size": 12} for name in ("dmd", "fake_score", "discriminator")},
            "evaluation": {"grid_cycles": 2},
            "quarantine": {"attempts": 2, "processes": 3, "share": 1.0},
            "ray": {"hang_s": hang_s, "start_timeout_s": START_S},
        }
    )


def _faults(
    kind: Kind, moments: tuple[Moment, ...], lasts: tuple[float, ...], after: tuple[int, int] = (0, 4)
) -> st.SearchStrategy[Fault]:
    return st.builds(
        Fault,
        kind=st.just(kind),
        moment=st.sampled_from(moments),
        worker=st.integers(0, 3),
        after=st.integers(*after),
        share=st.sampled_from([0.0, 0.5, 1.0, 1.5]),
        lasts=st.sampled_from(lasts),
    )


ANY: tuple[Moment, ...] = ("generate", "hand_over", "score", "bring", "idle")
WORK: tuple[Moment, ...] = ("generate", "hand_over", "score")
faults = st.one_of(
    _faults("dies", ANY, (0.0, 3.0)),
    _faults("hangs", ANY, (NEVER, 2.0, 15.0)),
    _faults("stuck", WORK, (0.0,)),
    _faults("slow", WORK, (5.0, 12.0, 40.0)),
    _faults("no_room", ("bring",), (20.0, 150.0)),
    _faults("node_dies", ANY, (0.0, 15.0)),
)
gang_faults = st.one_of(
    _faults("dies", ("learn", "idle"), (0.0, 3.0), (3, 14)),
    _faults("hangs", ("learn", "idle"), (NEVER, 15.0), (3, 14)),
    _faults("stuck", ("learn", "idle"), (0.0,), (3, 14)),
    _faults("slow", ("learn",), (12.0, 40.0), (3, 14)),
    _faults("dies", ("publish", "join"), (0.0,), (0, 2)),
    _faults("hangs", ("publish", "join"), (NEVER, 15.0), (0, 2)),
)
ends = st.one_of(
    st.builds(End, st.just("stop"), st.integers(0, 30)),
    st.builds(End, st.just("driver"), st.integers(0, 1500)),
)
paces = st.sampled_from([1.0, 0.0, 0.25, 3.0])

schedules = st.builds(
    Schedule,
    actors=st.integers(1, 4),
    workers=st.integers(1, 3),
    leases=st.integers(1, 2),
    groups=st.integers(1, 3),
    cycles=st.sampled_from([3, 2, 4, 5]),
    age=st.integers(0, 3),
    room=st.integers(0, 4),
    warm=st.integers(0, 2),
    at_once=st.booleans(),
    lease_s=st.sampled_from([60.0, 2.0, 6.0, 20.0]),
    hang_s=st.sampled_from([10.0, 3.0]),
    checkpoints=st.sampled_from([1, 2, 3]),
    keep=st.integers(1, 2),
    restarts=st.sampled_from([2, 1, 3, 0]),
    cycle_timeout_s=st.sampled_from([150.0, 60.0]),
    paces=st.tuples(paces, paces, paces, st.sampled_from([1.0, 4.0]), paces),
    spread=st.lists(st.sampled_from([1.0, 0.5, 2.0]), min_size=1, max_size=7).map(tuple),
    order=st.lists(st.integers(0, 7), min_size=1, max_size=7).map(tuple),
    faults=st.lists(faults, max_size=8).map(tuple),
    gang=st.lists(gang_faults, max_size=3).map(tuple),
    ends=st.lists(ends, max_size=2).map(tuple),
    refused=st.frozensets(st.integers(0, 5), max_size=2),
    damaged=st.frozensets(st.integers(0, 5), max_size=2),
    alike=st.booleans(),
    gone=st.lists(st.tuples(st.integers(0, 7), st.integers(1, 7)), max_size=2).map(tuple),
    unread=st.frozensets(st.integers(0, 20), max_size=2),
    not_finite=st.lists(
        st.tuples(st.integers(0, 9), st.integers(1, 3), st.sampled_from(["rollout", "reward"])), max_size=2
    ).map(tuple),
    deadly=st.frozensets(st.integers(0, PROMPTS - 1), max_size=2),
    deaths=st.integers(1, 6),
    still=st.lists(st.tuples(st.integers(0, 60), st.sampled_from([5.0, 100.0])), max_size=1).map(tuple),
    late=st.frozensets(st.integers(0, 3), max_size=2),
    wishes=st.lists(
        st.tuples(st.integers(0, 40), st.sampled_from(["rollout", "reward"]), st.integers(1, 4)), max_size=4
    ).map(tuple),
    wrong=st.lists(st.tuples(st.sampled_from(get_args(Wrong)), st.integers(0, 12)), max_size=1).map(tuple),
)
