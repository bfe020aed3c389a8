"""The processes of a comparison's jobs."""

import errno
import json
import multiprocessing
import os
import signal
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest
import torch

from advdmd_ray.comparison import runner, worker
from advdmd_ray.comparison.compare import visible_cards
from advdmd_ray.comparison.job import RESULT, Job
from advdmd_ray.comparison.plan import plan_jobs
from advdmd_ray.comparison.runner import CARDS, _context, run_jobs
from advdmd_ray.config.comparison import read_comparison
from advdmd_ray.errors import DiskError
from advdmd_ray.runtime.stopping import interrupting
from comparison_files import write_comparison


class Events:
    """A watcher that writes down what it is told."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def spent(self, job: Job, amount: float) -> None:
        assert 0 < amount <= job.budget

    def started(self, job: Job) -> None:
        self.seen.append(f"{job.name} started")

    def finished(self, job: Job) -> None:
        assert job.done
        self.seen.append(f"{job.name} finished")

    def failed(self, job: Job, reason: str) -> None:
        self.seen.append(f"{job.name} failed: {reason}")

    def tick(self) -> None:
        pass


class Scheduler(Events):
    """A watcher that wants the machine back as soon as a job has started."""

    def started(self, job: Job) -> None:
        super().started(job)
        os.kill(os.getpid(), signal.SIGTERM)


def teacher_job(folder: Path, pipeline: Path) -> Job:
    return plan_jobs(read_comparison(write_comparison(folder, pipeline, teacher_steps=[2])), folder / "out")[0]


@pytest.mark.parametrize("section", ["rollout", "reward", "learner"])
def test_a_job_is_on_a_gpu_where_any_of_its_roles_reserves_one(
    section: str, tmp_path: Path, tiny_pipeline: Path
) -> None:
    rival = {"name": "advdmd", "overrides": {f"{section}.num_gpus": 0.5}}
    path = write_comparison(tmp_path, tiny_pipeline, rivals=[rival, {"name": "plain"}])
    jobs = {job.rival: job for job in plan_jobs(read_comparison(path), tmp_path / "out")}
    assert jobs["advdmd"].on_gpu
    assert not jobs["plain"].on_gpu


@pytest.mark.parametrize(("on_gpu", "method"), [(False, "forkserver"), (True, "spawn")])
def test_a_job_on_a_gpu_has_an_interpreter_of_its_own(
    on_gpu: bool,
    method: str,
    tmp_path: Path,
    tiny_pipeline: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Its networks stay on the CPU; where the process comes from is what is asked for.
    monkeypatch.setattr(Job, "on_gpu", on_gpu)
    asked: list[str] = []
    context_of = multiprocessing.get_context

    def noted(name: str) -> BaseContext:
        asked.append(name)
        return context_of(name)

    monkeypatch.setattr(multiprocessing, "get_context", noted)
    job, events, written = teacher_job(tmp_path, tiny_pipeline), Events(), list[str]()
    assert run_jobs([job], 1, events, lambda: written.append("table")) == {}
    assert asked == [method]
    assert events.seen == ["teacher started", "teacher finished"]
    assert written == ["table"]
    assert [point["steps"] for point in json.loads((job.folder / RESULT).read_text())["points"]] == [2]


def test_a_job_on_the_cpu_is_a_copy_that_has_imported_what_networks_need(tmp_path: Path, tiny_pipeline: Path) -> None:
    with _context([teacher_job(tmp_path, tiny_pipeline)]).Pool(1) as copies:
        imported = set(copies.apply(eval, ("set(__import__('sys').modules)",)))
    assert {"advdmd_ray.comparison.worker", "diffusers.models.transformers.transformer_sd3", "peft"} <= imported


class Fleet:
    """Stands for a way to start processes: each ends at once, its job done, and what it saw of the GPUs is kept."""

    def __init__(self) -> None:
        self.saw: list[str | None] = []
        self.Pipe = multiprocessing.Pipe

    def Process(self, *, args: tuple[Job, object], **_: object) -> "Fleet.Ended":  # noqa: N802 - as multiprocessing
        return Fleet.Ended(self, args[0])

    class Ended:
        """One of its processes."""

        def __init__(self, fleet: "Fleet", job: Job) -> None:
            self._fleet, self._job = fleet, job
            self.sentinel, self._end = os.pipe()

        def start(self) -> None:
            self._fleet.saw.append(os.environ.get(CARDS))
            self._job.folder.mkdir(parents=True)
            (self._job.folder / RESULT).write_text("{}")
            os.close(self._end)

        def is_alive(self) -> bool:
            return False


@pytest.mark.parametrize(
    ("on_gpu", "cards", "saw"),
    [(True, ("4", "6"), ["4", "6", "4", "4"]), (True, (), ["9"] * 4), (False, ("4", "6"), ["9"] * 4)],
)
def test_jobs_are_dealt_to_the_gpus_and_those_without_one_see_what_they_would(
    on_gpu: bool,
    cards: tuple[str, ...],
    saw: list[str],
    tmp_path: Path,
    tiny_pipeline: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = Fleet()
    monkeypatch.setattr(Job, "on_gpu", on_gpu)
    monkeypatch.setattr(runner, "_context", lambda _jobs: fleet)
    monkeypatch.setenv(CARDS, "9")
    path = write_comparison(tmp_path, tiny_pipeline, seeds=[0, 1, 2])
    jobs = plan_jobs(read_comparison(path), tmp_path / "out")[:4]
    assert len(jobs) == 4
    assert run_jobs(jobs, 3, Events(), lambda: None, cards) == {}
    assert fleet.saw == saw
    assert os.environ[CARDS] == "9"


@pytest.mark.parametrize(
    ("named", "count", "cards"),
    [(None, 3, ("0", "1", "2")), ("5,7", 2, ("5", "7")), ("GPU-a,GPU-b", 1, ("GPU-a",)), ("", 0, ())],
)
def test_the_cards_are_those_that_the_environment_leaves(
    named: str | None, count: int, cards: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv(CARDS, raising=False)
    if named is not None:
        monkeypatch.setenv(CARDS, named)
    assert visible_cards() == cards


def test_a_job_that_says_why_it_ends_is_told_by_that_and_not_by_its_log(
    tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> bool:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(worker, "_work", full)
    job, (hears, says) = teacher_job(tmp_path, tiny_pipeline), multiprocessing.Pipe(duplex=False)
    with pytest.raises(DiskError):
        worker.work(job, says)
    says.close()

    class Ended:
        exitcode = 1

    events, entry = Events(), runner._Running(job, Ended(), hears, None)  # pyright: ignore[reportArgumentType] - a fake
    runner._drain(entry, events)
    assert runner._reason(entry) == (
        f"{job.folder} cannot be written (no space left on device); what it saved before stays; make room"
    )
    assert hears.closed


class Saving:
    """A process that saves for ever."""

    alive = True

    def terminate(self) -> None:
        pass

    def join(self, timeout: float | None = None) -> None:
        if timeout is not None:
            raise KeyboardInterrupt

    def is_alive(self) -> bool:
        return self.alive

    def kill(self) -> None:
        self.alive = False


def test_a_second_signal_kills_the_jobs_that_are_still_saving(tmp_path: Path, tiny_pipeline: Path) -> None:
    job, processes = teacher_job(tmp_path, tiny_pipeline), [Saving(), Saving()]
    hears, _ = multiprocessing.Pipe(duplex=False)
    running = [runner._Running(job, each, hears, None) for each in processes]  # pyright: ignore[reportArgumentType] - a fake
    with pytest.raises(KeyboardInterrupt):
        runner._stop(running)
    assert not any(each.alive for each in processes)


def test_sigterm_stops_the_jobs_as_ctrl_c_does(tmp_path: Path, tiny_pipeline: Path) -> None:
    job, events, handler = teacher_job(tmp_path, tiny_pipeline), Scheduler(), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"), interrupting():
        run_jobs([job], 1, events, lambda: None)
    assert events.seen == ["teacher started"]
    assert multiprocessing.active_children() == []
    assert not job.done
    assert signal.getsignal(signal.SIGTERM) == handler
