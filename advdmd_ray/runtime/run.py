"""A configuration from its checks to its report: what `advdmd run` and the library's `run` do."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from advdmd_ray.config import Config
from advdmd_ray.console import say, sum_up, warn
from advdmd_ray.controller.start_clock import StartClock
from advdmd_ray.errors import FAILURES, DivergedError, Interrupted
from advdmd_ray.runs import preflight
from advdmd_ray.runs.folder import RunFolder, Start, claim, left_by
from advdmd_ray.runs.needs.course import never
from advdmd_ray.runs.needs.memory import ray_address
from advdmd_ray.runs.summing_up import summed_up
from advdmd_ray.runtime.authentication import expect_token
from advdmd_ray.runtime.display import PhaseLines, Show, run_display
from advdmd_ray.runtime.stopping import StopRequest, interrupting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from advdmd_ray.runtime.launch import MakePlace


def run(
    config: Config, *, resume: str | None = None, fresh: bool = False, local: bool = False, age_s: float = 0.0
) -> RunFolder:
    """Trains a student on the Ray cluster that the configuration names, on a local Ray or here, and judges it.

    How far it is stands on stderr, told by the logger `advdmd_ray.progress`, and what came of it, told by
    `advdmd_ray.summary`. A run folder is never overwritten.

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
    phases, stop = PhaseLines(config), StopRequest()
    clock = StartClock(age_s=age_s, told=phases)
    with run_display(config, clock) as display:
        start = preflight.check(config, resume, fresh=fresh, local=local)
        _train(config, start, clock, phases, stop, display, local=local)
    lines, figures = summed_up(config, clock.age_s, local=local)
    sum_up(lines, **figures)
    return RunFolder(config.folder)


def _train(
    config: Config,
    start: Start,
    clock: StartClock,
    phases: PhaseLines,
    stop: StopRequest,
    display: Show,
    *,
    local: bool,
) -> None:
    at, trained = "before its training began", False

    def taken() -> None:
        say(start.note)
        for said in never(config):
            warn(said)
        phases.taken()

    try:
        with interrupting(), claim(start), ExitStack() as until_done:
            if local:
                taken()
            place = until_done.enter_context(_here(clock) if local else _on_ray(config, clock))
            if not local:
                taken()  # now that no cluster refuses
            from advdmd_ray.runs.targets import clear_replaced  # noqa: PLC0415 - imports prometheus_client
            from advdmd_ray.runtime.launch import launched  # noqa: PLC0415 - imports torch, once the checks are passed

            with launched(config, place, start.checkpoint, clock, stop.asked, display) as training:
                if start.aside is not None:
                    clear_replaced(config, start.aside)
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


@contextmanager
def _here(clock: StartClock) -> "Iterator[MakePlace]":
    clock.begins("importing torch and diffusers")
    from advdmd_ray.runtime.local import in_this_process  # noqa: PLC0415 - imports torch

    clock.ended("imports")
    yield in_this_process


@contextmanager
def _on_ray(config: Config, clock: StartClock) -> "Iterator[MakePlace]":
    """Meets Ray, which waits for processes of its own, and imports meanwhile what needs no Ray: both take seconds."""
    clock.begins("starting Ray" if (address := ray_address(config)) is None else f"joining Ray at {address}")
    expect_token(address)
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
