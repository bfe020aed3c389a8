"""The Ray actor around `WeightStore`, and the controller's side of it."""

import ray
from ray import ObjectRef

from advdmd_ray.runtime.calls import Handle, answer
from advdmd_ray.stations.records import LoadReport
from advdmd_ray.stations.weights.snapshot import Manifest, Stream
from advdmd_ray.stations.weights.store import WeightStore


@ray.remote(num_cpus=0)
class StoreActor:
    """Holds manifests and references; the snapshots' bytes stay in Ray's object store."""

    def __init__(self, first: dict[Stream, int]) -> None:
        self._store: WeightStore[ObjectRef] = WeightStore(first)

    def publish(self, manifest: Manifest, boxed: list[ObjectRef]) -> int:
        """See `WeightStore`; the reference comes boxed, so that Ray hands it over instead of fetching the bytes."""
        return self._store.publish(manifest, boxed[0])

    def latest(self, stream: Stream) -> tuple[Manifest, ObjectRef]:
        """See `WeightStore`."""
        return self._store.latest(stream)

    def verify(self, report: LoadReport) -> None:
        """See `WeightStore`."""
        self._store.verify(report)


class RemoteStore:
    """`protocols.Store` over the actor; every call has a deadline."""

    def __init__(self, actor: Handle) -> None:
        self._actor = actor

    def publish(self, manifest: Manifest, reference: ObjectRef) -> int:
        """See `WeightStore`."""
        return answer(
            self._actor.publish.remote(manifest, [reference]),
            f"publishing {manifest.stream} version {manifest.version}",
        )

    def latest(self, stream: Stream) -> tuple[Manifest, ObjectRef]:
        """See `WeightStore`."""
        return answer(self._actor.latest.remote(stream), f"the newest {stream} weights")

    def verify(self, report: LoadReport) -> None:
        """See `WeightStore`."""
        answer(self._actor.verify.remote(report), f"verifying the weights of {report.worker}")
