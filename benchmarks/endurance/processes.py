"""The processes of one run, by their role, and the memory of each."""

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
}
ROLES = (DRIVER, *_ROLES.values())
"""The controller, the buffer's index and the weight store are in the driver; so are the bytes of groups that Ray finds
too small for its object store."""


@dataclass(frozen=True, slots=True)
class Resident:
    """Resident memory of a process, bytes.

    Attributes:
        own: Its anonymous pages: the heap, which is where leaks are.
        shared: Pages of files and of shared memory: libraries, and what it touched of the object store.
    """

    own: int
    shared: int


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
    kinds = (kind for kind in _ROLES if title.startswith(f"ray::{kind}") or os.path.basename(title) == kind)  # noqa: PTH119 - a title is no path
    return next((_ROLES[kind] for kind in kinds), None)


def resident(process: psutil.Process) -> Resident:
    """What it has now.

    Raises:
        psutil.Error: if it ended.
    """
    memory = process.memory_info()
    return Resident(own=memory.rss - memory.shared, shared=memory.shared)
