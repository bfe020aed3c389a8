"""A configuration from its checks to its report: what `advdmd run` and the library's `run` do."""

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from advdmd_ray.config import Config
from advdmd_ray.controller.start_clock import StartClock
from advdmd_ray.errors import FAILURES, DivergedError, Interrupted
from advdmd_ray.runs import preflight
from advdmd_ray.runs.folder import RunFolder, claim, left_by
from advdmd_ray.runs.needs.memory import ray_address
from advdmd_ray.runtime.authentication import expect_token
from advdmd_ray.runtime.stopping import StopRequest, interrupting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from advdmd_ray.runtime.launch import MakePlace


def run(
    config: Config, *, resume: str | None = None, fresh: bool = False, local: bool = False, age_s: float = 0.0
) -> RunFolder:
    """Trains a student on the Ray cluster that the configuration names, on a local Ray or here, and judges it.

    How far it is stands on stderr. A run folder is never overwritten.

    Args:
        config: The configuration, from `read_config` or `Config.model_validate`.
        resume: None; "auto" to go on from the run's newest intact checkpoint, if it has one; or the path of a run
            folder, a checkpoint folder or one checkpoint.
        fresh: Whether an earlier run of this name is moved aside.
        local: Whether this process does all the work, without Ray.
        age_s: Seconds that passed before this call and count as the run's start.

    Returns:
        The run folder: `student` is a diffusers folder, `summary` and `report` say what it achieved.

    Raises:
        UserError: for whatever would make the run fail, before anything is started.
        WorkerFailedError: if a worker meets an error that it does not expect.
        DeadlineError: if a wait takes longer than its deadline.
        WorkerLostError: if the learner, or too many workers, are lost.
        CheckpointError: if the disk refuses the last checkpoint for a minute.
        DivergedError: if the training broke what it trains.
        Interrupted: a KeyboardInterrupt that says what is saved, by SIGTERM or Ctrl-C. While the run trains, it comes
            once a cycle that is under way is done and saved, or `run.drain_s` later, or at a second signal.
    """
    clock, stop = StartClock(age_s=age_s), StopRequest()
    start = preflight.check(config, resume, fresh=fresh, local=local)
    at, trained = "before its training began", False
    try:
        with interrupting(), claim(start), _here(clock) if local else _on_ray(config, clock) as place:
            sys.stderr.write(start.note + "\n")  # now that no cluster refuses
            from advdmd_ray.runtime.launch import launched  # noqa: PLC0415 - imports torch, once the checks are passed

            with launched(config, place, start.checkpoint, clock, stop.asked) as training:
                try:
                    with stop.awaited(config.run.drain_s):
                        training.run()
                finally:
                    at, trained = f"at cycle {training.version} of {config.run.cycles}", True
                at = "after its training"
    except Interrupted as stopped:
        raise Interrupted(stopped.number, f"{stopped}, {at}; {left_by(start)}") from None
    except FAILURES as error:
        if not trained or isinstance(error, DivergedError):  # which names the checkpoint to go back to
            raise
        raise type(error)(f"{error}; {left_by(start)}") from error
    return RunFolder(config.folder)


@contextmanager
def _here(clock: StartClock) -> "Iterator[MakePlace]":
    from advdmd_ray.runtime.local import in_this_process  # noqa: PLC0415 - imports torch

    clock.ended("imports")
    yield in_this_process


@contextmanager
def _on_ray(config: Config, clock: StartClock) -> "Iterator[MakePlace]":
    """Meets Ray, which waits for processes of its own, and imports meanwhile what needs no Ray: both take seconds."""
    expect_token(ray_address(config))
    from advdmd_ray.runtime.cluster import connected  # noqa: PLC0415 - imports ray

    clock.ended("imports")
    beside = ThreadPoolExecutor(1)
    imports = [beside.submit(import_module, f"advdmd_ray.{name}") for name in ("runtime.launch", "learner.worker")]
    beside.shutdown(wait=False)
    with connected(config) as room:
        for imported in imports:
            imported.result()
        from advdmd_ray.runtime.on_ray import on_ray  # noqa: PLC0415 - imports torch

        yield partial(on_ray, room=room)
