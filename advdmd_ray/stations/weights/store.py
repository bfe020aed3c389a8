"""The weight store: the newest snapshot of each network, and what each worker proved to have loaded."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from advdmd_ray.errors import WeightsMismatchError
from advdmd_ray.stations.records import LoadReport, Stream
from advdmd_ray.stations.weights.snapshot import STREAMS, Manifest

Reference = TypeVar("Reference")
# Digests outlive their snapshots, for reports that arrive late; a worker this far behind is lost anyway.
_DIGESTS_KEPT = 4096


@dataclass(frozen=True, slots=True)
class Published(Generic[Reference]):
    """A snapshot as the controller sees it: what it must contain, and where its bytes are."""

    manifest: Manifest
    payload: Reference


class WeightStore(Generic[Reference]):
    """Owner of the versions: the newest snapshot of each stream, and all digests.

    A snapshot that is no longer the newest lives on only as an argument of work that was begun with it.

    Args:
        first: Version that the next publish of a stream must have, when a run resumes; 0 where absent.

    Raises:
        ValueError: for an unknown stream or a negative version.
    """

    def __init__(self, first: Mapping[Stream, int] | None = None) -> None:
        first = first or {}
        if not set(first) <= set(STREAMS) or any(version < 0 for version in first.values()):
            raise ValueError(f"a weight store needs versions of {list(STREAMS)}, 0 or more, got {dict(first)}")
        self._next: dict[Stream, int] = {stream: first.get(stream, 0) for stream in STREAMS}
        self._newest: dict[Stream, Published[Reference]] = {}
        self._digests: dict[Stream, OrderedDict[int, str]] = {stream: OrderedDict() for stream in STREAMS}

    def publish(self, manifest: Manifest, payload: Reference) -> None:
        """Makes a snapshot the newest of its stream, in place of the one before.

        Raises:
            ValueError: if the version is not the stream's last one plus 1.
        """
        stream, version = manifest.stream, manifest.version
        if version != self._next[stream]:
            raise ValueError(f"{stream} version {version} is published, {self._next[stream]} must come next")
        self._newest[stream] = Published(manifest, payload)
        self._digests[stream][version] = manifest.digest
        if len(self._digests[stream]) > _DIGESTS_KEPT:
            self._digests[stream].popitem(last=False)
        self._next[stream] += 1

    def latest(self, stream: Stream) -> Published[Reference]:
        """The newest snapshot.

        Raises:
            LookupError: if nothing was published yet.
        """
        if stream not in self._newest:
            raise LookupError(f"no {stream} weights were published yet")
        return self._newest[stream]

    def verify(self, report: LoadReport) -> None:
        """Compares what a worker loaded with what was published.

        Raises:
            WeightsMismatchError: naming worker, stream, version and both digests.
        """
        published = self._digests[report.stream].get(report.version)
        if report.digest != published:
            raise WeightsMismatchError(
                f"{report.worker}: {report.stream} version {report.version}: loaded digest is {report.digest}, "
                f"published was {published or 'no such version'}"
            )
