"""A learner of images of two sizes: each cycle is of one, and real images, levels and samples are of that one too."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from advdmd_ray.data.real import RealImages
from advdmd_ray.diffusion.kernels import Kernel
from advdmd_ray.diffusion.resolution import Resolution
from advdmd_ray.diffusion.sampling import sample
from advdmd_ray.diffusion.seeds import group_noise
from advdmd_ray.learner.gang import SoloGang
from advdmd_ray.learner.learner import Learner
from advdmd_ray.learner.networks import Networks
from advdmd_ray.stations.records import ScoredGroup
from advdmd_ray.stations.reward import RewardWorker
from advdmd_ray.stations.rollout import RolloutWorker
from advdmd_ray.stations.weights.snapshot import pack
from small_parts import SIGMAS, Brightness, Mixer, config, infos_of, lease, normal, table

SIZES = (Resolution((1, 4, 4), SIGMAS), Resolution((1, 2, 6), torch.tensor([1.0, 0.7, 0.4, 0.0])))
EACH = 30


class OfTwoSizes:
    """Latents of both sizes in turn; rows of different sizes cannot be asked for together."""

    def __init__(self) -> None:
        shapes = [SIZES[row % 2].latent_shape for row in range(2 * EACH)]
        self._latents = [normal(*shape, seed=row) for row, shape in enumerate(shapes)]
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self._latents)

    def __getitem__(self, rows: Tensor) -> Tensor:
        self.asked.extend(rows.tolist())
        return torch.stack([self._latents[row] for row in rows.tolist()])


def groups_of(resolution: Resolution, student: Mixer, critic: Brightness, version: int) -> Sequence[ScoredGroup]:
    named: dict[str, Any] = {"kernel": Kernel.renoise(), "group_size_of": lambda _: 4}
    actor = RolloutWorker("rollout-0", student, table(), resolution_of=lambda _: resolution, **named)
    actor.load(pack("student", version, dict(student.named_parameters())))
    judge = RewardWorker("reward-0", critic, table(), final_levels=(0.1,))
    judge.load(pack("discriminator", version, dict(critic.named_parameters())))
    groups = [judge.score(actor.generate(lease(ordinal, version=version))) for ordinal in range(4)]
    for network in (student, critic):
        network.requires_grad_(requires_grad=True)
    return groups


def test_each_cycle_learns_from_real_images_of_its_own_size_and_the_student_is_sampled_at_both() -> None:
    latents = OfTwoSizes()
    real = RealImages(latents, torch.arange(2 * EACH) // 2 % 3, sizes=torch.arange(2 * EACH) % 2)
    student, critic = Mixer(1), Brightness()
    networks = Networks(Mixer(1), student, Mixer(20), critic)
    learner = Learner(config(), SoloGang(), networks, table(), real, kernel=Kernel.renoise(), resolutions=SIZES)
    for cycle, size in enumerate([1, 0, 1]):
        latents.asked.clear()
        before = student.spatial.detach().clone()
        groups = groups_of(SIZES[size], student, critic, cycle)
        report = learner.cycle(groups, infos_of(groups))
        assert {row % 2 for row in latents.asked} == {size}
        assert not torch.equal(student.spatial, before)
        assert report.updates["dmd"].updates == 1
    for size, resolution in enumerate(SIZES):
        drawn = learner.sample_ema(table().of(1, 2), [3, 4], size)
        average, start = Mixer(1), group_noise(resolution.latent_shape, [3, 4], "initial")
        average.load_state_dict(learner.ema())
        again = sample(average, table().of(1, 2), Kernel.renoise(), resolution.sigmas, start, [3, 4])
        torch.testing.assert_close(drawn, again)


def test_groups_of_two_sizes_are_no_batch() -> None:
    worker = RolloutWorker(
        "rollout-0",
        Mixer(1),
        table(),
        kernel=Kernel.renoise(),
        resolution_of=lambda ordinal: SIZES[ordinal // 2],
        group_size_of=lambda _: 2,
    )
    worker.load(pack("student", 0, dict(Mixer(1).named_parameters())))
    first, second, third = (worker.generate(lease(ordinal)) for ordinal in range(3))
    assert [group.latents.shape[2:] for group in (first, second, third)] == [(1, 4, 4), (1, 4, 4), (1, 2, 6)]
    assert third.sigmas.tolist() == SIZES[1].sigmas.tolist()
    with pytest.raises(ValueError, match="groups of one batch are of one size; ordinals 1, 2 are not"):
        worker.generate_together([lease(1), lease(2)])


def test_a_size_without_a_real_image_is_refused() -> None:
    real = RealImages(torch.zeros(4, 1, 2, 2), torch.zeros(4, dtype=torch.int64))
    assert len(real.of_size(0)) == 4
    with pytest.raises(ValueError, match="no real image is of size 1"):
        real.of_size(1)
