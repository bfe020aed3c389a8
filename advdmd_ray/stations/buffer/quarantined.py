"""Quarantine: Arrow files of groups that were no groups, for `advdmd replay` and whoever looks for the reason.

A file is an Arrow IPC file of the group's columns, as `trajectory_schema` has them, and of its rewards, as far as there
are any; without them it has no columns at all. The schema's metadata say whose it is:

    format   advdmd_ray.quarantine
    version  1
    lease    a JSON object of the fields of `Lease`
    fault    what is wrong with it
    worker   the worker that was at it
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

import pyarrow as pa

from advdmd_ray.errors import UserError
from advdmd_ray.files import drafted_file
from advdmd_ray.stations.buffer.record_batch import decode_group
from advdmd_ray.stations.buffer.schema import TRAJECTORY, VERSION
from advdmd_ray.stations.records import Lease, TrajectoryGroup

FORMAT: Final = "advdmd_ray.quarantine"
FORMAT_VERSION: Final = "1"
SUFFIX: Final = ".arrow"
_MOST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Quarantined:
    """What is kept of one attempt at an ordinal.

    Attributes:
        lease: Its lease: with the weights of its policy version it says all that the attempt was made of.
        fault: What is wrong, in words.
        worker: Name of the worker that was at it.
        batches: Record batches of the group, and of its scores if it was scored; none if there are no values.
    """

    lease: Lease
    fault: str
    worker: str
    batches: tuple[pa.RecordBatch, ...] = ()

    @property
    def group(self) -> TrajectoryGroup | None:
        """The group, if there are values; they need not be finite."""
        return decode_group(self.batches[0]) if self.batches else None


def write_quarantined(path: Path, kept: Quarantined) -> None:
    """Writes one file, whole or not at all; its folder must exist.

    Raises:
        OSError: if the disk refuses.
    """
    metadata = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "lease": json.dumps(asdict(kept.lease)),
        "fault": kept.fault,
        "worker": kept.worker,
    }
    columns = {
        field.name: (field, column)
        for batch in reversed(kept.batches)
        for field, column in zip(batch.schema, batch.columns, strict=True)
    }
    order = list(dict.fromkeys(name for batch in kept.batches for name in batch.schema.names))
    schema = pa.schema([columns[name][0] for name in order], metadata=metadata)
    with drafted_file(path) as draft, pa.OSFile(str(draft), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        if order:
            writer.write_batch(pa.RecordBatch.from_arrays([columns[name][1] for name in order], schema=schema))


def read_quarantined(path: Path) -> Quarantined:
    """Reads one file.

    Raises:
        UserError: if there is no such file, or it is another one or damaged.
    """
    try:
        with path.open("rb") as source:
            table = pa.ipc.open_file(source).read_all()
    except OSError as error:
        reason = (error.strerror or "no Arrow file").lower()
        raise UserError(f"{path}: cannot be read ({reason}); give a file of a run's quarantine/") from None
    except pa.ArrowInvalid:
        raise UserError(f"{path}: no Arrow file, or a damaged one; give a file of a run's quarantine/") from None
    metadata = {key.decode(): value.decode(errors="replace") for key, value in (table.schema.metadata or {}).items()}
    found = metadata.get("format", "none"), metadata.get("version", "none")
    if found != (FORMAT, FORMAT_VERSION):
        raise UserError(
            f"{path}: format {found[0]} {found[1]}, this command reads {FORMAT} {FORMAT_VERSION}; give a file of "
            "a run's quarantine/"
        )
    try:
        lease = _lease(metadata["lease"])
        batches = _batches(table)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: a damaged file of the quarantine: {' '.join(str(error).split())}") from None
    return Quarantined(lease, metadata["fault"], metadata["worker"], batches)


def _lease(text: str) -> Lease:
    values = json.loads(text)
    names = [field.name for field in fields(Lease)]
    if not isinstance(values, dict) or sorted(values) != sorted(names):
        raise ValueError(f"the lease needs the fields {', '.join(names)}")
    if not all(type(value) is int and 0 <= value <= _MOST for value in values.values()):
        raise ValueError(f"the lease's fields must be whole numbers from 0, got {values}")
    return Lease(**values)


def _batches(table: pa.Table) -> tuple[pa.RecordBatch, ...]:
    """The record batch of the group, if there are columns; its rewards are told by the file alone."""
    if not table.column_names:
        return ()
    names = [name for name in table.column_names if name not in {"rewards", "reward_version"}]
    metadata = {"format": TRAJECTORY, "version": VERSION}
    (batch,) = table.select(names).combine_chunks().to_batches()
    batch = batch.replace_schema_metadata(metadata)
    decode_group(batch)
    return (batch,)


class QuarantineFolder:
    """The files of one run, a bounded number of them and of bytes.

    Args:
        path: The folder; made when it is needed. What is in it counts.
        files: Most files.
        max_bytes: Most bytes of all of them.
    """

    def __init__(self, path: Path, *, files: int, max_bytes: int) -> None:
        self._path, self._files, self._max_bytes = path, files, max_bytes

    def keep(self, kept: Quarantined) -> Path | None:
        """Writes a file, with the lease alone if the values do not fit.

        Returns:
            Its path, or None if there are as many as are kept.

        Raises:
            OSError: if the disk refuses.
        """
        sizes = [file.stat().st_size for file in self._path.glob(f"*{SUFFIX}")]
        if len(sizes) >= self._files:
            return None
        if sum(sizes) + sum(batch.nbytes for batch in kept.batches) > self._max_bytes:
            kept = Quarantined(kept.lease, kept.fault, kept.worker)
        self._path.mkdir(parents=True, exist_ok=True)
        path = self._path / f"ordinal-{kept.lease.ordinal:08d}-attempt-{kept.lease.attempt}{SUFFIX}"
        write_quarantined(path, kept)
        return path
