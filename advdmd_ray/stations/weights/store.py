"""The weight store: which versions were published, and what each worker proved to run."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from advdmd_ray.errors import WeightsMismatchError
from advdmd_ray.stations.records import LoadReport
from advdmd_ray.stations.weights.snapshot import STREAMS, Manifest, Stream

Reference = TypeVar("Reference")
# Digests outlive their snapshots, for reports that arrive late; a worker this far behind is lost anyway.
_DIGESTS_KEPT = 4096


@dataclass(frozen=True, slots=True)
class WeightStats:
    """Counters per stream, and what runs where.

    Attributes:
        published: Versions published since the start.
        verified: Load reports whose digest was the published one.
        mismatched: Load reports whose digest was not.
        running: For each stream, the version each worker reported last.
    """

    published: Mapping[Stream, int]
    verified: Mapping[Stream, int]
    mismatched: Mapping[Stream, int]
    running: Mapping[Stream, Mapping[str, int]]


class WeightStore(Generic[Reference]):
    """Owner of the versions: manifests and references of the last `keep` snapshots of each stream.

    Args:
        keep: Snapshots kept per stream, at least 1.
        first: Version that the next publish of a stream must have, when a run resumes; 0 where absent.

    Raises:
        ValueError: for a `keep` below 1, an unknown stream or a negative version.
    """

    def __init__(self, keep: int, first: Mapping[Stream, int] | None = None) -> None:
        first = first or {}
        if keep < 1 or not set(first) <= set(STREAMS) or any(version < 0 for version in first.values()):
            raise ValueError(
                f"a weight store needs keep >= 1 and versions of {list(STREAMS)}, got {keep}, {dict(first)}"
            )
        self._keep = keep
        self._next: dict[Stream, int] = {stream: first.get(stream, 0) for stream in STREAMS}
        self._snapshots: dict[Stream, OrderedDict[int, tuple[Manifest, Reference]]]
        self._snapshots = {stream: OrderedDict() for stream in STREAMS}
        self._digests: dict[Stream, OrderedDict[int, str]] = {stream: OrderedDict() for stream in STREAMS}
        self._published = dict.fromkeys(STREAMS, 0)
        self._verified = dict.fromkeys(STREAMS, 0)
        self._mismatched = dict.fromkeys(STREAMS, 0)
        self._running: dict[Stream, dict[str, int]] = {stream: {} for stream in STREAMS}

    def publish(self, manifest: Manifest, reference: Reference) -> int:
        """Makes a snapshot the newest of its stream; the oldest beyond `keep` is forgotten.

        Returns:
            Its version.

        Raises:
            ValueError: if the version is not the stream's last one plus 1.
        """
        stream, version = self._stream(manifest.stream), manifest.version
        if version != self._next[stream]:
            raise ValueError(f"{stream} version {version} is published, {self._next[stream]} must come next")
        self._snapshots[stream][version] = (manifest, reference)
        self._digests[stream][version] = manifest.digest
        if len(self._snapshots[stream]) > self._keep:
            self._snapshots[stream].popitem(last=False)
        if len(self._digests[stream]) > max(_DIGESTS_KEPT, self._keep):
            self._digests[stream].popitem(last=False)
        self._next[stream] += 1
        self._published[stream] += 1
        return version

    def latest(self, stream: Stream) -> tuple[Manifest, Reference]:
        """The newest snapshot.

        Raises:
            LookupError: if nothing was published yet.
        """
        if not self._snapshots[self._stream(stream)]:
            raise LookupError(f"no {stream} weights were published yet")
        return self._snapshots[stream][self._next[stream] - 1]

    def get(self, stream: Stream, version: int) -> tuple[Manifest, Reference]:
        """The snapshot of one version.

        Raises:
            LookupError: if it was never published or is no longer kept.
        """
        kept = self._snapshots[self._stream(stream)]
        if version not in kept:
            raise LookupError(f"{stream} version {version} is not kept; kept are {list(kept)}")
        return kept[version]

    def verify(self, report: LoadReport) -> None:
        """Compares what a worker loaded with what was published, and remembers what it runs.

        Raises:
            WeightsMismatchError: naming worker, stream, version and both digests.
        """
        stream = self._stream(report.stream)
        published = self._digests[stream].get(report.version)
        if report.digest != published:
            self._mismatched[stream] += 1
            raise WeightsMismatchError(
                f"{report.worker}: {stream} version {report.version}: loaded digest is {report.digest}, "
                f"published was {published or 'no such version'}"
            )
        self._verified[stream] += 1
        self._running[stream][report.worker] = report.version

    def forget(self, worker: str) -> None:
        """Removes a worker that has left from what runs where."""
        for running in self._running.values():
            running.pop(worker, None)

    def stats(self) -> WeightStats:
        """Counters and what runs where, copied."""
        running: dict[Stream, Mapping[str, int]] = {name: dict(workers) for name, workers in self._running.items()}
        return WeightStats(dict(self._published), dict(self._verified), dict(self._mismatched), running)

    def _stream(self, name: str) -> Stream:
        for stream in STREAMS:
            if stream == name:
                return stream
        raise ValueError(f"unknown stream {name!r}; known are {list(STREAMS)}")
