"""Scorers and a reward of a user's own, from outside the package."""

from collections.abc import Sequence

import torch
from torch import Tensor

REWARD, FALLING, REDNESS, LIGHTNESS = (f"toy_scorers:{name}" for name in ("rising", "falling", "redness", "lightness"))
"""What `reward.extra` and `scorers.names` say."""
calls = {"rising": 0, "falling": 0}


def redness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """How much more red than blue there is."""
    assert (images.dtype, images.shape[:2]) == (torch.float32, (len(prompts), 3))
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    return (images[:, 0] - images[:, 2]).mean(dim=(1, 2))


def rising(images: Tensor, prompts: Sequence[str]) -> list[float]:
    """The same, and more with every group."""
    calls["rising"] += 1
    assert len(set(prompts)) == 1, "a group has one prompt"
    return (redness(images, prompts) + calls["rising"]).tolist()


def falling(images: Tensor, prompts: Sequence[str]) -> list[float]:
    """Less at every look, whatever it sees."""
    calls["falling"] += 1
    return [-float(calls["falling"])] * len(images)


def lightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """The mean of all channels, and the length of the prompt."""
    return images.mean(dim=(1, 2, 3)) + torch.tensor([float(len(prompt)) for prompt in prompts])
