"""The prompt table: one row a prompt, the same after a journey."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.stations.encoded_texts import Catalogue, EncodedTexts, Shard, arrow_bytes
from advdmd_ray.stations.prompt_table import PromptTable, TableFacts
from small_parts import POOLED, PROMPTS, normal, table


@given(st.integers(0, 2), st.integers(1, 7))
def test_a_prompt_is_repeated_for_every_sample(prompt_id: int, count: int) -> None:
    repeated = table().of(prompt_id, count)
    assert len(repeated) == count
    row = table().conditioning.select(torch.tensor([prompt_id]))
    assert torch.equal(repeated.pooled, row.pooled.expand(count, -1))
    assert torch.equal(repeated.embeds, row.embeds.expand(count, -1, -1))


@given(st.lists(st.integers(0, 2), min_size=1, max_size=9))
def test_the_rows_of_a_batch_come_in_its_order(ids: list[int]) -> None:
    assert torch.equal(table().rows(torch.tensor(ids)).pooled, table().conditioning.select(torch.tensor(ids)).pooled)


def _travelled(masked: bool, width: int = 4) -> tuple[PromptTable, Conditioning, Conditioning]:
    """A table that was opened from shards, and what went into it."""
    mask = torch.tensor([[True, True], [True, False], [True, True]]) if masked else None
    rows = Conditioning(normal(3, 2, width, seed=1), normal(3, POOLED, seed=2), mask)
    empty = Conditioning(normal(1, 2, width, seed=3), normal(1, POOLED, seed=4), mask[:1] if mask is not None else None)
    catalogue, payloads = Catalogue(), [arrow_bytes(PROMPTS, rows), arrow_bytes([""], empty)]
    for payload in payloads:
        catalogue.add(Shard(payload, "memory"))
    facts = TableFacts(PROMPTS, 2, catalogue.index(PROMPTS), catalogue.index([""]))
    return PromptTable.opened(facts, payloads), rows, empty


def test_a_table_that_travelled_is_what_was_encoded() -> None:
    theirs, rows, empty = _travelled(masked=False)
    assert (theirs.texts, theirs.rollouts) == (PROMPTS, 2)
    found = theirs.rows(torch.arange(3))
    assert torch.equal(found.embeds, rows.embeds)
    assert torch.equal(found.pooled, rows.pooled)
    assert torch.equal(theirs.unconditional.embeds, empty.embeds)
    assert torch.equal(theirs.unconditional.pooled, empty.pooled)
    assert found.mask is theirs.unconditional.mask is None


def test_masks_travel_with_the_embeddings_and_are_not_invented() -> None:
    theirs, rows, empty = _travelled(masked=True)
    found = theirs.rows(torch.arange(3))
    assert found.mask is not None
    assert rows.mask is not None
    assert torch.equal(found.mask, rows.mask)
    assert torch.equal(found.embeds[found.mask], rows.embeds[rows.mask])
    assert theirs.unconditional.mask is not None
    assert torch.equal(theirs.unconditional.embeds, empty.embeds)


def test_small_rows_without_padding_are_held_and_large_ones_are_read() -> None:
    assert isinstance(_travelled(masked=False)[0].conditioning, Conditioning)
    assert isinstance(_travelled(masked=False, width=2**20)[0].conditioning, EncodedTexts)


@pytest.mark.parametrize(("prompts", "empty"), [(2, 1), (4, 1), (3, 0), (3, 2)])
def test_a_table_of_another_length_than_its_texts_is_refused(prompts: int, empty: int) -> None:
    def encoded(count: int) -> Conditioning:
        return Conditioning(normal(count, 2, 4, seed=1), normal(count, POOLED, seed=2))

    with pytest.raises(ValueError, match="as many as prompts"):
        PromptTable(PROMPTS, encoded(prompts), encoded(empty))
