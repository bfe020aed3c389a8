"""Weights prove themselves: any difference between what was published and what is loaded stops loudly."""

import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from advdmd_ray.errors import WeightsMismatchError
from advdmd_ray.stations.records import LoadReport
from advdmd_ray.stations.weights.loading import ModuleLoader, load_verified
from advdmd_ray.stations.weights.snapshot import Manifest, Snapshot, digest_of, pack, unpack
from advdmd_ray.stations.weights.store import Published, WeightStore
from damage import flipped


class Net(nn.Module):
    """Two layers of different shapes and dtypes, and a buffer."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 2, bias=False, dtype=torch.bfloat16)
        self.register_buffer("scale", torch.tensor(1.0))


def ends_of(snapshot: Snapshot) -> list[int]:
    return np.cumsum([spec.size_bytes for spec in snapshot.manifest.tensors]).tolist()


def state_of(seed: int = 0) -> dict[str, Tensor]:
    return Net(seed).state_dict()


def repacked(snapshot: Snapshot, state: Mapping[str, Tensor]) -> Snapshot:
    """The old manifest over another payload."""
    return Snapshot(snapshot.manifest, pack("student", 0, state).payload)


DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool]


@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(0, 4), max_size=3),
    seed=st.integers(0, 99),
    version=st.integers(0, 9),
)
def test_every_dtype_and_shape_comes_back_bit_for_bit(
    dtype: torch.dtype, shape: list[int], seed: int, version: int
) -> None:
    draws = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3
    state = {"b": draws.to(dtype), "a": torch.ones(2, dtype=torch.bfloat16)}
    snapshot = pack("student", version, state)
    back = unpack(snapshot)
    assert all(raw.dtype == np.uint8 and raw.ndim == 1 for raw in snapshot.payload)
    assert back.keys() == state.keys()
    for name, tensor in state.items():
        assert back[name].dtype == tensor.dtype
        assert back[name].shape == tensor.shape
        assert torch.equal(back[name], tensor)
    assert digest_of(back) == snapshot.manifest.digest == digest_of(state)


def test_nan_and_signed_zero_keep_their_bits() -> None:
    state = {"x": torch.tensor([0x7FC00001, -0x80000000, 1], dtype=torch.int32).view(torch.float32)}
    assert torch.equal(unpack(pack("student", 0, state))["x"].view(torch.int32), state["x"].view(torch.int32))


def test_the_digest_ignores_order_and_memory_layout() -> None:
    state = state_of()
    turned = {name: tensor.clone() for name, tensor in reversed(state.items())}
    turned["first.weight"] = turned["first.weight"].t().contiguous().t()
    assert not turned["first.weight"].is_contiguous()
    assert digest_of(turned) == digest_of(state)
    assert pack("student", 0, turned).manifest == pack("student", 0, state).manifest


@given(index=st.integers(0, 11), bit=st.integers(0, 31))
def test_the_digest_sees_every_bit(index: int, bit: int) -> None:
    state = state_of()
    digest = digest_of(state)
    flipped = state["first.weight"].view(torch.int32).view(-1)
    flipped[index] ^= 1 << bit if bit < 31 else -(1 << 31)
    assert digest_of(state) != digest


def test_the_digest_sees_names_dtypes_shapes_and_borders_between_tensors() -> None:
    a, b = torch.arange(4.0), torch.arange(4.0, 8.0)
    digests = [
        digest_of({"a": a, "b": b}),
        digest_of({"a": b, "b": a}),
        digest_of({"a": a, "c": b}),
        digest_of({"a": a}),
        digest_of({"a": torch.cat([a, b])}),
        digest_of({"a": torch.cat([a, b]).reshape(2, 4)}),
        digest_of({"a": a.view(torch.int32), "b": b}),
        digest_of({"a": torch.cat([a, b])[:6], "b": b[2:]}),
    ]
    assert len(set(digests)) == len(digests)


def test_a_snapshot_needs_a_known_stream_a_version_and_tensors() -> None:
    with pytest.raises(ValueError, match="teacher"):
        pack("teacher", 0, state_of())  # pyright: ignore[reportArgumentType] - the refusal is what is tested
    with pytest.raises(ValueError, match="version >= 0"):
        pack("student", -1, state_of())
    with pytest.raises(ValueError, match="tensors"):
        pack("student", 0, {})


@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_flipped_bit_anywhere_in_the_tensors_stops_loudly(where: float, bit: int) -> None:
    snapshot = pack("student", 5, state_of())
    byte = int(where * snapshot.manifest.tensor_bytes)
    hit = next(spec for spec, end in zip(snapshot.manifest.tensors, ends_of(snapshot), strict=True) if byte < end)
    net = Net(1)
    before = digest_of(net.state_dict())
    with pytest.raises(WeightsMismatchError, match="rollout-1: student version 5: the payload has digest") as error:
        load_verified(ModuleLoader(net), replace(snapshot, payload=flipped(snapshot.payload, byte, bit)), "rollout-1")
    assert snapshot.manifest.digest in str(error.value)
    assert str(error.value).endswith(f"the bytes of tensor {hit.name} differ")
    assert digest_of(net.state_dict()) == before


@given(tensor=st.integers(0, 3), cut=st.floats(0, 1, exclude_max=True))
def test_a_truncated_payload_stops_loudly(tensor: int, cut: float) -> None:
    snapshot = pack("student", 5, state_of())
    payload = list(snapshot.payload)
    payload[tensor] = payload[tensor][: int(cut * payload[tensor].size)]
    with pytest.raises(WeightsMismatchError, match=r"student version 5: the payload has \d+ bytes in 4 tensors"):
        unpack(replace(snapshot, payload=tuple(payload)))
    with pytest.raises(WeightsMismatchError, match=r"bytes in 3 tensors, published were \d+ in 4"):
        unpack(replace(snapshot, payload=snapshot.payload[:-1]))


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {("first.weights" if name == "first.weight" else name): tensor for name, tensor in state.items()}


def cast(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state | {"second.weight": state["second.weight"].float()}


def transposed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state | {"first.weight": state["first.weight"].t().contiguous()}


def short(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name != "first.bias"}


def long(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state | {"third": torch.zeros(1)}


CHANGES = [
    (renamed, "tensor first.weights? is"),
    (cast, r"tensor second.weight is .*float"),
    (transposed, r"tensor first.weight is float32\[\d, \d\], published float32\[\d, \d\]"),
    (short, "tensor first.bias is missing|tensor first.bias is not in the manifest"),
    (long, "tensor third is not in the manifest|tensor third is missing"),
]


@pytest.mark.parametrize("change", [cast, transposed, short, long])
def test_a_payload_that_is_not_the_manifests_stops_loudly(change: Any) -> None:
    snapshot = pack("student", 2, state_of())
    with pytest.raises(WeightsMismatchError, match="student version 2: the payload has") as error:
        unpack(repacked(snapshot, change(state_of())))
    assert snapshot.manifest.digest in str(error.value)


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_weights_that_do_not_fit_the_network_stop_loudly_before_anything_changes(change: Any, message: str) -> None:
    net = Net(1)
    before = digest_of(net.state_dict())
    snapshot = pack("student", 2, change(state_of()))
    with pytest.raises(WeightsMismatchError, match=message) as error:
        load_verified(ModuleLoader(net), snapshot, "rollout-0")
    for part in ("rollout-0: student version 2", before, snapshot.manifest.digest):
        assert part in str(error.value)
    assert digest_of(net.state_dict()) == before


def test_a_manifest_that_lacks_a_tensor_of_its_payload_stops_loudly() -> None:
    snapshot = pack("student", 2, state_of())
    forged = replace(snapshot.manifest, tensors=snapshot.manifest.tensors[1:])
    assert forged.digest != snapshot.manifest.digest
    with pytest.raises(WeightsMismatchError, match=r"bytes in 4 tensors, published were \d+ in 3"):
        unpack(replace(snapshot, manifest=forged))


def test_loading_copies_the_weights_and_reports_what_is_loaded() -> None:
    net, snapshot = Net(1), pack("student", 4, state_of(0))
    report = load_verified(ModuleLoader(net), snapshot, "rollout-0")
    assert report == LoadReport("rollout-0", "student", 4, snapshot.manifest.digest)
    assert report.digest == digest_of(net.state_dict()) == digest_of(state_of(0))


def test_a_module_may_be_covered_in_part_when_the_names_say_so() -> None:
    net = Net(1)
    scale = net.state_dict()["scale"].fill_(9.0)
    parameters = {name: tensor for name, tensor in state_of(0).items() if name != "scale"}
    snapshot = pack("student", 0, parameters)
    with pytest.raises(WeightsMismatchError, match="tensor scale is not in the manifest"):
        load_verified(ModuleLoader(net), snapshot, "w")
    report = load_verified(ModuleLoader(net, parameters.keys()), snapshot, "w")
    assert report.digest == snapshot.manifest.digest
    assert float(scale) == 9.0
    with pytest.raises(ValueError, match="no tensor fourth"):
        ModuleLoader(net, ["fourth"])


class ForgetfulLoader(ModuleLoader):
    """Skips one tensor without a word."""

    def load(self, state: Mapping[str, Tensor]) -> None:
        super().load({name: tensor for name, tensor in state.items() if name != "second.weight"})


class RoundingLoader(ModuleLoader):
    """Passes the weights through bfloat16."""

    def load(self, state: Mapping[str, Tensor]) -> None:
        super().load({name: tensor.bfloat16() for name, tensor in state.items()})


@pytest.mark.parametrize("loader", [ForgetfulLoader, RoundingLoader])
def test_a_loader_that_silently_changes_the_weights_is_caught(loader: type[ModuleLoader]) -> None:
    net, snapshot = Net(1), pack("discriminator", 4, state_of(0))
    with pytest.raises(
        WeightsMismatchError, match=r"the loaded network has digest .*: the bytes of tensor .* differ"
    ) as error:
        load_verified(loader(net), snapshot, "reward-0")
    for part in ("reward-0: discriminator version 4", digest_of(net.state_dict()), snapshot.manifest.digest):
        assert part in str(error.value)


def manifest(version: int, stream: Any = "student", seed: int = 0) -> Manifest:
    return pack(stream, version, {"x": torch.full((1,), float(version + 100 * seed))}).manifest


def test_versions_of_a_stream_increase_by_one_and_streams_are_apart() -> None:
    store: WeightStore[str] = WeightStore()
    store.publish(manifest(0), "s0")
    store.publish(manifest(1), "s1")
    with pytest.raises(LookupError, match="no discriminator weights"):
        store.latest("discriminator")
    store.publish(manifest(0, "discriminator"), "d0")
    for version in (0, 1, 3):
        with pytest.raises(ValueError, match=f"student version {version} is published, 2 must come next"):
            store.publish(manifest(version), "bad")
    assert store.latest("student") == Published(manifest(1), "s1")
    assert store.latest("discriminator").payload == "d0"


class _Bytes:
    """A reference that can be watched."""


def test_only_the_newest_snapshot_is_held_and_late_reports_are_still_checked() -> None:
    store: WeightStore[_Bytes] = WeightStore()
    first = _Bytes()
    held = weakref.ref(first)
    store.publish(manifest(0), first)
    argument = store.latest("student")  # as work that was begun with it has it
    del first
    store.publish(manifest(1), _Bytes())
    assert held() is argument.payload
    del argument
    assert held() is None
    store.verify(LoadReport("rollout-0", "student", 0, manifest(0).digest))
    with pytest.raises(WeightsMismatchError):
        store.verify(LoadReport("rollout-0", "student", 0, manifest(1).digest))


def test_a_resumed_store_goes_on_where_it_was() -> None:
    store: WeightStore[str] = WeightStore(first={"student": 7})
    with pytest.raises(ValueError, match="7 must come next"):
        store.publish(manifest(0), "x")
    store.publish(manifest(7), "s7")
    assert store.latest("student").manifest.version == 7
    store.publish(manifest(0, "discriminator"), "d0")


def test_reports_are_compared_with_what_was_published() -> None:
    store: WeightStore[str] = WeightStore()
    store.publish(manifest(0), "s0")
    store.publish(manifest(1), "s1")
    store.verify(LoadReport("rollout-0", "student", 0, manifest(0).digest))
    store.verify(LoadReport("rollout-1", "student", 0, manifest(0).digest))
    store.verify(LoadReport("rollout-0", "student", 1, manifest(1).digest))
    with pytest.raises(WeightsMismatchError, match="rollout-1: student version 1: loaded digest is") as error:
        store.verify(LoadReport("rollout-1", "student", 1, manifest(0).digest))
    for digest in (manifest(0).digest, manifest(1).digest):
        assert digest in str(error.value)
    with pytest.raises(WeightsMismatchError, match=r"student version 9: .* no such version"):
        store.verify(LoadReport("rollout-1", "student", 9, manifest(0).digest))


def test_senseless_stores_are_refused() -> None:
    with pytest.raises(ValueError, match="versions"):
        WeightStore(first={"student": -1})
