"""The README of an export: a model card as the Hugging Face hub reads it, and the lines that sample it.

A stock pipeline draws the first noise of an image from its `generator`, and hands that to no step of its scheduler: the
noise of steps comes from torch's global generator. The lines bind the generator to the scheduler's own `step`, so that
the seed decides the image; no class of ours is needed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from advdmd_ray.models.families import adapter
from advdmd_ray.models.folder import PipelineInfo

KernelName = Literal["renoise", "cps", "ode", "flow_sde"]
README, FIGURES = "README.md", "## Figures"
"""The file, and the heading of its last section."""
NOT_JUDGED = "Not judged yet: `advdmd evaluate` does it."


@dataclass(frozen=True, slots=True)
class About:
    """What a card says of an export beside how it is sampled.

    Attributes:
        title: Its heading.
        recipe: How it was made: names and values.
        data: What it learned from: names and values.
        base: The teacher's name on the Hugging Face hub, if it has one.
        licence: Keys of the teacher's own card that say its licence, with their values.
        figures: Text of the last section.
    """

    title: str
    recipe: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    base: str | None = None
    licence: Mapping[str, str] = field(default_factory=dict)
    figures: str = NOT_JUDGED


@dataclass(frozen=True, slots=True)
class Call:
    """How a student is sampled.

    Attributes:
        info: The pipeline of its teacher, at its size.
        sigmas: Its noise levels, before the scheduler's shift.
        kernel: Kernel of training.
        guidance: What it was given in training, if its family takes the guidance scale as an input.
        max_sequence_length: Most text tokens.
        prompt: That of the lines.
        dtype: Of the pipeline in the lines.
    """

    info: PipelineInfo
    sigmas: Sequence[float]
    kernel: KernelName
    guidance: float
    max_sequence_length: int
    prompt: str
    dtype: torch.dtype

    @property
    def draws_noise(self) -> bool:
        """Whether the steps of the stock scheduler draw noise."""
        return self.kernel != "ode"

    @property
    def codec(self) -> str | None:
        """The module of the image codec, if it is not diffusers' own."""
        library = self.info.component("vae").library
        return None if library == "diffusers" else library


def student_card(call: Call, about: About) -> str:
    """The README of a whole pipeline, whose folder is the working directory of its lines."""
    load = f'pipeline = {call.info.family.pipeline}.from_pretrained(".", dtype={call.dtype}{_dropped(call)}).to(device)'
    return _card(_lines(call, [load]), call, about, "finetune")


def adapter_card(call: Call, about: About, *, how: str, loads: bool = True) -> str:
    """The README of adapters, whose folder is the working directory of its lines.

    Args:
        call: See `Call`.
        about: See `About`.
        how: The file, the convention of its keys, and what else a reader of that does.
        loads: Whether `load_lora_weights` of the family's pipeline reads that convention; without, there are no lines.
    """
    base = about.base or str(call.info.folder)
    kind = call.info.family.pipeline
    variant = "" if call.info.variant is None else f", variant={call.info.variant!r}"
    load = [
        f"pipeline = {kind}.from_pretrained({base!r}, dtype={call.dtype}{variant}{_dropped(call)})",
        'pipeline.load_lora_weights(".")',
        'pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained("scheduler")',
        "pipeline.to(device)",
    ]
    lines = _lines(call, load, "FlowMatchEulerDiscreteScheduler") if loads else None
    return _card(lines, call, about, "adapter", how)


def with_figures(card: str, figures: str) -> str:
    """A card with another last section."""
    return f"{card.partition(FIGURES)[0]}{FIGURES}\n\n{figures.rstrip()}\n"


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; its first row is the head."""
    told = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    head, *body = ["| " + " | ".join(row) + " |" for row in told]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def _dropped(call: Call) -> str:
    return "".join(f", {name}=None" for name in call.info.dropped)


def _lines(call: Call, load: Sequence[str], *classes: str) -> str:
    height, width = call.info.pixels
    names = ", ".join(sorted((*classes, call.info.family.pipeline)))
    generator = "torch.Generator().manual_seed(0)"
    bound: list[str] = []
    if call.draws_noise:
        generator = "generator.manual_seed(0)"
        bound = [
            "generator = torch.Generator()",
            "pipeline.scheduler.step = partial(pipeline.scheduler.step, generator=generator)  # the noise of steps too",
        ]
    return "\n".join(
        [
            *(["from functools import partial", ""] if call.draws_noise else []),
            "import torch",
            f"from diffusers import {names}",
            *([] if call.codec is None else [f"import {call.codec}  # the image codec; diffusers finds it imported"]),
            "",
            'device = "cuda" if torch.cuda.is_available() else "cpu"',
            *load,
            *bound,
            "image = pipeline(",
            f"    prompt={call.prompt!r},",
            f"    sigmas={[float(sigma) for sigma in call.sigmas]},",
            *(f"    {key}={value}," for key, value in adapter(call.info.family).unguided(call.guidance).items()),
            f"    max_sequence_length={call.max_sequence_length},",
            f"    height={height},",
            f"    width={width},",
            f"    generator={generator},",
            ").images[0]",
            'image.save("image.png")',
        ]
    )


def _header(call: Call, about: About, relation: str) -> str:
    """The hub's YAML, between its marks."""
    from huggingface_hub import ModelCardData

    base: dict[str, Any] = dict(about.licence)
    if about.base is not None:
        base |= {"base_model": about.base, "base_model_relation": relation}
    tags = ["advdmd", "distillation", "few-step", call.info.family.name.replace("_", "-")]
    facts = ModelCardData(
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=[*tags, "lora"] if relation == "adapter" else tags,
        **base,
    )
    return f"---\n{facts.to_yaml()}\n---"


def _card(lines: str | None, call: Call, about: About, relation: str, how: str = "") -> str:
    what = "Adapters (LoRA) of a few-step" if relation == "adapter" else "Few-step"
    sampled = ["Run in this folder:", "", "```python", lines, "```", ""] if lines is not None else []
    notes = [
        "The student was distilled from the guided teacher and is called once a step, without classifier-free",
        "guidance. `sigmas` are the noise levels before the scheduler's shift; leave `num_inference_steps`",
        "out, the scheduler's own levels are not those of training.",
    ]
    if call.codec is not None:
        notes += [
            "",
            f"The image codec is `{call.codec}` (latents are pixels) of the package `advdmd-ray`; nothing else of",
            "it is needed.",
        ]
    if call.kernel in {"cps", "flow_sde"}:
        notes += [
            "",
            f"Trained with the kernel `{call.kernel}`, which stock diffusers has not: this samples with `renoise`.",
        ]
    recipe = table([["", ""], ["kernel", call.kernel], *([key, value] for key, value in about.recipe.items())])
    data = table([["", ""], *([key, value] for key, value in about.data.items())]) if about.data else "Not said."
    return "\n".join(
        [
            _header(call, about, relation),
            "",
            f"# {about.title}",
            "",
            f"{what} student of a flow-matching teacher, distilled with AdvDMD on Ray.",
            "",
            *([how, ""] if how else []),
            "## Sampling",
            "",
            *sampled,
            *notes,
            "",
            *(_repeating(call) if lines is not None else []),
            "## Recipe",
            "",
            recipe,
            "",
            "## Data",
            "",
            data,
            "",
            FIGURES,
            "",
            about.figures.rstrip(),
            "",
        ]
    )


def _repeating(call: Call) -> list[str]:
    """What a user does so that the seed decides the image."""
    if not call.draws_noise:
        return ["The seed of `generator` decides the image: no step draws noise.", ""]
    return [
        "### Repeatable images",
        "",
        "The steps of this student draw noise, and a stock pipeline hands its `generator` to the first noise alone:",
        "with `generator=torch.Generator().manual_seed(0)` and nothing else, every call gives another image. So:",
        "",
        "* `pipeline.scheduler.step = partial(pipeline.scheduler.step, generator=generator)`, once, hands it to the",
        "  steps too (diffusers 0.42 or newer). Then its seed decides the image, with the same noise on any device;",
        "  seed it before every call.",
        "* For several images in one call: a list with a generator for each image, given to both. An image then hangs",
        "  on its own generator, not on the others in the call.",
        "* Where the scheduler cannot be reached: `generator=torch.manual_seed(0)` seeds torch's own generators, from",
        "  which the steps draw. The call as a whole repeats, on one kind of device.",
        "",
    ]
