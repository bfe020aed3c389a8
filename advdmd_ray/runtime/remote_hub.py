"""The driver's side of the metrics hub, which it keeps alive: a hub that ends or hangs is replaced by another.

A thread of its own sends what is recorded and looks after the hub, so neither the loops of the controller nor the hours
in which no loop runs depend on it. A run is worth its weights, not its figures: where no hub lives long enough to write
anything, it goes on without them and says so.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Protocol

from ray.exceptions import RayTaskError

from advdmd_ray.config import Config
from advdmd_ray.controller.pulse import Pulse
from advdmd_ray.errors import DeadlineError, UserError, WorkerLostError
from advdmd_ray.metrics.catalogue import finished_sample
from advdmd_ray.metrics.history import Standing
from advdmd_ray.metrics.ledger import Ledger, Record
from advdmd_ray.metrics.series import Sample
from advdmd_ray.metrics.sinks.follower import CLOSE_S
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runtime.calls import ANSWER_S, landed
from advdmd_ray.runtime.hub_actor import WHO, HubProcess
from advdmd_ray.runtime.serving import Serving

TICK_S = 0.25
LAST_RECORDS_S = 5.0
JOIN_S = 5.0
IN_VAIN = 3
"""Hubs in a row that wrote nothing, after which the next waits."""
AGAIN_S = 60.0
"""Seconds between two tries then."""
_log = logging.getLogger(__name__)


class Process(Protocol):
    """A `HubProcess`."""

    def standing(self) -> Standing: ...  # noqa: D102
    def open(self, standing: Standing) -> None: ...  # noqa: D102
    def serve(self, host: str, port: int) -> int: ...  # noqa: D102
    def record(self, record: Record) -> Future[None]: ...  # noqa: D102
    def linger(self, most_s: float) -> Future[None]: ...  # noqa: D102
    def close_sinks(self, within_s: float) -> None: ...  # noqa: D102
    def ping(self) -> Future[None]: ...  # noqa: D102
    def end(self) -> None: ...  # noqa: D102
    def gone(self) -> bool: ...  # noqa: D102


class RemoteHub:
    """`protocols.Hub` over a process that is replaced. Recording does not wait, and holds a bounded number of records.

    Args:
        make: Starts a process; raises as `HubProcess`.
        hang_s: Seconds without a sign of life after which one hangs, > 0.
        over: Is set when the hub is needed no more.
        clock: Monotonic clock, seconds.

    Raises:
        WorkerLostError: if no process lives long enough to begin.
        UserError: if it does not see the run folder.
    """

    def __init__(
        self,
        make: Callable[[], Process],
        hang_s: float,
        over: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make, self._hang_s, self._over, self._clock = make, hang_s, over, clock
        self._ledger, self._pulse = Ledger(), Pulse(hang_s, clock)
        self._stir, self._changed = threading.Event(), threading.Condition()
        self._process: Process | None = None
        self._ending: Process | None = None  # not seen to be gone yet
        self._under_way: deque[tuple[int, float, Future[None]]] = deque()  # number, time and answer, in their order
        self._ping: Future[None] | None = None
        self._serving = Serving()
        self._began, self._down_since = False, clock()
        self._next_try, self._in_vain = clock(), 0
        self._running: Future[None] | None = None
        self._change: Callable[[], None] | None = None
        while self._process is None:
            self._begin()
            if self._process is None and self._in_vain == IN_VAIN:
                raise WorkerLostError(f"{WHO} ended {IN_VAIN} times before it could begin")
            over.wait(TICK_S if self._process is None else 0.0)

    def start(self) -> None:
        """Begins to send records and to look after the hub."""
        thread = ThreadPoolExecutor(1, "metrics-hub")
        self._running = thread.submit(self._run)
        thread.shutdown(wait=False)

    def record(self, samples: Sequence[Sample], cycle: int | None = None) -> None:
        """See `MetricsHub`. What one record fails with, which only a wrong sample does, is raised at a later one."""
        self._raise_failure()
        with self._changed:
            self._ledger.add(list(samples), cycle)
        self._stir.set()

    def serve(self, host: str, port: int, found: Callable[[int], None] = lambda _: None) -> int:
        """See `MetricsHub`. Every later hub serves at the same port, once it is free, and `found` is told again."""
        answer = self._serving.ask(host, port, found)
        self._stir.set()
        try:
            return answer.result(ANSWER_S)
        except TimeoutError:
            self._raise_failure()
            raise DeadlineError(f"waited {ANSWER_S:.0f} s for {WHO} to serve at {host}:{port}") from None

    def flush(self) -> None:
        """Waits until everything recorded is written, or until it is clear that it will not be, which is told."""
        left = self._left_after(ANSWER_S)
        self._raise_failure()
        if left:
            _log.error("%s: %d records are not in metrics.jsonl", WHO, left)

    def flush_after_failure(self) -> None:
        """Gives the last records a moment; raises nothing, as the failure that ends the run must stay the one seen."""
        self._left_after(LAST_RECORDS_S)
        self._close_sinks(LAST_RECORDS_S)

    def finish(self, outcome: str, linger_s: float) -> None:
        """See `MetricsHub`. Raises nothing: of a run that failed, its own failure must stay the one seen."""
        with self._changed:
            self._ledger.add([finished_sample(outcome)], None)
        self._left_after(LAST_RECORDS_S)
        process = self._process
        if process is not None and self._serving.on:
            wait([process.linger(linger_s)], linger_s + TICK_S)

    def reopen(self, change: Callable[[], None]) -> None:
        """Waits until everything recorded is written, and has another hub go on from the file as it is changed then.

        Args:
            change: Is called in another thread, while no hub writes to the file. A disk that refuses it is told of.
        """
        self.flush()
        self._change = change
        self._stir.set()

    def close(self) -> None:
        """Ends /metrics and metrics.jsonl when everything is written."""
        try:
            self.flush()
            self._close_sinks(CLOSE_S)
        finally:
            self.stop()

    def stop(self) -> None:
        """Ends the hub, whatever it is at."""
        self._over.set()
        self._stir.set()
        if self._running is not None:
            wait([self._running], JOIN_S)
        if self._process is not None:
            self._process.end()

    def _close_sinks(self, within_s: float) -> None:
        process = self._process
        if process is not None:
            process.close_sinks(within_s)

    def _left_after(self, within_s: float) -> int:
        """Records that are not written after so many seconds, or after one more hub that ended in vain."""
        end, in_vain = time.monotonic() + within_s, max(self._in_vain, IN_VAIN - 1)
        self._next_try = self._clock()
        self._stir.set()
        with self._changed:
            while (left := self._ledger.unwritten) and self._in_vain <= in_vain and time.monotonic() < end:
                if self._over_early():
                    break
                self._changed.wait(TICK_S)
            return left

    def _over_early(self) -> bool:
        return self._running is not None and self._running.done()

    def _raise_failure(self) -> None:
        if self._running is not None and self._running.done():
            self._running.result()

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                self.turn()
                self._stir.wait(TICK_S)
                self._stir.clear()
        finally:
            with self._changed:
                self._changed.notify_all()

    def turn(self) -> None:
        """Does what is to be done now: what the thread does at each record, at each answer and several times a second.

        Raises:
            RayTaskError: if a record was refused; holds the hub's traceback.
        """
        if self._change is not None and self._process is not None:
            self._process.end()
            self._forget(self._process)
        if self._process is None and self._clock() >= self._next_try:
            self._begin()
        if self._process is not None:
            try:
                self._hear()
                self._send(self._process)
                self._serving.turn(self._process, self._clock() - self._down_since)
                self._look(self._process)
            except (WorkerLostError, DeadlineError) as error:
                self._lost(self._process, str(error))
        with self._changed:
            self._changed.notify_all()

    def _begin(self) -> None:
        """Starts a hub, once the one before is gone: two would write to one file."""
        if self._ending is not None and not self._ending.gone():
            return
        self._ending, process = None, None
        self._change_file()
        try:
            process = self._make()
            found = process.standing()
            with self._changed:
                standing = self._ledger.handed_over(found)
            process.open(standing)
        except (WorkerLostError, DeadlineError) as error:
            self._lost(process, str(error))
        except (UserError, RayTaskError) as error:
            if not self._began:  # the run cannot begin like this
                raise
            self._lost(process, str(error).strip().splitlines()[-1])
        else:
            self._process = process
            self._pulse.heard(WHO)
            if self._began:
                _log.warning("another metrics hub is up, %.1f s after the one before", self._clock() - self._down_since)
            self._began = True

    def _change_file(self) -> None:
        if self._change is None:
            return
        try:
            self._change()
        except OSError as error:
            _log.error("metrics.jsonl stays as it is, with what the run does again: %s", error)
        self._change = None
        with self._changed:
            self._ledger.read_anew()

    def _hear(self) -> None:
        """What the hub has answered."""
        while self._under_way and self._under_way[0][2].done():
            number, _, answer = self._under_way.popleft()
            landed(answer, WHO)
            with self._changed:
                self._ledger.written(number)
            self._in_vain = 0
            self._pulse.heard(WHO)
        if self._under_way and self._clock() - self._under_way[0][1] > ANSWER_S:
            raise DeadlineError(f"{WHO} has written nothing for {ANSWER_S:.0f} s")
        if self._ping is not None and self._ping.done():
            landed(self._ping, WHO)
            self._ping = None
            self._pulse.heard(WHO)

    def _send(self, process: Process) -> None:
        while True:
            with self._changed:
                record = self._ledger.next()
            if record is None:
                return
            answer = process.record(record)
            self._under_way.append((record.number, self._clock(), answer))
            answer.add_done_callback(lambda _: self._stir.set())

    def _look(self, process: Process) -> None:
        """Whether the hub lives, which it is asked when it has said nothing for a while."""
        ask, hang = self._pulse.look()
        if ask:
            self._ping = process.ping()
            self._ping.add_done_callback(lambda _: self._stir.set())
        if hang:
            raise DeadlineError(f"{WHO} has said nothing for {self._hang_s:g} s")

    def _forget(self, process: Process | None) -> None:
        """The hub is over, and another is to come."""
        now = self._clock()
        if self._process is not None:
            self._down_since = now
        self._process, self._ending, self._ping = None, process, None
        self._serving.on = False
        self._under_way.clear()
        self._pulse.forget(WHO)
        self._next_try = now

    def _lost(self, process: Process | None, reason: str) -> None:
        """Ends what is left of a hub; the next one is for a later turn."""
        if process is not None:
            process.end()
        if self._over.is_set():
            return
        self._forget(process)
        self._in_vain += 1
        if self._in_vain < IN_VAIN:
            _log.warning("%s; another takes its place", reason.rstrip("."))
            return
        self._next_try += AGAIN_S
        if self._in_vain == IN_VAIN:
            _log.error(
                "%s; %d hubs in a row wrote nothing: the run goes on without /metrics and metrics.jsonl, and tries "
                "again every %.0f s; until then totals and the newest values are kept",
                *(reason.rstrip("."), IN_VAIN, AGAIN_S),
            )


@contextmanager
def metrics_hub(config: Config) -> Iterator[RemoteHub]:
    """A hub on this node that writes into the run folder, which this process holds; it serves nothing yet.

    Raises:
        UserError: if it does not see the folder.
    """
    folder, over = RunFolder(config.folder.absolute()), threading.Event()
    hub = RemoteHub(lambda: HubProcess(config, folder, over), config.ray.hang_s, over)
    hub.start()
    try:
        yield hub
    except BaseException:  # Ctrl-C too: what was measured until then is kept
        hub.flush_after_failure()
        hub.stop()
        raise
    hub.close()
