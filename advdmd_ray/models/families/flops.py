"""Floating-point operations of one forward, told from the headers of a transformer's files without torch.

A multiplication and its addition are 2. Products alone are counted: of tokens with weights, and of attention. What else
a network computes, and adapters, are small beside them. Every linear layer works on image tokens, text tokens, both, or
one vector an image; the name says which, in the modules that diffusers has for these families.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from advdmd_ray.models.families.kept import Backbone
from advdmd_ray.models.folder import PipelineInfo
from advdmd_ray.models.targets import linear_layers

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
    """One forward for one image.

    Attributes:
        weights: Products with the network's weights.
        attention: Products of queries, keys and values: no factor is a weight, so a backward always costs two more.
    """

    weights: int
    attention: int

    @property
    def forward(self) -> int:
        """Both."""
        return self.weights + self.attention

    @property
    def attention_share(self) -> float:
        """Share of attention's own products, in [0, 1)."""
        return self.attention / self.forward


def forward_flops(info: PipelineInfo, backbone: Backbone) -> Flops:
    """Counts one forward for one image.

    Args:
        info: The pipeline's headers.
        backbone: Tokens of one image and its prompt.

    Raises:
        UserError: if a file is missing or damaged.
    """
    return count_flops(linear_layers(info), info.image_tokens, backbone.tokens - info.image_tokens)


def count_flops(layers: Mapping[str, tuple[int, ...]], image: int, text: int) -> Flops:
    """The same from the layers themselves.

    Args:
        layers: Outputs and inputs of every linear layer, by name.
        image: Tokens of one image.
        text: Tokens of its prompt.
    """
    weights = attention = 0
    for name, (outputs, inputs) in layers.items():
        weights += _tokens(name, image, text) * outputs * inputs
        if name.endswith(".to_q"):  # one attention: scores and mixtures
            attention += 2 * _attended(name, image, text) ** 2 * outputs
    return Flops(MULTIPLY_ADD * weights, MULTIPLY_ADD * attention)


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
