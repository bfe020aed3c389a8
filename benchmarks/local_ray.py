"""A Ray of this machine alone, for as long as something is measured."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray

STORE_BYTES = 2**31


@contextmanager
def local_ray(num_cpus: int = 64, store_bytes: int = STORE_BYTES) -> Iterator[None]:
    """Starts Ray, with enough room for every row of `make bench` unless it is told otherwise, and ends it."""
    ray.init(
        address="local",
        num_cpus=num_cpus,
        object_store_memory=store_bytes,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    try:
        yield
    finally:
        ray.shutdown()
