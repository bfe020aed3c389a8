"""Whatever is wrong with what a user gives is one clear line and exit code 2, and nothing is begun or written."""

import json
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from advdmd_ray import cli
from advdmd_ray.errors import UserError
from advdmd_ray.runtime import evaluating, suite
from bad_world import Tree, tree, write_world

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("bad_input.txt").read_text(encoding="utf-8").splitlines()
CASES = [line.split(" => ", 1) for line in TABLE if line and not line.startswith("#")]
MARKS = {"<byte>": "\udcff", "<bell>": "\a", "<300>": "x" * 300, "<deep>": "/x" * 3000, "<nines>": "9" * 5000}
LONGEST = 600
"""Characters of a line that somebody still reads."""


def given(text: str) -> list[str]:
    """The arguments of a line of the table."""
    arguments = shlex.split(text)
    for mark, meant in MARKS.items():
        arguments = [argument.replace(mark, meant) for argument in arguments]
    return arguments


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def before(world: Path) -> Tree:
    return tree(world)


def _began(*_: object, **__: object) -> None:
    raise AssertionError("work was begun")


@pytest.fixture
def _nothing_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray may be asked whether it answers, and no more; nothing is trained, drawn or judged."""
    for name in ("ray.init", "advdmd_ray.runs.verdict.draw_here", "advdmd_ray.runtime.local.in_this_process"):
        monkeypatch.setattr(name, _began)
    monkeypatch.setattr(evaluating, "drawn_by", _began)
    monkeypatch.setattr(suite, "_draw", _began)
    monkeypatch.setattr("advdmd_ray.evaluation.folder_sampler.load_pipeline", _began)
    monkeypatch.setattr("advdmd_ray.pretrain.teacher.pretrain", _began)
    monkeypatch.setattr("advdmd_ray.comparison.compare.run_jobs", _began)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.usefixtures("_nothing_begins")
@pytest.mark.parametrize(("arguments", "says"), CASES, ids=[arguments for arguments, _ in CASES])
def test_bad_input_is_one_line_and_exit_code_2_and_nothing_is_written(
    arguments: str,
    says: str,
    world: Path,
    before: Tree,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(world)
    code = cli.main(given(arguments))
    said = capsys.readouterr()
    assert tree(world) == before
    assert (code, said.out) == (cli.BAD_INPUT, "")
    assert said.err.startswith("advdmd: error: ")
    assert said.err.endswith("\n")
    line = said.err[:-1]
    assert all(character.isprintable() for character in line), "several lines, or what a terminal obeys"
    assert len(line) < LONGEST
    assert says in line


def test_the_table_is_about_every_command_and_has_no_case_twice() -> None:
    assert len(CASES) >= 150
    commands = Counter(arguments.split()[0] for arguments, _ in CASES)
    assert {command.name for command in cli.COMMANDS} <= commands.keys()
    assert all(len(case) == 2 and len(case[1]) > 10 for case in CASES)
    assert len({arguments for arguments, _ in CASES}) == len(CASES)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param("model.path=p-weights-cut", marks=pytest.mark.wide),
        pytest.param("run.output=circle", marks=pytest.mark.wide),
        "ray.address=127.0.0.1:1",
        pytest.param("--resume runs/damaged", marks=pytest.mark.wide),
        "run.name=..",
    ],
)
def test_a_process_of_its_own_ends_so_too(arguments: str, world: Path, before: Tree) -> None:
    says = next(says for case, says in CASES if case == f"run --config config.yaml {arguments}")
    done = subprocess.run(
        [sys.executable, "-m", "advdmd_ray.run", "--config", "config.yaml", *given(arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=world,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(world.parent)},
    )
    assert tree(world) == before
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (cli.BAD_INPUT, "", 1)
    assert says in done.stderr


def test_weights_that_are_no_numbers_end_a_run_before_it_trains_and_leave_nothing(
    tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(tiny_pipeline, tmp_path / "teacher"))
    weights = load_file(file := folder / "transformer" / "diffusion_pytorch_model.safetensors")
    weights["norm_out.linear.bias"][0] = float("nan")
    save_file(weights, file, {"format": "pt"})
    here, found = [f"model.path={folder}", f"run.output={tmp_path / 'runs'}", "metrics.port=0"], tree(tmp_path)
    config = ["run", "--config", "digits", "run.name=one", "--local"]
    assert cli.main([*config, *here]) == cli.BAD_INPUT
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"advdmd: error: {file}: norm_out.linear.bias holds NaN or infinite numbers")
    assert tree(tmp_path) == found


def test_a_verdict_whose_file_cannot_be_written_any_more_is_printed(
    world: Path, before: Tree, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures: dict[str, Any] = {"labels": [], "teacher": {}, "real": {"figures": {}, "images": 40}}

    def full(path: Path, text: str) -> None:
        raise UserError(f"--out {path}: cannot be written (no space left on device); name another file")

    monkeypatch.chdir(world)
    monkeypatch.setattr("advdmd_ray.runs.verdict.draw_here", lambda *_: {})
    monkeypatch.setattr("advdmd_ray.runs.verdict.verdict_of", lambda *_: None)
    monkeypatch.setattr("advdmd_ray.runs.verdict.facts_of", lambda _: figures)
    monkeypatch.setattr("advdmd_ray.cli.evaluate.write_out", full)
    assert cli.main(["evaluate", "--config", "config.yaml", "--out", "judge.json"]) == cli.BAD_INPUT
    said = capsys.readouterr()
    assert json.dumps(figures, indent=2) in said.out
    assert "no space left on device" in said.err
    assert tree(world) == before
