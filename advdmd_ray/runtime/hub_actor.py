"""The Ray actor around `MetricsHub`, and one process of it as the driver has it."""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from advdmd_ray.config import Config
from advdmd_ray.errors import DeadlineError, WorkerLostError
from advdmd_ray.metrics.exposition import Identity
from advdmd_ray.metrics.history import Standing, mend, standing_of
from advdmd_ray.metrics.hub import MetricsHub
from advdmd_ray.metrics.ledger import Record
from advdmd_ray.metrics.series import Sample
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.lasting import Mark
from advdmd_ray.runs.sinks import Sinks, environment
from advdmd_ray.runs.targets import identity_of
from advdmd_ray.runtime.calls import MORE_TIME, PULSE, Handle, answer

WHO = "the metrics hub"
END_S = 1.0
LOOK_S = 0.2
"""Seconds after which a wait sees that nobody needs its answer any more."""


# Ray does not type the groups.
@ray.remote(num_cpus=0, concurrency_groups={PULSE: 1})  # pyright: ignore[reportCallIssue]
class HubActor:
    """Serves /metrics, writes metrics.jsonl and has sinks follow it, on the driver's node, where the run folder is."""

    def meet(self, mark: Mark) -> tuple[int, float]:
        """The number of this process and when it began; before anything else.

        Raises:
            UserError: if this process does not see the run folder: then no task beside the driver does.
        """
        mark.check_seen(WHO)
        return psutil.Process().pid, psutil.Process().create_time()

    def standing(self, jsonl: Path) -> Standing:
        """What the file says, from which whatever a process that ended left half-done is taken."""
        mend(jsonl)
        return standing_of(jsonl)

    def open(
        self, config: Config, folder: RunFolder, standing: Standing, identity: Identity, environment: Mapping[str, str]
    ) -> None:
        """Opens the file; not in the constructor, whose errors Ray hands on as text only."""
        os.environ.update(environment)
        most = config.metrics.history_bytes
        self._hub = MetricsHub(folder.metrics, most_bytes=most, standing=standing, identity=identity)
        self._sinks = Sinks(config, folder, standing.cycle)

    def serve(self, host: str, port: int) -> int:
        """See `MetricsHub`."""
        return self._hub.serve(host, port)

    def record(self, samples: Sequence[Sample], cycle: int | None, number: int) -> None:
        """See `MetricsHub`."""
        self._hub.record(samples, cycle, number)

    def linger(self, most_s: float) -> None:
        """See `MetricsHub`."""
        self._hub.linger(most_s)

    def close_sinks(self, within_s: float) -> None:
        """See `Sinks`; nothing more is recorded."""
        self._sinks.close(within_s)

    @ray.method(concurrency_group=PULSE)
    def ping(self) -> None:
        """Answers beside whatever else it does: it may thin a long file for many seconds."""


class HubProcess:
    """A new hub on this node, for the driver; it sees the run folder, and has opened nothing yet.

    Every wait raises DeadlineError when it takes too long, and WorkerLostError when the process is gone.

    Args:
        config: The run's; `ray.start_timeout_s` bounds each wait for an answer.
        folder: Of the run, by an absolute path; this process holds it.
        over: Set once nobody needs the hub any more: then no wait goes on.

    Raises:
        UserError: if it does not see the folder.
    """

    def __init__(self, config: Config, folder: RunFolder, over: threading.Event) -> None:
        self._config, self._folder, self._over = config, folder, over
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        kind: Handle = HubActor
        self._actor: Handle = kind.options(scheduling_strategy=here).remote()
        self._process: psutil.Process | None = None
        try:
            number, began = self._answer(self._actor.meet.remote(folder.mark()))
        except BaseException:  # Ctrl-C too: nobody else knows of the process
            self.end()
            raise
        # Not there where Ray's processes are numbered apart from this one, as in another container; then some other may
        # have its number.
        with suppress(psutil.NoSuchProcess):
            found = psutil.Process(number)
            self._process = found if found.create_time() == began else None

    def standing(self) -> Standing:
        """What metrics.jsonl says; no other process may write to it any more."""
        return self._answer(self._actor.standing.remote(self._folder.metrics))

    def open(self, standing: Standing) -> None:
        """Opens metrics.jsonl; the figures go on from where they stand."""
        known = environment() if self._config.metrics.sinks else {}
        told = self._config, self._folder, standing, identity_of(self._config)
        self._answer(self._actor.open.remote(*told, known))

    def serve(self, host: str, port: int) -> int:
        """See `MetricsHub`."""
        return self._answer(self._actor.serve.remote(host, port))

    def record(self, record: Record) -> Future[None]:
        """Sends a record; done when it is written."""
        return self._actor.record.remote(list(record.samples), record.cycle, record.number).future()

    def linger(self, most_s: float) -> Future[None]:
        """See `MetricsHub`; records wait meanwhile."""
        return self._actor.linger.remote(most_s).future()

    def close_sinks(self, within_s: float) -> None:
        """Waits until all sinks have what is written, so many seconds for each; nothing is recorded after it.

        A process that ends instead takes them with it: they lack the last of it until the run is resumed.
        """
        count = len(self._config.metrics.sinks)
        if count:
            with suppress(WorkerLostError, DeadlineError):
                self._answer(self._actor.close_sinks.remote(within_s), count * within_s + END_S)

    def ping(self) -> Future[None]:
        """Asks for a sign of life."""
        return self._actor.ping.remote().future()

    def end(self) -> None:
        """Ends the process, be it one that hangs, for whose end Ray alone would wait some seconds."""
        ray.kill(self._actor)
        if self._process is not None and not self._gone_within(END_S):
            with suppress(psutil.NoSuchProcess):
                self._process.kill()
            self._gone_within(END_S)

    def gone(self) -> bool:
        """Whether the process has ended, as far as this one can see it."""
        if self._process is None:
            return True
        try:
            return not self._process.is_running() or self._process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    def _gone_within(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not self.gone() and time.monotonic() < end:
            time.sleep(seconds / 50)
        return self.gone()

    def _answer(self, reference: ray.ObjectRef, limit_s: float | None = None) -> Any:
        limit = self._config.ray.start_timeout_s if limit_s is None else limit_s
        end = time.monotonic() + limit
        while not ray.wait([reference], timeout=LOOK_S)[0]:
            if self._over.is_set():
                raise DeadlineError(f"{WHO} is needed no more")
            if time.monotonic() > end:
                raise DeadlineError(f"waited {limit:.0f} s for {WHO}; {MORE_TIME}")
        return answer(reference, WHO)
