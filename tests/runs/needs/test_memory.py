"""Placement and memory, told before a run."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor, nn

from advdmd_ray.comparison.serial import SerialRun
from advdmd_ray.config import Config
from advdmd_ray.models.families.kept import FLOAT32, PLAIN, Backbone
from advdmd_ray.models.folder import LatentSpec, inspect_pipeline
from advdmd_ray.models.merging import MergedLinear
from advdmd_ray.models.targets import BlockLayers
from advdmd_ray.runs.needs import memory as estimate
from advdmd_ray.runs.needs.compute import Network, Passes
from advdmd_ray.runs.needs.disk import disk_need
from advdmd_ray.runs.needs.memory import PROCESS_BYTES, Sizes
from advdmd_ray.runs.parts.networks import build_denoiser, learning, loading
from pipeline_folder import LAYERS, NETWORKS, WEIGHTS, write_pipeline

pytestmark = pytest.mark.usefixtures("encoders_once")

BACKBONE = Backbone(width=8, tokens=20, blocks=(PLAIN,) * 4)


def sizes_with(transformer: int, latent: LatentSpec, adapters: int = 0, others: int = 0) -> Sizes:
    return Sizes(transformer, others, latent, BACKBONE, Network(layers=4), adapters)


SIZES = sizes_with(1000, LatentSpec(1, 8, 8), others=500)


def config_with(**sections: Mapping[str, object]) -> Config:
    return Config.model_validate(sections)


def learner_bytes(config: Config) -> int:
    """Of the networks and what trains them."""
    return networks_of(config, SIZES)["learner"]


def networks_of(config: Config, sizes: Sizes) -> dict[str, int]:
    """Bytes of one worker of each role without its process, activations, groups and copies."""
    besides = ("process", estimate.ACTIVATIONS, estimate.GROUPS, estimate.PUBLISHED)
    return {
        row.role: sum(size for name, size in row.parts if not name.startswith(besides))
        for row in estimate.memory(config, sizes)
    }


def test_sizes_come_from_the_headers_of_the_folder(tmp_path: Path) -> None:
    sizes = estimate.sizes_of(config_with(model={"path": str(write_pipeline(tmp_path / "teacher"))}))
    assert sizes.network.passes.learnt == 3
    sizes = replace(sizes, network=replace(sizes.network, passes=Passes()))
    assert sizes == Sizes(
        transformer=WEIGHTS,
        others=(len(NETWORKS) - 1) * WEIGHTS,
        latent=LatentSpec(1, 8, 8),
        # 16 image tokens, 77 of CLIP, model.max_sequence_length of T5.
        backbone=Backbone(width=8, tokens=16 + 77 + Config().model.max_sequence_length, blocks=(PLAIN,) * LAYERS),
        network=Network(LAYERS),
        encoded_whole=True,
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
    assert stored[1] - stored[0] == 2 * 1000 * FLOAT32  # one reward worker: the newest, and the one it scores with


@pytest.mark.parametrize(("actors", "age", "held"), [(1, 0, 2), (8, 0, 2), (8, 1, 2), (8, 3, 4), (2, 3, 3), (1, 5, 2)])
def test_the_object_store_holds_every_snapshot_that_work_was_begun_with(actors: int, age: int, held: int) -> None:
    rollout: dict[str, object] = {"actors": actors, "max_policy_age": age}
    demand, without = (
        estimate.object_store_demand(config_with(rollout=rollout), sizes)
        for sizes in (SIZES, replace(SIZES, transformer=0))
    )
    assert demand - without == held * 1000 * FLOAT32


def test_without_rl_the_student_has_one_moment_set_less() -> None:
    learner: dict[str, object] = {"engine": "torch"}
    saved = learner_bytes(config_with(learner=learner)) - learner_bytes(
        config_with(learner=learner, policy_gradient={"enabled": False})
    )
    assert saved == 2 * 1000 * FLOAT32


# stabilityai/stable-diffusion-3.5-medium: 2,243,171,520 weights; rank 32 on four maps of 37 attentions of width 1536.
MEDIUM = sizes_with(2_243_171_520, LatentSpec(16, 128, 128))
MEDIUM_ADAPTERS = 32 * (1536 + 1536) * 4 * 37
# Qwen/Qwen-Image: 20,430,401,088 weights; rank 32 on the four image maps of 60 attentions of width 3072.
QWEN = 20_430_401_088
QWEN_ADAPTERS = 32 * (3072 + 3072) * 4 * 60


def _rank_gib(config: Config, sizes: Sizes) -> float:
    return networks_of(config, sizes)["learner"] / 2**30


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
    sizes = sizes_with(weights, LatentSpec(16, 128, 128), adapters)
    assert _rank_gib(config, sizes) == pytest.approx(by_hand, rel=1e-3)
    held = networks_of(config, sizes)
    assert held["rollout"] == 2 * weights + 4 * adapters
    assert held["reward"] == 2 * weights


def test_a_base_in_8_bits_has_a_scale_an_output_and_a_block_as_its_products_need_it() -> None:
    sizes = sizes_with(10**9, LatentSpec(16, 128, 128), 10**6)
    settings: dict[str, dict[str, object]] = {
        "model": {"precision": "bfloat16", "quantization": "int8"},
        "lora": {"rank": 8},
        "learner": {"gradient_checkpointing": True},
    }
    stored = replace(sizes, in_blocks=BlockLayers(weights=9 * 10**8, outputs=10**6, largest=10**7))
    held = networks_of(config_with(**settings), stored)
    base = 2 * 10**8 + 9 * 10**8 + 5 * 10**6 + 2 * 10**7
    assert held["rollout"] == base + 4 * 10**6
    loaded = {row.role: row.loaded for row in estimate.memory(config_with(**settings), stored)}
    assert loaded["rollout"] == loaded["learner"] == 2 * 10**9, "it is loaded before it is stored in fewer bits"
    del settings["model"]["quantization"]
    half = networks_of(config_with(**settings), sizes)
    assert {role: half[role] - held[role] for role in ("rollout", "reward", "learner")} == dict.fromkeys(
        ("rollout", "reward", "learner"), 2 * 10**9 - base
    )


def activations_of(config: Config, role: str) -> tuple[str, int]:
    (row,) = (row for row in estimate.memory(config, SIZES) if row.role == role)
    ((name, size),) = ((name, size) for name, size in row.parts if name.startswith(estimate.ACTIVATIONS))
    return name, size


@pytest.mark.parametrize("role", ["rollout", "reward", "learner"])
def test_smaller_parts_hold_fewer_activations(role: str) -> None:
    whole, parts, one = (activations_of(config_with(**{role: {"micro_batch": rows}}), role)[1] for rows in (None, 4, 1))
    assert whole > parts == 4 * one


@pytest.mark.parametrize(("gan_weight", "as_one"), [(0.0, False), (1.0, True)])
def test_the_rows_of_a_group_are_held_together_where_the_direct_gan_term_needs_them(
    gan_weight: float, as_one: bool
) -> None:
    """One group of eight rows on a rank."""

    def held(micro_batch: int) -> int:
        settings = config_with(
            policy_gradient={"enabled": False},
            rollout={"groups_per_cycle": 1},
            dmd={"batch_size": 8, "gan_weight": gan_weight},
            discriminator={"auc_rows": 0},
            learner={"micro_batch": micro_batch},
        )
        name, size = activations_of(settings, "learner")
        assert name == "activations of a DMD update"
        return size

    assert (held(4) < 1.5 * held(1)) == as_one
    assert (held(4) == 4 * held(1)) != as_one


def test_checkpointing_holds_fewer_activations_in_the_learner_and_in_no_other_role() -> None:
    plain, frugal = (config_with(learner={"gradient_checkpointing": on}) for on in (False, True))
    for role in ("rollout", "reward"):
        assert activations_of(plain, role) == activations_of(frugal, role)
    assert activations_of(frugal, "learner")[1] < activations_of(plain, "learner")[1]


def test_bfloat16_halves_the_most_of_activations_and_copies_whole_networks() -> None:
    half: dict[str, object] = {"precision": "bfloat16"}
    full, copied = (activations_of(config_with(**extra), "rollout")[1] for extra in ({}, {"model": half}))
    shared = activations_of(config_with(model=half, lora={"rank": 1}), "rollout")[1]
    assert 0.5 * full < shared < 0.7 * full
    assert copied - shared == 2 * 1000


def test_the_learner_says_which_update_holds_the_most() -> None:
    assert activations_of(config_with(), "learner")[0] == "activations of an RL update"
    without = config_with(policy_gradient={"enabled": False}, fake_score={"batch_size": 512})
    assert activations_of(without, "learner")[0] == "activations of a fake-score update"
    gan = config_with(policy_gradient={"enabled": False}, dmd={"gan_weight": 1.0})
    assert activations_of(gan, "learner")[0] == "activations of a DMD update"
    own = config_with(discriminator={"backbone": "own", "batch_size": 512})
    assert activations_of(own, "learner")[0] == "activations of a discriminator update"


def test_the_average_and_the_groups_stay_in_host_memory() -> None:
    config = config_with(learner={"num_gpus": 1.0})
    (row,) = (row for row in estimate.memory(config, SIZES) if row.role == "learner")
    parts = dict(row.parts)
    assert row.host == PROCESS_BYTES + parts["EMA"] + parts[estimate.PUBLISHED] + parts[estimate.GROUPS]
    assert row.gpu == row.per_worker - row.host > 0
    (row,) = (row for row in estimate.memory(config, SIZES) if row.role == "rollout")
    assert (row.gpu, row.host) == (0, row.per_worker)


def test_an_actor_holds_a_group_for_each_lease_and_the_activations_of_one() -> None:
    one, three = (
        {name: size for row in estimate.memory(config, SIZES) if row.role == "rollout" for name, size in row.parts}
        for config in (config_with(rollout={"leases": 1}), config_with(rollout={"leases": 3}))
    )
    assert one[estimate.GROUPS] == estimate.group_bytes(config_with(), SIZES.latent)
    assert three == one | {estimate.GROUPS: 3 * one[estimate.GROUPS]}


def test_rank_0_alone_needs_room_for_the_averages_and_for_what_it_publishes() -> None:
    def learner(own: str) -> estimate.RoleMemory:
        config = config_with(learner={"ranks": 4, "zero_stage": 3}, discriminator={"backbone": own})
        return next(row for row in estimate.memory(config, SIZES) if row.role == "learner")

    for backbone, averages, published in (("teacher", 1, 1), ("fake_score", 1, 2), ("own", 2, 2)):
        row = learner(backbone)
        alone = (averages + published) * 1000 * FLOAT32
        assert row.host - row.host_of_another == alone
        assert row.host_of_all == 4 * row.host - 3 * alone


def test_a_network_passes_through_host_memory_on_its_way_to_a_gpu() -> None:
    sizes = sizes_with(10**9, LatentSpec(1, 8, 8))
    (row,) = (row for row in estimate.memory(config_with(reward={"num_gpus": 1.0}), sizes) if row.role == "reward")
    assert row.host == PROCESS_BYTES + 4 * 10**9


def test_zero_splits_moments_and_update_copies_over_the_ranks() -> None:
    one, two = (learner_bytes(config_with(learner={"ranks": ranks})) for ranks in (1, 2))
    assert one - two == (2 * 3 + 2) * 1000 * FLOAT32 // 2


def test_zero_3_splits_weights_and_gradients_too_and_gathers_a_network_for_a_pass() -> None:
    at = {
        stage: learner_bytes(config_with(learner={"ranks": 2, "zero_stage": stage}, rollout={"groups_per_cycle": 8}))
        for stage in (2, 3)
    }
    assert at[2] == (1 + 2 + 2 + (6 + 2) / 2 + 1) * 1000 * FLOAT32
    assert at[3] == (1 + (2 + 2 + 6 + 2) / 2 + 1 + 1) * 1000 * FLOAT32


def test_zero_3_gathers_a_gib_where_activations_are_made_again() -> None:
    plain, frugal = (
        _rank_gib(config_with(learner={"zero_stage": 3, "gradient_checkpointing": again}), MEDIUM)
        for again in (False, True)
    )
    assert plain - frugal == pytest.approx(MEDIUM.transformer * FLOAT32 / 2**30 - 1)


def test_over_many_ranks_the_networks_need_most_at_the_start_of_zero_3_when_they_are_whole() -> None:
    batch: dict[str, object] = {"batch_size": 64}
    config = config_with(
        learner={"ranks": 64, "zero_stage": 3, "gradient_checkpointing": True},
        rollout={"groups_per_cycle": 64},
        dmd=batch,
        fake_score=batch,
        discriminator=batch,
    )
    # teacher, student, fake score and EMA
    assert _rank_gib(config, MEDIUM) == pytest.approx(4 * MEDIUM.transformer * FLOAT32 / 2**30)


@pytest.mark.parametrize(("stage", "buffers"), [(1, 2), (2, 2), (3, 1)])
def test_what_is_offloaded_is_said_to_be_in_host_memory_and_needs_buffers_there(stage: int, buffers: int) -> None:
    kept, moved = (
        config_with(learner={"ranks": 2, "num_gpus": 1, "zero_stage": stage, "offload_optimizer": offload})
        for offload in (False, True)
    )
    assert learner_bytes(moved) - learner_bytes(kept) == buffers * 2 * 1000 * FLOAT32 // 2
    (row,) = (row for row in estimate.memory(moved, SIZES) if row.role == "learner")
    there = sum(size for name, size in row.parts if name.endswith("in host memory"))
    (on_gpu,) = (row.gpu for row in estimate.memory(kept, SIZES) if row.role == "learner")
    # The buffers are all that is new; nothing that is there is counted on the GPU.
    assert row.gpu == on_gpu - there + buffers * 2 * 1000 * FLOAT32 // 2
    assert [name for name, _ in row.parts if "host memory" in name] == [
        *(["gradients of 2 in host memory"] if stage == 3 else []),
        "3 moment sets in host memory",
        "update copies in host memory",
        "gradient buffers in host memory",
    ]


def test_every_worker_of_the_configuration_is_placed() -> None:
    config = config_with(rollout={"actors": 5, "num_cpus": 2.0}, reward={"workers": 3}, learner={"ranks": 4})
    workers = {role.name: role.workers for role in estimate.placement(config)}
    assert workers == {"rollout": 5, "reward": 3, "learner": 4, "metrics": 1}


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


def test_a_run_without_rl_needs_no_room_for_the_groups_of_rl() -> None:
    def sizes(*, rl: bool, **rollout: int) -> tuple[int, int, int]:
        config = config_with(rollout=rollout, policy_gradient={"enabled": rl})
        rows, scores = activations_of(config, "rollout")[1], activations_of(config, "reward")[1]
        return rows, scores, estimate.group_bytes(config, SIZES.latent)

    large, small = sizes(rl=False, group_size=16), sizes(rl=False, group_size=4)
    assert all(a > b for a, b in zip(large, small, strict=True))
    assert sizes(rl=False, group_size=16, warm_group_size=4) == small
    assert sizes(rl=True, group_size=16, warm_group_size=4) == sizes(rl=True, group_size=16)


@pytest.mark.parametrize("backbone", ["teacher", "own"])
@pytest.mark.parametrize("rank", [0, 4])
def test_the_estimate_is_what_a_learner_holds(rank: int, backbone: str) -> None:
    """Weights, moments and averages of a real learner in plain torch; gradients live only inside an update there."""
    config = config_with(
        model={"path": "builtin:digits"},
        lora={"rank": rank},
        learner={"engine": "torch"},
        # Rows are no part of what is held between updates.
        rollout={"group_size": 4, "groups_per_cycle": 2},
        dmd={"batch_size": 4},
        fake_score={"batch_size": 4},
        discriminator={"batch_size": 4, "backbone": backbone, "blocks": (1, 3), "width": 8, "text_errors": None},
        cadence={"warm_dmd_updates": 0, "ramp_interval": 1, "fake_score_updates": 1, "discriminator_updates": 1},
    )
    run = SerialRun(config)
    assert run.cycle().plan.policy_gradient == 1
    learner = run.learner
    assert isinstance(learner._settings[0].teacher, nn.Module)  # not guided
    tensors: list[Tensor] = [*learner._settings[0].teacher.parameters()]
    for engine in learner._engines.values():
        tensors += [*engine.module.parameters(), *engine.optimizer_state().values()]
    # Adapters share the teacher's tensors: each storage counts once.
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    averages = [tensor for name in ("student", "discriminator") for tensor in learner._averages.of(name).values()]
    measured = sum(storages.values()) + sum(average.untyped_storage().nbytes() for average in averages)
    (row,) = (row for row in estimate.memory(config, estimate.sizes_of(config)) if row.role == "learner")
    besides = ("process", "gradients", estimate.ACTIVATIONS, estimate.GROUPS)
    parts = [size for name, size in row.parts if not name.startswith(besides)]
    assert measured == pytest.approx(sum(parts), rel=0.15)
    if not rank:  # beside adapters of so small a network the heads would count
        stored = sum(tensor.nbytes for part in learner.tensors().values() for _, tensor in part)
        need = disk_need(config, inspect_pipeline(config.model.path))
        assert stored == pytest.approx(need.checkpoint, rel=0.15)


@pytest.mark.parametrize("rank", [1, 4])
def test_adapters_are_counted_from_the_headers(rank: int) -> None:
    config = config_with(
        model={"path": "builtin:digits"}, lora={"rank": rank, "targets": ("to_q", "to_out.0", "net.2")}
    )
    role = learning(config, build_denoiser(config), "student")
    counted = sum(parameter.numel() for parameter in role.parameters() if parameter.requires_grad)
    assert estimate.sizes_of(config).adapters == counted > 0


@pytest.mark.parametrize(
    ("precision", "merge", "merged"),
    [("float32", None, True), ("float32", False, False), ("bfloat16", None, False), ("bfloat16", True, True)],
)
def test_a_worker_that_merges_adapters_has_a_second_copy_of_their_layers(
    precision: str, merge: bool | None, merged: bool
) -> None:
    model = {"path": "builtin:digits", "precision": precision}
    config = config_with(model=model, lora={"rank": 2, "merge": merge})
    actor = loading(config, build_denoiser(config), "student")
    assert any(isinstance(layer, MergedLinear) for layer in actor.modules()) == merged
    held = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in (*actor.parameters(), *actor.buffers())
    }
    (row,) = (row for row in estimate.memory(config, estimate.sizes_of(config)) if row.role == "rollout")
    assert dict(row.parts)["student"] == pytest.approx(sum(held.values()), rel=0.02)
