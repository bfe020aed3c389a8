"""How large an encoded text of each family is, told from a pipeline folder's configuration without torch."""

from collections.abc import Callable, Mapping

from advdmd_ray.models.families.kept import clip_tokens
from advdmd_ray.models.folder import PipelineInfo, whole_number


def text_elements(info: PipelineInfo, max_sequence_length: int) -> int:
    """Numbers of one encoded text: all of every text, where the network attends to padding, else of the longest.

    Args:
        info: The pipeline folder.
        max_sequence_length: Most text tokens; of SD3 those beside CLIP's.

    Raises:
        UserError: The transformer's configuration lacks a number.
    """
    return _ELEMENTS[info.family.name](info, max_sequence_length)


def _number(info: PipelineInfo, key: str) -> int:
    return whole_number(info.transformer, key, info.folder / "transformer" / "config.json")


def _sd3(info: PipelineInfo, length: int) -> int:
    tokens = clip_tokens(info) + length
    return tokens * _number(info, "joint_attention_dim") + _number(info, "pooled_projection_dim")


def _flux(info: PipelineInfo, length: int) -> int:
    return length * _number(info, "joint_attention_dim") + _number(info, "pooled_projection_dim")


_ELEMENTS: Mapping[str, Callable[[PipelineInfo, int], int]] = {
    "sd3": _sd3,
    "flux": _flux,
    "flux2": lambda info, length: length * _number(info, "joint_attention_dim"),
    "qwen_image": lambda info, length: length * _number(info, "joint_attention_dim"),
    "z_image": lambda info, length: length * _number(info, "cap_feat_dim"),
    "sana": lambda info, length: length * _number(info, "caption_channels"),
    "krea2": lambda info, length: length * _number(info, "num_text_layers") * _number(info, "text_hidden_dim"),
}
