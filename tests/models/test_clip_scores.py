"""Scorers that are CLIPs, on a tiny one of transformers in a local folder."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from advdmd_ray.config.scorers import ScorersSection
from advdmd_ray.errors import UserError
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
    bytes_ = np.random.default_rng(0).integers(0, 256, (many, 12, 12, 3), dtype=np.uint8)
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


OPEN_CLIP = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.embeddings.patch_embedding": "visual.conv1",
    "vision_model.pre_layrnorm": "visual.ln_pre",
    "vision_model.post_layernorm": "visual.ln_post",
    "vision_model.encoder.layers": "visual.transformer.resblocks",
    "text_model.encoder.layers": "transformer.resblocks",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.embeddings.token_embedding": "token_embedding",
    "text_model.final_layer_norm": "ln_final",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def in_open_clips_names(folder: Path, out: Path) -> Path:
    """The folder with its weights as open_clip has them."""
    shutil.copytree(folder, out)
    state, renamed = load_file(folder / "model.safetensors"), {}
    for name, weight in state.items():
        if name.endswith("_projection.weight"):
            renamed["visual.proj" if name.startswith("visual") else "text_projection"] = weight.T.contiguous()
        elif "q_proj" in name:
            parts = [state[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            kind = name.rpartition(".")[2]
            renamed[name.replace(f"self_attn.q_proj.{kind}", f"attn.in_proj_{kind}")] = torch.cat(parts)
        elif not any(part in name for part in ("k_proj", "v_proj")):
            renamed[name] = weight
    for theirs, ours in OPEN_CLIP.items():
        renamed = {name.replace(theirs, ours): weight.half() for name, weight in renamed.items()}
    assert "visual.transformer.resblocks.0.attn.in_proj_bias" in renamed
    save_file(renamed, out / "model.safetensors")
    return out


def scores(name: str, folder: Path, images: Tensor) -> Tensor:
    section = ScorersSection.model_validate({name: str(folder)})
    return load_scorer("scorers.names", name, section, torch.device("cpu"))(images, PROMPTS[: len(images)])


def test_weights_by_open_clips_names_are_the_same_clip(folder: Path, tmp_path: Path) -> None:
    images = torch.rand(3, 3, 9, 9, generator=torch.Generator().manual_seed(1)) * 2 - 1
    expected = scores("hpsv2", folder, images)
    assert float(expected.std()) > 0.01
    other = in_open_clips_names(folder, tmp_path / "open_clip")
    torch.testing.assert_close(scores("hpsv2", other, images), expected, rtol=0, atol=1e-2)  # half precision


def test_hpsv2_sees_all_of_an_image_that_is_no_square(folder: Path) -> None:
    wide = torch.zeros(1, 3, 8, 24)
    edge = wide.clone()
    edge[..., :8] = 1.0
    middle = scores("clip_score", folder, wide), scores("clip_score", folder, edge)
    assert torch.equal(*middle), "the others see the middle square"
    assert not torch.equal(scores("hpsv2", folder, wide), scores("hpsv2", folder, edge))


def test_weights_that_are_no_whole_clip_are_refused(folder: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    state = load_file(folder / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        UserError, match=r"its weights are no whole CLIP, see visual_projection\.weight; copy or convert it again"
    ):
        scores("pick_score", broken, torch.zeros(1, 3, 8, 8))


def test_every_scorer_that_ships_has_a_setting_for_its_folder() -> None:
    assert set(ScorersSection().folders) == set(SCORERS) <= set(ScorersSection.model_fields)
