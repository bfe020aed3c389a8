"""How many workers judge at the end of a run, and how long they may be silent."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import RayTaskError

from advdmd_ray.config import Config, read_config
from advdmd_ray.errors import WorkerFailedError
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.judgement import Piece, Sampler, calls
from advdmd_ray.runtime import on_ray
from advdmd_ray.runtime.judging import SLACK, patience_s
from advdmd_ray.runtime.on_ray import RayPlace, export_s
from advdmd_ray.runtime.team import Team, team_of

SHARES = st.floats(0, 1) | st.integers(0, 4)
"""Of one resource, for one worker."""


def roles(rollout: float, reward: float, learner: float, kind: str = "num_gpus", **more: Any) -> Config:
    """Two actors, a reward worker and a rank with so much of a resource each."""
    return Config.model_validate(
        {
            "rollout": {"actors": 2, kind: rollout, **more},
            "reward": {"workers": 1, kind: reward},
            "learner": {"ranks": 1, kind: learner},
        }
    )


def test_every_gpu_that_the_run_held_judges() -> None:
    assert team_of(roles(1, 1, 1), 99) == Team(4, 0.25, 1.0)
    assert team_of(roles(1, 0, 2), 99) == Team(4, 0.25, 1.0)
    assert team_of(roles(0.25, 0.25, 0.5), 99) == Team(1, 0.25, 1.0)
    shared = team_of(roles(0.25, 0.125, 0.125), 99)
    assert shared == Team(1, 0.25, 0.75)
    assert team_of(roles(1, 1, 1), 3).actors == 3


def test_without_gpus_every_cpu_that_the_run_held_judges() -> None:
    assert team_of(roles(1, 1, 1, "num_cpus"), 99) == Team(4, 1.0, 0.0)
    assert team_of(Config(), 99) == Team(1, 1.0, 0.0)


@given(SHARES, SHARES, SHARES, st.sampled_from(["num_gpus", "num_cpus"]), st.integers(1, 50))
def test_the_team_fits_where_the_run_was(a: float, b: float, c: float, kind: str, pieces: int) -> None:
    held, team = 2 * a + b + c, team_of(roles(a, b, c, kind), pieces)
    assert 1 <= team.actors <= pieces
    each = team.num_gpus if kind == "num_gpus" else team.num_cpus
    assert team.actors * each <= held + 1e-3
    assert team.actors == pieces or team.actors + 1 > held


def measured(config: Config, busy: float, trajectories: int) -> None:
    values = {
        "advdmd_run_role_seconds_total{role=rollout,state=busy}": busy,
        "advdmd_run_role_seconds_total{role=learner,state=busy}": 1e6,
        "advdmd_rollout_trajectories_total": trajectories,
    }
    config.folder.mkdir(parents=True, exist_ok=True)
    RunFolder(config.folder).metrics.write_text(json.dumps({"time": 0.0, "cycle": 0, "values": values}) + "\n")


def test_patience_follows_the_pace_of_the_rollouts_and_the_longest_piece(tmp_path: Path) -> None:
    config = read_config("digits", [f"run.output={tmp_path}"])
    teacher, student = (Piece(Sampler(*kind), 0, 50) for kind in ((False, 40), (True, config.steps)))
    measured(config, busy=200.0, trajectories=1000)
    alone = patience_s(config, [student])
    # Fifty trajectories take ten seconds, and the images of a student are trajectories.
    assert alone == pytest.approx(config.ray.start_timeout_s + SLACK * 50 * 0.2)
    assert calls(config, teacher) == 50 * 40 * (2 if config.judged_guidance != 1 else 1)
    share = calls(config, teacher) / calls(config, student)
    assert patience_s(config, [student, teacher]) == pytest.approx(config.ray.start_timeout_s + SLACK * 10 * share)


def test_a_run_that_measured_nothing_waits_as_long_as_a_lease_lasts(tmp_path: Path) -> None:
    config = read_config("digits", [f"run.output={tmp_path}"])
    piece = Piece(Sampler(student=True, steps=config.steps), 0, config.rollout.group_size)
    leased = config.ray.start_timeout_s + SLACK * config.rollout.lease_s
    assert patience_s(config, [piece]) == pytest.approx(leased)
    measured(config, busy=0.0, trajectories=0)
    assert patience_s(config, [piece]) == pytest.approx(leased)


def test_a_larger_model_has_longer_to_be_exported() -> None:
    start = Config().ray.start_timeout_s
    digits, shapes = (
        export_s(Config.model_validate({"model": {"path": f"builtin:{name}"}})) for name in ("digits", "shapes")
    )
    assert start < digits < shapes < start + 10


def test_what_ends_a_judge_on_ray_is_one_line_and_its_traceback_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config.model_validate({"run": {"output": str(tmp_path)}})
    config.folder.mkdir(parents=True)

    def broken(*_: object) -> None:
        raise RayTaskError("draw", "a traceback", ZeroDivisionError("no\nimages"))

    monkeypatch.setattr(on_ray, "judged_on_ray", broken)
    monkeypatch.setattr(on_ray, "_here", lambda: None)
    with pytest.raises(WorkerFailedError, match=r"^ZeroDivisionError: no images; see .*failure\.log$"):
        RayPlace(config, hub=None, note="").judge(tmp_path)  # type: ignore[arg-type]
    assert "a traceback" in RunFolder(config.folder).failure.read_text()
