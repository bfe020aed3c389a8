"""Adapters merged into the weights of a network that only runs: what it multiplies by is one matrix a layer.

`W + (alpha / rank) B A` is computed from the untouched W whenever adapters were loaded, never by subtracting the ones
before, so that loads cannot drift. The untouched weights of adapted layers stay beside the merged ones, where the
network is: half a gigabyte for SD3.5 medium in bfloat16, and a load moves nothing but the adapters.

Merging rounds in another way than adapters beside their layer do; docs/ALGORITHM.md, section 1, has what importance
ratios make of it.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from advdmd_ray.models.families.base import TransformerDenoiser
from advdmd_ray.models.lora import ADAPTER
from advdmd_ray.stations.weights.loading import Derived


class MergedLinear(Derived):
    """A linear layer that runs with its adapter merged; its state has the names of peft's layer.

    Args:
        layer: peft's layer; its weights are held, not copied.
    """

    merged: Tensor

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.base_layer: nn.Linear = layer.base_layer
        self.lora_A: Any = layer.lora_A
        self.lora_B: Any = layer.lora_B
        self._scale: float = layer.scaling[ADAPTER]
        self.register_buffer("merged", torch.empty_like(self._base), persistent=False)
        self.derive()

    @property
    def _base(self) -> Tensor:
        return self.base_layer.weight.detach()

    @torch.no_grad()
    def derive(self) -> None:
        """See `Derived`. In place, as a compiled network knows the address."""
        down, up = self.lora_A[ADAPTER].weight, self.lora_B[ADAPTER].weight
        self.merged.copy_(torch.addmm(self._base.float(), up, down, alpha=self._scale))

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch o"]:
        """The layer's output."""
        return nn.functional.linear(x, self.merged, self.base_layer.bias)


def merge_adapters(denoiser: TransformerDenoiser) -> TransformerDenoiser:
    """Puts a `MergedLinear` in the place of every layer with an adapter, in place."""
    from peft.tuners.lora.layer import Linear as LoraLinear

    adapted = [(name, module) for name, module in denoiser.named_modules() if isinstance(module, LoraLinear)]
    for name, module in adapted:
        denoiser.set_submodule(name, MergedLinear(module))
    return denoiser
