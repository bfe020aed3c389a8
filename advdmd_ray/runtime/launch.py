"""A whole run, wherever its work is done: workers up, the loops to their end, workers down, the artifacts."""

import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from advdmd_ray.config import Config, dump_config
from advdmd_ray.console import say
from advdmd_ray.controller.protocols import Hub, Shell, Status
from advdmd_ray.controller.start_clock import StartClock
from advdmd_ray.data.registry import source_of
from advdmd_ray.data.source import Encoded, EncodingTask
from advdmd_ray.errors import FAILURES, DivergedError, Interrupted, UserError
from advdmd_ray.files import write_atomically
from advdmd_ray.learner.checkpoint import Checkpoint, verified_checkpoint
from advdmd_ray.runs.addresses import EVERYWHERE, in_url
from advdmd_ray.runs.finish import Judged, Phases, judge_command
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.parts.controller import build_controller
from advdmd_ray.runs.scaling import FolderWishes
from advdmd_ray.runs.targets import targets_told
from advdmd_ray.runtime.counting import encoding_progress
from advdmd_ray.runtime.heap import frozen_heap
from advdmd_ray.runtime.training import Training, cut_back_to

logger = logging.getLogger(__name__)


class ServingHub(Hub, Protocol):
    """A hub that can serve /metrics."""

    def serve(self, host: str, port: int, found: Callable[[int], None]) -> int:
        """Starts to, and returns the port; `found` is told it, now and whenever it is served anew."""
        ...

    def finish(self, outcome: str, linger_s: float) -> None:
        """Says how the run ended, and waits until that was scraped, so long at most, if Prometheus ever did."""
        ...


class Place(Protocol):
    """Where a run's work is done.

    Attributes:
        note: One line that tells the user.
        hub: Takes the figures.
    """

    note: str

    @property
    def hub(self) -> ServingHub: ...  # noqa: D102

    def address(self) -> str:
        """Of the node whose hub serves /metrics, as other machines reach it."""
        ...

    def encode(self, tasks: Sequence[EncodingTask]) -> Generator[Encoded]:
        """Encodes images on disk; no worker of the run is up yet."""
        ...

    def workers(self, checkpoint: Checkpoint | None, start: StartClock) -> AbstractContextManager[Shell]:
        """Brings the workers up, from a checkpoint if there is one, and ends them; tells the clock of the texts."""
        ...

    def rewind(self, checkpoint: Checkpoint | None) -> None:
        """Takes out of the figures, while workers are up, what the run does again from a checkpoint."""
        ...

    def export(self) -> Path:
        """Exports the student from the newest checkpoint and returns its folder; the workers have ended."""
        ...

    def judge(self, student: Path) -> Judged:
        """Judges teacher and student, and draws both side by side.

        Raises:
            UserError: as any of `FAILURES`: whatever ends the judge is one of them.
        """
        ...

    def report(self, phases: Phases, judged: Judged) -> None:
        """See `report_run`."""
        ...


MakePlace = Callable[[Config], AbstractContextManager[Place]]


@contextmanager
def launched(
    config: Config,
    place: MakePlace,
    resume: Path | None = None,
    start: StartClock | None = None,
    stopping: Callable[[], bool] = lambda: False,
    display: Callable[[Status], None] = lambda _: None,
) -> Iterator[Training]:
    """The training over workers that are up; once it is done, the workers end and the artifacts are made.

    Args:
        config: The configuration, which `runs.preflight.check` has passed; its run folder exists.
        place: `in_this_process`, or `on_ray` once Ray is met.
        resume: A checkpoint to continue from, which pre-flight has found intact.
        start: Has counted the start so far; None: it begins now.
        stopping: Whether the run is asked to stop.
        display: Called with the status several times a second.

    Raises:
        UserError: if the place cannot have the run.
    """
    folder, start = RunFolder(config.folder), start or StartClock()
    wishes = FolderWishes(folder)
    checkpoint = None if resume is None else verified_checkpoint(resume)
    if checkpoint is not None:
        cut_back_to(checkpoint, folder)
    with place(config) as here:
        start.ended("ray")
        say(here.note)
        prepare_data(config, here, start)
        start.ended("images")
        with served(config, here):
            say(f"see it live: advdmd dashboard {folder.path}")
            with here.workers(checkpoint, start) as shell:
                start.ended("workers")
                # Not before: a start that is refused leaves nothing.
                write_atomically(folder.config, dump_config(config).encode())
                up = time.monotonic()
                setup = sum(start.seconds.values()) - start.seconds["images"]
                say(f"{_workers(config)} are up after {setup:.0f} s")
                start.begins("first weights")
                with frozen_heap():
                    yield Training(
                        config,
                        shell,
                        here.hub,
                        checkpoint,
                        loops=lambda last: build_controller(
                            config, shell, here.hub, last, display, start=start, stopping=stopping, wishes=wishes
                        ),
                        rewind=here.rewind,
                        stopping=stopping,
                    )
            finish(config, here, Phases(setup, time.monotonic() - up), start)


@contextmanager
def served(config: Config, here: Place) -> Iterator[None]:
    """Serves /metrics where Prometheus finds it, until it was scraped how the run has ended.

    Raises:
        UserError: if the port is occupied or the host is not an address of this machine.
    """
    host = config.metrics.host
    reached = here.address() if host in EVERYWHERE else host
    with targets_told(config, reached) as found:
        port = here.hub.serve(host, config.metrics.port, found)
        say(f"metrics at http://{in_url(reached)}:{port}/metrics")
        try:
            yield
        except BaseException as error:
            began = RunFolder(config.folder).config.exists()
            if began or not isinstance(error, UserError):  # a start that is refused leaves nothing
                here.hub.finish(outcome_of(error), linger_s(config, error))
            raise
        here.hub.finish("completed", config.metrics.linger_s)


def linger_s(config: Config, error: BaseException) -> float:
    """Longest wait for a scrape of a run that an error ends; one that is told to stop keeps to `run.drain_s` in all."""
    if not isinstance(error, Interrupted):
        return config.metrics.linger_s
    left = 0.0 if error.at_once else error.since + config.run.drain_s - time.monotonic()
    return max(0.0, min(config.metrics.linger_s, left))


def outcome_of(error: BaseException) -> str:
    """Which of `OUTCOMES` a run has that ends with an error."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped"
    return "diverged" if isinstance(error, DivergedError) else "failed"


def _workers(config: Config) -> str:
    """Those that a run has at its start, at least."""
    first = config.at_start
    counts = ((config.rollout.actors, first.rollout.actors), (config.reward.workers, first.reward.workers))
    actors, workers = (f"{asked}" if least == asked else f"at least {least} of {asked}" for asked, least in counts)
    return f"{actors} rollout actors, {workers} reward workers and {config.learner.ranks} learner ranks"


def prepare_data(config: Config, here: Place, start: StartClock) -> None:
    """Has the images encoded that are not, where everybody can see how far it is."""
    source = source_of(config)
    tasks = source.to_encode()
    if tasks:
        start.begins("encoding images")
    with encoding_progress(tasks) as followed, closing(here.encode(tasks)) as results:
        made = source.encoded(followed(results))
    for line in made.splitlines():
        say(line)


def finish(config: Config, here: Place, phases: Phases, start: StartClock) -> None:
    """Exports the student and reports the run, at first without its judge: whatever ends that, the run is told.

    A judge that fails is a warning, in the log and in the report. The training is done, and the student can be judged
    later.
    """
    start.begins("exporting the student")
    student = here.export()
    here.report(phases, Judged())
    start.begins("judging teacher and student")
    began = time.monotonic()
    try:
        judged = here.judge(student)
    except (UserError, *FAILURES) as error:
        judged = Judged(missing=f"the judge failed: {error}")
        logger.warning("%s; the student is exported, and `%s` judges it", judged.missing, judge_command(config))
    here.report(phases, replace(judged, seconds=time.monotonic() - began))
