"""What outlives the driver: the schedule, the disk, the time, and what the learner has learned as of its checkpoint."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advdmd_ray.controller.staff import Staff, worker_names
from advdmd_ray.controller.telemetry import LEARNER
from advdmd_ray.errors import CheckpointError
from advdmd_ray.learner.checkpoint import Checkpoint
from advdmd_ray.metrics.catalogue import CATALOGUE, Kind
from advdmd_ray.metrics.series import Sample
from advdmd_ray.stations.records import Stream
from advdmd_ray.stations.weights.snapshot import Manifest
from schedules.drawn import Fault, Moment, Schedule
from schedules.made import manifest


class DriverDied(BaseException):
    """Between two instructions, wherever the driver stands."""


class Clock:
    """Seconds that pass when somebody waits, and the instruction before which the driver dies."""

    def __init__(self) -> None:
        self.now, self.looks = 0.0, 0
        self.dies_at: int | None = None

    def __call__(self) -> float:
        self.looks += 1
        if self.looks == self.dies_at:
            raise DriverDied
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Totals:
    """A hub that keeps the totals of counters only, and goes on from those of a checkpoint."""

    def __init__(self, before: Mapping[str, float]) -> None:
        self._of = dict(before)

    def record(self, samples: Sequence[Sample], cycle: int | None = None) -> None:
        for sample in samples:
            if CATALOGUE[sample.name].kind is Kind.COUNTER:
                assert sample.value >= 0, f"{sample.key} falls by {-sample.value}"
                self._of[sample.key] = self._of.get(sample.key, 0.0) + sample.value

    def since(self, before: Mapping[str, float]) -> "Totals":
        """What came after these."""
        return Totals({key: value - before.get(key, 0.0) for key, value in self._of.items()})

    def go_back(self, before: Mapping[str, float]) -> None:
        """To those of a checkpoint."""
        self._of = dict(before)

    def of(self, name: str) -> float:
        """Sum over all labels."""
        return sum(value for key, value in self._of.items() if key == name or key.startswith(name + "{"))


@dataclass(frozen=True, slots=True)
class Disk:
    """A checkpoint, or the teacher.

    Attributes:
        version: Of its weights.
        facts: What the controller gave.
        trained: Ordinals that its weights have learned from, in their order.
        seen: What the shell had counted until then.
        made: What stands for the bytes of each version up to it.
        damaged: Whether it cannot be read.
    """

    version: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    trained: tuple[int, ...] = ()
    seen: Mapping[str, int] = field(default_factory=dict)
    made: tuple[int, ...] = (0,)
    damaged: bool = False

    @property
    def path(self) -> str:
        """Its name, as the learner says it."""
        return f"step-{self.version}"


class World:
    """What a schedule makes of the time, over all lives of the driver.

    Args:
        schedule: What is to happen.
        met: Counts what did, by its name.
    """

    def __init__(self, schedule: Schedule, met: Counter[str]) -> None:
        self.schedule, self.config, self.met = schedule, schedule.config(), met
        self.clock, self.disks = Clock(), list[Disk]()
        self.trained, self.made, self._most_made = list[int](), [0], 0
        self.lives = self.courses = 0
        self.deaths_left = schedule.deaths
        self.refused, self.gone, self.unread = set(schedule.refused), dict(schedule.gone), set(schedule.unread)
        self.damaged, self.wrong = set(schedule.damaged), {what: {number} for what, number in schedule.wrong}
        self.not_finite = {ordinal: (times, finder) for ordinal, times, finder in schedule.not_finite}
        self.counts: Counter[str] = Counter()  # of checkpoints, fetches, scorings, over all lives
        self.config_counts = {"rollout": self.config.rollout.actors, "reward": self.config.reward.workers}
        self.faults = self._by_moment(schedule.faults)
        self._turns: Counter[str] = Counter()

    def _by_moment(self, faults: Sequence[Fault]) -> dict[tuple[str, Moment], list[tuple[int, Fault]]]:
        counts = {
            role: max([self.config_counts[role], *(count for _, each, count in self.schedule.wishes if each == role)])
            for role in self.config_counts
        }
        actors, workers = (worker_names(role, counts[role]) for role in ("rollout", "reward"))
        at_it = {"generate": actors, "hand_over": actors, "score": workers}
        found: dict[tuple[str, Moment], list[tuple[int, Fault]]] = {}
        for fault in faults:
            names = at_it.get(fault.moment, [*actors, *workers])
            found.setdefault((names[fault.worker % len(names)], fault.moment), []).append((fault.after, fault))
        for fault in self.schedule.gang:
            found.setdefault((LEARNER, fault.moment), []).append((fault.after, fault))
        return found

    # Checkpoints and versions ---------------------------------------------------------------------------------------

    @property
    def disk(self) -> Disk:
        """The newest checkpoint that can be read; where there is none, the teacher."""
        return next((disk for disk in reversed(self.disks) if not disk.damaged), Disk())

    def opened(self, path: Path) -> Checkpoint:
        """See `open_checkpoint`."""
        disk = next((disk for disk in self.disks if disk.path == path.name), None)
        if disk is None or disk.damaged:
            raise CheckpointError(f"{path}: {'gone' if disk is None else 'damaged'}")
        return Checkpoint(path, disk.version, {"controller": disk.facts, "learner": {"version": disk.version}}, ())

    def snapshot(self, facts: Mapping[str, Any], seen: Mapping[str, int]) -> Disk:
        """A checkpoint of now: what a file would keep."""
        damaged = self.comes("checkpoint damaged", self.damaged)
        version = len(self.made) - 1
        return Disk(version, json.loads(json.dumps(facts)), tuple(self.trained), dict(seen), tuple(self.made), damaged)

    def keep(self, disk: Disk) -> None:
        """See `save_checkpoint`: it is written, and what it makes obsolete is gone."""
        earlier = [each for each in self.disks if each.version < disk.version]
        self.disks = [*earlier, disk][-self.config.learner.keep_checkpoints :]

    def go_on_from(self, disk: Disk) -> None:
        """The learner goes back to a checkpoint."""
        self.courses += 1
        self.trained[:], self.made[:] = disk.trained, disk.made

    def learn(self, ordinals: Sequence[int]) -> int:
        """The learner trains on groups; returns the version that it makes."""
        self.trained.extend(ordinals)
        self._most_made += 1
        self.made.append(len(self.made) if self.schedule.alike else self._most_made)
        return len(self.made) - 1

    def manifest(self, stream: Stream, version: int) -> Manifest:
        """That of a version on the present course."""
        return manifest(stream, version, self.made[version])

    # Time -----------------------------------------------------------------------------------------------------------

    def wanted(self) -> dict[str, int]:
        """See `Wishes`."""
        due = sorted(wish for wish in self.schedule.wishes if wish[0] <= self.clock.now)
        return {role: count for _, role, count in due}

    def tell(self, staff: Mapping[str, Staff]) -> None:
        """See `Wishes`."""
        wanted = self.config_counts | self.wanted()
        for role, each in staff.items():
            assert each.asked == wanted[role]
            assert each.up + each.coming == each.asked, f"{role}: {each}"

    def happens(self, name: str) -> None:
        """Something that the schedule has in store happens."""
        self.met[name] += 1

    def turn(self, name: str, values: Sequence[Any]) -> Any:
        """The next of these values."""
        self._turns[name] += 1
        return values[self._turns[name] % len(values)]

    def seconds(self, kind: int) -> float:
        """What the next work of a kind takes; see `Schedule.paces`."""
        return self.schedule.paces[kind] * self.turn("spread", self.schedule.spread)

    def comes(self, name: str, store: set[int]) -> bool:
        """Whether this is one of the occasions, counted by name, at which something happens; each comes once."""
        number = self.counts[name]
        self.counts[name] += 1
        if number not in store:
            return False
        store.remove(number)
        self.happens(name)
        return True
