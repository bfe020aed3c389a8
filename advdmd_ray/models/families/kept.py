"""What the blocks of each family's transformer keep for a backward pass, told from its configuration without torch.

Counted in tensors of one token's width, block by block, as Korthikanti et al. do (arXiv 2205.05198, section 4.1).
Their transformer block keeps 34 bytes a token and channel in half precision beside its matrix of attention weights.
Without the masks of dropout, and with fused attention, which makes those weights again, 16 tensors are left: inputs of
two norms 2, of the query, key and value maps 1, these three 3, attention's result 1, the wide layer's input 1, its
result before and after the nonlinearity 8. The blocks of these families scale and shift what a norm gives (2 tensors
more) and gate what attention and the wide layer give (2 more); those that norm queries and keys keep them before and
after (4 more). Left out is what is one number a head or a row.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from advdmd_ray.models.folder import PipelineInfo, whole_number

FLOAT32, BFLOAT16, INT8 = 4, 2, 1
CLIP_TOKENS = 77
"""Tokens of a CLIP text encoder whose tokenizer names no number of its own."""
PADDED_TO = 32
"""Z-Image pads image and text to multiples of so many tokens."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Tensors of one token's width.

    Attributes:
        norms: Inputs and results of norms, which are float32 in every precision (so is autocast's rule on GPUs).
        rest: In the precision of matrix products.
    """

    norms: int
    rest: int

    def __add__(self, other: "Kept") -> "Kept":
        """Both."""
        return Kept(self.norms + other.norms, self.rest + other.rest)

    def size(self, product: int) -> int:
        """Bytes a token and channel, where an element of a matrix product has `product` bytes."""
        return self.norms * FLOAT32 + self.rest * product


@dataclass(frozen=True, slots=True)
class Block:
    """What a block keeps.

    Attributes:
        whole: Where all its weights learn.
        adapted: Where only adapters of its attention do, or nothing but the input. Frozen maps do not keep their
            inputs, nor norms what they scale, nor gates what they gate. Query, key and value adapters have a copy of
            their input each.
    """

    whole: Kept
    adapted: Kept

    def __add__(self, other: "Block") -> "Block":
        """Both."""
        return Block(self.whole + other.whole, self.adapted + other.adapted)


PLAIN = Block(whole=Kept(4, 17), adapted=Kept(2, 12))
"""A joint block of SD3: the 16 tensors, 2 scaled norms, 2 gates, and attention's result once more, out of its parts."""
NORMED_HEADS = Block(whole=Kept(4, 0), adapted=Kept(2, 0))
SECOND_ATTENTION = Block(whole=Kept(4, 6), adapted=Kept(2, 7))
"""SD3.5 medium's attention of image tokens among themselves; counted for text tokens too."""
FLUX_JOINT = Block(whole=Kept(8, 16), adapted=Kept(4, 11))
FLUX_SINGLE = Block(whole=Kept(6, 15), adapted=Kept(3, 11))
"""One norm for both halves, which run side by side; their results are one tensor of five widths."""
FLUX2_JOINT = Block(whole=Kept(8, 20), adapted=Kept(4, 16))
"""That of FLUX.1 with a wide layer of 3 and its gate."""
FLUX2_SINGLE = Block(whole=Kept(4, 21), adapted=Kept(3, 20))
"""One map of nine widths: queries, keys, values, the wide layer of 3 and its gate; one map back of four."""
Z_IMAGE = Block(whole=Kept(24, 9), adapted=Kept(15, 8))
"""Four norms and two of heads in float32 from end to end, rotations in float32, a wide layer of 8/3 with a gate."""
SANA = Block(whole=Kept(4, 36), adapted=Kept(8, 25))
"""Two attentions, the first linear in float32, and a wide layer of 5/2 with a convolution and a gate; counted for text
tokens too, of which it keeps keys and values."""
KREA2 = Block(whole=Kept(7, 23), adapted=Kept(4, 20))
"""Keys and values repeated for all heads, a gate on attention, a wide layer of 8/3 with another."""
ATTENTION = frozenset({"to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"})
ATTENTION |= {"to_qkv_mlp_proj", "to_out"}
"""Ends of the names of attention's maps, FLUX.2's with the wide layer in them; adapters of other layers keep more than
`Block.adapted`."""


@dataclass(frozen=True, slots=True)
class Backbone:
    """A transformer by what it keeps.

    Attributes:
        width: Channels of a token.
        tokens: Of one image and its prompt, at most.
        blocks: What each block keeps, in the order they run.
        before: Of blocks that run before these and are not counted among them.
    """

    width: int
    tokens: int
    blocks: tuple[Block, ...]
    before: tuple[Block, ...] = ()

    def first(self, depth: int | None) -> tuple[Block, ...]:
        """All that run up to the block of number `depth`, counted from 1; None: all."""
        return self.before + (self.blocks if depth is None else self.blocks[:depth])


def backbone_of(info: PipelineInfo, max_sequence_length: int) -> Backbone:
    """That of a pipeline folder.

    Args:
        info: The folder's headers.
        max_sequence_length: Most text tokens; of SD3 those beside CLIP's.

    Raises:
        UserError: The transformer's configuration lacks a number.
    """
    return _BACKBONES[info.family.name](info, max_sequence_length)


def _number(info: PipelineInfo, key: str) -> int:
    return whole_number(info.transformer, key, info.folder / "transformer" / "config.json")


def _heads_width(info: PipelineInfo) -> int:
    return _number(info, "num_attention_heads") * _number(info, "attention_head_dim")


def clip_tokens(info: PipelineInfo) -> int:
    """Tokens of every CLIP text encoder of a folder, padding included."""
    settings = json.loads((info.folder / "tokenizer" / "tokenizer_config.json").read_text(encoding="utf-8"))
    return int(settings.get("model_max_length", CLIP_TOKENS))


def _sd3(info: PipelineInfo, length: int) -> Backbone:
    plain = PLAIN + NORMED_HEADS if info.transformer.get("qk_norm") else PLAIN
    dual = set(info.transformer.get("dual_attention_layers", ()))
    blocks = tuple(plain + SECOND_ATTENTION if block in dual else plain for block in range(info.layers))
    text = clip_tokens(info) + length
    return Backbone(_heads_width(info), info.image_tokens + text, blocks)


def _flux(info: PipelineInfo, length: int) -> Backbone:
    joint, single = _number(info, "num_layers"), _number(info, "num_single_layers")
    blocks = (FLUX_JOINT,) * joint + (FLUX_SINGLE,) * single
    return Backbone(_heads_width(info), info.image_tokens + length, blocks)


def _flux2(info: PipelineInfo, length: int) -> Backbone:
    joint, single = _number(info, "num_layers"), _number(info, "num_single_layers")
    blocks = (FLUX2_JOINT,) * joint + (FLUX2_SINGLE,) * single
    return Backbone(_heads_width(info), info.image_tokens + length, blocks)


def _qwen_image(info: PipelineInfo, length: int) -> Backbone:
    return Backbone(_heads_width(info), info.image_tokens + length, (FLUX_JOINT,) * info.layers)


def _z_image(info: PipelineInfo, length: int) -> Backbone:
    tokens = sum(PADDED_TO * -(-count // PADDED_TO) for count in (info.image_tokens, length))
    before = (Z_IMAGE,) * _number(info, "n_refiner_layers")
    return Backbone(_number(info, "dim"), tokens, (Z_IMAGE,) * info.layers, before)


def _sana(info: PipelineInfo, length: int) -> Backbone:
    return Backbone(_heads_width(info), info.image_tokens + length, (SANA,) * info.layers)


def _krea2(info: PipelineInfo, length: int) -> Backbone:
    # The blocks that fuse the layers of the text are narrower, and have as many tokens as there are layers times words.
    before = (KREA2,) * _number(info, "num_layerwise_text_blocks")
    return Backbone(_heads_width(info), info.image_tokens + length, (KREA2,) * info.layers, before)


_BACKBONES: Mapping[str, Callable[[PipelineInfo, int], Backbone]] = {
    "sd3": _sd3,
    "flux": _flux,
    "flux2": _flux2,
    "qwen_image": _qwen_image,
    "z_image": _z_image,
    "sana": _sana,
    "krea2": _krea2,
}
