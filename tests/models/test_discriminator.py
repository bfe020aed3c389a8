"""The discriminator's heads on a frozen backbone."""

import copy

import pytest
import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline

from advdmd_ray.data.digits.images import load_digits
from advdmd_ray.data.digits.prompts import DIGIT_PROMPTS
from advdmd_ray.data.real import RealImages
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.models.diffusers_classes import SD3Transformer2DModel
from advdmd_ray.models.discriminator import Discriminator, Hold
from advdmd_ray.models.families.base import TIMESTEPS
from advdmd_ray.models.families.sd3 import SD3Denoiser
from advdmd_ray.models.features import TokenReader
from advdmd_ray.models.text import encode_prompts


@pytest.fixture(scope="module")
def prompts(tiny: StableDiffusion3Pipeline) -> Conditioning:
    return encode_prompts(tiny, DIGIT_PROMPTS, 8)


def batch(prompts: Conditioning, size: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 1, 8, 8, generator=generator)
    return x, torch.rand(size, generator=generator), prompts.select(torch.arange(size) % 10)


def test_features_equal_those_inside_the_transformers_own_forward(
    tiny: StableDiffusion3Pipeline, prompts: Conditioning
) -> None:
    x, t, conditioning = batch(prompts, 3)
    seen: list[torch.Tensor] = []
    handles = [
        tiny.transformer.transformer_blocks[index].register_forward_hook(lambda _m, _a, out: seen.append(out[1]))
        for index in (1, 3)
    ]
    tiny.transformer(x, conditioning.embeds, conditioning.pooled, t * TIMESTEPS)
    for handle in handles:
        handle.remove()
    own = TokenReader(SD3Denoiser(tiny.transformer), (1, 3))(x, t, conditioning)
    assert all(torch.equal(a, b) for a, b in zip(own, seen, strict=True))


def test_blocks_after_the_last_wanted_one_are_not_run(tiny: StableDiffusion3Pipeline, prompts: Conditioning) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the last block ran")

    handle = tiny.transformer.transformer_blocks[3].register_forward_hook(fail)
    Discriminator(SD3Denoiser(tiny.transformer), blocks=(0, 2))(*batch(prompts, 2))
    handle.remove()


def test_only_the_heads_are_trainable_and_saved(tiny: StableDiffusion3Pipeline, prompts: Conditioning) -> None:
    discriminator = Discriminator(SD3Denoiser(tiny.transformer), blocks=(1, 3), width=16)
    before = copy.deepcopy(tiny.transformer.state_dict())
    optimizer = torch.optim.SGD(discriminator.parameters(), lr=0.1)
    discriminator(*batch(prompts, 4)).sum().backward()
    optimizer.step()
    assert all(torch.equal(before[name], value) for name, value in tiny.transformer.state_dict().items())
    assert all(parameter.grad is None for parameter in tiny.transformer.parameters())
    trained = {parameter.data_ptr() for parameter in discriminator.parameters()}
    assert not trained & {parameter.data_ptr() for parameter in tiny.transformer.parameters()}


def test_the_gradient_reaches_the_image_and_equals_finite_differences(
    tiny: StableDiffusion3Pipeline, prompts: Conditioning
) -> None:
    backbone = copy.deepcopy(tiny.transformer).double()
    discriminator = Discriminator(SD3Denoiser(backbone), width=16).double()
    x, t, conditioning = batch(prompts, 2)
    conditioning = Conditioning(conditioning.embeds.double(), conditioning.pooled.double())
    # diffusers' time embedding computes in float32; its result is cast to the network's type by the hook below.
    backbone.time_text_embed.timestep_embedder.register_forward_pre_hook(lambda _m, args: (args[0].double(),))
    x, t = x.double().requires_grad_(), t.double()
    (gradient,) = torch.autograd.grad(discriminator(x, t, conditioning).sum(), x)
    generator = torch.Generator().manual_seed(1)
    # Parts of the backbone round to float32 whatever its type, so the step must stay well above that rounding.
    direction, step = torch.randn(x.shape, dtype=torch.float64, generator=generator), 1e-3
    with torch.no_grad():
        ahead, behind = (discriminator(x + s * step * direction, t, conditioning).sum() for s in (1, -1))
    assert float(gradient.abs().max()) > 0
    assert float((gradient * direction).sum()) == pytest.approx(float(ahead - behind) / (2 * step), rel=2e-3)


def test_a_logit_depends_on_its_own_sample_alone(tiny: StableDiffusion3Pipeline, prompts: Conditioning) -> None:
    discriminator = Discriminator(SD3Denoiser(tiny.transformer))
    x, t, conditioning = batch(prompts, 6)
    whole = discriminator(x, t, conditioning)
    part = discriminator(x[2:4], t[2:4], conditioning.select(torch.tensor([2, 3])))
    assert torch.allclose(whole[2:4], part, atol=1e-5)


def test_logits_depend_on_time_and_prompt(tiny: StableDiffusion3Pipeline, prompts: Conditioning) -> None:
    discriminator = Discriminator(SD3Denoiser(tiny.transformer))
    x, t, conditioning = batch(prompts, 1)
    base = discriminator(x, t, conditioning)
    assert not torch.allclose(base, discriminator(x, (t + 0.3) % 1, conditioning))
    assert not torch.allclose(base, discriminator(x, t, prompts.select(torch.tensor([5]))))


def test_it_learns_to_tell_blurred_digits_from_real_ones(tiny: StableDiffusion3Pipeline, prompts: Conditioning) -> None:
    digits, discriminator = load_digits("train"), Discriminator(SD3Denoiser(tiny.transformer), width=32)
    real = RealImages(digits.images, digits.labels)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=3e-3)

    def logits(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.arange(60) % 10
        images = real.drawn(ids, seed)[0]
        blurred = torch.nn.functional.avg_pool2d(real.drawn(ids, seed + 1)[0], 3, stride=1, padding=1)
        t = torch.full((60,), 0.2)
        noise = torch.randn(2, *images.shape, generator=torch.Generator().manual_seed(seed))
        noisy = [0.8 * x0 + 0.2 * eps for x0, eps in zip((images, blurred), noise, strict=True)]
        return discriminator(noisy[0], t, prompts.select(ids)), discriminator(noisy[1], t, prompts.select(ids))

    for step in range(25):
        on_real, on_fake = logits(10 * step)
        loss = torch.nn.functional.softplus(-on_real).mean() + torch.nn.functional.softplus(on_fake).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    on_real, on_fake = logits(10_001)
    assert (on_real.unsqueeze(1) > on_fake.unsqueeze(0)).float().mean() > 0.9


def test_blocks_the_backbone_has_not_are_refused(tiny: StableDiffusion3Pipeline) -> None:
    with pytest.raises(ValueError, match=r"among 0\.\.3"):
        Discriminator(SD3Denoiser(tiny.transformer), blocks=(1, 4))


def test_a_borrowed_backbone_stays_its_owners(tiny: StableDiffusion3Pipeline, prompts: Conditioning) -> None:
    owner = copy.deepcopy(tiny.transformer).requires_grad_(requires_grad=True)
    discriminator = Discriminator(SD3Denoiser(owner), blocks=(1, 3), width=16, hold="borrowed")
    frozen = Discriminator(SD3Denoiser(tiny.transformer), blocks=(1, 3), width=16)
    x, t, conditioning = batch(prompts, 4)
    logits = discriminator(x, t, conditioning)
    torch.testing.assert_close(logits, frozen(x, t, conditioning))
    logits.sum().backward()
    assert all(parameter.requires_grad and parameter.grad is None for parameter in owner.parameters())
    assert set(discriminator.state_dict()) == set(frozen.state_dict())
    with torch.no_grad():
        for parameter in owner.parameters():
            parameter.add_(0.05)
    assert not torch.allclose(discriminator(x, t, conditioning), logits)


def test_the_image_gradient_through_a_borrowed_backbone_is_that_through_a_frozen_one(
    tiny: StableDiffusion3Pipeline, prompts: Conditioning
) -> None:
    owner = copy.deepcopy(tiny.transformer).requires_grad_(requires_grad=True)
    x, t, conditioning = batch(prompts, 4)
    gradients = []
    held: tuple[tuple[SD3Transformer2DModel, Hold], ...] = ((tiny.transformer, "frozen"), (owner, "borrowed"))
    for backbone, hold in held:
        leaf = x.clone().requires_grad_()
        logits = Discriminator(SD3Denoiser(backbone), blocks=(1, 3), width=16, hold=hold)(leaf, t, conditioning)
        gradients.append(torch.autograd.grad(logits.sum(), leaf)[0])
    torch.testing.assert_close(*gradients)
    assert all(parameter.grad is None for parameter in owner.parameters())


def test_a_carried_backbone_comes_with_the_heads(tiny: StableDiffusion3Pipeline, prompts: Conditioning) -> None:
    own, other = copy.deepcopy(tiny.transformer), copy.deepcopy(tiny.transformer)
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.add_(0.02)
    source = Discriminator(SD3Denoiser(own), blocks=(1, 3), width=16, seed=1, hold="carried")
    assert {name.partition(".")[0] for name in source.state_dict()} == {"heads", "backbone"}
    assert all(parameter.requires_grad for parameter in own.parameters())
    target = Discriminator(SD3Denoiser(other), blocks=(1, 3), width=16, seed=2, hold="carried")
    target.load_state_dict(source.state_dict())
    assert torch.equal(target(*batch(prompts, 3)), source(*batch(prompts, 3)))


def test_an_own_backbone_starts_as_the_teacher_and_is_trained(
    tiny: StableDiffusion3Pipeline, prompts: Conditioning
) -> None:
    own = Discriminator(SD3Denoiser(copy.deepcopy(tiny.transformer)), blocks=(0, 2), width=16, hold="own")
    frozen = Discriminator(SD3Denoiser(tiny.transformer), blocks=(0, 2), width=16)
    logits = own(*batch(prompts, 4))
    assert torch.equal(logits, frozen(*batch(prompts, 4)))
    logits.sum().backward()
    backbone = dict(own.backbone.named_parameters())
    assert all(parameter.requires_grad for parameter in backbone.values())
    reached = {name.split(".")[1] for name, p in backbone.items() if "blocks" in name and p.grad is not None}
    assert reached == {"0", "1", "2"}
    assert all(parameter.grad is None for parameter in tiny.transformer.parameters())


def test_an_own_backbone_ends_with_the_last_block_that_is_read(tiny: StableDiffusion3Pipeline) -> None:
    own = Discriminator(SD3Denoiser(copy.deepcopy(tiny.transformer)), blocks=(1,), width=16, hold="own")
    names = {name for name in own.state_dict() if name.startswith("backbone.")}
    assert any("transformer_blocks.1." in name for name in names)
    assert not any("transformer_blocks.2." in name or "_out." in name.split("transformer_blocks")[0] for name in names)
    assert len(tiny.transformer.transformer_blocks) > 2
