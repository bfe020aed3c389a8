"""The controller over workers that are up: the one wiring, on Ray and in one process."""

import time
from collections.abc import Callable

from advdmd_ray.config import Config
from advdmd_ray.controller.frontier import PromptFrontier
from advdmd_ray.controller.guard import Guard
from advdmd_ray.controller.loop import Controller
from advdmd_ray.controller.protocols import Hub, Shell, Status
from advdmd_ray.controller.staff import Wishes
from advdmd_ray.controller.start_clock import StartClock
from advdmd_ray.controller.watch import Saved, Watch
from advdmd_ray.learner.checkpoint import Checkpoint, saved_steps
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.parts.inputs import geometry
from advdmd_ray.stations.buffer.index import BufferIndex
from advdmd_ray.stations.buffer.quarantined import QuarantineFolder
from advdmd_ray.stations.weights.store import WeightStore


def build_controller(
    config: Config,
    shell: Shell,
    hub: Hub,
    checkpoint: Checkpoint | None = None,
    display: Callable[[Status], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
    start: StartClock | None = None,
    stopping: Callable[[], bool] = lambda: False,
    wishes: Wishes | None = None,
) -> Controller:
    """The controller at the beginning of a run, or where a checkpoint left it.

    Args:
        config: The configuration.
        shell: Its workers are up.
        hub: Takes the figures.
        checkpoint: The one that the shell's workers were started from.
        display: Called with the status several times a second.
        clock: Monotonic clock, seconds.
        start: Has counted the start so far; None: it begins now.
        stopping: Whether the run is asked to stop.
        wishes: What its owner asks for while it trains; None: nothing.
    """
    facts = {} if checkpoint is None else checkpoint.facts["controller"]
    version = 0 if checkpoint is None else checkpoint.facts["learner"]["version"]
    frontier = PromptFrontier.from_state(
        facts.get("frontier"), run_seed=config.run.seed, prompts=shell.prompts, lease_s=config.rollout.lease_s
    )
    earlier = {} if checkpoint is None else saved_steps(checkpoint.path.parent)
    checkpoints = [Saved(step, str(path)) for step, path in earlier.items() if step <= version]
    return Controller(
        config,
        frontier=frontier,
        buffer=BufferIndex(
            max_bytes=config.buffer.max_bytes,
            max_policy_age=config.rollout.max_policy_age,
            start=frontier.first_unsettled,
            settled=frontier.settled_beyond(),
        ),
        store=WeightStore({"student": version, "discriminator": version}),
        hub=hub,
        shell=shell,
        group_bytes=geometry(config).group_bytes,
        quarantine=QuarantineFolder(
            RunFolder(config.folder).quarantine,
            files=config.quarantine.files,
            max_bytes=config.quarantine.max_bytes,
        ),
        watch=Watch(config, Guard.from_state(facts.get("guard"), config.guard), checkpoints),
        version=version,
        updates=facts.get("updates"),
        counted={} if checkpoint is None else facts.get("counted"),
        display=display,
        clock=clock,
        start=start,
        stopping=stopping,
        wishes=wishes,
    )
