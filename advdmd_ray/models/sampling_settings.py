"""`sampling.json`: what a pipeline must be called with to be sampled as it was trained."""

import itertools
import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from advdmd_ray.errors import UserError
from advdmd_ray.models.headers import read_json

SAMPLING = "sampling.json"
"""File at the top of a pipeline folder that holds `SamplingSettings`; diffusers does not read it."""
MAX_SEQUENCE_LENGTH = 1024
"""Most text tokens that any family's pipeline takes."""
MAX_PIXELS = 8192


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
        sizes: Height and width of each size that a student was trained at; None: of one.
    """

    max_sequence_length: int
    height: int | None = None
    width: int | None = None
    sigmas: tuple[float, ...] | None = None
    guidance: float | None = None
    sizes: tuple[tuple[int, int], ...] | None = None

    @property
    def pixels(self) -> tuple[int, int] | None:
        """Height and width; None if the model's own size is meant."""
        return None if self.height is None or self.width is None else (self.height, self.width)


def read_sampling(folder: Path) -> SamplingSettings | None:
    """Read a pipeline folder's `sampling.json`; None if it has none, as folders that others made.

    Raises:
        UserError: The file cannot be read, has other keys, or a value is no whole number in range.
    """
    file = folder / SAMPLING
    if not file.exists():
        return None
    content = read_json(file)
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
    if "sizes" in content:
        content["sizes"] = tuple((height, width) for height, width in content["sizes"])
    return SamplingSettings(**content)


def _wanted(key: str, value: object) -> str | None:
    """What is needed in place of a value of `sampling.json`, or None."""
    # JSON's true would pass isinstance(value, int).
    if key == "sigmas":
        levels = value if isinstance(value, list) and all(type(level) in {int, float} for level in value) else []
        falling = bool(levels) and levels[0] <= 1 and all(a > b for a, b in itertools.pairwise([*levels, 0]))
        return None if falling else "a list of numbers that fall from at most 1 towards 0"
    if key == "guidance":
        fits = type(value) in {int, float} and 1 <= value < math.inf  # pyright: ignore[reportOperatorIssue]
        return None if fits else "a number of at least 1"
    if key == "sizes":
        pairs = value if isinstance(value, list) else []
        sides = [len(pair) if isinstance(pair, list) and all(map(_is_side, pair)) else 0 for pair in pairs]
        return None if {*sides} == {2} else f"a list of [height, width], whole numbers from 1 to {MAX_PIXELS},"
    most = MAX_SEQUENCE_LENGTH if key == "max_sequence_length" else MAX_PIXELS
    return None if type(value) is int and 1 <= value <= most else f"a whole number from 1 to {most}"


def _is_side(value: object) -> bool:
    return type(value) is int and 1 <= value <= MAX_PIXELS


def write_sampling(folder: Path, settings: SamplingSettings) -> None:
    """Write `sampling.json` into a pipeline folder."""
    given = {key: value for key, value in asdict(settings).items() if value is not None}
    (folder / SAMPLING).write_text(json.dumps(given) + "\n", encoding="utf-8")
