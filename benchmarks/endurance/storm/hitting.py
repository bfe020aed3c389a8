"""Does a fault to a run at its instant."""

import signal
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import psutil

from benchmarks.endurance.storm.faults import ANY, DRIVER, NODE, SAVING, TERM, Fault
from benchmarks.endurance.storm.lives import Lives
from benchmarks.endurance.storm.place import Place

INSTANT_S, END_S, STUCK_S, LOOK_S = 15.0, 90.0, 20.0, 0.25
"""An instant is waited for so long, the end of a driver, and that of a process that hangs, which Ray kills some seconds
after it was told to; looks for that are so long apart."""
KILLED, TERMINATED = -signal.SIGKILL, 128 + signal.SIGTERM


@dataclass(frozen=True, slots=True)
class Hit:
    """What a fault did.

    Attributes:
        at: Monotonic seconds.
        instant: At which it was; any if the one that was drawn did not come.
        processes: That it ended, or has the cluster or the run end.
    """

    at: float
    instant: str
    processes: list[psutil.Process]

    def replaced(self, lives: Lives) -> bool:
        """Whether there are as many others as there are to be."""
        gone = {process.pid for process in self.processes}
        return all(
            sum(process.pid not in gone for process in lives.processes(role)) >= count
            for role, count in lives.staff.items()
        )


class Hitting:
    """Hits one run.

    Args:
        place: The cluster.
        lives: The run.
        spared: Roles that no fault hits, the loss of their node neither.
    """

    def __init__(self, place: Place, lives: Lives, spared: Collection[str] = ()) -> None:
        self._place, self._lives, self._spared = place, lives, spared
        self._hit: list[tuple[str, psutil.Process]] = []

    def hit(self, fault: Fault) -> Hit:
        """Does a fault at its instant. Of the driver, the next one is started.

        Raises:
            RuntimeError: if there is nothing to be hit.
        """
        if fault.instant == ANY:
            at, processes = self._do(fault)
            there = False
        else:
            with self._lives.instants.at(fault.instant, INSTANT_S, lambda: self._lives.over) as came:
                at, processes = self._do(fault)
                there = came and (fault.instant != SAVING or self._lives.instants.saving())
        if fault.target == DRIVER:
            self._lives.ended((TERMINATED,) if fault.way == TERM else (KILLED,), END_S)
            self._lives.go_on()
        self._hit += [(fault.kind, process) for process in processes]
        return Hit(at, fault.instant if there else ANY, processes)

    def stuck(self) -> list[str]:
        """What faults have hit and has not ended, nor ends soon."""
        end = time.monotonic() + STUCK_S
        while True:
            left = [f"{kind}: {process.pid}" for kind, process in self._hit if _lives(process)]
            if not left or time.monotonic() > end:
                return left
            time.sleep(LOOK_S)

    def _do(self, fault: Fault) -> tuple[float, list[psutil.Process]]:
        if fault.target == DRIVER:
            at = time.monotonic()
            self._lives.run.process.send_signal(signal.Signals[fault.way])
            return at, []
        if fault.target == NODE:
            node = self._node(fault.choice)
            processes, at = self._workers_of(node), time.monotonic()
            self._place.lose(node)
            return at, processes
        choices = self._lives.processes(fault.target)
        if not choices:
            raise RuntimeError(f"there is no {fault.target} to be hit")
        process, at = choices[int(fault.choice * len(choices))], time.monotonic()
        process.send_signal(signal.Signals[fault.way])
        return at, [process]

    def _node(self, choice: float) -> Any:
        """One with workers of the run, if there is any: the loss of another is none."""
        spared = {process.pid for role in self._spared for process in self._lives.processes(role)}
        nodes = [node for node in self._place.nodes if not spared & self._place.processes_of(node)]
        with_workers = [node for node in nodes if self._workers_of(node)] or nodes
        if not with_workers:
            raise RuntimeError("every node has a worker that is spared")
        return with_workers[int(choice * len(with_workers))]

    def _workers_of(self, node: Any) -> list[psutil.Process]:
        pids = self._place.processes_of(node)
        return [process for role in self._lives.staff for process in self._lives.processes(role) if process.pid in pids]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
