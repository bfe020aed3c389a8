"""What each small teacher is made of and trained on."""

from dataclasses import dataclass

import torch

from advdmd_ray.config.pretrain import PretrainConfig
from advdmd_ray.data.digits.images import DIGIT_PROMPTS, DIGIT_WORDS, load_digits
from advdmd_ray.data.real import RealImages
from advdmd_ray.data.shapes.skills import all_prompts, prompt_words
from advdmd_ray.data.shapes.training_set import draw_images, draw_rows
from advdmd_ray.errors import UserError
from advdmd_ray.models.codec import PatchCodec, PixelCodec
from advdmd_ray.models.tiny import DIGITS, SHAPES, Architecture

FITTED_IMAGES = 5000
"""Images of the training set that the shapes' codec is fitted to."""
PATCH, COMPONENTS, WHITENING = 8, 22, 0.5
"""Of the shapes' codec, see `PatchCodec.fit`. A cell has a mixture of two colours by one of nine masks: 25 components
vary, three of them hardly. Half whitened, outlines are decided at noise levels near those of colours."""


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


def build_recipe(config: PretrainConfig) -> TeacherRecipe:
    """The recipe for `data.source`; what it draws is seeded by `run.seed`.

    Raises:
        UserError: for images that have no small teacher of ours.
    """
    if config.data.source == "digits":
        return digits_recipe()
    if config.data.source != "shapes":
        raise UserError(f"pretrain makes the teachers of data.source digits and shapes, got {config.data.source}")
    return shapes_recipe(config.pretrain.images, config.run.seed)


def digits_recipe() -> TeacherRecipe:
    """Pixels of the training digits, their labels as prompt ids."""
    digits = load_digits("train")
    return TeacherRecipe(DIGIT_PROMPTS, DIGIT_WORDS, PixelCodec(), DIGITS, RealImages(digits.images, digits.labels))


def shapes_recipe(images: int, seed: int) -> TeacherRecipe:
    """Patches of scenes drawn for the seen prompts, on their principal components; prompt ids are all prompts' rows.

    Args:
        images: About how many scenes are drawn.
        seed: Seeds the choice of prompts and the scenes.
    """
    rows = draw_rows(images, seed)
    drawn = torch.from_numpy(draw_images(rows, seed))
    codec = PatchCodec.fit(drawn[:FITTED_IMAGES], patch=PATCH, components=COMPONENTS, whitening=WHITENING)
    real = RealImages(codec.encode(drawn, return_dict=False)[0].mode(), torch.from_numpy(rows))
    return TeacherRecipe(tuple(prompt.text for prompt in all_prompts()), prompt_words(), codec, SHAPES, real)
