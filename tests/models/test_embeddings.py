"""The store of encoded prompts."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from advdmd_ray.config import Config
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.errors import UserError
from advdmd_ray.models.embeddings import EmbeddingStore, encoder_identity
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.text import ENCODED_AT_ONCE
from advdmd_ray.runs.parts.inputs import encode_table


class Encoder:
    """Gives each text one token for each of its letters, and counts what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: Sequence[str]) -> Conditioning:
        assert 0 < len(texts) <= ENCODED_AT_ONCE
        self.asked += texts
        longest = max(len(text) for text in texts)
        rows = torch.tensor([[*map(ord, text), *[0] * (longest - len(text))] for text in texts], dtype=torch.bfloat16)
        return Conditioning(rows.unsqueeze(2), rows.new_zeros(len(texts), 0), rows > 0)


def test_a_prompt_is_encoded_once_for_all_who_ask(tmp_path: Path) -> None:
    texts = [f"prompt {number**3}" for number in range(2 * ENCODED_AT_ONCE + 5)]
    first, second = Encoder(), Encoder()
    made = EmbeddingStore(tmp_path, "a").conditioning(texts, first)
    again = EmbeddingStore(tmp_path, "a").conditioning(texts, second)
    assert first.asked == texts
    assert second.asked == []
    assert made.embeds.dtype == again.embeds.dtype == torch.bfloat16
    assert again.mask is not None
    for row, text in enumerate(texts):
        for rows in (made, again):
            own = rows.embeds[row, rows.mask[row]] if rows.mask is not None else rows.embeds[row]
            assert own.flatten().tolist() == [ord(letter) for letter in text]
    # A longer list shares its whole parts with the shorter one.
    EmbeddingStore(tmp_path, "a").conditioning([*texts, "one more"], second)
    assert second.asked == [*texts[2 * ENCODED_AT_ONCE :], "one more"]


def test_another_encoder_meets_none_of_them(tmp_path: Path) -> None:
    encoder = Encoder()
    for identity in ("a", "b"):
        EmbeddingStore(tmp_path, identity).conditioning(["fox"], encoder)
    assert encoder.asked == ["fox", "fox"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    EmbeddingStore(tmp_path, "a").conditioning(["fox"], Encoder())
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(UserError, match=rf"{file.name}: is damaged .*; remove it, it is made again"):
        EmbeddingStore(tmp_path, "a").conditioning(["fox"], Encoder())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"model\.embeddings .*cannot be written \(Not a directory\); choose another"):
        EmbeddingStore(tmp_path / "file" / "below", "a").conditioning(["fox"], Encoder())


def test_what_a_text_encoder_is_names_its_embeddings(tiny_pipeline: Path, tmp_path: Path) -> None:
    info = inspect_pipeline(tiny_pipeline)
    same = encoder_identity(info, 8, torch.float32)
    assert encoder_identity(info, 8, torch.float32) == same
    assert len({same, encoder_identity(info, 9, torch.float32), encoder_identity(info, 8, torch.bfloat16)}) == 3
    copy = tmp_path / "copy"
    for file in (path for path in tiny_pipeline.rglob("*") if path.is_file()):
        (copy / file.relative_to(tiny_pipeline)).parent.mkdir(parents=True, exist_ok=True)
        (copy / file.relative_to(tiny_pipeline)).write_bytes(file.read_bytes())
    assert encoder_identity(replace(info, folder=copy), 8, torch.float32) == same
    for part in ("text_encoder_2", "tokenizer"):
        (copy / part / "config.json").write_text(f"changed {part}")
        changed = encoder_identity(replace(info, folder=copy), 8, torch.float32)
        assert changed != same
        same = changed


def test_a_run_that_finds_all_its_prompts_loads_no_text_encoder(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config.model_validate({"model": {"path": str(tiny_pipeline), "embeddings": str(tmp_path / "kept")}})
    plain = encode_table(config.model_copy(update={"model": config.model.model_copy(update={"embeddings": None})}))
    made = encode_table(config)

    def refuse(*_: object) -> None:
        raise AssertionError("a text encoder was loaded")

    monkeypatch.setattr("advdmd_ray.runs.parts.inputs.load_pipeline", refuse)
    found = encode_table(config)
    for name, tensor in plain.state().items():
        assert torch.equal(made.state()[name], tensor), name
        assert torch.equal(found.state()[name], tensor), name
