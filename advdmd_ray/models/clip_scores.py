"""Scorers that are CLIPs, by weights of a local folder: CLIP score, PickScore and HPSv2.

All compare the embedding of an image with that of its prompt by the cosine of their angle. They differ in their weights
and in the scale that their papers report: `100 max(cos, 0)` (CLIP score, arXiv 2104.08718, in per cent), the CLIP's own
logit `exp(logit_scale) cos` (PickScore, arXiv 2305.01569), and `cos` (HPSv2, arXiv 2306.09341).
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import pad

from advdmd_ray.errors import UserError
from advdmd_ray.models.open_clip_names import MARK, transformers_names
from advdmd_ray.models.pipeline import quiet

AT_ONCE = 16
"""Images of one call."""
_NEEDED = ("preprocessor_config.json",)
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_TOKENIZER = ("tokenizer.json", "vocab.json")

Scores = Callable[[Float[Tensor, "n 3 h w"], Sequence[str]], Float[Tensor, " n"]]
"""From images in [0, 1] and their prompts."""


class Clip:
    """A CLIP that compares images with their prompts.

    Args:
        folder: As transformers saves a CLIP with its processor.
        device: Where it computes.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import AutoTokenizer, CLIPImageProcessorPil

        with quiet():
            self._model = _loaded(folder)
            self._images: Any = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model.to(device).eval()
        self._length, self._device = self._model.config.text_config.max_position_embeddings, device

    @property
    def scale(self) -> float:
        """Of its logits."""
        return float(self._model.logit_scale.exp())

    @torch.no_grad()
    def cosines(self, images: Float[Tensor, "n 3 h w"], prompts: Sequence[str]) -> Float[Tensor, " n"]:
        """Of each image, in [0, 1], and its prompt; longer prompts than the CLIP takes are cut."""
        found = [
            self._cosines(images[first : first + AT_ONCE], prompts[first : first + AT_ONCE])
            for first in range(0, len(images), AT_ONCE)
        ]
        return torch.cat(found)

    def _cosines(self, images: Float[Tensor, "n 3 h w"], prompts: Sequence[str]) -> Float[Tensor, " n"]:
        seen = self._images(as_bytes(images), return_tensors="pt", input_data_format="channels_first")
        read = self._tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=self._length, return_tensors="pt"
        )
        given = {**seen, "input_ids": read["input_ids"], "attention_mask": read["attention_mask"]}
        both = self._model(**{name: value.to(self._device) for name, value in given.items()})
        return (both.image_embeds * both.text_embeds).sum(dim=1).float().cpu()  # both have length 1


def as_bytes(images: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
    """Images in [0, 1] as files hold them, one by one."""
    return list((images * 255).round().to(torch.uint8))


def _loaded(folder: Path) -> Any:
    """The model, its weights by the names of transformers or, in one file, of open_clip.

    Raises:
        UserError: if they are not those of the model, whole.
    """
    from transformers import CLIPConfig, CLIPModel

    file = folder / _WEIGHTS[0]
    if file.is_file() and _of_open_clip(file):
        model: Any = CLIPModel(CLIPConfig.from_pretrained(folder, local_files_only=True))
        told = model.load_state_dict(transformers_names(load_file(file)), strict=False)
        lacking, more = told.missing_keys, told.unexpected_keys
    else:
        loaded: Any = CLIPModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        model, found = loaded
        lacking, more = found["missing_keys"], ()
    if wrong := sorted({*lacking, *more}):
        raise UserError(f"{folder}: its weights are no whole CLIP, see {wrong[0]}; copy or convert it again")
    return model


def _of_open_clip(file: Path) -> bool:
    with safe_open(file, framework="pt") as weights:
        return MARK in weights.keys()  # noqa: SIM118 - it is no mapping


def clip_score(folder: Path, device: torch.device) -> Scores:
    """CLIP score, in per cent."""
    clip = Clip(folder, device)
    return lambda images, prompts: 100 * clip.cosines(images, prompts).clamp(min=0)


def pick_score(folder: Path, device: torch.device) -> Scores:
    """PickScore, a logit."""
    clip = Clip(folder, device)
    return lambda images, prompts: clip.scale * clip.cosines(images, prompts)


def hpsv2(folder: Path, device: torch.device) -> Scores:
    """HPSv2, a cosine; an image that is no square gets black bars, as its authors' code gives it."""
    clip = Clip(folder, device)

    def scores(images: Float[Tensor, "n 3 h w"], prompts: Sequence[str]) -> Float[Tensor, " n"]:
        height, width = images.shape[2:]
        across, down = max(0, height - width), max(0, width - height)
        square = pad(images, [across // 2, across - across // 2, down // 2, down - down // 2])
        return clip.cosines(square, prompts)

    return scores


def check_clip(key: str, folder: Path) -> None:
    """Make sure that a folder holds a CLIP as transformers saves it; no weights are loaded.

    Args:
        key: The setting that names it, for errors.
        folder: It.

    Raises:
        UserError: if not.
    """
    file = folder / "config.json"
    try:
        kind = json.loads(file.read_bytes())["model_type"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it names no model_type"
        raise UserError(f"{key} = {folder}: {file.name} cannot be read ({reason}); copy the folder again") from None
    if kind != "clip":
        raise UserError(f"{key} = {folder}: holds a {kind!r}; the folder of a 'clip' of transformers is needed")
    for names in (_NEEDED, _WEIGHTS, _TOKENIZER):
        if not any((folder / name).is_file() for name in names):
            raise UserError(f"{key} = {folder}: has no {' or '.join(names)}; copy the folder again, with all its files")
