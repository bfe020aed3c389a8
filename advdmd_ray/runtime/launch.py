"""A whole run on Ray: workers up, loops, artifacts, workers down."""

import re
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from advdmd_ray.config import Config, Resume, dump_config
from advdmd_ray.controller.frontier import PromptFrontier, restored_frontier
from advdmd_ray.controller.loop import Controller
from advdmd_ray.errors import DeadlineError, WorkerFailedError, WorkerLostError
from advdmd_ray.files import write_atomically
from advdmd_ray.learner.checkpoint import Checkpoint, open_checkpoint
from advdmd_ray.runs.finish import Phases, finish_run
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.parts.inputs import geometry
from advdmd_ray.runtime.buffer_actor import BufferActor, RemoteBuffer
from advdmd_ray.runtime.calls import Handle, answer
from advdmd_ray.runtime.cluster import connected
from advdmd_ray.runtime.display import progress_display
from advdmd_ray.runtime.hub_actor import RemoteHub, metrics_hub
from advdmd_ray.runtime.ray_shell import RayShell
from advdmd_ray.runtime.store_actor import RemoteStore, StoreActor
from advdmd_ray.stations.buffer.index import check_capacity

FINISH_S = 3600.0
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def run_on_ray(config: Config, resume: Path | None = None) -> None:
    """Runs a configuration on the cluster it names, or on a local Ray.

    Args:
        config: The configuration.
        resume: An intact checkpoint to continue from.

    Raises:
        WorkerFailedError: if a worker meets an error that it does not expect; its traceback is for the developer, and
            in the run folder, the line for the user.
    """
    began = time.monotonic()
    check_capacity(config.buffer.max_bytes, geometry(config).group_bytes, config.rollout.groups_per_cycle)
    checkpoint = None if resume is None else open_checkpoint(resume)
    try:
        with connected(config) as joined:
            _say("joined the Ray cluster" if joined else "started a local Ray")
            write_atomically(RunFolder(config.folder).config, dump_config(config).encode())
            with metrics_hub(config) as hub:
                port = hub.serve(config.metrics.host, config.metrics.port)
                _say(f"metrics at http://{config.metrics.host}:{port}/metrics")
                phases = train(config, hub, checkpoint, began)
                hub.flush()
                page = _finish(config, phases)
    except RayTaskError as error:
        where = _noted(RunFolder(config.folder).failure, error)
        raise WorkerFailedError(f"{type(error.cause).__name__}: {_line(error.cause)}; {where}") from error
    _say(f"look at {page}")


def _noted(path: Path, error: RayTaskError) -> str:
    """Keeps a worker's traceback and says where, or why it could not be kept."""
    text = _COLOUR.sub("", f"{error}\n")
    try:
        return f"see {write_atomically(path, text.encode())}"
    except OSError as refused:
        return f"its traceback could not be written to {path}: {_line(refused)}"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


def train(config: Config, hub: RemoteHub, checkpoint: Checkpoint | None = None, began: float | None = None) -> Phases:
    """Workers up, the loops to their end, workers down; on the Ray that `connected` met.

    Args:
        config: The configuration; its run folder exists.
        hub: Takes the figures.
        checkpoint: What to continue from.
        began: `time.monotonic()` when the run began; now if None.

    Returns:
        Seconds of the set-up since `began`, and of the loops.
    """
    began = time.monotonic() if began is None else began
    shell = RayShell(located(config))
    try:
        shell.start(None if checkpoint is None else checkpoint.path.absolute())
        setup = time.monotonic() - began
        _say(
            f"{len(shell.rollout_workers)} rollout actors, {len(shell.reward_workers)} reward workers and "
            f"{config.learner.ranks} learner ranks are up after {setup:.0f} s"
        )
        _loop(config, shell, hub, checkpoint)
        return Phases(setup, time.monotonic() - began - setup)
    finally:
        shell.stop()


def located(config: Config) -> Config:
    """The same configuration with absolute places to write: workers of a joined cluster stand in another folder."""
    for name, key in Config.settings(Resume.PLACE):
        section = getattr(config, name)
        place = getattr(section, key)
        if place is not None:
            absolute = section.model_copy(update={key: str(Path(place).absolute())})
            config = config.model_copy(update={name: absolute})
    return config


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _here() -> NodeAffinitySchedulingStrategy:
    """This node: whatever writes into the run folder or listens on loopback stays beside the driver."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _loop(config: Config, shell: RayShell, hub: RemoteHub, checkpoint: Checkpoint | None) -> None:
    """Builds the controller over the actors and runs its loops to the end."""
    version = 0 if checkpoint is None else checkpoint.facts["learner"]["version"]
    frontier: PromptFrontier = restored_frontier(
        None if checkpoint is None else checkpoint.facts["controller"]["frontier"],
        run_seed=config.run.seed,
        prompts=shell.prompts,
        lease_s=config.rollout.lease_s,
    )
    buffer: Handle = BufferActor.options(scheduling_strategy=_here()).remote(
        config.buffer.max_bytes,
        config.rollout.max_policy_age,
        frontier.first_unsettled,
        frontier.settled_beyond(),
    )
    first: Any = {"student": version, "discriminator": version}
    store: Handle = StoreActor.options(scheduling_strategy=_here()).remote(first)
    try:
        with progress_display(config) as display:
            controller = Controller(
                config,
                frontier=frontier,
                buffer=RemoteBuffer(buffer),
                store=RemoteStore(store),
                hub=hub,
                shell=shell,
                group_bytes=geometry(config).group_bytes,
                version=version,
                updates=None if checkpoint is None else checkpoint.facts["controller"]["updates"],
                display=display,
            )
            controller.run()
    finally:
        for actor in (buffer, store):
            ray.kill(actor)  # at once: an actor that goes out of scope may log while it ends


# It must run beside the driver, where a cluster's head often offers no CPU. Ray does not try it again: what ended it
# once would end it again, and nobody would be told.
@ray.remote(num_cpus=0, max_retries=0)
def finished(config: Config, phases: Phases) -> None:
    """`finish_run` away from the driver, which moves no tensors."""

    def say(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    finish_run(config, phases, time.monotonic, say)


def _gpus_here(config: Config) -> int:
    """One GPU for the judge, if the run has any and this node is one that has."""
    here = ray.get_runtime_context().get_node_id()
    on_this_node = any(node["NodeID"] == here and node["Resources"].get("GPU", 0) >= 1 for node in ray.nodes())
    return int(on_this_node and config.learner.num_gpus > 0)


def _finish(config: Config, phases: Phases) -> Path:
    reference = finished.options(scheduling_strategy=_here(), name="judge", num_gpus=_gpus_here(config)).remote(
        located(config), phases
    )
    try:
        answer(reference, "the judge and the report", FINISH_S)
    except (DeadlineError, WorkerLostError) as error:
        raise type(error)(
            f"{error}; the training is done and in its checkpoint, `advdmd export` writes the student and `advdmd "
            "evaluate` judges it; lower evaluation.samples, or give this node a GPU"
        ) from None
    return RunFolder(config.folder).report
