"""Processes that carry one mark, which whatever they start inherits, and that are all gone at the end."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TypeVar

import psutil

from advdmd_ray.errors import DeadlineError, Interrupted

ROOT = Path(__file__).parents[2]
MARK = "ADVDMD_CLUSTER_DEMO"
"""Environment variable of all processes. Ray's leave their process group, so that tells nothing."""
LOOK_S, POLITE_S, END_S = 0.2, 5.0, 30.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)

Found = TypeVar("Found")


class EndedError(RuntimeError):
    """A process ended where it should not, or with an exit code that it should not have. Has what it said last."""


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@dataclass(frozen=True, slots=True)
class Started:
    """A process of the place.

    Attributes:
        name: What it is.
        process: Itself.
        log: What it says.
    """

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def said(self) -> str:
        """All that it said so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def ended(self, within_s: float, codes: Sequence[int] = (0,)) -> int:
        """Its exit code.

        Raises:
            DeadlineError: if it does not end in time.
            EndedError: if it is none of those expected.
        """
        try:
            code = self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise DeadlineError(f"{self.name} had not ended after {within_s:g} s; see {self.log}") from None
        if code not in codes:
            raise self._unexpected(code)
        return code

    def until(self, what: str, look: Callable[[], Found | None], within_s: float) -> Found:
        """What is looked for, once it is there.

        Raises:
            DeadlineError: if it does not come in time.
            EndedError: if the process ends before.
        """
        end = time.monotonic() + within_s
        while (found := look()) is None:
            if (code := self.process.poll()) is not None:
                raise self._unexpected(code)
            if time.monotonic() > end:
                raise DeadlineError(f"waited {within_s:g} s for {what}; see {self.log}")
            time.sleep(LOOK_S)
        return found

    def _unexpected(self, code: int) -> EndedError:
        last = self.said().splitlines()[-1:]
        return EndedError(f"{self.name} ended with exit code {code}: {''.join(last)}; see {self.log}")


class Place:
    """Where the demo is.

    Args:
        folder: Takes the logs; exists.

    Attributes:
        folder: The same.
        token: Of the cluster; in the environment of all processes.
        ray_folder: Of Ray's sockets, whose paths may have 107 characters: a short one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.token = folder, secrets.token_hex(32)
        self.ray_folder = Path(tempfile.mkdtemp(prefix="adv-", dir="/tmp"))
        self._mark = uuid.uuid4().hex
        self._started: list[subprocess.Popen[bytes]] = []
        self._environment = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")} | {
            MARK: self._mark,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_TMPDIR": str(self.ray_folder),
            "RAY_USAGE_STATS_ENABLED": "0",
            # Ray's workers step back behind whatever else this machine does; times would tell of that.
            "RAY_worker_niceness": "0",
        }

    def start(self, name: str, command: Sequence[str], folder: Path = ROOT) -> Started:
        """Starts a command in this folder; it hears no Ctrl-C, as `close` ends it."""
        log = self.folder / f"{name}.log"
        with log.open("xb") as said:
            process = subprocess.Popen(  # noqa: S603 - our own commands
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=folder,
                start_new_session=True,
            )
        self._started.append(process)
        return Started(name, process, log)

    def living(self, name: str = "") -> list[psutil.Process]:
        """All processes of the place that live and whose command has `name`."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) != self._mark or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if name in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def close(self) -> None:
        """Asks all to end, then ends them, and removes Ray's folder.

        Raises:
            DeadlineError: if some do not end.
        """
        for process in self.living():
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        began = time.monotonic()
        while left := self.living():
            waited = time.monotonic() - began
            if waited > END_S:
                raise DeadlineError(f"these do not end: {', '.join(f'{each.pid} {each.name()}' for each in left)}")
            for process in left if waited > POLITE_S else ():
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            time.sleep(LOOK_S)
        for process in self._started:
            process.wait()
        shutil.rmtree(self.ray_folder, ignore_errors=True)


@contextmanager
def place_in(folder: Path) -> Iterator[Place]:
    """A place whose processes are gone when it is left: at the end, after an error, SIGTERM or Ctrl-C, also twice."""

    def stop(number: int, _: FrameType | None) -> None:
        raise Interrupted(number, f"stopped by {signal.Signals(number).name}")

    place = Place(folder)
    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield place
    finally:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # nothing keeps it from ending what it started
        place.close()
        for number, handler in before.items():
            signal.signal(number, handler)
