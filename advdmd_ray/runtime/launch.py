"""A whole run on Ray: workers up, loops, artifacts, workers down."""

import logging
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from advdmd_ray.assembly import geometry
from advdmd_ray.buffer.index import check_capacity
from advdmd_ray.config import Config, dump_config
from advdmd_ray.controller import CONSUMER, Controller
from advdmd_ray.display import progress_display
from advdmd_ray.evaluation.files import write_atomically
from advdmd_ray.finish import Phases, finish_run
from advdmd_ray.frontier import PromptFrontier, restored_frontier
from advdmd_ray.learner.checkpoint import Checkpoint, open_checkpoint
from advdmd_ray.runtime.buffer_actor import BufferActor, RemoteBuffer
from advdmd_ray.runtime.calls import answer
from advdmd_ray.runtime.cluster import connected
from advdmd_ray.runtime.hub_actor import HubActor, RemoteHub
from advdmd_ray.runtime.ray_shell import RayShell
from advdmd_ray.runtime.store_actor import RemoteStore, StoreActor

logger = logging.getLogger(__name__)

FINISH_S = 3600.0


def run_on_ray(config: Config, resume: Path | None = None) -> int:
    """Runs a configuration on the cluster it names, or on a local Ray, and returns the exit code.

    Args:
        config: The configuration.
        resume: An intact checkpoint to continue from.
    """
    began = time.monotonic()
    shapes = geometry(config)
    check_capacity(config.buffer.max_bytes, shapes.group_bytes, config.rollout.groups_per_cycle)
    write_atomically(config.folder / "config.yaml", dump_config(config).encode())
    checkpoint = None if resume is None else open_checkpoint(resume)
    with connected(config) as joined:
        _say("joined the Ray cluster" if joined else "started a local Ray")
        shell = RayShell(config)
        hub_actor = HubActor.options(scheduling_strategy=_here()).remote(config.folder.absolute() / "metrics.jsonl")
        port = answer(hub_actor.serve.remote(config.metrics.host, config.metrics.port), "the metrics hub")
        _say(f"metrics at http://{config.metrics.host}:{port}/metrics")
        hub = RemoteHub(hub_actor)
        try:
            shell.start(None if checkpoint is None else checkpoint.path.absolute())
            _say(
                f"{len(shell.rollout_workers)} rollout actors, {len(shell.reward_workers)} reward workers and "
                f"{config.learner.ranks} learner ranks are up after {time.monotonic() - began:.0f} s"
            )
            setup = time.monotonic() - began
            _train(config, shell, hub, checkpoint, shapes.group_bytes)
            train = time.monotonic() - began - setup
        finally:
            shell.stop()
            hub.flush()
        page = _finish(config, Phases(setup, train))
        answer(hub_actor.close.remote(), "the metrics hub's end")
    _say(f"look at {page}")
    return 0


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _here() -> NodeAffinitySchedulingStrategy:
    """This node: whatever writes into the run folder or listens on loopback stays beside the driver."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _train(config: Config, shell: RayShell, hub: RemoteHub, checkpoint: Checkpoint | None, group_bytes: int) -> None:
    """Builds the controller over the actors and runs its loops to the end."""
    version = 0 if checkpoint is None else checkpoint.facts["learner"]["version"]
    frontier: PromptFrontier = restored_frontier(
        None if checkpoint is None else checkpoint.facts["controller"]["frontier"],
        run_seed=config.run.seed,
        prompts=shell.prompts,
        lease_s=config.rollout.lease_s,
    )
    buffer = BufferActor.options(scheduling_strategy=_here()).remote(
        [CONSUMER],
        config.buffer.max_bytes,
        config.rollout.max_policy_age,
        frontier.first_unsettled,
        frontier.settled_beyond(),
    )
    first: Any = {"student": version, "discriminator": version}
    store = StoreActor.options(scheduling_strategy=_here()).remote(config.weights.keep, first)
    with progress_display(config) as display:
        controller = Controller(
            config,
            frontier=frontier,
            buffer=RemoteBuffer(buffer),
            store=RemoteStore(store),
            hub=hub,
            shell=shell,
            group_bytes=group_bytes,
            version=version,
            display=display,
        )
        (student, discriminator), student_bytes, discriminator_bytes = shell.publication()
        controller.publish(student, student_bytes)
        controller.publish(discriminator, discriminator_bytes)
        controller.run()


@ray.remote(num_cpus=1)
def finished(config: Config, phases: Phases, folder: Path) -> str:
    """`finish_run` away from the driver, which moves no tensors."""

    def say(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    absolute = config.model_copy(update={"run": config.run.model_copy(update={"output": str(folder.parent)})})
    return str(finish_run(absolute, phases, time.monotonic, say))


def _finish(config: Config, phases: Phases) -> str:
    reference = finished.options(scheduling_strategy=_here()).remote(config, phases, config.folder.absolute())
    page = answer(reference, "the judge and the report", FINISH_S)
    return str(config.folder / Path(page).name)
