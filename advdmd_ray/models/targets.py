"""The layers that have an adapter, found by the ends of their names: no torch or diffusers is imported here."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from advdmd_ray.config.named import nearest
from advdmd_ray.errors import UserError
from advdmd_ray.models.folder import PipelineInfo
from advdmd_ray.models.headers import tensor_shapes

MATRIX = 2
"""Dimensions of a linear layer's weight."""
KINDS: Mapping[str, re.Pattern[str]] = {
    "attention": re.compile(r"\w+\.\d+\.(?:\w+\.)*(?:attn\d?|attention)\."),
    "all-linear": re.compile(r"\w+\.\d+\."),
}
"""Words for many layers: those of attention, or all, of the blocks. Blocks are lists at the top of a transformer, in
every family; what embeds text, time and image, and what makes the output, is in none."""


def linear_layers(info: PipelineInfo) -> Mapping[str, tuple[int, ...]]:
    """Outputs and inputs of every linear layer of a folder's transformer, by name, from the headers of its files.

    Raises:
        UserError: if a file is missing or damaged.
    """
    return {name: shape for name, shape in _weights(info).items() if len(shape) == MATRIX}


def maps(info: PipelineInfo) -> Mapping[str, tuple[int, int]]:
    """The same with every convolution, whose inputs are the channels of all places that it sees at once."""
    return {name: (shape[0], math.prod(shape[1:])) for name, shape in _weights(info).items() if len(shape) >= MATRIX}


@dataclass(frozen=True, slots=True)
class BlockLayers:
    """The linear layers in the blocks of a transformer, biases left out.

    Attributes:
        weights: Their weights.
        outputs: Their outputs.
        largest: Weights of those in the largest block.
    """

    weights: int
    outputs: int
    largest: int

    @classmethod
    def of(cls, info: PipelineInfo) -> "BlockLayers":
        """Those of a folder; raises as `linear_layers`."""
        layers, blocks = linear_layers(info), Counter[str]()
        inside = {name: shape for name, shape in layers.items() if in_a_block(name)}
        for name, shape in inside.items():
            blocks[".".join(name.split(".")[:2])] += math.prod(shape)  # such as transformer_blocks.3
        outputs = sum(shape[0] for shape in inside.values())
        return cls(blocks.total(), outputs, max(blocks.values(), default=0))


def in_a_block(name: str) -> bool:
    """Whether a layer of this name is in a block."""
    return KINDS["all-linear"].match(name) is not None


def _weights(info: PipelineInfo) -> Mapping[str, tuple[int, ...]]:
    """Shapes of all weights of layers, by the layers' names."""
    shapes = [tensor_shapes(file) for file in info.component("transformer").weight_files]
    return {
        name.removesuffix(".weight"): shape
        for part in shapes
        for name, shape in part.items()
        if name.endswith(".weight")
    }


def targeted(layers: Sequence[str], targets: Sequence[str]) -> tuple[str, ...]:
    """The layers that targets name, each once.

    Args:
        layers: Whole names of a transformer's linear layers.
        targets: Ends of names, such as `to_q`, or words of `KINDS`.

    Raises:
        UserError: for a target that names no layer.
    """
    found: dict[str, None] = {}
    for target in targets:
        kind = KINDS.get(target)
        named = [name for name in layers if (kind.match(name) if kind else f".{name}".endswith(f".{target}"))]
        if not named:
            ends = sorted({_end(name) for name in layers})
            words = f"{', '.join(ends)}; or give {' or '.join(KINDS)}"
            near = f"did you mean {nearest(target, ends)}? It has: {words}" if ends else "it has none at all"
            raise UserError(f"lora.targets: the transformer has no linear layer named {target!r}; {near}")
        found |= dict.fromkeys(named)
    return tuple(found)


def _end(name: str) -> str:
    """The last part of a name; where that is the number of a layer in a list, the list's name too."""
    before, _, last = name.rpartition(".")
    return f"{before.rpartition('.')[2]}.{last}" if last.isdigit() and before else last
