"""The controller over workers that are up: the one wiring, on Ray and in one process."""

from collections.abc import Callable
from dataclasses import dataclass

from advdmd_ray.config import Config
from advdmd_ray.controller.frontier import restored_frontier
from advdmd_ray.controller.loop import Controller
from advdmd_ray.controller.protocols import Buffer, Hub, Shell, Status, Store
from advdmd_ray.learner.checkpoint import Checkpoint
from advdmd_ray.runs.parts.inputs import geometry


@dataclass(frozen=True, slots=True)
class Stations:
    """Where a run's work is done and its groups and weights are kept.

    Attributes:
        shell: Its workers are up.
        buffer: Makes the buffer, from the keyword arguments of `BufferIndex`.
        store: Makes the weight store, from the first version that each stream will publish.
    """

    shell: Shell
    buffer: Callable[..., Buffer]
    store: Callable[..., Store]


def build_controller(
    config: Config,
    stations: Stations,
    hub: Hub,
    checkpoint: Checkpoint | None = None,
    display: Callable[[Status], None] = lambda _: None,
) -> Controller:
    """The controller at the beginning of a run, or where a checkpoint left it.

    Args:
        config: The configuration.
        stations: What it works with.
        hub: Takes the figures.
        checkpoint: The one that the shell's workers were started from.
        display: Called with the status several times a second.
    """
    facts = {} if checkpoint is None else checkpoint.facts["controller"]
    version = 0 if checkpoint is None else checkpoint.facts["learner"]["version"]
    frontier = restored_frontier(
        facts.get("frontier"),
        run_seed=config.run.seed,
        prompts=stations.shell.prompts,
        lease_s=config.rollout.lease_s,
    )
    return Controller(
        config,
        frontier=frontier,
        buffer=stations.buffer(
            max_bytes=config.buffer.max_bytes,
            max_policy_age=config.rollout.max_policy_age,
            start=frontier.first_unsettled,
            settled=frontier.settled_beyond(),
        ),
        store=stations.store({"student": version, "discriminator": version}),
        hub=hub,
        shell=stations.shell,
        group_bytes=geometry(config).group_bytes,
        version=version,
        updates=facts.get("updates"),
        display=display,
    )
