"""metrics.jsonl: what was recorded of a run, a line for each call, in a file whose size is bounded.

A file that outgrows its bound is thinned: lines of one cycle become one, and where that is not enough, lines of 2, 4,
8, ... neighbouring cycles, evenly over the whole run. A line that was made of several stands at the last of their
cycles and has the last value of every series in them. So the newest value of every series stays, counters stay totals,
and a curve has one point where it had up to so many, at most so many cycles later.

Lines are numbered in the order in which they were recorded, so that whoever goes on with a file knows what is in it.
"""

import errno
import json
import logging
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import Any, TypeGuard

from advdmd_ray.files import drafted_file
from advdmd_ray.metrics.catalogue import CATALOGUE, Kind
from advdmd_ray.metrics.series import parse_key

Entry = dict[str, Any]
"""A line: `time` (Unix seconds), `cycle`, `record` (its number, from 1) and `values` by series key."""
HISTORY_BYTES, LEAST_BYTES = 2**26, 2**20
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the figures of a run are: what a hub goes on from.

    Attributes:
        record: Number of the last record, 0 before the first.
        cycle: That it belongs to.
        values: Totals of counters and values of gauges, by series key.
    """

    record: int = 0
    cycle: int = 0
    values: Mapping[str, float] = field(default_factory=dict)


class History:
    """A metrics.jsonl that is appended to.

    A disk that refuses a line, or the thinning, costs what it refused and a warning: totals stand in the next line too.

    Args:
        path: The file; its folder must exist. Its whole lines stay.
        most_bytes: Its bound, at least 1 MiB. The file passes it by one line, and is thinned to half of it then.
    """

    def __init__(self, path: Path, most_bytes: int) -> None:
        if most_bytes < LEAST_BYTES:
            raise ValueError(f"most_bytes must be at least {LEAST_BYTES}, got {most_bytes}")
        self._path, self._most, self._thin_at = path, most_bytes, most_bytes
        mend(path)
        self._file, self._refused = self._opened(), False

    def append(self, entry: Entry) -> None:
        """Writes one line; it is in the file when this returns, if the disk took it.

        Raises:
            ValueError: for a number that is not finite.
        """
        line = json.dumps(entry, allow_nan=False).encode() + b"\n"
        try:
            self._write(line)
            if self._file.tell() > self._thin_at:
                self._thin()
        except OSError as error:
            if not self._refused:
                _log.warning("%s: lines are left out until the disk takes them (%s)", self._path, error.strerror)
            self._refused = True
        else:
            self._refused = False

    def _write(self, line: bytes) -> None:
        """Writes it whole or not at all."""
        before = self._file.seek(0, os.SEEK_END)
        if self._file.write(line) != len(line):  # what a full disk had room for
            self._file.truncate(before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _thin(self) -> None:
        self._thin_at = self._file.tell() + LEAST_BYTES  # if the disk refuses: not again with every line
        thin(self._path, self._most // 2)
        self._file.close()
        self._file = self._opened()
        self._thin_at = self._most

    def close(self) -> None:
        """Closes the file. Closing twice does no harm."""
        self._file.close()

    def _opened(self) -> FileIO:
        return self._path.open("ab", buffering=0)


def mend(path: Path) -> None:
    """Takes away what a process killed while it wrote a metrics.jsonl left: half a line, and drafts of a thinner file.

    Args:
        path: The file, if there is one; nobody else writes to it.
    """
    for draft in path.parent.glob(f".{path.name}.*.part"):
        draft.unlink()
    if not path.exists():
        return
    with path.open("r+b") as file:
        whole = sum(len(line) for line in file if line.endswith(b"\n"))
        if file.tell() > whole:
            file.truncate(whole)


def standing_of(path: Path) -> Standing:
    """What a metrics.jsonl says, if there is one: of its series the totals of counters."""
    number, cycle, values = 0, 0, dict[str, Any]()
    for entry in entries_of(path) if path.exists() else ():
        number, cycle = entry.get("record", number), entry["cycle"]
        values |= entry["values"]
    return Standing(number, cycle, {key: value for key, value in values.items() if is_counter(key)})


def entries_of(path: Path, *, told: bool = True) -> Iterator[Entry]:
    """The whole lines of a metrics.jsonl, oldest first, without holding them.

    A line that is no entry (half a line, left by a process killed while it wrote) is passed over.

    Args:
        path: The file.
        told: Whether a warning says so of each such line.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if line.isspace():
                continue
            entry = entry_in(line)
            if entry is not None:
                yield entry
            elif told:
                _log.warning("%s: line %d is torn and is passed over", path, number)


def entry_in(line: str | bytes) -> Entry | None:
    """The entry that a line is; None if it is none."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if _is_entry(entry) else None


def _is_entry(line: Any) -> TypeGuard[Entry]:
    return isinstance(line, dict) and isinstance(line.get("values"), dict) and isinstance(line.get("cycle"), int)


def last_values(entries: Iterable[Entry]) -> dict[str, Any]:
    """The newest value of every series key."""
    return {key: value for entry in entries for key, value in entry["values"].items()}


def cut_back(path: Path, cycle: int, counted: Mapping[str, float] | None) -> None:
    """Takes out of a metrics.jsonl what a resumed run does again, all at once.

    What is left ends with a line of the totals, from which a hub goes on.

    Args:
        path: The file; there may be none.
        cycle: Of the checkpoint that the run goes on from.
        counted: Totals of all counters at that moment, by series key. A line with a higher one was written later. None:
            an old checkpoint does not say; lines of later cycles go, and no others.
    """
    with drafted_file(path) as draft, draft.open("w", encoding="utf-8") as file:
        for entry in entries_of(path) if path.exists() else ():
            if entry["cycle"] <= cycle and (counted is None or not _above(entry["values"], counted)):
                file.write(json.dumps(entry, allow_nan=False) + "\n")
        if counted:
            mark = {"time": round(time.time(), 3), "cycle": cycle, "values": dict(counted)}
            file.write(json.dumps(mark, allow_nan=False) + "\n")


def _above(values: Mapping[str, Any], counted: Mapping[str, float]) -> bool:
    counters = ((key, value) for key, value in values.items() if is_counter(key))
    return any(value > counted.get(key, 0.0) for key, value in counters)


@lru_cache(maxsize=4096)
def is_counter(key: str) -> bool:
    """Whether a key of an entry is a counter's."""
    name, _ = parse_key(key)
    return name in CATALOGUE and CATALOGUE[name].kind is Kind.COUNTER


def thin(path: Path, most_bytes: int) -> int:
    """Makes a metrics.jsonl small enough, in place of the one before and all at once.

    Returns:
        Cycles whose lines became one: the smallest power of 2 for which the file has at most `most_bytes`, or is one
        line.
    """
    cycles = 1
    while True:
        with drafted_file(path) as draft:
            lines = 0
            with draft.open("w", encoding="utf-8") as file:
                for entry in merged(entries_of(path), cycles):
                    file.write(json.dumps(entry, allow_nan=False) + "\n")
                    lines += 1
        if path.stat().st_size <= most_bytes or lines <= 1:
            return cycles
        cycles *= 2


def merged(entries: Iterable[Entry], cycles: int) -> Iterator[Entry]:
    """One entry in place of neighbours whose cycles lie in the same `(n cycles, (n + 1) cycles]`."""
    kept: Entry | None = None
    for entry in entries:
        if kept is not None and _block(kept, cycles) != _block(entry, cycles):
            yield kept
            kept = None
        kept = entry if kept is None else {**entry, "values": kept["values"] | entry["values"]}
    if kept is not None:
        yield kept


def _block(entry: Entry, cycles: int) -> int:
    return math.ceil(entry["cycle"] / cycles)
