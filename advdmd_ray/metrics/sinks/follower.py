"""Follows metrics.jsonl and hands each cycle that is over to a sink.

The file has everything, so a sink needs no queue: one that is slow falls behind, one that fails is behind until it is
opened again, and both go on where they were. How far a sink is stands in its folder. A hub that takes over a file, at
the beginning of a run, after a hub that ended, or after the file was cut back to a checkpoint, opens the sink at the
first cycle that the sink lacks, or where the file now ends if that is before.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Protocol

from advdmd_ray.files import write_atomically
from advdmd_ray.metrics.history import entry_in
from advdmd_ray.metrics.sinks.point import Gathering, Point

LOOK_S = 1.0
"""Seconds between two looks at the file."""
CLOSE_S = 60.0
"""Seconds that the end of a run waits for a sink."""
SLOW_S = 30.0
"""Seconds for a cycle after which it is told that a sink is slow."""
_log = logging.getLogger(__name__)


class SinkError(Exception):
    """A sink failed; says how in one line."""


@contextmanager
def _failure_named() -> Iterator[None]:
    """Gives one type to whatever a sink fails with: it is the code of others."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise SinkError(f"{type(error).__name__}: {reason}") from error


class Sink(Protocol):
    """One that is open.

    Attributes:
        first: The first cycle that it lacks.
    """

    first: int

    def write(self, point: Point) -> None:
        """Shows one more cycle, later than all before."""
        ...

    def close(self) -> None:
        """All is written, and no more comes."""
        ...


class Pictures(Protocol):
    """What a run has drawn, each as a file's bytes by its tag."""

    def of(self, cycle: int) -> Mapping[str, bytes]:
        """Of a cycle that is over."""
        ...

    def last(self, since: float) -> Mapping[str, bytes]:
        """Of the run's end, if it was drawn after this Unix time."""
        ...


class Follower:
    """A thread that follows a metrics.jsonl for one sink, and begins when the file has something.

    Nothing that the sink does or fails with reaches the caller: it costs the sink, and one warning.

    Args:
        name: Of the sink, for the warning.
        open_sink: Opens it at a cycle: points of this one and of later ones are to be forgotten.
        metrics: The file; exists.
        last: The last cycle that it has a line of.
        state: Where it stands how far the sink is.
        pictures: Of the run.
    """

    def __init__(
        self, name: str, open_sink: Callable[[int], Sink], metrics: Path, last: int, state: Path, pictures: Pictures
    ) -> None:
        self._name, self._open, self._path, self._state, self._pictures = name, open_sink, metrics, state, pictures
        self._first = last
        self._file: BinaryIO | None = None
        self._sink: Sink | None = None
        self._gathering = Gathering(last)
        self._over, self._told_slow = threading.Event(), False
        # A daemon: whatever a sink hangs in must not keep the process.
        self._thread = threading.Thread(target=self._run, name=f"sink-{name}", daemon=True)
        self._thread.start()

    def close(self, within_s: float = CLOSE_S) -> None:
        """Hands over what there is and closes the sink; a warning says if that takes longer than it may."""
        self._over.set()
        self._thread.join(within_s)
        if self._thread.is_alive():
            _log.warning(
                "metrics.sinks: %s has not taken all after %.0f s and is left; metrics.jsonl has everything",
                self._name,
                within_s,
            )

    def _run(self) -> None:
        try:
            with _failure_named():
                self._follow()
        except SinkError as error:
            _log.warning(
                "metrics.sinks: %s gets nothing more (%s); the run goes on, metrics.jsonl has everything, and "
                "%s catches up when the run is resumed",
                self._name,
                error,
                self._name,
            )
        finally:
            if self._file is not None:
                self._file.close()

    def _follow(self) -> None:
        over, lacks = False, _done(self._state) + 1
        if lacks > self._first:  # the file was cut back, which must not be forgotten if the sink fails
            self._keep(self._first)
        self._first = min(lacks, self._first)
        while not over:
            over = self._over.wait(LOOK_S)  # before the look: what was recorded until then is in the file
            self._look()
        point = self._gathering.point()
        if self._sink is not None and point is not None:
            last = self._pictures.last(point.began)  # its last record says how the run ended, after all pictures
            self._write(self._sink, replace(point, pictures={**self._pictures.of(point.cycle), **last}))
        if self._sink is not None:
            self._sink.close()

    def _look(self) -> None:
        """Reads on; a file that was thinned, which is another one in its place, is read again."""
        if self._file is None or not os.path.samestat(self._path.stat(), os.fstat(self._file.fileno())):
            if self._file is not None:
                self._file.close()
            self._file = self._path.open("rb")
            self._gathering = Gathering(self._first)
        while line := self._file.readline():
            if not line.endswith(b"\n"):  # its rest is under way
                self._file.seek(-len(line), os.SEEK_CUR)
                return
            entry = entry_in(line)
            if entry is None:
                continue
            if self._sink is None:
                self._sink = self._open(self._first)
                self._first = self._sink.first
                self._gathering = Gathering(self._first)
            point = self._gathering.add(entry)
            if point is not None:
                self._write(self._sink, replace(point, pictures=self._pictures.of(point.cycle)))

    def _write(self, sink: Sink, point: Point) -> None:
        began = time.monotonic()
        sink.write(point)
        took = time.monotonic() - began
        if took > SLOW_S and not self._told_slow:
            self._told_slow = True
            _log.warning(
                "metrics.sinks: %s took %.0f s for a cycle; its points come late, the run goes on", self._name, took
            )
        self._first = point.cycle + 1
        self._keep(self._first)

    def _keep(self, first: int) -> None:
        """Keeps which cycle is the first that the sink lacks."""
        write_atomically(self._state, json.dumps({"cycle": first - 1}).encode())


def _done(state: Path) -> int:
    """The last cycle that a sink has; -1 before the first."""
    return json.loads(state.read_text(encoding="utf-8"))["cycle"] if state.exists() else -1
