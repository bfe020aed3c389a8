"""The Ray actor around `MetricsHub`, and the controller's side of it."""

from collections.abc import Sequence
from pathlib import Path

import ray
from ray.actor import ActorHandle

from advdmd_ray.metrics.hub import MetricsHub
from advdmd_ray.metrics.sample import Sample
from advdmd_ray.runtime.calls import answer


@ray.remote(num_cpus=0)
class HubActor:
    """Serves /metrics and writes metrics.jsonl, on the driver's node, where the run folder is."""

    def __init__(self, jsonl: Path) -> None:
        self._hub = MetricsHub(jsonl)

    def serve(self, host: str, port: int) -> int:
        """See `MetricsHub`."""
        return self._hub.serve(host, port)

    def record(self, samples: Sequence[Sample], cycle: int | None) -> None:
        """See `MetricsHub`."""
        self._hub.record(samples, cycle)

    def close(self) -> None:
        """See `MetricsHub`."""
        self._hub.close()


class RemoteHub:
    """`shell.Hub` over the actor. Recording does not wait; a failed record surfaces at the next one."""

    def __init__(self, actor: ActorHandle) -> None:
        self._actor = actor
        self._pending: list[ray.ObjectRef] = []

    def record(self, samples: Sequence[Sample], cycle: int | None = None) -> None:
        """See `MetricsHub`; at most a few hundred records are under way."""
        self._pending.append(self._actor.record.remote(list(samples), cycle))
        done, self._pending = ray.wait(self._pending, num_returns=len(self._pending), timeout=0)
        for ref in done:
            answer(ref, "the metrics hub")

    def flush(self) -> None:
        """Waits until everything recorded is written."""
        for ref in self._pending:
            answer(ref, "the metrics hub")
        self._pending = []
