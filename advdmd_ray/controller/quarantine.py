"""Quarantine: what becomes of an ordinal whose group is not finite, or whose work ends the process that is at it.

Its ordinal is issued again, with the same prompt and seed: another machine may do better. After a bounded number of
attempts it is the prompt's fault, and another prompt takes its place. If many groups are not finite it is the
student's, and the run stops.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from advdmd_ray.config.faults import QuarantineSection
from advdmd_ray.controller.frontier import PromptFrontier
from advdmd_ray.controller.protocols import Reference
from advdmd_ray.controller.telemetry import Telemetry
from advdmd_ray.controller.watch import Watch
from advdmd_ray.errors import DeadlineError, DivergedError, WorkerLostError
from advdmd_ray.stations.buffer.quarantined import Quarantined
from advdmd_ray.stations.records import Lease

logger = logging.getLogger(__name__)


class Folder(Protocol):
    """Where files are kept; see `QuarantineFolder`."""

    def keep(self, kept: Quarantined) -> Path | None: ...  # noqa: D102


class Quarantine:
    """Counts what came to nothing, by ordinal, until a group of it is committed.

    What it counts is not in a checkpoint: a resumed run begins to count anew. Which ordinals have a substitute is, in
    the frontier's state.

    Args:
        settings: The configuration's.
        frontier: Told which ordinals are issued again, and with which prompt.
        batches: Brings the record batches behind a reference to this process.
        folder: Where files go; None: nowhere.
        telemetry: Is told of it.
        watch: Knows the checkpoints.
    """

    def __init__(
        self,
        settings: QuarantineSection,
        *,
        frontier: PromptFrontier,
        batches: Callable[[Reference], tuple[pa.RecordBatch, ...]],
        folder: Folder | None,
        telemetry: Telemetry,
        watch: Watch,
    ) -> None:
        self._settings, self._frontier, self._batches, self._folder = settings, frontier, batches, folder
        self._telemetry, self._watch = telemetry, watch
        self._faults: Counter[int] = Counter()
        self._ended: dict[int, list[Any]] = {}
        # The student's version of each of the last groups that was not finite, None of one that was.
        self._recent: deque[int | None] = deque(maxlen=settings.recent)

    def committed(self, ordinal: int) -> None:
        """A group of the ordinal is there."""
        self._recent.append(None)
        self._forget(ordinal)

    def not_finite(self, lease: Lease, fault: str, worker: str, payload: Reference) -> None:
        """A group, or its scores, are not finite.

        Args:
            lease: Its lease.
            fault: Which values.
            worker: Who made or scored it.
            payload: Reference of the record batches.

        Raises:
            DivergedError: if too many of the last groups are not.
        """
        wanted, again = self._frontier.wants(lease.ordinal), self._frontier.lost(lease)
        kept = self._keep(Quarantined(lease, fault, worker, self._brought(payload)))
        self._telemetry.quarantined("not_finite", int(again))
        logger.warning("ordinal %d from %s is not finite: %s%s", lease.ordinal, worker, fault, kept)
        self._recent.append(lease.policy_version)
        self._check_student(fault, kept)
        if not wanted:
            return
        self._faults[lease.ordinal] += 1
        if self._faults[lease.ordinal] >= self._settings.attempts:
            self._replace(lease, f"its groups are not finite, {self._settings.attempts} times")

    def ended(self, lease: Lease, worker: str, process: Any) -> None:
        """A process ended while it generated or scored the group of a lease.

        Args:
            lease: The lease, which is issued again.
            worker: Name of the worker.
            process: What stands for the process; several leases may end one.
        """
        if not self._frontier.wants(lease.ordinal):
            return
        ended = self._ended.setdefault(lease.ordinal, [])
        if any(process is other for other in ended):
            return
        ended.append(process)
        if len(ended) >= self._settings.processes:
            reason = f"{len(ended)} processes ended at it, the last one of {worker}"
            kept = self._keep(Quarantined(lease, reason, worker))
            self._telemetry.quarantined("process_ended", 0)
            self._replace(lease, reason + kept)

    def _replace(self, lease: Lease, reason: str) -> None:
        self._frontier.substitute(lease.ordinal)
        self._forget(lease.ordinal)
        self._telemetry.substituted()
        logger.warning("another prompt takes the place of ordinal %d: %s", lease.ordinal, reason)

    def _forget(self, ordinal: int) -> None:
        self._faults.pop(ordinal, None)
        self._ended.pop(ordinal, None)

    def _check_student(self, fault: str, kept: str) -> None:
        broken = [version for version in self._recent if version is not None]
        if len(broken) <= self._settings.share * self._settings.recent:
            return
        since = min(broken)
        raise DivergedError(
            f"{len(broken)} of the last {len(self._recent)} groups are not finite ({fault}): the student itself is "
            f"broken, since version {since} or before{kept}; {self._watch.way_back(since)}"
        )

    def _brought(self, payload: Reference) -> tuple[pa.RecordBatch, ...]:
        try:
            return self._batches(payload)
        except (DeadlineError, WorkerLostError) as error:
            logger.warning("the values of a group in quarantine are gone: %s", error)
            return ()

    def _keep(self, kept: Quarantined) -> str:
        """Keeps a file, and says where; a disk that refuses is no reason to end the run."""
        if self._folder is None:
            return ""
        try:
            path = self._folder.keep(kept)
        except OSError as error:
            return f"; no file of it could be written: {error}"
        return "" if path is None else f"; `advdmd replay {path}` runs it again"
