"""The Ray actor around `BufferIndex`, and the controller's side of it."""

from collections.abc import Iterable

import ray
from ray import ObjectRef

from advdmd_ray.runtime.calls import Handle, answer
from advdmd_ray.stations.buffer.index import BufferIndex, BufferStats, CommitResult, Take
from advdmd_ray.stations.records import GroupInfo


@ray.remote(num_cpus=0)
class BufferActor:
    """Holds the index; the groups' bytes stay in Ray's object store, kept alive by the references held here."""

    def __init__(self, max_bytes: int, max_policy_age: int, start: int, settled: tuple[int, ...]) -> None:
        self._index: BufferIndex[ObjectRef] = BufferIndex(
            max_bytes=max_bytes, max_policy_age=max_policy_age, start=start, settled=settled
        )

    def commit(self, info: GroupInfo, boxed: list[ObjectRef]) -> CommitResult:
        """See `BufferIndex`; the reference comes boxed, so that Ray hands it over instead of fetching the bytes."""
        return self._index.commit(info, boxed[0])

    def room(self, size_bytes: int, outstanding: int) -> bool:
        """See `BufferIndex`."""
        return self._index.room(size_bytes, outstanding)

    def take(self, count: int, current_version: int) -> Take[ObjectRef]:
        """See `BufferIndex`."""
        return self._index.take(count, current_version)

    def give_back(self, lost: tuple[int, ...]) -> None:
        """See `BufferIndex`."""
        self._index.give_back(lost)

    def settle(self, ordinals: tuple[int, ...]) -> None:
        """See `BufferIndex`."""
        self._index.settle(ordinals)

    def stats(self) -> BufferStats:
        """See `BufferIndex`."""
        return self._index.stats()


class RemoteBuffer:
    """`protocols.Buffer` over the actor; every call has a deadline."""

    def __init__(self, actor: Handle) -> None:
        self._actor = actor

    def commit(self, info: GroupInfo, reference: ObjectRef) -> CommitResult:
        """See `BufferIndex`."""
        return answer(self._actor.commit.remote(info, [reference]), f"the buffer's commit of ordinal {info.ordinal}")

    def room(self, size_bytes: int, outstanding: int) -> bool:
        """See `BufferIndex`."""
        return answer(self._actor.room.remote(size_bytes, outstanding), "the buffer's room")

    def take(self, count: int, current_version: int) -> Take[ObjectRef]:
        """See `BufferIndex`."""
        return answer(self._actor.take.remote(count, current_version), "a take from the buffer")

    def give_back(self, lost: Iterable[int]) -> None:
        """See `BufferIndex`."""
        answer(self._actor.give_back.remote(tuple(lost)), "the buffer's taking back of groups")

    def settle(self, ordinals: Iterable[int]) -> None:
        """See `BufferIndex`."""
        answer(self._actor.settle.remote(tuple(ordinals)), "the buffer's settling")

    def stats(self) -> BufferStats:
        """See `BufferIndex`."""
        return answer(self._actor.stats.remote(), "the buffer's figures")
