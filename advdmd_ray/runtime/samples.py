"""The teacher's samples, drawn by Ray actors with the resources of rollout actors before these are started."""

from collections.abc import Callable

import numpy as np
import ray
import torch

from advdmd_ray.config import Config
from advdmd_ray.data.teacher_samples import SampleMaker, SamplePlan
from advdmd_ray.runs.parts.workers import build_sample_maker
from advdmd_ray.runtime.calls import Handle
from advdmd_ray.runtime.dealing import deal
from advdmd_ray.stations.prompt_table import PromptTable
from advdmd_ray.stations.weights.snapshot import Manifest, Snapshot, unpack

SHARD_S = 3600.0
"""Nobody draws longer at one shard."""
RETRIES = 3


@ray.remote
class SampleActor:
    """Holds the teacher and the codec and draws one shard after the other."""

    def __init__(self, config: Config) -> None:
        torch.set_num_threads(config.rollout.threads)
        self._config = config
        self._built: SampleMaker | None = None

    def make(
        self, shard: int, plan: SamplePlan, texts: tuple[str, ...], manifest: Manifest, payload: np.ndarray
    ) -> int:
        """Draws and writes one shard; returns the number of its images. The prompts come along for a first call."""
        if self._built is None:
            table = PromptTable.from_state(texts, unpack(Snapshot(manifest, payload)))
            self._built = build_sample_maker(self._config, table)
        return self._built.make(plan, shard)


def draw_samples(
    config: Config,
    plan: SamplePlan,
    texts: tuple[str, ...],
    manifest: Manifest,
    payload: ray.ObjectRef,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> int:
    """Draw what is missing of the teacher's samples and return how many images that were.

    Args:
        config: The run's.
        plan: What is to be there.
        texts: The prompt table's.
        manifest: Of the encoded table.
        payload: Its bytes.
        progress: Told how many of all images are there.

    Raises:
        DeadlineError: if no shard is done for an hour.
        WorkerLostError: if an actor dies again and again.
    """
    missing = plan.missing()
    if not missing:
        return 0
    role = config.rollout
    made: Handle = SampleActor.options(
        num_cpus=role.num_cpus, num_gpus=role.num_gpus, max_restarts=RETRIES, max_task_retries=RETRIES
    )
    team = [made.remote(config) for _ in range(min(role.actors, len(missing)))]
    there = plan.images - sum(len(plan.rows(shard)) for shard in missing)
    drawn = 0
    shared, shared_texts = ray.put(plan), ray.put(texts)  # once, however many calls and prompts there are
    try:
        progress(there, plan.images)
        dealt = deal(
            team,
            missing,
            lambda actor, shard: actor.make.remote(shard, shared, shared_texts, manifest, payload),
            lambda shard: f"shard {shard} of the teacher's samples",
            SHARD_S,
        )
        for _, images in dealt:
            drawn += images
            progress(there + drawn, plan.images)
    finally:
        for actor in team:
            ray.kill(actor)  # at once: the rollout actors need its room
    return drawn
