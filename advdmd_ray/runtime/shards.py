"""Images that the data source leaves to workers: Ray actors like the rollout actors make them before these start."""

from collections.abc import Callable, Sequence

import numpy as np
import ray
import torch

from advdmd_ray.config import Config
from advdmd_ray.data.source import Shards, Tools
from advdmd_ray.runs.lasting import LATENTS, Mark, marked
from advdmd_ray.runs.parts.workers import build_tools
from advdmd_ray.runtime.calls import PULSE, Handle
from advdmd_ray.runtime.dealing import SHARD_S, deal, hired
from advdmd_ray.runtime.places import Places
from advdmd_ray.runtime.pulsed import Pulsed
from advdmd_ray.stations.prompt_table import PromptTable, TableFacts


@ray.remote(concurrency_groups={PULSE: 1})  # pyright: ignore[reportCallIssue]
class ShardActor(Pulsed):
    """Holds the teacher and the codec and makes one shard after the other."""

    def __init__(self, config: Config, mark: Mark) -> None:
        torch.set_num_threads(config.rollout.threads)
        self._config, self._mark = config, mark
        self._tools: Tools | None = None

    def ready(self) -> None:
        """Answers once there is room for the actor.

        Raises:
            UserError: if it does not see the folder of latents.
        """
        self._mark.check_seen("a worker that makes images")

    def make(self, shard: int, shards: Shards, facts: TableFacts, *prompts: np.ndarray) -> int:
        """Makes one shard; returns the number of its images. The prompts come along for a first call."""
        if self._tools is None:
            self._tools = build_tools(self._config, PromptTable.opened(facts, prompts))
        return shards.make(shard, self._tools)


def make_shards(
    config: Config,
    shards: Shards,
    table: Sequence[ray.ObjectRef],
    places: Places,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> int:
    """Makes the shards that are missing and returns how many images that were.

    Args:
        config: The run's.
        shards: What is to be there.
        table: The prompt table's facts, and its shards where they are not in files.
        places: Where the actors may be: where rollout actors may.
        progress: Told how many of all images are there.

    Raises:
        DeadlineError: if no shard is done for an hour.
        WorkerLostError: if an actor dies again and again.
        UserError: if one does not see the folder of latents.
    """
    missing = shards.missing()
    if not missing:
        return 0
    role = config.rollout
    kind: Handle = ShardActor
    made = kind.options(num_cpus=role.num_cpus, num_gpus=role.num_gpus, **places.options("rollout"))
    there = shards.images - sum(len(shards.rows(shard)) for shard in missing)
    made_now = 0
    shared = ray.put(shards)  # once, however many calls there are
    with (
        marked(config.latents, LATENTS) as mark,
        hired(lambda: made.remote(config, mark), min(role.actors, len(missing))) as team,
    ):
        progress(there, shards.images)
        dealt = deal(
            team,
            missing,
            lambda actor, shard: actor.make.remote(shard, shared, *table),
            lambda shard: f"shard {shard} of the data source's images",
            SHARD_S,
            lambda actor: actor.ready.remote(),
        )
        for _, images in dealt:
            made_now += images
            progress(there + made_now, shards.images)
    return made_now
