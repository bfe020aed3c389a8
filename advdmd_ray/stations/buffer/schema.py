"""The flat Arrow schemas of a group and of its scores: a row per trajectory, a fixed-shape float32 column per tensor.

Facts of the whole group (ordinal, versions, noise levels) are columns too, constant over its rows, so that a row
means the same wherever it lies. Every field says its unit and meaning in its metadata.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import pyarrow as pa

TRAJECTORY, SCORES = "advdmd_ray.trajectory", "advdmd_ray.scores"
"""Formats."""
VERSION = "3"
EXTRA = "extra"
"""Column that is there where the user has a reward of their own."""


@dataclass(frozen=True, slots=True)
class GroupShape:
    """The sizes that fix a schema; the number of rows is free.

    Attributes:
        steps: Student steps, K >= 1.
        channels: Latent channels, C.
        height: Latent height, H.
        width: Latent width, W.
        stochastic: Whether the kernel draws noise; False for `ode`, whose groups store no transitions.

    Raises:
        ValueError: if a size is below 1.
    """

    steps: int
    channels: int
    height: int
    width: int
    stochastic: bool = True

    def __post_init__(self) -> None:
        sizes = {"steps": self.steps, "channels": self.channels, "height": self.height, "width": self.width}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} of a group must be at least 1, got {size}")

    @property
    def actions(self) -> int:
        """Stored stochastic transitions: K - 1, or 0 without noise."""
        return self.steps - 1 if self.stochastic else 0

    @property
    def latent(self) -> tuple[int, int, int]:
        """(C, H, W) of one state."""
        return (self.channels, self.height, self.width)


def _field(name: str, kind: pa.DataType, unit: str, description: str) -> pa.Field:
    return pa.field(name, kind, nullable=False, metadata={"unit": unit, "description": description})


def _tensor(*shape: int) -> pa.DataType:
    return pa.fixed_shape_tensor(pa.float32(), shape)


def _schema(form: str, fields: list[pa.Field]) -> pa.Schema:
    return pa.schema(fields, metadata={"format": form, "version": VERSION})


@cache
def trajectory_schema(shape: GroupShape) -> pa.Schema:
    """Schema of a generated group."""
    levels, actions = shape.steps + 1, shape.actions
    fields = [
        _field("ordinal", pa.int64(), "1", "position in the prompt stream; constant in a group"),
        _field("prompt_id", pa.int64(), "1", "row of the prompt table; constant in a group"),
        _field("policy_version", pa.int64(), "1", "student version that made the row; constant in a group"),
        _field("seed", pa.int64(), "1", "seed of the sample"),
        _field("sigmas", _tensor(levels), "noise level", "levels from 1 down to 0; constant in a group"),
        _field("latents", _tensor(levels, *shape.latent), "latent", "states from pure noise to the final latent"),
        _field("means", _tensor(actions, *shape.latent), "latent", "mean of each stochastic transition"),
        _field("stds", _tensor(actions), "latent", "std of each stochastic transition; constant in a group"),
    ]
    return _schema(TRAJECTORY, fields)


@cache
def scores_schema(steps: int, *, extra: bool = False) -> pa.Schema:
    """Schema of a group's scores; ordinal and seeds say whose they are.

    Args:
        steps: K.
        extra: Whether a user's own reward is beside them.
    """
    fields = [
        _field("ordinal", pa.int64(), "1", "position of the scored group in the prompt stream; constant in a group"),
        _field("seed", pa.int64(), "1", "seed of the scored sample"),
        _field("rewards", _tensor(steps), "logit", "rewards of levels 1..K"),
        _field("reward_version", pa.int64(), "1", "discriminator version that scored it; constant in a group"),
        *([_field(EXTRA, _tensor(1), "reward.extra", "the user's own reward of the final image")] if extra else []),
    ]
    return _schema(SCORES, fields)


def _tensor_shapes(schema: pa.Schema, form: str, ranks: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The shapes of some columns of a schema.

    Raises:
        ValueError: if the format or version is another one, or a column is missing or is no tensor of its rank.
    """
    metadata = schema.metadata or {}
    for key, required in (("format", form), ("version", VERSION)):
        came = metadata.get(key.encode(), b"none").decode(errors="replace")
        if came != required:
            raise ValueError(f"Arrow schema {key} is {came!r}, this code reads {required!r}")
    shapes: dict[str, tuple[int, ...]] = {}
    for name, rank in ranks.items():
        if name not in schema.names:
            raise ValueError(f"column {name} is missing")
        kind = schema.field(name).type
        shapes[name] = tuple(kind.shape) if isinstance(kind, pa.FixedShapeTensorType) else ()
        if len(shapes[name]) != rank:
            raise ValueError(f"column {name}: {kind} came, a fixed-shape tensor of rank {rank} is required")
    return shapes


def shape_of(schema: pa.Schema) -> GroupShape:
    """The sizes a trajectory schema was made for, read from its `latents` and `stds` columns.

    Raises:
        ValueError: if the format or version is another one, or a column is missing or is no tensor of that rank.
    """
    shapes = _tensor_shapes(schema, TRAJECTORY, {"latents": 4, "stds": 1})
    levels, channels, height, width = shapes["latents"]
    # With K = 1 both kinds of group store no transition, so the schema is the same.
    return GroupShape(levels - 1, channels, height, width, stochastic=shapes["stds"][0] > 0)


def steps_of(schema: pa.Schema) -> int:
    """K of a schema of scores.

    Raises:
        ValueError: as `shape_of`.
    """
    return _tensor_shapes(schema, SCORES, {"rewards": 1})["rewards"][0]
