"""What a run holds of the machine while it lives, and what of that is left when it has ended."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.endurance.processes import MARK, found

SHARED = Path("/dev/shm")  # noqa: S108 - where Linux has its shared memory
GONE_S = 15.0
"""Workers may take so long to end after their driver."""
OF_RAY = ("raylet", "Ray's")


@dataclass
class Traces:
    """What processes with a mark were seen to hold.

    Attributes:
        mark: In their environment.
        ports: That the run's own processes listened on: /metrics, and where ranks meet.
        shared: Files of shared memory that they have mapped.
    """

    mark: str
    ports: set[int] = field(default_factory=set)
    shared: set[Path] = field(default_factory=set)

    def look(self, driver: int) -> None:
        """Looks at all of them now."""
        for role, process in found(self.mark, driver).items():
            with contextlib.suppress(psutil.Error):
                if not role.startswith(OF_RAY):
                    self.ports |= {at.laddr.port for at in process.net_connections("inet") if at.status == "LISTEN"}
                paths = {each.path.removesuffix(" (deleted)") for each in process.memory_maps()}
                self.shared |= {Path(path) for path in paths if path.startswith(f"{SHARED}/")}


def run_processes(mark: str) -> list[str]:
    """The run's processes that are left after a while, by role."""
    end = time.monotonic() + GONE_S
    while (left := [role for role in found(mark, 0) if not role.startswith(OF_RAY)]) and time.monotonic() < end:
        time.sleep(0.5)
    return left


def marked() -> Iterator[psutil.Process]:
    """All living processes that may be looked at."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) is not None and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def holding(mark: str, folder: Path) -> list[str]:
    """Files in a folder that a process with the mark still has open, with its name. This process is left out."""
    left = []
    for process in marked():
        with contextlib.suppress(psutil.Error):
            if process.environ()[MARK] == mark and process.pid != psutil.Process().pid:
                files = [file.path for file in process.open_files() if Path(file.path).is_relative_to(folder)]
                left += [f"{process.name()}: {file}" for file in files]
    return left


def all_processes(mark: str) -> list[str]:
    """Whatever with the mark is left when the cluster has ended too, but this process."""
    own = psutil.Process().pid
    end = time.monotonic() + GONE_S
    while True:
        left = [process for process in marked() if process.pid != own and process.environ()[MARK] == mark]
        if not left or time.monotonic() > end:
            return [f"{process.pid} {process.name()}" for process in left]
        time.sleep(0.5)


def listening(mark: str, ports: set[int]) -> list[int]:
    """Ports of these on which a process with the mark listens, but this one."""
    left = set()
    for process in marked():
        with contextlib.suppress(psutil.Error):
            if process.environ()[MARK] == mark:
                left |= {at.laddr.port for at in process.net_connections("inet") if at.status == "LISTEN"}
    return sorted(left & ports)


def of_ray(address: str) -> dict[str, Any]:
    """What a cluster that nobody uses still holds: actors, placement groups, objects, and CPUs that are not free."""
    command = [sys.executable, "-m", "benchmarks.endurance.storm.probe", address]
    said = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, timeout=120).stdout  # noqa: S603 - ours
    return json.loads(said.splitlines()[-1])
