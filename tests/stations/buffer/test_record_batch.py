"""One group is one record batch: exact, shared, read-only, and refused with a reason when it is not what it says."""

import pickle
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.stations.buffer.record_batch import (
    decode_group,
    decode_scored,
    encode_group,
    encode_scores,
    encoded_bytes,
    shape_of_group,
)
from advdmd_ray.stations.buffer.schema import GroupShape, scores_schema, shape_of, steps_of, trajectory_schema
from advdmd_ray.stations.records import ScoredGroup, TrajectoryGroup

TENSORS = ("sigmas", "latents", "means", "stds")
ARRAYS = ("seeds", *TENSORS)
SHAPE = GroupShape(steps=4, channels=2, height=3, width=5)


def make_group(shape: GroupShape, rows: int, seed: int = 0) -> TrajectoryGroup:
    draw = np.random.default_rng(seed)

    def normal(*sizes: int) -> np.ndarray:
        return draw.standard_normal(sizes, dtype=np.float32)

    latent = shape.latent
    return TrajectoryGroup(
        ordinal=seed,
        prompt_id=3,
        policy_version=7,
        seeds=draw.integers(0, 2**63 - 1, rows, dtype=np.int64),
        sigmas=np.linspace(1, 0, shape.steps + 1, dtype=np.float32),
        latents=normal(rows, shape.steps + 1, *latent),
        means=normal(rows, shape.actions, *latent),
        stds=np.abs(normal(shape.actions)),
    )


def make_scored(shape: GroupShape, rows: int, seed: int = 0) -> ScoredGroup:
    rewards = np.random.default_rng(seed + 1).standard_normal((rows, shape.steps), dtype=np.float32)
    return ScoredGroup(make_group(shape, rows, seed), rewards, reward_version=11)


shapes = st.builds(
    GroupShape,
    steps=st.integers(1, 5),
    channels=st.integers(1, 4),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    stochastic=st.booleans(),
)


def assert_same_group(one: TrajectoryGroup, other: TrajectoryGroup) -> None:
    for name in ("ordinal", "prompt_id", "policy_version"):
        assert getattr(one, name) == getattr(other, name)
    for name in ARRAYS:
        ours, theirs = getattr(one, name), getattr(other, name)
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        assert ours.tobytes() == theirs.tobytes()


@given(shape=shapes, rows=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_a_group_comes_back_bit_for_bit(shape: GroupShape, rows: int, seed: int) -> None:
    group = make_group(shape, rows, seed)
    assert_same_group(decode_group(encode_group(group)), group)


@given(shape=shapes, rows=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_a_scored_group_comes_back_bit_for_bit(shape: GroupShape, rows: int, seed: int) -> None:
    scored = make_scored(shape, rows, seed)
    back = decode_scored(encode_group(scored.group), encode_scores(scored))
    assert_same_group(back.group, scored.group)
    assert back.rewards.tobytes() == scored.rewards.tobytes()
    assert back.rewards.shape == scored.rewards.shape
    assert back.reward_version == scored.reward_version


@given(shape=shapes, rows=st.integers(1, 9))
def test_the_size_of_a_scored_group_is_known_before_it_exists(shape: GroupShape, rows: int) -> None:
    scored = make_scored(shape, rows, 5)
    assert encoded_bytes(shape, rows) == encode_group(scored.group).nbytes + encode_scores(scored).nbytes


def test_every_float_value_survives_with_its_bits() -> None:
    bits = np.array([0x00000001, 0x80000000, 0x7F7FFFFF, 0x3F800001], np.uint32).view(np.float32)
    group = make_group(GroupShape(1, 1, 1, 1), 2)
    group = replace(group, latents=bits.reshape(2, 2, 1, 1, 1))
    assert decode_group(encode_group(group)).latents.tobytes() == bits.tobytes()


def test_decoding_shares_the_memory_of_the_batches_and_is_read_only() -> None:
    original = make_scored(SHAPE, 6)
    scored = decode_scored(encode_group(original.group), encode_scores(original))
    for name in ("seeds", "latents", "means"):
        array = getattr(scored.group, name)
        assert np.shares_memory(array, getattr(original.group, name)), name
        assert not array.flags.writeable, name
    assert np.shares_memory(scored.rewards, original.rewards)
    assert not scored.rewards.flags.writeable


def handed_on(group: TrajectoryGroup) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """A group as Ray hands it on: a frame, and the buffers aside."""
    aside: list[pickle.PickleBuffer] = []
    return pickle.dumps(encode_group(group), protocol=5, buffer_callback=aside.append), aside


def read(frame: bytes, aside: list[pickle.PickleBuffer]) -> pa.RecordBatch:
    """What was handed on, as Ray reads it."""
    return pickle.loads(frame, buffers=aside)  # noqa: S301 - made here


@given(shape=shapes, rows=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_a_batch_is_handed_on_with_its_buffers_aside_and_read_where_they_lie(
    shape: GroupShape, rows: int, seed: int
) -> None:
    group = make_group(shape, rows, seed)
    frame, aside = handed_on(group)
    assert len(frame) < 4096
    back = decode_group(read(frame, aside))
    assert_same_group(back, group)
    assert np.shares_memory(back.latents, group.latents)


def test_encoding_does_not_copy_contiguous_tensors() -> None:
    group = make_group(SHAPE, 6)
    batch = encode_group(group)
    for name in ("latents", "means"):
        assert np.shares_memory(batch.column(name).storage.flatten().to_numpy(), getattr(group, name))


def test_a_tensor_in_another_memory_order_means_the_same() -> None:
    group = make_group(SHAPE, 6)
    turned = replace(group, latents=np.asfortranarray(group.latents))
    assert encode_group(turned).equals(encode_group(group))


def test_a_slice_of_rows_decodes_to_those_rows() -> None:
    group = make_group(SHAPE, 6)
    part = decode_group(encode_group(group).slice(2, 3))
    np.testing.assert_array_equal(part.latents, group.latents[2:5])
    np.testing.assert_array_equal(part.seeds, group.seeds[2:5])


@pytest.mark.parametrize("name", [*TENSORS, "rewards"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_with_its_column(name: str, value: float) -> None:
    scored = make_scored(SHAPE, 4)
    broken = (scored.rewards if name == "rewards" else getattr(scored.group, name)).copy()
    broken.reshape(-1)[-1] = value
    if name == "rewards":
        scored = replace(scored, rewards=broken)
    else:
        scored = replace(scored, group=replace(scored.group, **{name: broken}))
    with pytest.raises(ValueError, match=f"^{name}: contains NaN"):
        encode_scores(scored) if name == "rewards" else encode_group(scored.group)


def test_finite_values_whose_squares_overflow_are_kept() -> None:
    group = make_group(SHAPE, 4)
    large = replace(group, latents=np.copysign(np.float32(3e38), group.latents))
    assert_same_group(decode_group(encode_group(large)), large)


@given(at=st.integers(0, 99), value=st.sampled_from([np.nan, np.inf, -np.inf]))
def test_overflowing_squares_do_not_hide_a_value_that_is_not_finite(at: int, value: float) -> None:
    group = make_group(SHAPE, 4)
    latents = np.full_like(group.latents, 3e38)
    latents.reshape(-1)[at] = value
    with pytest.raises(ValueError, match=r"^latents: contains NaN"):
        encode_group(replace(group, latents=latents))


def unchecked(group: TrajectoryGroup, **changes: np.ndarray) -> TrajectoryGroup:
    """A group with arrays that the record's annotations forbid; outside the tests nothing checks those."""
    broken = object.__new__(TrajectoryGroup)
    for field in fields(TrajectoryGroup):
        object.__setattr__(broken, field.name, changes.get(field.name, getattr(group, field.name)))
    return broken


def test_wrong_dtypes_shapes_and_row_counts_are_refused_with_their_column() -> None:
    group = make_group(SHAPE, 4)
    cases: dict[str, tuple[np.ndarray, str]] = {
        "latents": (group.latents.astype(np.float64), "latents: dtype float64"),
        "means": (group.means[:-1], r"means: shape \[3, 3, 2, 3, 5\] came, \[4, 3, 2, 3, 5\]"),
        "sigmas": (group.sigmas[:-1], "sigmas: shape"),
        "stds": (group.stds[:-1], "stds: shape"),
        "seeds": (group.seeds[:-1], "seed: int64"),
    }
    for name, (value, message) in cases.items():
        with pytest.raises(ValueError, match=message):
            encode_group(unchecked(group, **{name: value}))
    with pytest.raises(ValueError, match="seed: int32"):
        encode_group(unchecked(group, seeds=group.seeds.astype(np.int32)))
    with pytest.raises(ValueError, match="latents: shape"):
        encode_group(unchecked(group, latents=group.latents[:0]))


def with_metadata(batch: pa.RecordBatch, **changes: str) -> pa.RecordBatch:
    metadata = {key.decode(): value.decode() for key, value in batch.schema.metadata.items()} | changes
    return batch.replace_schema_metadata(metadata)


def test_another_schema_version_or_format_is_refused() -> None:
    batch = encode_group(make_group(SHAPE, 4))
    with pytest.raises(ValueError, match="version is '1', this code reads '3'"):
        decode_group(with_metadata(batch, version="1"))
    with pytest.raises(ValueError, match="format is 'else'"):
        decode_group(with_metadata(batch, format="else"))
    with pytest.raises(ValueError, match="format is 'none'"):
        decode_group(batch.replace_schema_metadata({}))


def replaced(batch: pa.RecordBatch, name: str, array: pa.Array) -> pa.RecordBatch:
    index = batch.schema.get_field_index(name)
    columns: list[Any] = list(batch.columns)
    columns[index] = array
    schema = batch.schema.set(index, pa.field(name, array.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def test_wrong_columns_are_refused_with_their_name() -> None:
    batch = encode_group(make_group(SHAPE, 4))
    scores = encode_scores(make_scored(SHAPE, 4))
    with pytest.raises(ValueError, match=r"format is 'advdmd_ray.scores', this code reads 'advdmd_ray.trajectory'"):
        decode_group(scores)
    with pytest.raises(ValueError, match=r"format is 'advdmd_ray.trajectory', this code reads 'advdmd_ray.scores'"):
        decode_scored(batch, batch)
    with pytest.raises(ValueError, match="column rewards is missing"):
        decode_scored(batch, scores.drop_columns(["rewards"]))
    with pytest.raises(ValueError, match="column extra is unexpected"):
        decode_group(batch.append_column("extra", pa.array([0] * 4)))
    with pytest.raises(ValueError, match="column latents is missing"):
        decode_group(batch.drop_columns(["latents"]))
    with pytest.raises(ValueError, match="column seed: int32 came, int64 is required"):
        decode_group(replaced(batch, "seed", pa.array(np.arange(4, dtype=np.int32))))
    with pytest.raises(ValueError, match="column seed: 1 rows are null"):
        decode_group(replaced(batch, "seed", pa.array([1, 2, 3, None], pa.int64())))
    kind = pa.fixed_shape_tensor(pa.float32(), (3,))
    with pytest.raises(ValueError, match=r"column sigmas: .* is required"):
        decode_group(replaced(batch, "sigmas", kind.wrap_array(pa.array([[1.0, 0.5, 0.0]] * 4, kind.storage_type))))
    with pytest.raises(ValueError, match="column latents: int64 came"):
        decode_group(replaced(batch, "latents", pa.array(np.arange(4))))
    with pytest.raises(ValueError, match="no rows"):
        decode_group(batch.slice(0, 0))


@pytest.mark.parametrize("name", ["ordinal", "prompt_id", "policy_version"])
def test_rows_that_disagree_about_their_group_are_refused(name: str) -> None:
    batch = encode_group(make_group(SHAPE, 4))
    with pytest.raises(ValueError, match=f"column {name} differs between the rows"):
        decode_group(replaced(batch, name, pa.array([1, 1, 1, 2], pa.int64())))


def test_rows_with_different_noise_levels_are_refused() -> None:
    one, other = make_group(SHAPE, 2), make_group(SHAPE, 2)
    other = replace(other, sigmas=other.sigmas * np.float32(0.5))
    mixed = pa.concat_batches([encode_group(one), encode_group(other)])
    with pytest.raises(ValueError, match="column sigmas differs"):
        decode_group(mixed)


@given(which=st.integers(0, 7), cut=st.floats(0, 1, exclude_max=True))
def test_a_column_whose_bytes_are_cut_off_is_refused(which: int, cut: float) -> None:
    frame, aside = handed_on(make_group(SHAPE, 4))
    whole = aside[which].raw()
    aside[which] = pickle.PickleBuffer(whole[: int(cut * whole.nbytes)])
    with pytest.raises(pa.ArrowInvalid, match="too small"):
        read(frame, aside)


def test_scores_of_another_group_are_refused() -> None:
    scored, other = make_scored(SHAPE, 4), make_scored(SHAPE, 4, seed=1)
    group, scores = encode_group(scored.group), encode_scores(scored)
    with pytest.raises(ValueError, match="scores of ordinal 1 came with the group of ordinal 0"):
        decode_scored(group, encode_scores(other))
    with pytest.raises(ValueError, match="scores of ordinal 0 came with the group of ordinal 0"):
        decode_scored(group, encode_scores(replace(other, group=replace(other.group, ordinal=0))))
    with pytest.raises(ValueError, match="scores of ordinal 0"):
        decode_scored(group, scores.slice(0, 3))
    fewer = make_scored(GroupShape(3, 2, 3, 5), 4)
    fewer = replace(fewer, group=replace(fewer.group, seeds=scored.group.seeds))
    with pytest.raises(ValueError, match="scores of 3 steps came with a group of 4"):
        decode_scored(group, encode_scores(fewer))


def test_the_schema_tells_its_shape_and_the_unit_of_every_field() -> None:
    for shape in (SHAPE, GroupShape(4, 2, 3, 5, stochastic=False)):
        assert shape_of(trajectory_schema(shape)) == shape
        assert steps_of(scores_schema(shape.steps)) == shape.steps
        for schema in (trajectory_schema(shape), scores_schema(shape.steps)):
            for field in schema:
                assert set(field.metadata) == {b"unit", b"description"}
                assert not field.nullable
    assert shape_of_group(make_group(SHAPE, 3)) == SHAPE
    with pytest.raises(ValueError, match="steps"):
        GroupShape(0, 1, 1, 1)
