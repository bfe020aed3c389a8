"""One run from its start to its end, with samples of the memory of its processes."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.endurance.processes import MARK, ROLES, found, resident
from benchmarks.endurance.tiny import GROUP_SIZE, tiny_settings, write_teacher

SAMPLE_S = 1.0
SETTLED = re.compile(r"^advdmd_learner_trajectories_trained_total (\S+)$", re.MULTILINE)


def watched(folder: Path, groups: int) -> int:
    """Runs so many groups in a new folder and writes `folder/samples.jsonl` meanwhile; returns the run's exit code.

    One line is one sample: seconds since the start, groups that were trained on, and for each role the bytes of
    `Resident`.
    """
    write_teacher(folder / "teacher")
    settings = tiny_settings(folder, groups)
    config = folder / "tiny.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    mark = uuid.uuid4().hex
    log = folder / "log.txt"
    with log.open("wb") as output:
        run = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "advdmd_ray.run", "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {MARK: mark},
        )
        try:
            with (folder / "samples.jsonl").open("w", encoding="utf-8") as file:
                _watch(run, log, mark, file)
        finally:
            run.terminate()
            code = run.wait()
    return code


def _watch(run: "subprocess.Popen[bytes]", log: Path, mark: str, file: Any) -> None:
    began, processes = time.monotonic(), {}
    while run.poll() is None:
        time.sleep(SAMPLE_S)
        settled = _settled(log)
        if settled is None:
            continue
        if not set(ROLES) <= set(processes):  # they come up one by one
            processes = found(mark, run.pid)
        try:
            roles = {role: resident(process) for role, process in processes.items()}
        except psutil.Error:
            processes = {}
            continue
        line = {
            "seconds": round(time.monotonic() - began, 2),
            "groups": settled,
            "roles": {role: {"own": each.own, "shared": each.shared} for role, each in roles.items()},
        }
        file.write(json.dumps(line) + "\n")
        file.flush()


def _settled(log: Path) -> int | None:
    """Groups that the learner was done with, as the run's own /metrics says; None before and after it answers."""
    address = re.search(r"metrics at (http://\S+)", log.read_text(errors="replace"))
    if address is None:
        return None
    try:
        with urllib.request.urlopen(address[1], timeout=30) as page:  # noqa: S310 - our own http address
            text = page.read().decode()
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None
    trained = SETTLED.search(text)
    return None if trained is None else int(float(trained[1])) // GROUP_SIZE
