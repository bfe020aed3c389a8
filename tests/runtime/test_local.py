"""A whole run in one process, with the real parts: repeatable, resumable, and verified to the byte."""

import dataclasses
import gc
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.controller import loop, scaling
from advdmd_ray.controller.prompt_order import work_of
from advdmd_ray.controller.protocols import Status, Task
from advdmd_ray.controller.staff import Staff
from advdmd_ray.data.digits.source import DigitsSource
from advdmd_ray.errors import WeightsMismatchError, WorkerFailedError
from advdmd_ray.evaluation.judges.contract import Figure, JudgeScore, whole_images
from advdmd_ray.learner.checkpoint import latest_checkpoint
from advdmd_ray.metrics.catalogue import PARTS
from advdmd_ray.metrics.history import entries_of, last_values
from advdmd_ray.runs.folder import RunFolder, Start, claim
from advdmd_ray.runs.parts.controller import build_controller
from advdmd_ray.runtime import local
from advdmd_ray.runtime.launch import launched
from advdmd_ray.runtime.local import LocalShell, in_this_process
from advdmd_ray.stations.buffer.quarantined import read_quarantined
from advdmd_ray.stations.records import GroupInfo, Lease, TrajectoryGroup
from advdmd_ray.stations.rollout import RolloutWorker
from advdmd_ray.stations.weights.snapshot import digest_of
from advdmd_ray.stations.weights.store import Published
from damage import flipped
from fake_shell import Clock, RecordingHub
from local_runs import train_here
from tiny_digits import write_tiny_digits

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("encoders_once")]

CYCLES = 3


def config(output: Path, pipeline: Path, **sections: Mapping[str, Any]) -> Config:
    """Two groups of four a cycle, three steps, RL in every cycle."""
    tree: dict[str, dict[str, Any]] = {
        "run": {"name": "run", "output": str(output), "cycles": CYCLES, "seed": 7},
        "model": {"path": str(pipeline)},
        "diffusion": {"sigmas": (1.0, 0.6, 0.3)},
        "rollout": {"actors": 1, "group_size": 4, "groups_per_cycle": 2, "max_policy_age": 0},
        "learner": {"engine": "torch", "checkpoint_cycles": 2},
        "dmd": {"batch_size": 4},
        "fake_score": {"batch_size": 4},
        "discriminator": {"batch_size": 4, "blocks": (0, 1), "text_errors": None, "auc_high": 1.0},
        "cadence": {"warm_dmd_updates": 0, "ramp_interval": 1, "fake_score_updates": 1, "discriminator_updates": 1},
    }
    for section, values in sections.items():
        tree[section] = tree.get(section, {}) | dict(values)
    return Config.model_validate(tree)


def final_bytes(run: Config) -> tuple[int, dict[str, str]]:
    """Version and digests of everything the newest checkpoint holds."""
    checkpoint = latest_checkpoint(run.folder / "checkpoints")
    return checkpoint.step, {stem: digest_of(checkpoint.load(stem)) for stem in checkpoint.stems}


@pytest.fixture(scope="module")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two blocks: what is told here of a run does not depend on how deep its networks are."""
    return write_tiny_digits(tmp_path_factory.mktemp("teacher") / "tiny", layers=2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> Config:
    """A run of three cycles with age cap 0, seed 7."""
    run = config(tmp_path_factory.mktemp("runs"), tiny_pipeline)
    assert train_here(run) == CYCLES
    return run


@pytest.mark.parametrize("actors", [*(pytest.param(count, marks=pytest.mark.wide) for count in (1, 2)), 4])
def test_with_age_cap_0_the_seed_decides_the_bytes_whatever_the_number_of_actors(
    actors: int, finished: Config, tmp_path: Path, tiny_pipeline: Path
) -> None:
    run = config(tmp_path, tiny_pipeline, rollout={"actors": actors})
    train_here(run)
    assert final_bytes(run) == final_bytes(finished)


def test_another_seed_gives_another_student(finished: Config, tmp_path: Path, tiny_pipeline: Path) -> None:
    run = config(tmp_path, tiny_pipeline, run={"seed": 8})
    train_here(run)
    ours, theirs = final_bytes(run)[1], final_bytes(finished)[1]
    assert all(ours[name] != theirs[name] for name in ("student", "fake_score", "discriminator", "ema"))


def test_a_run_that_is_stopped_and_resumed_ends_with_the_bytes_of_one_that_never_stopped(
    finished: Config, tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It is asked to stop in its first cycle, whose end saves it; a checkpoint was due a cycle later.
    run, statuses = config(tmp_path, tiny_pipeline), list[Status]()
    cycle, begun = LocalShell.cycle, list[Sequence[GroupInfo]]()

    def noted(shell: LocalShell, infos: Sequence[GroupInfo]) -> Task:
        begun.append(infos)
        return cycle(shell, infos)

    monkeypatch.setattr(LocalShell, "cycle", noted)
    assert train_here(run, stopping=lambda: len(begun) == 1) == 1
    left = run.folder / "checkpoints"
    assert [path.name for path in left.iterdir()] == ["step-00000001"]
    assert train_here(run, resume=left, display=statuses.append) == CYCLES
    assert final_bytes(run) == final_bytes(finished)
    assert statuses[0].updates["dmd"] == 1
    assert statuses[-1].updates["dmd"] == CYCLES
    # Every ordinal was settled once over both parts.
    frontier = latest_checkpoint(left).facts["controller"]["frontier"]
    assert frontier["next_ordinal"] == 2 * CYCLES
    assert frontier["unsettled"] == []


def test_a_run_that_is_resumed_with_other_numbers_of_workers_ends_with_the_same_bytes(
    finished: Config, tmp_path: Path, tiny_pipeline: Path
) -> None:
    shutil.copytree(finished.folder, (run := config(tmp_path, tiny_pipeline)).folder)
    shutil.rmtree(run.folder / "checkpoints" / "step-00000003")
    other = config(tmp_path, tiny_pipeline, rollout={"actors": 3}, reward={"workers": 2})
    assert train_here(other, resume=run.folder / "checkpoints") == CYCLES
    assert final_bytes(other) == final_bytes(finished)


class _MoreAndFewer:
    """Asks for 3 actors and 2 reward workers in the first two cycles, and for 2 and 1 in the last."""

    def __init__(self) -> None:
        self.version = 0
        self.told: list[tuple[int, int]] = []

    def show(self, status: Status) -> None:
        self.version = status.version

    def wanted(self) -> dict[str, int]:
        more, fewer = {"rollout": 3, "reward": 2}, {"rollout": 2, "reward": 1}
        return [more, more, fewer, fewer][self.version]

    def tell(self, staff: Mapping[str, Staff]) -> None:
        now = staff["rollout"].up, staff["reward"].up
        if now not in self.told[-1:]:
            self.told.append(now)


def test_a_run_that_is_scaled_while_it_trains_ends_with_the_bytes_of_one_that_is_not(
    finished: Config, tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((scaling, "LOOK_S"), (loop, "REFRESH_S")):
        monkeypatch.setattr(module, name, 0.0)
    run, wishes = config(tmp_path, tiny_pipeline), _MoreAndFewer()
    assert train_here(run, display=wishes.show, wishes=wishes) == CYCLES
    assert wishes.told == [(1, 1), (3, 2), (2, 1)]
    used = {
        name
        for name in ("rollout-1", "rollout-2")
        if f"worker={name}" in run.folder.joinpath("metrics.jsonl").read_text()
    }
    assert used == {"rollout-1", "rollout-2"}
    assert final_bytes(run) == final_bytes(finished)


def test_work_that_a_resumed_run_does_again_is_counted_once(
    finished: Config, tmp_path: Path, tiny_pipeline: Path
) -> None:
    run = config(tmp_path, tiny_pipeline)
    shutil.copytree(finished.folder, run.folder)
    shutil.rmtree(run.folder / "checkpoints" / "step-00000003")  # as if it had been killed before it
    assert train_here(run, resume=run.folder / "checkpoints") == CYCLES
    theirs, ours = (last_values(entries_of(each.folder / "metrics.jsonl")) for each in (finished, run))
    for series in ("learner_updates", "learner_trajectories_trained", "rollout_groups", "buffer_commits"):
        counts = {key: total for key, total in theirs.items() if key.startswith(f"advdmd_{series}_total")}
        assert counts
        assert {key: ours[key] for key in counts} == counts
    cycles = [entry["cycle"] for entry in entries_of(run.folder / "metrics.jsonl")]
    assert cycles == sorted(cycles)
    assert _observations(run, "advdmd_buffer_policy_age") == _observations(finished, "advdmd_buffer_policy_age")


def test_a_run_that_lags_is_repeatable_too_and_keeps_to_its_age_cap(tmp_path: Path, tiny_pipeline: Path) -> None:
    runs = [
        config(tmp_path, tiny_pipeline, rollout={"actors": 3, "max_policy_age": 1}, run={"cycles": 3, "name": name})
        for name in ("one", "two")
    ]
    for run in runs:
        train_here(run)
    assert final_bytes(runs[0]) == final_bytes(runs[1])
    ages = _observations(runs[0], "advdmd_buffer_policy_age")
    assert max(ages) == 1
    assert len(ages) == 6


def _observations(run: Config, name: str) -> list[float]:
    entries = entries_of(run.folder / "metrics.jsonl")
    return [value for entry in entries for value in entry["values"].get(name, [])]


def test_the_metrics_of_a_run_tell_its_story(finished: Config) -> None:
    jsonl = finished.folder / "metrics.jsonl"
    assert jsonl.read_text().endswith("\n")
    entries = list(entries_of(jsonl))
    values = last_values(entries)
    assert values["advdmd_run_cycle"] == CYCLES
    for stream in ("student", "discriminator"):
        label = f"{{stream={stream}}}"
        assert values[f"advdmd_weights_published_total{label}"] == CYCLES + 1
        assert (
            values[f"advdmd_weights_verified_total{label}"] == values[f"advdmd_weights_loaded_total{label}"] == CYCLES
        )
        assert values.get(f"advdmd_weights_mismatched_total{label}", 0) == 0
    updates = {name: values[f"advdmd_learner_updates_total{{objective={name}}}"] for name in ("dmd", "rl")}
    assert updates == {"dmd": CYCLES, "rl": CYCLES}
    for level in (1, 2, 3):
        for series in ("reward_mean", "reward_spread", "learner_discriminator_auc"):
            assert np.isfinite(values[f"advdmd_{series}{{level={level}}}"])
    assert values["advdmd_learner_trajectories_trained_total"] == 8 * CYCLES
    assert values["advdmd_buffer_bytes"] == values["advdmd_buffer_groups"] == 0
    assert values.get("advdmd_buffer_dropped_groups_total{reason=age}", 0) == 0
    ratios = [entry["values"]["advdmd_learner_ratio_deviation"] for entry in entries if _has_ratio(entry)]
    assert len(ratios) == CYCLES
    assert max(ratios) <= 1e-6
    parts = {part: values[f"advdmd_learner_part_seconds_total{{part={part}}}"] for part in PARTS}
    assert min(parts.values()) > 0
    cycles = sum(_observations(finished, "advdmd_learner_cycle_seconds"))
    assert 0.5 * cycles < sum(spent for part, spent in parts.items() if part != "publish") <= cycles
    assert values["advdmd_learner_checkpoint_cycle"] == CYCLES
    assert abs(jsonl.stat().st_mtime - values["advdmd_learner_checkpoint_timestamp_seconds"]) < 60
    assert not [key for key in values if "gpu" in key], "there is none"


def test_the_stages_of_a_start_in_one_process_are_recorded_once(finished: Config) -> None:
    told = [
        entry["values"]
        for entry in entries_of(finished.folder / "metrics.jsonl")
        if "advdmd_run_start_seconds{stage=texts}" in entry["values"]
    ]
    (values,) = told
    start = {key: value for key, value in values.items() if key.startswith("advdmd_run_start_seconds")}
    assert set(start) == {
        f"advdmd_run_start_seconds{{stage={stage}}}" for stage in ("texts", "workers", "first_groups", "first_cycle")
    }
    assert all(seconds > 0 for seconds in start.values())


def _has_ratio(entry: dict[str, Any]) -> bool:
    return "advdmd_learner_ratio_deviation" in entry["values"]


def test_the_files_of_a_run_are_where_the_report_looks(finished: Config) -> None:
    assert [path.name for path in sorted((finished.folder / "checkpoints").iterdir())] == [
        "step-00000002",
        "step-00000003",
    ]
    facts = latest_checkpoint(finished.folder / "checkpoints").facts
    assert facts["learner"]["version"] == CYCLES
    assert facts["controller"]["updates"]["rl"] == CYCLES
    assert json.loads(json.dumps(facts["config"])) == finished.model_dump(mode="json")


def test_a_grid_is_drawn_when_it_is_due_and_the_first_and_the_newest_are_kept(
    tmp_path: Path, tiny_pipeline: Path
) -> None:
    run = config(tmp_path, tiny_pipeline, run={"cycles": 3}, evaluation={"grid_cycles": 1, "keep_grids": 2})
    train_here(run)
    names = {path.name for path in (run.folder / "grids").iterdir()}
    assert names == {"version-000001.png", "version-000003.png"}


def _gauges(run: Config, name: str) -> list[float]:
    entries = entries_of(run.folder / "metrics.jsonl")
    return [entry["values"][name] for entry in entries if name in entry["values"]]


def test_the_student_is_judged_while_it_learns_by_the_judge_of_its_data(tmp_path: Path, tiny_pipeline: Path) -> None:
    evaluation = {"judge_cycles": 2, "judge_samples": 20}
    run = config(tmp_path, tiny_pipeline, run={"cycles": 4}, evaluation=evaluation)
    train_here(run)
    for figure in ("frechet", "accuracy", "diversity", "coverage"):
        values = _gauges(run, f"advdmd_run_judge{{figure={figure}}}")
        assert len(values) == 2
        assert np.isfinite(values).all()
    assert _gauges(run, "advdmd_run_reward_hack_alarm") == [0, 0]


class _Fallen:
    """A judge whose figure changes by a step at every judgement, whatever it sees."""

    name = "fallen"
    prompts = ("a handwritten zero", "a handwritten one")
    figures = (Figure("quality", "quality", "higher", share=False),)
    headline = "quality"
    features = staticmethod(whole_images)

    def __init__(self, step: float) -> None:
        self._step, self._said = step, 0.0

    def score(self, images: Tensor, rows: Tensor) -> JudgeScore:
        assert images.shape[1:] == (1, 8, 8)
        assert rows.tolist() == [0, 1] * 10
        self._said += self._step
        return JudgeScore({"quality": self._said}, len(images))

    def ceiling(self) -> JudgeScore:
        return JudgeScore({"quality": 1.0}, 20)


class _Rising(LocalShell):
    """Every cycle reports a higher reward of the final level than the one before."""

    def cycle(self, infos: Any) -> Task:
        task = super().cycle(infos)
        outcome = self._done[task]
        rewards = (*outcome.report.reward_mean[:-1], float(outcome.report.version))
        self._done[task] = dataclasses.replace(outcome, report=dataclasses.replace(outcome.report, reward_mean=rewards))
        return task


@pytest.mark.parametrize(
    ("step", "alarms"),
    [(-1.0, [0, 0, 0, 1, 1]), pytest.param(1.0, [0, 0, 0, 0, 0], marks=pytest.mark.wide)],
)
def test_a_judge_that_falls_while_rewards_rise_raises_the_alarm_of_a_run(
    step: float, alarms: list[int], tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "LocalShell", _Rising)
    monkeypatch.setattr(DigitsSource, "judge", lambda _: _Fallen(step))
    run = config(tmp_path, tiny_pipeline, run={"cycles": 5}, evaluation={"judge_cycles": 1, "judge_samples": 20})
    train_here(run)
    assert _gauges(run, "advdmd_run_reward_hack_alarm") == alarms


def test_a_run_that_ends_before_its_first_cycle_can_be_resumed(
    finished: Config, tmp_path: Path, tiny_pipeline: Path
) -> None:
    brief = config(tmp_path, tiny_pipeline, run={"time_limit_s": 1e-9})
    assert train_here(brief) == 0
    run = config(tmp_path, tiny_pipeline)
    assert train_here(run, resume=brief.folder / "checkpoints") == CYCLES
    assert final_bytes(run) == final_bytes(finished)


def test_whoever_runs_in_its_own_process_gets_its_threads_back(tmp_path: Path, tiny_pipeline: Path) -> None:
    run, before = config(tmp_path, tiny_pipeline, learner={"threads": 2}), torch.get_num_threads()
    assert before != run.learner.threads
    run.folder.mkdir(parents=True)
    with in_this_process(run):
        assert torch.get_num_threads() == run.learner.threads
    assert torch.get_num_threads() == before


class _Slow(LocalShell):
    """Groups and cycles take time, here and now, on a clock that only work moves."""

    def __init__(self, config: Config, clock: Clock) -> None:
        super().__init__(config)
        self.clock = clock

    def generate(self, worker: str, lease: Lease, student: Published) -> Task:
        self.clock.now += 30
        return super().generate(worker, lease, student)

    def cycle(self, infos: Sequence[GroupInfo]) -> Task:
        self.clock.now += 300
        return super().cycle(infos)


def test_work_that_is_slow_in_one_process_is_neither_made_again_nor_timed_out(
    tmp_path: Path, tiny_pipeline: Path
) -> None:
    slow = {"actors": 8, "groups_per_cycle": 8, "group_size": 2, "max_policy_age": 1, "lease_s": 60}
    batches = {name: {"batch_size": 8} for name in ("dmd", "fake_score", "discriminator")}
    run = config(tmp_path, tiny_pipeline, run={"cycles": 2}, rollout=slow, **batches)
    assert run.learner.cycle_timeout_s < 300 + 2 * 8 * 30
    hub, clock = RecordingHub(), Clock()
    assert build_controller(run, _Slow(run, clock), hub, clock=clock).run() == 2
    assert hub.total("advdmd_rollout_leases_reissued_total") == 0
    # No group was made twice.
    assert clock.now == 2 * 8 * 30 + 2 * 300


class _Flipping(LocalShell):
    """Damages one bit of the student's bytes on their way to a rollout worker, once it has version `at`."""

    at = 1

    def generate(self, worker: str, lease: Any, student: Published) -> Any:
        if student.manifest.version == self.at:
            student = Published(student.manifest, flipped(student.payload, -3, 2))
        return super().generate(worker, lease, student)


@pytest.mark.parametrize("at", [0, 1])
def test_a_flipped_bit_of_a_published_snapshot_stops_the_run(
    at: int, tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Flipping, "at", at)
    monkeypatch.setattr(local, "LocalShell", _Flipping)
    with pytest.raises(WeightsMismatchError, match=rf"rollout-0: student version {at}.*digest"):
        train_here(config(tmp_path, tiny_pipeline))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_an_error_that_nobody_expects_is_one_line_and_keeps_its_traceback(
    tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("no\nimages")

    run = config(tmp_path, tiny_pipeline)
    monkeypatch.setattr(local.work, "generate", broken)
    with pytest.raises(WorkerFailedError, match=r"^ZeroDivisionError: no images; see .*failure\.log$"):
        train_here(run)
    assert "in broken" in (run.folder / "failure.log").read_text()


def test_a_prompt_whose_groups_are_never_finite_goes_to_quarantine_and_the_run_on_to_its_end(
    finished: Config, tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config(tmp_path, tiny_pipeline)
    sick = work_of(run.run.seed, 10, 3)
    generate = RolloutWorker.generate

    def overflowing(self: RolloutWorker, lease: Lease) -> TrajectoryGroup:
        group = generate(self, lease)
        if (lease.prompt_id, lease.seed) == (sick.prompt_id, sick.seed):
            return dataclasses.replace(group, latents=group.latents * np.float32(np.inf))
        return group

    monkeypatch.setattr(RolloutWorker, "generate", overflowing)
    assert train_here(run) == CYCLES
    files = sorted(RunFolder(run.folder).quarantine.iterdir())
    assert [file.name for file in files] == [f"ordinal-00000003-attempt-{number}.arrow" for number in range(2)]
    found = read_quarantined(files[1])
    assert (found.lease.ordinal, found.lease.attempt, found.lease.seed) == (3, 1, sick.seed)
    assert found.group is not None
    assert not np.isfinite(found.group.latents).any()
    totals = last_values(entries_of(run.folder / "metrics.jsonl"))
    assert totals["advdmd_rollout_prompts_substituted_total"] == 1
    assert totals["advdmd_rollout_quarantined_total{reason=not_finite}"] == 2
    checkpoint = latest_checkpoint(run.folder / "checkpoints")
    assert checkpoint.facts["controller"]["frontier"]["next_ordinal"] == 2 * CYCLES
    assert final_bytes(run) != final_bytes(finished), "another prompt was learned from"


@pytest.mark.usefixtures("thawed")
def test_a_judge_that_breaks_costs_a_run_neither_its_student_nor_its_report_nor_its_end(
    tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("no\nimages")

    run = config(tmp_path, tiny_pipeline, run={"cycles": 1}, metrics={"port": 0}, evaluation={"samples": 20})
    monkeypatch.setattr(local, "draw_here", broken)
    with claim(Start(run.folder, None, None, "")), launched(run, in_this_process) as controller:
        assert gc.get_freeze_count() > 0  # the loops are not held up by what the start left behind
        assert RunFolder(run.folder).targets.exists()
        controller.run()
    assert not RunFolder(run.folder).targets.exists()
    assert _gauges(run, "advdmd_run_finished{outcome=completed}") == [1]
    assert gc.get_freeze_count() == 0
    page = (run.folder / "report.html").read_text()
    assert "the judge failed: ZeroDivisionError: no images; see " in page
    assert "<code>advdmd evaluate --config " in page
    assert (run.folder / "student" / "model_index.json").is_file()
    assert "in broken" in (run.folder / "failure.log").read_text()
