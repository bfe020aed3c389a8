"""One run from its start to its end, with samples of what its processes hold."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from benchmarks.endurance.one_run import OneRun, running, value
from benchmarks.endurance.processes import ROLES, found, held
from benchmarks.endurance.tiny import GROUP_SIZE, tiny_settings, write_teacher

SAMPLE_S = 1.0
TRAINED = "advdmd_learner_trajectories_trained_total"


def watched(folder: Path, groups: int, limit_s: float | None) -> int:
    """Runs in a new folder and writes `folder/samples.jsonl` meanwhile; returns the run's exit code.

    One line is one sample: seconds since the start, groups that were trained on, and `Held` of each role.

    Args:
        folder: The folder.
        groups: After so many the run ends.
        limit_s: And after so many seconds of training, unless None.
    """
    write_teacher(folder / "teacher")
    with running(folder, tiny_settings(folder, groups, limit_s)) as run, (folder / "samples.jsonl").open("w") as file:
        _watch(run, file)
    return run.process.returncode


def _watch(run: OneRun, file: Any) -> None:
    began, processes = time.monotonic(), {}
    while run.process.poll() is None:
        time.sleep(SAMPLE_S)
        settled = _settled(run)
        if settled is None:
            continue
        if not set(ROLES) <= set(processes):  # they come up one by one
            processes = found(run.mark, run.process.pid)
        try:
            roles = {role: held(process) for role, process in processes.items()}
        except psutil.Error:
            processes = {}
            continue
        line = {
            "seconds": round(time.monotonic() - began, 2),
            "groups": settled,
            "roles": {role: asdict(each) for role, each in roles.items()},
        }
        file.write(json.dumps(line) + "\n")
        file.flush()


def _settled(run: OneRun) -> int | None:
    """Groups that the learner was done with, as the run's own /metrics says; None before and after it answers."""
    trained = value(run.metrics(), TRAINED)
    return None if trained is None else int(trained) // GROUP_SIZE
