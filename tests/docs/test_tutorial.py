"""Every command of docs/guides/tutorial.md runs here, if it starts nothing, or is one that its program takes."""

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import click
import pytest

from advdmd_ray import cli
from advdmd_ray.cli import DONE, FAILED
from advdmd_ray.config import Config, read_config
from full_size import write_full_size

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/guides/tutorial.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```yaml\n# (\S+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL))
"""The configurations that it has its reader write, by name."""
RECIPE = "sd35_medium_lora"
OF_THE_MACHINE = {"placement", "cuda", "memory", "disk", "metrics", "ray", "ray auth", "shared memory", "spilling"}
"""What the doctor may want changed where the tutorial is tested: no GPU, small, other runs beside it."""


def lines(text: str) -> list[str]:
    """The commands, in the order in which they stand."""
    return re.findall(r"^    (\S.*)$", text.replace("\\\n", " "), re.MULTILINE)


COMMANDS = [shlex.split(line) for line in lines(TEXT)]
OURS = [words[1:] for words in COMMANDS if words[0] == "advdmd"]
RUN_HERE = [words for words in OURS if words[0] in {"doctor", "plan"} or "--dry-run" in words]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the reader's files, in which the commands are given, and which has a folder for `/shared`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "shared").mkdir()
    for place in (tmp_path, tmp_path / "shared"):
        (place / "prompts.txt").write_text("a red fox\na blue boat above a fox\n")
        for name, text in FILES.items():
            (place / name).write_text(here(text, tmp_path))
    return tmp_path


def here(text: str, desk: Path) -> str:
    return text.replace("/shared", str(desk / "shared"))


def model_of(words: Sequence[str], desk: Path) -> list[str]:
    """The setting that puts headers of the full size in the place of what `hf download` has brought."""
    name = words[words.index("--config") + 1]
    if name not in FILES and Path(name).name not in FILES:
        return []
    config = read_config(name)
    return [] if config.model.path.startswith("builtin:") else [f"model.path={write_full_size(RECIPE, desk / 'model')}"]


def read(words: Sequence[str]) -> Config:
    """The configuration of a command of ours."""
    args = cli.parse_arguments([*words])
    return read_config(args.config, args.overrides)


@pytest.mark.parametrize("words", RUN_HERE, ids=" ".join)
def test_what_starts_nothing_runs(words: list[str], desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [here(word, desk) for word in words]
    if any(word.startswith("ray.address=") for word in words):
        read(words)  # it asks a cluster
        return
    code = cli.main([*words, *model_of(words, desk)])
    said = capsys.readouterr().out
    changes = set(re.findall(r"^change  (\S+(?: \S+)*?)  ", said, re.MULTILINE))
    assert changes <= OF_THE_MACHINE, said
    assert code == (FAILED if changes and words[0] == "doctor" else DONE)
    assert "no other split of" in said or words[0] != "plan", said


def test_what_is_to_be_found_there_is_named_as_the_tutorial_says(desk: Path) -> None:
    assert set(FILES) == {"two_actors.yaml", "one_gpu.yaml", "many_gpus.yaml"}
    assert {words[2] for words in COMMANDS if words[:2] == ["hf", "download"]} == {
        read_config("one_gpu.yaml").model.path
    }
    two, one, many = (read_config(name) for name in FILES)
    assert (two.model.path, two.rollout.actors) == ("builtin:shapes", 2)
    gpus = one.rollout.actors * one.rollout.num_gpus + one.reward.workers * one.reward.num_gpus
    assert gpus + one.learner.ranks * one.learner.num_gpus == 1
    assert (many.rollout.actors, many.reward.workers, many.learner.ranks) == (2, 2, 4)
    assert (many.rollout.num_gpus, many.reward.num_gpus, many.learner.num_gpus) == (0.5, 0.5, 1)
    assert many.ray.placement == "labelled"


@pytest.mark.parametrize("words", [words for words in OURS if words not in RUN_HERE], ids=" ".join)
def test_what_trains_looks_or_scales_is_a_command_of_ours_with_settings_that_are_right(
    words: list[str], desk: Path
) -> None:
    words = [here(word, desk) for word in words]
    args = cli.parse_arguments(words)
    if "config" in args:
        config = read_config(args.config, args.overrides)
        assert config.run.name in TEXT


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[0] == "ray"], ids=" ".join)
def test_rays_own_parser_takes_what_is_for_ray(words: list[str], desk: Path) -> None:
    from ray.scripts.scripts import cli as command  # noqa: PLC0415 - takes a second

    given = words[1:]
    while isinstance(command, click.Group):
        command = command.commands[given.pop(0)]
    with command.make_context("ray", [here(word, desk) for word in given]) as context:
        parameters = context.params
    if "entrypoint" in parameters:
        python, module, name, *run = parameters["entrypoint"]
        assert [python, module, name] == ["python", "-m", "advdmd_ray.run"]
        config = read(["run", *run])
        assert Path(config.run.output).is_absolute()
        # Longer than the run may take to save.
        wait = json.loads(parameters["runtime_env_json"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]
        assert float(wait) > config.run.drain_s


def test_what_the_second_job_says_is_what_the_first_said_and_more(desk: Path) -> None:
    first, second = (words for words in COMMANDS if words[:3] == ["ray", "job", "submit"])
    assert {*first} - {*second} == {"many-1"}
    assert {*second} - {*first} == {"many-2", "--resume", "auto", "rollout.actors=4", "reward.workers=4"}
    (scaled,) = [words[-2:] for words in OURS if words[:2] == ["scale", "--run"] and "many_gpus" in words[2]]
    assert scaled == ["rollout=4", "reward=4"], "it resumes with the workers that it had"
    assert [words[-1] for words in COMMANDS if words[:3] == ["ray", "job", "stop"]] == ["many-1"]


def test_what_other_programs_are_given_is_there(desk: Path) -> None:
    options = set(re.findall(r"^#SBATCH (--[a-z-]+)=", (ROOT / "deploy/slurm.sh").read_text(), re.MULTILINE))
    for words in COMMANDS:
        match words:
            case ["advdmd" | "ray" | "make", *_] | ["hf", "download", _] | ["export", "RAY_AUTH_MODE=token"]:
                pass  # the other tests', and that of all documents
            case ["pip", "install", "-c", file, "."] | ["kubectl", "apply", "-f", file]:
                assert (ROOT / file).is_file()
            case ["prometheus", option]:
                assert (ROOT / option.removeprefix("--config.file=")).is_file()
            case ["sbatch", *rest]:
                script = next(at for at, word in enumerate(rest) if not word.startswith("-"))
                assert {option.partition("=")[0] for option in rest[:script]} <= options
                assert (ROOT / rest[script]).is_file()
                read(["run", *(here(word, desk) for word in rest[script + 1 :])])
            case _:
                pytest.fail(f"nobody checks {shlex.join(words)}")


def test_every_kind_of_command_is_found() -> None:
    assert {words[0] for words in COMMANDS} == {
        *("advdmd", "pip", "hf", "make", "sbatch", "kubectl", "ray", "export", "prometheus")
    }
    assert {words[0] for words in OURS} >= {"doctor", "plan", "run", "dashboard", "scale", "sample", "export"}
    assert len(RUN_HERE) >= 7
