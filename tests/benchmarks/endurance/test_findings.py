"""Samples of a run's memory, and what they say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advdmd_ray.config import Config
from benchmarks.endurance.findings import findings, read_samples, table
from benchmarks.endurance.picture import draw
from benchmarks.endurance.tiny import tiny_settings

SIZE = 100e6
HELD = {"own": SIZE, "shared": 5e6, "handles": 40, "threads": 12}


def sample(groups: int, **roles: float) -> dict[str, Any]:
    return {"seconds": 1.0, "groups": groups, "roles": {k: HELD | {"own": v} for k, v in roles.items()}}


def a_run(growth: float, wobble: float = 0.0) -> list[dict[str, Any]]:
    """20,000 groups in which a process grows by so many bytes in all, after a warm-up in which it doubled."""
    draws = np.random.default_rng(0).standard_normal(201)
    made = []
    for step in range(201):
        share = step / 200
        size = SIZE * (0.5 + min(share, 0.2) / 0.4) + growth * share + wobble * draws[step]
        made.append(sample(100 * step, hub=size))
    return made


@pytest.mark.parametrize(
    ("growth", "wobble", "verdict"),
    [
        (0.0, 1e5, "flat"),
        (0.005 * SIZE, 1e5, "flat"),
        (0.03 * SIZE, 1e5, "grows"),
        (-0.03 * SIZE, 1e5, "shrinks"),
        (0.0, 5e6, "no trend"),
    ],
)
def test_a_process_is_judged_by_the_whole_interval_after_the_warm_up(
    growth: float, wobble: float, verdict: str
) -> None:
    own, *others = findings(a_run(growth, wobble))
    assert (own.kind, own.verdict) == ("own", verdict)
    assert [(each.kind, each.verdict) for each in others] == [
        (kind, "flat") for kind in ("shared", "handles", "threads")
    ]
    assert own.slope.low <= growth / 20_000 <= own.slope.high
    assert verdict in table([own])


def test_a_process_that_leaves_a_file_open_in_each_thousand_groups_grows() -> None:
    samples = a_run(0.0)
    for line in samples:
        line["roles"]["hub"]["handles"] = 40 + line["groups"] // 1000
    handles = next(each for each in findings(samples) if each.kind == "handles")
    assert handles.verdict == "grows"
    assert 20_000 * handles.slope.value == pytest.approx(20, rel=0.05)


def test_samples_before_all_processes_are_up_or_after_one_has_ended_and_half_a_line_are_left_out(
    tmp_path: Path,
) -> None:
    path = tmp_path / "samples.jsonl"
    lines = [sample(0, hub=1.0), sample(5, hub=1.0, driver=2.0), sample(5, driver=2.0), sample(6, hub=0.0, driver=2.0)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"seconds": 3')
    assert read_samples(path) == lines[1:2]


def test_the_picture_of_a_run_is_drawn(tmp_path: Path) -> None:
    assert 10_000 < draw(a_run(0.0, 1e5), tmp_path / "memory.png").stat().st_size < 150_000


def test_a_run_of_so_many_groups_has_as_many_and_trains_every_network(tmp_path: Path) -> None:
    config = Config.model_validate(tiny_settings(tmp_path, 20_000))
    assert config.run.cycles * config.rollout.groups_per_cycle == 20_000
    assert config.policy_gradient.enabled
    assert config.cadence.discriminator_updates == 1
    with pytest.raises(ValueError, match="a multiple of 32, got 100"):
        tiny_settings(tmp_path, 100)
