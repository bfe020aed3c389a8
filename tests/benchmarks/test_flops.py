"""The FLOPs that utilisation is made of are those that the networks and the learner's updates really run."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.diffusion.kernels import kernel_of
from advdmd_ray.learner.cadence import CyclePlan
from advdmd_ray.learner.gang import SoloGang
from advdmd_ray.models.diffusers_classes import transformer_class
from advdmd_ray.models.families.base import TransformerDenoiser
from advdmd_ray.models.families.sd3 import SD3Denoiser
from advdmd_ray.models.features import cut_after
from advdmd_ray.models.lora import add_lora
from advdmd_ray.runs.needs.compute import Network, Passes, cycle_cost, feature_share
from advdmd_ray.runs.parts.networks import build_networks
from advdmd_ray.stations.reward import group_info
from benchmarks.flops import forward_flops, update_flops
from benchmarks.learning import TimedLearner
from benchmarks.parts import (
    FAMILY,
    Learns,
    Settings,
    base_dtype,
    config_of,
    random_images,
    random_table,
    random_teacher,
    randomly_scored,
    sigmas_of,
)
from benchmarks.rollouts import time_rollouts
from benchmarks.sizes import FULL, TINY, Size
from benchmarks.timing import Stopwatch

CPU = torch.device("cpu")
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


def on_meta(size: Size) -> TransformerDenoiser:
    """The network without weights: shapes alone."""
    with torch.device("meta"):
        return SD3Denoiser(transformer_class(FAMILY).from_config(dict(size.transformer)))


def counted(denoiser: TransformerDenoiser, size: Size, *, backward: bool, to_input: bool = False) -> int:
    """FLOPs that torch counts for one image; its counter takes no leaf whose gradient is asked for as an input."""
    shape = size.transformer
    x = torch.empty(1, *size.latent, device="meta", requires_grad=to_input)
    embeds = torch.empty(1, size.text_tokens, shape["joint_attention_dim"], device="meta")
    prompt = Conditioning(embeds, torch.empty(1, shape["pooled_projection_dim"], device="meta"))
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        velocity = denoiser.velocity(1 * x, torch.empty(1, device="meta"), prompt)
        if to_input:
            torch.autograd.grad(velocity.sum(), x)
        elif backward:
            velocity.sum().backward()
    return counter.get_total_flops()


def test_the_full_size_has_the_weights_of_stable_diffusion_3_5_medium() -> None:
    transformer = on_meta(FULL).transformer
    blocks = transformer.transformer_blocks
    assert len(blocks) == 24
    assert [index for index, block in enumerate(blocks) if block.attn2 is not None] == list(range(13))
    weights = sum(weight.numel() for weight in transformer.parameters())
    assert weights == pytest.approx(2.24e9, rel=0.005)  # the published number; its table of positions does not learn
    assert sum(buffer.numel() for buffer in transformer.buffers()) == 384**2 * 1536


@pytest.mark.parametrize("size", [FULL, TINY], ids=["full", "tiny"])
def test_a_forward_has_exactly_the_flops_that_torch_counts(size: Size) -> None:
    assert forward_flops(size).forward == counted(on_meta(size).requires_grad_(False), size, backward=False)


@pytest.mark.parametrize("size", [FULL, TINY], ids=["full", "tiny"])
def test_a_forward_with_adapters_has_exactly_the_flops_that_torch_counts(size: Size) -> None:
    adapted = add_lora(on_meta(size), rank=size.rank, alpha=1.0, targets=TARGETS, seed=0).requires_grad_(False)
    assert forward_flops(size, rank=size.rank).forward == counted(adapted, size, backward=False)


def test_the_first_blocks_have_the_flops_that_torch_counts() -> None:
    short = cut_after(on_meta(FULL).requires_grad_(False), 16)
    assert forward_flops(FULL, blocks=17).forward == counted(short, FULL, backward=False)


# The first layers need no gradient of their input, and single vectors none at all where adapters learn.
@pytest.mark.parametrize(
    ("learns", "to_input", "expected"),
    [
        ("full", False, forward_flops(FULL).learnt),
        ("lora", False, forward_flops(FULL, rank=FULL.rank).learnt),
        ("lora", True, forward_flops(FULL, rank=FULL.rank).to_input),
    ],
)
def test_a_backward_has_the_flops_that_torch_counts_but_for_the_first_layers(
    learns: Learns, to_input: bool, expected: int
) -> None:
    network = on_meta(FULL)
    if learns == "lora":
        network = add_lora(network, rank=FULL.rank, alpha=1.0, targets=TARGETS, seed=0)
    found = counted(network, FULL, backward=True, to_input=to_input)
    assert 0.98 * expected <= found <= expected


class CountingStopwatch(Stopwatch):
    """Its time is the FLOPs so far."""

    def __init__(self, counter: FlopCounterMode) -> None:
        super().__init__(CPU)
        self._counter = counter

    def now(self) -> float:
        return float(self._counter.get_total_flops())


def counted_updates(learns: Learns) -> dict[str, float]:
    """FLOPs of one update of each objective of the tiny learner, as torch counts them, and those that we count."""
    settings = Settings(TINY, CPU, (learns,), engine="torch", checkpointing=False, rows=TINY.rows, warm_up=1, repeats=1)
    config, table = config_of(settings, learns), random_table(settings)
    teacher = random_teacher(settings, base_dtype(learns))
    _, group = time_rollouts(settings, config, teacher, table, Stopwatch(CPU))
    counter = FlopCounterMode(display=False)
    learner = TimedLearner(
        CountingStopwatch(counter),
        config,
        SoloGang(),
        build_networks(config, teacher, FAMILY, settings.device),
        table,
        random_images(settings),
        kernel=kernel_of(config.diffusion),
        sigmas=sigmas_of(config),
    )
    scored = randomly_scored(group, 0)
    with counter, sdpa_kernel(SDPBackend.MATH):
        learner.cycle([scored], [group_info(scored, 0)])
    return {name: timing.median / update_flops(config, TINY)[name] for name, timing in learner.timings().items()}


# The discriminator's tiny heads are a larger part of a tiny network than of a full one, its first layers too.
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # torch of its own speed, once a process
@pytest.mark.parametrize(("learns", "least", "most"), [("lora", 0.95, 1.0), ("full", 0.99, 1.01)])
def test_every_update_of_the_learner_has_the_flops_that_torch_counts(learns: Learns, least: float, most: float) -> None:
    shares = counted_updates(learns)
    assert set(shares) == {"fake_score", "discriminator", "dmd", "rl"}
    assert all(least <= share <= most for share in shares.values()), shares


@pytest.mark.parametrize("learns", ["full", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_executed_compute_of_an_update_is_its_flops(learns: Learns, checkpointing: bool) -> None:
    settings = Settings(TINY, CPU, (learns,), engine="torch", checkpointing=checkpointing, rows=TINY.rows)
    config = config_of(settings, learns)
    plan = CyclePlan(phase="full", fake_score=1, discriminator=1, dmd=1, policy_gradient=1)
    learning, forward = forward_flops(TINY, rank=config.lora.rank), forward_flops(TINY).forward
    network = Network(TINY.transformer["num_layers"], passes=Passes.of(learning))
    cost = cycle_cost(config, plan, network, group_size=config.rollout.group_size, executed=True)
    counted_here = update_flops(config, TINY)
    again = checkpointing * learning.forward
    rows = config.fake_score.batch_size
    assert cost.fake_score * forward == pytest.approx(counted_here["fake_score"] + rows * again)
    # Features cost their share of the blocks, which is not quite their share of the operations.
    again *= 1 + feature_share(config, network)
    assert cost.dmd * forward == pytest.approx(counted_here["dmd"] + config.dmd.batch_size * again, rel=0.1)


def test_updates_of_whole_networks_cost_what_comparisons_count() -> None:
    settings = Settings(TINY, CPU, ("full",), engine="torch", checkpointing=False, rows=TINY.rows)
    config = config_of(settings, "full")
    plan = CyclePlan(phase="full", fake_score=1, discriminator=1, dmd=1, policy_gradient=1)
    network, forward = Network(TINY.transformer["num_layers"]), forward_flops(TINY).forward
    cost = cycle_cost(config, plan, network, group_size=config.rollout.group_size)
    counted_here = update_flops(config, TINY)
    assert counted_here["fake_score"] == cost.fake_score * forward
    assert counted_here["rl"] == cost.rl * forward
