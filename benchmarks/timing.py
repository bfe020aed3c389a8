"""Times work on a device: waits for the device before and after, and keeps every repeat."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


class Stopwatch:
    """Reads the time when a device has done all that it was given.

    Args:
        device: Where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def now(self) -> float:
        """Seconds on a clock that never goes back."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def forget_peak(self) -> None:
        """Begins a new measurement of the largest memory."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_bytes(self) -> int | None:
        """Most bytes that tensors had at once since `forget_peak`, resident networks included; None on a CPU."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None


@dataclass(frozen=True, slots=True)
class Timing:
    """Repeats of one piece of work.

    Attributes:
        seconds: Of each repeat, without those that warmed up.
        peak_bytes: See `Stopwatch.peak_bytes`.
    """

    seconds: tuple[float, ...]
    peak_bytes: int | None

    @property
    def median(self) -> float:
        """Seconds of the middle repeat."""
        return statistics.median(self.seconds)


def timed_in_turns(
    works: Mapping[str, Callable[[], object]], stopwatch: Stopwatch, *, warm_up: int, repeats: int
) -> dict[str, Timing]:
    """Does all works in turns, A B A B, `warm_up` rounds and then `repeats` with the stopwatch.

    Turns share whatever else the machine does at the time, so ratios of medians say more than seconds.

    Args:
        works: What is timed, by name; results are dropped.
        stopwatch: Of the device that works.
        warm_up: At least 1, for kernels are chosen and memory is taken in the first.
        repeats: At least 1.
    """
    for _ in range(warm_up):
        for work in works.values():
            work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    peaks: dict[str, list[int]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            stopwatch.forget_peak()
            began = stopwatch.now()
            work()
            seconds[name].append(stopwatch.now() - began)
            peak = stopwatch.peak_bytes()
            if peak is not None:
                peaks[name].append(peak)
    return {name: Timing(tuple(seconds[name]), max(peaks[name], default=None)) for name in works}
