"""The prompt table: one row a prompt, the same after a journey."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.stations.prompt_table import PromptTable
from small_parts import POOLED, PROMPTS, normal, table


@given(st.integers(0, 2), st.integers(1, 7))
def test_a_prompt_is_repeated_for_every_sample(prompt_id: int, count: int) -> None:
    repeated = table().of(prompt_id, count)
    assert len(repeated) == count
    assert torch.equal(repeated.pooled, table().conditioning.pooled[prompt_id].expand(count, -1))
    assert torch.equal(repeated.embeds, table().conditioning.embeds[prompt_id].expand(count, -1, -1))


@given(st.lists(st.integers(0, 2), min_size=1, max_size=9))
def test_the_rows_of_a_batch_come_in_its_order(ids: list[int]) -> None:
    assert torch.equal(table().rows(torch.tensor(ids)).pooled, table().conditioning.pooled[ids])


def test_a_table_survives_the_way_through_its_state() -> None:
    ours = table()
    theirs = PromptTable.from_state(ours.texts, ours.state())
    assert theirs.texts == PROMPTS
    assert torch.equal(theirs.conditioning.embeds, ours.conditioning.embeds)
    assert torch.equal(theirs.conditioning.pooled, ours.conditioning.pooled)
    assert torch.equal(theirs.unconditional.embeds, ours.unconditional.embeds)
    assert torch.equal(theirs.unconditional.pooled, ours.unconditional.pooled)


def test_masks_travel_with_the_embeddings_and_are_not_invented() -> None:
    assert not any("mask" in name for name in table().state())
    embeds, mask = normal(3, 2, 4, seed=1), torch.tensor([[True, True], [True, False], [True, True]])
    masked = Conditioning(embeds, torch.zeros(3, 0), mask)
    ours = PromptTable(PROMPTS, masked, masked.select(torch.tensor([1])))
    theirs = PromptTable.from_state(ours.texts, ours.state())
    assert theirs.conditioning.mask is not None
    assert theirs.unconditional.mask is not None
    assert torch.equal(theirs.conditioning.mask, mask)
    assert torch.equal(theirs.unconditional.mask, mask[1:2])


@pytest.mark.parametrize(("prompts", "empty"), [(2, 1), (4, 1), (3, 0), (3, 2)])
def test_a_table_of_another_length_than_its_texts_is_refused(prompts: int, empty: int) -> None:
    def encoded(count: int) -> Conditioning:
        return Conditioning(normal(count, 2, 4, seed=1), normal(count, POOLED, seed=2))

    with pytest.raises(ValueError, match="as many as prompts"):
        PromptTable(PROMPTS, encoded(prompts), encoded(empty))
