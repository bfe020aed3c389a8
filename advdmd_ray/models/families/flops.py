"""Floating-point operations of one forward, told from the headers of a transformer's files without torch.

A multiplication and its addition are 2. Products alone are counted: of tokens with weights and with adapters, and of
attention. What else a network computes is small beside them. Every linear layer works on image tokens, text tokens,
both, or one vector an image; the name says which, in the modules that diffusers has for these families.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from advdmd_ray.models.families.kept import Backbone
from advdmd_ray.models.folder import PipelineInfo
from advdmd_ray.models.targets import linear_layers, targeted

MULTIPLY_ADD = 2
ONE_VECTOR = (
    "norm1.linear",
    "norm1_context.linear",
    "norm.linear",
    "norm_out.linear",
    "img_mod.",
    "txt_mod.",
    "time_text_embed.",
    "t_embedder.",
    "adaLN_modulation.",
)
"""Embeddings of the time and of a whole prompt, and what scales, shifts and gates are made by."""
TEXT = (
    "add_q_proj",
    "add_k_proj",
    "add_v_proj",
    "to_add_out",
    "ff_context.",
    "txt_mlp.",
    "txt_in",
    "context_embedder",
    "cap_embedder.",
    "context_refiner.",
)
BOTH = ("single_transformer_blocks.", "layers.")
"""Blocks through which image and text go as one sequence."""
IMAGE_ATTENTION = ("attn2.", "noise_refiner.")
TEXT_ATTENTION = ("context_refiner.",)


@dataclass(frozen=True, slots=True)
class Flops:
    """One forward for one image, and what its backward adds.

    A product of activations with weights costs a backward two more: one for the gradient of the activations, and one
    for that of the weights. Frozen weights get none.

    Attributes:
        weights: Products with the network's weights.
        attention: Products of queries, keys and values: no factor is a weight, so a backward always costs two more.
        adapters: Products with low-rank adapters, which learn in the place of the weights; 0: the weights learn.
    """

    weights: int
    attention: int
    adapters: int = 0

    @property
    def forward(self) -> int:
        """A forward without a backward."""
        return self.weights + self.attention + self.adapters

    @property
    def learnt(self) -> int:
        """A forward and a backward to what learns: to the adapters through frozen weights, or to all weights."""
        return (2 if self.adapters else 3) * self.weights + 3 * (self.attention + self.adapters)

    @property
    def to_input(self) -> int:
        """A forward and a backward to the noisy image alone."""
        return 2 * (self.weights + self.adapters) + 3 * self.attention

    @property
    def attention_share(self) -> float:
        """Share of attention's own products, in [0, 1)."""
        return self.attention / self.forward


def forward_flops(info: PipelineInfo, backbone: Backbone, *, rank: int = 0, targets: Sequence[str] = ()) -> Flops:
    """Counts one forward for one image.

    Args:
        info: The pipeline's headers.
        backbone: Tokens of one image and its prompt.
        rank: Of adapters; 0: none.
        targets: Layers that have one, by the ends of their names.

    Raises:
        UserError: if a file is missing or damaged, or a target names no layer.
    """
    layers, text = linear_layers(info), backbone.tokens - info.image_tokens
    return count_flops(layers, info.image_tokens, text, rank=rank, adapted=targeted([*layers], targets) if rank else ())


def count_flops(
    layers: Mapping[str, tuple[int, ...]], image: int, text: int, *, rank: int = 0, adapted: Collection[str] = ()
) -> Flops:
    """The same from the layers themselves.

    Args:
        layers: Outputs and inputs of every linear layer, by name.
        image: Tokens of one image.
        text: Tokens of its prompt.
        rank: Of the adapters.
        adapted: Layers that have one.
    """
    weights = attention = 0
    for name, (outputs, inputs) in layers.items():
        weights += _tokens(name, image, text) * outputs * inputs
        if name.endswith(".to_q"):  # one attention: scores and mixtures
            attention += 2 * _attended(name, image, text) ** 2 * outputs
    adapters = sum(_tokens(name, image, text) * rank * sum(layers[name]) for name in adapted)
    return Flops(MULTIPLY_ADD * weights, MULTIPLY_ADD * attention, MULTIPLY_ADD * adapters)


def _tokens(name: str, image: int, text: int) -> int:
    if any(part in name for part in ONE_VECTOR):
        return 1
    if any(part in name for part in TEXT):
        return text
    return image + text if name.startswith(BOTH) else image


def _attended(name: str, image: int, text: int) -> int:
    if any(part in name for part in TEXT_ATTENTION):
        return text
    return image if any(part in name for part in IMAGE_ATTENTION) else image + text
