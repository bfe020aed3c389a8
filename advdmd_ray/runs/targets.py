"""Where a run's /metrics is and whose it is, as Prometheus is told."""

import hashlib
import json
import logging
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from advdmd_ray import __version__
from advdmd_ray.config import Config, dump_config
from advdmd_ray.files import write_atomically
from advdmd_ray.metrics.exposition import Identity
from advdmd_ray.provenance import git_commit
from advdmd_ray.runs.addresses import in_url
from advdmd_ray.runs.folder import RunFolder

_log = logging.getLogger(__name__)
_commit = cache(git_commit)


def identity_of(config: Config) -> Identity:
    """What /metrics says of a run of this configuration, run from here."""
    digest = hashlib.sha256(dump_config(config).encode()).hexdigest()
    return Identity(config.run.name, __version__, _commit(), digest[:12], config.model.path)


@contextmanager
def targets_told(config: Config, host: str) -> Iterator[Callable[[int], None]]:
    """Yields what writes, for a port of /metrics, the files that `file_sd_configs` reads; at the end they are gone.

    One is in the run folder, and one in `metrics.targets` if that is set. A disk that refuses one is a warning: a run
    is worth its weights. A run that is killed leaves them, so Prometheus goes on to say that it is down; resumed, it
    replaces them, also from another node. What is told after the end, by a thread that has not heard of it, is not
    written.

    Args:
        config: The run's.
        host: Of /metrics, as others reach it.
    """
    folder, shared = RunFolder(config.folder), _shared(config)
    lock, over = threading.Lock(), False

    def write(port: int) -> None:
        groups = [{"targets": [f"{in_url(host)}:{port}"], "labels": {"run": config.run.name}}]
        text = json.dumps(groups, indent=2) + "\n"
        with lock:
            if over:
                return
            _written(folder.targets, text)
            _clear(folder, shared)
            if shared is not None:
                _written(folder.shared_target, str(shared))  # first: what a process that is killed leaves is known
                _written(shared, text)

    try:
        yield write
    finally:
        with lock:
            over = True
            for file in (folder.targets, shared, folder.shared_target):
                if file is not None:
                    _removed(file)


def clear_replaced(config: Config, aside: Path) -> None:
    """Removes what a run that was killed, and whose folder was then moved aside, left in a shared folder of targets.

    Args:
        config: Of the run that takes its place, whose own file stays.
        aside: The folder where it is now.
    """
    _clear(RunFolder(aside), _shared(config))


def _written(file: Path, text: str) -> None:
    try:
        write_atomically(file, text.encode())
    except OSError as error:
        _log.warning("%s: Prometheus is not told of the run there (%s)", file, error.strerror or error)


def _removed(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("%s: still names a run that is over; remove it (%s)", file, error.strerror or error)


def _clear(folder: RunFolder, shared: Path | None) -> None:
    """Removes the file that a process of a run wrote elsewhere and left when it was killed, by its folder's note."""
    try:
        left = Path(folder.shared_target.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        _log.warning("%s: cannot be read (%s)", folder.shared_target, error)
        return
    if left != shared and re.fullmatch(r".+-[0-9a-f]{12}\.json", left.name):  # nothing but such a file
        _removed(left)


def _shared(config: Config) -> Path | None:
    """The file in `metrics.targets`, if that is set: of any two run folders, on whatever nodes, not the same."""
    if config.metrics.targets is None:
        return None
    place = f"{socket.gethostname()} {config.folder.resolve()}"
    name = f"{config.run.name}-{hashlib.sha256(place.encode()).hexdigest()[:12]}.json"
    return Path(config.metrics.targets).absolute() / name
