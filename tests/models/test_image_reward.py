"""ImageReward from its authors' names, tiny: every weight has its place, and image and prompt both count."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from advdmd_ray.config.scorers import ScorersSection
from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.scorers import check_scorer, load_scorer
from advdmd_ray.models import image_reward
from advdmd_ray.models.tiny import build_tokenizer

TEXT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
WIDTH, HIDDEN = 64, 32
PROMPTS = ["red circle", "blue"]


def authors_weights(words: int) -> dict[str, Tensor]:
    """Random ones, by the names that the published file has; with what of it nobody uses."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, WIDTH), "pos_embed": (1, 197, WIDTH)}
    shapes |= {"patch_embed.proj.weight": (WIDTH, 3, 16, 16), "patch_embed.proj.bias": (WIDTH,)}

    def linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}

    def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (width,), f"{name}.bias": (width,)}

    for name, out, into in (("qkv", 3 * WIDTH, WIDTH), ("proj", WIDTH, WIDTH)):
        shapes |= linear(f"blocks.0.attn.{name}", out, into)
    shapes |= linear("blocks.0.mlp.fc1", HIDDEN, WIDTH) | linear("blocks.0.mlp.fc2", WIDTH, HIDDEN)
    shapes |= norm("blocks.0.norm1", WIDTH) | norm("blocks.0.norm2", WIDTH) | norm("norm", WIDTH)
    named = {f"blip.visual_encoder.{name}": shape for name, shape in shapes.items()}
    text: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (words, 16),
        "embeddings.position_embeddings.weight": (40, 16),
        **norm("embeddings.LayerNorm", 16),
    }
    for kind, seen in (("attention", 16), ("crossattention", WIDTH)):
        layer = f"encoder.layer.0.{kind}"
        text |= linear(f"{layer}.self.query", 16, 16) | linear(f"{layer}.self.key", 16, seen)
        text |= linear(f"{layer}.self.value", 16, seen) | linear(f"{layer}.output.dense", 16, 16)
        text |= norm(f"{layer}.output.LayerNorm", 16)
    text |= linear("encoder.layer.0.intermediate.dense", 24, 16) | linear("encoder.layer.0.output.dense", 16, 24)
    text |= norm("encoder.layer.0.output.LayerNorm", 16)
    named |= {f"blip.text_encoder.{name}": shape for name, shape in text.items()}
    for place, out, into in ((0, 1024, 16), (2, 128, 1024), (4, 64, 128), (6, 16, 64), (7, 1, 16)):
        named |= linear(f"mlp.layers.{place}", out, into)
    named |= linear("blip.vision_proj", 8, WIDTH) | linear("blip.text_proj", 8, 16)
    state = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in named.items()}
    return state | {"blip.text_encoder.embeddings.position_ids": torch.arange(40)[None]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = build_tokenizer(["red", "blue", "circle"], 40)
    tokenizer.save_pretrained(tmp_path)
    sizes = {**TEXT, "vocab_size": len(tokenizer), "max_position_embeddings": 40, "layer_norm_eps": 1e-12}
    (tmp_path / image_reward.TEXT).write_text(json.dumps({**sizes, "encoder_width": 768, "architectures": ["Bert"]}))
    save_file(authors_weights(len(tokenizer)), tmp_path / image_reward.WEIGHTS)
    return tmp_path


def test_a_score_hangs_on_the_image_and_on_its_prompt_and_on_no_neighbour(folder: Path) -> None:
    section = ScorersSection(image_reward=str(folder))
    check_scorer("scorers.names", "image_reward", section)
    score = load_scorer("scorers.names", "image_reward", section, torch.device("cpu"))
    images = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(1)) * 2 - 1
    both = score(images, PROMPTS)
    assert bool(both.isfinite().all())
    for place in range(2):
        alone = score(images[place : place + 1], PROMPTS[place : place + 1])
        torch.testing.assert_close(alone[0], both[place], rtol=1e-4, atol=1e-4)
    assert abs(float(score(images[:1], PROMPTS[1:])[0] - both[0])) > 1e-3
    assert abs(float(score(images[1:], PROMPTS[:1])[0] - both[0])) > 1e-3


def test_the_score_is_in_the_authors_deviations_from_their_mean(folder: Path) -> None:
    tokens = len(build_tokenizer(["red", "blue", "circle"], 40))
    state = authors_weights(tokens)
    state |= {name: torch.zeros_like(weight) for name, weight in state.items() if name.startswith("mlp.layers.7.")}
    sizes = json.loads((folder / image_reward.TEXT).read_text())
    model = image_reward.ImageReward(sizes, state | {"mlp.layers.7.bias": torch.tensor([1.2])}).eval()
    found = model(torch.zeros(1, 3, 224, 224), torch.ones(1, 4, dtype=torch.long), torch.ones(1, 4, dtype=torch.long))
    assert found.item() == pytest.approx((1.2 - 0.16717362830052426) / 1.0333394966054072)


@pytest.mark.parametrize("change", ["blip.visual_encoder.norm.bias", "mlp.layers.4.weight", "blip.other"])
def test_weights_that_lack_one_or_have_one_more_are_refused(change: str, folder: Path) -> None:
    tokens = len(build_tokenizer(["red", "blue", "circle"], 40))
    state = authors_weights(tokens)
    if state.pop(change, None) is None:
        state[change] = torch.zeros(1)
    sizes = json.loads((folder / image_reward.TEXT).read_text())
    with pytest.raises(UserError, match=r"scorers\.image_reward: its weights do not fit, [\w.]+ the first of them"):
        image_reward.ImageReward(sizes, state)


def test_a_folder_that_lacks_a_file_is_named_before_anything_is_loaded(folder: Path) -> None:
    for name in (image_reward.TEXT, image_reward.WEIGHTS, "tokenizer.json"):
        kept = (folder / name).read_bytes()
        (folder / name).unlink()
        with pytest.raises(UserError, match=rf"scorers\.image_reward = .*: has no {re.escape(name)}"):
            check_scorer("scorers.names", "image_reward", ScorersSection(image_reward=str(folder)))
        (folder / name).write_bytes(kept)
