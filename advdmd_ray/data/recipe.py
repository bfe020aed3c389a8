"""What a small teacher is made of and trained on."""

from dataclasses import dataclass

from advdmd_ray.data.real import RealImages
from advdmd_ray.models.codec import PatchCodec, PixelCodec
from advdmd_ray.models.tiny import Architecture


@dataclass(frozen=True, slots=True)
class TeacherRecipe:
    """What a teacher is made of and trained on.

    Attributes:
        prompts: By prompt id.
        words: Words that become tokens of their own.
        codec: The image codec.
        architecture: Sizes of the networks.
        real: Real latents and the prompt id of each.
    """

    prompts: tuple[str, ...]
    words: tuple[str, ...]
    codec: PixelCodec | PatchCodec
    architecture: Architecture
    real: RealImages
