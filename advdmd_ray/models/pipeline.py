"""Pipelines in memory: load one for training, and write it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from advdmd_ray.models.diffusers_classes import pipeline_class, transformer_class
from advdmd_ray.models.families import adapter, adapter_of
from advdmd_ray.models.families.base import Execution, Pipeline, TransformerDenoiser
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.quantization import quantize
from advdmd_ray.models.soundness import check_loaded, loading

Parts = Literal["all", "text", "codec", "tokenizers"]
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


def load_transformer(path: str | Path, dtype: torch.dtype = torch.float32, quantization: str | None = None) -> Any:
    """Load a pipeline's transformer alone, on the CPU, frozen and in evaluation mode.

    Args:
        path: A pipeline folder, or `builtin:NAME`.
        dtype: Of the weights.
        quantization: How its blocks store those of linear layers, see `model.quantization`; None: as all others.

    Raises:
        UserError: The folder is not a whole pipeline (`inspect_pipeline`), or holds what is no number, or what stores
            weights in fewer bits is not installed.
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
    if quantization is not None:
        quantize(transformer, quantization)
    return transformer.eval().requires_grad_(False)


def load_denoiser(
    path: str | Path,
    guidance: float = 1.0,
    execution: Execution = Execution(),  # noqa: B008 - immutable
    dtype: torch.dtype = torch.float32,
    quantization: str | None = None,
) -> TransformerDenoiser:
    """Load a pipeline's transformer as a denoiser of its family; see `load_transformer`.

    Args:
        path: A pipeline folder, or `builtin:NAME`.
        guidance: For families whose transformer takes the guidance scale as an input.
        execution: How it computes.
        dtype: Of the weights.
        quantization: As of `load_transformer`.
    """
    transformer = load_transformer(path, dtype, quantization)
    return adapter(inspect_pipeline(path).family).denoiser(transformer, guidance, execution)


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
