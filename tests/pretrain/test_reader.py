"""A text encoder that learns to say what captions state."""

import itertools

import pytest
import torch
from torch import Tensor

from advdmd_ray.data.recipe import Lessons
from advdmd_ray.models.tiny import TextEncoder, Tokenizer, build_text_encoder, build_tokenizer
from advdmd_ray.pretrain.reader import learn_to_say

THINGS = ("circle", "square", "cross")
PAIRS = tuple(itertools.permutations(THINGS, 2))
TEXTS = tuple(f"{one} left of {other}" for one, other in PAIRS)
# Whether the circle is there, and whether it is on the left or on the right: the words alone do not say that.
FACTS = torch.tensor(
    [[float("circle" in pair), {0: -1.0, 1: 1.0}[pair.index("circle")] if "circle" in pair else 0.0] for pair in PAIRS]
)
LESSONS = Lessons(TEXTS, FACTS, torch.tensor([1.0, 3.0]))
TOKENIZER = build_tokenizer((*THINGS, "left", "of"), 8)


def encoder() -> TextEncoder:
    return build_text_encoder(TOKENIZER, 1, 0.15, 16)


def pooled(reader: TextEncoder, tokenizer: Tokenizer = TOKENIZER) -> Tensor:
    return reader(tokenizer(list(TEXTS), padding="max_length", return_tensors="pt").input_ids).text_embeds


def taught(seed: int = 0) -> TextEncoder:
    reader = encoder()
    learn_to_say(reader, TOKENIZER, LESSONS, steps=150, seed=seed)
    return reader


def test_its_pooled_output_says_the_facts_in_their_sizes() -> None:
    reader = taught()
    said = pooled(reader)[:, :2]
    standard = (FACTS - FACTS.mean(dim=0)) / FACTS.std(dim=0)
    torch.testing.assert_close(said - said.mean(dim=0), LESSONS.sizes * standard, atol=0.2, rtol=0)
    assert not any(parameter.requires_grad for parameter in reader.parameters())


def test_the_seed_decides_what_it_becomes() -> None:
    assert torch.equal(pooled(taught()), pooled(taught()))
    assert not torch.equal(pooled(taught()), pooled(taught(seed=1)))


def test_progress_is_told_and_the_loss_falls() -> None:
    told: list[tuple[int, float]] = []
    learn_to_say(encoder(), TOKENIZER, LESSONS, steps=120, seed=0, progress=lambda *what: told.append(what))
    assert [step for step, _ in told] == [50, 100, 120]
    assert told[-1][1] < 0.2 * told[0][1] < 1.0


def test_more_facts_than_channels_are_refused() -> None:
    many = Lessons(TEXTS, torch.rand(len(TEXTS), 17), torch.ones(17))
    with pytest.raises(ValueError, match="16 channels cannot say 17 facts"):
        learn_to_say(encoder(), TOKENIZER, many, steps=1, seed=0)
