"""Runs the lease of a file of the quarantine again, on this machine, and says where its values stop being finite."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from advdmd_ray.config import Config, Resume
from advdmd_ray.errors import UserError
from advdmd_ray.learner.checkpoint import open_checkpoint, saved_steps
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.parts.inputs import encode_table
from advdmd_ray.runs.parts.networks import base_digest
from advdmd_ray.runs.parts.workers import build_rollout_worker
from advdmd_ray.runs.same_run import check_made_with
from advdmd_ray.stations.buffer.quarantined import Quarantined
from advdmd_ray.stations.records import TrajectoryGroup
from advdmd_ray.stations.weights.snapshot import pack


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of it.

    Attributes:
        text: A line for each state and mean, and the verdict at the end.
        finite: Whether all values are.
    """

    text: str
    finite: bool


@dataclass(frozen=True, slots=True)
class Weights:
    """Those of the student that runs.

    Attributes:
        version: Of the checkpoint; 0 for the teacher's.
        state: Tensors by name; None: the teacher's, with which a run begins.
        text: Which they are, in words.
    """

    version: int
    state: dict[str, Tensor] | None
    text: str


def weights_of(config: Config, version: int) -> Weights:
    """The student of a version, or the nearest that the run still has: of an earlier version if there is one.

    Raises:
        CheckpointError: if the checkpoint is damaged.
        UserError: if it was made with other settings than those that a student hangs on.
    """
    teacher = "the teacher's weights, with which version 0 began"
    if not version:
        return Weights(0, None, f"with {teacher}")
    steps = saved_steps(RunFolder(config.folder).checkpoints)
    if not steps:
        return Weights(0, None, f"with {teacher}: the run has no checkpoint of version {version}")
    nearest = max((step for step in steps if step <= version), default=min(steps))
    checkpoint = open_checkpoint(steps[nearest])
    check_made_with(
        config, checkpoint, (Resume.STUDENT,), "the student was trained with that; replay with the run's own settings"
    )
    other = "" if nearest == version else f", as it has none of version {version}"
    return Weights(nearest, checkpoint.load("student"), f"with the weights of {checkpoint.path}{other}")


def replay(config: Config, kept: Quarantined) -> Replayed:
    """Generates the group of a lease again, with the same prompt and seed.

    Args:
        config: The run's.
        kept: What the quarantine has of it.

    Raises:
        CheckpointError: as `weights_of`.
        UserError: as `weights_of`, or if the configuration has no such prompt.
    """
    lease, weights = kept.lease, weights_of(config, kept.lease.policy_version)
    table = encode_table(config)
    if lease.prompt_id >= table.rollouts:
        raise UserError(
            f"the lease is of prompt {lease.prompt_id}, this configuration has {table.rollouts}; give the run's own by "
            "--config"
        )
    worker = build_rollout_worker(config, "replay", table)
    state = worker.weights() if weights.state is None else weights.state
    worker.load(pack("student", weights.version, {name: w.clone() for name, w in state.items()}, base_digest(config)))
    group = worker.generate(replace(lease, policy_version=weights.version))
    lines = [
        f"ordinal {lease.ordinal}, attempt {lease.attempt}: prompt {table.texts[lease.prompt_id]!r}, seed {lease.seed}",
        f"student version {lease.policy_version} was to make it",
        f"in quarantine since {kept.worker} was at it: {kept.fault}",
        weights.text,
    ]
    steps = steps_text(group, kept.group)
    fault = first_fault(group)
    verdict = f"values stop being finite at {fault}" if fault else "all values are finite here"
    if kept.fault.startswith("rewards"):
        verdict += "; its rewards, which are not, are not scored again"
    return Replayed("\n".join([*lines, *steps, verdict]), not fault)


def _steps(group: TrajectoryGroup) -> list[tuple[str, np.ndarray]]:
    """The values of a group in the order in which they are made: a state, the mean of what follows it, and so on."""
    made: list[tuple[str, np.ndarray]] = []
    for level, sigma in enumerate(group.sigmas):
        made.append((f"the state of level {level}, noise level {sigma:.3g}", group.latents[:, level]))
        if level < group.means.shape[1]:
            made.append((f"the mean of action {level}", group.means[:, level]))
    return made


def first_fault(group: TrajectoryGroup) -> str:
    """The first values that are not finite, in words; empty if all are."""
    return next((name for name, values in _steps(group) if not np.isfinite(values).all()), "")


def steps_text(group: TrajectoryGroup, recorded: TrajectoryGroup | None) -> list[str]:
    """A line for each state and mean: the finite share, the smallest and the largest of them, and what the file has."""
    before = dict(_steps(recorded)) if recorded is not None else {}
    lines: list[str] = []
    for name, values in _steps(group):
        line = f"  {name}: {described(values)}"
        if name in before:
            same = np.array_equal(values, before[name], equal_nan=True)
            line += "; the same in the file" if same else f"; in the file {described(before[name])}"
        lines.append(line)
    return lines


def described(values: np.ndarray) -> str:
    """Finite share and range of some values."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return "none is finite"
    share = "all" if finite.size == values.size else f"{100 * finite.size / values.size:.3g} %"
    return f"{share} finite, from {finite.min():.4g} to {finite.max():.4g}"


def config_beside(file: Path) -> Path:
    """Where a run keeps the configuration that a file of its quarantine was made with."""
    return RunFolder(file.absolute().parent.parent).config
