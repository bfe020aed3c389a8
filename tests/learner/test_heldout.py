"""Right against wrong texts on held-out images and on the student's states, as the learner measures it."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from advdmd_ray.config import Config
from advdmd_ray.data.real import RealImages
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.errors import UserError
from advdmd_ray.learner.batch import LearnerBatch, collate
from advdmd_ray.learner.health import SIDES, TextEvidence
from advdmd_ray.learner.heldout import HeldOut, TextPool
from advdmd_ray.learner.setting import Setting
from advdmd_ray.stations.prompt_table import PromptTable
from small_parts import SHAPE, Constant, Judge, Mixer, Painter, config, normal, scored_groups, setting, table

PATH = ("test", 0)
MEANING = torch.tensor([-2.0, 0.0, 2.0])
"""How bright an image of each prompt is."""
GATED = config(discriminator={"batch_size": 64, "text_errors": 3.0, "auc_high": 1.0})


def _reading() -> Tensor:
    """What turns a pooled text into the brightness that it asks for."""
    return torch.linalg.lstsq(table().rows(torch.arange(3)).pooled, MEANING.unsqueeze(1)).solution[:, 0]


class Reader(nn.Module):
    """A critic that prefers the brightness that the text asks for, and by `likes` some texts whatever the image is."""

    def __init__(self, reads: float = 1.0, likes: float = 0.0) -> None:
        super().__init__()
        self.reads = nn.Parameter(torch.tensor(reads))
        self.likes = likes

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        asked = conditioning.pooled @ _reading()
        return -self.reads * (x.mean(dim=(1, 2, 3)) - (1 - t) * asked).square() + self.likes * asked


class Follower(nn.Module):
    """A student whose images are as bright as the text asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        picture = (conditioning.pooled @ _reading() + self.offset).reshape(-1, 1, 1, 1)
        return (x - picture) / t.reshape(-1, 1, 1, 1)


def _real(each: int = 8) -> RealImages:
    prompts = torch.arange(3).repeat_interleave(each)
    return RealImages(0.1 * normal(3 * each, *SHAPE, seed=5) + MEANING[prompts].reshape(-1, 1, 1, 1), prompts)


def _batch(student: nn.Module, groups: int = 12) -> LearnerBatch:
    return collate(scored_groups(student, Constant(), range(groups)), 0)


def _evidence(critic: nn.Module, student: nn.Module, fixed: Setting | None = None) -> list[TextEvidence]:
    fixed = setting(GATED, Mixer(9), real=_real()) if fixed is None else fixed
    texts = HeldOut(fixed).measure(critic, _batch(student), PATH).texts
    return [TextEvidence.none(3).followed(side.tolist(), 0.0) for side in texts]


def test_a_critic_that_reads_is_seen_to_read_on_both_sides_at_every_level() -> None:
    for side in _evidence(Reader(), Follower()):
        assert all(agreement > 0.9 for agreement in side.agreement)
        assert side.above_chance(3.0) == (True,) * 3


def test_a_critic_that_prefers_the_wrong_text_is_below_chance() -> None:
    for side in _evidence(Reader(-1.0), Follower()):
        assert all(agreement < 0.1 for agreement in side.agreement)
        assert side.above_chance(0.0) == (False,) * 3


def test_a_student_that_ignores_the_prompt_leaves_nothing_to_read_in_its_states() -> None:
    real, student = _evidence(Reader(), Painter(torch.zeros(SHAPE)))
    assert real.above_chance(3.0) == (True,) * 3
    assert student.above_chance(3.0) == (False,) * 3


@pytest.mark.parametrize("critic", [Reader(0.0, likes=1.0), Reader(0.0, likes=-1.0)])
def test_a_critic_that_likes_some_texts_whatever_the_image_is_does_not_read(critic: nn.Module) -> None:
    for side in _evidence(critic, Follower()):
        assert all(
            abs(agreement - 0.5) <= 2 * error for agreement, error in zip(side.agreement, side.error, strict=True)
        )


def test_a_constant_critic_is_at_chance_exactly() -> None:
    for side in _evidence(Constant(), Follower()):
        assert side.agreement == (0.5,) * 3
        assert side.above_chance(0.0) == (False,) * 3


def test_a_critic_that_gives_no_number_gives_no_evidence() -> None:
    for side in _evidence(Constant(math.nan), Follower()):
        assert side == TextEvidence.none(3)


class _Spy(nn.Module):
    """A critic that remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        self.calls.append((x, t, conditioning.pooled))
        return torch.zeros(len(x))


def test_right_and_wrong_text_meet_the_very_same_noised_states() -> None:
    spy = _Spy()
    HeldOut(setting(GATED, Mixer(9), real=_real())).measure(spy, _batch(Follower(), 4), PATH)
    assert len(spy.calls) == 4
    for x, t, pooled in spy.calls:
        for states in (x, t):
            torch.testing.assert_close(*states.chunk(2), rtol=0, atol=0)
        own, wrong = pooled.chunk(2)
        assert not bool((own == wrong).all(dim=1).any())


@pytest.mark.parametrize(
    "sections", [{"policy_gradient": {"enabled": False}}, {"discriminator": {"text_errors": None}}]
)
def test_texts_are_compared_only_where_a_level_waits_for_it(sections: dict[str, dict[str, object]]) -> None:
    tree = GATED.model_dump()
    settings = Config.model_validate({name: part | sections.get(name, {}) for name, part in tree.items()})
    spies = _Spy(), _Spy()
    for each, spy in zip((settings, GATED), spies, strict=True):
        measured = HeldOut(setting(each, Mixer(9), real=_real())).measure(spy, _batch(Follower(), 2), PATH)
        assert len(measured.texts) == (0 if each is settings else len(SIDES))
    assert [2 * len(plain[0]) for plain in spies[0].calls] == [len(both[0]) for both in spies[1].calls]


def test_the_auc_is_the_same_whether_texts_are_compared_or_not() -> None:
    critic, batch = Judge(3), _batch(Follower(), 4)
    both = [HeldOut(setting(each, Mixer(9), real=_real())).measure(critic, batch, PATH) for each in (GATED, config())]
    torch.testing.assert_close(both[0].auc, both[1].auc)


def test_the_evidence_of_two_ranks_adds_up_to_that_of_one() -> None:
    critic, heldout = Judge(3), HeldOut(setting(GATED, Mixer(9), real=_real()))
    groups = scored_groups(Follower(), Constant(), range(8))
    whole, first, second = (
        heldout.measure(critic, collate(part, 0), PATH).texts for part in (groups, groups[:3], groups[3:])
    )
    torch.testing.assert_close(first + second, whole)


def test_images_that_the_discriminator_learns_from_are_not_looked_at() -> None:
    fixed = setting(GATED, Mixer(9), real=_real())
    poisoned = RealImages(torch.full((len(fixed.real.prompt_ids), *SHAPE), torch.nan), fixed.real.prompt_ids)
    without = dataclasses.replace(fixed, real=poisoned)
    assert _evidence(Reader(), Follower(), without) == _evidence(Reader(), Follower(), fixed)
    without = dataclasses.replace(fixed, real_heldout=poisoned)
    assert _evidence(Reader(), Follower(), without)[0] == TextEvidence.none(3)


# Wrong texts --------------------------------------------------------------------------------------------------------

TABLE = st.lists(st.integers(0, 3), min_size=1, max_size=8)


def _pool(texts: list[int]) -> TextPool:
    return TextPool.of(torch.arange(len(texts)), torch.tensor(texts))


@given(texts=TABLE, u=st.floats(0, 1, exclude_max=True), own=st.integers(0, 4))
def test_a_wrong_text_is_another_text_in_whatever_rows_the_right_one_stands(
    texts: list[int], u: float, own: int
) -> None:
    (row,), (weight,) = _pool(texts).others(torch.tensor([own]), torch.tensor([u]))
    assert float(weight) == pytest.approx(sum(text != own for text in texts) / len(texts))
    if float(weight) > 0:
        assert texts[int(row)] != own


@given(texts=TABLE)
def test_right_and_wrong_texts_have_one_distribution_whatever_is_in_the_table(texts: list[int]) -> None:
    """So what a critic thinks of a text alone cancels, however often it stands there."""
    pool, count = _pool(texts), len(texts)
    joint = torch.zeros(count, count)
    for own, text in enumerate(texts):
        others = sum(other != text for other in texts)
        for place in range(others):
            (row,), (weight,) = pool.others(torch.tensor([text]), torch.tensor([(place + 0.5) / others]))
            joint[own, int(row)] += float(weight) / others
    torch.testing.assert_close(joint, joint.T)
    assert torch.count_nonzero(joint) == sum(a != b for a in texts for b in texts)


def _captioned(rollouts: int, texts: tuple[str, ...]) -> PromptTable:
    rows = len(texts)
    conditioning = Conditioning(normal(rows, 2, 4, seed=1), normal(rows, 5, seed=2))
    return PromptTable(texts, conditioning, table().unconditional, rollouts)


def _of_captions(held: list[int]) -> HeldOut:
    """Prompts 0 to 2 of rollouts, captions 3 to 5; held-out images of the rows named."""
    fixed = setting(GATED, Mixer(9), real=_real())
    heldout = RealImages(normal(len(held), *SHAPE, seed=1), torch.tensor(held))
    rows = _captioned(3, ("a", "b", "c", "d", "e", "f"))
    return HeldOut(dataclasses.replace(fixed, table=rows, real_heldout=heldout))


@pytest.mark.parametrize(
    ("held", "own", "expected"),
    [
        ([0, 1, 3, 4], 0, {1}),  # an image of the prompt itself: against prompts that have images too
        ([0, 1, 3, 4], 3, {0, 1, 4}),  # an image of another caption: against those of all held-out images
        ([3, 4, 5], 4, {3, 5}),
    ],
)
def test_the_wrong_text_of_a_real_image_is_of_the_kind_of_its_own(
    held: list[int], own: int, expected: set[int]
) -> None:
    asked = torch.full((64,), own if own < 3 else 2)
    others, weights = _of_captions(held)._others(asked, torch.full((64,), own), 7, PATH)
    assert set(others[:64].tolist()) == expected
    assert set(others[64:].tolist()) <= {0, 1, 2}
    assert bool((weights > 0).all())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"table": _captioned(2, ("a", "a", "b"))}, "the prompts of rollouts"),
        ({"real_heldout": RealImages(normal(4, *SHAPE, seed=1), torch.ones(4).long())}, "the held-out real images"),
    ],
)
def test_without_a_second_text_the_learner_says_so_at_once(change: dict[str, Any], named: str) -> None:
    fixed = setting(GATED, Mixer(9), real=_real())
    with pytest.raises(UserError, match=rf"{named}.*discriminator\.text_errors=null"):
        HeldOut(dataclasses.replace(fixed, **change))
    free = setting(config(), Mixer(9), real=_real())
    HeldOut(dataclasses.replace(free, **change))
