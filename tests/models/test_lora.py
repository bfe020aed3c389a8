"""Adapters over a shared base: what they change, what they leave, and what of them travels."""

import pytest
import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
from torch import nn

from advdmd_ray.config.inputs import LoraSection
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.errors import UserError, WeightsMismatchError
from advdmd_ray.models.diffusers_classes import SD3Transformer2DModel
from advdmd_ray.models.discriminator import Discriminator
from advdmd_ray.models.families.base import TransformerDenoiser
from advdmd_ray.models.families.sd3 import SD3Denoiser
from advdmd_ray.models.lora import adapter_weights, add_lora, is_adapter, merged_weights, sharing_copy
from advdmd_ray.models.targets import targeted
from advdmd_ray.models.text import encode_prompts
from advdmd_ray.stations.weights.loading import VersionedModule
from advdmd_ray.stations.weights.snapshot import pack

TARGETS = ("to_q", "to_v", "to_out.0")


@pytest.fixture
def base(tiny: StableDiffusion3Pipeline) -> TransformerDenoiser:
    return SD3Denoiser(tiny.transformer)


@pytest.fixture(scope="module")
def inputs(tiny: StableDiffusion3Pipeline) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    generator = torch.Generator().manual_seed(0)
    prompts = encode_prompts(tiny, ["a handwritten two", "a handwritten six"], 8)
    return torch.randn(2, 1, 8, 8, generator=generator), torch.tensor([0.2, 0.9]), prompts


def adapted(base: TransformerDenoiser, seed: int = 1, *, alpha: float = 8.0) -> TransformerDenoiser:
    return add_lora(sharing_copy(base), rank=4, alpha=alpha, targets=TARGETS, seed=seed)


def moved(network: TransformerDenoiser, scale: float = 0.05) -> TransformerDenoiser:
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if is_adapter(name):
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return network


def test_roles_share_the_base_and_nothing_else(base: TransformerDenoiser) -> None:
    one, two = adapted(base), adapted(base, 2)
    held = {id(parameter) for parameter in base.parameters()}
    for role in (one, two):
        for name, parameter in role.named_parameters():
            assert (id(parameter) in held) == (not is_adapter(name))
            assert parameter.requires_grad == is_adapter(name)
    own = [{id(p) for name, p in role.named_parameters() if is_adapter(name)} for role in (one, two)]
    assert own[0]
    assert not own[0] & own[1]


def test_fresh_adapters_change_nothing_and_moved_ones_one_role_alone(
    base: TransformerDenoiser, inputs: tuple[torch.Tensor, torch.Tensor, Conditioning]
) -> None:
    with torch.no_grad():
        before = base(*inputs)
        one, two = adapted(base), adapted(base, 2)
        assert torch.equal(one(*inputs), before)
        moved(one)
        assert (one(*inputs) - before).abs().max() > 1e-3
        assert torch.equal(two(*inputs), before)
        assert torch.equal(base(*inputs), before)


def test_the_backward_pass_of_one_role_reaches_its_own_adapters_alone(
    base: TransformerDenoiser, inputs: tuple[torch.Tensor, torch.Tensor, Conditioning]
) -> None:
    one, two = moved(adapted(base)), moved(adapted(base, 2))
    loss = one(*inputs).square().mean()
    two(*inputs)  # another role at work between forward and backward changes nothing
    loss.backward()
    assert all((p.grad is not None) == is_adapter(name) for name, p in one.named_parameters())
    assert all(p.grad is None for p in (*two.parameters(), *base.parameters()))


def test_merged_weights_are_the_whole_network(
    base: TransformerDenoiser, inputs: tuple[torch.Tensor, torch.Tensor, Conditioning]
) -> None:
    role = moved(adapted(base))
    merged = merged_weights(role)
    assert merged.keys() == base.transformer.state_dict().keys()
    plain = SD3Denoiser(type(base.transformer).from_config(base.transformer.config))
    plain.transformer.load_state_dict(merged)
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(*inputs), role(*inputs), rtol=0, atol=1e-5)
        assert (plain(*inputs) - base(*inputs)).abs().max() > 1e-3


def test_alpha_scales_what_adapters_add(
    base: TransformerDenoiser, inputs: tuple[torch.Tensor, torch.Tensor, Conditioning]
) -> None:
    name = "transformer_blocks.0.attn.to_q.weight"
    whole = base.transformer.state_dict()[name]
    single, double = (merged_weights(moved(adapted(base, alpha=alpha)))[name] - whole for alpha in (4.0, 8.0))
    torch.testing.assert_close(double, 2 * single, rtol=1e-3, atol=1e-7)


def test_the_seed_names_the_adapters(base: TransformerDenoiser) -> None:
    first, again, other = (dict(adapted(base, seed).named_parameters()) for seed in (1, 1, 2))
    names = [name for name in first if "lora_A" in name]
    assert all(torch.equal(first[name], again[name]) for name in names)
    assert not any(torch.equal(first[name], other[name]) for name in names)


def test_a_layer_that_is_not_there_is_named_with_those_that_are(base: TransformerDenoiser) -> None:
    with pytest.raises(UserError, match=r"no linear layer named 'to_query'; did you mean to_q\? It has: .*to_q"):
        add_lora(sharing_copy(base), rank=4, alpha=4.0, targets=("to_v", "to_query"), seed=0)


@pytest.mark.parametrize(("kind", "inside"), [("attention", ".attn"), ("all-linear", "transformer_blocks.")])
def test_a_word_stands_for_many_layers_of_every_block_and_none_outside(
    base: TransformerDenoiser, kind: str, inside: str
) -> None:
    linear = [name for name, module in base.transformer.named_modules() if isinstance(module, nn.Linear)]
    expected = [name for name in linear if inside in name]
    assert list(targeted(linear, (kind,))) == expected
    assert targeted(linear, (kind, "proj_out", "to_q"))[-1] == "proj_out"
    outside = set(linear) - set(targeted(linear, ("all-linear",)))
    assert {"context_embedder", "proj_out", "norm_out.linear"} <= outside
    role = add_lora(sharing_copy(base), rank=2, alpha=2.0, targets=(kind,), seed=0)
    assert len([name for name, _ in role.named_parameters() if is_adapter(name)]) == 2 * len(expected)


def test_targets_may_be_a_text() -> None:
    assert LoraSection.model_validate({"targets": "attention, proj_out"}).targets == ("attention", "proj_out")


def test_a_convolution_of_the_same_name_gets_no_adapter(
    base: TransformerDenoiser, inputs: tuple[torch.Tensor, torch.Tensor, Conditioning]
) -> None:
    role = moved(add_lora(sharing_copy(base), rank=4, alpha=8.0, targets=("proj",), seed=0))
    adapters = {name for name, _ in role.named_parameters() if is_adapter(name)}
    assert adapters
    assert not any("pos_embed" in name for name in adapters)
    with torch.no_grad():
        plain = SD3Denoiser(type(base.transformer).from_config(base.transformer.config)).eval()
        plain.transformer.load_state_dict(merged_weights(role))
        torch.testing.assert_close(plain(*inputs), role(*inputs), rtol=0, atol=1e-5)


def test_adapters_travel_alone_to_a_worker_of_the_same_base_and_no_other(base: TransformerDenoiser) -> None:
    role = moved(adapted(base))
    state = {name: parameter for name, parameter in role.named_parameters() if parameter.requires_grad}
    snapshot = pack("student", 3, state, "aa" * 32)
    assert all(is_adapter(spec.name) for spec in snapshot.manifest.tensors)
    target = adapted(base, 5)
    report = VersionedModule("rollout-0", target, "aa" * 32).load(snapshot)
    assert report is not None
    assert report.digest == snapshot.manifest.digest
    assert all(torch.equal(dict(target.named_parameters())[name], value) for name, value in state.items())
    with pytest.raises(WeightsMismatchError, match=f"rollout-1: .*{'aa' * 32}.*{'bb' * 32}"):
        VersionedModule("rollout-1", adapted(base, 5), "bb" * 32).load(snapshot)
    with pytest.raises(WeightsMismatchError, match=r"rollout-2: .*this worker has None"):
        VersionedModule("rollout-2", adapted(base, 5)).load(snapshot)


@pytest.mark.parametrize("hold", ["own", "carried"])
def test_a_discriminator_learns_and_carries_heads_and_adapters(base: TransformerDenoiser, hold: str) -> None:
    critic = Discriminator(adapted(base), blocks=(0, 2), width=8, hold=hold)  # pyright: ignore[reportArgumentType]
    learning = {name for name, parameter in critic.named_parameters() if parameter.requires_grad}
    assert {name.partition(".")[0] for name in learning} == {"heads", "backbone"}
    assert all(is_adapter(name) for name in learning if name.startswith("backbone."))


def test_adapter_files_have_the_names_of_diffusers(base: TransformerDenoiser, tiny: StableDiffusion3Pipeline) -> None:
    role = moved(adapted(base))
    names = adapter_weights(dict(role.named_parameters()))
    assert "transformer_blocks.0.attn.to_q.lora_A.weight" in names
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in names)
    assert not any(name.startswith("transformer.") for name in names)


@pytest.mark.parametrize(("rank", "share"), [(16, 0.0065), (32, 0.013)])
def test_a_broadcast_at_the_size_of_sd35_medium_is_under_two_per_cent_of_its_base(rank: int, share: float) -> None:
    """The shapes of stabilityai/stable-diffusion-3.5-medium, without memory: base in bfloat16, adapters in float32."""
    with torch.device("meta"):
        transformer = SD3Transformer2DModel(
            sample_size=128,
            num_layers=24,
            attention_head_dim=64,
            num_attention_heads=24,
            joint_attention_dim=4096,
            caption_projection_dim=1536,
            pooled_projection_dim=2048,
            out_channels=16,
            pos_embed_max_size=384,
            dual_attention_layers=tuple(range(13)),
            qk_norm="rms_norm",
        )
        base_bytes = 2 * sum(parameter.numel() for parameter in transformer.parameters())
        targets = LoraSection().targets
        role = add_lora(SD3Denoiser(transformer), rank=rank, alpha=float(rank), targets=targets, seed=0)
    adapters = 4 * sum(parameter.numel() for name, parameter in role.named_parameters() if is_adapter(name))
    assert 2.2e9 < base_bytes / 2 < 2.3e9
    # 24 joint and 13 image attentions with four maps of 1536 x 1536 each.
    assert adapters == 4 * (24 + 13) * 4 * 2 * 1536 * rank
    assert adapters / base_bytes == pytest.approx(share, abs=0.001)
    assert adapters / base_bytes < 0.02
