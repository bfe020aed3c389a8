"""One run over Ray as a process of its own, and what its /metrics and its folder say."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from advdmd_ray.runs.folder import RunFolder
from benchmarks.endurance.processes import MARK

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class OneRun:
    """A run that was started.

    Attributes:
        process: The driver.
        log: What it says.
        mark: What all of its processes have in their environment.
    """

    process: "subprocess.Popen[bytes]"
    log: Path
    mark: str

    def metrics(self, within_s: float = 30.0) -> str | None:
        """The text of its /metrics; None before and after that answers, and if it takes longer."""
        address = re.search(r"metrics at (http://\S+)", self.log.read_text(errors="replace"))
        if address is None:
            return None
        try:
            with urllib.request.urlopen(address[1], timeout=within_s) as page:  # noqa: S310 - our own http address
                return page.read().decode()
        except OSError:
            return None

    def until(self, look: Callable[[], Found | None], every_s: float) -> Found:
        """What is looked for, once it is there.

        Raises:
            RuntimeError: if the run ends before; has its log, which may go with its folder.
        """
        while (found := look()) is None:
            if self.process.poll() is not None:
                raise RuntimeError(f"the run ended with exit code {self.process.returncode}: {self.log.read_text()}")
            time.sleep(every_s)
        return found


def value(page: str | None, series: str) -> float | None:
    """The value of a series on a page of /metrics of one run, if it is there; its labels as there, but for `run`."""
    bare = re.sub(r'run="[^"]*",|,?run="[^"]*"', "", page or "").replace("{}", "")
    line = re.search(rf"^{re.escape(series)} (\S+)$", bare, re.MULTILINE)
    return None if line is None else float(line[1])


@contextmanager
def running(folder: Path, settings: Mapping[str, Any]) -> Iterator[OneRun]:
    """Starts a run with these settings, whose log is `folder/log.txt`; it has ended when the context is left."""
    config, log, mark = folder / "run.yaml", folder / "log.txt", uuid.uuid4().hex
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    run = begun("advdmd_ray.run", ["--config", str(config)], log, mark)
    try:
        yield run
    finally:
        run.process.terminate()
        run.process.wait()


def begun(module: str, arguments: Sequence[str], log: Path, mark: str) -> OneRun:
    """Starts a module of ours as a run's driver, whose log is a new file."""
    with log.open("xb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {MARK: mark},
        )
    return OneRun(process, log, mark)


def staff_of(run: RunFolder) -> Mapping[str, int]:
    """How many rollout actors are asked for, up, coming and leaving, as the run says."""
    return json.loads(run.staff.read_text(encoding="utf-8"))["staff"]["rollout"]
