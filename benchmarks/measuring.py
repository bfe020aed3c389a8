"""The order of the measurements: model by model, part by part; what a card cannot hold is left out by arithmetic."""

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from advdmd_ray.diffusion.transfer import let_go
from benchmarks import learning, rollouts
from benchmarks.card import Hardware, hardware
from benchmarks.document import (
    LEFT_OUT,
    NOT_MEASURED,
    header,
    learner_figures,
    rollout_figures,
    subject_facts,
)
from benchmarks.models import FULL, Model
from benchmarks.needs import needs, too_large
from benchmarks.parts import Settings, Subject, random_table, random_teacher
from benchmarks.timing import Stopwatch

T = TypeVar("T")


def measure(models: Sequence[Model], settings: Settings) -> dict[str, Any]:
    """The whole benchmark as a document."""
    machine = hardware(settings.device)
    document = header(settings, machine, full=all(model in FULL for model in models))
    for model in models:
        sys.stderr.write(f"measuring {model.name}\n")
        with tempfile.TemporaryDirectory() as folder:
            subject = Subject.of(model, settings, Path(folder) / "model")
            document["models"][model.name] = measure_model(subject, machine)
        let_go()
    return document


def measure_model(subject: Subject, machine: Hardware) -> dict[str, Any]:
    """One model's part of the document."""
    needed = needs(subject)
    facts = subject_facts(subject) | {"needs_bytes": dict(needed)}
    left = {part: too_large(need, machine.memory_bytes) for part, need in needed.items()}
    facts |= {part: {LEFT_OUT: why} for part, why in left.items() if why is not None}
    if left["rollout"] is None:  # whose groups the others take
        facts |= _measured(subject, machine, left)
    return {part: {} for part in needed} | facts


def _measured(subject: Subject, machine: Hardware, left: Mapping[str, str | None]) -> dict[str, Any]:
    stopwatch, table, peak = Stopwatch(subject.device), random_table(subject), machine.peak_tflops
    teacher, why = _fitting(lambda: random_teacher(subject))
    made, why = (
        (None, why) if teacher is None else _fitting(lambda: rollouts.time_rollouts(subject, teacher, table, stopwatch))
    )
    if teacher is None or made is None:
        return {part: {NOT_MEASURED: why} for part, reason in left.items() if reason is None}
    timings, groups = made
    facts: dict[str, Any] = {"rollout": rollout_figures(subject, timings, peak)}
    let_go()
    if left["learner"] is None:
        timed, why = _fitting(lambda: learning.time_learner(subject, teacher, table, groups, stopwatch))
        facts["learner"] = {NOT_MEASURED: why} if timed is None else learner_figures(subject, timed, peak)
    return facts


def _fitting(work: Callable[[], T]) -> tuple[T | None, str]:
    """What the work gives, or None and why, if the GPU's memory is too small for it."""
    try:
        return work(), ""
    except torch.cuda.OutOfMemoryError as error:
        return None, ". ".join(str(error).split(". ")[:2])  # that it ran out, and what it asked for
