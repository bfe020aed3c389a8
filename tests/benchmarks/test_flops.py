"""The FLOPs that utilisation is made of are those that the networks and the learner's updates really run."""

from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.learner.cadence import CyclePlan
from advdmd_ray.learner.gang import SoloGang
from advdmd_ray.models.diffusers_classes import transformer_class
from advdmd_ray.models.families import adapter
from advdmd_ray.models.families.base import TransformerDenoiser
from advdmd_ray.models.features import cut_after
from advdmd_ray.models.lora import add_lora
from advdmd_ray.runs.needs.compute import cycle_cost
from advdmd_ray.runs.parts.networks import build_networks
from advdmd_ray.stations.reward import group_info
from bench_subjects import CPU, TINY_NAMES, subject_of
from benchmarks.flops import forward_flops, rollout_flops, update_flops
from benchmarks.learning import TimedLearner
from benchmarks.parts import Settings, Subject, random_images, random_table, random_teacher, randomly_scored
from benchmarks.plain import plain_loop
from benchmarks.rollouts import LEASE, rollout_worker, script_of, time_rollouts
from benchmarks.timing import Stopwatch

TERA = 10**12
UNCHECKED = Settings(CPU, engine="torch", checkpointing=False, warm_up=1, repeats=1)
OFTEN = ("tiny_sd3", "tiny_flux_lora")
"""A whole network with joint blocks alone, and adapters of a network with single ones too."""
SOME_NAMES = [pytest.param(name, marks=[] if name in OFTEN else [pytest.mark.wide]) for name in TINY_NAMES]


def on_meta(subject: Subject) -> TransformerDenoiser:
    """The network without weights: shapes alone."""
    with torch.device("meta"):
        transformer = transformer_class(subject.info.family).from_config(dict(subject.model.transformer))
    return adapter(subject.info.family).denoiser(transformer, 1.0)


def counted(denoiser: TransformerDenoiser, subject: Subject) -> int:
    """FLOPs that torch counts in a forward for one image."""
    shape = subject.model.transformer
    x = torch.empty(1, *subject.shapes.largest.latent_shape, device="meta")
    embeds = torch.empty(1, subject.text_tokens, shape["joint_attention_dim"], device="meta")
    prompt = Conditioning(embeds, torch.empty(1, shape["pooled_projection_dim"], device="meta"))
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        denoiser.velocity(x, torch.empty(1, device="meta"), prompt)
    return counter.get_total_flops()


def test_full_size_forwards_with_adapters_and_of_the_first_blocks_have_the_flops_that_torch_counts(
    tmp_path: Path,
) -> None:
    subject = subject_of("sd35_medium_lora", tmp_path)
    network, lora = on_meta(subject).requires_grad_(False), subject.config.lora
    plain = counted(network, subject)
    assert forward_flops(subject).forward == pytest.approx(plain, rel=1e-3)
    assert plain / TERA == pytest.approx(11.2, abs=0.05)
    short = counted(cut_after(network, 16), subject)
    assert forward_flops(subject, blocks=17).forward == pytest.approx(short, rel=2e-3)
    adapted = add_lora(network, rank=lora.rank, alpha=1.0, targets=lora.targets, seed=0).requires_grad_(False)
    extra = forward_flops(subject, adapted=True).forward - forward_flops(subject).forward
    assert extra == pytest.approx(counted(adapted, subject) - plain, rel=1e-6)


def test_a_full_size_update_is_what_arithmetic_by_hand_says(tmp_path: Path) -> None:
    subject = subject_of("flux_dev_lora", tmp_path)
    width, tokens, rank = 24 * 128, 64 * 64 + 512, 64
    blocks = 57 * 2 * 12 * tokens * width**2  # multiplications with weights, twice
    attention = 57 * 2 * 2 * tokens**2 * width
    # Joint blocks have adapters of 4 maps of the image and 4 of the text, single ones of 3 of both.
    adapters = 2 * rank * 2 * width * (19 * 4 * tokens + 38 * 3 * tokens)
    learnt = 2 * blocks + 3 * (attention + adapters)
    forward = blocks + attention
    updates = update_flops(subject)
    assert rollout_flops(subject) == pytest.approx(16 * 4 * forward, rel=0.005)
    # Half of the recipe's 16 rows; guidance is an input, so the teacher is called once.
    assert updates["fake_score"] == pytest.approx(8 * learnt, rel=0.005)
    read = 38 / 57  # by the tokens that blocks work on, all are alike
    to_input = 2 * (blocks + adapters) + 3 * attention
    matching = learnt + forward + adapters + forward + read * to_input
    assert updates["dmd"] == pytest.approx(8 * matching, rel=0.01)
    # Real, generated, and real ones with another text.
    assert updates["discriminator"] == pytest.approx(3 * 8 * read * learnt, rel=0.01)
    # The last action of 8 rows of each of two groups.
    assert updates["rl"] == pytest.approx(2 * 8 * learnt, rel=0.005)


class CountingStopwatch(Stopwatch):
    """Its time is the FLOPs so far."""

    def __init__(self, counter: FlopCounterMode) -> None:
        super().__init__(CPU)
        self._counter = counter

    def now(self) -> float:
        return float(self._counter.get_total_flops())


def counted_updates(subject: Subject) -> dict[str, float]:
    """FLOPs of one update of each objective of a tiny learner, as torch counts them, in those that we count."""
    config, table, teacher = subject.config, random_table(subject), random_teacher(subject)
    _, groups = time_rollouts(subject, teacher, table, Stopwatch(CPU))
    counter = FlopCounterMode(display=False)
    learner = TimedLearner(
        CountingStopwatch(counter),
        config,
        SoloGang(),
        build_networks(config, teacher, subject.info.family, CPU),
        table,
        random_images(subject),
        kernel=subject.shapes.kernel,
        resolutions=subject.shapes.resolutions,
    )
    scored = [randomly_scored(group, 0) for group in groups]
    with counter, sdpa_kernel(SDPBackend.MATH):
        learner.cycle(scored, [group_info(each, 0) for each in scored])
    counted_here = update_flops(subject)
    return {name: timing.median / counted_here[name] for name, timing in learner.timings().items()}


# The discriminator's tiny heads, maps of one vector and first layers, whose input needs no gradient, are a larger part
# of a tiny network than of a full one.
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # torch of its own speed, once a process
@pytest.mark.parametrize("name", SOME_NAMES)
def test_every_update_of_the_learner_has_the_flops_that_torch_counts(name: str, tmp_path: Path) -> None:
    shares = counted_updates(subject_of(name, tmp_path, UNCHECKED))
    assert set(shares) == {"fake_score", "discriminator", "dmd", "rl"}
    assert all(0.9 <= share <= 1.1 for share in shares.values()), shares


@pytest.mark.parametrize("name", SOME_NAMES)
def test_rollouts_of_both_contestants_have_the_flops_that_torch_counts(name: str, tmp_path: Path) -> None:
    subject = subject_of(name, tmp_path)
    teacher, table, shapes = random_teacher(subject), random_table(subject), subject.shapes
    worker, script = rollout_worker(subject, teacher, table), script_of(subject, teacher, table, subject.group_size)
    noise = torch.randn(subject.group_size, *shapes.largest.latent_shape)
    for work in (lambda: worker.generate(LEASE), lambda: plain_loop(script, noise, shapes.largest.sigmas.tolist())):
        counter = FlopCounterMode(display=False)
        with counter, sdpa_kernel(SDPBackend.MATH):
            work()
        assert counter.get_total_flops() == pytest.approx(rollout_flops(subject), rel=0.06)


@pytest.mark.parametrize("name", ["tiny_sd3", "tiny_sd3_lora"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_executed_compute_of_an_update_is_its_flops(name: str, checkpointing: bool, tmp_path: Path) -> None:
    settings = Settings(CPU, engine="torch", checkpointing=checkpointing)
    subject = subject_of(name, tmp_path, settings)
    config, forward = subject.config, forward_flops(subject).forward
    plan = CyclePlan(phase="full", fake_score=1, discriminator=1, dmd=1, policy_gradient=1)
    cost = cycle_cost(config, plan, subject.sizes.network, group_size=subject.group_size, executed=True)
    again = checkpointing * forward_flops(subject, adapted=True).forward
    expected = update_flops(subject)["fake_score"] + config.fake_score.batch_size * again
    assert cost.fake_score * forward == pytest.approx(expected)
