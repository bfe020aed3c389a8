"""The store of encoded texts."""

import multiprocessing
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from advdmd_ray.config import Config
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.errors import UserError
from advdmd_ray.models.embeddings import EmbeddingStore, encoder_identity
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.pipeline import Parts, load_pipeline
from advdmd_ray.models.text import ENCODED_AT_ONCE, encode_prompts, encoder_batches
from advdmd_ray.runs.judgement import judge_inputs
from advdmd_ray.runs.parts import inputs
from advdmd_ray.runs.parts.inputs import TableEncoder, encode_table, prompt_encoder
from advdmd_ray.stations.encoded_texts import EncodedTexts
from advdmd_ray.stations.prompt_table import PromptTable

TEXTS = [f"prompt {number**3}" for number in range(10 * ENCODED_AT_ONCE)]


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


def filled(folder: Path, texts: Sequence[str], identity: str = "a") -> tuple[EmbeddingStore, list[str]]:
    """A store that has the texts, and those that had to be encoded for it."""
    store, encoder = EmbeddingStore(folder, identity), Encoder()
    for batch in encoder_batches(store.missing(texts)):
        store.add(batch, encoder(batch))
    return store, encoder.asked


def is_of(texts: Sequence[str], store: EmbeddingStore) -> bool:
    rows = EncodedTexts(store.index(texts)).select(torch.arange(len(texts)))
    assert rows.mask is not None
    assert rows.embeds.dtype == torch.bfloat16
    own = [rows.embeds[row, mask].flatten().tolist() for row, mask in enumerate(rows.mask)]
    return own == [torch.tensor([*map(ord, text)]).bfloat16().tolist() for text in texts]


def test_a_new_text_in_front_of_320_is_the_only_one_that_is_encoded(tmp_path: Path) -> None:
    assert filled(tmp_path, TEXTS)[1] == TEXTS
    store, encoded = filled(tmp_path, ["one more", *TEXTS])
    assert encoded == ["one more"]
    assert is_of(["one more", *TEXTS], store)


def test_neither_order_nor_repetition_matters(tmp_path: Path) -> None:
    filled(tmp_path, TEXTS[:40])
    other = [*reversed(TEXTS[:40]), TEXTS[3], TEXTS[3]]
    store, encoded = filled(tmp_path, other)
    assert encoded == []
    assert is_of(other, store)
    assert filled(tmp_path, ["twice", "twice"])[1] == ["twice"]


def test_a_run_reads_only_the_files_of_its_own_texts(tmp_path: Path) -> None:
    store, _ = filled(tmp_path, TEXTS)
    assert len(store.index(TEXTS).files) == 10
    assert len(store.index(TEXTS[70:90]).files) == 1


def test_another_encoder_meets_none_of_them(tmp_path: Path) -> None:
    assert [filled(tmp_path, ["fox"], identity)[1] for identity in ("a", "b", "a")] == [["fox"], ["fox"], []]


def test_what_an_encoding_that_was_killed_had_done_is_kept(tmp_path: Path) -> None:
    killed = multiprocessing.get_context("fork").Process(target=_killed_in_the_third_batch, args=(tmp_path,))
    killed.start()
    killed.join()
    assert killed.exitcode == -9
    assert [path.suffix for path in (tmp_path / "a").iterdir() if path.name.startswith(".")] == [".part"]
    store, encoded = filled(tmp_path, TEXTS)
    assert encoded == TEXTS[2 * ENCODED_AT_ONCE :]
    assert is_of(TEXTS, store)


def _killed_in_the_third_batch(folder: Path) -> None:
    import os  # noqa: PLC0415
    import signal  # noqa: PLC0415

    store, encoder = EmbeddingStore(folder, "a"), Encoder()
    for number, batch in enumerate(encoder_batches(store.missing(TEXTS))):
        if number == 2:
            Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        store.add(batch, encoder(batch))


def test_two_who_encode_at_once_both_find_all_and_keep_to_what_they_found(tmp_path: Path) -> None:
    ours, theirs, encoder = EmbeddingStore(tmp_path, "a"), EmbeddingStore(tmp_path, "a"), Encoder()
    assert ours.missing(["fox", "boat"]) == theirs.missing(["boat", "fox"])[::-1] == ["fox", "boat"]
    ours.add(["fox", "boat"], encoder(["fox", "boat"]))
    theirs.add(["boat"], encoder(["boat"]))
    theirs.add(["fox"], encoder(["fox"]))
    mine, other = ours.index(["fox", "boat"]), theirs.index(["fox", "boat"])
    assert (len(mine.files), len(other.files)) == (1, 2)
    assert ours.missing(["fox"]) == []  # sees their files, too
    assert ours.index(["fox", "boat"]) == mine
    assert is_of(["fox", "boat"], ours)
    assert is_of(["fox", "boat"], theirs)
    # Whoever comes later takes one row of each.
    store, encoded = filled(tmp_path, ["fox", "boat"])
    assert encoded == []
    assert is_of(["fox", "boat"], store)


def test_two_processes_fill_one_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    team = [context.Process(target=filled, args=(tmp_path, texts)) for texts in (TEXTS, TEXTS[::-1])]
    for process in team:
        process.start()
    for process in team:
        process.join()
    assert [process.exitcode for process in team] == [0, 0]
    store, encoded = filled(tmp_path, TEXTS)
    assert encoded == []
    assert is_of(TEXTS, store)


@pytest.mark.parametrize("size", [20, -9])
def test_a_damaged_file_is_named(tmp_path: Path, size: int) -> None:
    filled(tmp_path, ["fox"])
    (file,) = tmp_path.rglob("*.arrow")
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(UserError, match=rf"{file.name}: is damaged .*; remove it, it is made again"):
        filled(tmp_path, ["boat"])


def test_files_of_other_kinds_are_left_alone(tmp_path: Path) -> None:
    old = tmp_path / "ab" / "abcd.safetensors"
    old.parent.mkdir()
    old.write_bytes(b"of an earlier version")
    assert filled(tmp_path, ["fox"])[1] == ["fox"]
    assert old.read_bytes() == b"of an earlier version"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"model\.embeddings .*cannot be written \(Not a directory\); choose another"):
        filled(tmp_path / "file" / "below", ["fox"])


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


def without_weights(path: str, dtype: torch.dtype, parts: Parts) -> Any:
    assert parts == "tokenizers", "a text encoder was loaded"
    return load_pipeline(path, dtype, parts)


def same_rows(one: PromptTable, other: PromptTable) -> None:
    everything = torch.arange(len(one.texts))
    for ours, theirs in ((one.rows(everything), other.rows(everything)), (one.unconditional, other.unconditional)):
        assert torch.equal(ours.embeds, theirs.embeds)
        assert torch.equal(ours.pooled, theirs.pooled)


def test_a_run_that_finds_all_its_prompts_loads_no_text_encoder(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Config.model_validate({"model": {"path": str(tiny_pipeline)}})
    kept = plain.model_copy(update={"model": plain.model.model_copy(update={"embeddings": str(tmp_path / "kept")})})
    here, made = encode_table(plain), encode_table(kept)
    monkeypatch.setattr(inputs, "load_pipeline", without_weights)
    found = encode_table(kept)
    same_rows(here, made)
    same_rows(here, found)
    # The judge asks for some of them in another order.
    rows = prompt_encoder(kept)(found.texts[4:2:-1]).select(torch.arange(2))
    assert torch.equal(rows.embeds, found.rows(torch.tensor([4, 3])).embeds)


def test_progress_counts_each_text_once_and_what_is_there_already(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config.model_validate({"model": {"path": str(tiny_pipeline), "embeddings": str(tmp_path)}})
    monkeypatch.setattr(inputs, "encoder_batches", _in_fours)
    told: list[tuple[int, int]] = []
    encode_table(config, lambda done, of: told.append((done, of)))
    assert told == [(4, 11), (8, 11), (10, 11), (11, 11)]  # ten digits and the empty prompt
    for file in sorted(tmp_path.rglob("*.arrow"))[:1]:
        file.unlink()
    encoder = TableEncoder(config)
    assert [(done, of) for done, of, _ in encoder.batches()][-1] == (11, 11)


def test_the_negative_prompt_is_the_other_half_of_guidance_for_those_who_train_and_those_who_judge(
    tiny_pipeline: Path,
) -> None:
    given = {"path": str(tiny_pipeline), "guidance": 2.0, "negative_prompt": "a handwritten six"}
    config = Config.model_validate({"model": given})
    expected = encode_prompts(load_pipeline(tiny_pipeline, parts="text"), ["a handwritten six"], 8)
    table = encode_table(config)
    for found in (table.unconditional, judge_inputs(config).empty):
        torch.testing.assert_close(found.embeds, expected.embeds, rtol=0, atol=1e-5)
    assert len(table.texts) == 10


def _in_fours(texts: Sequence[str]) -> list[Sequence[str]]:
    return [texts[first : first + 4] for first in range(0, len(texts), 4)]
