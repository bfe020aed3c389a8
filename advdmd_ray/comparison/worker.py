"""One job in its own process: train to the budget, judge along the way, and leave a state that another process resumes.

What a job's results are does not depend on when it was interrupted: its checkpoints are exact, and a judgement depends
on the weights and a fixed seed alone.
"""

import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from advdmd_ray.comparison.examiner import Examiner
from advdmd_ray.comparison.job import LOG, MAKINGS, NONE, POINTS, RESULT, STUDENT, Job
from advdmd_ray.comparison.rivals import Trainer, trainer_class
from advdmd_ray.comparison.starts import told_gone
from advdmd_ray.errors import FAILURES, UserError
from advdmd_ray.files import disk_told, write_atomically
from advdmd_ray.learner.checkpoint import Checkpoint, verified_checkpoint
from advdmd_ray.provenance import made_here
from advdmd_ray.runs.folder import RunFolder, newest_checkpoint

CHECKPOINT_S = 60.0
"""Training between two checkpoints, seconds, beside those that each judgement makes."""
TELL_S = 0.25
STOPPED = 3
"""Exit code of a process that was asked to stop and left its job to be resumed."""


def work(job: Job, report: Connection) -> None:
    """What a job's process runs: one thread, its words in `job.log`, asked to stop by SIGTERM.

    Args:
        job: What to do.
        report: Is sent what the job has spent so far, some times a second, and as text what ends it, if it is one line:
            a disk that is full has no room for a log.
    """
    try:
        with disk_told(str(job.folder), "what it saved before stays; make room"):
            done = _work(job, report)
    except (UserError, *FAILURES) as error:
        report.send(str(error))
        raise
    if not done:
        sys.exit(STOPPED)


def _work(job: Job, report: Connection) -> bool:
    job.folder.mkdir(parents=True, exist_ok=True)
    log = os.open(job.folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    torch.set_num_threads(1)
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    told = [float("-inf")]

    def tell(spent: float) -> None:
        now = time.monotonic()
        if now - told[0] >= TELL_S:
            told[0] = now
            report.send(spent)

    return do_job(job, tell, lambda: bool(asked))


def _end_with_parent() -> None:
    """Ends this process once the one that started it is gone, which then did not ask it to save.

    At once, because the next start may work on the same job already. Files are written whole or not at all, so the job
    goes on from its last checkpoint.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(STOPPED)


def do_job(job: Job, tell: Callable[[float], None], stopped: Callable[[], bool]) -> bool:
    """Does a job, or goes on with it, in this process.

    Args:
        job: What to do.
        tell: Is told what is spent, in the unit of `job.budget`.
        stopped: Asked between two steps of work; once it says yes, the state is saved and the job left.

    Returns:
        Whether the job is done.
    """
    made = _makings(job)  # before the training: the checkout may move on while it lasts
    points, examiner = _read_points(job), Examiner(job)
    if job.trainer == NONE:
        if not _judge_teacher(job, examiner, points, tell, stopped):
            return False
    else:
        trainer = _train(job, examiner, points, tell, stopped)
        if trainer is None:
            return False
        _keep_student(job, trainer.student())
    _write_result(job, examiner, points, made)
    if not job.is_start:
        shutil.rmtree(RunFolder(job.folder).checkpoints, ignore_errors=True)
    return True


def _train(
    job: Job,
    examiner: Examiner,
    points: list[dict[str, Any]],
    tell: Callable[[float], None],
    stopped: Callable[[], bool],
) -> Trainer | None:
    """Trains until the budget is spent and appends to `points`; None if it was stopped before."""
    checkpoint, resumed = _where_to_go_on(job)
    trainer = trainer_class(job.trainer)(job, checkpoint)
    if checkpoint is not None and not resumed and trainer.spent.learner >= job.budget:
        raise UserError(
            f"{job.name} has nothing left to spend: {job.begins_at:g} of {job.budget:g} are its start's, which spent "
            f"{trainer.spent.learner:g} by its last step; give the start a smaller share"
        )
    clock = _Clock({} if checkpoint is None else checkpoint.facts["controller"])
    # Judgements of a course that was given up for an older checkpoint are made again.
    points[:] = [point for point in points if point["point"] <= job.points_due(trainer.spent.learner)]
    saved, saved_at = trainer.version if resumed else -1, time.monotonic()
    while True:
        spent = trainer.spent.learner
        due = job.points_due(spent)
        wanted = due > (points[-1]["point"] if points else 0)
        leave = stopped()
        if (wanted or leave or time.monotonic() - saved_at > CHECKPOINT_S) and trainer.version != saved:
            trainer.save(clock.facts())
            saved, saved_at = trainer.version, time.monotonic()
        if leave:
            return None
        if wanted:
            points.append(_point(due, trainer, clock, examiner))
            _write_points(job, points)
        if spent >= job.budget:
            return trainer
        with clock:
            trainer.advance()
        tell(trainer.spent.learner)


def _where_to_go_on(job: Job) -> tuple[Checkpoint | None, bool]:
    """The job's own newest checkpoint, else its start's last one, else none; and whether it is its own.

    Raises:
        UserError: if its start's is not there.
    """
    if (path := newest_checkpoint(RunFolder(job.folder).checkpoints)) is not None:
        return verified_checkpoint(path), True
    if job.start is None:
        return None, False
    path = newest_checkpoint(RunFolder(job.start.folder).checkpoints)
    checkpoint = None if path is None else verified_checkpoint(path)
    # Where the last one is damaged an older one is found.
    if checkpoint is None or checkpoint.step != _read_points(job.start)[-1]["version"]:
        raise UserError(told_gone(job, job.start))
    return checkpoint, False


def _point(due: int, trainer: Trainer, clock: "_Clock", examiner: Examiner) -> dict[str, Any]:
    return {
        "point": due,
        "learner": trainer.spent.learner,
        "actors": trainer.spent.actors,
        "version": trainer.version,
        **clock.facts(),
        **examiner.student(trainer.student()),
        "notes": trainer.notes(),
    }


def _judge_teacher(
    job: Job,
    examiner: Examiner,
    points: list[dict[str, Any]],
    tell: Callable[[float], None],
    stopped: Callable[[], bool],
) -> bool:
    """Judges the teacher at each of its numbers of steps and appends to `points`; False if it was stopped before."""
    for number, steps in enumerate(job.teacher_steps[len(points) :], start=len(points) + 1):
        if stopped():
            return False
        points.append({"point": number, "steps": steps, **examiner.teacher(steps)})
        _write_points(job, points)
        tell(float(number))
    return True


class _Clock:
    """Seconds spent in training, over all processes that worked on the job; judging is not among them."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._wall, self._cpu = facts.get("seconds", 0.0), facts.get("cpu_seconds", 0.0)
        self._began = (0.0, 0.0)

    def __enter__(self) -> None:
        self._began = (time.perf_counter(), time.process_time())

    def __exit__(self, *_: object) -> None:
        wall, cpu = self._began
        self._wall += time.perf_counter() - wall
        self._cpu += time.process_time() - cpu

    def facts(self) -> dict[str, float]:
        """Wall time, and time on a core, which other work on the machine does not stretch."""
        return {"seconds": self._wall, "cpu_seconds": self._cpu}


def _makings(job: Job) -> list[dict[str, Any]]:
    """Where and by which codes the job was worked on, in order: an entry more if this one is not the last."""
    path, here = job.folder / MAKINGS, made_here()
    made = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    if [here] != made[-1:]:
        made.append(here)
        write_atomically(path, json.dumps(made, indent=1, allow_nan=False).encode())
    return made


def _read_points(job: Job) -> list[dict[str, Any]]:
    path = job.folder / POINTS
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def _write_points(job: Job, points: list[dict[str, Any]]) -> None:
    write_atomically(job.folder / POINTS, json.dumps(points, indent=1, allow_nan=False).encode())


def _write_result(job: Job, examiner: Examiner, points: list[dict[str, Any]], made: list[dict[str, Any]]) -> Path:
    result = {
        "rival": job.rival,
        "title": job.title,
        "trainer": job.trainer,
        "seed": job.config.run.seed,
        "steps": job.config.steps,
        "judge": examiner.facts(),
        "points": points,
        "made": made[-1],
        "made_before": made[:-1],
    }
    if job.trainer == NONE:
        result["real"] = examiner.ceiling()
        result["guidance"] = job.config.judged_guidance
    return write_atomically(job.folder / RESULT, json.dumps(result, indent=1, allow_nan=False).encode())


def _keep_student(job: Job, weights: Mapping[str, Tensor]) -> None:
    whole = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    write_atomically(job.folder / STUDENT, save(whole))
