"""Pipeline folders as files, found and checked without loading them: no torch or diffusers is imported here."""

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from advdmd_ray.errors import UserError
from advdmd_ray.models.families.registry import (
    BY_PIPELINE,
    DEFAULT_STEPS,
    FAMILIES,
    PATCH,
    Family,
    as_euler,
    noise_shift,
    noise_terminal,
    scheduler_fault,
)
from advdmd_ray.models.headers import check_safetensors, read_json, weight_files, weight_variant
from advdmd_ray.models.location import resolve_model_path
from advdmd_ray.models.sampling_settings import MAX_PIXELS, SamplingSettings, read_sampling

MOST_WHOLE, MOST_DEPTH = 10**6, 12
"""Of any number of a network's configuration, and levels of an image codec: far beyond those that there are."""
SIZE = "model.height, model.width"
"""The settings that name the one size of a run's images."""
COLOURS = 3
_IMAGE_CHANNELS = ("in_channels", "input_channels", "image_channels")
"""What image codecs call the channels of an image; those that do not say have colours."""
_DESCRIPTIONS = {".json", ".txt", ".model"}
"""Suffixes of what describes a component beside its weights: configuration, vocabulary, merges, word pieces."""


@dataclass(frozen=True, slots=True)
class LatentSpec:
    """Shape of one latent."""

    channels: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(c, h, w)`."""
        return (self.channels, self.height, self.width)

    @property
    def numel(self) -> int:
        """Number of elements."""
        return self.channels * self.height * self.width


@dataclass(frozen=True, slots=True)
class ComponentInfo:
    """One component of a pipeline folder.

    Attributes:
        name: Its folder, such as `transformer`.
        library: Module that has its class.
        class_name: The class.
        weight_files: Its safetensors files.
        parameters: Number of weights; 0 for tokenizers and schedulers.
        size_bytes: Bytes of its weight files.
        variant: What diffusers calls so, such as `fp16`; None: the files have none in their names.
    """

    name: str
    library: str
    class_name: str
    weight_files: tuple[Path, ...]
    parameters: int
    size_bytes: int
    variant: str | None = None


@dataclass(frozen=True, slots=True)
class PipelineInfo:
    """What a pipeline folder holds, known without loading it.

    Attributes:
        folder: The folder.
        family: Whose pipeline it is.
        components: In the order of `model_index.json`, absent ones left out.
        dropped: Components that `from_pretrained` must be given as None.
        latent: Shape of one latent.
        image_channels: Of an image: 3 in colours, 1 in grey.
        pixels_per_latent: Side of the image region of one latent element, pixels.
        scheduler: Configuration of the scheduler, in the terms of the Euler scheduler.
        scheduler_terminal: Level that the teacher's last is stretched to; None: it is where the shift left it.
        image_tokens: Tokens of one latent.
        layers: Blocks of the transformer.
        transformer: Its configuration.
        embedded_guidance: Whether the guidance scale is an input of the transformer, and not classifier-free.
        distilled: Whether `model_index.json` says that the model is one of few steps already.
        sampling: Its `sampling.json`; None if it has none.
    """

    folder: Path
    family: Family
    components: tuple[ComponentInfo, ...]
    dropped: tuple[str, ...]
    latent: LatentSpec
    image_channels: int
    pixels_per_latent: int
    scheduler: Mapping[str, Any]
    scheduler_terminal: float | None
    image_tokens: int
    layers: int
    transformer: Mapping[str, Any]
    embedded_guidance: bool
    distilled: bool
    sampling: SamplingSettings | None

    @property
    def variant(self) -> str | None:
        """That of the components' weights which have one; `from_pretrained` must be given it."""
        return next((part.variant for part in self.components if part.variant is not None), None)

    @property
    def pixels(self) -> tuple[int, int]:
        """Height and width of an image."""
        return self.latent.height * self.pixels_per_latent, self.latent.width * self.pixels_per_latent

    @property
    def scheduler_shift(self) -> float:
        """Shift of the noise levels at this size, that of a student included."""
        return self.teacher_shift(DEFAULT_STEPS)

    def teacher_shift(self, steps: int) -> float:
        """Shift of a teacher's levels at this size, which in some families hangs on the number of steps too."""
        rule, exponent = self.family.exponent, self.family.distilled_exponent if self.distilled else None
        if rule is not None:
            exponent = rule(self.image_tokens, steps)
        return noise_shift(self.scheduler, self.image_tokens, exponent)

    def files(self, name: str) -> tuple[Path, ...]:
        """What a component's work hangs on: its configurations, vocabularies and weights, in a fixed order."""
        part = self.component(name)
        inside = (self.folder / name).iterdir()  # a Mac keeps files of its own there, with a dot before the name
        described = (file for file in inside if file.suffix in _DESCRIPTIONS and not file.name.startswith("."))
        return (*sorted(described), *part.weight_files)

    def component(self, name: str) -> ComponentInfo:
        """Return a component by name.

        Raises:
            KeyError: The pipeline has none of that name.
        """
        for component in self.components:
            if component.name == name:
                return component
        raise KeyError(name)


def inspect_pipeline(path: str | Path, pixels: tuple[int, int] | None = None, said_by: str = SIZE) -> PipelineInfo:
    """Check a diffusers pipeline folder file by file, reading only configurations and weight headers.

    Args:
        path: A folder, `builtin:NAME`, or the name of a downloaded model on the Hugging Face hub.
        pixels: Height and width of the images; default: those of its `sampling.json`, or else the model's own size.
        said_by: The setting that names them, for messages.

    Raises:
        UserError: The folder, a component, a configuration or a weight file is missing, damaged or of another kind, or
            the model has no images of that size.
    """
    folder = resolve_model_path(str(path))
    index = read_json(folder / "model_index.json")
    family = BY_PIPELINE.get(str(index.get("_class_name")))
    if family is None:
        known = ", ".join(known.pipeline for known in FAMILIES)
        raise UserError(
            f"{folder / 'model_index.json'}: is a {index.get('_class_name')}; a folder of one of these is needed: "
            f"{known}"
        )
    entries = {name: entry for name, entry in index.items() if name not in family.settings and _is_there(entry)}
    for name in family.components:
        if name not in entries:
            raise UserError(f"{folder / 'model_index.json'}: names no {name}; save the whole pipeline again")
    components = tuple(_inspect_component(folder, name, entry) for name, entry in entries.items())
    variants = {part.variant for part in components} - {None}
    if len(variants) > 1:
        raise UserError(
            f"{folder}: has weights in the variants {', '.join(sorted(map(str, variants)))}; keep one of them"
        )
    sampling = read_sampling(folder)
    if pixels is None and sampling is not None:
        pixels = sampling.pixels
    file = folder / "transformer" / "config.json"
    transformer, per_latent = read_json(file), _pixels_per_latent(folder, family)
    patch = _patch(family, transformer, file)
    latent = _latent(family, transformer, file, per_latent, pixels, said_by)
    tokens = (latent.height // patch) * (latent.width // patch)
    scheduler = as_euler(read_json(folder / "scheduler" / "scheduler_config.json"))
    _check_scheduler(folder, scheduler, tokens)
    return PipelineInfo(
        folder=folder,
        family=family,
        components=components,
        dropped=tuple(name for name in family.optional if name not in entries),
        latent=latent,
        image_channels=_image_channels(folder),
        pixels_per_latent=per_latent,
        scheduler=scheduler,
        scheduler_terminal=noise_terminal(scheduler),
        image_tokens=tokens,
        layers=sum(whole_number(transformer, key, file) for key in family.block_counts),
        transformer=transformer,
        embedded_guidance=family.guidance_key is not None and bool(transformer.get(family.guidance_key)),
        distilled=index.get("is_distilled") is True,
        sampling=sampling,
    )


def at_size(info: PipelineInfo, pixels: tuple[int, int], said_by: str) -> PipelineInfo:
    """The same pipeline with images of another size; of its files one configuration is read again.

    Args:
        info: The pipeline.
        pixels: Height and width.
        said_by: The setting that names them.

    Raises:
        UserError: the model has no images of that size.
    """
    file = info.folder / "transformer" / "config.json"
    patch = _patch(info.family, info.transformer, file)
    latent = _latent(info.family, info.transformer, file, info.pixels_per_latent, pixels, said_by)
    tokens = (latent.height // patch) * (latent.width // patch)
    _check_scheduler(info.folder, info.scheduler, tokens)
    return replace(info, latent=latent, image_tokens=tokens)


def _check_scheduler(folder: Path, scheduler: Mapping[str, Any], tokens: int) -> None:
    """Make sure that the levels of so many image tokens can be followed."""
    if (fault := scheduler_fault(scheduler, tokens)) is not None:
        raise UserError(f"{folder / 'scheduler' / 'scheduler_config.json'}: {fault}")


def _patch(family: Family, transformer: Mapping[str, Any], file: Path) -> int:
    return whole_number(transformer, "patch_size", file) if family.default_side is None else PATCH


def _is_there(entry: object) -> bool:
    """Whether an entry of `model_index.json` names a component that is not left out."""
    return isinstance(entry, list) and entry[:1] != [None]


def _pixels_per_latent(folder: Path, family: Family) -> int:
    file = folder / "vae" / "config.json"
    depth = read_json(file).get(family.codec_depth)
    if not isinstance(depth, list) or not 0 < len(depth) <= MOST_DEPTH:
        raise UserError(
            f"{file}: {family.codec_depth} is {reprlib.repr(depth)}; a list of at most {MOST_DEPTH} is needed, save "
            "the pipeline again"
        )
    return 2 ** (len(depth) + family.codec_offset)


def _image_channels(folder: Path) -> int:
    file = folder / "vae" / "config.json"
    config = read_json(file)
    if config.get("_class_name") == "PixelCodec":  # its latents are the pixels
        return whole_number(config, "latent_channels", file)
    key = next((key for key in _IMAGE_CHANNELS if key in config), None)
    return COLOURS if key is None else whole_number(config, key, file)


def _latent(
    family: Family,
    transformer: Mapping[str, Any],
    file: Path,
    per_latent: int,
    pixels: tuple[int, int] | None,
    said_by: str,
) -> LatentSpec:
    """The shape of a latent, of the size asked for or else the model's own."""
    channels = whole_number(transformer, "in_channels", file) // family.packing
    if pixels is None:
        own = family.default_side
        side = whole_number(transformer, "sample_size", file) if own is None else own
        if side * per_latent > MAX_PIXELS:
            raise UserError(
                f"{file}: sample_size is {side}, which is {side * per_latent} pixels; at most {MAX_PIXELS} are "
                "allowed, save the pipeline again"
            )
        return LatentSpec(channels, side, side)
    cell = per_latent * _patch(family, transformer, file)
    if any(side % cell or side < cell for side in pixels):
        raise UserError(
            f"{said_by}: {pixels[0]} x {pixels[1]} pixels do not divide into tokens of {cell}; use multiples of {cell}"
        )
    largest = transformer.get("pos_embed_max_size")
    if isinstance(largest, int) and max(pixels) > largest * cell:
        raise UserError(
            f"{said_by}: {pixels[0]} x {pixels[1]} pixels are more than the {largest * cell} that the model has "
            "positions for; use less"
        )
    return LatentSpec(channels, pixels[0] // per_latent, pixels[1] // per_latent)


def whole_number(config: Mapping[str, Any], key: str, file: Path) -> int:
    """A positive whole number out of a configuration, of at most `MOST_WHOLE`.

    Raises:
        UserError: There is none under this key.
    """
    value = config.get(key)
    if type(value) is not int or not 1 <= value <= MOST_WHOLE:  # JSON's true is an int too
        raise UserError(
            f"{file}: {key} is {reprlib.repr(value)}; a whole number from 1 to {MOST_WHOLE} is needed, save the "
            "pipeline again"
        )
    return value


def _inspect_component(folder: Path, name: str, entry: list[Any]) -> ComponentInfo:
    if len(entry) != 2 or not all(isinstance(part, str) for part in entry):  # noqa: PLR2004 - library and class
        raise UserError(f"{folder / 'model_index.json'}: {name} is {entry}; [library, class] is needed")
    library, class_name = entry
    home = folder / name
    if not home.is_dir():
        raise UserError(f"{home}: missing, but model_index.json names it; copy the folder again")
    if class_name.endswith("Scheduler"):
        read_json(home / "scheduler_config.json")
        return ComponentInfo(name, library, class_name, (), 0, 0)
    if "Tokenizer" in class_name:
        read_json(home / "tokenizer_config.json")
        if not any((home / file).is_file() for file in ("tokenizer.json", "vocab.json", "spiece.model")):
            raise UserError(f"{home}: holds no vocabulary (tokenizer.json, vocab.json or spiece.model); copy it again")
        return ComponentInfo(name, library, class_name, (), 0, 0)
    if class_name.endswith(("Processor", "Extractor")):
        read_json(home / "preprocessor_config.json")
        return ComponentInfo(name, library, class_name, (), 0, 0)
    read_json(home / "config.json")
    files = weight_files(home)
    parameters = sum(check_safetensors(file) for file in files)
    size = sum(file.stat().st_size for file in files)
    return ComponentInfo(name, library, class_name, files, parameters, size, weight_variant(home))
