"""The encoding of the prompts: a worker hands over one shard after the other, and who waits for it."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import ray

from advdmd_ray.config import Config
from advdmd_ray.controller.pulse import Pulse
from advdmd_ray.diffusion.transfer import let_go
from advdmd_ray.errors import DeadlineError, WorkerLostError
from advdmd_ray.runs.parts.inputs import TableEncoder
from advdmd_ray.runtime.calls import MORE_TIME, PULSE, SILENCE_S, Handle, answer, silent
from advdmd_ray.runtime.dealing import LOOK_S, MOST_LOSSES, hired
from advdmd_ray.runtime.places import Places
from advdmd_ray.runtime.pulsed import Pulsed
from advdmd_ray.stations.prompt_table import TableFacts

logger = logging.getLogger(__name__)
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


@ray.remote(num_cpus=0, concurrency_groups={PULSE: 1})  # pyright: ignore[reportCallIssue]
class TextActor(Pulsed):
    """Encodes the prompts of a run before it has workers."""

    def __init__(self, config: Config) -> None:
        self._config = config

    @ray.method(num_returns="streaming")
    def encode(self) -> Encoding:
        """See `encoding_of`."""
        yield from encoding_of(self._config)


@contextmanager
def text_actor(config: Config, places: Places) -> Iterator[tuple[Handle, Callable[[Handle], Handle]]]:
    """One with a rollout actor's GPUs and where one may be, and what starts another in its place.

    It ends when the context is left.
    """
    kind: Handle = TextActor
    made = kind.options(num_gpus=config.rollout.num_gpus, **places.options("rollout"))
    with hired(lambda: made.remote(config), 1) as team:
        yield team.actors[0], team.replace


def encoded(
    encoder: Handle,
    replace: Callable[[Handle], Handle],
    limit_s: float,
    progress: Callable[[int, int], None],
    clock: Callable[[], float] = time.monotonic,
) -> tuple[TableFacts, list[ray.ObjectRef]]:
    """The table's facts and references of its shards, once all is encoded; the driver reads no shard.

    If its process is lost or hangs on the way, another begins anew; files that are whole are not made again.

    Args:
        encoder: An actor with `encode` and `ping`.
        replace: Starts another in its place.
        limit_s: Most seconds for a batch, and for loading the text encoders before the first.
        progress: Told how many texts are done, and how many there are.
        clock: Monotonic clock, seconds.

    Raises:
        DeadlineError: if a batch takes longer.
        WorkerLostError: if three processes are lost.
    """
    for _ in range(MOST_LOSSES - 1):
        try:
            return _Stream(encoder, limit_s, clock).table(progress)
        except WorkerLostError as lost:
            logger.warning("%s; another worker begins anew", lost)
            encoder = replace(encoder)
    return _Stream(encoder, limit_s, clock).table(progress)


class _Stream:
    """What one process has encoded."""

    def __init__(self, encoder: Handle, limit_s: float, clock: Callable[[], float]) -> None:
        self._encoder, self._limit_s, self._clock = encoder, limit_s, clock
        self._stream: ray.ObjectRefGenerator = encoder.encode.remote()
        self._pulse, self._pings = Pulse(SILENCE_S, clock), [encoder.ping.remote()]

    def table(self, progress: Callable[[int, int], None]) -> tuple[TableFacts, list[ray.ObjectRef]]:
        """See `encoded`."""
        shards: list[ray.ObjectRef] = []
        while True:
            report = answer(self._next(), WHAT, self._limit_s, MORE_TIME)
            if isinstance(report, TableFacts):
                return report, shards if not report.prompts.files else []
            progress(*report)
            shards.append(self._next())

    def _next(self) -> ray.ObjectRef:
        until = self._clock() + self._limit_s
        while self._clock() < until:
            ready, _ = ray.wait([self._stream, *self._pings], timeout=LOOK_S)
            if self._stream in ready:
                return next(self._stream)
            for ping in ready:
                self._pings.remove(ping)
                answer(ping, WHAT)
                self._pulse.heard(WHAT)
            ask, hang = self._pulse.look()
            if hang:
                raise WorkerLostError(f"{WHAT}: the worker {silent(SILENCE_S)}")
            self._pings += [self._encoder.ping.remote() for _ in ask]
        raise DeadlineError(f"waited {self._limit_s:.0f} s for {WHAT}; {MORE_TIME}")
