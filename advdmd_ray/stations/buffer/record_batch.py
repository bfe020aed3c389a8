"""Records to Arrow and back: a RecordBatch of a group and one of its scores, read as read-only views without a copy.

The batches travel as they are: Ray writes the buffers of each into its store once, and whoever reads them on the node
reads them there; Arrow refuses buffers that are too short. Scores name their group and do not repeat it.
"""

import math

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from advdmd_ray.errors import NotFiniteError
from advdmd_ray.stations.buffer.schema import EXTRA, GroupShape, scores_schema, shape_of, steps_of, trajectory_schema
from advdmd_ray.stations.records import ScoredGroup, TrajectoryGroup

_LATENTS_RANK = 5


def shape_of_group(group: TrajectoryGroup) -> GroupShape:
    """The sizes of a group, read from its latents `[n, K+1, C, H, W]` and stds `[m]`.

    Raises:
        ValueError: if the latents have no rows or another rank.
    """
    if group.latents.ndim != _LATENTS_RANK or group.latents.shape[0] < 1:
        raise ValueError(f"latents: shape {list(group.latents.shape)} came, [n >= 1, K+1, C, H, W] is required")
    _, levels, channels, height, width = group.latents.shape
    return GroupShape(levels - 1, channels, height, width, stochastic=group.stds.size > 0)


def _all_finite(values: Float[np.ndarray, " v"]) -> bool:
    """Whether no value is NaN or infinite, in one pass without a temporary.

    A sum of squares has no terms that cancel, so it is finite only if every value is. Finite values can overflow it;
    then each value is looked at.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.dot(values, values)
    return bool(np.isfinite(squares) or np.isfinite(values).all())


def _tensor_column(
    name: str, values: np.ndarray, rows: int, kind: pa.FixedShapeTensorType, *, finite: bool
) -> pa.Array:
    required = (rows, *kind.shape)
    if values.dtype != np.float32:
        raise ValueError(f"{name}: dtype {values.dtype} came, float32 is required")
    if values.shape != required:
        raise ValueError(f"{name}: shape {list(values.shape)} came, {list(required)} is required")
    contiguous = np.ascontiguousarray(values).reshape(-1)
    if finite and not _all_finite(contiguous):
        raise NotFiniteError(f"{name}: contains NaN or infinite values; a group must be finite")
    flat = pa.array(contiguous)
    storage = pa.Array.from_buffers(kind.storage_type, rows, [None], children=[flat])
    return pa.ExtensionArray.from_storage(kind, storage)


def _batch(columns: dict[str, np.ndarray | int], rows: int, schema: pa.Schema, *, finite: bool) -> pa.RecordBatch:
    """Columns by name; an int is a fact of the group, and so is a tensor without a row axis."""
    arrays: list[pa.Array] = []
    for field in schema:
        value = columns[field.name]
        if isinstance(value, int):
            arrays.append(pa.array(np.full(rows, value, np.int64)))
        elif field.type == pa.int64():
            if value.dtype != np.int64 or value.shape != (rows,):
                raise ValueError(f"{field.name}: {value.dtype}{list(value.shape)} came, int64[{rows}] is required")
            arrays.append(pa.array(np.ascontiguousarray(value)))
        else:
            arrays.append(_tensor_column(field.name, value, rows, field.type, finite=finite))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _columns(group: TrajectoryGroup, rows: int) -> dict[str, np.ndarray | int]:
    return {
        "ordinal": group.ordinal,
        "prompt_id": group.prompt_id,
        "policy_version": group.policy_version,
        "seed": group.seeds,
        "sigmas": np.broadcast_to(group.sigmas, (rows, *group.sigmas.shape)),
        "latents": group.latents,
        "means": group.means,
        "stds": np.broadcast_to(group.stds, (rows, *group.stds.shape)),
    }


def encode_group(group: TrajectoryGroup, *, finite: bool = True) -> pa.RecordBatch:
    """The group as a record batch with `trajectory_schema`; contiguous tensors are not copied.

    Args:
        group: The group.
        finite: Whether all its values must be.

    Raises:
        NotFiniteError: naming the first column that is not finite.
        ValueError: naming the column whose dtype, shape or row count is wrong.
    """
    shape = shape_of_group(group)
    rows = group.latents.shape[0]
    return _batch(_columns(group, rows), rows, trajectory_schema(shape), finite=finite)


def encode_scores(scored: ScoredGroup, *, finite: bool = True) -> pa.RecordBatch:
    """The scores of a group, without the group, as a record batch with `scores_schema`; otherwise as `encode_group`."""
    columns: dict[str, np.ndarray | int] = {
        "ordinal": scored.group.ordinal,
        "seed": scored.group.seeds,
        "rewards": scored.rewards,
        "reward_version": scored.reward_version,
    }
    if scored.extra is not None:
        columns[EXTRA] = scored.extra[:, None]
    schema = scores_schema(shape_of_group(scored.group).steps, extra=scored.extra is not None)
    return _batch(columns, len(scored.group.seeds), schema, finite=finite)


def _check_schema(batch: pa.RecordBatch, required: pa.Schema) -> None:
    if missing := [name for name in required.names if name not in batch.schema.names]:
        raise ValueError(f"column {missing[0]} is missing")
    if extra := [name for name in batch.schema.names if name not in required.names]:
        raise ValueError(f"column {extra[0]} is unexpected")
    if batch.schema.names != required.names:
        raise ValueError(f"columns are {batch.schema.names}, {required.names} is the order required")
    if batch.num_rows < 1:
        raise ValueError("the record batch has no rows")
    for field, column in zip(required, batch.columns, strict=True):
        if column.type != field.type:
            raise ValueError(f"column {field.name}: {column.type} came, {field.type} is required")
        if column.null_count:
            raise ValueError(f"column {field.name}: {column.null_count} rows are null")


def _view(batch: pa.RecordBatch, name: str) -> np.ndarray:
    """`[n, ...]` of a column: a view of the batch's memory, read-only."""
    column = batch.column(name)
    if not isinstance(column, pa.FixedShapeTensorArray):
        return column.to_numpy(zero_copy_only=True)
    flat = column.storage.flatten().to_numpy(zero_copy_only=True)
    return flat.reshape(batch.num_rows, *column.type.shape)


def _constant(batch: pa.RecordBatch, name: str) -> np.ndarray:
    """The one value of a column that must be the same in every row."""
    values = _view(batch, name)
    if (values != values[0]).any():
        raise ValueError(f"column {name} differs between the rows of one group")
    return values[0]


def _group(batch: pa.RecordBatch) -> TrajectoryGroup:
    return TrajectoryGroup(
        ordinal=int(_constant(batch, "ordinal")),
        prompt_id=int(_constant(batch, "prompt_id")),
        policy_version=int(_constant(batch, "policy_version")),
        seeds=_view(batch, "seed"),
        sigmas=_constant(batch, "sigmas"),
        latents=_view(batch, "latents"),
        means=_view(batch, "means"),
        stds=_constant(batch, "stds"),
    )


def decode_group(batch: pa.RecordBatch) -> TrajectoryGroup:
    """The group in a record batch of `trajectory_schema`; arrays are read-only views of the batch.

    Raises:
        ValueError: naming the format, version, column type or group fact that is wrong.
    """
    _check_schema(batch, trajectory_schema(shape_of(batch.schema)))
    return _group(batch)


def decode_scored(group: pa.RecordBatch, scores: pa.RecordBatch) -> ScoredGroup:
    """The group in a record batch of `trajectory_schema` with its scores in one of `scores_schema`, as `decode_group`.

    Raises:
        ValueError: naming the format, version, column type or group fact that is wrong, or if the scores are those of
            another group.
    """
    trajectories = decode_group(group)
    steps, extra = steps_of(scores.schema), EXTRA in scores.schema.names
    _check_schema(scores, scores_schema(steps, extra=extra))
    ordinal, seeds = int(_constant(scores, "ordinal")), _view(scores, "seed")
    if ordinal != trajectories.ordinal or not np.array_equal(seeds, trajectories.seeds):
        raise ValueError(f"scores of ordinal {ordinal} came with the group of ordinal {trajectories.ordinal}")
    if steps != trajectories.sigmas.size - 1:
        raise ValueError(f"scores of {steps} steps came with a group of {trajectories.sigmas.size - 1}")
    own = _view(scores, EXTRA)[:, 0] if extra else None
    return ScoredGroup(trajectories, _view(scores, "rewards"), int(_constant(scores, "reward_version")), extra=own)


def encoded_bytes(shape: GroupShape, samples: int, *, extra: bool = False) -> int:
    """Bytes of a group's columns and those of its scores, before any group exists; all columns have fixed widths."""
    fields = (*trajectory_schema(shape), *scores_schema(shape.steps, extra=extra))
    return samples * sum(_width(field.type) for field in fields)


def _width(kind: pa.DataType) -> int:
    """Bytes of one row of a column."""
    tensor = isinstance(kind, pa.FixedShapeTensorType)
    return math.prod(kind.shape) * kind.value_type.byte_width if tensor else kind.byte_width
