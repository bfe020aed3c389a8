"""One job in this process: judged along its budget, and the same wherever it was interrupted."""

import functools
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from advdmd_ray.comparison import worker
from advdmd_ray.comparison.advdmd import AdvDmdTrainer
from advdmd_ray.comparison.examiner import Examiner
from advdmd_ray.comparison.job import POINTS, RESULT, STUDENT, Job
from advdmd_ray.comparison.plan import plan_jobs
from advdmd_ray.comparison.serial import SerialRun
from advdmd_ray.comparison.twinflow import TwinFlowTrainer
from advdmd_ray.comparison.worker import do_job
from advdmd_ray.config.comparison import read_comparison
from advdmd_ray.errors import UserError
from advdmd_ray.learner.outcome import CycleReport
from advdmd_ray.models.families.base import TransformerDenoiser
from advdmd_ray.models.pipeline import load_denoiser
from comparison_files import ADVDMD, DMD, TWINFLOW, write_comparison
from tiny_digits import write_tiny_digits
from toy_rival import NAME

pytestmark = pytest.mark.usefixtures("encoders_once")

TOY = {"name": "toy", "trainer": NAME, "settings": {"stride": 0.002, "cost": 30.0}}
"""A trainer from outside the package."""
SHALLOW = {"discriminator.blocks": [0, 1]}
RIVALS = {rival["name"]: rival for rival in (DMD, ADVDMD, TWINFLOW, TOY)}


def job_of(folder: Path, pipeline: Path, rival: str, budget: float = 180) -> Job:
    folder.mkdir(exist_ok=True)
    settings = {"rivals": [RIVALS[rival]], "budget": budget, "points": 2, "overrides": SHALLOW}
    comparison = read_comparison(write_comparison(folder, pipeline, **settings))
    return plan_jobs(comparison, folder / "out")[1]


def never() -> bool:
    return False


def after(steps: int) -> Callable[[], bool]:
    """Says stop once it was asked so many times before."""
    asked = itertools.count()
    return lambda: next(asked) >= steps


def result_of(job: Job) -> dict[str, Any]:
    """The result without what hangs on the clock."""
    result = json.loads((job.folder / RESULT).read_text())
    for point in result["points"]:
        del point["seconds"], point["cpu_seconds"]
    return result


@dataclass(frozen=True)
class Whole:
    """A job that was done in one go, and what it told of its progress."""

    job: Job
    told: list[float]


@pytest.fixture(scope="module")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two blocks: no law of a job depends on how deep its networks are."""
    return write_tiny_digits(tmp_path_factory.mktemp("teacher") / "tiny", layers=2)


@pytest.fixture(scope="module")
def whole_of(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> Callable[[str], Whole]:
    """The whole job of each rival, done once and only read."""

    @functools.cache
    def done(rival: str) -> Whole:
        told: list[float] = []
        job = job_of(tmp_path_factory.mktemp("whole") / rival, tiny_pipeline, rival)
        assert do_job(job, told.append, never)
        return Whole(job, told)

    return done


@pytest.mark.parametrize("rival", [pytest.param("dmd", marks=pytest.mark.wide), "advdmd", "twinflow", "toy"])
def test_a_job_interrupted_twice_ends_like_one_that_never_was(
    rival: str, tmp_path: Path, tiny_pipeline: Path, whole_of: Callable[[str], Whole]
) -> None:
    whole, told = whole_of(rival).job, whole_of(rival).told
    parts = job_of(tmp_path / "parts", tiny_pipeline, rival)
    for steps in (1, 1):
        assert not do_job(parts, lambda _: None, after(steps))
        assert not parts.done
    assert do_job(parts, lambda _: None, never)
    assert result_of(parts) == result_of(whole)
    ours, theirs = (load_file(job.folder / STUDENT) for job in (parts, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert told == sorted(told)
    assert told[-1] >= whole.budget > told[-2]
    assert not (whole.folder / "checkpoints").exists()


def test_a_rivals_update_holds_no_more_rows_than_the_learners_micro_batch_and_is_counted_where_it_is_skipped(
    tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(tmp_path, tiny_pipeline, "twinflow")
    learner = job.config.learner.model_copy(update={"micro_batch": 2, "gradient_checkpointing": True})
    trainer = TwinFlowTrainer(replace(job, config=job.config.model_copy(update={"learner": learner})), None)
    held, most, checkpointing, whole = [0], [], set[bool](), TransformerDenoiser.whole

    def let_go(gradient: torch.Tensor) -> None:
        held[0] -= len(gradient)

    def counted(self: TransformerDenoiser, *asked: Any) -> torch.Tensor:
        velocity = whole(self, *asked)
        if velocity.requires_grad:
            held[0] += len(velocity)
            most.append(held[0])
            checkpointing.add(self.transformer.is_gradient_checkpointing)
            velocity.register_hook(let_go)
        return velocity

    monkeypatch.setattr(TransformerDenoiser, "whole", counted)
    trainer.advance()
    assert most == [2] * 4  # four pairs of a twin and a real row; a first update rectifies nothing
    assert checkpointing == {True}
    assert trainer.notes()["skipped"] == 0
    with torch.no_grad():
        next(iter(trainer._training._parameters.values())).fill_(torch.nan)
    for skipped in (1, 2):
        trainer.advance()
        assert trainer.notes()["skipped"] == skipped


def test_a_student_is_judged_at_every_share_of_its_budget(whole_of: Callable[[str], Whole]) -> None:
    job = whole_of("advdmd").job
    result = result_of(job)
    assert [point["point"] for point in result["points"]] == [1, 2]
    for share, point in enumerate(result["points"], start=1):
        assert point["learner"] >= share * job.budget / 2
        assert point["images"] == 20
        assert set(point["figures"]) == {"frechet", "accuracy", "diversity", "coverage"}
    assert result["points"][0]["figures"] != result["points"][1]["figures"]
    assert (result["steps"], result["seed"], result["judge"]["headline"]) == (3, 0, "frechet")


@pytest.mark.parametrize(("share", "due"), [(0.0, 0), (0.49, 0), (0.5, 1), (0.99, 1), (1.0, 2), (1.5, 2)])
def test_judgements_fall_due_by_shares_of_the_budget(
    share: float, due: int, tmp_path: Path, tiny_pipeline: Path
) -> None:
    job = job_of(tmp_path, tiny_pipeline, "dmd")
    assert job.points_due(share * job.budget) == due


@pytest.mark.parametrize("rival", ["advdmd", "twinflow"])
def test_a_kill_between_checkpoint_and_judgement_loses_nothing(
    rival: str,
    tmp_path: Path,
    tiny_pipeline: Path,
    whole_of: Callable[[str], Whole],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, killed = whole_of(rival).job, job_of(tmp_path / "killed", tiny_pipeline, rival)
    with monkeypatch.context() as patch:
        patch.setattr(Examiner, "student", kill)
        with pytest.raises(KeyboardInterrupt):
            do_job(killed, lambda _: None, never)
    assert not (killed.folder / POINTS).exists()
    assert do_job(killed, lambda _: None, never)
    assert result_of(killed) == result_of(whole)
    assert all(point["notes"] for point in result_of(killed)["points"])


def test_a_judgement_notes_the_means_over_the_cycles_since_the_one_before(
    tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[CycleReport] = []
    cycle = SerialRun.cycle

    def kept(run: SerialRun) -> CycleReport:
        report = cycle(run)
        spoilt = replace(report.updates["dmd"], updates=0, skipped=1)
        reports.append(replace(report, updates={**report.updates, "dmd": spoilt}) if len(reports) % 2 else report)
        return reports[-1]

    monkeypatch.setattr(SerialRun, "cycle", kept)
    job = job_of(tmp_path, tiny_pipeline, "advdmd", budget=400)
    assert not do_job(job, lambda _: None, after(3))
    assert do_job(job, lambda _: None, never)
    began = 0
    for point in result_of(job)["points"]:
        own, began = reports[began : point["version"]], point["version"]
        assert len(own) > 1
        rewards = torch.tensor([report.reward_mean for report in own])
        spreads = torch.tensor([report.reward_spread for report in own])
        notes = point["notes"]
        assert (notes["updates"]["dmd"], notes["skipped"]) == ((began + 1) // 2, began // 2)
        assert notes["reward_mean"] == pytest.approx(rewards.mean(dim=0).tolist(), rel=1e-5)
        assert notes["reward_spread"] == pytest.approx(spreads.mean(dim=0).tolist(), rel=1e-5)
        turns = [report.policy.kl_nats for report in own if report.policy is not None]
        assert turns
        assert notes["kl_nats"] == pytest.approx(sum(turns) / len(turns))
        assert notes["auc"] == list(own[-1].smoothed_auc)
        assert "agreement" not in notes
    assert began == len(reports)


def kill(*_: object) -> None:
    raise KeyboardInterrupt


def test_the_teacher_is_judged_at_each_number_of_steps_and_goes_on_where_it_stopped(
    tmp_path: Path, tiny_pipeline: Path
) -> None:
    comparison = read_comparison(write_comparison(tmp_path, tiny_pipeline, overrides=SHALLOW))
    job = plan_jobs(comparison, tmp_path / "out")[0]
    assert not do_job(job, lambda _: None, after(1))
    assert do_job(job, lambda _: None, never)
    result = json.loads((job.folder / RESULT).read_text())
    assert [point["steps"] for point in result["points"]] == [2, 1]
    assert result["points"][0]["figures"] != result["points"][1]["figures"]
    assert result["real"]["figures"]["accuracy"] > 0.9
    assert result["guidance"] == 1.0


def test_a_job_with_damaged_checkpoints_alone_fails_in_one_line(tmp_path: Path, tiny_pipeline: Path) -> None:
    job = job_of(tmp_path, tiny_pipeline, "dmd")
    (job.folder / "checkpoints" / "step-00000001").mkdir(parents=True)
    with pytest.raises(UserError, match="no whole checkpoint"):
        do_job(job, lambda _: None, never)


def test_a_silent_rl_turn_costs_nothing(tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(tmp_path, tiny_pipeline, "advdmd")
    run = SerialRun(job.config)
    reports = [run.cycle() for _ in range(2)]
    assert [report.plan.policy_gradient for report in reports] == [0, 1]
    updates = reports[1].updates
    silent = replace(reports[1], plan=replace(reports[1].plan, policy_gradient=0, silent=True))
    skipped = replace(reports[1], updates={**updates, "rl": replace(updates["rl"], updates=0, skipped=1)})
    spent = {}
    for name, report in (("silent", silent), ("skipped", skipped)):
        monkeypatch.setattr(SerialRun, "cycle", lambda _, made=report: made)
        trainer = AdvDmdTrainer(job, None)
        trainer.advance()
        spent[name] = trainer.spent
    assert spent["silent"].rl == 0 < spent["skipped"].rl
    assert spent["silent"].dmd == spent["skipped"].dmd > 0


def test_a_result_names_the_code_that_its_job_began_with(
    tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = ["began"]
    monkeypatch.setattr(worker, "made_here", lambda: {"commit": head[0]})
    job = job_of(tmp_path, tiny_pipeline, "toy", budget=60)
    assert do_job(job, lambda _: head.__setitem__(0, "moved on"), never)
    assert result_of(job)["made"] == {"commit": "began"}


def test_a_result_names_every_code_that_its_job_was_worked_on_by(
    tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(tmp_path, tiny_pipeline, "toy")
    for commit in ("first", "first", "second", "first"):
        monkeypatch.setattr(worker, "made_here", lambda commit=commit: {"commit": commit})
        assert not do_job(job, lambda _: None, after(1))
    monkeypatch.setattr(worker, "made_here", lambda: {"commit": "third"})
    assert do_job(job, lambda _: None, never)
    result = result_of(job)
    assert (result["made"], result["made_before"]) == (
        {"commit": "third"},
        [{"commit": name} for name in ("first", "second", "first")],
    )


def test_a_trainer_from_outside_the_package_spends_its_budget_by_its_own_settings(
    tmp_path: Path, tiny_pipeline: Path
) -> None:
    job = job_of(tmp_path, tiny_pipeline, "toy", budget=200)
    assert do_job(job, lambda _: None, never)
    result = result_of(job)
    assert result["trainer"] == NAME
    assert [(point["version"], point["learner"], point["notes"]) for point in result["points"]] == [
        (4, 120.0, {"steps": 4}),
        (7, 210.0, {"steps": 7}),
    ]
    teacher = dict(load_denoiser(job.config.model.path).named_parameters())
    student = load_file(job.folder / STUDENT)
    assert student.keys() == teacher.keys()
    assert all(torch.allclose(student[name] - teacher[name], torch.tensor(0.014), atol=1e-6) for name in teacher)
