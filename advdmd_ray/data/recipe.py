"""What a small teacher is made of and trained on."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from advdmd_ray.data.real import RealImages
from advdmd_ray.models.codec import PatchCodec, PixelCodec
from advdmd_ray.models.tiny import Architecture


@dataclass(frozen=True, slots=True)
class Lessons:
    """Captions and what they state, for a text encoder to learn from.

    Attributes:
        texts: n captions.
        facts: `[n, k]` the same facts of each as numbers.
        sizes: `[k]` standard deviation of each fact where it is said: the larger, the sooner it is learnt from.
    """

    texts: tuple[str, ...]
    facts: Float[Tensor, "n k"]
    sizes: Float[Tensor, " k"]


@dataclass(frozen=True, slots=True)
class Captioned:
    """Captions beyond the prompts, and images of them.

    Attributes:
        texts: The captions.
        real: Real latents; the prompt id of each is the row of its caption in `texts`.
    """

    texts: tuple[str, ...]
    real: RealImages


@dataclass(frozen=True, slots=True)
class TeacherRecipe:
    """What a teacher is made of and trained on.

    Attributes:
        prompts: By prompt id.
        words: Words that become tokens of their own.
        codec: The image codec.
        architecture: Sizes of the networks.
        real: Real latents and the prompt id of each.
        lessons: Draws what a text encoder may learn from, by a seed; None where captions state too little.
        captioned: Draws captions with a relation beyond the prompts, and their images, by how many and a seed; None
            where there are none.
    """

    prompts: tuple[str, ...]
    words: tuple[str, ...]
    codec: PixelCodec | PatchCodec
    architecture: Architecture
    real: RealImages
    lessons: Callable[[int], Lessons] | None = None
    captioned: Callable[[int, int], Captioned] | None = None
