"""The run folder: what is in it, who holds it, and how a run begins there."""

import fcntl
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from advdmd_ray.errors import CheckpointError, UserError
from advdmd_ray.files import missing_folders, remove_empty
from advdmd_ray.runs.lasting import Mark, mark_text
from advdmd_ray.runs.versions import by_version, thin

LOOK_S = 1.0
"""Longest that a process holds the lock of a folder that it only looks at."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The names in a run folder, which nobody else spells.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The configuration, resolved."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """All series, a line for each record."""
        return self.path / "metrics.jsonl"

    @property
    def targets(self) -> Path:
        """Where /metrics is, for Prometheus; gone once it is over."""
        return self.path / "targets.json"

    @property
    def shared_target(self) -> Path:
        """Which file in `metrics.targets` says so too, by an absolute path; gone with it."""
        return self.path / "targets.txt"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def student(self) -> Path:
        """The exported student, a diffusers folder."""
        return self.path / "student"

    @property
    def summary(self) -> Path:
        """What the run achieved, see `evaluation.summary`."""
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        """The page to look at."""
        return self.path / "report.html"

    @property
    def comparison(self) -> Path:
        """Teacher and student side by side; see `drawn`."""
        return self.path / "comparison.png"

    @property
    def curves(self) -> Path:
        """The series over the cycles."""
        return self.path / "curves.png"

    @property
    def judge(self) -> Path:
        """What `advdmd evaluate` said."""
        return self.path / "judge.json"

    @property
    def failure(self) -> Path:
        """Traceback of a worker's unexpected error."""
        return self.path / "failure.log"

    @property
    def quarantine(self) -> Path:
        """Arrow files of groups that were not finite or ended their process, for `advdmd replay`."""
        return self.path / "quarantine"

    @property
    def scale(self) -> Path:
        """The numbers of workers that a running run is asked for, see `runs/scaling.py`."""
        return self.path / "scale.json"

    @property
    def staff(self) -> Path:
        """The numbers of workers that it has."""
        return self.path / "staff.json"

    def sink(self, name: str) -> Path:
        """Folder of one of `metrics.sinks`."""
        return self.path / name

    @property
    def lock(self) -> Path:
        """Held locked by a running run until its process ends, however that is; says which node, process and start."""
        return self.path / "run.lock"

    def mark(self) -> Mark:
        """What whoever is to write here must see; the folder is this process's own."""
        lock = self.lock.absolute()
        return Mark(lock, lock.read_text(encoding="utf-8"), "run.output")

    def grid(self, version: int) -> Path:
        """Samples of the student's EMA after `version` cycles; see `drawn`."""
        return self.path / "grids" / f"version-{version:06d}.png"

    @staticmethod
    def drawn(picture: Path) -> Path | None:
        """The file of one of the pictures, the newer of two; None: not drawn. One of large images is a JPEG."""
        written = [(file.stat().st_mtime_ns, file) for file in (picture, picture.with_suffix(".jpg")) if file.exists()]
        return max(written)[1] if written else None

    def grids(self) -> list[tuple[int, Path]]:
        """Version and path of every grid that was drawn, in order."""
        return [(version, path) for version, paths in by_version(self.grid(0).parent) for path in paths]

    def validation(self, version: int, number: int) -> Path:
        """Picture of some validation prompts after `version` cycles, counted from 0; of large images a JPEG."""
        return self.path / "validation" / f"version-{version:06d}-{number:02d}.png"

    def validations(self) -> list[tuple[int, list[Path]]]:
        """Version and pictures of every validation that was drawn, in order."""
        return by_version(self.validation(0, 0).parent)

    def thin_grids(self, most: int) -> None:
        """Removes grids until there are so many, at least 2; the first, the last and evenly spaced others stay."""
        thin(by_version(self.grid(0).parent), most)

    def thin_validations(self, most: int) -> None:
        """The same of validations."""
        thin(self.validations(), most)


@dataclass(frozen=True, slots=True)
class Start:
    """How a run begins.

    Attributes:
        folder: The run folder.
        checkpoint: The intact checkpoint to go on from, or None to begin at cycle 0.
        aside: Where an earlier run in `folder` is moved first, or None.
        note: One line that tells the user.
    """

    folder: Path
    checkpoint: Path | None
    aside: Path | None
    note: str


def plan_start(folder: Path, resume: str | None, *, fresh: bool) -> Start:
    """Decide between a new run, a resumed one and a refusal. Nothing an earlier run wrote is ever overwritten.

    | run folder | no option | `--fresh` | `--resume auto` |
    |---|---|---|---|
    | empty or absent | new | new | new, and says that there was nothing to resume |
    | files, no checkpoint | refused | moved aside, new | moved aside, new |
    | files and checkpoints | refused | moved aside, new | goes on from the newest intact one |
    | in use by a process | refused | refused | refused |

    `--resume PATH` goes on from that checkpoint in this folder, which must be its own or empty.

    Raises:
        UserError: if the start is refused, or `resume` names no checkpoint.
    """
    if resume is not None and fresh:
        raise UserError("--resume and --fresh contradict each other; give one of them")
    if is_live(folder):
        raise UserError(f"{folder}: a process is writing this run now; wait for it, or set another run.name")
    run = RunFolder(folder)
    used = folder.is_dir() and any(path != run.lock for path in folder.iterdir())
    aside = free_name(folder) if used else None
    if resume == "auto":
        checkpoint = newest_checkpoint(run.checkpoints) if run.checkpoints.is_dir() else None
        if checkpoint is not None:
            return Start(folder, checkpoint, None, f"resuming {folder} from {checkpoint.name}")
        moved = f"; moving what is there to {aside}" if aside else ""
        return Start(folder, None, aside, f"nothing to resume in {folder}: no checkpoint{moved}; starting fresh")
    if resume is not None:
        return _start_from(folder, Path(resume), used=used)
    if not used:
        return Start(folder, None, None, f"new run in {folder}")
    if fresh:
        return Start(folder, None, aside, f"new run in {folder}; the earlier one is moved to {aside}")
    raise UserError(
        f"{folder} has a run already; go on with it by --resume auto, keep it aside by --fresh, or set another run.name"
    )


def _start_from(folder: Path, source: Path, *, used: bool) -> Start:
    inner = RunFolder(source).checkpoints
    checkpoint = newest_checkpoint(inner if inner.is_dir() else source)
    if checkpoint is None:
        raise UserError(
            f"--resume {source}: no checkpoint there; give a run folder, its {inner.name} folder or one checkpoint in "
            "it, or --resume auto"
        )
    own = checkpoint.resolve().is_relative_to(folder.resolve())
    if used and not own:
        raise UserError(f"{folder} has a run already, and {checkpoint} is not its own; set another run.name")
    return Start(folder, checkpoint, None, f"resuming from {checkpoint} in {folder}")


def newest_checkpoint(path: Path) -> Path | None:
    """The checkpoint at `path`, or the newest intact one in it; None if there is none at all.

    Raises:
        UserError: if there are checkpoints and every one is damaged.
    """
    single = path.name.startswith("step-")
    if not path.is_dir() or not (single or [*path.glob("step-*"), *path.glob(".replaced-step-*")]):
        return None
    from advdmd_ray.learner.checkpoint import latest_checkpoint, open_checkpoint  # noqa: PLC0415 - imports torch

    try:
        return (open_checkpoint(path) if single else latest_checkpoint(path)).path
    except CheckpointError as error:
        raise UserError(f"{error}; resume from another checkpoint, or start anew by --fresh") from None


def is_live(folder: Path) -> bool:
    """Whether a process holds the run folder."""
    try:
        with RunFolder(folder).lock.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file, or a file system without locks, which cannot tell
        return False
    return False


def free_name(folder: Path) -> Path:
    """The first of `NAME.1`, `NAME.2`, ... that does not exist."""
    number = 1
    while (candidate := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    return candidate


def left_by(start: Start) -> str:
    """What a run that ended early has saved, and how it goes on: the end of one line."""
    saved = [path for path in RunFolder(start.folder).checkpoints.glob("step-*") if path.name[5:].isdigit()]
    if saved:
        newest = max(saved, key=lambda path: int(path.name[5:]))
        return f"{newest} is saved, and --resume auto goes on from it"
    if start.checkpoint is not None:  # it is another run's
        return f"nothing is saved; remove {start.folder}, and --resume {start.checkpoint} begins there again"
    return "nothing is saved; --fresh begins again"


def _lock(lock: IO[bytes], folder: Path) -> None:
    """Locks it for this process alone. Whoever only looks, see `is_live`, has it for a moment: that is waited for.

    Raises:
        UserError: if another process keeps it.
    """
    end = time.monotonic() + LOOK_S
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise UserError(f"{folder}: another process has just started here; set another run.name") from None
        except OSError as error:
            return logger.warning("%s: no locks on this file system (%s); do not start this run twice", folder, error)
        time.sleep(LOOK_S / 20)


@contextmanager
def claim(start: Start) -> Iterator[Path]:
    """Hold the run folder as this process's own: move an earlier run aside, create the folder, lock it.

    If it is refused before anything was written there, all is as it was before.

    Yields:
        The run folder.

    Raises:
        UserError: if another process was faster.
    """
    if start.aside is not None:
        try:
            start.folder.rename(start.aside)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UserError(
                f"{start.folder}: could not be moved to {start.aside} ({reason}); is another process at work there?"
            ) from None
    made = missing_folders(start.folder)
    start.folder.mkdir(parents=True, exist_ok=True)
    # Not emptied when it is opened: another process may hold it.
    with RunFolder(start.folder).lock.open("ab") as lock:
        _lock(lock, start.folder)
        lock.truncate(0)
        lock.write(mark_text().encode())
        lock.flush()
        try:
            yield start.folder
        except UserError:
            written = [path for path in start.folder.iterdir() if path != Path(lock.name)]
            if all(path.is_file() and not path.stat().st_size for path in written):  # a process has opened them
                _unclaim(start, made)
            raise


def _unclaim(start: Start, made: list[Path]) -> None:
    """Takes back what `claim` did, which made some folders, the innermost first; the lock is still held."""
    for path in start.folder.iterdir():
        path.unlink()
    remove_empty(made)  # what others have put something into stays
    if start.aside is not None:
        start.aside.rename(start.folder)
