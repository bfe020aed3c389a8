"""The Ray actor around `MetricsHub`, and the controller's side of it."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from advdmd_ray.config import Config
from advdmd_ray.metrics.hub import MetricsHub
from advdmd_ray.metrics.series import Sample
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.lasting import Mark
from advdmd_ray.runtime.calls import Handle, answer, landed

LAST_RECORDS_S = 5.0


@ray.remote(num_cpus=0)
class HubActor:
    """Serves /metrics and writes metrics.jsonl, on the driver's node, where the run folder is."""

    def open(self, jsonl: Path, most_bytes: int, mark: Mark) -> None:
        """Opens the file; before anything else, and not in the constructor, whose errors Ray hands on as text only.

        Raises:
            UserError: if this process does not see the run folder: then no task beside the driver does.
        """
        mark.check_seen("the metrics hub")
        self._hub = MetricsHub(jsonl, most_bytes=most_bytes)

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
    """`protocols.Hub` over the actor. Recording does not wait; a failed record surfaces at the next one."""

    def __init__(self, actor: Handle) -> None:
        self._actor = actor
        # In the order in which the actor does them. Ray's own thread says when one is over, so that nobody asks it.
        self._pending: deque[tuple[ray.ObjectRef, Future[None]]] = deque()

    def record(self, samples: Sequence[Sample], cycle: int | None = None) -> None:
        """See `MetricsHub`; at most a few hundred records are under way."""
        recorded = self._actor.record.remote(list(samples), cycle)
        self._pending.append((recorded, recorded.future()))
        while self._pending and self._pending[0][1].done():
            landed(self._pending.popleft()[1], "the metrics hub")

    def serve(self, host: str, port: int) -> int:
        """See `MetricsHub`."""
        return answer(self._actor.serve.remote(host, port), "the metrics hub")

    def flush(self) -> None:
        """Waits until everything recorded is written."""
        while self._pending:
            answer(self._pending.popleft()[0], "the metrics hub")

    def flush_after_failure(self) -> None:
        """Gives the last records a moment; raises nothing, as the failure that ends the run must stay the one seen."""
        if self._pending:
            ray.wait([ref for ref, _ in self._pending], num_returns=len(self._pending), timeout=LAST_RECORDS_S)

    def close(self) -> None:
        """Ends /metrics and metrics.jsonl when everything is written."""
        self.flush()
        answer(self._actor.close.remote(), "the metrics hub's end")


@contextmanager
def metrics_hub(config: Config) -> Iterator[RemoteHub]:
    """A hub on this node that writes into the run folder, which this process holds; it serves nothing yet.

    Raises:
        UserError: if it does not see the folder.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    folder = RunFolder(config.folder.absolute())
    actor: Handle = HubActor.options(scheduling_strategy=here).remote()
    opened = actor.open.remote(folder.metrics, config.metrics.history_bytes, folder.mark())
    answer(opened, "the metrics hub")
    hub = RemoteHub(actor)
    try:
        yield hub
    except BaseException:  # Ctrl-C too: what was measured until then is kept
        hub.flush_after_failure()
        raise
    hub.close()
