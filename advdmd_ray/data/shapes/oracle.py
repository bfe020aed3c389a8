"""The checker as a reward: what a run could gain if its reward model made no mistakes."""

import torch
from jaxtyping import Float
from torch import Tensor

from advdmd_ray.data.shapes.checker import check
from advdmd_ray.data.shapes.skills import all_prompts


class ShapesOracle:
    """Scores images of one prompt by the checker: `(facts + correct) / 2`.

    The share of facts that hold leads the way to the whole; an image that is all right gets 1, and one with a part
    missing or an object too many at most 1/2.
    """

    def __init__(self) -> None:
        self._prompts = {prompt.text: prompt for prompt in all_prompts()}

    def __call__(self, images: Float[Tensor, "n 3 24 24"], prompt: str) -> Float[Tensor, " n"]:
        """One score in [0, 1] for each image.

        Args:
            images: In [-1, 1].
            prompt: One of `all_prompts()`.

        Raises:
            ValueError: if the prompt is none of the language.
        """
        asked = self._prompts.get(prompt)
        if asked is None:
            raise ValueError(f"{prompt!r} is no prompt of the shapes, so no image can be checked against it")
        verdicts = [check(image, asked) for image in images.detach().cpu().numpy()]
        return torch.tensor([(verdict.facts + verdict.correct) / 2 for verdict in verdicts])
