"""Copies to an accelerator and back, with stand-ins for its tensors and its stream."""

from typing import Any

import pytest
import torch

from advdmd_ray.diffusion.transfer import to_device, to_host

CUDA = torch.device("cuda", 0)


class _There(torch.Tensor):
    """A tensor that says it is somewhere, and writes down what is done to it."""

    place: str
    pinned: bool
    events: list[str]

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        return torch.device(self.place)

    def pin_memory(self, *_: Any) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride] - what is used of it
        return _there("cpu", self.events, pinned=True)

    def to(self, device: torch.device, *, non_blocking: bool = False) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride] - what is used of it
        assert self.pinned or not non_blocking
        self.events.append(f"to {device.type}, {'in its turn' if non_blocking else 'waited for'}")
        return _there(device.type, self.events)

    def copy_(self, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride] - what is used of it
        assert self.pinned
        self.events.append(f"from {source.device.type}, {'in its turn' if non_blocking else 'waited for'}")
        return self


def _there(where: str, log: list[str], *, pinned: bool = False) -> _There:
    tensor = torch.Tensor._make_subclass(_There, torch.zeros(2))
    tensor.place, tensor.events, tensor.pinned = where, log, pinned
    return tensor


class _Stream:
    def __init__(self, log: list[str]) -> None:
        self.log = log

    def synchronize(self) -> None:
        self.log.append("waited")


def test_what_goes_to_an_accelerator_goes_through_page_locked_memory_and_nobody_waits() -> None:
    log: list[str] = []
    assert to_device(_there("cpu", log), CUDA).device.type == "cuda"
    assert log == ["to cuda, in its turn"]


def test_what_comes_back_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    monkeypatch.setattr(torch, "empty", lambda *_, pin_memory, **__: _there("cpu", log, pinned=pin_memory))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: _Stream(log))
    back = to_host(_there("cuda", log), _there("cuda", log))
    assert [tensor.device.type for tensor in back] == ["cpu", "cpu"]
    assert log == ["from cuda, in its turn", "from cuda, in its turn", "waited"]


def test_on_the_cpu_nothing_is_copied() -> None:
    tensor = torch.randn(3)
    assert to_device(tensor, torch.device("cpu")) is tensor
    assert to_host(tensor)[0] is tensor
