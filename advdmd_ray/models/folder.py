"""Pipeline folders as files, found and checked without loading them: no torch or diffusers is imported here."""

import itertools
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from advdmd_ray.errors import UserError
from advdmd_ray.models.families.registry import BY_PIPELINE, FAMILIES, PATCH, Family, noise_shift
from advdmd_ray.models.location import resolve_model_path

SAMPLING = "sampling.json"
"""File at the top of a pipeline folder that holds `SamplingSettings`; diffusers does not read it."""
_DESCRIPTIONS = {".json", ".txt", ".model"}
"""Suffixes of what describes a component beside its weights: configuration, vocabulary, merges, word pieces."""
MAX_SEQUENCE_LENGTH = 1024
"""Most text tokens that any family's pipeline takes."""
MAX_PIXELS = 8192
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
"""The safetensors format's own limit."""


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
class SamplingSettings:
    """What a pipeline must be called with to be sampled as it was trained.

    Attributes:
        max_sequence_length: Most text tokens, 1 to 1024. SD3's transformer attends to so many in the slot of its T5
            encoder, with or without one.
        height: Pixels of an image; None: the model's own size.
        width: As `height`; both or neither.
        sigmas: Noise levels of a student, before the scheduler's shift; None: no levels are its own.
        guidance: Scale that a student was given, in families that take it as an input.
    """

    max_sequence_length: int
    height: int | None = None
    width: int | None = None
    sigmas: tuple[float, ...] | None = None
    guidance: float | None = None

    @property
    def pixels(self) -> tuple[int, int] | None:
        """Height and width; None if the model's own size is meant."""
        return None if self.height is None or self.width is None else (self.height, self.width)


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
    """

    name: str
    library: str
    class_name: str
    weight_files: tuple[Path, ...]
    parameters: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class PipelineInfo:
    """What a pipeline folder holds, known without loading it.

    Attributes:
        folder: The folder.
        family: Whose pipeline it is.
        components: In the order of `model_index.json`, absent ones left out.
        dropped: Components that `from_pretrained` must be given as None.
        latent: Shape of one latent.
        pixels_per_latent: Side of the image region of one latent element, pixels.
        scheduler_shift: Shift of the noise levels at this size.
        image_tokens: Tokens of one latent.
        layers: Blocks of the transformer.
        transformer: Its configuration.
        embedded_guidance: Whether the guidance scale is an input of the transformer, and not classifier-free.
        sampling: Its `sampling.json`; None if it has none.
    """

    folder: Path
    family: Family
    components: tuple[ComponentInfo, ...]
    dropped: tuple[str, ...]
    latent: LatentSpec
    pixels_per_latent: int
    scheduler_shift: float
    image_tokens: int
    layers: int
    transformer: Mapping[str, Any]
    embedded_guidance: bool
    sampling: SamplingSettings | None

    @property
    def pixels(self) -> tuple[int, int]:
        """Height and width of an image."""
        return self.latent.height * self.pixels_per_latent, self.latent.width * self.pixels_per_latent

    def files(self, name: str) -> tuple[Path, ...]:
        """What a component's work hangs on: its configurations, vocabularies and weights, in a fixed order."""
        part = self.component(name)
        described = (file for file in (self.folder / name).iterdir() if file.suffix in _DESCRIPTIONS)
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


def inspect_pipeline(path: str | Path, pixels: tuple[int, int] | None = None) -> PipelineInfo:
    """Check a diffusers pipeline folder file by file, reading only configurations and weight headers.

    Args:
        path: A folder, `builtin:NAME`, or the name of a downloaded model on the Hugging Face hub.
        pixels: Height and width of the images; default: those of its `sampling.json`, or else the model's own size.

    Raises:
        UserError: The folder, a component, a configuration or a weight file is missing, damaged or of another kind, or
            the model has no images of that size.
    """
    folder = resolve_model_path(str(path))
    index = _read_json(folder / "model_index.json")
    family = BY_PIPELINE.get(str(index.get("_class_name")))
    if family is None:
        known = ", ".join(known.pipeline for known in FAMILIES)
        raise UserError(
            f"{folder / 'model_index.json'}: is a {index.get('_class_name')}; a folder of one of these is needed: "
            f"{known}"
        )
    entries = {name: entry for name, entry in index.items() if isinstance(entry, list) and entry[:1] != [None]}
    for name in family.components:
        if name not in entries:
            raise UserError(f"{folder / 'model_index.json'}: names no {name}; save the whole pipeline again")
    components = tuple(_inspect_component(folder, name, entry) for name, entry in entries.items())
    sampling = read_sampling(folder)
    if pixels is None and sampling is not None:
        pixels = sampling.pixels
    file = folder / "transformer" / "config.json"
    transformer, per_latent = _read_json(file), _pixels_per_latent(folder, family)
    patch = whole_number(transformer, "patch_size", file) if family.default_side is None else PATCH
    latent = _latent(family, transformer, file, per_latent, patch, pixels)
    tokens = (latent.height // patch) * (latent.width // patch)
    scheduler = _read_json(folder / "scheduler" / "scheduler_config.json")
    return PipelineInfo(
        folder=folder,
        family=family,
        components=components,
        dropped=tuple(name for name in family.optional if name not in entries),
        latent=latent,
        pixels_per_latent=per_latent,
        scheduler_shift=noise_shift(scheduler, tokens),
        image_tokens=tokens,
        layers=sum(whole_number(transformer, key, file) for key in family.block_counts),
        transformer=transformer,
        embedded_guidance=family.guidance_key is not None and bool(transformer.get(family.guidance_key)),
        sampling=sampling,
    )


def _pixels_per_latent(folder: Path, family: Family) -> int:
    file = folder / "vae" / "config.json"
    depth = _read_json(file).get(family.codec_depth)
    if not isinstance(depth, list) or not depth:
        raise UserError(f"{file}: {family.codec_depth} is {depth!r}; a list is needed, save the pipeline again")
    return 2 ** (len(depth) + family.codec_offset)


def _latent(
    family: Family,
    transformer: Mapping[str, Any],
    file: Path,
    per_latent: int,
    patch: int,
    pixels: tuple[int, int] | None,
) -> LatentSpec:
    """The shape of a latent, of the size asked for or else the model's own."""
    channels = whole_number(transformer, "in_channels", file) // family.packing
    if pixels is None:
        own = family.default_side
        side = whole_number(transformer, "sample_size", file) if own is None else own
        return LatentSpec(channels, side, side)
    cell = per_latent * patch
    if any(side % cell or side < cell for side in pixels):
        raise UserError(
            f"model.height, model.width: {pixels[0]} x {pixels[1]} pixels do not divide into tokens of {cell}; use "
            f"multiples of {cell}"
        )
    largest = transformer.get("pos_embed_max_size")
    if isinstance(largest, int) and max(pixels) > largest * cell:
        raise UserError(
            f"model.height, model.width: {pixels[0]} x {pixels[1]} pixels are more than the {largest * cell} that "
            "the model has positions for; use less"
        )
    return LatentSpec(channels, pixels[0] // per_latent, pixels[1] // per_latent)


def read_sampling(folder: Path) -> SamplingSettings | None:
    """Read a pipeline folder's `sampling.json`; None if it has none, as folders that others made.

    Raises:
        UserError: The file cannot be read, has other keys, or a value is no whole number in range.
    """
    file = folder / SAMPLING
    if not file.exists():
        return None
    content = _read_json(file)
    known = {field.name for field in fields(SamplingSettings)}
    if (
        not content.keys() <= known
        or "max_sequence_length" not in content
        or ("height" in content) != ("width" in content)
    ):
        raise UserError(
            f"{file}: has the keys {sorted(content)}; max_sequence_length is needed, {', '.join(sorted(known))} are "
            "known, height and width go together; correct the file"
        )
    for key, value in content.items():
        if (wanted := _wanted(key, value)) is not None:
            raise UserError(f"{file}: {key} is {value!r}; {wanted} is needed, correct the file")
    if "sigmas" in content:
        content["sigmas"] = tuple(content["sigmas"])
    return SamplingSettings(**content)


def _wanted(key: str, value: object) -> str | None:
    """What is needed in place of a value of `sampling.json`, or None."""
    # JSON's true would pass isinstance(value, int).
    if key == "sigmas":
        levels = value if isinstance(value, list) and all(type(level) in {int, float} for level in value) else []
        falling = bool(levels) and levels[0] <= 1 and all(a > b for a, b in itertools.pairwise([*levels, 0]))
        return None if falling else "a list of numbers that fall from at most 1 towards 0"
    if key == "guidance":
        return None if type(value) in {int, float} and value >= 1 else "a number of at least 1"  # pyright: ignore[reportOperatorIssue]
    most = MAX_SEQUENCE_LENGTH if key == "max_sequence_length" else MAX_PIXELS
    return None if type(value) is int and 1 <= value <= most else f"a whole number from 1 to {most}"


def write_sampling(folder: Path, settings: SamplingSettings) -> None:
    """Write `sampling.json` into a pipeline folder."""
    given = {key: value for key, value in asdict(settings).items() if value is not None}
    (folder / SAMPLING).write_text(json.dumps(given) + "\n", encoding="utf-8")


def whole_number(config: Mapping[str, Any], key: str, file: Path) -> int:
    """A positive whole number out of a configuration.

    Raises:
        UserError: There is none under this key.
    """
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise UserError(f"{file}: {key} is {value!r}; a positive whole number is needed, save the pipeline again")
    return value


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file}: missing; give a complete diffusers pipeline folder, or copy it again") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as JSON ({error}); copy it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: is not a JSON object; copy it again")
    return content


def _inspect_component(folder: Path, name: str, entry: list[str]) -> ComponentInfo:
    if len(entry) != 2:  # noqa: PLR2004 - library and class
        raise UserError(f"{folder / 'model_index.json'}: {name} is {entry}; [library, class] is needed")
    library, class_name = entry
    home = folder / name
    if not home.is_dir():
        raise UserError(f"{home}: missing, but model_index.json names it; copy the folder again")
    if class_name.endswith("Scheduler"):
        _read_json(home / "scheduler_config.json")
        return ComponentInfo(name, library, class_name, (), 0, 0)
    if "Tokenizer" in class_name:
        _read_json(home / "tokenizer_config.json")
        if not any((home / file).is_file() for file in ("tokenizer.json", "vocab.json", "spiece.model")):
            raise UserError(f"{home}: holds no vocabulary (tokenizer.json, vocab.json or spiece.model); copy it again")
        return ComponentInfo(name, library, class_name, (), 0, 0)
    if class_name.endswith(("Processor", "Extractor")):
        _read_json(home / "preprocessor_config.json")
        return ComponentInfo(name, library, class_name, (), 0, 0)
    _read_json(home / "config.json")
    files = _weight_files(home)
    parameters = sum(check_safetensors(file) for file in files)
    return ComponentInfo(name, library, class_name, files, parameters, sum(file.stat().st_size for file in files))


def _weight_files(home: Path) -> tuple[Path, ...]:
    """Find the safetensors files of a model folder: one file, or the shards that its index names."""
    for stem in ("diffusion_pytorch_model", "model"):
        index = home / f"{stem}.safetensors.index.json"
        if index.is_file():
            mapping = _read_json(index).get("weight_map")
            if not isinstance(mapping, dict) or not mapping:
                raise UserError(f"{index}: has no weight_map; copy it again")
            return tuple(home / shard for shard in sorted(set(mapping.values())))
        if (home / f"{stem}.safetensors").is_file():
            return (home / f"{stem}.safetensors",)
    other = [file.name for file in sorted(home.iterdir()) if file.suffix in {".bin", ".pt", ".ckpt", ".pth"}]
    if other:
        raise UserError(f"{home / other[0]}: pickled weights are not read; save the pipeline with safetensors")
    raise UserError(f"{home}: holds no safetensors weights; copy the folder again")


def check_safetensors(file: Path) -> int:
    """Number of tensor elements in a safetensors file, checked as `tensor_shapes` does."""
    return sum(math.prod(shape) for shape in tensor_shapes(file).values())


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Shapes in a safetensors file by name, from its header, which says: 8 + header + data bytes, no gap and no rest.

    Args:
        file: The file.

    Raises:
        UserError: The file is missing, shorter or longer than its header says, or not in the format.
    """
    size, length = 0, -1
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            prefix = stream.read(LENGTH_BYTES)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == LENGTH_BYTES else -1
            whole = 0 < length <= min(MAX_HEADER_BYTES, size - LENGTH_BYTES)
            header = json.loads(stream.read(length)) if whole else None
    except FileNotFoundError:
        raise UserError(f"{file}: missing; copy the pipeline folder again") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check its permissions") from None
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise UserError(f"{file}: is truncated or not a safetensors file ({size} bytes); copy it again")
    header.pop("__metadata__", None)
    try:
        data = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
        shapes = {name: tuple(int(side) for side in tensor["shape"]) for name, tensor in header.items()}
    except (KeyError, TypeError, IndexError):
        raise UserError(f"{file}: has a damaged safetensors header; copy it again") from None
    expected = LENGTH_BYTES + length + data
    if size != expected:
        raise UserError(f"{file}: has {size} bytes, its header says {expected}; it is damaged, copy it again")
    return shapes
