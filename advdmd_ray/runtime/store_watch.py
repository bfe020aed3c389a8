"""How full Ray's object store is, told now and then by a thread of its own: the loops of a run wait for no answer."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import ray
from ray.exceptions import RayError

from advdmd_ray.controller.protocols import Hub
from advdmd_ray.metrics.series import Sample

EVERY_S, JOIN_S = 10.0, 5.0
KIND = "object_store_memory"
_log = logging.getLogger(__name__)


def store_samples() -> list[Sample]:
    """The object stores of all nodes together, as Ray's head has heard of them; nothing where it knows of none.

    What was spilled to disk is not in use.
    """
    capacity = ray.cluster_resources().get(KIND, 0.0)
    if not capacity:
        return []
    used = capacity - ray.available_resources().get(KIND, 0.0)
    return [
        Sample.of("advdmd_run_object_store_bytes", used),
        Sample.of("advdmd_run_object_store_capacity_bytes", capacity),
    ]


@contextmanager
def store_watched(
    hub: Hub, look: Callable[[], Sequence[Sample]] = store_samples, every_s: float = EVERY_S
) -> Iterator[None]:
    """Tells a hub of it, at once and then every so many seconds, until the context is left.

    Args:
        hub: Takes the samples.
        look: What there is to tell. An error of Ray's is told in the log, and it is asked again.
        every_s: Seconds between.
    """
    over = threading.Event()

    def watch() -> None:
        while True:
            try:
                samples = look()
            except RayError as error:
                _log.warning("how full the object store is stays unknown: %s", error)
            else:
                if samples:
                    hub.record(samples)
            if over.wait(every_s):
                return

    watching = threading.Thread(target=watch, name="store-watch", daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join(JOIN_S)  # Ray may end next
