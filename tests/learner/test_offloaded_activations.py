"""What goes to host memory is what gradient checkpointing keeps, in passes that are trained on, and no weight."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from advdmd_ray.learner.engine import Engine, build_engine


class Blocks(nn.Module):
    """Two blocks whose activations are made again; 5 channels between them, 11 and 13 inside."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(5, inner), nn.Tanh(), nn.Linear(inner, 5)) for inner in (11, 13)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)  # pyright: ignore[reportAssignmentType] - a tensor here
        return x


class HostMemory(torch.autograd.graph.saved_tensors_hooks):
    """Stands for torch's own `save_on_cpu`: notes what is put there and what comes back."""

    put: list[tuple[int, ...]]
    taken: list[tuple[int, ...]]
    pinned: list[bool]

    def __init__(self, *, pin_memory: bool) -> None:
        type(self).pinned.append(pin_memory)

        def pack(tensor: Tensor) -> Tensor:
            type(self).put.append(tuple(tensor.shape))
            return tensor

        def unpack(tensor: Tensor) -> Tensor:
            type(self).taken.append(tuple(tensor.shape))
            return tensor

        super().__init__(pack, unpack)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> type[HostMemory]:
    HostMemory.put, HostMemory.taken, HostMemory.pinned = [], [], []
    monkeypatch.setattr(torch.autograd.graph, "save_on_cpu", HostMemory)
    return HostMemory


def _engine(*, offload: bool) -> Engine:
    torch.manual_seed(0)
    return build_engine(Blocks(), kind="torch", objectives={"dmd": 1e-2}, offload_activations=offload)


def _trained(engine: Engine) -> dict[str, Tensor]:
    engine.step([lambda: engine(torch.linspace(-1, 1, 15).reshape(3, 5)).square().mean()], "dmd")
    return engine.state_dict()


def test_the_inputs_of_blocks_are_put_there_and_taken_back_and_the_step_is_the_same(host: Any) -> None:
    kept = _trained(_engine(offload=False))
    assert host.put == []
    moved = _trained(_engine(offload=True))
    assert (3, 5) in host.put
    assert {shape for shape in host.put if shape != (3, 5)} <= {(0,)}  # torch notes each block with an empty tensor
    assert host.taken.count((3, 5)) == host.put.count((3, 5)) == 2
    assert all(torch.equal(moved[name], weight) for name, weight in kept.items())


def test_memory_is_pinned_for_an_accelerator_only(host: Any) -> None:
    _trained(_engine(offload=True))
    assert host.pinned == [False]


def test_passes_that_no_step_follows_stay_where_they_are(host: Any) -> None:
    engine = _engine(offload=True)
    leaf = torch.ones(3, 5, requires_grad=True)
    torch.autograd.grad(engine.module(leaf).sum(), leaf)
    assert host.put == []
