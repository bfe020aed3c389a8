"""A Ray of this machine alone, for as long as a row is measured."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray

STORE_BYTES = 2**31


@contextmanager
def local_ray() -> Iterator[None]:
    """Starts Ray with enough room for every row, and ends it."""
    ray.init(
        num_cpus=64,
        object_store_memory=STORE_BYTES,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    try:
        yield
    finally:
        ray.shutdown()
