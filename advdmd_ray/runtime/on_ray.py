"""Ray as the place of a run: its workers are actors, on the cluster that the configuration names or a local Ray."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from advdmd_ray.config import Config, Resume
from advdmd_ray.errors import DeadlineError, WorkerLostError
from advdmd_ray.learner.checkpoint import Checkpoint
from advdmd_ray.runs.finish import Phases, finish_run
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runtime.calls import answer
from advdmd_ray.runtime.cluster import connected
from advdmd_ray.runtime.failure import worker_failed
from advdmd_ray.runtime.hub_actor import RemoteHub, metrics_hub
from advdmd_ray.runtime.launch import say
from advdmd_ray.runtime.ray_shell import RayShell

FINISH_S = 3600.0


@contextmanager
def on_ray(config: Config) -> Iterator["RayPlace"]:
    """Joins the cluster that the configuration names, or starts a local Ray, and leaves it at the end.

    Raises:
        UserError: if the cluster does not answer or has too little.
        WorkerFailedError: if a worker meets an error that it does not expect; its traceback is in the run folder.
    """
    try:
        with connected(config) as joined, metrics_hub(config) as hub:
            yield RayPlace(config, hub, "joined the Ray cluster" if joined else "started a local Ray")
    except RayTaskError as error:
        raise worker_failed(RunFolder(config.folder), error.cause, str(error)) from error


class RayPlace:
    """`Place` on Ray."""

    def __init__(self, config: Config, hub: RemoteHub, note: str) -> None:
        self._config, self.hub, self.note = located(config), hub, note

    @contextmanager
    def workers(self, checkpoint: Checkpoint | None) -> Iterator[RayShell]:
        """See `Place`."""
        shell = RayShell(self._config)
        try:
            shell.start(None if checkpoint is None else checkpoint.path.absolute())
            yield shell
        finally:
            shell.stop()

    def finish(self, phases: Phases) -> None:
        """See `Place`: in a task beside the driver."""
        self.hub.flush()
        reference = finished.options(
            scheduling_strategy=_here(), name="judge", num_gpus=_gpus_here(self._config)
        ).remote(self._config, phases)
        try:
            answer(reference, "the judge and the report", FINISH_S)
        except (DeadlineError, WorkerLostError) as error:
            raise type(error)(
                f"{error}; the training is done and in its checkpoint, `advdmd export` writes the student and `advdmd "
                "evaluate` judges it; lower evaluation.samples, or give this node a GPU"
            ) from None


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


# It must run beside the driver, where a cluster's head often offers no CPU. Ray does not try it again: what ended it
# once would end it again, and nobody would be told.
@ray.remote(num_cpus=0, max_retries=0)
def finished(config: Config, phases: Phases) -> None:
    """`finish_run` away from the driver, which moves no tensors."""
    finish_run(config, phases, time.monotonic, say)


def _gpus_here(config: Config) -> int:
    """One GPU for the judge, if the run has any and this node is one that has."""
    here = ray.get_runtime_context().get_node_id()
    on_this_node = any(node["NodeID"] == here and node["Resources"].get("GPU", 0) >= 1 for node in ray.nodes())
    return int(on_this_node and config.learner.num_gpus > 0)
