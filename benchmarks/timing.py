"""Times work on a device: waits for the device before and after, and keeps every repeat."""

import statistics
import time
from collections.abc import Callable
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


def timed(work: Callable[[], object], stopwatch: Stopwatch, *, warm_up: int, repeats: int) -> Timing:
    """Does the work `warm_up` times, then `repeats` times with the stopwatch.

    Args:
        work: What is timed; its result is dropped.
        stopwatch: Of the device that works.
        warm_up: At least 1, for kernels are chosen and memory is taken in the first.
        repeats: At least 1.
    """
    for _ in range(warm_up):
        work()
    stopwatch.forget_peak()
    seconds = []
    for _ in range(repeats):
        began = stopwatch.now()
        work()
        seconds.append(stopwatch.now() - began)
    return Timing(tuple(seconds), stopwatch.peak_bytes())
