"""`advdmd plan`: forecast and recommendation of a full-size recipe, and bad input before torch is imported."""

import json
from pathlib import Path

import pytest

from advdmd_ray.cli import BAD_INPUT, DONE, main
from advdmd_ray.config import read_config
from full_size import write_full_size
from guarded import advdmd


def test_a_recipe_is_planned_for_its_own_split_and_no_better_one_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = f"model.path={write_full_size('sd3_medium', tmp_path / 'model')}"
    assert main(["plan", "--config", "sd3_medium", model, "--gpus", "8", "--nodes", "2"]) == DONE
    text = capsys.readouterr().out
    assert "assumed: h100 989 TFLOP/s" in text
    assert "if workers are spread evenly" in text
    assert "no other split of 8 GPUs is faster" in text


def test_what_is_recommended_can_be_pasted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = f"model.path={write_full_size('qwen_image_lora_2step', tmp_path / 'model')}"
    assert main(["plan", "--config", "qwen_image_lora_2step", model, "--gpus", "8", "--device", "h200"]) == DONE
    text = capsys.readouterr().out
    before, _, after = text.partition("recommended for 8 GPUs: ")
    pasted = next(line for line in after.splitlines() if line.startswith("  rollout.actors="))
    config = read_config("qwen_image_lora_2step", [model, *pasted.split()])
    assert after.startswith(f"{config.rollout.actors} rollout")
    assert "GPU hours for run.cycles=2000" in before
    if config.rollout.num_gpus < 1:
        assert "rollout and reward share" in after


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
        (["--config", "digits", "--gpus", "0"], "from 1 to 10000"),
        (["--config", "digits", "--device", "abacus"], "a100-40"),
        (["--config", "digits", "--utilisation", "1.5"], "from 0.001 to 1"),
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
