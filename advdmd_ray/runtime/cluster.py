"""Meets the Ray cluster: joins the one that RAY_ADDRESS or the configuration names, else starts a local Ray."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from advdmd_ray.config import Config
from advdmd_ray.config.texts import address_fault
from advdmd_ray.errors import UserError
from advdmd_ray.runs.needs.memory import placement, ray_address, reserved
from advdmd_ray.runs.needs.spilling import ray_disk
from advdmd_ray.runtime.room import ClusterRequest, asking
from advdmd_ray.runtime.stopping import interrupting
from advdmd_ray.runtime.waiting import less, wait_for_room

CONNECT_S = 10.0
MOST_SAID = 400
"""Characters of what Ray says that are passed on."""
# No usage statistics; workers' lines without colour codes, as they go into job logs too; and no second copy of a
# failed job's error for each of its results that nobody asked for.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_COLOR_PREFIX": "0", "RAY_IGNORE_UNHANDLED_ERRORS": "1"}
# Ray remembers the last 100,000 tasks for `ray list tasks`: 8 kB for each group, up to some 400 MB. A thousand are
# enough to see what a local run does.
_FEW_TASKS = ("RAY_task_events_max_num_task_in_gcs", "1000")


@contextmanager
def connected(config: Config) -> Iterator[ClusterRequest | None]:
    """Joins or starts Ray and leaves it at the end.

    Inside `ray job submit` the address is in the environment; then a second Ray is never started.

    Yields:
        On a cluster that was there before the room for the workers, held until they take it; None on a local Ray.

    Raises:
        UserError: if the named cluster does not answer, or has no room for the workers within `ray.start_timeout_s`.
    """
    with met(ray_address(config), config.ray.object_store_bytes) as joins, asking() as room:
        if joins:
            wait_for_room(config.at_start, config.ray.start_timeout_s, room)
        else:
            _check_room(config.at_start)
        yield room if joins else None


@contextmanager
def met(address: str | None, object_store_bytes: int | None) -> Iterator[bool]:
    """Joins the Ray at an address, or starts a local one, and leaves it at the end.

    Args:
        address: `host:port` or auto; None starts a local Ray.
        object_store_bytes: Memory of a local Ray's object store; None: Ray's choice.

    Yields:
        Whether the cluster was there before.

    Raises:
        UserError: if the named cluster does not answer.
    """
    joins = address is not None
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if joins:
        _check_answers(address)
        try:
            ray.init(address=address, log_to_driver=True, logging_level=logging.WARNING)
        except Exception as error:  # noqa: BLE001 - Ray raises plain ones too; none goes on
            raise UserError(
                f"no Ray cluster takes us at {address} ({_line(error)}); start one with ray start --head, give both "
                "sides the same versions of Ray and Python, RAY_AUTH_MODE and token, or unset RAY_ADDRESS to start a "
                "local Ray"
            ) from None
    else:
        os.environ.setdefault(*_FEW_TASKS)
        # Ray warns that its token authentication is on, which is what we want.
        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=object_store_bytes,
                log_to_driver=True,
                logging_level=logging.WARNING,
            )
        except Exception as error:  # noqa: BLE001 - Ray raises plain ones too; none goes on
            raise UserError(
                f"no local Ray starts here ({type(error).__name__}: {_line(error)}); look into {ray_disk().folder}, "
                "free memory and disk, lower ray.object_store_bytes, or train with --local"
            ) from None
    # Now, as Ray takes SIGTERM to mean sys.exit(15) from its init on.
    with interrupting():
        try:
            yield joins
        finally:
            ray.shutdown()


def _line(error: Exception) -> str:
    """What Ray says, which may be several lines, as one."""
    return " ".join(str(error).split())[:MOST_SAID]


def _check_answers(address: str) -> None:
    """Asks whether anything listens at host:port, which Ray itself would try for minutes."""
    if address == "auto":
        return
    if (fault := address_fault(address)) is not None:
        raise UserError(
            f"the Ray address: {fault}; a cluster that only its ray:// or http:// port "
            "leads to takes the run by ray job submit"
        )
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, UnicodeError) as error:  # the second of a name that no name server takes
        reason = str(error.strerror if isinstance(error, OSError) and error.strerror else error).lower()
        raise UserError(
            f"no Ray cluster answers at {address} ({reason}); start one with ray start "
            "--head, or unset RAY_ADDRESS to start a local Ray"
        ) from None


def _check_room(config: Config) -> None:
    """Refuses what a local Ray, which never grows, has no room for."""
    have = ray.cluster_resources()
    for kind, need in zip(("CPU", "GPU"), reserved(placement(config)), strict=True):
        if need > have.get(kind, 0.0) + 1e-9:
            raise UserError(f"the workers reserve {need:g} {kind}s, Ray has {have.get(kind, 0.0):g}; {less(kind)}")
