"""The model families: what a pipeline folder's files must say, by the class that its `model_index.json` names.

Nothing here imports torch or diffusers, so a folder is checked in a moment. The code of a family, its adapter, is the
module of the same name beside this file.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard


@dataclass(frozen=True, slots=True)
class Family:
    """One family of flow-matching pipelines.

    Attributes:
        name: Its adapter is `advdmd_ray.models.families.<name>`.
        pipeline: diffusers class of the pipeline.
        transformer: diffusers class of the transformer.
        components: What the folder must have.
        optional: What it may lack; diffusers loads such a folder only if told so by name.
        block_counts: Keys of the transformer's configuration that count its blocks, in the order they run.
        packing: Latent elements of a patch that the transformer counts as channels of its own: `in_channels / packing`
            are the latent's.
        default_side: Side of a latent if nobody chooses one, for tokens of 2 x 2; None: both are in the transformer's
            configuration, `sample_size` and `patch_size`.
        codec_depth: Key of the image codec's configuration whose length, with `codec_offset`, is log2 of the pixels
            per latent element.
        codec_offset: See `codec_depth`.
        guidance_key: Key of the transformer's configuration that says whether the guidance scale is one of its inputs;
            None: it never is, and guidance is classifier-free.
        max_tokens: Most text tokens that the pipeline takes.
        chooses_attention: Whether diffusers dispatches its attention to a backend of one's choice.
        exponent: The exponent mu of a dynamic shift by image tokens and steps, of a pipeline that has a rule of its
            own for it; None: `noise_shift` has the common one.
        distilled_exponent: That of a model whose `model_index.json` says that it `is_distilled`; None: as of others.
        guides_distilled: Whether its pipeline guides a model that `is_distilled`.
        settings: Lists in `model_index.json` that name no component.
        takes_negative: Whether a negative prompt is encoded as a prompt is, where guidance is classifier-free.
    """

    name: str
    pipeline: str
    transformer: str
    components: tuple[str, ...]
    optional: tuple[str, ...] = ()
    block_counts: tuple[str, ...] = ("num_layers",)
    packing: int = 1
    default_side: int | None = 128
    codec_depth: str = "block_out_channels"
    codec_offset: int = -1
    guidance_key: str | None = None
    max_tokens: int = 512
    chooses_attention: bool = True
    exponent: Callable[[int, int], float] | None = None
    distilled_exponent: float | None = None
    guides_distilled: bool = True
    settings: tuple[str, ...] = ()
    takes_negative: bool = True


DEFAULT_STEPS = 50
"""Steps by which FLUX.2's pipeline shifts levels that it is given, unless it is told a number of steps too."""


def flux2_exponent(tokens: int, steps: int) -> float:
    """The shift's exponent mu in FLUX.2: linear in tokens at 10 and at 200 steps, and linear in steps between.

    Beyond 4300 tokens it is that of 200 steps (`compute_empirical_mu` of its pipeline in diffusers).

    Args:
        tokens: Image tokens.
        steps: Of the sampling.
    """
    at_200 = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:  # noqa: PLR2004 - see above
        return at_200
    at_10 = 8.73809524e-05 * tokens + 1.89833333
    return at_200 + (at_200 - at_10) / 190 * (steps - 200)


ONE_ENCODER = ("transformer", "scheduler", "vae", "text_encoder", "tokenizer")
TWO_ENCODERS = (*ONE_ENCODER, "text_encoder_2", "tokenizer_2")

FAMILIES = (
    Family(
        name="sd3",
        pipeline="StableDiffusion3Pipeline",
        transformer="SD3Transformer2DModel",
        components=TWO_ENCODERS,
        optional=("text_encoder_3", "tokenizer_3"),
        default_side=None,
        chooses_attention=False,
    ),
    Family(
        name="flux",
        pipeline="FluxPipeline",
        transformer="FluxTransformer2DModel",
        components=TWO_ENCODERS,
        block_counts=("num_layers", "num_single_layers"),
        packing=4,
        guidance_key="guidance_embeds",
    ),
    Family(
        name="flux2",
        pipeline="Flux2KleinPipeline",
        transformer="Flux2Transformer2DModel",
        components=ONE_ENCODER,
        block_counts=("num_layers", "num_single_layers"),
        packing=4,
        exponent=flux2_exponent,
        guides_distilled=False,
    ),
    Family(
        name="qwen_image",
        pipeline="QwenImagePipeline",
        transformer="QwenImageTransformer2DModel",
        components=ONE_ENCODER,
        packing=4,
        codec_depth="temperal_downsample",  # diffusers' spelling
        codec_offset=0,
        max_tokens=1024,
    ),
    Family(
        name="z_image",
        pipeline="ZImagePipeline",
        transformer="ZImageTransformer2DModel",
        components=ONE_ENCODER,
        block_counts=("n_layers",),
    ),
    Family(
        name="sana",
        pipeline="SanaPipeline",
        transformer="SanaTransformer2DModel",
        components=ONE_ENCODER,
        default_side=None,
        codec_depth="encoder_block_out_channels",
        max_tokens=300,
        chooses_attention=False,
        takes_negative=False,  # a prompt has an instruction before it
    ),
    Family(
        name="krea2",
        pipeline="Krea2Pipeline",
        transformer="Krea2Transformer2DModel",
        components=ONE_ENCODER,
        packing=4,
        codec_depth="temperal_downsample",
        codec_offset=0,
        distilled_exponent=1.15,
        settings=("text_encoder_select_layers",),
    ),
)
BY_PIPELINE: Mapping[str, Family] = {family.pipeline: family for family in FAMILIES}
EULER = "FlowMatchEulerDiscreteScheduler"
MULTISTEP = "DPMSolverMultistepScheduler"
OTHER_LEVELS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "invert_sigmas")
"""Settings of that scheduler that make other levels of those it is given, which no known family uses."""
SHIFTS: Mapping[str, float] = {
    "shift": 1.0,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "base_shift": 0.5,
    "max_shift": 1.15,
}
"""What that scheduler shifts levels by, and its defaults."""
DYNAMIC = tuple(SHIFTS)[1:]
"""Of these what it reads if the shift depends on the number of tokens."""
PATCH = 2
"""Latent elements along the side of a token, in families whose transformer does not say."""


def as_euler(scheduler: Mapping[str, Any]) -> Mapping[str, Any]:
    """The Euler scheduler with the levels of a multistep solver of flow matching, which SANA is published with.

    The levels are the same but for a thousandth. A teacher takes Euler's steps between them, which are of first order
    where the solver's are of second.

    Args:
        scheduler: `scheduler_config.json`, which comes back as it is if it is of another kind.
    """
    flows = scheduler.get("use_flow_sigmas") and scheduler.get("prediction_type") == "flow_prediction"
    if scheduler.get("_class_name") != MULTISTEP or not flows or scheduler.get("use_dynamic_shifting"):
        return scheduler
    return {"shift": scheduler.get("flow_shift", 1.0), **{key: scheduler.get(key) for key in OTHER_LEVELS}}


def noise_shift(scheduler: Mapping[str, Any], tokens: int, exponent: float | None = None) -> float:
    """The shift s of `sigma -> s sigma / (1 + (s - 1) sigma)` that a scheduler applies to an image of so many tokens.

    A dynamic shift is `exp(mu)`, or mu itself where `time_shift_type` is linear, with mu linear in the number of
    tokens (diffusers' `calculate_shift`; SD3, arXiv 2403.03206, section 5.3.2).

    Args:
        scheduler: `scheduler_config.json`.
        tokens: Image tokens.
        exponent: mu, where it is not that of the configuration.
    """
    if not scheduler.get("use_dynamic_shifting", False):
        return float(scheduler.get("shift", SHIFTS["shift"]))
    least, most, low, high = (scheduler.get(key, SHIFTS[key]) for key in DYNAMIC)
    mu = low + (high - low) * (tokens - least) / (most - least) if exponent is None else exponent
    return math.exp(mu) if scheduler.get("time_shift_type", "exponential") == "exponential" else float(mu)


def noise_terminal(scheduler: Mapping[str, Any]) -> float | None:
    """The last level that a scheduler stretches a teacher's levels to, in (0, 1); None if it stretches none.

    A student's levels are never stretched: its last level is its own.

    Args:
        scheduler: `scheduler_config.json`.
    """
    terminal = scheduler.get("shift_terminal")
    return float(terminal) if terminal else None


def scheduler_fault(scheduler: Mapping[str, Any], tokens: int) -> str | None:
    """What a scheduler does to noise levels beyond `noise_shift` and `noise_terminal`, or None.

    Args:
        scheduler: `scheduler_config.json`.
        tokens: As of `noise_shift`.
    """
    kind = scheduler.get("_class_name", EULER)
    if kind != EULER:
        return f"is a {kind}; a {EULER} is needed, whose levels a teacher is sampled at"
    other = [key for key in OTHER_LEVELS if scheduler.get(key)]
    if other:
        return f"sets {other[0]}, which is not followed here; set it to false"
    terminal = scheduler.get("shift_terminal") or 0
    if not (_is_number(terminal) and 0 <= terminal < 1):
        return f"has shift_terminal {terminal!r}; a level between 0 and 1, or null, is needed"
    return _shift_fault(scheduler, tokens)


def _shift_fault(scheduler: Mapping[str, Any], tokens: int) -> str | None:
    """What keeps `noise_shift` from a shift of levels, or None."""
    used = DYNAMIC if scheduler.get("use_dynamic_shifting", False) else ("shift",)
    for key in used:
        value = scheduler.get(key, SHIFTS[key])
        if not (_is_number(value) and 0 < value < math.inf):
            return f"has {key} {value!r}; a number above 0 is needed"
    least, most = (scheduler.get(key, SHIFTS[key]) for key in ("base_image_seq_len", "max_image_seq_len"))
    if used is DYNAMIC and least >= most:
        return f"has base_image_seq_len {least} and max_image_seq_len {most}; the second must be the larger"
    try:
        shift = noise_shift(scheduler, tokens)
    except OverflowError:
        shift = math.inf
    return None if 0 < shift < math.inf else f"shifts the levels of {tokens} image tokens by {shift:g}; correct it"


def _is_number(value: object) -> TypeGuard[float]:
    """Of JSON, whose true Python takes for a number."""
    return type(value) in {int, float}
