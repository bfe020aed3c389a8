"""Placement and memory, told before a run."""

from pathlib import Path

import pytest
from pipeline_folder import NETWORKS, WEIGHTS, write_pipeline

from advdmd_ray import estimate
from advdmd_ray.config import Config
from advdmd_ray.estimate import FLOAT32, PROCESS_BYTES, Sizes
from advdmd_ray.models.folder import LatentSpec

SIZES = Sizes(transformer=1000, others=500, latent=LatentSpec(1, 8, 8))


def config_with(**sections: dict[str, object]) -> Config:
    return Config.model_validate(sections)


def learner_bytes(config: Config) -> int:
    (row,) = (row for row in estimate.memory(config, SIZES) if row.role == "learner")
    return row.per_worker - PROCESS_BYTES


def test_sizes_come_from_the_headers_of_the_folder(tmp_path: Path) -> None:
    sizes = estimate.sizes_of(config_with(model={"path": str(write_pipeline(tmp_path / "teacher"))}))
    assert sizes == Sizes(transformer=WEIGHTS, others=(len(NETWORKS) - 1) * WEIGHTS, latent=LatentSpec(1, 8, 8))


def test_plain_torch_on_one_rank_holds_what_adam_needs() -> None:
    # 3 networks, gradients of 2, 2 moments for each of 3 objectives, 1 moving average, 4 bytes each
    assert learner_bytes(config_with(learner={"engine": "torch"})) == (3 + 2 + 2 * 3 + 1) * 1000 * FLOAT32


def test_a_discriminator_with_a_backbone_of_its_own_is_one_network_more() -> None:
    own: dict[str, object] = {"backbone": "own"}
    plain, more = (
        learner_bytes(config_with(learner={"engine": "torch"}, **extra)) for extra in ({}, {"discriminator": own})
    )
    # weights, gradients, two moments, and the average that judges
    assert more - plain == 5 * 1000 * FLOAT32
    stored = [estimate.object_store_demand(config_with(**extra), SIZES) for extra in ({}, {"discriminator": own})]
    assert stored[1] - stored[0] == Config().weights.keep * 1000 * FLOAT32


def test_without_rl_the_student_has_one_moment_set_less() -> None:
    learner: dict[str, object] = {"engine": "torch"}
    saved = learner_bytes(config_with(learner=learner)) - learner_bytes(
        config_with(learner=learner, policy_gradient={"enabled": False})
    )
    assert saved == 2 * 1000 * FLOAT32


def test_zero_splits_moments_and_update_copies_over_the_ranks() -> None:
    one, two = (learner_bytes(config_with(learner={"ranks": ranks})) for ranks in (1, 2))
    assert one - two == (2 * 3 + 2) * 1000 * FLOAT32 // 2


def test_every_worker_of_the_configuration_is_placed() -> None:
    config = config_with(rollout={"actors": 5, "num_cpus": 2.0}, reward={"workers": 3}, learner={"ranks": 4})
    workers = {role.name: role.workers for role in estimate.placement(config)}
    assert workers == {"rollout": 5, "reward": 3, "learner": 4, "buffer": 1, "weights": 1, "metrics": 1}


def test_the_address_of_the_configuration_goes_before_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert estimate.ray_address(Config()) is None
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert estimate.ray_address(Config()) == "10.0.0.1:6379"
    assert estimate.ray_address(config_with(ray={"address": "auto"})) == "auto"
    assert estimate.ray_address(config_with(ray={"address": "local"})) is None


def test_a_cycle_of_groups_needs_the_room_it_takes(tmp_path: Path) -> None:
    config = config_with(model={"path": str(write_pipeline(tmp_path / "teacher"))})
    latent = estimate.sizes_of(config).latent
    numbers = config.rollout.group_size * 2 * config.steps * latent.numel
    one = estimate.group_bytes(config, latent)
    assert numbers * FLOAT32 < one < 1.5 * numbers * FLOAT32
    double = config_with(rollout={"group_size": 2 * config.rollout.group_size})
    assert one < estimate.group_bytes(double, latent) <= 2 * one


def test_the_plan_names_every_role_and_its_memory(tmp_path: Path) -> None:
    text = estimate.plan_text(config_with(model={"path": str(write_pipeline(tmp_path / "teacher"))}))
    for role in ("driver", "rollout", "reward", "learner", "buffer", "weights", "metrics", "store", "total"):
        assert f"  {role} " in text
