"""The serial loop is the run without its machinery: it learns what the other shells learn at age 0."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from advdmd_ray.comparison.serial import SerialRun
from advdmd_ray.config import Config
from advdmd_ray.data.shapes.skills import prompt_words
from advdmd_ray.learner.checkpoint import latest_checkpoint
from advdmd_ray.models.codec import PatchCodec
from advdmd_ray.models.pipeline import save_pipeline
from advdmd_ray.models.tiny import SHAPES, build_tiny_pipeline
from advdmd_ray.runs.needs.compute import Network, cycle_cost
from local_runs import stored_tensors, train_here
from tiny_digits import write_tiny_digits

pytestmark = pytest.mark.usefixtures("encoders_once")

CYCLES = 3
ROUND_OFF = 2e-5


@pytest.fixture(scope="module")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two blocks: both ways go through the same networks, however deep."""
    return write_tiny_digits(tmp_path_factory.mktemp("teacher") / "tiny", layers=2)


def config(output: Path, pipeline: Path, **run: Any) -> Config:
    """Two groups of four a cycle, RL in every cycle."""
    return Config.model_validate(
        {
            "run": {"output": str(output), "cycles": CYCLES, "seed": 3} | run,
            "model": {"path": str(pipeline)},
            "diffusion": {"sigmas": (1.0, 0.6, 0.3)},
            "rollout": {"actors": 1, "group_size": 4, "groups_per_cycle": 2, "max_policy_age": 0},
            "learner": {"engine": "torch", "checkpoint_cycles": CYCLES, "ema_decay": 0.0},
            "dmd": {"batch_size": 4, "learning_rate": 1e-3},
            "fake_score": {"batch_size": 4},
            "discriminator": {"batch_size": 4, "blocks": (0, 1), "text_errors": None, "auc_high": 1.0},
            "cadence": {"warm_dmd_updates": 0, "ramp_interval": 1, "fake_score_updates": 1, "discriminator_updates": 1},
        }
    )


def with_small_groups_first(settings: Config) -> Config:
    """RL from the second cycle on, and groups of two before."""
    tree = settings.model_dump()
    tree["rollout"]["warm_group_size"], tree["cadence"]["warm_dmd_updates"] = 2, 1
    return Config.model_validate(tree)


def test_three_serial_cycles_make_the_student_that_a_run_through_arrow_and_buffer_makes(
    tmp_path: Path, tiny_pipeline: Path
) -> None:
    other = with_small_groups_first(config(tmp_path / "local", tiny_pipeline))
    train_here(other)
    theirs = latest_checkpoint(other.folder / "checkpoints").load("ema")
    run = SerialRun(with_small_groups_first(config(tmp_path / "serial", tiny_pipeline)))
    reports = [run.cycle() for _ in range(CYCLES)]
    assert [report.trajectories for report in reports] == [2 * 2, 2 * 4, 2 * 4]
    run.worker.checkpoint({})
    ours = latest_checkpoint(tmp_path / "serial" / "run" / "checkpoints").load("ema")
    assert run.version == CYCLES
    assert "rl" not in reports[0].updates
    assert [report.updates["rl"].updates for report in reports[1:]] == [1, 1]
    start = SerialRun(config(tmp_path / "start", tiny_pipeline)).learner.ema()
    moved = max(float((ours[name] - start[name]).abs().max()) for name in ours)
    apart = max(float((ours[name] - theirs[name]).abs().max()) for name in ours)
    assert moved > 10 * ROUND_OFF, "the students must have moved for their agreement to mean anything"
    assert apart < ROUND_OFF, f"moved by up to {moved:.1e}"


def test_a_serial_run_goes_on_from_its_checkpoint_to_the_same_bits(tmp_path: Path, tiny_pipeline: Path) -> None:
    whole = SerialRun(config(tmp_path / "whole", tiny_pipeline))
    for _ in range(CYCLES):
        whole.cycle()
    first = SerialRun(config(tmp_path / "parts", tiny_pipeline))
    first.cycle()
    first.worker.checkpoint({})
    second = SerialRun(
        config(tmp_path / "parts", tiny_pipeline), latest_checkpoint(tmp_path / "parts" / "run" / "checkpoints")
    )
    for _ in range(CYCLES - 1):
        second.cycle()
    ours, theirs = stored_tensors(second.learner), stored_tensors(whole.learner)
    assert ours.keys() == theirs.keys()
    for stem, tensors in ours.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, theirs[stem][name]), f"{stem}: {name}"


def test_groups_generated_together_are_those_generated_alone(tmp_path: Path, tiny_pipeline: Path) -> None:
    run = SerialRun(config(tmp_path, tiny_pipeline))
    run._rollout.load(run.learner.snapshots()[0])
    leases = run._leases()
    assert [lease.ordinal for lease in leases] == [0, 1]
    together = run._rollout.generate_together(leases)
    for lease, group in zip(leases, together, strict=True):
        alone = run._rollout.generate(lease)
        assert group.ordinal == alone.ordinal == lease.ordinal
        assert group.prompt_id == alone.prompt_id == lease.prompt_id
        assert (group.seeds == alone.seeds).all()
        assert group.latents == pytest.approx(alone.latents, abs=ROUND_OFF)


def test_measuring_the_agreement_with_the_checker_changes_nothing_that_is_learned_or_counted(tmp_path: Path) -> None:
    images = 2 * torch.rand(200, 3, 24, 24, generator=torch.Generator().manual_seed(0)) - 1
    shallow = dataclasses.replace(SHAPES, layers=2)
    codec = PatchCodec.fit(images, patch=8, components=SHAPES.latent_channels, whitening=0.5)
    save_pipeline(build_tiny_pipeline(prompt_words(), codec, shallow, seed=0), tmp_path / "teacher")
    base = config(tmp_path, tmp_path / "teacher").model_dump()
    tensors, costs, reports = [], [], []
    for asked in (False, True):
        tree = {
            **base,
            "model": {**base["model"], "max_sequence_length": 1},
            "data": {**base["data"], "source": "shapes", "prompt_rows": 20, "images_per_prompt": 2},
            "reward": {**base["reward"], "oracle_agreement": asked},
        }
        run = SerialRun(Config.model_validate(tree))
        reports.append([run.cycle() for _ in range(2)])
        tensors.append(stored_tensors(run.learner))
        network = Network(layers=2)
        costs.append([cycle_cost(run._config, report.plan, network, group_size=4) for report in reports[-1]])
    without, measured = reports
    assert [report.agreement for report in without] == [(), ()]
    assert [len(report.agreement) for report in measured] == [3, 3]
    assert [report.reward_mean for report in without] == [report.reward_mean for report in measured]
    assert costs[0] == costs[1]
    for stem, own in tensors[0].items():
        assert all(torch.equal(tensor, tensors[1][stem][name]) for name, tensor in own.items()), stem
