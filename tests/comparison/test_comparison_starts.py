"""Rivals that start from where another ends: planned, waited for, trained on, shown."""

import json
import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from advdmd_ray.comparison import compare, runner
from advdmd_ray.comparison.job import RESULT, SETTINGS, STUDENT, Job
from advdmd_ray.comparison.plan import claim_settings, plan_jobs
from advdmd_ray.comparison.progress import PlainLines
from advdmd_ray.comparison.results import collect
from advdmd_ray.comparison.runner import run_jobs
from advdmd_ray.comparison.serial import SerialRun
from advdmd_ray.comparison.starts import check_checkpoints
from advdmd_ray.comparison.tables import page
from advdmd_ray.comparison.worker import do_job
from advdmd_ray.config.comparison import read_comparison
from advdmd_ray.errors import UserError
from advdmd_ray.learner.outcome import CycleReport
from advdmd_ray.learner.updates import rate_of
from comparison_files import TWINFLOW, write_comparison
from tiny_digits import write_tiny_digits
from toy_rival import NAME

pytestmark = pytest.mark.usefixtures("encoders_once", "parsed_once")

CONSTANT = {"learner.final_rate": 1.0, "policy_gradient.final_rate": 1.0, "discriminator.blocks": [0, 1]}
"""No rate hangs on how long a job is."""
FALLING = {"learner.final_rate": 0.1, "cadence.ramp_interval": 4, "cadence.ramp_rl_turns": 1}
STEM = {"name": "stem", "share": 0.5}
BRANCH = {"name": "branch", "start": "stem"}
WHOLE = {"name": "whole"}
TOY = {"trainer": NAME, "settings": {"stride": 0.002, "cost": 30.0}}


@pytest.fixture(scope="module")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two blocks."""
    return write_tiny_digits(tmp_path_factory.mktemp("teacher") / "tiny", layers=2)


def jobs_of(folder: Path, pipeline: Path, rivals: list[dict[str, Any]], **values: Any) -> dict[str, Job]:
    settings = {"rivals": rivals, "seeds": [0], "overrides": CONSTANT, **values}
    comparison = read_comparison(write_comparison(folder, pipeline, **settings))
    return {job.rival: job for job in plan_jobs(comparison, folder / "out")}


def done(job: Job) -> dict[str, Any]:
    assert do_job(job, lambda _: None, lambda: False)
    return json.loads((job.folder / RESULT).read_text())


@pytest.mark.parametrize(
    ("rivals", "says"),
    [
        ([BRANCH, STEM], "rival branch starts from stem, which is none of those above it; there: none"),
        ([STEM, {**BRANCH, "start": "stme"}], "starts from stme, which is none of those above it; there: stem"),
        ([STEM, {**BRANCH, "share": 0.5}], "rival branch ends at 0.5 of the budget, and stem, from which it starts"),
        ([STEM, {**TWINFLOW, "start": "stem"}], "rival twinflow has trainer twinflow, and stem, from which it starts"),
        ([{**STEM, "share": 0}], "share = 0"),
    ],
)
def test_a_start_that_cannot_be_is_one_line(tmp_path: Path, rivals: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(UserError) as raised:
        read_comparison(write_comparison(tmp_path, tmp_path / "nowhere", rivals=rivals))
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_rival_that_starts_from_another_with_the_same_settings_ends_like_one_trained_in_one_go(
    tmp_path: Path, tiny_pipeline: Path
) -> None:
    jobs = jobs_of(tmp_path, tiny_pipeline, [STEM, BRANCH, WHOLE], budget=600)
    stem, branch, whole = (done(jobs[name]) for name in ("stem", "branch", "whole"))
    ours, theirs = (load_file(jobs[name].folder / STUDENT) for name in ("branch", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    last, whole_last = branch["points"][-1], whole["points"][-1]
    for key in ("learner", "actors", "version", "figures"):
        assert last[key] == whole_last[key]
    assert last["notes"]["updates"] == whole_last["notes"]["updates"]
    assert last["seconds"] > stem["points"][-1]["seconds"]
    assert stem["points"][-1]["learner"] < 0.75 * whole_last["learner"]
    # Its judgements are spread over what it spends itself.
    assert [point["point"] for point in branch["points"]] == [1, 2]
    assert branch["points"][0]["learner"] >= 450
    assert not (jobs["branch"].folder / "checkpoints").exists()
    assert (jobs["stem"].folder / "checkpoints").exists()


def test_a_branch_learns_by_its_own_settings_from_the_starts_weights(tmp_path: Path, tiny_pipeline: Path) -> None:
    resting = {**BRANCH, "overrides": {"dmd.learning_rate": 1e-30, "policy_gradient.enabled": False}}
    overrides = {**CONSTANT, "learner.ema_decay": 0.0}
    jobs = jobs_of(tmp_path, tiny_pipeline, [STEM, resting], budget=600, overrides=overrides)
    cycles = [done(jobs[name])["points"][-1]["version"] for name in ("stem", "branch")]
    assert cycles[1] > cycles[0]
    stem, branch = (load_file(jobs[name].folder / STUDENT) for name in ("stem", "branch"))
    assert all(torch.equal(stem[name], branch[name]) for name in stem)


def test_the_rates_of_a_branch_fall_to_their_end_in_the_cycle_that_spends_its_budget(
    tmp_path: Path, tiny_pipeline: Path
) -> None:
    # Without RL before the branch, so that RL's ramp begins where the branch does.
    without = {"policy_gradient.enabled": False}
    jobs = jobs_of(
        tmp_path,
        tiny_pipeline,
        [{**STEM, "overrides": without}, BRANCH],
        budget=600,
        overrides={**CONSTANT, **FALLING},
    )
    stem, branch = jobs["stem"], jobs["branch"]
    assert (branch.begins_at, branch.own_budget, branch.starts) == (300.0, 300.0, (stem,))
    for job in (stem, branch):
        last = done(job)["points"][-1]
        assert last["version"] == job.config.run.cycles
        rates = [rate_of("dmd", job.config, version, None) for version in (last["version"] - 2, last["version"] - 1)]
        assert rates[0] > rates[1] == pytest.approx(0.1)


def test_a_branch_begins_where_its_start_ended_and_says_so_if_that_is_gone(tmp_path: Path, tiny_pipeline: Path) -> None:
    rivals = [{**STEM, **TOY}, {**BRANCH, **TOY}]
    jobs = jobs_of(tmp_path, tiny_pipeline, rivals, budget=240)
    assert [point["version"] for point in done(jobs["stem"])["points"]] == [2, 4]
    assert [point["version"] for point in done(jobs["branch"])["points"]] == [6, 8]
    shutil.rmtree(jobs["stem"].folder / "checkpoints")
    (jobs["branch"].folder / RESULT).unlink()
    gone = "the checkpoint from which branch seed 0 starts is gone; remove that folder to train stem seed 0 again"
    with pytest.raises(UserError, match=gone):
        done(jobs["branch"])
    with pytest.raises(UserError, match=gone):
        check_checkpoints(jobs.values())  # asked before the first process starts


def test_a_branch_does_not_begin_with_an_older_checkpoint_of_its_start(tmp_path: Path, tiny_pipeline: Path) -> None:
    jobs = jobs_of(tmp_path, tiny_pipeline, [STEM, BRANCH], budget=600)
    ended = done(jobs["stem"])["points"][-1]["version"]
    last = jobs["stem"].folder / "checkpoints" / f"step-{ended:08d}"
    assert len(list(last.parent.iterdir())) == 2
    (last / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="the checkpoint from which branch seed 0 starts is gone"):
        done(jobs["branch"])


def test_a_finished_branch_is_shown_while_its_start_is_trained_again(tmp_path: Path, tiny_pipeline: Path) -> None:
    values = {"rivals": [{**STEM, **TOY}, {**BRANCH, **TOY}], "seeds": [0], "budget": 240, "overrides": CONSTANT}
    jobs = plan_jobs(read_comparison(write_comparison(tmp_path, tiny_pipeline, **values)), tmp_path / "out")
    for job in jobs:
        done(job)
    shutil.rmtree(jobs[1].folder)
    results = collect("small", jobs)
    assert results is not None
    assert [rival.name for rival in results.rivals] == ["branch"]
    assert results.missing == ("stem seed 0",)
    check_checkpoints(jobs)  # the start will be made, and the branch is done


@pytest.mark.parametrize(
    ("start", "branch", "says"),
    [
        ({}, {"cadence.ramp_interval": 2}, "cadence.ramp_interval is 2, and stem, from which it starts, has 1"),
        ({"discriminator.blocks": [0]}, {}, r"discriminator.blocks is \(0, 1\), and stem, .* has \(0,\)"),
        ({}, {"diffusion.sigmas": [1.0, 0.5]}, "diffusion.sigmas is"),
        ({}, {"rollout.group_size": 2, "rollout.warm_group_size": 2}, None),
    ],
)
def test_a_branch_has_the_settings_on_which_its_starts_state_hangs(
    start: dict[str, Any], branch: dict[str, Any], says: str | None, tmp_path: Path, tiny_pipeline: Path
) -> None:
    rivals = [{**STEM, "overrides": start}, {**BRANCH, "overrides": branch}]
    if says is None:
        assert jobs_of(tmp_path, tiny_pipeline, rivals)["branch"].config.rollout.group_size == 2
        return
    with pytest.raises(UserError, match=f"rival branch: {says}"):
        jobs_of(tmp_path, tiny_pipeline, rivals)


def test_a_branch_whose_start_has_spent_its_budget_too_is_no_result(tmp_path: Path, tiny_pipeline: Path) -> None:
    jobs = jobs_of(tmp_path, tiny_pipeline, [{**STEM, **TOY, "share": 0.99}, {**BRANCH, **TOY}], budget=240)
    assert done(jobs["stem"])["points"][-1]["learner"] == 240
    with pytest.raises(UserError, match=r"branch seed 0 has nothing left to spend: .* give the start a smaller share"):
        done(jobs["branch"])


def test_the_notes_of_a_branch_are_of_its_own_cycles(
    tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports, cycle = list[CycleReport](), SerialRun.cycle

    def kept(run: SerialRun) -> CycleReport:
        reports.append(cycle(run))
        return reports[-1]

    monkeypatch.setattr(SerialRun, "cycle", kept)
    jobs = jobs_of(tmp_path, tiny_pipeline, [STEM, BRANCH], budget=600, points=1)
    done(jobs["stem"])
    began = len(reports)
    (point,) = done(jobs["branch"])["points"]
    own = torch.tensor([report.reward_mean for report in reports[began:]])
    assert point["notes"]["reward_mean"] == pytest.approx(own.mean(dim=0).tolist(), rel=1e-5)


def test_a_branch_that_was_interrupted_goes_on_from_its_own_checkpoint(tmp_path: Path, tiny_pipeline: Path) -> None:
    jobs = jobs_of(tmp_path, tiny_pipeline, [{**STEM, **TOY}, {**BRANCH, **TOY}], budget=240)
    done(jobs["stem"])
    asked = iter([False, False, False, True])
    assert not do_job(jobs["branch"], lambda _: None, lambda: next(asked))
    shutil.rmtree(jobs["stem"].folder / "checkpoints")  # not asked for any more
    assert [point["version"] for point in done(jobs["branch"])["points"]] == [6, 8]


def test_results_of_a_branch_whose_start_had_other_settings_are_not_mixed(tmp_path: Path, tiny_pipeline: Path) -> None:
    claim_settings(tuple(jobs_of(tmp_path, tiny_pipeline, [STEM, BRANCH]).values()))
    jobs = jobs_of(tmp_path, tiny_pipeline, [{**STEM, "overrides": {"dmd.batch_size": 8}}, BRANCH])
    shutil.rmtree(jobs["stem"].folder)
    with pytest.raises(UserError, match=r"branch/seed-0 .*start\.config\.dmd\.batch_size was 4 and is 8"):
        claim_settings(tuple(jobs.values()))
    # What is younger than the results counts as its default, in the start too.
    jobs = jobs_of(tmp_path, tiny_pipeline, [STEM, BRANCH])
    path = jobs["branch"].folder / SETTINGS
    stood = json.loads(path.read_text())
    del stood["start"]["config"]["dmd"]["gan_levels"], stood["start"]["start"]
    path.write_text(json.dumps(stood))
    claim_settings(tuple(jobs.values()))


def test_results_that_began_elsewhere_are_not_mixed_and_the_line_stays_one(tmp_path: Path, tiny_pipeline: Path) -> None:
    claim_settings(tuple(jobs_of(tmp_path, tiny_pipeline, [STEM, {"name": "branch"}]).values()))
    with pytest.raises(UserError, match=r"branch/seed-0 .*: start was None and is that of another job; set it back"):
        claim_settings(tuple(jobs_of(tmp_path, tiny_pipeline, [STEM, BRANCH]).values()))


def test_a_section_that_no_trainer_reads_may_change_in_a_start(tmp_path: Path, tiny_pipeline: Path) -> None:
    rivals = [{**STEM, **TOY}, {**BRANCH, **TOY}]
    claim_settings(tuple(jobs_of(tmp_path, tiny_pipeline, rivals).values()))
    overrides = {**CONSTANT, "dmd.batch_size": 8}
    claim_settings(tuple(jobs_of(tmp_path, tiny_pipeline, rivals, overrides=overrides).values()))


class Fleet:
    """Stands for a way to start processes that end when they are looked at; some of them fail."""

    def __init__(self, fail: set[str]) -> None:
        self.fail, self.began = fail, list[str]()
        self.Pipe = multiprocessing.Pipe

    def Process(self, *, args: tuple[Job, object], **_: object) -> "Fleet.Ended":  # noqa: N802 - as multiprocessing
        return Fleet.Ended(self, args[0])

    class Ended:
        """One of its processes."""

        exitcode = 1

        def __init__(self, fleet: "Fleet", job: Job) -> None:
            self._fleet, self._job = fleet, job
            self.sentinel, self._end = multiprocessing.Pipe(duplex=False)

        def start(self) -> None:
            assert self._job.start is None or self._job.start.done
            self._fleet.began.append(self._job.name)
            self._end.close()

        def is_alive(self) -> bool:
            if self._job.name not in self._fleet.fail:
                self._job.folder.mkdir(parents=True, exist_ok=True)
                (self._job.folder / RESULT).write_text("{}")
            return False


class Silent:
    """A watcher that keeps what failed."""

    def __init__(self) -> None:
        self.failures: dict[str, str] = {}

    def spent(self, job: Job, amount: float) -> None: ...

    def started(self, job: Job) -> None: ...

    def finished(self, job: Job) -> None: ...

    def failed(self, job: Job, reason: str) -> None:
        self.failures[job.name] = reason

    def tick(self) -> None: ...


@pytest.mark.parametrize("fails", [set[str](), {"stem seed 0"}])
def test_a_job_waits_for_the_one_that_it_starts_from_and_falls_with_it(
    fails: set[str], tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = {"name": "last", "start": "branch"}
    jobs = jobs_of(tmp_path, tiny_pipeline, [STEM, {**BRANCH, "share": 0.7}, last, WHOLE])
    fleet, watcher = Fleet(fails), Silent()
    monkeypatch.setattr(runner, "_context", lambda _jobs: fleet)
    reasons = run_jobs([jobs[name] for name in ("stem", "branch", "last", "whole")], 4, watcher, lambda: None)
    assert fleet.began[:2] == ["stem seed 0", "whole seed 0"]
    assert reasons == watcher.failures
    if fails:
        assert set(reasons) == {"stem seed 0", "branch seed 0", "last seed 0"}
        assert reasons["last seed 0"] == "it starts from stem seed 0, which failed"
    else:
        assert fleet.began[2:] == ["branch seed 0", "last seed 0"]
        assert reasons == {}


def test_a_job_whose_start_is_gone_for_good_is_not_waited_for(
    tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, watcher = jobs_of(tmp_path, tiny_pipeline, [STEM, BRANCH]), Silent()
    monkeypatch.setattr(runner, "_context", lambda _jobs: Fleet(set()))
    reasons = run_jobs([jobs["branch"]], 2, watcher, lambda: None)
    assert reasons == watcher.failures == {"branch seed 0": "the result of the job that it starts from is gone"}


def test_a_rival_that_is_asked_for_brings_the_one_that_it_starts_from(
    tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_comparison(tmp_path, tiny_pipeline, rivals=[WHOLE, STEM, BRANCH], overrides=CONSTANT)
    prepared = compare.prepare(str(path), quick=False, name=None, only=["branch"])
    names = [job.name for job in prepared.wanted]
    assert names == ["teacher", "stem seed 0", "branch seed 0", "stem seed 1", "branch seed 1"]


def test_what_is_left_is_told_of_what_a_branch_spends_itself(
    tmp_path: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = jobs_of(tmp_path, tiny_pipeline, [STEM, BRANCH])
    lines = PlainLines("small", tuple(jobs.values()))
    lines.started(jobs["branch"])
    lines.spent(jobs["branch"], 125.0)
    lines._shown -= 1000
    lines.tick()
    assert "branch seed 0 25 %" in capsys.readouterr().err


def test_the_curve_of_a_branch_begins_with_the_last_judgement_of_its_start(tmp_path: Path, tiny_pipeline: Path) -> None:
    comparison = read_comparison(
        write_comparison(tmp_path, tiny_pipeline, rivals=[STEM, BRANCH], seeds=[0], budget=600, overrides=CONSTANT)
    )
    jobs = plan_jobs(comparison, tmp_path / "out")
    for job in jobs:
        done(job)
    results = collect("small", jobs, ("branch",))
    assert results is not None
    stem, branch = results.rivals
    assert results.actors_curve == (branch,)
    points = [rival.runs[0]["points"][-1] for rival in (stem, branch)]
    actors, learner = (points[1][key] - points[0][key] for key in ("actors", "learner"))
    assert branch.actors_share().mean == pytest.approx(actors / learner)
    headline = results.headline
    (stem_spent, stem_curve), (spent, curve) = stem.curve(headline), branch.curve(headline)
    assert (spent[0], curve[0].mean) == (stem_spent[-1], stem_curve[-1].mean)
    assert len(curve) == 3
    assert results.budget == 600
    assert "after 600 forward-equivalents of learner compute, less where a row says so (one" in page(
        results, "x", signals=False, actors=False
    )
    (jobs[1].folder / RESULT).unlink()
    without = collect("small", jobs, ("branch",))
    assert without is not None
    assert without.actors_curve == (), "what its start had made is not known"
