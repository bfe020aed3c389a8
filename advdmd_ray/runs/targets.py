"""Where a run's /metrics is and whose it is, as Prometheus is told."""

import hashlib
import json
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from advdmd_ray import __version__
from advdmd_ray.config import Config, dump_config
from advdmd_ray.files import write_atomically
from advdmd_ray.metrics.exposition import Identity
from advdmd_ray.provenance import git_commit
from advdmd_ray.runs.folder import RunFolder

EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - what is compared with
"""Where /metrics listens on every interface, which is no address to scrape."""
_log = logging.getLogger(__name__)
_commit = cache(git_commit)


def identity_of(config: Config) -> Identity:
    """What /metrics says of a run of this configuration, run from here."""
    digest = hashlib.sha256(dump_config(config).encode()).hexdigest()
    return Identity(config.run.name, __version__, _commit(), digest[:12], config.model.path)


@contextmanager
def targets_told(config: Config, address: Callable[[], str]) -> Iterator[Callable[[int], None]]:
    """Yields what writes, for a port of /metrics, the files that `file_sd_configs` reads; at the end they are gone.

    One is in the run folder, and one in `metrics.targets` if that is set. A disk that refuses one is a warning: a run
    is worth its weights. A run that is killed leaves them, so Prometheus goes on to say that it is down; resumed, it
    replaces them.

    Args:
        config: The run's.
        address: Of this node, as others reach it; asked if /metrics listens on every interface.
    """
    files = [RunFolder(config.folder).targets, *_shared(config)]
    host = address() if config.metrics.host in EVERYWHERE else config.metrics.host
    bracketed = f"[{host}]" if ":" in host else host

    def write(port: int) -> None:
        groups = [{"targets": [f"{bracketed}:{port}"], "labels": {"run": config.run.name}}]
        text = json.dumps(groups, indent=2) + "\n"
        for file in files:
            try:
                write_atomically(file, text.encode())
            except OSError as error:
                _log.warning("%s: Prometheus is not told of the run there (%s)", file, error.strerror or error)

    try:
        yield write
    finally:
        for file in files:
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                _log.warning("%s: still names a run that is over; remove it (%s)", file, error.strerror or error)


def _shared(config: Config) -> list[Path]:
    """The file in `metrics.targets`, if that is set: of any two run folders, on whatever nodes, not the same."""
    if config.metrics.targets is None:
        return []
    place = f"{socket.gethostname()} {config.folder.resolve()}"
    name = f"{config.run.name}-{hashlib.sha256(place.encode()).hexdigest()[:12]}.json"
    return [Path(config.metrics.targets) / name]


def own_address() -> str:
    """The address of this machine on the interface that its packets leave by; nothing is sent.

    Without a network it is this machine's own loopback, from which alone it can be scraped then.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a documentation address (RFC 5737)
        except OSError:
            return "127.0.0.1"
        return probe.getsockname()[0]
