"""Low-rank adapters (LoRA, arXiv 2106.09685) over one frozen base that all roles of a process share.

A role is a copy of the network's modules around the very same weight tensors, with adapters of its own. Nothing is
switched on or off between roles, so a backward pass finds the adapters that its forward pass had, recomputed
activations included.
"""

import copy
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from advdmd_ray.models.diffusers_classes import UNUSED, hidden
from advdmd_ray.models.families.base import TransformerDenoiser
from advdmd_ray.models.targets import targeted

MARK = ".lora_"
"""In the name of every adapter weight, and of no other."""
ADAPTER = "default"
BASE = ".base_layer"
"""What peft puts into the names of the weights that it wraps."""


def sharing_copy(denoiser: TransformerDenoiser) -> TransformerDenoiser:
    """A copy whose parameters and buffers are those of the original, not copies of them."""
    shared = {id(tensor): tensor for tensor in (*denoiser.parameters(), *denoiser.buffers())}
    return copy.deepcopy(denoiser, shared)


def add_lora(
    denoiser: TransformerDenoiser, *, rank: int, alpha: float, targets: Sequence[str], seed: int
) -> TransformerDenoiser:
    """Put adapters into a denoiser, in place; they alone learn from now on. At first they change nothing.

    `W x` becomes `W x + (alpha / rank) B A x`, A random and B zero.

    Args:
        denoiser: A copy of its own, or a `sharing_copy`.
        rank: Of A and B.
        alpha: See above.
        targets: Linear layers by the ends of their names, such as `to_q`.
        seed: Seeds A.

    Raises:
        UserError: if the network has no layer of one of these names.
    """
    from peft import LoraConfig, inject_adapter_in_model

    linear = [name for name, module in denoiser.transformer.named_modules() if isinstance(module, nn.Linear)]
    # Whole names: by their ends peft would adapt convolutions too, which are not merged.
    wanted = list(targeted(linear, targets))
    denoiser.requires_grad_(False)
    settings = LoraConfig(r=rank, lora_alpha=alpha, target_modules=wanted)  # pyright: ignore[reportArgumentType] - a float serves
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), hidden(UNUSED):
        # Of a base in 8 bits peft says that nothing can be merged into it, and nothing is.
        warnings.filterwarnings("ignore", message="TorchaoLoraLinear")
        torch.manual_seed(seed)
        inject_adapter_in_model(settings, denoiser.transformer, ADAPTER)
    for name, parameter in denoiser.named_parameters():
        if is_adapter(name):
            parameter.data = parameter.data.float()  # a base in bfloat16 gets adapters of its kind
    return denoiser


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name is an adapter's."""
    return MARK in name


def merged_weights(denoiser: TransformerDenoiser) -> dict[str, Tensor]:
    """The transformer's whole weights with its adapters added, by the names that it has without them."""
    from peft.tuners.lora.layer import Linear as LoraLinear

    state = {
        name.replace(BASE, ""): tensor
        for name, tensor in denoiser.transformer.state_dict().items()
        if not is_adapter(f".{name}")
    }
    for name, module in denoiser.transformer.named_modules():
        if isinstance(module, LoraLinear):
            weight = f"{name}.weight"
            state[weight] = (state[weight].float() + module.get_delta_weight(ADAPTER).float()).to(state[weight].dtype)
    return state


def adapter_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adapter weights by the names that diffusers' LoRA files have, relative to the transformer."""
    return {
        name.removeprefix("transformer.").replace(f".{ADAPTER}.", "."): tensor
        for name, tensor in state.items()
        if is_adapter(name)
    }
