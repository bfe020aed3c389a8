"""Scorers: what gives each image of a prompt one number, of this package or of a user, and what is asked of it.

A scorer is a function `(images, prompts) -> scores`. It gets n images as a float32 tensor `[n, 3, h, w]` on the CPU,
RGB in [0, 1], and n texts, the prompt of each; it returns n finite numbers, of which higher is better. It is called
without a graph. Whoever needs latents, or a network's features, is no scorer.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from advdmd_ray.config.named import named_function
from advdmd_ray.config.scorers import ScorersSection, scorer_word
from advdmd_ray.config.texts import shown
from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.judges.contract import Figure

ScoreFunction: TypeAlias = Callable[[Tensor, Sequence[str]], object]
"""See the module."""
_CLIPS = "advdmd_ray.models.clip_scores"
SCORERS = {
    **{name: f"{_CLIPS}:{name}" for name in ("clip_score", "pick_score", "hpsv2")},
    "image_reward": "advdmd_ray.models.image_reward:image_reward",
}
"""By name, what makes the function, from the folder of its weights and its device."""
LABELS = {"clip_score": "CLIP score", "pick_score": "PickScore", "hpsv2": "HPSv2", "image_reward": "ImageReward"}
"""Their names for a reader."""


class Scorer:
    """A function that scores images, held to its contract.

    Args:
        key: The setting that names it, for errors.
        name: What it says.
        function: See the module.

    Attributes:
        word: What it is called in series, tables and pictures.
    """

    def __init__(self, key: str, name: str, function: ScoreFunction) -> None:
        self._said, self._function = f"{key} = {name!r}", function
        self.word = scorer_word(name)

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "n c h w"], prompts: Sequence[str]) -> Float[Tensor, " n"]:
        """One score for each image.

        Args:
            images: In [-1, 1], c of 1 or 3, anywhere; values outside are clipped.
            prompts: Of each.

        Raises:
            UserError: if the function raises, or returns anything else than one finite number for each image.
        """
        given = (images.expand(-1, 3, -1, -1).float().clamp(-1, 1).cpu() + 1) / 2
        try:
            returned = self._function(given, prompts)
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001 - code of anybody may raise anything
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"{self._said}: failed on {len(images)} images ({said}); mend it") from None
        scores = self._numbers(returned, len(images))
        if not bool(scores.isfinite().all()):
            first = int((~scores.isfinite()).nonzero()[0])
            raise UserError(
                f"{self._said}: gave {float(scores[first])} for image {first} of {len(images)}, of the prompt "
                f"{shown(prompts[first])}; return a finite number for each image"
            )
        return scores

    def _numbers(self, returned: object, count: int) -> Float[Tensor, " n"]:
        wanted = f"return {count} numbers for {count} images"
        try:
            held = returned.detach().cpu() if isinstance(returned, Tensor) else torch.from_numpy(np.asarray(returned))
        except (TypeError, ValueError):
            raise UserError(f"{self._said}: returned {_kind(returned)}; {wanted}") from None
        if held.is_complex() or tuple(held.shape) != (count,):
            raise UserError(f"{self._said}: returned {_kind(returned)} of shape {list(held.shape)}; {wanted}")
        return held.float()


def _kind(returned: object) -> str:
    return "nothing" if returned is None else f"a {type(returned).__name__}"


def load_scorer(key: str, name: str, section: ScorersSection, device: torch.device) -> Scorer:
    """The scorer that a setting names, its weights loaded.

    Args:
        key: The setting, for errors.
        name: One of `SCORERS`, or `package.module:function`.
        section: Has the folders.
        device: Where a scorer of `SCORERS` computes.

    Raises:
        UserError: as `check_scorer`.
    """
    function = named_function(key, name, SCORERS)
    if name in SCORERS:
        function = function(_folder(key, name, section), device)
    return Scorer(key, name, function)


def figures_of(section: ScorersSection) -> tuple[Figure, ...]:
    """The means of `scorers.names` as figures beside a judge's, whose keys theirs must not be."""
    words = (scorer_word(name) for name in section.names)
    return tuple(Figure(word, LABELS.get(word, word.replace("_", " ")), "higher", share=False) for word in words)


def load_scorers(section: ScorersSection, device: torch.device) -> tuple[Scorer, ...]:
    """Those of `scorers.names`."""
    return tuple(load_scorer("scorers.names", name, section, device) for name in section.names)


def check_scorer(key: str, name: str, section: ScorersSection) -> None:
    """Make sure that a scorer can be imported, and that the folder of its weights is whole; no weights are loaded.

    Raises:
        UserError: if not.
    """
    named_function(key, name, SCORERS)
    if name in SCORERS:
        from advdmd_ray.models.clip_scores import check_clip  # noqa: PLC0415 - most runs have none
        from advdmd_ray.models.image_reward import check_image_reward  # noqa: PLC0415

        check = check_image_reward if name == "image_reward" else check_clip
        check(f"scorers.{name}", _folder(key, name, section))


def _folder(key: str, name: str, section: ScorersSection) -> Path:
    folder = section.folders[name]
    if folder is None:
        raise UserError(f"{key} names {name}, and scorers.{name} is not set; set it to the folder of its weights")
    return Path(folder)
