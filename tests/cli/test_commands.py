"""The command line: help at once, one line and exit code 2 for bad input, and nothing started by either."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from advdmd_ray import cli, errors
from advdmd_ray.cli.evaluate import judge_table
from advdmd_ray.config import read_config
from guarded import advdmd
from pipeline_folder import write_pipeline

ROOT = Path(__file__).parent.parent


@pytest.fixture
def config(tmp_path: Path) -> Path:
    write_pipeline(tmp_path / "teacher")
    path = tmp_path / "config.yaml"
    path.write_text(
        f"run: {{output: {tmp_path / 'runs'}, name: r}}\n"
        f"model: {{path: {tmp_path / 'teacher'}}}\n"
        "metrics: {port: 0}\n"
    )
    return path


def bad_input(case: str, folder: Path) -> list[str]:
    """Arguments that spoil a sound run in one way."""
    if case == "truncated pipeline":
        file = folder / "teacher" / "transformer" / "diffusion_pytorch_model.safetensors"
        file.write_bytes(file.read_bytes()[:-3])
        return []
    if case == "another text length":
        (folder / "teacher" / "sampling.json").write_text('{"max_sequence_length": 1}')
        return []
    if case == "damaged sampling file":
        (folder / "teacher" / "sampling.json").write_text('{"max_sequence_length": 1')
        return []
    if case == "prompt file with a bad line":
        (folder / "prompts.txt").write_text("a seven\n\x07\nan eight\n")
        return [f"data.prompts={folder / 'prompts.txt'}"]
    if case == "earlier run":
        (folder / "runs" / "r").mkdir(parents=True)
        (folder / "runs" / "r" / "metrics.jsonl").touch()
        return []
    return {
        "unknown key": ["rollout.actorz=2"],
        "wrong type": ["rollout.actors=two"],
        "out of range": ["rollout.actors=0"],
        "one step with RL": ["diffusion.sigmas=[1.0]"],
        "missing pipeline": [f"model.path={folder / 'absent'}"],
        "output below a file": [f"run.output={folder / 'config.yaml'}/runs"],
        "read-only output": ["run.output=/proc/runs"],
        "no checkpoint": ["--resume", str(folder / "teacher")],
        "unknown option": ["--restart"],
        "dashed override": ["--rollout.actors=2"],
        "several processes in one": ["--local", "learner.ranks=2"],
        "a cluster without Ray": ["--local", "ray.address=10.0.0.1:6379"],
    }[case]


@pytest.mark.parametrize(
    ("case", "names"),
    [
        ("unknown key", "rollout.actors?"),
        ("wrong type", "'two'"),
        ("out of range", "greater than or equal to 1"),
        ("one step with RL", "at least 2 diffusion.sigmas"),
        ("missing pipeline", "absent"),
        ("truncated pipeline", "diffusion_pytorch_model.safetensors"),
        ("another text length", "set model.max_sequence_length=1"),
        ("damaged sampling file", "sampling.json: cannot be read as JSON"),
        ("output below a file", "run.output"),
        ("read-only output", "run.output"),
        ("prompt file with a bad line", "line 2"),
        ("earlier run", "--resume auto"),
        ("no checkpoint", "no checkpoint there"),
        ("unknown option", "--restart"),
        ("dashed override", "overrides have no dashes: rollout.actors=2"),
        ("several processes in one", "--local is one process, and learner.ranks=2 asks for more"),
        ("a cluster without Ray", "--local uses no Ray, and ray.address=10.0.0.1:6379 names one"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2_before_ray_or_torch_is_imported(
    config: Path, tmp_path: Path, case: str, names: str
) -> None:
    done = advdmd("run", "--config", str(config), *bad_input(case, tmp_path))
    assert done.returncode == cli.BAD_INPUT, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("advdmd: error: ")
    assert done.stderr.count("\n") == 1
    assert names in done.stderr


def test_a_bad_comparison_is_one_line_and_exit_code_2_before_ray_or_torch_is_imported(config: Path) -> None:
    file = config.with_name("compare.yaml")
    file.write_text("name: c\nbase: config.yaml\nbudget: 9\nrivals: [{name: a, overrides: {dmd.gan_weigth: 1}}]\n")
    done = advdmd("compare", str(file))
    assert done.returncode == cli.BAD_INPUT, done.stderr
    assert "rival a: unknown key dmd.gan_weigth; did you mean dmd.gan_weight?" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("of", ["teacher", "student"])
def test_a_folder_of_another_text_length_is_not_judged(config: Path, tmp_path: Path, of: str) -> None:
    write_pipeline(tmp_path / "student")
    (tmp_path / of / "sampling.json").write_text('{"max_sequence_length": 1}')
    done = advdmd("evaluate", "--config", str(config), "--student", str(tmp_path / "student"))
    assert done.returncode == cli.BAD_INPUT, done.stderr
    assert f"model.max_sequence_length is 8, but {tmp_path / of / 'sampling.json'} says 1" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_comparison_with_another_text_length_than_its_teachers_is_one_line(config: Path, tmp_path: Path) -> None:
    (tmp_path / "teacher" / "sampling.json").write_text('{"max_sequence_length": 1}')
    file = config.with_name("compare.yaml")
    file.write_text("name: c\nbase: config.yaml\nbudget: 9\nrivals: [{name: a}]\n")
    done = advdmd("compare", str(file))
    assert done.returncode == cli.BAD_INPUT, done.stderr
    assert "c: rival a: model.max_sequence_length is 8, but" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("evaluate --collect results.jsonl --out file/table.md", "file is a file, not a folder; give another --out"),
        ("evaluate --collect results.jsonl --out folder", "--out folder: is a folder; name a file in it"),
        ("evaluate --config config.yaml --out file/judge.json", "file is a file, not a folder; give another --out"),
        ("evaluate --config config.yaml --out folder", "--out folder: is a folder; name a file in it"),
        ("evaluate --suite geneval --metadata m --pipeline teacher --out file", "file is a file, not a folder; give"),
        ("export --config config.yaml --out file/student", "file is a file, not a folder; give another --out"),
        ("sample --pipeline teacher --prompt a --out absent/a.png", "expected a .png in a folder that exists"),
        ("sample --pipeline builtin:digits --prompt a --out a.png --device cuda:99", "--device cuda:99: torch "),
        ("sample --pipeline teacher --prompt a --out a.png --device tpu", "--device tpu: is none; use auto, cpu, cuda"),
        ("configs digits --out file/own.yaml", "error: file: cannot be written ("),
        ("configs --copy file", "cannot be written ("),
        ("pretrain --config digits pretrain.folder=file/teacher", "not a folder; set another pretrain.folder"),
        ("compare compare.yaml", "compare is a file, not a folder; give another --name, or start it in another folder"),
    ],
)
def test_an_output_that_cannot_be_written_or_a_device_that_is_not_there_is_one_line(
    arguments: str,
    says: str,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(config.parent)
    line = {"tag": "colors", "prompt": "a", "correct": True, "metadata": "{}"}
    Path("results.jsonl").write_text(json.dumps(line) + "\n")
    Path("compare.yaml").write_text("name: c\nbase: config.yaml\nbudget: 9\nrivals: [{name: a}]\n")
    for name in ("folder", "runs"):
        Path(name).mkdir()
    for name in ("file", "runs/compare"):
        Path(name).touch()
    assert cli.main(arguments.split()) == cli.BAD_INPUT
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert says in said.err


def test_a_table_of_results_makes_its_folder(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    results.write_text(json.dumps({"tag": "colors", "prompt": "a", "correct": True, "metadata": "{}"}) + "\n")
    out = tmp_path / "no" / "dir" / "table.md"
    assert cli.main(["evaluate", "--collect", str(results), "--out", str(out)]) == cli.DONE
    assert "colors" in out.read_text()


def test_an_occupied_metrics_port_is_one_line_and_exit_code_2(config: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        port = other.getsockname()[1]
        done = advdmd("run", "--config", str(config), f"metrics.port={port}")
    assert (done.returncode, done.stderr.count("\n")) == (cli.BAD_INPUT, 1)
    assert str(port) in done.stderr


def test_a_dry_run_shows_everything_and_leaves_nothing(config: Path, tmp_path: Path) -> None:
    done = advdmd("run", "--config", str(config), "rollout.actors=3", "--dry-run", "learner.ranks=2")
    assert done.returncode == cli.DONE, done.stderr
    for expected in ("actors: 3", "ranks: 2", "course", "placement", "memory", "new run in"):
        assert expected in done.stdout
    assert not (tmp_path / "runs").exists()


def test_a_run_in_one_process_reserves_nothing_and_plans_no_object_store(config: Path, tmp_path: Path) -> None:
    done = advdmd("run", "--config", str(config), "--local", "--dry-run", "rollout.num_cpus=4096")
    assert done.returncode == cli.DONE, done.stderr
    plan = done.stdout.partition("placement\n")[2]
    assert plan.startswith("  all workers are in this process, which reserves nothing\n")
    assert "Ray" not in plan
    assert not (tmp_path / "runs").exists()


def test_a_run_that_is_too_large_for_this_machine_is_planned_and_told_what_the_machine_lacks(
    config: Path, tmp_path: Path
) -> None:
    large = ("rollout.num_cpus=4096", "metrics.port=0")
    planned = advdmd("run", "--config", str(config), "--dry-run", *large)
    assert planned.returncode == cli.DONE, planned.stderr
    assert "\nplacement\n" in planned.stdout
    here = planned.stdout.partition("\nthis machine\n")[2]
    assert "a worker asks for 4096; lower rollout.num_cpus" in here
    assert here.rstrip().splitlines()[-1].startswith("The configuration is valid, and this machine is too small")
    assert not (tmp_path / "runs").exists()
    refused = advdmd("run", "--config", str(config), *large)
    assert (refused.returncode, refused.stderr.count("\n")) == (cli.BAD_INPUT, 1)
    invalid = advdmd("run", "--config", str(config), "--dry-run", "discriminator.blocks=[99]", *large)
    assert (invalid.returncode, invalid.stdout, invalid.stderr.count("\n")) == (cli.BAD_INPUT, "", 1)


def test_a_run_for_a_cluster_is_planned_without_asking_it(config: Path) -> None:
    planned = advdmd("run", "--config", str(config), "--dry-run", "ray.address=10.0.0.1:6379", "rollout.num_gpus=8")
    assert planned.returncode == cli.DONE, planned.stderr
    assert "the cluster at 10.0.0.1:6379 is not asked" in planned.stdout
    assert planned.stdout.rstrip().endswith("The configuration is valid.")


def test_a_port_in_use_does_not_keep_a_run_from_being_planned(config: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        port = other.getsockname()[1]
        done = advdmd("run", "--config", str(config), "--dry-run", f"metrics.port={port}")
    assert done.returncode == cli.DONE, done.stderr
    assert str(port) in done.stdout.partition("\nthis machine\n")[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU here")
@pytest.mark.parametrize("role", ["rollout", "reward", "learner"])
def test_a_gpu_that_is_not_here_is_one_line_before_a_run_in_one_process_begins(
    role: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "--config", str(config), "--local", f"{role}.num_gpus=0.5"]) == cli.BAD_INPUT
    said = capsys.readouterr().err
    assert "num_gpus=0.5, but torch" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_the_configuration_a_dry_run_prints_is_the_one_it_read(config: Path, tmp_path: Path) -> None:
    done = advdmd("run", "--config", str(config), "--dry-run", "dmd.learning_rate=0.5")
    printed = tmp_path / "printed.yaml"
    printed.write_text(done.stdout.split("\nplacement\n")[0])
    assert read_config(printed) == read_config(config, ["dmd.learning_rate=0.5"])


def test_overrides_may_stand_anywhere_and_keep_their_order() -> None:
    args = cli.parse_arguments(["run", "a.b=1", "--config", "x", "a.b=2", "--dry-run", "a.b=3"])
    assert args.overrides == ["a.b=1", "a.b=2", "a.b=3"]
    assert args.dry_run


@pytest.mark.parametrize(
    "argv", [[], ["frobnicate"], ["run"], ["run", "--conf", "x"], ["sample", "extra"], ["doctor", "run.name=a"]]
)
def test_wrong_arguments_are_one_line(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == cli.BAD_INPUT
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("command", [command.name for command in cli.COMMANDS])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    assert stopped.value.code == 0
    assert "usage: advdmd" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UserError("line one\nline two"), cli.BAD_INPUT),
        (errors.WeightsMismatchError("digests differ"), cli.FAILED),
        (errors.DeadlineError("ordinal 3"), cli.FAILED),
        (KeyboardInterrupt(), 130),
        (errors.Interrupted(15, "stopped by SIGTERM"), 143),
    ],
)
def test_every_way_to_end_is_one_line_with_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    def read_config(*_: object) -> None:
        raise error

    monkeypatch.setattr("advdmd_ray.cli.run.read_config", read_config)
    assert cli.main(["run", "--config", "x"]) == code
    assert capsys.readouterr().err.count("\n") == 1


def test_an_unexpected_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_config(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("advdmd_ray.cli.run.read_config", read_config)
    with pytest.raises(ZeroDivisionError):
        cli.main(["run", "--config", "x"])


def test_the_module_entry_is_the_run_command(config: Path) -> None:
    command = [sys.executable, "-m", "advdmd_ray.run", "--config", str(config), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert done.returncode == cli.DONE, done.stderr
    assert "placement" in done.stdout


def test_the_judges_table_has_a_row_for_every_sampler() -> None:
    score: dict[str, Any] = {"figures": {"accuracy": 0.9, "frechet": 3.0}}
    labels = [{"key": "frechet", "label": "distance"}, {"key": "accuracy", "label": "accuracy"}]
    verdict = {"labels": labels, "teacher": {"40": score, "4": score}, "student": {**score, "steps": 4}, "real": score}
    assert judge_table(verdict).row_count == 4
    assert judge_table({"labels": labels, "teacher": {"40": score}, "real": score}).row_count == 2
    assert [str(column.header) for column in judge_table(verdict).columns][2:] == ["distance", "accuracy"]


def test_a_grid_without_a_place_is_drawn_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = [
        "sample",
        "--pipeline",
        "builtin:digits",
        "--prompt",
        "a handwritten seven",
        "--steps",
        "2",
        "--images",
        "2",
    ]
    assert cli.main([*asked, "--grid"]) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["grid.png"]
    assert cli.main([*asked, "--grid", "other.png"]) == 0
    assert (tmp_path / "other.png").read_bytes() == (tmp_path / "grid.png").read_bytes()
