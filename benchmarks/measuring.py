"""The order of the measurements: model by model, part by part; what a card cannot hold is left out by arithmetic."""

import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch

from advdmd_ray.diffusion.transfer import let_go
from advdmd_ray.models.families.base import TransformerDenoiser
from advdmd_ray.stations.records import TrajectoryGroup
from benchmarks import learning, rollouts
from benchmarks.card import Hardware, hardware
from benchmarks.document import (
    LEFT_OUT,
    NOT_MEASURED,
    header,
    learner_figures,
    publishing_figures,
    rollout_figures,
    subject_facts,
    transfer_figures,
)
from benchmarks.models import FULL, Model
from benchmarks.needs import needs, too_large
from benchmarks.parts import Settings, Subject, random_table, random_teacher
from benchmarks.publishing import Reached, over_ray, time_publishing
from benchmarks.timing import Stopwatch, Timing
from benchmarks.transfers import moved_bytes, time_transfers

T = TypeVar("T")
Reach: TypeAlias = Callable[[Subject], AbstractContextManager[Reached]]
"""Brings up an actor that loads, and takes it down again."""


def measure(models: Sequence[Model], settings: Settings, reach: Reach = over_ray) -> dict[str, Any]:
    """The whole benchmark as a document.

    Args:
        models: In this order.
        settings: What was asked for.
        reach: Brings up who loads what is published.
    """
    machine = hardware(settings.device)
    document = header(settings, machine, full=all(model in FULL for model in models))
    for model in models:
        sys.stderr.write(f"measuring {model.name}\n")
        with tempfile.TemporaryDirectory() as folder:
            subject = Subject.of(model, settings, Path(folder) / "model")
            document["models"][model.name] = measure_model(subject, machine, reach)
        let_go()
    return document


def measure_model(subject: Subject, machine: Hardware, reach: Reach = over_ray) -> dict[str, Any]:
    """One model's part of the document."""
    needed = needs(subject)
    facts = subject_facts(subject) | {"needs_bytes": dict(needed)}
    left = {part: too_large(need, machine.memory_bytes) for part, need in needed.items()}
    facts |= {part: {LEFT_OUT: why} for part, why in left.items() if why is not None}
    wanted = [part for part, why in left.items() if why is None]
    if "rollout" in wanted:
        facts |= _measured(subject, machine, reach, wanted)
    else:
        facts |= {part: {LEFT_OUT: "it follows rollouts"} for part in wanted}
    return facts


def _measured(subject: Subject, machine: Hardware, reach: Reach, wanted: Sequence[str]) -> dict[str, Any]:
    """The parts that are wanted, one after the other around one teacher; the first makes the groups of the others."""
    stopwatch, table, peak = Stopwatch(subject.device), random_table(subject), machine.peak_tflops

    def begun() -> tuple[TransformerDenoiser, dict[str, Timing], list[TrajectoryGroup]]:
        teacher = random_teacher(subject)
        return teacher, *rollouts.time_rollouts(subject, teacher, table, stopwatch)

    made, why = _fitting(begun)
    if made is None:
        return {part: {NOT_MEASURED: why} for part in wanted}
    teacher, timings, groups = made

    def transfers() -> dict[str, Any]:
        return transfer_figures(time_transfers(subject, groups[0], stopwatch), moved_bytes(groups[0]))

    def learner() -> dict[str, Any]:
        return learner_figures(subject, learning.time_learner(subject, teacher, table, groups, stopwatch), peak)

    def publishing() -> dict[str, Any]:
        with reach(subject) as actor:
            return publishing_figures(*time_publishing(subject, teacher, actor, stopwatch))

    facts: dict[str, Any] = {"rollout": rollout_figures(subject, timings, peak)}
    for part in (transfers, learner, publishing):
        if part.__name__ in wanted:
            let_go()
            measured, why = _fitting(part)
            facts[part.__name__] = {NOT_MEASURED: why} if measured is None else measured
    return facts


def _fitting(work: Callable[[], T]) -> tuple[T | None, str]:
    """What the work gives, or None and why, if the GPU's memory is too small for it."""
    try:
        return work(), ""
    except torch.cuda.OutOfMemoryError as error:
        return None, ". ".join(str(error).split(". ")[:2])  # that it ran out, and what it asked for
