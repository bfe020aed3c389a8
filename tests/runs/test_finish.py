"""The end of a run: the summary tells what metrics.jsonl says."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from advdmd_ray.config import Config
from advdmd_ray.data.digits.judge import DigitsJudge
from advdmd_ray.evaluation.judges.contract import Figure, JudgeScore
from advdmd_ray.runs.finish import Judged, Phases, judged_run, report_run, summarise
from advdmd_ray.runs.judgement import Drawn, Piece, samplers_of
from advdmd_ray.runs.verdict import Verdict
from local_runs import train_here

pytestmark = pytest.mark.usefixtures("encoders_once")

PHASES = Phases(1.0, 2.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> Config:
    """A finished run of two cycles, RL in each."""
    config = Config.model_validate(
        {
            "run": {"name": "end", "output": str(tmp_path_factory.mktemp("runs")), "cycles": 2},
            "model": {"path": str(tiny_pipeline), "max_sequence_length": 5},
            "diffusion": {"sigmas": (1.0, 0.5)},
            "rollout": {"actors": 1, "group_size": 2, "groups_per_cycle": 2},
            "learner": {"engine": "torch"},
            "dmd": {"batch_size": 2},
            "fake_score": {"batch_size": 2},
            "discriminator": {"batch_size": 2, "text_errors": None, "auc_high": 1.0},
            "cadence": {"warm_dmd_updates": 0, "ramp_interval": 1},
        }
    )
    train_here(config)
    return config


def _verdict() -> Verdict:
    score = JudgeScore({"seen": 0.5}, images=100)
    return Verdict(
        figures=(Figure("seen", "seen prompts", "higher", share=True),),
        headline="seen",
        teacher={40: score, 4: score},
        student=JudgeScore({"seen": 0.75}, images=100),
        steps=2,
        real=JudgeScore({"seen": 1.0}, images=100),
        prompts=("a circle",),
        images={"student, 2 steps": np.zeros((1, 1, 8, 8), np.float32)},
    )


def test_the_summary_counts_what_the_run_did(run: Config) -> None:
    summary = summarise(run, PHASES, Judged(3.0, _verdict()))
    assert summary.judge is not None
    assert summary.not_judged is None
    assert summary.seconds.model_dump() == {"setup": 1.0, "train": 2.0, "judge": 3.0}
    assert summary.cycles == 2
    assert summary.updates.model_dump() == {"dmd": 2, "rl": 2, "fake_score": 8, "discriminator": 4}
    assert summary.trajectories.trained == 8
    assert sum(summary.trajectories.dropped.values()) == 0
    assert summary.weights.published.model_dump() == {"student": 3, "discriminator": 3}
    assert summary.weights.mismatched.model_dump() == {"student": 0, "discriminator": 0}
    assert summary.weights.verified.student >= 1
    assert set(summary.weights.workers) == {"rollout-0", "reward-0"}
    assert set(summary.discriminator.auc) == set(summary.discriminator.auc_while_rl) == {1, 2}
    assert summary.ratio_deviation is not None
    assert summary.ratio_deviation <= 1e-6
    assert set(summary.roles) == {"rollout", "reward", "learner"}
    assert (summary.judge.student.figures, summary.judge.student.steps) == ({"seen": 0.75}, 2)
    assert summary.judge.headline_label.label == "seen prompts"


def test_a_verdict_without_a_student_is_no_summary(run: Config) -> None:
    nobody = dataclasses.replace(_verdict(), student=None)
    with pytest.raises(ValueError, match="has a student"):
        summarise(run, PHASES, Judged(3.0, nobody))


def test_a_run_that_is_not_judged_is_summed_up_and_says_how_to_judge_it(run: Config) -> None:
    summary = summarise(run, PHASES, Judged(3.0, missing="the judge failed: no room"))
    assert summary.judge is None
    assert summary.cycles == 2
    command = f"advdmd evaluate --config {run.folder}/config.yaml --student {run.folder}/student"
    assert summary.not_judged == f"the judge failed: no room; `{command}` judges it"


def test_the_report_of_a_run_that_is_not_judged_has_all_the_rest(run: Config) -> None:
    page = report_run(run, PHASES, Judged(3.0, missing="the judge failed: no room")).read_text()
    assert "The student is trained and exported, and not judged." in page
    assert "the judge failed: no room; <code>advdmd evaluate" in page
    assert "No comparison picture was made." in page
    assert "data:image/png" not in page
    assert "images from" not in page


def test_the_report_of_a_run_that_is_judged_shows_the_images_beside_each_other(run: Config) -> None:
    judge = DigitsJudge()
    noise = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), dtype=np.uint8).repeat(3, axis=3)
    drawn = {
        Piece(sampler, 0, 20): Drawn(
            torch.arange(20) % 10, torch.from_numpy(noise[..., 0])[:, None] / 127.5 - 1, dict(enumerate(noise))
        )
        for sampler in (*samplers_of(run, student=True),)
    }
    judged = judged_run(run.model_copy(update={"evaluation": run.evaluation.model_copy(update={"samples": 20})}), drawn)
    assert judged.verdict is not None
    assert judged.verdict.images == {}
    assert judged.verdict.student == judge.score(
        torch.from_numpy(noise[..., 0])[:, None] / 127.5 - 1, torch.arange(20) % 10
    )
    assert judged.comparison == run.folder / "comparison.png"
    card = run.folder / "student" / "README.md"
    card.parent.mkdir(exist_ok=True)
    card.write_text("# end\n\n## Figures\n\nNone.\n")
    page = report_run(run, PHASES, judged).read_text()
    assert 'href="comparison.png"' in page
    assert "images from" in page
    assert json.loads((run.folder / "summary.json").read_text())["judge"]["student"]["images"] == 20
    assert card.read_text().startswith("# end\n\n## Figures\n\nBy the judge")
    assert "| student, 2 steps | " in card.read_text()
