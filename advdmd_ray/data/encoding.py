"""Images on disk that one process encodes: by itself, or as a member of a team."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from advdmd_ray.data.source import Encoded, EncodingTask
from advdmd_ray.diffusion.transfer import let_go
from advdmd_ray.models.pipeline import image_encoder, load_pipeline
from advdmd_ray.provenance import usable_cores

MOST_THREADS = 32
"""Threads that decode images in one process: more would wait for its codec."""


def encode_here(pipeline: str | Path, tasks: Sequence[EncodingTask], threads: int | None = None) -> Iterator[Encoded]:
    """Encode one shard after the other in this process, and let go of the codec and its GPU memory.

    Args:
        pipeline: The folder whose codec it is; loaded if there is a shard.
        tasks: The shards.
        threads: That decode images; None: as many as there are cores, up to `MOST_THREADS`.

    Yields:
        What became of each.
    """
    if not tasks:
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    codec = image_encoder(load_pipeline(pipeline, parts="codec").to(device))
    try:
        for task in tasks:
            yield task.encode(codec, threads or min(MOST_THREADS, usable_cores()))
    finally:
        del codec
        let_go()
