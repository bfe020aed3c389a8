"""Records to Arrow and back: one RecordBatch per group, read as zero-copy, read-only numpy views.

The bytes are one Arrow IPC stream. Nothing in them is executed when they are read: no pickle.
"""

import numpy as np
import pyarrow as pa
from jaxtyping import Float, UInt8

from advdmd_ray.stations.buffer.schema import GroupShape, scored_schema, shape_of, trajectory_schema
from advdmd_ray.stations.records import ScoredGroup, TrajectoryGroup

_LATENTS_RANK = 5
# An Arrow IPC stream ends with a continuation marker and a zero length; without it the tail is missing.
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


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


def _tensor_column(name: str, values: np.ndarray, rows: int, kind: pa.FixedShapeTensorType) -> pa.Array:
    required = (rows, *kind.shape)
    if values.dtype != np.float32:
        raise ValueError(f"{name}: dtype {values.dtype} came, float32 is required")
    if values.shape != required:
        raise ValueError(f"{name}: shape {list(values.shape)} came, {list(required)} is required")
    contiguous = np.ascontiguousarray(values).reshape(-1)
    if not _all_finite(contiguous):
        raise ValueError(f"{name}: contains NaN or infinite values; a group must be finite")
    flat = pa.array(contiguous)
    storage = pa.Array.from_buffers(kind.storage_type, rows, [None], children=[flat])
    return pa.ExtensionArray.from_storage(kind, storage)


def _batch(columns: dict[str, np.ndarray | int], rows: int, schema: pa.Schema) -> pa.RecordBatch:
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
            arrays.append(_tensor_column(field.name, value, rows, field.type))
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


def encode_group(group: TrajectoryGroup) -> pa.RecordBatch:
    """The group as a record batch with `trajectory_schema`; contiguous tensors are not copied.

    Raises:
        ValueError: naming the column whose dtype, shape or row count is wrong or that is not finite.
    """
    shape = shape_of_group(group)
    rows = group.latents.shape[0]
    return _batch(_columns(group, rows), rows, trajectory_schema(shape))


def encode_scored(scored: ScoredGroup) -> pa.RecordBatch:
    """The scored group as a record batch with `scored_schema`; contiguous tensors are not copied.

    Raises:
        ValueError: naming the column whose dtype, shape or row count is wrong or that is not finite.
    """
    shape = shape_of_group(scored.group)
    rows = scored.group.latents.shape[0]
    columns = _columns(scored.group, rows) | {"rewards": scored.rewards, "reward_version": scored.reward_version}
    return _batch(columns, rows, scored_schema(shape))


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


def decode_scored(batch: pa.RecordBatch) -> ScoredGroup:
    """The scored group in a record batch of `scored_schema`; arrays are read-only views of the batch.

    Raises:
        ValueError: naming the format, version, column type or group fact that is wrong.
    """
    _check_schema(batch, scored_schema(shape_of(batch.schema)))
    return ScoredGroup(_group(batch), _view(batch, "rewards"), int(_constant(batch, "reward_version")))


def _write(batch: pa.RecordBatch, sink: pa.NativeFile) -> None:
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)


def _stream_bytes(batch: pa.RecordBatch) -> int:
    counter = pa.MockOutputStream()
    _write(batch, counter)
    return counter.size()


def to_bytes(batch: pa.RecordBatch) -> UInt8[np.ndarray, " bytes"]:
    """The batch as one Arrow IPC stream, written once into an array of exactly its size."""
    data = np.empty(_stream_bytes(batch), np.uint8)
    _write(batch, pa.FixedSizeBufferWriter(pa.py_buffer(data)))
    return data


def from_bytes(data: UInt8[np.ndarray, " bytes"]) -> pa.RecordBatch:
    """The record batch in an Arrow IPC stream; its columns are views of `data`, which must stay unchanged.

    Raises:
        ValueError: if the bytes are truncated, damaged, or hold anything but one record batch.
    """
    if data.dtype != np.uint8 or data.ndim != 1 or not data.flags.c_contiguous:
        raise ValueError(f"trajectory bytes: {data.dtype}{list(data.shape)} came, contiguous uint8[n] is required")
    if data[-len(_END_OF_STREAM) :].tobytes() != _END_OF_STREAM:
        raise ValueError(f"trajectory bytes: the Arrow stream of {data.size} bytes is truncated: its end is missing")
    try:
        with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
            batches = list(reader)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"trajectory bytes: not a whole Arrow stream (truncated or damaged): {error}") from error
    if len(batches) != 1:
        raise ValueError(f"trajectory bytes: {len(batches)} record batches came, one per group is required")
    return batches[0]


def encoded_bytes(shape: GroupShape, samples: int) -> int:
    """Exact size in bytes of a scored group's stream, before any group exists; all columns have fixed widths."""
    levels, actions = shape.steps + 1, shape.actions
    group = TrajectoryGroup(
        ordinal=0,
        prompt_id=0,
        policy_version=0,
        seeds=np.zeros(samples, np.int64),
        sigmas=np.zeros(levels, np.float32),
        latents=np.zeros((samples, levels, *shape.latent), np.float32),
        means=np.zeros((samples, actions, *shape.latent), np.float32),
        stds=np.zeros(actions, np.float32),
    )
    return _stream_bytes(encode_scored(ScoredGroup(group, np.zeros((samples, shape.steps), np.float32), 0)))
