"""The processes of a life of the driver and what they are at, under a clock that only waiting moves."""

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from advdmd_ray.controller.protocols import Task
from advdmd_ray.controller.telemetry import LEARNER
from advdmd_ray.errors import WorkerLostError
from advdmd_ray.stations.records import Lease
from advdmd_ray.stations.weights.snapshot import Manifest
from schedules.drawn import NEVER, Fault, Moment

KILL_S = 5.0
"""Until Ray has ended a process that does not listen."""
ASIDE = ("ping", "bring")
NETWORK = ("generate", "score")
"""What the network of a worker is at: one after the other."""
LONGER = ("slow", "no_room")


class Node:
    """A machine. What lies on it is gone when it is."""

    gone = False


@dataclass(eq=False, slots=True)
class Process:
    """A process of a worker.

    Attributes:
        worker: Its name.
        node: Where it is.
        told: Whether the controller was told that it is up.
        ended: When it ended.
        notice: Seconds until its end is known.
        silent: When it says something again, seconds.
        hushed: Since when it has said nothing.
        stuck: Whether its device hangs.
        running: The weights that it has.
        at_hand: Leases of groups that it generates or has, and the weights that make them.
        at: What its network is at.
    """

    worker: str
    node: Node
    told: bool = True
    ended: float | None = None
    notice: float = 0.0
    silent: float = 0.0
    hushed: float = 0.0
    stuck: bool = False
    running: Manifest | None = None
    at_hand: dict[Lease, Manifest] = field(default_factory=dict)
    at: Task | None = None

    def hangs(self, now: float, seconds: float) -> None:
        """It says nothing for so long; one that hangs already does so for longer, since it began to."""
        self.hushed = self.hushed if self.silent > now else now
        self.silent = max(self.silent, now) + seconds


@dataclass(eq=False, slots=True)
class Work:
    """A task that the controller has not been told the end of.

    Attributes:
        task: The task.
        what: A moment, or `ping`, or what the learner does.
        process: Who does it; None: the learner.
        outcome: Gives it, when the controller asks.
        ends: When it is over, seconds.
        lost: Whether it came to nothing as its process ended.
    """

    task: Task
    what: str
    process: Process | None
    outcome: Callable[[], Any]
    ends: float
    lost: bool = False


class Processes:
    """Knows all work, and has faults meet it.

    Args:
        now: Seconds at the beginning.
        faults: Those that may still happen, by worker and moment; each is taken out when it meets its process.
        met: Is told of a fault that happens.

    Attributes:
        of: The present process of each rollout actor and reward worker.
        gang: The learner's.
        open: What the controller waits for.
    """

    def __init__(
        self, now: float, faults: dict[tuple[str, Moment], list[tuple[int, Fault]]], met: Callable[[str], None]
    ) -> None:
        self.now, self._began, self._faults, self._met = now, now, faults, met
        self.of: dict[str, Process] = {}
        self.gang = Process(LEARNER, Node())
        self.open: dict[Task, Work] = {}
        self._left: list[Work] = []  # what workers are still at that nobody waits for any more
        self._coming: list[tuple[float, int, Fault, Process, Work | None]] = []
        self._number = count()

    def begin(
        self, task: Task, what: str, seconds: float, outcome: Callable[[], Any], process: Process | None = None
    ) -> Task:
        """Work begins, unless its process is not there any more, of which nobody may know yet."""
        work = self.open[task] = Work(task, what, process, outcome, self.now + seconds)
        if process is None:
            return task
        if process.ended is not None:
            work.lost, work.ends = True, max(self.now, process.ended + process.notice)
            return task
        if process.stuck and what not in ASIDE:
            work.ends = NEVER
        elif process.silent > self.now:
            work.ends = process.silent + seconds
        if what in NETWORK:
            work.ends = max(work.ends, self._free_at(process) + seconds)
        for fault in self.meets(process.worker, what):
            self.plan(fault, seconds, process, work)
        return task

    def _free_at(self, process: Process) -> float:
        """When the network of a process is done with what nobody waits for any more."""
        self._left = [work for work in self._left if work.ends > self.now]
        return max((work.ends for work in self._left if work.process is process and work.what in NETWORK), default=0.0)

    def forget(self) -> None:
        """Nobody waits for anything any more; workers go on with what they are at, and let go of what they have."""
        left = [*self._left, *(work for work in self.open.values() if work.what in (*NETWORK, "bring"))]
        self._left = [work for work in left if work.ends > self.now and not work.lost]
        for work in (*self.open.values(), *(work for *_, work in self._coming if work is not None)):
            work.task, work.outcome = Task(work.task.worker, ()), bool  # no bytes, and nobody to tell
        self.open.clear()
        coming = {work.process for work in self._left if work.what == "bring"}
        for process in self.of.values():
            process.told = process not in coming
            process.at = None
            process.at_hand.clear()

    def up_at(self, process: Process) -> float | None:
        """When a process is up that came while all was forgotten; None: it did not."""
        return next((work.ends for work in self._left if work.process is process and work.what == "bring"), None)

    def plan(self, fault: Fault, seconds: float, process: Process, work: Work | None) -> None:
        """A fault meets work that takes so many seconds."""
        heapq.heappush(self._coming, (self.now + fault.share * seconds, next(self._number), fault, process, work))

    def meets(self, worker: str, what: str) -> Iterator[Fault]:
        """The fault whose moment this is, if any; it is taken out, and the others wait for one moment less."""
        waiting = self._faults.get((worker, what))  # pyright: ignore[reportArgumentType]
        if not waiting:
            return
        due = next((fault for after, fault in waiting if not after), None)
        waiting[:] = [(max(after - 1, 0), fault) for after, fault in waiting if fault is not due]
        if due is not None:
            yield due

    def ready(self) -> list[Work]:
        """Work that is over, in the order in which it began."""
        return [work for work in self.open.values() if work.ends <= self.now]

    def until_next(self, limit: float) -> None:
        """Time passes until some work is over, and at most until a limit."""
        while not self.ready() and self.now < limit:
            ends = min((work.ends for work in self.open.values()), default=NEVER)
            follows = self._coming[0][0] if self._coming else NEVER
            self.pass_to(max(self.now, min(ends, follows, limit)))

    def pass_to(self, until: float) -> None:
        """Time passes, and what happens meanwhile does at its own time."""
        self._meet_idle()
        while self._coming and self._coming[0][0] <= until:
            at, _, fault, process, work = heapq.heappop(self._coming)
            self.now = max(self.now, at)
            self._happens(fault, process, work)
        self.now = max(self.now, until)

    def _meet_idle(self) -> None:
        for (worker, moment), waiting in self._faults.items():
            if moment != "idle" or not waiting:
                continue
            process = self.gang if worker == LEARNER else self.of.get(worker)
            if process is None:
                continue
            at_work = any(work.process is process and work.what not in ASIDE for work in self.open.values())
            if not process.told or process.ended is not None or at_work:
                continue
            due = [fault for after, fault in waiting if self.now - self._began >= after]
            waiting[:] = [(after, fault) for after, fault in waiting if fault not in due]
            for fault in due:
                self.plan(fault, 0.0, process, None)

    def _happens(self, fault: Fault, process: Process, work: Work | None) -> None:
        """A fault meets its process, if it is still there."""
        late = fault.kind in LONGER and (work is None or work.ends <= self.now)
        if process.ended is not None or late:
            return
        self.happens(fault, process)
        if fault.kind in {"dies", "deadly"}:
            self.end(process, fault.lasts)
        elif fault.kind == "node_dies":
            process.node.gone = True
            for each in list(self.of.values()):
                if each.node is process.node:
                    self.end(each, fault.lasts)
        elif fault.kind == "hangs":
            process.hangs(self.now, fault.lasts)
            for each in self._unfinished(process):
                each.ends += fault.lasts
        elif fault.kind == "stuck":
            process.stuck = True
            for each in self._unfinished(process):
                each.ends = each.ends if each.what in ASIDE else NEVER
        elif work is not None:
            behind = self.open.values() if work in self._left else ()
            for each in [work, *(each for each in behind if each.process is process and each.what in NETWORK)]:
                each.ends += fault.lasts

    def happens(self, fault: Fault, process: Process) -> None:
        """A fault has met its process."""
        self._met(f"learner {fault.name}" if process.worker == LEARNER else fault.name)

    def _unfinished(self, process: Process) -> Iterable[Work]:
        begun = (*self.open.values(), *self._left)
        return [work for work in begun if work.process is process and work.ends > self.now]

    def end(self, process: Process, notice: float) -> None:
        """The process is there no more; what it had done is done."""
        if process.ended is not None:
            return
        process.ended, process.notice = self.now, notice
        for work in self._unfinished(process):
            work.lost, work.ends = True, self.now + notice

    def kill(self, process: Process) -> None:
        """Ends a process on purpose; one that does not listen goes some seconds later."""
        self.end(process, KILL_S if process.silent > self.now else 0.0)

    def over(self, task: Task) -> Work:
        """Takes out work whose end the controller is told.

        Raises:
            WorkerLostError: if it came to nothing.
        """
        work = self.open.pop(task)
        if work.process is not None and work.process.at is task:
            work.process.at = None
        if work.lost:
            raise WorkerLostError(f"{task.worker}: its process ended")
        return work
