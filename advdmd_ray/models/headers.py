"""The files of a pipeline folder without loading them: JSON, and the headers of safetensors."""

import json
import math
import re
import reprlib
import struct
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advdmd_ray.errors import UserError
from advdmd_ray.reading import POINTED, POINTER

LENGTH_BYTES = 8
NUMBER_BYTES = {"BOOL": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4}
NUMBER_BYTES |= {"I64": 8, "U64": 8, "F64": 8, "C64": 8}
"""Bytes of a number, of the kinds that the format has and that stand for themselves."""
QUANTISED = frozenset({"U8", "I8", "F4", "F6_E2M3", "F6_E3M2", "F8_E4M3", "F8_E5M2", "F8_E8M0"})
"""Kinds of numbers that stand for others by scales elsewhere in the file, or in none."""
WEIGHT_STEMS = ("diffusion_pytorch_model", "model")
_WEIGHTS = re.compile(
    rf"(?:{'|'.join(WEIGHT_STEMS)})\.(?:safetensors\.index\.(?:(?P<index>[^.]+)\.)?json|(?:(?P<file>[^.-]+)\.)?safetensors)"
)
"""A file of all weights, or the index of their shards, of a variant or without."""
MAX_HEADER_BYTES = 100_000_000
"""The safetensors format's own limit."""


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UserError: The file is missing, unreadable or holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_each_once)
    except FileNotFoundError:
        raise UserError(f"{file}: missing; give a complete diffusers pipeline folder, or copy it again") from None
    except RecursionError:
        raise UserError(f"{file}: cannot be read as JSON (it is nested too deeply); copy it again") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as JSON ({error}); copy it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: is not a JSON object; copy it again")
    return content


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, whose keys stand in it once each."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in an object")
    return content


def weight_files(home: Path) -> tuple[Path, ...]:
    """Find the safetensors files of a model folder: one file, or the shards that its index names.

    Those of a variant, such as `model.fp16.safetensors`, are found where none are without.

    Raises:
        UserError: There are none, or of several variants, the weights are pickled, or the index names no shards.
    """
    variant = weight_variant(home)
    for stem in WEIGHT_STEMS:
        index = home / (
            f"{stem}.safetensors.index.json" if variant is None else f"{stem}.safetensors.index.{variant}.json"
        )
        if index.is_file():
            mapping = read_json(index).get("weight_map")
            if not isinstance(mapping, dict) or not mapping:
                raise UserError(f"{index}: has no weight_map; copy it again")
            named = set(map(str, mapping.values()))
            if stray := [name for name in named if Path(name).name != name]:
                raise UserError(f"{index}: names {min(stray)!r}, which is no file beside it; copy it again")
            return tuple(home / shard for shard in sorted(named))
        file = home / (f"{stem}.safetensors" if variant is None else f"{stem}.{variant}.safetensors")
        if file.is_file():
            return (file,)
    other = [file.name for file in sorted(home.iterdir()) if file.suffix in {".bin", ".pt", ".ckpt", ".pth"}]
    if other:
        raise UserError(f"{home / other[0]}: pickled weights are not read; save the pipeline with safetensors")
    stray = [file.name for file in sorted(home.iterdir()) if file.suffix.lower() == ".safetensors" and file.is_file()]
    if stray:
        raise UserError(
            f"{home}: holds {stray[0]}, and neither {WEIGHT_STEMS[0]}.safetensors nor an index of shards; copy the "
            "folder again"
        )
    raise UserError(f"{home}: holds no safetensors weights; copy the folder again")


def weight_variant(home: Path) -> str | None:
    """What diffusers calls `variant` of a model folder's weights; None if they are there without one, or not at all.

    Raises:
        UserError: There are several, and none without.
    """
    found = [match for file in home.iterdir() if file.is_file() and (match := _WEIGHTS.fullmatch(file.name))]
    variants = {match["index"] or match["file"] for match in found}
    if not variants or None in variants:
        return None
    if len(variants) > 1:
        raise UserError(
            f"{home}: holds weights in the variants {', '.join(sorted(variants))} and none without; keep one of them"
        )
    return variants.pop()


def plain_weight_names(home: Path) -> None:
    """Rename the weights of a variant as those without one are called, so that they load unasked."""
    variant = weight_variant(home)
    if variant is None:
        return
    names = {file.name: file.name.replace(f".{variant}", "", 1) for file in weight_files(home)}
    for old, new in names.items():
        (home / old).rename(home / new)
    for stem in WEIGHT_STEMS:
        index = home / f"{stem}.safetensors.index.{variant}.json"
        if index.is_file():
            content = read_json(index)
            content["weight_map"] = {key: names[shard] for key, shard in content["weight_map"].items()}
            (home / f"{stem}.safetensors.index.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            index.unlink()


def check_safetensors(file: Path) -> int:
    """Number of tensor elements in a safetensors file, checked as `tensor_shapes` does."""
    return sum(math.prod(shape) for shape in tensor_shapes(file).values())


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Shapes in a safetensors file by name, from its header, which says: 8 + header + data bytes, no gap and no rest.

    Args:
        file: The file.

    Raises:
        UserError: The file is missing, shorter or longer than its header says, not in the format, or quantised.
    """
    header, size, length = _header(file)
    places: list[tuple[int, int]] = []
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in header.items():
        kind, shape, place = _described(tensor)
        if kind in QUANTISED:
            raise UserError(
                f"{file}: {name} is {kind}, and quantised weights are not read; give the model in bfloat16, float16 or "
                "float32"
            )
        if kind not in NUMBER_BYTES or place[1] - place[0] != NUMBER_BYTES[kind] * math.prod(shape):
            said = reprlib.repr(tensor)
            raise UserError(f"{file}: has a damaged safetensors header, which says of {name} {said}; copy it again")
        shapes[name] = shape
        places.append(place)
    end = 0
    for begin, after in sorted(places):
        if begin != end:
            raise UserError(f"{file}: has a damaged safetensors header, with bytes of no tensor or two; copy it again")
        end = after
    expected = LENGTH_BYTES + length + end
    if size != expected:
        raise UserError(f"{file}: has {size} bytes, its header says {expected}; it is damaged, copy it again")
    return shapes


def number_kind(files: Sequence[Path]) -> str:
    """The kind of most numbers in safetensors files, such as `BF16`, by their headers."""
    counts: Counter[str] = Counter()
    for file in files:
        for tensor in _header(file)[0].values():
            kind, shape, _ = _described(tensor)
            counts[kind] += math.prod(shape)
    return counts.most_common(1)[0][0]


def _header(file: Path) -> tuple[dict[str, Any], int, int]:
    """What a safetensors file says of its tensors, its bytes, and those of its header."""
    size, length, prefix = 0, -1, b""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            prefix = stream.read(LENGTH_BYTES)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == LENGTH_BYTES else -1
            whole = 0 < length <= min(MAX_HEADER_BYTES, size - LENGTH_BYTES)
            header = json.loads(stream.read(length), object_pairs_hook=_each_once) if whole else None
    except FileNotFoundError:
        raise UserError(f"{file}: missing; copy the pipeline folder again") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check its permissions") from None
    except (ValueError, RecursionError):
        header = None
    if prefix == POINTER[:LENGTH_BYTES]:
        raise UserError(f"{file}: {POINTED}")
    if not isinstance(header, dict):
        raise UserError(f"{file}: is truncated or not a safetensors file ({size} bytes); copy it again")
    header.pop("__metadata__", None)
    return header, size, length


def _described(tensor: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """Kind, shape and place of a tensor by its entry in a header; an empty kind if the entry is none."""
    nothing = "", (), (0, 0)
    said = tensor if isinstance(tensor, dict) else {}
    kind, shape, place = (said.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not (isinstance(kind, str) and isinstance(shape, list) and isinstance(place, list)):
        return nothing
    if len(place) != 2 or any(type(number) is not int or number < 0 for number in (*shape, *place)):  # noqa: PLR2004 - begin and end
        return nothing
    return kind, tuple(shape), (place[0], place[1])
