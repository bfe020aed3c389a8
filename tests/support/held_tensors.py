"""Measures the memory of real forwards and backwards: the storages that live, weights left out."""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def _storages(tensors: Sequence[Tensor]) -> set[int]:
    return {tensor.untyped_storage()._cdata for tensor in tensors}


class Saved:
    """Bytes of the storages that graphs made inside have saved, each once."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._weights = _storages(weights)
        # The tensors are held too: a storage that is freed may lend its address to another.
        self._found: dict[int, Tensor] = {}

    @property
    def bytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self._found.values())

    def _pack(self, tensor: Tensor) -> Tensor:
        if (key := tensor.untyped_storage()._cdata) not in self._weights:
            self._found[key] = tensor
        return tensor

    @contextmanager
    def watching(self) -> Iterator[None]:
        with saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield


class Live(TorchDispatchMode):
    """The most bytes alive at a time of all storages that operations inside make."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self._weights, self._seen = _storages(weights), weakref.WeakSet[Any]()
        self._now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._meet(tensor.untyped_storage())
        return out

    def _meet(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen or storage._cdata in self._weights:
            return
        self._seen.add(storage)
        self._now += storage.nbytes()
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._drop, storage.nbytes())

    def _drop(self, size: int) -> None:
        self._now -= size


def weights_of(network: nn.Module) -> list[Tensor]:
    """All that is there before a call."""
    return [*network.parameters(), *network.buffers()]
