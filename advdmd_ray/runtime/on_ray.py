"""Ray as the place of a run: its workers are actors, on the cluster that the configuration names or a local Ray."""

import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import ray
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from advdmd_ray.config import Config, Resume
from advdmd_ray.console import say
from advdmd_ray.controller.start_clock import StartClock
from advdmd_ray.data.source import Encoded, EncodingTask
from advdmd_ray.errors import DeadlineError, WorkerLostError
from advdmd_ray.learner.checkpoint import Checkpoint
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.runs.export import export
from advdmd_ray.runs.finish import Judged, Phases, report_run
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.needs.memory import sizes_of
from advdmd_ray.runs.needs.spilling import ray_disk, spilling
from advdmd_ray.runs.needs.texts import text_need
from advdmd_ray.runs.parts.networks import import_networks
from advdmd_ray.runtime.aside import Aside
from advdmd_ray.runtime.failure import worker_failed
from advdmd_ray.runtime.image_encoding import encoded_on_ray
from advdmd_ray.runtime.judging import judged_on_ray
from advdmd_ray.runtime.places import Places
from advdmd_ray.runtime.ray_shell import RayShell
from advdmd_ray.runtime.remote_hub import RemoteHub, metrics_hub
from advdmd_ray.runtime.room import ClusterRequest
from advdmd_ray.runtime.store_watch import store_watched
from advdmd_ray.runtime.training import cut_back_to
from advdmd_ray.runtime.waiting import wait_for_room

logger = logging.getLogger(__name__)

REPORT_S = 600.0
SLOW_DISK = 10e6
"""Bytes a second, read and written."""


@contextmanager
def on_ray(config: Config, *, room: ClusterRequest | None) -> Iterator["RayPlace"]:
    """The Ray that this process is connected to as the place of a run.

    Args:
        config: The run's.
        room: Of its workers, on a cluster that was there before; see `connected`.

    Raises:
        WorkerFailedError: if a worker meets an error that it does not expect; its traceback is in the run folder.
    """
    try:
        with metrics_hub(config) as hub:
            _say_what_spills(config, joined=room is not None)
            note = "started a local Ray" if room is None else "joined the Ray cluster"
            with closing(RayPlace(config, hub, note, room)) as place:
                yield place
    except RayTaskError as error:
        raise worker_failed(RunFolder(config.folder), error.cause, str(error)) from error


def _say_what_spills(config: Config, *, joined: bool) -> None:
    offered = ray.cluster_resources().get("object_store_memory", 0.0)
    nodes = sum(node["Alive"] for node in ray.nodes())
    texts = nodes * text_need(config).in_store
    found = spilling(config, sizes_of(config), offered, None if joined else ray_disk(), texts)
    if found.spills:
        logger.warning("object store: %s", found.text)


class RayPlace:
    """`Place` on Ray.

    Args:
        config: The run's.
        hub: Takes the figures.
        note: One line that tells the user.
        room: Of the workers, on a cluster that others use too; None: nobody else is there.
    """

    def __init__(self, config: Config, hub: RemoteHub, note: str, room: ClusterRequest | None = None) -> None:
        self._config, self.hub, self.note, self._room = located(config), hub, note, room
        self._places = Places(self._config)
        self._beside = Aside(lambda: {"scheduling_strategy": _here()})

    def address(self) -> str:
        """See `Place`: this node's, as Ray has it."""
        return ray.util.get_node_ip_address()

    def encode(self, tasks: Sequence[EncodingTask]) -> Generator[Encoded]:
        """See `Place`: in the room of the run's workers."""
        if tasks and self._room is not None:
            self._room.release()
        yield from encoded_on_ray(self._config, tasks, self._places)

    @contextmanager
    def workers(self, checkpoint: Checkpoint | None, start: StartClock) -> Iterator[RayShell]:
        """See `Place`."""
        shell = RayShell(self._config, places=self._places)
        try:
            mark = RunFolder(self._config.folder).mark()
            start.begins("placing workers")
            if self._room is not None:
                # Held since the run met the cluster, unless images were encoded in it.
                wait_for_room(self._config.at_start, self._config.ray.start_timeout_s, self._room)
                self._room.release()
            shell.start(None if checkpoint is None else checkpoint.path.absolute(), start, mark)
            if self._config.learner.ranks > 1:
                say(f"the learner's ranks reduce over {shell.backend}")
            with store_watched(self.hub):
                yield shell
        finally:
            shell.stop()

    def rewind(self, checkpoint: Checkpoint | None) -> None:
        """See `Place`."""
        self.hub.reopen(lambda: cut_back_to(checkpoint, RunFolder(self._config.folder)))

    def export(self) -> Path:
        """See `Place`: in a process beside the driver, which moves no tensors."""
        self.hub.flush()
        try:
            limit = export_s(self._config)
            student, _ = self._beside.do(exported, self._config, what="the export of the student", limit_s=limit)
        except (DeadlineError, WorkerLostError) as error:
            raise type(error)(
                f"{error}; the training is done and in its checkpoint, from which `advdmd export` writes the student"
            ) from None
        return student

    def judge(self, student: Path) -> Judged:
        """See `Place`: on as many workers as the run had room for."""
        try:
            return judged_on_ray(self._config, student, self._beside, self._places)
        except RayTaskError as error:
            raise worker_failed(RunFolder(self._config.folder), error.cause, str(error)) from error

    def report(self, phases: Phases, judged: Judged) -> None:
        """See `Place`: in a process beside the driver."""
        self._beside.do(report_run, self._config, phases, judged, what="the report", limit_s=REPORT_S)

    def close(self) -> None:
        """Ends the process beside the driver."""
        self._beside.close()


def exported(config: Config) -> Path:
    """`export` in a process that has imported nothing yet."""
    import_networks(config, whole=True)
    return export(config)


def located(config: Config) -> Config:
    """The same configuration with absolute places to write: workers of a joined cluster stand in another folder."""
    for name, key in Config.settings(Resume.PLACE):
        section = getattr(config, name)
        place = getattr(section, key)
        if place is not None:
            absolute = section.model_copy(update={key: str(Path(place).absolute())})
            config = config.model_copy(update={name: absolute})
    return config


def _here() -> NodeAffinitySchedulingStrategy:
    """This node: whatever writes into the run folder or listens on loopback stays beside the driver."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def export_s(config: Config) -> float:
    """Seconds within which the student is exported: its folder at the pace of a slow disk, and a start."""
    files = [file for part in inspect_pipeline(config.model.path).components for file in part.weight_files]
    return config.ray.start_timeout_s + sum(file.stat().st_size for file in files) / SLOW_DISK
