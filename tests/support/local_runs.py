"""Runs in this process without the port, the judge and the report: what tests of the training need."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.controller.protocols import Status
from advdmd_ray.controller.staff import Wishes
from advdmd_ray.controller.start_clock import StartClock
from advdmd_ray.learner.checkpoint import latest_checkpoint
from advdmd_ray.learner.learner import Learner
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.parts.controller import build_controller
from advdmd_ray.runtime.local import in_this_process
from advdmd_ray.runtime.training import cut_back_to


def train_here(
    config: Config,
    resume: Path | None = None,
    display: Callable[[Status], None] = lambda _: None,
    stopping: Callable[[], bool] = lambda: False,
    wishes: Wishes | None = None,
) -> int:
    """Trains to the end, or until it is asked to stop; returns the last version. `resume` is a checkpoints folder."""
    config.folder.mkdir(parents=True, exist_ok=True)
    start = StartClock()
    checkpoint = None if resume is None else latest_checkpoint(resume)
    if checkpoint is not None:
        cut_back_to(checkpoint, RunFolder(config.folder))
    with in_this_process(config) as place, place.workers(checkpoint, start) as shell:
        start.ended("workers")
        controller = build_controller(
            config, shell, place.hub, checkpoint, display, start=start, stopping=stopping, wishes=wishes
        )
        return controller.run()


def stored_tensors(learner: Learner) -> dict[str, dict[str, Tensor]]:
    """Copies of everything that a checkpoint would store, by file stem."""
    return {stem: stream.copied() for stem, stream in learner.tensors().items()}
