"""Placement and memory, told before a run."""

from pathlib import Path

import pytest
from pipeline_folder import NETWORKS, WEIGHTS, write_pipeline
from torch import Tensor, nn

from advdmd_ray import estimate
from advdmd_ray.assembly import build_denoiser, learning
from advdmd_ray.config import Config
from advdmd_ray.estimate import FLOAT32, PROCESS_BYTES, Sizes
from advdmd_ray.models.folder import LatentSpec
from advdmd_ray.serial import SerialRun

SIZES = Sizes(transformer=1000, others=500, latent=LatentSpec(1, 8, 8))


def config_with(**sections: dict[str, object]) -> Config:
    return Config.model_validate(sections)


def learner_bytes(config: Config) -> int:
    (row,) = (row for row in estimate.memory(config, SIZES) if row.role == "learner")
    return row.per_worker - PROCESS_BYTES


def test_sizes_come_from_the_headers_of_the_folder(tmp_path: Path) -> None:
    sizes = estimate.sizes_of(config_with(model={"path": str(write_pipeline(tmp_path / "teacher"))}))
    assert sizes == Sizes(
        transformer=WEIGHTS, others=(len(NETWORKS) - 1) * WEIGHTS, latent=LatentSpec(1, 8, 8), encoded_whole=True
    )


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


# stabilityai/stable-diffusion-3.5-medium: 2,243,171,520 weights; rank 32 on four maps of 37 attentions of width 1536.
MEDIUM = Sizes(2_243_171_520, 0, LatentSpec(16, 128, 128))
MEDIUM_ADAPTERS = 32 * (1536 + 1536) * 4 * 37
# Qwen/Qwen-Image: 20,430,401,088 weights; rank 32 on the four image maps of 60 attentions of width 3072.
QWEN = 20_430_401_088
QWEN_ADAPTERS = 32 * (3072 + 3072) * 4 * 60


def _rank_gib(config: Config, sizes: Sizes) -> float:
    (row,) = (row for row in estimate.memory(config, sizes) if row.role == "learner")
    return (row.per_worker - PROCESS_BYTES) / 2**30


def test_sd35_medium_whole_is_what_a_calculation_by_hand_says() -> None:
    # 3 networks, gradients of 2, moments 3 x 2, update copies of 2, 1 average: 14 times 8.356 GiB
    assert _rank_gib(config_with(), MEDIUM) == pytest.approx(14 * 2.243171520e9 * 4 / 2**30)
    # Four ranks of ZeRO 1 hold a quarter of moments and update copies each.
    shared = config_with(learner={"ranks": 4}, rollout={"groups_per_cycle": 8})
    assert _rank_gib(shared, MEDIUM) == pytest.approx((6 + 8 / 4) * 2.243171520e9 * 4 / 2**30)


@pytest.mark.parametrize(
    ("weights", "adapters", "by_hand"),
    [(MEDIUM.transformer, MEDIUM_ADAPTERS, 4.178 + 13 * 0.0542), (QWEN, QWEN_ADAPTERS, 38.054 + 13 * 0.1758)],
)
def test_adapters_are_one_base_in_half_precision_and_little_more(weights: int, adapters: int, by_hand: float) -> None:
    config = config_with(lora={"rank": 32}, model={"precision": "bfloat16"})
    # One base of two bytes; of adapters 2 roles, gradients of 2, moments 3 x 2, update copies of 2, 1 average.
    sizes = Sizes(weights, 0, LatentSpec(16, 128, 128), adapters)
    assert _rank_gib(config, sizes) == pytest.approx(by_hand, rel=1e-3)
    held = {row.role: row.per_worker - PROCESS_BYTES for row in estimate.memory(config, sizes)}
    assert held["rollout"] == 2 * weights + 4 * adapters
    assert held["reward"] == 2 * weights


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


@pytest.mark.parametrize("backbone", ["teacher", "own"])
@pytest.mark.parametrize("rank", [0, 4])
def test_the_estimate_is_what_a_learner_holds(rank: int, backbone: str) -> None:
    """Weights, moments and averages of a real learner in plain torch; gradients live only inside an update there."""
    config = config_with(
        model={"path": "builtin:digits"},
        lora={"rank": rank},
        learner={"engine": "torch"},
        discriminator={"backbone": backbone, "blocks": (1, 3), "width": 8, "auc_low": 0.0},
        cadence={"warm_dmd_updates": 0, "ramp_interval": 1},
    )
    run = SerialRun(config)
    assert run.cycle().plan.policy_gradient == 1
    learner = run.learner
    assert isinstance(learner._setting.teacher, nn.Module)  # not guided
    tensors: list[Tensor] = [*learner._setting.teacher.parameters()]
    for engine in learner._engines.values():
        tensors += [*engine.module.parameters(), *engine.optimizer_state().values()]
    # Adapters share the teacher's tensors: each storage counts once.
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    averages = (*learner.ema().values(), *learner._judge.state().values())
    measured = sum(storages.values()) + sum(average.untyped_storage().nbytes() for average in averages)
    (row,) = (row for row in estimate.memory(config, estimate.sizes_of(config)) if row.role == "learner")
    parts = [size for name, size in row.parts if name != "process" and not name.startswith("gradients")]
    assert measured == pytest.approx(sum(parts), rel=0.15)


@pytest.mark.parametrize("rank", [1, 4])
def test_adapters_are_counted_from_the_headers(rank: int) -> None:
    config = config_with(
        model={"path": "builtin:digits"}, lora={"rank": rank, "targets": ("to_q", "to_out.0", "net.2")}
    )
    role = learning(config, build_denoiser(config), "student")
    counted = sum(parameter.numel() for parameter in role.parameters() if parameter.requires_grad)
    assert estimate.sizes_of(config).adapters == counted > 0
