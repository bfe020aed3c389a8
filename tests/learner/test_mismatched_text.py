"""Real images with another prompt's text: a discriminator that is shown them must read the prompt."""

import math

import pytest
import torch
from torch import Tensor, nn

from advdmd_ray.config import Config
from advdmd_ray.data.real import RealImages
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.learner.batch import draw_other_prompts
from advdmd_ray.stations.prompt_table import PromptTable
from small_parts import (
    SHAPE,
    Constant,
    Judge,
    Mixer,
    batch_of,
    config,
    discriminator_update,
    normal,
    setting,
    table,
)

PATH = ("test", 0, 0)
ROWS = 64


def _config(weight: float, **discriminator: float) -> Config:
    return config(discriminator={"batch_size": ROWS, "mismatched_text": weight, **discriminator})


class Recorder(nn.Module):
    """A critic that remembers what it was shown and answers with given logits."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits, self.shown = logits, list[tuple[Tensor, Tensor, Tensor]]()

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        self.shown.append((x, t, conditioning.pooled))
        return torch.tensor(self.logits).repeat_interleave(len(x) // len(self.logits))


def test_the_same_real_states_come_again_with_the_text_of_another_prompt() -> None:
    critic, batch = Recorder(0.0, 0.0, 0.0), batch_of(Mixer(1), Constant())
    discriminator_update(critic, setting(_config(0.5), Mixer(9)), batch, PATH)
    ((x, t, pooled),) = critic.shown
    assert x.shape == (3 * ROWS, *SHAPE)
    assert torch.equal(x[2 * ROWS :], x[:ROWS])
    assert torch.equal(t[2 * ROWS :], t[:ROWS])
    assert torch.equal(pooled[:ROWS], pooled[ROWS : 2 * ROWS])
    own, other = pooled[:ROWS], pooled[2 * ROWS :]
    assert bool((own != other).any(dim=1).all())
    rows = table().rows(torch.arange(3)).pooled
    assert all(any(torch.equal(row, known) for known in rows) for row in other)


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_the_term_counts_a_mismatched_pair_as_generated(weight: float) -> None:
    batch = batch_of(Mixer(1), Constant())
    loss = discriminator_update(Recorder(0.3, -0.2, 1.5), setting(_config(weight), Mixer(9)), batch, PATH)

    def softplus(logit: float) -> float:
        return math.log1p(math.exp(logit))

    assert loss.item() == pytest.approx(softplus(-0.3) + softplus(-0.2) + weight * softplus(1.5), rel=1e-6)


def test_a_weight_of_zero_shows_no_third_part() -> None:
    critic, batch = Recorder(0.0, 0.0), batch_of(Mixer(1), Constant())
    discriminator_update(critic, setting(_config(0.0), Mixer(9)), batch, PATH)
    assert [len(x) for x, _, _ in critic.shown] == [2 * ROWS]


def test_the_penalty_looks_at_real_and_generated_states_of_the_right_text() -> None:
    batch = batch_of(Mixer(1), Constant())
    both, single = (
        discriminator_update(Judge(3), setting(_config(weight, gradient_penalty=1.0), Mixer(9)), batch, PATH)
        for weight in (1e-12, 0.0)
    )
    torch.testing.assert_close(both, single)


class TextReader(nn.Module):
    """A critic that knows one inner product of each prompt with the image; what it learns is to match them."""

    def __init__(self) -> None:
        super().__init__()
        self.matching = nn.Parameter(torch.zeros(5, 16))

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        return ((conditioning.pooled @ self.matching) * x.flatten(1)).sum(dim=1)


def test_only_the_term_teaches_a_critic_to_match_text_and_image() -> None:
    """Generated images are as good as real ones and belong to their prompts; only the mismatched pairs differ."""
    pictures = normal(3, *SHAPE, seed=11)

    def matched_above_mismatched(weight: float) -> float:
        critic, base = TextReader(), batch_of(Mixer(1), Constant())
        ids = torch.arange(3).repeat_interleave(20)
        fixed = setting(_config(weight), Mixer(9), real=RealImages(pictures[ids], ids))
        base.latents.copy_(pictures[base.prompt_ids].reshape(4, 1, 1, *SHAPE).expand_as(base.latents))
        optimizer = torch.optim.SGD(critic.parameters(), lr=0.05)
        for update in range(30):
            optimizer.zero_grad()
            discriminator_update(critic, fixed, base, ("d", 0, update)).backward()
            optimizer.step()
        with torch.no_grad():
            logits = torch.stack([critic(pictures, torch.zeros(3), table().of(row, 3)) for row in range(3)])
        own = logits.diagonal().mean()
        return float(own - (logits.sum() - logits.diagonal().sum()) / 6)

    assert matched_above_mismatched(1.0) > matched_above_mismatched(0.0) + 0.3


def test_a_text_that_stands_in_two_rows_is_never_its_own_mismatch() -> None:
    rows = torch.tensor([0, 1, 0, 2])
    twice = PromptTable(("zero", "one", "zero", "two"), table().conditioning.select(rows), table().unconditional)
    assert [twice.other(row, u) for row in (0, 2) for u in (0.0, 0.49, 0.5, 0.99)] == [1, 1, 3, 3] * 2
    assert [twice.other(1, u) for u in (0.0, 0.34, 0.67)] == [0, 2, 3]
    batch = batch_of(Mixer(1), Constant())  # its prompts are 0, 1, 2 and 0
    drawn = draw_other_prompts(batch, twice, batch.prompt_ids.repeat_interleave(200), PATH).reshape(4, 200)
    assert [set(group.tolist()) for group in drawn] == [{1, 3}, {0, 2, 3}, {1, 3}, {1, 3}]


def test_the_draw_belongs_to_the_group() -> None:
    batch = batch_of(Mixer(1), Constant())
    ids = batch.prompt_ids.repeat_interleave(50)
    first, again = (draw_other_prompts(batch, table(), ids, PATH).reshape(4, 50) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first[0], first[3])  # one prompt, two groups
    assert not torch.equal(first, draw_other_prompts(batch, table(), ids, ("test", 0, 1)).reshape(4, 50))


def test_a_table_of_one_text_has_no_mismatch_to_draw() -> None:
    same = PromptTable(("zero",) * 3, table().conditioning, table().unconditional)
    with pytest.raises(ValueError, match=r"every prompt of the table is 'zero'"):
        draw_other_prompts(batch_of(Mixer(1), Constant()), same, torch.zeros(16, dtype=torch.int64), PATH)
