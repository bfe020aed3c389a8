"""The encoding of the prompts: a worker hands over one shard after the other, and who waits for it."""

from collections.abc import Callable, Iterator

import numpy as np
import ray

from advdmd_ray.config import Config
from advdmd_ray.diffusion.transfer import let_go
from advdmd_ray.errors import DeadlineError
from advdmd_ray.runs.parts.inputs import TableEncoder
from advdmd_ray.runtime.calls import MORE_TIME, Handle, answer
from advdmd_ray.stations.prompt_table import TableFacts

WHAT = "the encoding of the prompts"
Encoding = Iterator[tuple[int, int] | TableFacts | np.ndarray | None]


def encoding_of(config: Config) -> Encoding:
    """Encodes the prompts once, away from the driver, and lets go of the text encoders.

    Yields:
        After each batch how many texts are done and how many there are, then its shard, or None where a folder keeps
        it; and last the facts.
    """
    encoder = TableEncoder(config)
    for done, count, payload in encoder.batches():
        yield done, count
        yield payload
    facts = encoder.facts()
    del encoder
    let_go()
    yield facts


@ray.remote(num_cpus=0, max_retries=0, num_returns="streaming")  # what ended it once would end it again, unheard
def encoded_prompts(config: Config) -> Encoding:
    """`encoding_of` in a task, whose process ends with it."""
    yield from encoding_of(config)


def begin_encoding(config: Config) -> ray.ObjectRefGenerator:
    """Starts the encoding before there are workers, with a rollout actor's GPUs."""
    encoding: Handle = encoded_prompts.options(num_gpus=config.rollout.num_gpus)
    return encoding.remote(config)


def encoded(
    encoding: ray.ObjectRefGenerator, limit_s: float, progress: Callable[[int, int], None]
) -> tuple[TableFacts, list[ray.ObjectRef]]:
    """The table's facts and references of its shards, once all is encoded; the driver reads no shard.

    Args:
        encoding: See `begin_encoding`.
        limit_s: Most seconds for a batch, and for loading the text encoders before the first.
        progress: Told how many texts are done, and how many there are.

    Raises:
        DeadlineError: if a batch takes longer.
    """
    shards: list[ray.ObjectRef] = []
    while True:
        report = answer(_next(encoding, limit_s), WHAT, limit_s, MORE_TIME)
        if isinstance(report, TableFacts):
            return report, shards if not report.prompts.files else []
        progress(*report)
        shards.append(_next(encoding, limit_s))


def _next(encoding: ray.ObjectRefGenerator, limit_s: float) -> ray.ObjectRef:
    ready, _ = ray.wait([encoding], timeout=limit_s)
    if not ready:
        raise DeadlineError(f"waited {limit_s:.0f} s for {WHAT}; {MORE_TIME}")
    return next(encoding)
