"""Pipelines in memory: load one for training, write a student that plain diffusers samples."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from advdmd_ray.files import drafted_folder
from advdmd_ray.models.diffusers_classes import pipeline_class, transformer_class
from advdmd_ray.models.families import adapter, adapter_of
from advdmd_ray.models.families.base import Execution, Pipeline, TransformerDenoiser
from advdmd_ray.models.folder import PipelineInfo, inspect_pipeline
from advdmd_ray.models.headers import plain_weight_names
from advdmd_ray.models.lora import adapter_weights
from advdmd_ray.models.sampling_settings import SamplingSettings, write_sampling
from advdmd_ray.models.soundness import check_loaded, loading
from advdmd_ray.models.student_scheduler import student_scheduler

KernelName = Literal["renoise", "cps", "ode", "flow_sde"]
Parts = Literal["all", "text", "codec", "tokenizers"]
README = "README.md"
DECODED_AT_ONCE, CONVOLVED_AT_ONCE, ENCODED_AT_ONCE = 2**17, 2**14, 2**20
"""Places of latents that go through an image codec at once; of one with convolutions, which holds hundreds of channels
of every pixel: a latent of 128 x 128 or hundreds of small ones; and of images to encode: one of 1024 x 1024."""


@contextmanager
def quiet() -> Iterator[None]:
    """Silence diffusers' notices and progress bars inside, and transformers' if it is imported; restore their settings.

    Whoever loads what transformers reads asks for its class before.
    """
    from diffusers.utils import logging as diffusers_logging

    libraries: list[Any] = [diffusers_logging]
    if "transformers" in sys.modules:
        from transformers.utils import logging as transformers_logging

        libraries.append(transformers_logging)
    levels = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (level, bars) in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
            if bars:
                library.enable_progress_bar()


def load_pipeline(path: str | Path, dtype: torch.dtype = torch.float32, parts: Parts = "all") -> Pipeline:
    """Load a pipeline folder on the CPU, from local safetensors only, frozen and in evaluation mode.

    Args:
        path: A folder, or `builtin:NAME`.
        dtype: Of the weights.
        parts: `text` leaves the transformer and the image codec out, for those who encode prompts; `codec` leaves all
            but the image codec out, and `tokenizers` whatever has weights.

    Raises:
        UserError: The folder is not a whole pipeline (`inspect_pipeline`), or holds what is no number.
    """
    info = inspect_pipeline(path)
    names = {component.name for component in info.components}
    left_out = {
        "all": set[str](),
        # Without its T5 encoder, SD3's pipeline asks the transformer how wide the tokens are that are not there.
        "text": {"vae"} if info.dropped else {"vae", "transformer"},
        "codec": names - {"vae", "scheduler"},
        "tokenizers": {component.name for component in info.components if component.weight_files},
    }[parts]
    kind = pipeline_class(info.family)
    with quiet(), loading(info.folder):
        pipeline = kind.from_pretrained(
            str(info.folder),
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            variant=info.variant,
            **dict.fromkeys([*info.dropped, *sorted(left_out)]),
        )
    pipeline.set_progress_bar_config(disable=True)
    for name, component in pipeline.components.items():
        if isinstance(component, nn.Module):
            component.eval().requires_grad_(False)
            check_loaded(info, info.component(name), component)
    return pipeline


def load_transformer(path: str | Path, dtype: torch.dtype = torch.float32) -> Any:
    """Load a pipeline's transformer alone, on the CPU, frozen and in evaluation mode.

    Args:
        path: A pipeline folder, or `builtin:NAME`.
        dtype: Of the weights.

    Raises:
        UserError: The folder is not a whole pipeline (`inspect_pipeline`), or holds what is no number.
    """
    info = inspect_pipeline(path)
    kind = transformer_class(info.family)
    with quiet(), loading(info.folder / "transformer"):
        transformer = kind.from_pretrained(
            str(info.folder / "transformer"),
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            variant=info.component("transformer").variant,
        )
    check_loaded(info, info.component("transformer"), transformer)
    return transformer.eval().requires_grad_(False)


def load_denoiser(
    path: str | Path,
    guidance: float = 1.0,
    execution: Execution = Execution(),  # noqa: B008 - immutable
    dtype: torch.dtype = torch.float32,
) -> TransformerDenoiser:
    """Load a pipeline's transformer as a denoiser of its family; see `load_transformer`.

    Args:
        path: A pipeline folder, or `builtin:NAME`.
        guidance: For families whose transformer takes the guidance scale as an input.
        execution: How it computes.
        dtype: Of the weights.
    """
    return adapter(inspect_pipeline(path).family).denoiser(load_transformer(path, dtype), guidance, execution)


def denoiser_of(
    pipeline: Pipeline,
    guidance: float = 1.0,
    execution: Execution = Execution(),  # noqa: B008 - immutable
) -> TransformerDenoiser:
    """A loaded pipeline's transformer as a denoiser; it is held, not copied."""
    return adapter_of(pipeline).denoiser(pipeline.transformer, guidance, execution)


def save_pipeline(pipeline: Pipeline, folder: Path) -> None:
    """Write a pipeline as safetensors, without notices."""
    with quiet():
        pipeline.save_pretrained(str(folder), safe_serialization=True)


def image_decoder(pipeline: Pipeline) -> Callable[[Tensor], Tensor]:
    """The pipeline's image codec as a function from latents `[b, c, h, w]` to images in [-1, 1], without a graph.

    The codec works where it is, on a few large images or many small ones at a time; images come where the latents are.
    """
    family, vae = adapter_of(pipeline), pipeline.vae
    convolves = any(isinstance(module, nn.Conv2d | nn.Conv3d) for module in vae.modules())
    places = CONVOLVED_AT_ONCE if convolves else DECODED_AT_ONCE
    return _in_parts(lambda x: family.to_images(vae, x.to(vae.device, vae.dtype)).to(x), places)


def image_encoder(pipeline: Pipeline) -> Callable[[Tensor], Tensor]:
    """The way back: from images in [-1, 1] to their most likely latents, without a graph."""
    family, vae = adapter_of(pipeline), pipeline.vae
    return _in_parts(lambda x: family.to_latents(vae, x.to(vae.device, vae.dtype)).to(x), ENCODED_AT_ONCE)


def _in_parts(work: Callable[[Tensor], Tensor], places: int) -> Callable[[Tensor], Tensor]:
    @torch.no_grad()
    def part_by_part(rows: Tensor) -> Tensor:
        most = max(1, places // (rows.shape[-2] * rows.shape[-1]))
        return torch.cat([work(part) for part in rows.split(most)]) if len(rows) else work(rows)

    return part_by_part


def export_student(
    pipeline_path: str | Path,
    state: Mapping[str, Tensor],
    folder: Path,
    *,
    sigmas_before_shift: Sequence[float],
    kernel: KernelName,
    sampling: SamplingSettings,
    guidance: float = 1.0,
    prompt: str,
    card: Mapping[str, str],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a student as a diffusers pipeline folder that stock diffusers samples in few steps.

    The transformer has the student's weights; the text encoders and the image codec are the teacher's files; the
    scheduler is the stock `FlowMatchEulerDiscreteScheduler`. A README has the snippet that samples it, and
    `sampling.json` what it was trained with. The folder is written beside its place and renamed into it, so it is
    there as a whole or not at all.

    Args:
        pipeline_path: The teacher's folder, or `builtin:NAME`.
        state: All weights of the student's transformer.
        folder: Where to write; must not exist.
        sigmas_before_shift: The K noise levels of the student, before the scheduler's shift.
        kernel: Kernel of training. The stock scheduler has two: `renoise` (`stochastic_sampling=True`) and `ode`.
            Students of `cps` and `flow_sde` are sampled with `renoise`, and the README says so.
        sampling: What the student was trained with.
        guidance: What it was given in training, if its family takes the guidance scale as an input.
        prompt: Prompt of the snippet.
        card: Names and values for the README's table.
        dtype: Of the transformer's file.

    Raises:
        UserError: The teacher's folder is not whole.
        FileExistsError: `folder` exists.
        RuntimeError: `state` does not fit the transformer.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists; remove it or choose another folder")
    info = inspect_pipeline(pipeline_path, sampling.pixels)
    transformer = load_transformer(info.folder, dtype)
    transformer.load_state_dict(dict(state))
    with drafted_folder(folder) as draft:
        for component in info.components:
            if component.name not in {"transformer", "scheduler"}:
                plain_weight_names(Path(shutil.copytree(info.folder / component.name, draft / component.name)))
        with quiet():
            transformer.save_pretrained(str(draft / "transformer"), safe_serialization=True)
            several = sampling.sizes is not None
            scheduler = student_scheduler(info, stochastic=kernel != "ode", several=several)
            scheduler.save_pretrained(str(draft / "scheduler"))
        index = json.loads((info.folder / "model_index.json").read_text(encoding="utf-8"))
        index["scheduler"] = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
        (draft / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        write_sampling(draft, sampling)
        library = info.component("vae").library
        own_codec = None if library == "diffusers" else library
        length = sampling.max_sequence_length
        snippet = _snippet(info, sigmas_before_shift, length, guidance, prompt, own_codec, dtype)
        (draft / README).write_text(_model_card(folder.name, snippet, kernel, own_codec, card), encoding="utf-8")


def export_adapters(pipeline_path: str | Path, state: Mapping[str, Tensor], folder: Path, *, scale: float) -> None:
    """Write adapters as a folder that `load_lora_weights` of the family's pipeline reads, whole or not at all.

    Args:
        pipeline_path: The folder of the base, or `builtin:NAME`.
        state: Adapter weights by their names in the denoiser.
        folder: Where to write; must not exist.
        scale: What the adapters count; it goes into their weights.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists; remove it or choose another folder")
    family = inspect_pipeline(pipeline_path).family
    layers = {
        name: (tensor * scale if ".lora_B." in name else tensor).detach().contiguous()
        for name, tensor in adapter_weights(state).items()
    }
    kind = pipeline_class(family)
    with drafted_folder(folder) as draft, quiet():
        kind.save_lora_weights(str(draft), transformer_lora_layers=layers)


def _snippet(
    info: PipelineInfo,
    sigmas: Sequence[float],
    max_sequence_length: int,
    guidance: float,
    prompt: str,
    own_codec: str | None,
    dtype: torch.dtype,
) -> str:
    name, (height, width) = info.family.pipeline, info.pixels
    codec_import = "" if own_codec is None else f"\nimport {own_codec}  # the image codec; diffusers finds it imported"
    dropped = "".join(f", {name}=None" for name in info.dropped)
    unguided = "\n".join(f"    {key}={value}," for key, value in adapter(info.family).unguided(guidance).items())
    return f"""import torch
from diffusers import {name}
{codec_import}

device = "cuda" if torch.cuda.is_available() else "cpu"
pipeline = {name}.from_pretrained(".", dtype={dtype}{dropped}).to(device)
image = pipeline(
    prompt={prompt!r},
    sigmas={[float(sigma) for sigma in sigmas]},
{unguided}
    max_sequence_length={max_sequence_length},
    height={height},
    width={width},
    generator=torch.Generator().manual_seed(0),
).images[0]
image.save("image.png")
"""


def _model_card(name: str, snippet: str, kernel: KernelName, codec_module: str | None, card: Mapping[str, str]) -> str:
    notes = [
        "Few-step student of a flow-matching teacher, distilled with AdvDMD on Ray.",
        "",
        "Run in this folder:",
        "",
        "```python",
        snippet.rstrip(),
        "```",
        "",
        "The student was distilled from the guided teacher and is called once a step, without classifier-free",
        "guidance. `sigmas` are the noise levels before the scheduler's shift; leave `num_inference_steps`",
        "out, the scheduler's own levels are not those of training.",
    ]
    if codec_module is not None:
        notes += [
            "",
            f"The image codec is `{codec_module}` (latents are pixels) of the package `advdmd-ray`; nothing else of",
            "it is needed.",
        ]
    if kernel in {"cps", "flow_sde"}:
        notes += [
            "",
            f"Trained with the kernel `{kernel}`, which stock diffusers has not: this samples with `renoise`.",
        ]
    rows = [f"| {key} | {value} |" for key, value in {"kernel": kernel, **card}.items()]
    return "\n".join([f"# {name}", "", *notes, "", "| | |", "|---|---|", *rows, ""])
