"""Images per second of the rollout station, and of a loop written by hand around the same transformer, in turns."""

import copy
from dataclasses import replace

import torch

from advdmd_ray.models.families.base import TransformerDenoiser
from advdmd_ray.models.pipeline import quiet
from advdmd_ray.runs.parts.micro_batch import forwards, settle
from advdmd_ray.stations.prompt_table import PromptTable
from advdmd_ray.stations.records import Lease, TrajectoryGroup
from advdmd_ray.stations.rollout import RolloutWorker
from advdmd_ray.stations.weights.snapshot import pack
from benchmarks.parts import Subject, acting_student
from benchmarks.plain import SCRIPTS, Script, plain_loop
from benchmarks.timing import Stopwatch, Timing, timed_in_turns

OURS, PLAIN = "ours", "plain diffusers loop"
LEASE = Lease(ordinal=0, attempt=0, prompt_id=0, seed=1, policy_version=0)


def rollout_worker(subject: Subject, teacher: TransformerDenoiser, table: PromptTable) -> RolloutWorker:
    """A rollout worker that runs the student's first version, as `build_rollout_worker` makes it of files."""
    config, shapes = subject.config, subject.shapes
    student = acting_student(subject, teacher)
    learns = {name: weight for name, weight in student.named_parameters() if weight.requires_grad}
    settle(config, "rollout", student, forwards(student, table, shapes.largest.latent_shape))
    worker = RolloutWorker(
        "rollout-0",
        student,
        table,
        kernel=shapes.kernel,
        resolution_of=lambda _: shapes.largest,
        group_size_of=config.group_size_of,
    )
    worker.load(pack("student", LEASE.policy_version, learns))
    return worker


def script_of(subject: Subject, teacher: TransformerDenoiser, table: PromptTable, images: int) -> Script:
    """The rival: the teacher's transformer in bfloat16, prompts on the device."""
    transformer = teacher.transformer
    if transformer.dtype != torch.bfloat16:
        with quiet():
            transformer = copy.deepcopy(transformer).to(torch.bfloat16)
    prompts = table.of(LEASE.prompt_id, images).to(subject.device, torch.bfloat16)
    _, height, width = subject.shapes.largest.latent_shape
    return SCRIPTS[subject.model.family](
        transformer, prompts.embeds, prompts.pooled, subject.config.model.guidance, (height, width)
    )


def time_rollouts(
    subject: Subject, teacher: TransformerDenoiser, table: PromptTable, stopwatch: Stopwatch
) -> tuple[dict[str, Timing], list[TrajectoryGroup]]:
    """Times a group of the rollout worker, from a lease to arrays in host memory, and one of the script, in turns.

    Returns:
        Both, and the groups of one cycle.
    """
    images, settings = subject.group_size, subject.settings
    worker, script = rollout_worker(subject, teacher, table), script_of(subject, teacher, table, images)
    noise = torch.randn(images, *subject.shapes.largest.latent_shape, device=subject.device)
    levels = subject.shapes.largest.sigmas.tolist()
    works = {OURS: lambda: worker.generate(LEASE), PLAIN: lambda: plain_loop(script, noise, levels)}
    timings = timed_in_turns(works, stopwatch, warm_up=settings.warm_up, repeats=settings.repeats)
    cycle = range(subject.config.rollout.groups_per_cycle)
    return timings, [worker.generate(replace(LEASE, ordinal=each, seed=1 + each)) for each in cycle]
