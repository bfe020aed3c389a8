"""A group on its way from its actor's device to the learner's, through an Arrow batch, in turns with plain copies.

Ray's store lies between both in a run; `make bench` has that part, which needs no GPU.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from advdmd_ray.diffusion.transfer import to_device, to_host
from advdmd_ray.learner.batch import collate
from advdmd_ray.stations.buffer.record_batch import decode_scored, encode_group, encode_scores
from advdmd_ray.stations.records import TrajectoryGroup
from benchmarks.parts import Subject, randomly_scored
from benchmarks.rollouts import OURS
from benchmarks.timing import Stopwatch, Timing, timed_in_turns

PINNED, PLAIN, LIMIT = "ours, pinned upwards too", "plain .cpu() and .to()", "limit: pinned copies"
BOTH_WAYS = 2

Ways = Mapping[str, Callable[[], Sequence[Tensor]]]


def ways_of(group: TrajectoryGroup, device: torch.device, seed: int = 0) -> Ways:
    """Each contestant's turn: from latents and means on the device to the same on the device, through host memory.

    Upwards a network of the learner brings rows by `.to`, as `TransformerDenoiser.whole` has it; what page-locked
    memory would make of that, with the copy into it, is a contestant of its own.

    Args:
        group: What travels.
        device: Of both ends.
        seed: Of the scores beside it.
    """
    there = [torch.from_numpy(values).to(device) for values in (group.latents, group.means)]
    scores = encode_scores(randomly_scored(group, seed))
    pinned = [torch.empty(each.shape, pin_memory=device.type == "cuda") for each in there]
    up = [torch.empty_like(each) for each in there]

    def collated() -> list[Tensor]:
        latents, means = to_host(*there)
        batch = encode_group(replace(group, latents=latents.numpy(), means=means.numpy()))
        cycle = collate([decode_scored(batch, scores)], group.policy_version)
        return [cycle.latents[0], cycle.means[0]]

    def copied() -> list[Tensor]:
        for come, host, back in zip(there, pinned, up, strict=True):
            host.copy_(come, non_blocking=True)
            back.copy_(host, non_blocking=True)  # behind the first, on the same stream
        return up

    return {
        OURS: lambda: [each.to(device) for each in collated()],
        PINNED: lambda: [to_device(each, device) for each in collated()],
        PLAIN: lambda: [each.cpu().to(device) for each in there],
        LIMIT: copied,
    }


def moved_bytes(group: TrajectoryGroup) -> int:
    """Bytes of latents and means, down and up."""
    return BOTH_WAYS * (group.latents.nbytes + group.means.nbytes)


def time_transfers(subject: Subject, group: TrajectoryGroup, stopwatch: Stopwatch) -> dict[str, Timing]:
    """Times all ways in turns."""
    settings = subject.settings
    works = ways_of(group, subject.device, settings.seed)
    return timed_in_turns(works, stopwatch, warm_up=settings.warm_up, repeats=settings.repeats)
