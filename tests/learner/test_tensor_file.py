"""A file that is written tensor by tensor is what the safetensors library reads, and one tensor at a time is held."""

import hashlib
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from advdmd_ray.learner.tensor_file import TensorStream, write_tensors

DTYPES = [torch.float64, torch.int64, torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.bool]
FLOAT = torch.float32


@given(shapes=st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)), max_size=6))
def test_the_library_reads_what_came_bit_for_bit_and_the_digest_is_the_files(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[tuple[torch.dtype, list[int]]]
) -> None:
    tensors = {f"{n} \u00e9": torch.randint(0, 2, shape).to(dtype) for n, (dtype, shape) in enumerate(shapes)}
    path = tmp_path_factory.mktemp("file") / "x.safetensors"
    written = write_tensors(path, TensorStream.of(tensors))
    data = path.read_bytes()
    assert (written.size, written.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    loaded = load_file(path)
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    with safe_open(path, "pt") as file:
        assert {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()} == {  # noqa: SIM118 - no mapping
            name: tuple(tensor.shape) for name, tensor in tensors.items()
        }


def test_a_tensor_is_gone_before_the_one_after_next_is_made(tmp_path: Path) -> None:
    made: list[weakref.ref[Tensor]] = []

    def one_by_one() -> Iterator[tuple[str, Tensor]]:
        for number in range(8):
            assert sum(reference() is not None for reference in made) <= 1
            tensor = torch.full((3,), float(number))
            made.append(weakref.ref(tensor))
            yield str(number), tensor
            del tensor

    layout = {str(number): (FLOAT, torch.Size([3])) for number in range(8)}
    path = tmp_path / "x.safetensors"
    write_tensors(path, TensorStream(layout, one_by_one()))
    assert [float(load_file(path)[str(number)][0]) for number in range(8)] == [*range(8)]
    made.clear()
    TensorStream(layout, one_by_one()).drain()


@pytest.mark.parametrize(
    ("layout", "came"),
    [
        ({"a": (FLOAT, torch.Size([2]))}, {"a": torch.zeros(3)}),
        ({"a": (FLOAT, torch.Size([2]))}, {"b": torch.zeros(2)}),
        ({"a": (FLOAT, torch.Size([2]))}, {"a": torch.zeros(2, dtype=torch.float64)}),
        ({"a": (FLOAT, torch.Size([2]))}, {}),
        ({}, {"a": torch.zeros(2)}),
        ({"a": (torch.uint8, torch.Size([1])), "b": (FLOAT, torch.Size([1]))}, {}),
        ({"a": (torch.complex64, torch.Size([1]))}, {"a": torch.zeros(1, dtype=torch.complex64)}),
    ],
)
def test_a_stream_that_does_not_keep_to_its_layout_and_what_cannot_be_stored_are_refused(
    layout: dict[str, tuple[torch.dtype, torch.Size]], came: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"came in the place|cannot be stored|zip\(\)"):
        write_tensors(tmp_path / "x.safetensors", TensorStream(layout, iter(came.items())))
