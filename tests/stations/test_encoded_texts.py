"""Encoded texts as Arrow bytes, read row by row."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.errors import UserError
from advdmd_ray.stations import encoded_texts
from advdmd_ray.stations.encoded_texts import Catalogue, EncodedTexts, Shard, TextIndex, arrow_bytes
from small_parts import normal


def rows_of(
    lengths: Sequence[int], *, dtype: torch.dtype = torch.float32, pooled: int = 2, seed: int = 0
) -> Conditioning:
    """Rows of several lengths, padded with zeros."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    embeds = normal(len(lengths), max(lengths), 3, seed=seed).to(dtype) * mask.unsqueeze(2)
    return Conditioning(embeds, normal(len(lengths), pooled, seed=seed + 1).to(dtype), mask)


def unmasked(count: int, tokens: int, width: int = 3) -> Conditioning:
    return Conditioning(normal(count, tokens, width, seed=3), normal(count, 2, seed=4))


def names(count: int, first: int = 0) -> list[str]:
    return [f"text {number}" for number in range(first, first + count)]


def in_memory(*parts: Conditioning) -> EncodedTexts:
    """Shards that are not in files, of texts in their order."""
    catalogue, payloads, count = Catalogue(), [], 0
    for rows in parts:
        payloads.append(arrow_bytes(names(len(rows), count), rows))
        catalogue.add(Shard(payloads[-1], "memory"))
        count += len(rows)
    return EncodedTexts(catalogue.index(names(count)), payloads)


def in_files(folder: Path, *parts: Conditioning) -> tuple[TextIndex, list[str]]:
    """Shards in files, and where their texts are."""
    catalogue, count = Catalogue(), 0
    for number, rows in enumerate(parts):
        file = folder / f"{number}.arrow"
        file.write_bytes(arrow_bytes(names(len(rows), count), rows).tobytes())
        catalogue.add(Shard(file), file)
        count += len(rows)
    return catalogue.index(names(count)), names(count)


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.lists(st.integers(0, 7), min_size=1, max_size=9),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_a_batch_is_padded_to_its_own_longest_and_has_every_row_as_it_was(
    first: list[int], second: list[int], wanted: list[int], dtype: torch.dtype
) -> None:
    parts, lengths = [rows_of(first, dtype=dtype), rows_of(second, dtype=dtype, seed=5)], [*first, *second]
    ids = [number % len(lengths) for number in wanted]
    found, table = in_memory(*parts).select(torch.tensor(ids)), Conditioning.concatenate(parts)
    assert found.embeds.dtype == dtype
    assert found.embeds.shape[1] == max(lengths[number] for number in ids)
    assert found.mask is not None
    assert table.mask is not None
    assert found.mask.sum(dim=1).tolist() == [lengths[number] for number in ids]
    for place, number in enumerate(ids):
        assert torch.equal(found.embeds[place][found.mask[place]], table.embeds[number][table.mask[number]])
        assert torch.equal(found.pooled[place], table.pooled[number])
    assert not found.embeds[~found.mask].any()


def test_rows_without_a_mask_are_whole_and_get_none(tmp_path: Path) -> None:
    rows = unmasked(5, 4)
    index, _ = in_files(tmp_path, rows.select(torch.arange(2)), rows.select(torch.arange(2, 5)))
    for encoded in (in_memory(rows), EncodedTexts(index), EncodedTexts(index).held()):
        found = encoded.select(torch.tensor([4, 0, 4]))
        assert torch.equal(found.embeds, rows.embeds[[4, 0, 4]])
        assert torch.equal(found.pooled, rows.pooled[[4, 0, 4]])
        assert found.mask is None


def test_a_prompt_has_no_pooled_embedding_where_the_family_has_none() -> None:
    assert in_memory(rows_of([2, 1], pooled=0)).select(torch.tensor([1])).pooled.shape == (1, 0)


def test_padding_in_front_of_a_token_is_refused() -> None:
    rows = replace(rows_of([2, 2]), mask=torch.tensor([[True, True], [False, True]]))
    with pytest.raises(ValueError, match="the mask of 'b' has padding in front of a token"):
        arrow_bytes(["a", "b"], rows)


def test_padding_is_not_stored() -> None:
    one, with_a_long_one = arrow_bytes(["a"], rows_of([3])), arrow_bytes(["a", "b"], rows_of([3, 2000]))
    padding = 1997 * 3 * 4
    assert len(with_a_long_one) < len(one) + 2000 * 3 * 4 + padding // 2


@pytest.mark.parametrize("limits", [{"OPEN_FILES": 1}, {"OPEN_BYTES": 1}])
def test_files_are_mapped_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, int]
) -> None:
    for name, value in limits.items():
        monkeypatch.setattr(encoded_texts, name, value)
    parts = [rows_of([2, 3], seed=seed) for seed in range(4)]
    encoded = EncodedTexts(in_files(tmp_path, *parts)[0])
    found = encoded.select(torch.arange(8))
    assert torch.equal(found.embeds, Conditioning.concatenate(parts).embeds)
    assert len(encoded._open) == 1


def test_other_bytes_than_the_run_began_with_are_refused(tmp_path: Path) -> None:
    rows, other = rows_of([2, 3]), rows_of([2, 3], seed=9)
    index, texts = in_files(tmp_path, rows)
    (tmp_path / "0.arrow").write_bytes(arrow_bytes(texts, other).tobytes())
    with pytest.raises(UserError, match=r"0\.arrow: row 1 is another than the one that the run began with; remove"):
        EncodedTexts(index).select(torch.tensor([1]))


@pytest.mark.parametrize("place", [0.5, 0.9])
def test_a_flipped_bit_is_found_when_the_row_is_read(place: float) -> None:
    payload = arrow_bytes(["a"], unmasked(1, 500))
    catalogue = Catalogue()
    catalogue.add(Shard(payload, "memory"))
    damaged = payload.copy()
    damaged[int(place * 500 * 3 * 4)] ^= 1
    with pytest.raises(UserError, match=r"shard 0 of the prompts: row 0 is another"):
        EncodedTexts(catalogue.index(["a"]), [damaged]).select(torch.tensor([0]))


@pytest.mark.parametrize("size", [0, 20, -20])
def test_a_file_that_is_not_whole_is_named(tmp_path: Path, size: int) -> None:
    file = tmp_path / "short.arrow"
    file.write_bytes(arrow_bytes(["a"], rows_of([2])).tobytes()[:size])
    with pytest.raises(UserError, match=r"short\.arrow: is damaged .*; remove it, it is made again"):
        Shard(file)


def test_a_node_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    index, _ = in_files(tmp_path, rows_of([2]))
    (tmp_path / "0.arrow").unlink()
    with pytest.raises(
        UserError, match=r"0\.arrow: is not there.*model\.embeddings must be a folder that all nodes see"
    ):
        EncodedTexts(index)


def test_of_a_text_in_two_shards_the_first_counts() -> None:
    catalogue = Catalogue()
    for rows in (unmasked(2, 3), unmasked(1, 3)):
        catalogue.add(Shard(arrow_bytes(["a", "b"][: len(rows)], rows), "memory"))
    assert catalogue.index(["b", "a", "b"]).shards == (0, 0, 0)
    assert catalogue.index(["b", "a", "b"]).rows == (1, 0, 1)


def test_a_process_holds_what_it_reads_and_not_the_table(tmp_path: Path) -> None:
    # 96 MiB in 48 rows; the old way held them all, twice while loading.
    parts = [unmasked(4, 512, 1024) for _ in range(12)]
    index, _ = in_files(tmp_path, *parts)
    del parts
    encoded = EncodedTexts(index).held()
    encoded.select(torch.tensor([0]))
    before = _anonymous()
    assert sum(len(encoded.select(torch.tensor([number]))) for number in range(len(encoded))) == 48
    assert _anonymous() - before < index.nbytes / 2


def _anonymous() -> int:
    """Memory of this process that no file stands behind, bytes."""
    memory = psutil.Process().memory_info()
    return memory.rss - memory.shared


def test_shards_in_shared_memory_are_read_where_they_are() -> None:
    payload = arrow_bytes(["a"], unmasked(1, 4))
    _, embeds, _ = Shard(payload, "memory").row(0)
    assert np.shares_memory(embeds, payload)
