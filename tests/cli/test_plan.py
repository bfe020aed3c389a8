"""`advdmd plan`: forecast and recommendation of a full-size recipe, and bad input before torch is imported."""

import json
from pathlib import Path

import pytest

from advdmd_ray.cli import BAD_INPUT, DONE, main
from advdmd_ray.config import read_config
from full_size import write_full_size
from guarded import advdmd


def test_a_recipe_is_planned_and_what_is_recommended_can_be_pasted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = f"model.path={write_full_size('sd3_medium', tmp_path / 'model')}"
    assert main(["plan", "--config", "sd3_medium", model, "--gpus", "8", "--nodes", "2"]) == DONE
    text = capsys.readouterr().out
    assert "assumed: h100 989 TFLOP/s" in text
    assert "if workers are spread evenly" in text
    wanted = text.splitlines()[-1].split()
    config = read_config("sd3_medium", [model, *wanted])
    assert f"recommended for 8 GPUs: {config.rollout.actors} rollout, {config.reward.workers} reward" in text


def test_measured_costs_are_the_means_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        {"advdmd_rollout_seconds": [1.0, 3.0], "advdmd_reward_seconds": [0.5]},
        {"advdmd_rollout_seconds": [2.0], "advdmd_rollout_hand_over_seconds": [0.25]},
        {"advdmd_learner_cycle_seconds": [4.0]},
    ]
    text = "".join(json.dumps({"time": 0.0, "cycle": 1, "values": values}) + "\n" for values in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    assert main(["plan", "--config", "digits", "--from", str(tmp_path), "--json"]) == DONE
    costs = json.loads(capsys.readouterr().out)["costs"]
    assert (costs["generate"], costs["hand_over"]) == (2.0, 0.25)
    assert (costs["score"], costs["cycle"], costs["load"]) == (0.5, 4.0, 0.0)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--config", "digits", "--gpus", "8"], "set rollout.num_gpus"),
        (["--config", "digits", "--gpus", "0"], "at least 1"),
        (["--config", "digits", "--device", "abacus"], "a100-40"),
        (["--config", "digits", "--utilisation", "1.5"], "a share above 0"),
        (["--config", "sd3_medium", "--gpus", "8", "--nodes", "3"], "does not divide 8"),
        (["--config", "digits", "--from", "/absent"], "no such file"),
        (["--config", "digits", "model.path=/absent"], "no such folder"),
        (["--config", "absent"], "absent"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], names: str) -> None:
    done = advdmd("plan", *arguments)
    assert done.returncode == BAD_INPUT, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("advdmd: error: ")
    assert done.stderr.count("\n") == 1
    assert names in done.stderr


def test_help_needs_neither_torch_nor_ray() -> None:
    assert "--utilisation" in advdmd("plan", "--help").stdout
