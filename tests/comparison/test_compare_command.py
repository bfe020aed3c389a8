"""`advdmd compare` from the command line to its table: failures, reruns, settings that differ, Ctrl-C and a kill."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from advdmd_ray import cli
from advdmd_ray.comparison import compare, results
from advdmd_ray.comparison.job import RESULT, Job
from comparison_files import ADVDMD, CONFIGS, DMD, TWINFLOW, write_comparison

QUICK = {"seeds": [0], "budget": 60, "points": 1}


@pytest.mark.slow
def test_the_shapes_rehearse_to_their_first_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # As it ships, but for a budget of two cycles, the second with RL, and two of five teachers, the quicker ones.
    tree = yaml.safe_load((CONFIGS / "shapes.yaml").read_text()) | {"teacher_steps": [8, 1]}
    tree["base"] = str(CONFIGS / tree["base"])
    tree["quick"] |= {"budget": 1500, "points": 1}
    tree["quick"]["overrides"]["cadence.warm_dmd_updates"] = 1
    (tmp_path / "shapes.yaml").write_text(yaml.safe_dump(tree))
    command = ["compare", "shapes.yaml", "--quick", "--only", "advdmd", "--jobs", "1"]
    assert cli.main(command) == cli.DONE
    folder = tmp_path / "runs" / "compare" / "shapes-quick"
    rows = [line.split(" | ") for line in (folder / "table.md").read_text().splitlines()]
    assert rows[0][:5] == ["| ", "steps", "seeds", "seen prompts", "held-out prompts"]
    assert [row[0] for row in rows[2:]] == ["| teacher, guidance 2.5"] * 2 + ["| AdvDMD", "| real, held out"]
    eight, one = (float(rows[line][3].removesuffix(" %")) for line in (2, 3))
    assert eight > one + 30
    (run,) = json.loads((folder / "results.json").read_text())["rivals"][0]["runs"]
    assert run["points"][-1]["notes"]["updates"]["rl"] > 0
    assert {"figure.png", "signals.png"} <= {path.name for path in folder.iterdir()}


@pytest.mark.slow
def test_a_failed_job_leaves_the_others_their_table_and_a_rerun_does_only_what_is_missing(
    tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_comparison(tmp_path, tiny_pipeline, rivals=[DMD, TWINFLOW, ADVDMD], quick=QUICK)
    folder = tmp_path / "runs" / "compare" / "small-quick"
    damaged = folder / "dmd" / "seed-0" / "checkpoints" / "step-00000001"
    damaged.mkdir(parents=True)
    command = ["compare", str(file), "--quick", "--jobs", "2"]

    assert cli.main(command) == cli.FAILED
    said = capfd.readouterr().err
    assert "dmd seed 0 failed: " in said
    assert "no whole checkpoint" in said
    assert said.splitlines()[-1] == "advdmd: failed: 1 of 4 jobs; the same command tries them again"
    table = (folder / "table.md").read_text()
    assert "| AdvDMD | 3 | 1 |" in table
    assert "| twinflow | 1 | 1 |" in table
    assert "| dmd |" not in table

    damaged.rmdir()
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("*/*/result.json")}
    assert len(finished) == 2
    assert cli.main(command) == cli.DONE
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    table = (folder / "table.md").read_text()
    assert capfd.readouterr().out == f"{table}{Path('runs/compare/small-quick')}\n"
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [
        *("teacher, guidance 1", "teacher, guidance 1"),
        *("dmd", "twinflow", "AdvDMD", "real, held out"),
    ]
    spent = {
        rival["name"]: rival["runs"][0]["points"][-1]["learner"]
        for rival in json.loads((folder / "results.json").read_text())["rivals"]
    }
    assert all(60 <= value < 60 + 60 for value in spent.values())
    assert {"figure.png", "RESULTS.md"} <= {path.name for path in folder.iterdir()}
    assert f"advdmd compare {file} --quick" in (folder / "RESULTS.md").read_text()

    assert cli.main([*command, "--only", "dmd"]) == cli.DONE
    assert (folder / "table.md").read_text() == table

    write_comparison(tmp_path, tiny_pipeline, rivals=[DMD, TWINFLOW, ADVDMD], quick={**QUICK, "budget": 90})
    assert cli.main(command) == cli.BAD_INPUT
    assert "budget was 60.0 and is 90.0" in capfd.readouterr().err


def test_an_unknown_rival_a_missing_file_and_a_name_that_is_a_path_are_one_line_each(
    tmp_path: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_comparison(tmp_path, tiny_pipeline)
    assert cli.main(["compare", str(file), "--only", "gan"]) == cli.BAD_INPUT
    assert cli.main(["compare", str(tmp_path / "absent.yaml")]) == cli.BAD_INPUT
    assert cli.main(["compare", str(file), "--name", "../elsewhere"]) == cli.BAD_INPUT
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "--name: name = '../elsewhere'" in lines[2]
    assert "--only gan: no such rival" in lines[0]
    assert "absent.yaml" in lines[1]


def started(folder: Path, file: Path, until: Callable[[], bool]) -> subprocess.Popen[str]:
    """A comparison in a process of its own, once `until` holds."""
    command = [Path(sys.executable).with_name("advdmd"), "compare", file, "--jobs", "1"]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while not until():
        assert process.poll() is None, process.stderr
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return process


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_a_stopped_comparison_says_by_what_and_what_is_kept(
    tmp_path: Path,
    tiny_pipeline: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_comparison(tmp_path, tiny_pipeline, rivals=[DMD], seeds=[0])

    def stop(jobs: Sequence[Job], *_: object) -> None:
        jobs[0].folder.mkdir(parents=True, exist_ok=True)
        (jobs[0].folder / RESULT).write_text("{}")
        os.kill(os.getpid(), number)

    monkeypatch.setattr(compare, "run_jobs", stop)
    assert cli.main(["compare", str(file)]) == 128 + number
    (said,) = capsys.readouterr().err.splitlines()
    assert said == (
        f"advdmd: stopped by {name}; 1 of 2 jobs are finished and stay, and those that ran are saved; the same command "
        "goes on"
    )


def test_a_disk_that_is_full_is_one_line_and_what_is_finished_stays(
    tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_comparison(tmp_path, tiny_pipeline, rivals=[DMD], seeds=[0])

    def finish(jobs: Sequence[Job], _at_once: int, _watcher: object, finished: Callable[[], None], _: object) -> None:
        jobs[0].folder.mkdir(parents=True, exist_ok=True)
        (jobs[0].folder / RESULT).write_text("{}")
        finished()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(compare, "run_jobs", finish)
    monkeypatch.setattr(results, "collect", full)
    assert cli.main(["compare", str(file)]) == cli.FAILED
    (said,) = capsys.readouterr().err.splitlines()
    assert said == (
        "advdmd: failed: runs/compare/small cannot be written (no space left on device); what is finished stays; make "
        "room, and the same command goes on"
    )
    assert len(list(tmp_path.glob("runs/compare/small/*/result.json"))) == 1


@pytest.mark.slow
def test_a_killed_comparison_takes_its_jobs_along_and_one_ended_by_ctrl_c_saves_them(
    tmp_path: Path, tiny_pipeline: Path
) -> None:
    file = write_comparison(
        tmp_path, tiny_pipeline, rivals=[DMD], seeds=[0], budget=1e5, points=1000, teacher_steps=[1]
    )
    job = tmp_path / "runs" / "compare" / "small" / "dmd" / "seed-0"

    def points() -> list[dict[str, Any]]:
        path = job / "points.json"
        return json.loads(path.read_text()) if path.exists() else []

    process = started(tmp_path, file, lambda: bool(points()))
    jobs = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    assert len(jobs) >= 2
    _, left = psutil.wait_procs(jobs, timeout=20)
    assert left == []
    before = points()

    process = started(tmp_path, file, lambda: len(points()) > len(before))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=100)
    assert process.returncode == cli.INTERRUPTED
    assert said.splitlines()[-1] == (
        "advdmd: stopped by Ctrl-C; 1 of 2 jobs are finished and stay, and those that ran are saved; the same command "
        "goes on"
    )
    assert points()[: len(before)] == before
    steps = [int(path.name.removeprefix("step-")) for path in (job / "checkpoints").glob("step-*")]
    assert max(steps) >= points()[-1]["version"] > 0
    assert (job / "job.log").read_text() == ""
