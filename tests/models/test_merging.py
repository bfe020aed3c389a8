"""Adapters merged into the weights that run: the same network, loaded over and over without drift."""

import copy

import pytest
import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.diffusion.kernels import Kernel, log_ratio, transition
from advdmd_ray.diffusion.sampling import rollout
from advdmd_ray.diffusion.schedule import student_sigmas
from advdmd_ray.errors import WeightsMismatchError
from advdmd_ray.learner.learner import RATIO_TOLERANCE
from advdmd_ray.models.discriminator import Discriminator
from advdmd_ray.models.families.base import Execution, TransformerDenoiser
from advdmd_ray.models.families.sd3 import SD3Denoiser
from advdmd_ray.models.lora import add_lora, is_adapter, merged_weights
from advdmd_ray.models.merging import MergedLinear, merge_adapters
from advdmd_ray.models.text import encode_prompts
from advdmd_ray.stations.weights.loading import VersionedModule
from advdmd_ray.stations.weights.snapshot import Snapshot, pack
from damage import damaged

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def prompts(tiny: StableDiffusion3Pipeline) -> Conditioning:
    return encode_prompts(tiny, ["a handwritten two", "a handwritten six"], 8)


def adapted(tiny: StableDiffusion3Pipeline, *, half: bool = False, alpha: float = 8.0) -> TransformerDenoiser:
    transformer = copy.deepcopy(tiny.transformer)
    for parameter in transformer.parameters():
        parameter.data = parameter.data.to(torch.bfloat16 if half else torch.float32)
    denoiser = SD3Denoiser(transformer, execution=Execution(autocast=half))
    return add_lora(denoiser, rank=4, alpha=alpha, targets=("to_q", "to_v", "to_out.0"), seed=1)


def published(role: TransformerDenoiser, version: int, scale: float = 0.05) -> Snapshot:
    """Moves the role's adapters and packs them."""
    generator = torch.Generator().manual_seed(version)
    with torch.no_grad():
        for name, parameter in role.named_parameters():
            if is_adapter(name):
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return pack("student", version, {name: p for name, p in role.named_parameters() if p.requires_grad})


def weights(network: TransformerDenoiser) -> list[torch.Tensor]:
    """Copies of all merged weights."""
    return [layer.merged.clone() for layer in network.modules() if isinstance(layer, MergedLinear)]


def test_a_worker_runs_one_matrix_a_layer_that_is_the_base_and_what_it_loaded(
    tiny: StableDiffusion3Pipeline, prompts: Conditioning
) -> None:
    role, actor = adapted(tiny), merge_adapters(adapted(tiny))
    assert dict(actor.state_dict()).keys() == dict(role.state_dict()).keys()
    snapshot = published(role, 3)
    x, t = torch.randn(2, *SHAPE), torch.tensor([0.2, 0.9])
    with torch.no_grad():
        before = actor(x, t, prompts)
        report = VersionedModule("rollout-0", actor).load(snapshot)
        assert report is not None
        assert report.digest == snapshot.manifest.digest
        torch.testing.assert_close(actor(x, t, prompts), role(x, t, prompts), rtol=0, atol=1e-5)
        assert (actor(x, t, prompts) - before).abs().max() > 1e-3
    whole, base = merged_weights(role), tiny.transformer.state_dict()
    layers = {name: layer for name, layer in actor.transformer.named_modules() if isinstance(layer, MergedLinear)}
    assert len(layers) == sum(".lora_A" in name for name, _ in role.named_parameters())
    for name, layer in layers.items():
        torch.testing.assert_close(layer.merged, whole[f"{name}.weight"], rtol=0, atol=1e-6)
        assert torch.equal(layer.base_layer.weight, base[f"{name}.weight"])


@pytest.mark.parametrize("half", [False, True])
def test_loading_many_versions_leaves_what_loading_the_last_alone_does(
    tiny: StableDiffusion3Pipeline, half: bool
) -> None:
    role = adapted(tiny, half=half)
    busy, fresh = (merge_adapters(adapted(tiny, half=half)) for _ in range(2))
    worker = VersionedModule("rollout-0", busy)
    last = published(role, 0)
    for version in range(1, 20):
        worker.load(last)
        last = published(role, version, 0.5)
    worker.load(last)
    VersionedModule("rollout-1", fresh).load(last)
    assert all(torch.equal(one, other) for one, other in zip(weights(busy), weights(fresh), strict=True))


def test_adapters_that_are_not_those_of_the_manifest_change_nothing_that_runs(tiny: StableDiffusion3Pipeline) -> None:
    actor = merge_adapters(adapted(tiny))
    before = weights(actor)
    snapshot = published(adapted(tiny), 1)
    with pytest.raises(WeightsMismatchError, match="rollout-0"):
        VersionedModule("rollout-0", actor).load(damaged(snapshot))
    assert all(torch.equal(one, other) for one, other in zip(before, weights(actor), strict=True))


def test_ratios_of_merged_actions_are_1_for_a_float32_learner_far_within_its_tolerance(
    tiny: StableDiffusion3Pipeline, prompts: Conditioning
) -> None:
    kernel, sigmas = Kernel.renoise(), student_sigmas([1.0, 0.75, 0.5, 0.25], 3.0)
    role, actor = adapted(tiny), merge_adapters(adapted(tiny))
    VersionedModule("rollout-0", actor).load(published(role, 1))
    made = rollout(actor, prompts, kernel, sigmas, shape=SHAPE, seeds=[1, 2])
    for step, std in enumerate(made.stds):
        x = made.latents[:, step]
        with torch.no_grad():
            velocity = role(x, sigmas[step].expand(2), prompts)
        mean = transition(kernel, x, velocity, sigmas[step], sigmas[step + 1]).mean
        assert not torch.equal(mean, made.means[:, step])  # it is another arithmetic
        deviation = log_ratio(made.latents[:, step + 1], mean, made.means[:, step], std).expm1().abs().max()
        assert deviation < 0.1 * RATIO_TOLERANCE["float32"]


@pytest.mark.parametrize("hold", ["own", "carried"])
def test_a_discriminator_judges_with_the_adapters_it_loaded(
    tiny: StableDiffusion3Pipeline, prompts: Conditioning, hold: str
) -> None:
    learner, judge = (
        Discriminator(backbone, blocks=(0, 2), width=8, hold=hold)  # pyright: ignore[reportArgumentType]
        for backbone in (adapted(tiny), merge_adapters(adapted(tiny)))
    )
    with torch.no_grad():
        for parameter in learner.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
        state = {name: p for name, p in learner.named_parameters() if p.requires_grad}
        VersionedModule("reward-0", judge).load(pack("discriminator", 0, state))
        inputs = (torch.randn(2, *SHAPE), torch.tensor([0.2, 0.9]), prompts)
        torch.testing.assert_close(judge(*inputs), learner(*inputs), rtol=1e-4, atol=1e-5)
