"""Images on disk that one process encodes: by itself, or as a member of a team."""

from collections.abc import Iterator, Sequence

import torch

from advdmd_ray.config import Config
from advdmd_ray.data.source import Encoded, EncodingTask
from advdmd_ray.diffusion.threads import threads
from advdmd_ray.diffusion.transfer import let_go
from advdmd_ray.models.pipeline import image_encoder, load_pipeline
from advdmd_ray.provenance import usable_cores

MOST_THREADS = 32
"""Threads that decode images in one process: more would wait for its codec."""


def encode_here(config: Config, tasks: Sequence[EncodingTask]) -> Iterator[Encoded]:
    """Encode one shard after the other in this process, and let go of the codec and its GPU memory.

    The codec computes with the threads that it has in a rollout actor, so both leave the same bytes.

    Args:
        config: Whose codec it is; loaded if there is a shard.
        tasks: The shards.

    Yields:
        What became of each.
    """
    if not tasks:
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    codec = image_encoder(load_pipeline(config.model.path, parts="codec").to(device))
    try:
        for task in tasks:
            with threads(config.rollout.threads):
                made = task.encode(codec, min(MOST_THREADS, usable_cores()))
            yield made
    finally:
        del codec
        let_go()
