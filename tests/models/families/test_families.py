"""Every family's adapter against the loop of the family's own diffusers pipeline."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from advdmd_ray.diffusion.denoiser import Conditioning, Denoiser
from advdmd_ray.diffusion.schedule import shift_sigmas, teacher_sigmas
from advdmd_ray.errors import UserError
from advdmd_ray.models import pipeline
from advdmd_ray.models.families import adapter, adapter_of
from advdmd_ray.models.families.base import Execution, packed, unpacked
from advdmd_ray.models.families.registry import FAMILIES
from advdmd_ray.models.features import TokenReader, cut_after
from advdmd_ray.models.folder import PipelineInfo, inspect_pipeline
from advdmd_ray.models.pipeline import denoiser_of, image_decoder, image_encoder, load_denoiser, load_pipeline
from advdmd_ray.models.text import cut_texts, encode_prompts, unconditional
from tiny_families import diffusers, with_euler

PROMPTS = ["a red fox above the boat", "a fox"]
LENGTH = 300
SIGMAS = [1.0, 0.6, 0.2]
GUIDANCE = 3.5
SIZES = [(64, 64), (32, 96)]

# How a user of the pipeline asks for guidance w.
GUIDED: dict[str, dict[str, Any]] = {
    "sd3": {"guidance_scale": GUIDANCE},
    "flux": {"guidance_scale": GUIDANCE},
    "flux2": {"guidance_scale": GUIDANCE},
    "qwen_image": {"true_cfg_scale": GUIDANCE, "negative_prompt": [" ", " "]},
    "z_image": {"guidance_scale": GUIDANCE - 1},
    "sana": {"guidance_scale": GUIDANCE, "use_resolution_binning": False},
    "krea2": {"guidance_scale": GUIDANCE - 1},
}


TWICE = {"flux2", "qwen_image", "krea2"}  # their transformer is called for the prompt, and then for the empty one
OWN_SHIFT = {"sd3", "z_image", "sana"}  # their shift is a number of the scheduler's, whatever the image's size


class Loop:
    """A pipeline's own sampling, watched where it hands velocities to its scheduler."""

    def __init__(self, pipeline: Any, info: PipelineInfo, arguments: dict[str, Any]) -> None:
        self.seen: list[tuple[torch.Tensor, float, torch.Tensor]] = []
        self.calls = 0
        step = pipeline.scheduler.step

        def watch(velocity: torch.Tensor, time: torch.Tensor, state: torch.Tensor, **rest: Any) -> Any:
            sigma = pipeline.scheduler.sigmas[len(self.seen)]
            assert time == sigma * 1000
            self.seen.append((velocity.clone(), float(sigma), state.clone()))
            return step(velocity, time, state, **rest)

        def count(*_: object) -> None:
            self.calls += 1

        pipeline.scheduler.step = watch
        handle = pipeline.transformer.register_forward_pre_hook(count)
        pipeline(
            prompt=list(PROMPTS), sigmas=SIGMAS, max_sequence_length=LENGTH, height=info.pixels[0],
            width=info.pixels[1], generator=torch.Generator().manual_seed(3), output_type="latent", **arguments,
        )  # fmt: skip
        handle.remove()
        pipeline.scheduler.step = step


def _as_the_pipeline_has_it(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return packed(x) if like.ndim == 3 else x


def _as_we_have_it(state: torch.Tensor, info: PipelineInfo) -> torch.Tensor:
    return unpacked(state, info.latent.height, info.latent.width) if state.ndim == 3 else state


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("with_guidance", [False, True])
def test_the_velocity_is_what_the_pipeline_computes_inside_its_own_loop(
    family: str, family_folder: Path, family_pipeline: Any, size: tuple[int, int], with_guidance: bool
) -> None:
    info, pipeline = inspect_pipeline(family_folder, size), family_pipeline
    ways = adapter(info.family)
    loop = Loop(pipeline, info, GUIDED[family] if with_guidance else ways.unguided(1.0))
    conditioning = encode_prompts(pipeline, PROMPTS, LENGTH)
    denoiser: Denoiser = denoiser_of(pipeline, 1.0)
    if with_guidance:
        denoiser = ways.guided(denoiser, unconditional(pipeline, LENGTH), GUIDANCE)
    assert len(loop.seen) == len(SIGMAS)
    assert loop.calls == len(SIGMAS) * (2 if family in TWICE and with_guidance else 1)
    for theirs, sigma, state in loop.seen:
        with torch.no_grad():
            ours = denoiser(_as_we_have_it(state, info), torch.full((2,), sigma), conditioning)
        assert ours.shape == (2, *info.latent.shape)
        assert theirs.std() > 0.1
        torch.testing.assert_close(_as_the_pipeline_has_it(ours, theirs), theirs, rtol=0, atol=1e-5)


def test_a_call_with_guidance_is_what_a_user_of_the_pipeline_writes(family: str, family_folder: Path) -> None:
    assert adapter(inspect_pipeline(family_folder).family).guided_call(GUIDANCE, len(PROMPTS)) == GUIDED[family]


def test_guidance_changes_the_velocity(family_folder: Path, family_pipeline: Any) -> None:
    info, pipeline = inspect_pipeline(family_folder, (32, 32)), family_pipeline
    conditioning, empty = encode_prompts(pipeline, PROMPTS, LENGTH), unconditional(pipeline, LENGTH)
    x, t = torch.randn(2, *info.latent.shape), torch.full((2,), 0.7)
    weak, strong = (adapter(info.family).guided(denoiser_of(pipeline, 1.0), empty, w) for w in (1.0, 5.0))
    with torch.no_grad():
        assert (weak(x, t, conditioning) - strong(x, t, conditioning)).abs().max() > 1e-3


def test_levels_are_those_of_the_pipelines_scheduler(family: str, family_folder: Path) -> None:
    pipeline = with_euler(load_pipeline(family_folder), family_folder)
    pipeline.scheduler.register_to_config(shift_terminal=None)
    for size in SIZES:
        info = inspect_pipeline(family_folder, size)
        loop = Loop(pipeline, info, adapter(info.family).unguided(1.0))
        expected = shift_sigmas(torch.tensor(SIGMAS), info.scheduler_shift)
        torch.testing.assert_close(torch.tensor([sigma for _, sigma, _ in loop.seen]), expected, rtol=0, atol=1e-5)
        assert (info.scheduler_shift == 3.0) == (family in OWN_SHIFT)


def test_a_prompt_is_worth_the_same_in_any_company(family_folder: Path, family_pipeline: Any) -> None:
    info, pipeline = inspect_pipeline(family_folder, (32, 32)), family_pipeline
    together, alone = encode_prompts(pipeline, PROMPTS, LENGTH), encode_prompts(pipeline, PROMPTS[1:], LENGTH)
    x, t = torch.randn(1, *info.latent.shape), torch.tensor([0.7])
    denoiser = denoiser_of(pipeline)
    with torch.no_grad():
        velocities = [denoiser(x, t, rows) for rows in (together.select(torch.tensor([1])), alone)]
        summaries = [rows.summary() for rows in (together.select(torch.tensor([1])), alone)]
    torch.testing.assert_close(*velocities, rtol=0, atol=1e-5)
    torch.testing.assert_close(*summaries, rtol=0, atol=1e-5)
    assert (summaries[0] - together.summary()[:1]).abs().max() > 1e-3
    assert summaries[0].shape[1] == denoiser.summary_width


@contextmanager
def watched(network: torch.nn.Module, watch: Callable[..., None]) -> Iterator[None]:
    """What a network is given goes to `watch` first."""
    handle = network.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def test_a_table_of_longer_prompts_changes_nothing(family: str, family_folder: Path, family_pipeline: Any) -> None:
    info, pipeline = inspect_pipeline(family_folder, (32, 32)), family_pipeline
    rows, denoiser = encode_prompts(pipeline, PROMPTS, LENGTH), denoiser_of(pipeline)
    x, t = torch.randn(2, *info.latent.shape), torch.full((2,), 0.7)
    seen: list[tuple[int, ...]] = []

    def watch(_: object, __: object, given: dict[str, Any]) -> None:
        if "encoder_hidden_states" in given:
            seen.append(given["encoder_hidden_states"].shape[:2])

    with torch.no_grad(), watched(denoiser.transformer, watch):
        velocity = denoiser(x, t, rows)
        if rows.mask is None:  # the network takes all tokens: those, and no others, are what the pipeline gives it
            assert seen == [rows.embeds.shape[:2]]
            return
        # What a longer prompt in another row of the table would leave there.
        embeds = torch.nn.functional.pad(rows.embeds, (0, 0, 0, 70))
        mask = torch.nn.functional.pad(rows.mask, (0, 70))
        behind = denoiser(x, t, Conditioning(embeds, rows.pooled, mask))
    assert torch.equal(behind, velocity)
    assert seen == ([] if family == "z_image" else [rows.trimmed().embeds.shape[:2]] * 2)


def test_attention_is_given_no_mask_where_prompts_are_alike_in_length(
    family_folder: Path, family_pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, pipeline = inspect_pipeline(family_folder, (32, 32)), family_pipeline
    rows, masks = encode_prompts(pipeline, PROMPTS, LENGTH), []
    attention = torch.nn.functional.scaled_dot_product_attention

    def watch(*tensors: torch.Tensor, attn_mask: torch.Tensor | None = None, **rest: Any) -> torch.Tensor:
        masks.append(attn_mask)
        return attention(*tensors, attn_mask=attn_mask, **rest)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watch)
    x, t = torch.randn(2, *info.latent.shape, generator=torch.Generator().manual_seed(1)), torch.full((2,), 0.7)
    one_at_a_time = denoiser_of(pipeline, 1.0, Execution(micro_batch=1))
    with torch.no_grad():
        together = denoiser_of(pipeline)(x, t, rows)
        count = len(masks)
        # The shorter prompt alone, and both one by one: neither has padding of its own.
        alone = denoiser_of(pipeline)(x, t, rows.select(torch.tensor([1, 1])))
        parts = one_at_a_time(x, t, rows)
    assert len(masks) == 4 * count
    assert masks[count:] == [None] * (3 * count)
    torch.testing.assert_close(alone[1], together[1], rtol=0, atol=2e-5)
    torch.testing.assert_close(parts, together, rtol=0, atol=2e-5)


def test_features_are_those_inside_the_whole_network_and_later_blocks_do_not_run(
    family_folder: Path, family_pipeline: Any
) -> None:
    info, pipeline = inspect_pipeline(family_folder, (32, 64)), family_pipeline
    conditioning, denoiser = encode_prompts(pipeline, PROMPTS, LENGTH), denoiser_of(pipeline)
    x, t = torch.randn(2, *info.latent.shape), torch.tensor([0.3, 0.7])
    wanted = [0, info.layers - 2]
    whole = TokenReader(denoiser, [*wanted, info.layers - 1])(x, t, conditioning)

    def fail(*_: object) -> None:
        raise AssertionError("a block after the last wanted one ran")

    handle = denoiser.blocks[-1].register_forward_hook(fail)
    part = TokenReader(denoiser, wanted)(x, t, conditioning)
    handle.remove()
    assert len(denoiser.blocks) == info.layers
    for tokens, same in zip(part, whole, strict=False):
        assert torch.equal(tokens, same)
        assert tokens.shape == (2, info.image_tokens, denoiser.token_width)
    assert not torch.allclose(whole[0], whole[1])


def test_a_shortened_network_has_the_weights_of_the_whole_and_none_behind_its_last_block(family_folder: Path) -> None:
    whole = load_denoiser(family_folder)
    short = cut_after(whole, 0)
    kept, all_of_them = dict(short.named_parameters()), dict(whole.named_parameters())
    assert all(all_of_them[name] is parameter for name, parameter in kept.items())
    left_out = all_of_them.keys() - kept.keys()
    assert all(
        any(part in name for part in ("blocks.", "layers.", "norm_out", "proj_out", "final")) for name in left_out
    )
    assert len(short.blocks) == 1
    assert len(cut_after(short, 0).blocks) == 1


def test_latents_and_images_are_turned_into_each_other_as_the_pipeline_does(
    family: str, family_folder: Path, family_pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, pipeline = inspect_pipeline(family_folder, (32, 64)), family_pipeline
    latents = torch.randn(1, *info.latent.shape)
    given = packed(latents) if info.family.packing == 4 else latents
    monkeypatch.setattr(pipeline.scheduler, "step", lambda _velocity, _time, _state, **_: (given,))
    (image,) = pipeline(
        prompt=list(PROMPTS[:1]), sigmas=[1.0, 0.5], max_sequence_length=LENGTH, height=32, width=64, output_type="np",
        return_dict=False, **adapter(info.family).unguided(1.0),
    )  # fmt: skip
    ours = (image_decoder(pipeline)(latents) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(ours, torch.from_numpy(image), rtol=0, atol=1e-5)
    # The codec is random, so an image does not come back; but the units of both ways must agree.
    encoded = image_encoder(pipeline)(torch.rand(2, 3, 32, 64) * 2 - 1)
    assert encoded.shape == (2, *info.latent.shape)
    codec = pipeline.vae.config
    if family == "flux2":
        raw = torch.nn.functional.pixel_unshuffle(pipeline.vae.encode(torch.zeros(1, 3, 32, 64)).latent_dist.mode(), 2)
        scaled = (raw.movedim(1, -1) - pipeline.vae.bn.running_mean) / (pipeline.vae.bn.running_var + 1e-4).sqrt()
        expected = torch.nn.functional.pixel_shuffle(scaled.movedim(-1, 1), 2)
    elif family == "sana":
        expected = pipeline.vae.encode(torch.zeros(1, 3, 32, 64)).latent * codec.scaling_factor
    elif family not in {"qwen_image", "krea2"}:
        raw = pipeline.vae.encode(torch.zeros(1, 3, 32, 64)).latent_dist.mode()
        expected = (raw - codec.shift_factor) * codec.scaling_factor
    else:
        raw = pipeline.vae.encode(torch.zeros(1, 3, 1, 32, 64)).latent_dist.mode()[:, :, 0]
        mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (codec.latents_mean, codec.latents_std))
        expected = (raw - mean) / std
    torch.testing.assert_close(image_encoder(pipeline)(torch.zeros(1, 3, 32, 64)), expected)


@pytest.mark.parametrize("known", FAMILIES, ids=lambda known: known.name)
def test_every_registered_family_has_an_adapter_and_diffusers_classes(known: Any) -> None:
    assert adapter(known).denoiser.block_lists
    assert hasattr(diffusers, known.pipeline)
    assert hasattr(diffusers, known.transformer)


def test_a_loaded_pipeline_finds_its_adapter(family: str, family_folder: Path, family_pipeline: Any) -> None:
    assert adapter_of(family_pipeline) is adapter(inspect_pipeline(family_folder).family)
    assert adapter_of(family_pipeline).__class__.__module__.endswith(f".{family}")


@pytest.mark.parametrize("size", [(36, 32), (32, 8), (256, 256)])
def test_a_size_that_the_model_has_not_is_refused(family: str, family_folder: Path, size: tuple[int, int]) -> None:
    # SANA has a token for each place of a latent.
    if (size == (256, 256) and family != "sd3") or (size == (32, 8) and family == "sana"):
        assert inspect_pipeline(family_folder, size).pixels == size
        return
    with pytest.raises(UserError, match=r"model\.height, model\.width: "):
        inspect_pipeline(family_folder, size)


def test_images_are_decoded_and_encoded_in_parts_as_in_one(
    family_folder: Path, family_pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, codec = inspect_pipeline(family_folder, (32, 32)), family_pipeline
    latents, images = torch.randn(5, *info.latent.shape), torch.rand(5, 3, 32, 32) * 2 - 1
    whole = image_decoder(codec)(latents), image_encoder(codec)(images)
    monkeypatch.setattr(pipeline, "DECODED_AT_ONCE", 2 * info.latent.height * info.latent.width)
    monkeypatch.setattr(pipeline, "ENCODED_AT_ONCE", 1)
    for one, other in zip(whole, (image_decoder(codec)(latents), image_encoder(codec)(images)), strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-5)


def test_parts_of_a_pipeline_are_what_is_needed_and_do_what_the_whole_does(
    family_folder: Path, family_pipeline: Any
) -> None:
    whole, text, codec = (
        family_pipeline,
        load_pipeline(family_folder, parts="text"),
        load_pipeline(family_folder, parts="codec"),
    )
    assert text.transformer is text.vae is codec.transformer is codec.text_encoder is None
    ours, theirs = (encode_prompts(one, PROMPTS, LENGTH) for one in (text, whole))
    assert torch.equal(ours.embeds, theirs.embeds)
    latents = torch.randn(1, *inspect_pipeline(family_folder, (32, 32)).latent.shape)
    assert torch.equal(image_decoder(codec)(latents), image_decoder(whole)(latents))


def test_texts_whose_end_is_not_encoded_are_told_by_tokenizer(family_folder: Path, family_pipeline: Any) -> None:
    tokenizers = load_pipeline(family_folder, parts="tokenizers")
    names = [name for name in tokenizers.components if name.startswith("tokenizer") and tokenizers.components[name]]
    assert all(part is None or name in {*names, "scheduler"} for name, part in tokenizers.components.items())
    told, same = [], []
    for words in (1, 6, 2 * LENGTH):
        ends = [" ".join(["fox"] * words + [end]) for end in ("boat", "above")]
        found = cut_texts(tokenizers, [ends[0], "a"], LENGTH)
        assert all((cut.count, cut.first) == (1, (ends[0],)) for cut in found)
        told.append([cut.tokenizer for cut in found])
        one, other = (encode_prompts(family_pipeline, [text], LENGTH).embeds for text in ends)
        same.append(one.shape == other.shape and torch.equal(one, other))
    assert (told[0], told[-1], same[0], same[-1]) == ([], names, False, True)
    assert all(cut == names for cut, alike in zip(told, same, strict=True) if alike)


@pytest.mark.parametrize("steps", [2, 5])
def test_a_teacher_is_sampled_at_the_levels_of_its_pipeline(
    family: str, family_folder: Path, family_pipeline: Any, steps: int
) -> None:
    info, loaded = inspect_pipeline(family_folder, SIZES[1]), family_pipeline
    # The pipelines of SD3 and SANA do not start from uniform levels by themselves.
    uniform = (
        {"sigmas": [1 - k / steps for k in range(steps)]}
        if family in {"sd3", "sana"}
        else {"num_inference_steps": steps}
    )
    loaded(
        prompt=PROMPTS[:1], max_sequence_length=LENGTH, height=info.pixels[0], width=info.pixels[1],
        output_type="latent", **uniform, **adapter(info.family).unguided(1.0),
    )  # fmt: skip
    ours = teacher_sigmas(steps, info.teacher_shift(steps), info.scheduler_terminal)
    torch.testing.assert_close(ours, loaded.scheduler.sigmas, rtol=0, atol=1e-6)
    assert (info.scheduler_terminal == 0.02) == (family == "qwen_image")
