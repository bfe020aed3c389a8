"""The scorer ImageReward (arXiv 2304.05977): BLIP reads the prompt while it looks at the image, and layers judge.

Its weights are published as one file of PyTorch's, by the names of its authors; here that is read as safetensors, into
transformers' parts of BLIP. Its score is what the layers say, in deviations from its mean over the authors' data.
"""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from advdmd_ray.errors import UserError
from advdmd_ray.models.clip_scores import AT_ONCE, Scores, as_bytes
from advdmd_ray.models.pipeline import quiet

WEIGHTS, TEXT = "model.safetensors", "med_config.json"
TOKENS = 35
"""Of a prompt; longer ones are cut."""
HEAD_WIDTH = 64
_MEAN, _STD = 0.16717362830052426, 1.0333394966054072
_SIDE, _PATCH = 224, 16
_NAMES = (
    (r"^blip\.visual_encoder\.cls_token$", "vision.embeddings.class_embedding"),
    (r"^blip\.visual_encoder\.pos_embed$", "vision.embeddings.position_embedding"),
    (r"^blip\.visual_encoder\.patch_embed\.proj\.", "vision.embeddings.patch_embedding."),
    (r"^blip\.visual_encoder\.norm\.", "vision.post_layernorm."),
    (r"^blip\.visual_encoder\.blocks\.", "vision.encoder.layers."),
    (r"(layers\.\d+)\.norm(\d)\.", r"\1.layer_norm\2."),
    (r"\.attn\.qkv\.", ".self_attn.qkv."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
    (r"^blip\.text_encoder\.", "text."),
    (r"^mlp\.layers\.", "judge."),
)
_UNUSED = re.compile(r"^blip\.(vision_proj|text_proj)\.|\.position_ids$|^blip\.text_encoder\.pooler\.")


class ImageReward(nn.Module):
    """The network.

    Args:
        text: What `med_config.json` says: a BERT's sizes.
        state: All weights by the names of its authors.
        side: Pixels of an image.
    """

    def __init__(self, text: Mapping[str, Any], state: Mapping[str, Tensor], side: int = _SIDE) -> None:
        from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

        super().__init__()
        named = _named(state)
        width = named["vision.embeddings.class_embedding"].shape[-1]
        layers = [name for name in named if re.fullmatch(r"vision\.encoder\.layers\.\d+\.mlp\.fc1\.weight", name)]
        vision: Any = BlipVisionConfig(
            hidden_size=width,
            intermediate_size=named[layers[0]].shape[0],
            num_hidden_layers=len(layers),
            num_attention_heads=width // HEAD_WIDTH,
            image_size=side,
            patch_size=_PATCH,
            layer_norm_eps=1e-6,
        )
        sizes = {name: value for name, value in text.items() if name in _SIZES}
        reads: Any = BlipTextConfig(**sizes, encoder_hidden_size=width, is_decoder=True)
        self.vision: Any = BlipVisionModel(vision)
        self.text: Any = BlipTextModel(reads, add_pooling_layer=False)
        # Linear layers with dropout between most of them, by their places in that sequence.
        widths = (reads.hidden_size, 1024, 128, 64, 16, 1)
        places = ("0", "2", "4", "6", "7")
        self.judge = nn.ModuleDict(
            {place: nn.Linear(*pair) for place, pair in zip(places, itertools.pairwise(widths), strict=True)}
        )
        wanted = self.state_dict().keys()
        if others := sorted(wanted ^ named.keys()):
            raise UserError(
                f"scorers.image_reward: its weights do not fit, {others[0]} the first of them; convert again"
            )
        self.load_state_dict(named)

    def forward(self, pixels: Float[Tensor, "n 3 h w"], ids: Tensor, mask: Tensor) -> Float[Tensor, " n"]:
        """Scores of images and tokens."""
        seen = self.vision(pixel_values=pixels).last_hidden_state
        whole = torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device)
        read = self.text(
            input_ids=ids,
            attention_mask=mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=whole,
            is_decoder=False,
        )
        x = read.last_hidden_state[:, 0]
        for layer in self.judge.values():
            x = layer(x)
        return (x[:, 0] - _MEAN) / _STD


_SIZES = frozenset(
    {
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
        "layer_norm_eps",
        "hidden_act",
    }
)


def _named(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By the names of `ImageReward`, float32, without what it does not use."""
    found: dict[str, Tensor] = {}
    for old, tensor in state.items():
        if _UNUSED.search(old):
            continue
        name = old
        for pattern, new in _NAMES:
            name = re.sub(pattern, new, name)
        found[name] = tensor.float()
    return found


def image_reward(folder: Path, device: torch.device) -> Scores:
    """ImageReward by its folder."""
    from transformers import AutoTokenizer, CLIPImageProcessorPil

    with quiet():
        model = ImageReward(json.loads((folder / TEXT).read_bytes()), load_file(folder / WEIGHTS)).to(device).eval()
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    processor: Any = CLIPImageProcessorPil()  # as its authors prepare images

    def score(images: Float[Tensor, "n 3 h w"], prompts: Sequence[str]) -> Float[Tensor, " n"]:
        seen = processor(as_bytes(images), return_tensors="pt", input_data_format="channels_first")
        read = tokenizer(list(prompts), padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
        given = (seen["pixel_values"], read["input_ids"], read["attention_mask"])
        return model(*(each.to(device) for each in given)).float().cpu()

    @torch.no_grad()
    def scores(images: Float[Tensor, "n 3 h w"], prompts: Sequence[str]) -> Float[Tensor, " n"]:
        parts = range(0, len(images), AT_ONCE)
        return torch.cat([score(images[part : part + AT_ONCE], prompts[part : part + AT_ONCE]) for part in parts])

    return scores


def check_image_reward(key: str, folder: Path) -> None:
    """Make sure that a folder holds ImageReward; no weights are loaded.

    Raises:
        UserError: if not.
    """
    for names in ((WEIGHTS,), (TEXT,), ("tokenizer.json", "vocab.txt")):
        if not any((folder / name).is_file() for name in names):
            raise UserError(
                f"{key} = {folder}: has no {' or '.join(names)}; see docs/guides/rewards.md for what it needs"
            )
