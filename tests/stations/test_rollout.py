"""The rollout station: what a lease becomes, whoever works on it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from advdmd_ray.diffusion import denoiser, sampling
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.diffusion.kernels import Kernel
from advdmd_ray.errors import WeightsMismatchError
from advdmd_ray.stations import rollout as rollout_station
from advdmd_ray.stations.records import TrajectoryGroup
from advdmd_ray.stations.rollout import sample_seeds
from advdmd_ray.stations.weights.snapshot import pack
from damage import damaged
from small_parts import POOLED, SHAPE, SIGMAS, Mixer, lease, rollout_worker, table


def _same(first: TrajectoryGroup, second: TrajectoryGroup) -> bool:
    names = ("seeds", "sigmas", "latents", "means", "stds")
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in names)


@given(ordinal=st.integers(0, 10**6), prompt=st.integers(0, 2))
def test_a_group_belongs_to_the_lease_and_not_to_the_worker_or_its_past(ordinal: int, prompt: int) -> None:
    wanted = lease(3 * ordinal + prompt)
    fresh, used = rollout_worker(Mixer(1), name="a"), rollout_worker(Mixer(1), name="b")
    used.generate(lease(7))
    assert _same(fresh.generate(wanted), used.generate(wanted))


def test_two_ordinals_and_two_samples_share_no_noise() -> None:
    worker = rollout_worker(Mixer(1))
    start = np.concatenate([worker.generate(lease(ordinal)).latents[:, 0] for ordinal in range(3)])
    assert len(np.unique(start.reshape(12, -1), axis=0)) == 12


@given(st.integers(0, 2**62), st.integers(1, 32))
def test_a_larger_group_begins_with_the_seeds_of_a_smaller_one(seed: int, size: int) -> None:
    seeds = sample_seeds(seed, size + 1)
    assert seeds[:size] == sample_seeds(seed, size)
    assert len(set(seeds)) == size + 1


def test_groups_of_different_sizes_are_generated_together_as_they_are_alone() -> None:
    worker = rollout_worker(Mixer(1), group_size=lambda ordinal: 2 + 3 * ordinal)
    together = worker.generate_together([lease(0), lease(2), lease(1)])
    for group, (ordinal, size) in zip(together, [(0, 2), (2, 8), (1, 5)], strict=True):
        alone = worker.generate(lease(ordinal))
        assert group.ordinal == ordinal
        assert len(group.latents) == len(group.means) == size
        np.testing.assert_array_equal(group.seeds, alone.seeds)
        np.testing.assert_allclose(group.latents, alone.latents, atol=1e-5)


def test_a_group_carries_its_lease_and_float32_shapes() -> None:
    group = rollout_worker(Mixer(1), version=5, group_size=6).generate(lease(4, version=5))
    assert (group.ordinal, group.prompt_id, group.policy_version) == (4, 1, 5)
    assert group.latents.shape == (6, 4, *SHAPE)
    assert group.means.shape == (6, 2, *SHAPE)
    assert group.latents.dtype == group.means.dtype == group.stds.dtype == np.float32
    np.testing.assert_array_equal(group.stds, np.array([0.6, 0.3], np.float32))


def test_the_states_are_the_means_plus_the_noise_of_their_std() -> None:
    group = rollout_worker(Mixer(1), group_size=64).generate(lease(0))
    z = (group.latents[:, 1:3] - group.means) / group.stds.reshape(1, 2, 1, 1, 1)
    assert abs(z.mean()) < 0.06
    assert abs(z.std() - 1) < 0.05


def test_the_state_is_where_the_network_is_at_every_step_and_comes_back_once(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    class Watched(Mixer):
        def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
            events.append("network")
            return super().forward(x, t, conditioning)

    def back(*tensors: Tensor) -> list[Tensor]:
        events.append("back")
        return list(tensors)

    def onto(tensor: Tensor, device: torch.device) -> Tensor:
        events.append(f"{len(tensor)} rows out")
        return tensor.to(device)

    monkeypatch.setattr(rollout_station, "to_host", back)
    monkeypatch.setattr(sampling, "to_device", onto)
    monkeypatch.setattr(denoiser, "to_device", onto)
    rollout_worker(Watched(1)).generate(lease(0))
    sent, noise = ["4 rows out"] * 2, ["4 rows out"]  # the prompts; the noise of a step, drawn behind its network
    assert events == [*sent, *noise, "network", *noise, "network", *noise, "network", "back"]


def test_the_prompt_decides_what_is_generated() -> None:
    worker = rollout_worker(Mixer(1))
    one = worker.generate(lease(0))
    two = worker.generate(type(lease(0))(0, 0, 1, lease(0).seed, 0))
    np.testing.assert_array_equal(one.latents[:, 0], two.latents[:, 0])
    assert not np.allclose(one.latents[:, 1], two.latents[:, 1])


def test_an_ode_group_has_no_actions() -> None:
    group = rollout_worker(Mixer(1), kernel=Kernel.ode()).generate(lease(0))
    assert group.means.shape == (4, 0, *SHAPE)
    assert group.stds.shape == (0,)


def test_a_worker_refuses_a_lease_for_another_version_than_it_runs() -> None:
    with pytest.raises(ValueError, match=r"rollout-0 runs student version 2.*leased for version 3"):
        rollout_worker(Mixer(1), version=2).generate(lease(0, version=3))


def test_loading_changes_what_is_generated_and_reports_the_digest_of_the_network() -> None:
    worker = rollout_worker(Mixer(1))
    before = worker.generate(lease(0))
    snapshot = pack("student", 1, dict(Mixer(2).named_parameters()))
    report = worker.load(snapshot)
    assert report is not None
    assert (report.worker, report.stream, report.version) == ("rollout-0", "student", 1)
    assert report.digest == snapshot.manifest.digest
    assert worker.load(snapshot) is None
    after = worker.generate(lease(0, version=1))
    assert _same(after, rollout_worker(Mixer(2), version=1).generate(lease(0, version=1)))
    assert not np.allclose(before.latents[:, 1], after.latents[:, 1])


def test_a_flipped_bit_of_a_snapshot_is_refused_and_the_old_version_goes_on() -> None:
    worker = rollout_worker(Mixer(1))
    before = worker.generate(lease(0))
    snapshot = pack("student", 1, dict(Mixer(2).named_parameters()))
    with pytest.raises(WeightsMismatchError, match=r"rollout-0: student version 1"):
        worker.load(damaged(snapshot))
    assert _same(before, worker.generate(lease(0)))


def test_a_rollout_keeps_no_graph_and_trains_nothing() -> None:
    student = Mixer(1)
    rollout_worker(student)
    assert not any(parameter.requires_grad for parameter in student.parameters())
    assert table().rows(torch.arange(3)).pooled.shape == (3, POOLED)
    assert float(SIGMAS[-1]) == 0
    assert torch.is_grad_enabled()
