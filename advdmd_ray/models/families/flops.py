"""Floating-point operations of one forward, told from the headers of a transformer's files without torch.

A multiplication and its addition are 2. Products alone are counted: of tokens with weights and with adapters, and of
attention. What else a network computes is small beside them. Every linear layer works on image tokens, text tokens,
both, or one vector an image; the name says which, in the modules that diffusers has for these families.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from advdmd_ray.models.families.kept import Backbone
from advdmd_ray.models.folder import PipelineInfo
from advdmd_ray.models.targets import linear_layers, maps, targeted

MULTIPLY_ADD = 2
ONE_VECTOR = (
    "norm1.linear",
    "norm1_context.linear",
    "norm.linear",
    "norm_out.linear",
    "img_mod.",
    "txt_mod.",
    "time_text_embed.",
    "time_guidance_embed.",
    "time_embed.",
    "time_mod_proj",
    "stream_modulation",
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
    "text_fusion.",
    "caption_projection.",
    "context_embedder",
    "cap_embedder.",
    "context_refiner.",
)
BOTH = ("single_transformer_blocks.", "layers.")
"""Blocks through which image and text go as one sequence."""
IMAGE_ATTENTION = ("attn2.", "noise_refiner.")
TEXT_ATTENTION = ("context_refiner.", "text_fusion.")
ACROSS = ("attn2.to_k", "attn2.to_v")
"""Maps of text, where the image's tokens attend to it and it does not go through the blocks."""
FUSED_LAYERS = ("text_fusion.layerwise_blocks.", "text_fusion.projector")
"""Blocks in which the layers of each word attend to each other, and the map that makes one vector of them."""


@dataclass(frozen=True, slots=True)
class Streams:
    """Where a family's names say something else than those of the others.

    Attributes:
        both: Beginnings of blocks through which image and text go as one sequence.
        linear_head: Channels of a head of an attention among image tokens that is linear in them, beside one across to
            the text; 0: there is none of either.
    """

    both: tuple[str, ...] = BOTH
    linear_head: int = 0

    @classmethod
    def of(cls, info: PipelineInfo) -> "Streams":
        """Those of a folder's family."""
        if info.family.name == "sana":
            return cls(linear_head=int(info.transformer["attention_head_dim"]))
        return cls((*BOTH, "transformer_blocks.")) if info.family.name == "krea2" else cls()


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
    text = backbone.tokens - info.image_tokens
    adapted = targeted([*linear_layers(info)], targets) if rank else ()
    return count_flops(maps(info), info.image_tokens, text, rank=rank, adapted=adapted, streams=Streams.of(info))


def count_flops(
    layers: Mapping[str, tuple[int, ...]],
    image: int,
    text: int,
    *,
    rank: int = 0,
    adapted: Collection[str] = (),
    streams: Streams = Streams(),
) -> Flops:
    """The same from the layers themselves.

    Args:
        layers: Outputs and inputs of every linear layer and convolution, by name.
        image: Tokens of one image.
        text: Tokens of its prompt.
        rank: Of the adapters.
        adapted: Layers that have one.
        streams: Of the family.
    """
    weights = attention = 0
    for name, (outputs, inputs) in layers.items():
        weights += _tokens(name, layers, image, text, streams) * outputs * inputs
        if width := _heads_width(name, outputs, inputs):  # one attention: scores and mixtures
            attention += 2 * _pairs(name, layers, image, text, streams) * width
    adapters = sum(_tokens(name, layers, image, text, streams) * rank * sum(layers[name]) for name in adapted)
    return Flops(MULTIPLY_ADD * weights, MULTIPLY_ADD * attention, MULTIPLY_ADD * adapters)


def _heads_width(name: str, outputs: int, inputs: int) -> int:
    """Channels of the queries that a layer makes; 0: it makes none."""
    if name.endswith(".to_q"):
        return outputs
    return inputs if name.endswith(".to_qkv_mlp_proj") else 0


def _fused(name: str, layers: Mapping[str, tuple[int, ...]]) -> int:
    """Vectors that a layer has for each word."""
    return layers[FUSED_LAYERS[1]][1] if name.startswith(FUSED_LAYERS) else 1


def _tokens(name: str, layers: Mapping[str, tuple[int, ...]], image: int, text: int, streams: Streams) -> int:
    """Vectors that a layer works on."""
    if any(part in name for part in ONE_VECTOR):
        return 1
    if any(part in name for part in TEXT) or (streams.linear_head and name.endswith(ACROSS)):
        return text * _fused(name, layers)
    return image + text if name.startswith(streams.both) else image


def _pairs(name: str, layers: Mapping[str, tuple[int, ...]], image: int, text: int, streams: Streams) -> int:
    """Queries times keys of an attention; in a linear one, queries times the channels that keys are summed up in."""
    if any(part in name for part in TEXT_ATTENTION):
        layered = _fused(name, layers)
        return text * layered**2 if layered > 1 else text**2
    if streams.linear_head:
        return image * (text if "attn2." in name else streams.linear_head + 1)
    return image**2 if any(part in name for part in IMAGE_ATTENTION) else (image + text) ** 2
