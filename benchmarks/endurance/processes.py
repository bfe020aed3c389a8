"""The processes of one run, by their role, and what each of them holds of the machine."""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

MARK = "ADVDMD_ENDURANCE"
"""Environment variable that a run's processes inherit, Ray's own too, which leave its process group."""
DRIVER = "driver"
_ROLES: Mapping[str, str] = {
    "HubActor": "hub",
    "RolloutActor": "rollout actor",
    "RewardActor": "reward worker",
    "LearnerRank": "learner rank",
    "raylet": "raylet, with the object store",
    "gcs_server": "Ray's control service",
    "dashboard.py": "Ray's dashboard",
    "DashboardAgent": "Ray's dashboard agent",
    "RuntimeEnvAgent": "Ray's environment agent",
    "monitor.py": "Ray's autoscaler",
    "log_monitor.py": "Ray's log monitor",
}
"""By the start of its title, the name of its program, or that of the script that it runs."""
SCRIPT_AT = 3
"""A script is among so many first words of a command: python, -u, script."""
ROLES = (DRIVER, *_ROLES.values())
"""The controller, the buffer's index and the weight store are in the driver; so are the bytes of groups that Ray finds
too small for its object store."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds.

    Attributes:
        own: Bytes of its anonymous pages: the heap, which is where leaks are.
        shared: Bytes of its pages of files and of shared memory: libraries, and what it touched of the object store.
        handles: Open files, sockets and pipes.
        threads: Its threads.
    """

    own: int
    shared: int
    handles: int
    threads: int


def found(mark: str, driver: int) -> dict[str, psutil.Process]:
    """The living processes of the run with this mark that have a role, by role; the names of several are numbered."""
    processes: dict[str, psutil.Process] = {}
    counts: dict[str, int] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) != mark:
                continue
            role = DRIVER if process.pid == driver else _role(process)
            if role is not None:
                counts[role] = counts.get(role, 0) + 1
                processes[role if counts[role] == 1 else f"{role} {counts[role]}"] = process
    return processes


def having(mark: str, driver: int, role: str) -> list[psutil.Process]:
    """The living processes of one role."""
    return [process for name, process in found(mark, driver).items() if name.startswith(role)]


def _role(process: psutil.Process) -> str | None:
    command = process.cmdline()
    title = " ".join(command[:1])
    programs = {os.path.basename(part) for part in command[:SCRIPT_AT]}  # noqa: PTH119 - a title is no path
    kinds = (kind for kind in _ROLES if title.startswith(f"ray::{kind}") or kind in programs)
    return next((_ROLES[kind] for kind in kinds), None)


def held(process: psutil.Process) -> Held:
    """What it has now.

    Raises:
        psutil.Error: if it ended.
    """
    with process.oneshot():
        memory = process.memory_info()
        return Held(memory.rss - memory.shared, memory.shared, process.num_fds(), process.num_threads())
