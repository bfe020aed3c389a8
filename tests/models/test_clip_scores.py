"""Scorers that are CLIPs, on a tiny one of transformers in a local folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from advdmd_ray.config.scorers import ScorersSection
from advdmd_ray.evaluation.scorers import SCORERS, check_scorer, load_scorer
from advdmd_ray.models.clip_scores import AT_ONCE
from advdmd_ray.models.tiny import build_tokenizer

CONTEXT = 6
PROMPTS = ["red circle", "blue", "a text of many more words than the model has places for"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP whose weights say nothing."""
    path = tmp_path_factory.mktemp("clip")
    tokenizer: CLIPTokenizer = build_tokenizer(["red", "blue", "circle"], CONTEXT)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    ends: dict[str, Any] = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=CONTEXT, **sizes, **ends)
    vision = CLIPVisionConfig(image_size=8, patch_size=4, **sizes)
    torch.manual_seed(0)
    model: Any = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8))
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.5)
        model.logit_scale.fill_(1.5)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}).save_pretrained(path)
    return path


@pytest.mark.parametrize(
    ("name", "scaled"),
    [
        ("clip_score", lambda cos: np.maximum(100 * cos, 0)),
        ("pick_score", lambda cos: np.exp(1.5) * cos),
        ("hpsv2", lambda cos: cos),
    ],
)
def test_each_is_what_transformers_own_parts_say_of_the_same_files(
    name: str, scaled: Callable[[np.ndarray], np.ndarray], folder: Path
) -> None:
    section = ScorersSection.model_validate({name: str(folder)})
    check_scorer("scorers.names", name, section)
    many = AT_ONCE + 2  # more than go through the model at once
    bytes_ = np.random.default_rng(0).integers(0, 256, (many, 12, 10, 3), dtype=np.uint8)
    prompts = [PROMPTS[place % 3] for place in range(many)]
    images = torch.from_numpy(bytes_).permute(0, 3, 1, 2) / 127.5 - 1
    found = load_scorer("scorers.names", name, section, torch.device("cpu"))(images, prompts)
    kinds: tuple[Any, ...] = (CLIPModel, CLIPImageProcessorPil, CLIPTokenizer)
    model, processor, tokenizer = (kind.from_pretrained(folder) for kind in kinds)
    expected = []
    for image, prompt in zip(bytes_, prompts, strict=True):  # one by one: neither neighbour nor padding counts
        seen = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"]
        read = tokenizer(prompt, truncation=True, max_length=CONTEXT, return_tensors="pt")
        with torch.no_grad():
            both = model(input_ids=read["input_ids"], pixel_values=seen)
        logit = both.logits_per_image.item() / np.exp(1.5)
        expected.append(float(scaled(np.array(logit))))
    assert np.std(expected) > 0
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_every_scorer_that_ships_has_a_setting_for_its_folder() -> None:
    assert set(ScorersSection().folders) == set(SCORERS) <= set(ScorersSection.model_fields)
