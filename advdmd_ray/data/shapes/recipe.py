"""What the teacher of the shapes is made of and trained on."""

from functools import partial

import numpy as np
import torch

from advdmd_ray.data.real import RealImages
from advdmd_ray.data.recipe import Captioned, Lessons, TeacherRecipe
from advdmd_ray.data.shapes.captions import draw_lessons, draw_relations, facts, sides
from advdmd_ray.data.shapes.render import render_all
from advdmd_ray.data.shapes.scenes import draw_scenes
from advdmd_ray.data.shapes.skills import all_prompts, prompt_words
from advdmd_ray.data.shapes.training_set import draw_images, draw_rows
from advdmd_ray.models.codec import PatchCodec
from advdmd_ray.models.tiny import SHAPES
from advdmd_ray.seeding import derive_seed

LESSONS = 24_000
"""Dense captions that a text encoder may learn from."""
SIDES_SIZE = 1.5
"""Of the sides beside the other facts; a denoiser learns them last."""
FITTED_IMAGES = 5000
"""Images of the training set that the codec is fitted to."""
SCENES_OF_A_CAPTION = 2
"""Of captions beyond the prompt table."""
PATCH, COMPONENTS, WHITENING = 8, 22, 0.5
"""Of the codec, see `PatchCodec.fit`. A cell has a mixture of two colours by one of nine masks: 25 components
vary, three of them hardly. Half whitened, outlines are decided at noise levels near those of colours."""


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
    texts = tuple(prompt.text for prompt in all_prompts())
    captioned = partial(shapes_captioned, codec)
    return TeacherRecipe(texts, prompt_words(), codec, SHAPES, real, shapes_lessons, captioned)


def shapes_captioned(codec: PatchCodec, count: int, seed: int) -> Captioned:
    """Captions with a relation that the prompt table has not, and `SCENES_OF_A_CAPTION` scenes of each.

    Args:
        codec: Encodes the scenes.
        count: Captions.
        seed: Seeds the captions and the scenes.
    """
    prompts = draw_relations(count, derive_seed(seed, "shapes", "captions"))
    drawn = render_all(draw_scenes(prompts * SCENES_OF_A_CAPTION, derive_seed(seed, "shapes", "captioned")))
    latents = codec.encode(torch.from_numpy(drawn), return_dict=False)[0].mode()
    rows = torch.arange(count).repeat(SCENES_OF_A_CAPTION)
    return Captioned(tuple(prompt.text for prompt in prompts), RealImages(latents, rows))


def shapes_lessons(seed: int) -> Lessons:
    """Captions of shapes and what they state."""
    prompts = draw_lessons(LESSONS, seed)
    stated = torch.from_numpy(np.stack([facts(prompt) for prompt in prompts]))
    sizes = torch.ones(stated.shape[1])
    sizes[: len(sides(prompts[0]))] = SIDES_SIZE
    return Lessons(tuple(prompt.text for prompt in prompts), stated, sizes)
