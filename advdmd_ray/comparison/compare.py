"""`advdmd compare`: plans the jobs, refuses to mix settings, runs what is missing, and writes table and figure."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from advdmd_ray.comparison.job import NONE, TABLE, Job
from advdmd_ray.comparison.plan import claim_settings, plan_jobs
from advdmd_ray.comparison.progress import progress_of
from advdmd_ray.comparison.runner import CARDS, run_jobs
from advdmd_ray.comparison.starts import check_checkpoints
from advdmd_ray.config.comparison import Comparison, read_comparison
from advdmd_ray.config.layers import Layer, resolve
from advdmd_ray.errors import UserError
from advdmd_ray.files import disk_told
from advdmd_ray.provenance import usable_cores
from advdmd_ray.runs.folder import Start, claim
from advdmd_ray.runs.outputs import check_writable

__all__ = ["COMPARISONS", "TABLE", "Prepared", "prepare", "run_comparison"]

COMPARISONS = Path("runs") / "compare"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A comparison before its first process.

    Attributes:
        name: Of the comparison, and of the folder of its results.
        jobs: All its jobs, the teacher's first.
        wanted: Those to do now.
        actors_curve: Names of the rivals that are drawn against what their actors made.
        headline: Key of the figure to compare by; None: the judge's own choice.
    """

    name: str
    jobs: tuple[Job, ...]
    wanted: tuple[Job, ...]
    actors_curve: tuple[str, ...]
    headline: str | None

    @property
    def folder(self) -> Path:
        """Of the results."""
        return COMPARISONS / self.name

    def kept(self) -> str:
        """What there is of it, for whoever stops it."""
        done = sum(job.done for job in self.wanted)
        return (
            f"{done} of {len(self.wanted)} jobs are finished and stay, and those that ran are saved; the same command "
            "goes on"
        )


def prepare(path: str, *, quick: bool, name: str | None, only: Sequence[str]) -> Prepared:
    """Everything that can be refused before a process starts.

    Args:
        path: The comparison's file.
        quick: Whether to rehearse.
        name: Folder of the results in place of the file's name.
        only: Rivals to do, with those that they start from; empty: all.

    Raises:
        UserError: for anything wrong with the file, its rivals or the name, or a folder that cannot be written.
    """
    comparison = read_comparison(path, quick=quick)
    unknown = set(only) - {rival.name for rival in comparison.rivals}
    if unknown:
        names = ", ".join(rival.name for rival in comparison.rivals)
        raise UserError(f"--only {min(unknown)}: no such rival in {path}; it has {names}")
    if name is not None:
        comparison = resolve(Comparison, [Layer("--name", {**comparison.model_dump(), "name": name})])
    output = COMPARISONS / comparison.name
    jobs = plan_jobs(comparison, output)
    check_writable(output, "give another --name, or start it in another folder")
    named = [job for job in jobs if not only or job.trainer == NONE or job.rival in only]
    names = {each.name for job in named for each in (*job.starts, job)}
    wanted = tuple(job for job in jobs if job.name in names)
    return Prepared(comparison.name, jobs, wanted, comparison.actors_curve, comparison.headline)


def run_comparison(prepared: Prepared, *, at_once: int | None, command: Sequence[str]) -> int:
    """Runs what is missing of the wanted jobs, and writes the outputs of all that is there after every job.

    Args:
        prepared: Of `prepare`.
        at_once: Jobs at a time; None: one for each usable core, or GPU where they need one.
        command: The command line that makes the results again.

    Returns:
        How many jobs failed.

    Raises:
        UserError: if the folder holds results of other settings, lacks a checkpoint from which a job starts, or another
            process works in it.
        DiskError: if the disk refuses the outputs.
    """
    folder, jobs = prepared.folder, prepared.wanted
    cards = visible_cards() if any(job.on_gpu for job in jobs) else ()
    workers = min(at_once or len(cards) or usable_cores(), len(jobs))

    def write() -> None:
        # While the jobs run, this process has time to import what only the outputs need.
        from advdmd_ray.comparison.results import collect  # noqa: PLC0415
        from advdmd_ray.comparison.tables import write_outputs  # noqa: PLC0415

        results = collect(prepared.name, prepared.jobs, prepared.actors_curve, prepared.headline)
        if results is not None and results.rivals:
            write_outputs(results, shlex.join(command), folder)

    kept = "what is finished stays; make room, and the same command goes on"
    with disk_told(str(folder), kept), claim(Start(folder, None, None, str(folder))):
        claim_settings(prepared.jobs, jobs)
        check_checkpoints(jobs)
        with progress_of(prepared.name, jobs) as watcher:
            reasons = run_jobs(jobs, workers, watcher, write, cards)
        write()
    return len(reasons)


def visible_cards() -> tuple[str, ...]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    from advdmd_ray.runs.parts.networks import gpus_here  # noqa: PLC0415 - imports torch

    count, named = gpus_here(), os.environ.get(CARDS)
    return tuple(str(place) for place in range(count)) if named is None else tuple(named.split(",")[:count])
