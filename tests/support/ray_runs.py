"""Runs in processes of their own: Ray and process groups stay out of pytest, and nothing outlives its test.

Every process started here carries a mark in its environment, which whatever it starts inherits: Ray's own processes,
which leave its process group, and their workers. So a test can list all that one run started, and end no other.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).parents[2]
MARK = "ADVDMD_TEST_PROCESS"

# The smallest run in which every network learns and both RL and DMD make updates. A process of it costs as much as all
# its cycles, so there is one of each kind.
SMALL: dict[str, Any] = {
    "rollout": {"actors": 1, "group_size": 4, "groups_per_cycle": 4},
    "dmd": {"batch_size": 16},
    "fake_score": {"batch_size": 16},
    "discriminator": {"batch_size": 16, "text_errors": None, "auc_high": 1.0},
    "cadence": {"fake_score_updates": 1, "discriminator_updates": 1, "warm_dmd_updates": 1, "ramp_interval": 1},
    "evaluation": {"samples": 20},
    "metrics": {"port": 0},
}


def write_config(folder: Path, name: str) -> Path:
    """Writes the small configuration with run folder `folder/name`, and its teacher, the smallest of the digits."""
    from benchmarks.endurance.tiny import write_teacher  # noqa: PLC0415 - takes seconds, and few who import this need it

    path, teacher = folder / f"{name}.yaml", folder / "tiny-teacher"
    own = {
        "run": {"name": name, "output": str(folder)},
        "model": {"path": str(teacher if teacher.exists() else write_teacher(teacher))},
        "discriminator": {**SMALL["discriminator"], "blocks": [0, 1]},
    }
    path.write_text(yaml.safe_dump({**SMALL, **own}))
    return path


def until(what: str, condition: Callable[[], Any], within_s: float) -> Any:
    """The first true value of the condition; fails, saying what was waited for, if there is none in time."""
    end = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {within_s:.0f} s for {what}"
        time.sleep(0.2)
    return value


class Workplace:
    """A place whose processes all carry one mark, with a home and a Ray folder of their own, as on a fresh machine."""

    def __init__(self) -> None:
        self._mark = uuid.uuid4().hex
        # Short: the paths of Ray's sockets may have 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="adv-", dir="/tmp"))
        self._environment = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")} | {
            MARK: self._mark,
            "HOME": str(self.folder),
            "RAY_TMPDIR": str(self.folder),
            # Ray's own, 15, leaves its workers next to nothing of a core on which another file's tests compute.
            "RAY_worker_niceness": "0",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        self._files = 0

    def start(self, command: Sequence[str], **environment: str) -> "Started":
        """Starts a command in a process group of its own, as a terminal does; stdout and stderr go to one file."""
        self._files += 1
        log = self.folder / f"log-{self._files}.txt"
        with log.open("wb") as file:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self._environment | environment,
                cwd=ROOT,
                start_new_session=True,
            )
        return Started(process, log)

    def run(self, config: Path, *arguments: str, **environment: str) -> "Started":
        """Starts the main job."""
        command = [sys.executable, "-m", "advdmd_ray.run", "--config", str(config), *arguments]
        return self.start(command, **environment)

    def processes(self, name: str = "") -> list[psutil.Process]:
        """All living processes of this place whose command line has `name`."""
        found = []
        for process in psutil.process_iter():
            try:
                marked = process.environ().get(MARK) == self._mark
                if marked and process.status() != psutil.STATUS_ZOMBIE and name in " ".join(process.cmdline()):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return found

    def left_after(self, within_s: float) -> list[str]:
        """Command lines of what still runs when it had this long to end; normally empty, and then at once."""
        end = time.monotonic() + within_s
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.2)
        return [f"{process.pid} {process.name()}" for process in left]

    def close(self) -> None:
        """Ends whatever is left, one by one, and removes the folder."""
        end = time.monotonic() + 20
        while (left := self.processes()) and time.monotonic() < end:
            for process in left:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            time.sleep(0.1)
        shutil.rmtree(self.folder, ignore_errors=True)


class Started:
    """A started process and its log."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.process = process
        self._log = log

    def log(self) -> str:
        """All it wrote so far."""
        return self._log.read_text(errors="replace")

    def ended(self, within_s: float) -> int:
        """Its exit code; fails with the log if it has none in time."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {within_s:.0f} s:\n{self.log()}") from None

    def until(self, what: str, condition: Callable[[], Any], within_s: float) -> Any:
        """As the function `until`, and fails with the log as soon as the process has ended."""

        def holds() -> Any:
            value = condition()
            assert value or self.process.poll() is None, f"ended before {what}:\n{self.log()}"
            return value

        try:
            return until(what, holds, within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}") from None

    def interrupt(self) -> None:
        """Ctrl-C: SIGINT to its whole process group, as a terminal sends it."""
        os.killpg(self.process.pid, signal.SIGINT)


@contextmanager
def workplace() -> Iterator[Workplace]:
    """A workplace that is empty afterwards, whatever happens."""
    place = Workplace()
    try:
        yield place
    finally:
        place.close()
