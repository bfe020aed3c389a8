"""What went wrong in a run, and when: read from the counters and alarms of metrics.jsonl."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from advdmd_ray.metrics.history import Entry
from advdmd_ray.metrics.series import parse_key
from advdmd_ray.runs.page.names import ROLES, counted, plain

MOST_FAULTS = 200
"""Newest that a page lists."""
ELAPSED = "advdmd_run_elapsed_seconds"
LANES = {
    "resume": "Continued from a checkpoint",
    "worker": "Workers lost",
    "group": "Groups made again or left out",
    "gradient": "Updates skipped",
    "checkpoint": "Checkpoints refused",
    "guard": "Guard: series out of range",
    "alarm": "Alarm: reward hacking",
    "weights": "Weights that differ",
}
"""Kinds of faults, in the order to show."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that went wrong.

    Attributes:
        lane: One of `LANES`.
        cycle: Learner cycle at which it was recorded.
        time: Unix seconds.
        text: What it was, without how often.
        count: How often.
    """

    lane: str
    cycle: int
    time: float
    text: str
    count: int = 1


def _worker(labels: dict[str, str]) -> str:
    return f"lost: one of the {ROLES.get(labels['role'], labels['role'])}, whose work is given to others"


_COUNTERS: dict[str, tuple[str, Callable[[dict[str, str]], str]]] = {
    "advdmd_run_workers_lost_total": ("worker", _worker),
    "advdmd_rollout_leases_reissued_total": ("group", lambda labels: f"lease given again: {plain(labels['reason'])}"),
    "advdmd_rollout_quarantined_total": ("group", lambda labels: f"attempt in vain: {plain(labels['reason'])}"),
    "advdmd_rollout_prompts_substituted_total": ("group", lambda _: "prompt replaced by another"),
    "advdmd_buffer_dropped_groups_total": ("group", lambda labels: f"group dropped: {plain(labels['reason'])}"),
    "advdmd_learner_skipped_updates_total": (
        "gradient",
        lambda labels: f"update skipped, its gradient was not finite: {plain(labels['objective'])}",
    ),
    "advdmd_learner_checkpoints_refused_total": ("checkpoint", lambda _: "checkpoint refused by the disk"),
    "advdmd_weights_mismatched_total": ("weights", lambda labels: f"loaded weights differ: {labels['stream']}"),
}
_GAUGES: dict[str, tuple[str, str]] = {
    "advdmd_learner_restarts": ("worker", "lost: the learner, which was started again"),
    "advdmd_run_series_out": ("guard", "a loss, gradient norm or spread left the range of its past"),
    "advdmd_run_reward_hack_alarm": ("alarm", "a reward rose while what is watched fell"),
}


_parsed = lru_cache(maxsize=4096)(parse_key)


class FaultReader:
    """Gathers faults while the lines of a metrics.jsonl go by.

    A counter that rose is a fault, and so is a gauge of trouble that left 0. A line without a number is the mark of a
    run that went on from a checkpoint; so is time that begins again, as thinning may have taken the mark.
    """

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._numbered = self._marked = False
        self._found: deque[Fault] = deque(maxlen=MOST_FAULTS)
        self.total = 0

    @property
    def found(self) -> tuple[Fault, ...]:
        """The newest, in the order in which they were recorded."""
        return tuple(self._found)

    def see(self, entry: Entry) -> None:
        """Takes one line."""
        values: dict[str, Any] = entry["values"]
        if self._numbered and "record" not in entry:
            self._add(Fault("resume", entry["cycle"], entry["time"], "went on from a checkpoint"))
            self._marked = True
            self._last |= values
            return
        self._numbered |= "record" in entry
        elapsed = values.get(ELAPSED)
        if elapsed is not None:
            if elapsed < self._last.get(ELAPSED, 0.0) and not self._marked:
                self._add(Fault("resume", entry["cycle"], entry["time"], "went on from a checkpoint"))
            self._marked = False
            self._last[ELAPSED] = elapsed
        for key, value in values.items():
            self._look_at(entry, key, value)

    def _look_at(self, entry: Entry, key: str, value: Any) -> None:
        name, labels = _parsed(key)
        if not isinstance(value, int | float) or not (name in _COUNTERS or name in _GAUGES):
            return
        before = self._last.get(key, 0.0)
        self._last[key] = value
        if name in _COUNTERS:
            lane, words = _COUNTERS[name]
            if value > before:
                self._add(Fault(lane, entry["cycle"], entry["time"], words(dict(labels)), round(value - before)))
        elif value > before and (before == 0 or name == "advdmd_learner_restarts"):
            lane, text = _GAUGES[name]
            self._add(Fault(lane, entry["cycle"], entry["time"], text))

    def _add(self, fault: Fault) -> None:
        self.total += fault.count
        last = self._found[-1] if self._found else None
        if last is not None and (last.lane, last.cycle, last.text) == (fault.lane, fault.cycle, fault.text):
            self._found[-1] = replace(last, count=last.count + fault.count)
        else:
            self._found.append(fault)


def fault_text(fault: Fault) -> str:
    """One in words."""
    return fault.text if fault.count == 1 else f"{fault.text} ({counted(fault.count, 'time')})"
