"""A loss in parts has the gradients and the value of the whole, whatever it is made of and however it is parted."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.learner.actions import Actions
from advdmd_ray.learner.batch import LearnerBatch, clean_predictions
from advdmd_ray.learner.objectives import discriminator_parts, dmd_parts, fake_score_parts
from advdmd_ray.learner.parts import LossPart, in_parts, part_rows
from advdmd_ray.learner.policy import PolicyReport, policy_parts
from advdmd_ray.learner.setting import Setting
from small_parts import Judge, Mixer, batch_of, config, normal, setting

PATH = ("test", 0, 0)
SIZES = {"dmd": {"batch_size": 12}, "fake_score": {"batch_size": 12}, "discriminator": {"batch_size": 12}}
Update = Callable[[nn.Module, Setting, LearnerBatch], list[LossPart]]


def _fake_score(network: nn.Module, fixed: Setting, batch: LearnerBatch) -> list[LossPart]:
    return fake_score_parts(network, fixed, batch, clean_predictions(batch, fixed.kernel), PATH)


def _discriminator(network: nn.Module, fixed: Setting, batch: LearnerBatch) -> list[LossPart]:
    return discriminator_parts(network, fixed, batch, clean_predictions(batch, fixed.kernel), PATH)


def _dmd(network: nn.Module, fixed: Setting, batch: LearnerBatch) -> list[LossPart]:
    return dmd_parts(network, Mixer(40), Judge(50), fixed, batch, PATH)


def _policy(network: nn.Module, fixed: Setting, batch: LearnerBatch) -> list[LossPart]:
    return policy_parts(network, fixed, batch, Actions.of(batch, normal(4, 4, 2, seed=8)), lambda _: None)


CASES: dict[str, tuple[Update, type[nn.Module], dict[str, dict[str, Any]]]] = {
    "fake score": (_fake_score, Mixer, {}),
    "discriminator": (_discriminator, Judge, {}),
    "discriminator with all its terms": (
        _discriminator,
        Judge,
        {"discriminator": {"gradient_penalty": 0.7, "mismatched_text": 0.5}},
    ),
    "discriminator of pairs with all its terms": (
        _discriminator,
        Judge,
        {"discriminator": {"pairing": "relativistic", "gradient_penalty": 0.7, "mismatched_text": 0.5}},
    ),
    "discriminator that learns at the GAN term's levels too": (_discriminator, Judge, {"dmd": {"gan_weight": 0.5}}),
    "DMD": (_dmd, Mixer, {"model": {"guidance": 2.0}}),
    "DMD with the direct GAN term": (_dmd, Mixer, {"dmd": {"gan_weight": 0.5}}),
    "DMD with the direct GAN term of pairs": (
        _dmd,
        Mixer,
        {"dmd": {"gan_weight": 0.5}, "discriminator": {"pairing": "relativistic"}},
    ),
    **{
        f"policy gradient, {region}": (
            _policy,
            Mixer,
            {"policy_gradient": {"trust_region": region, "kl_nats": 0.02, "clip_nats": 0.02}},
        )
        for region in ("flow_dppo", "ppo_clip", "grpo_guard")
    },
}


def _gradients(network: nn.Module, parts: Sequence[LossPart]) -> tuple[float, dict[str, Tensor]]:
    """Value and gradients, one part after the other."""
    value, total = 0.0, {name: torch.zeros_like(weight) for name, weight in network.named_parameters()}
    for part in parts:
        loss = part()
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        value += float(loss.detach())
        for whole, gradient in zip(total.values(), gradients, strict=True):
            whole.add_(gradient)
    return value, total


@pytest.mark.parametrize("name", CASES)
def test_parts_of_any_size_have_the_gradients_of_the_whole(name: str) -> None:
    update, kind, sections = CASES[name]
    settings = config(**{key: SIZES.get(key, {}) | sections.get(key, {}) for key in SIZES | sections})
    network, batch = kind(31), batch_of(Mixer(30), Judge(50))
    fixed = setting(settings, Mixer(9))
    (only,) = update(network, fixed, batch)
    value, whole = _gradients(network, [only])
    largest = max(float(gradient.abs().max()) for gradient in whole.values())
    assert largest > 1e-4
    rounding = 1e-6 * max(1.0, largest)  # of sums whose terms nearly cancel
    for micro_batch in (1, 2, 3, 5, 7):
        parts = update(network, replace(fixed, micro_batch=micro_batch), batch)
        assert len(parts) > 1
        again, found = _gradients(network, parts)
        assert again == pytest.approx(value, rel=1e-4, abs=1e-6)
        for weight, gradient in whole.items():
            torch.testing.assert_close(found[weight], gradient, rtol=1e-4, atol=rounding, msg=f"{weight} {micro_batch}")


@pytest.mark.parametrize("name", CASES)
def test_a_part_that_holds_the_whole_batch_is_bitwise_the_whole(name: str) -> None:
    update, kind, sections = CASES[name]
    settings = config(**{key: SIZES.get(key, {}) | sections.get(key, {}) for key in SIZES | sections})
    network, batch, fixed = kind(31), batch_of(Mixer(30), Judge(50)), setting(settings, Mixer(9))
    value, whole = _gradients(network, update(network, fixed, batch))
    again, found = _gradients(network, update(network, replace(fixed, micro_batch=1000), batch))
    assert again == value
    assert all(torch.equal(found[weight], gradient) for weight, gradient in whole.items())


class Counting(nn.Module):
    """Notes the rows of every call with a graph."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.rows = network, []

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        if torch.is_grad_enabled():
            self.rows.append(len(x))
        return self.network(x, t, conditioning)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("fake score", [5, 5, 2]),
        ("discriminator", [4] * 6),  # a real and a generated state are together
        ("discriminator with all its terms", [3, 2] * 12),  # and the real one with another text; two of them perturbed
        ("DMD", [5, 5, 2]),
        ("DMD with the direct GAN term", [3] * 4),  # a group of three is together
        ("policy gradient, flow_dppo", [5] * 6 + [2]),
    ],
)
def test_every_row_goes_forward_once_with_no_more_beside_it_than_belong_together(name: str, rows: list[int]) -> None:
    update, kind, sections = CASES[name]
    settings = config(**{key: SIZES.get(key, {}) | sections.get(key, {}) for key in SIZES | sections})
    network, batch = Counting(kind(31)), batch_of(Mixer(30), Judge(50))
    parts = update(network, replace(setting(settings, Mixer(9)), micro_batch=5), batch)
    assert network.rows == []  # before its turn comes a part is not made
    _gradients(network, parts)
    assert network.rows == rows


def test_reports_of_the_parts_of_an_update_add_up_to_its_own() -> None:
    settings = config(policy_gradient={"kl_nats": 0.02, "stale_nats": 0.5})
    network, batch = Mixer(31), batch_of(Mixer(30), Judge(50))
    actions = Actions.of(batch, normal(4, 4, 2, seed=8))

    def told(micro_batch: int | None) -> list[PolicyReport]:
        fixed, reports = replace(setting(settings, Mixer(9)), micro_batch=micro_batch), []
        for part in policy_parts(network, fixed, batch, actions, reports.append):
            part()
        return reports

    (whole,), parts = told(None), told(3)
    assert whole.share == 1
    assert len(parts) == 11
    assert sum(part.share for part in parts) == pytest.approx(1)
    assert 0 < whole.stale == sum(part.stale for part in parts)
    for figure in ("clipped_fraction", "mean_kl_nats"):
        expected = float(getattr(whole.gradient, figure))
        assert expected > 0
        assert sum(part.share * float(getattr(part.gradient, figure)) for part in parts) == pytest.approx(expected)
    assert max(part.fresh_deviation or 0 for part in parts) == whole.fresh_deviation


@given(st.integers(1, 8), st.integers(1, 5), st.integers(1, 30))
def test_parts_are_consecutive_whole_bundles_and_no_larger_than_they_must_be(
    bundles: int, together: int, most: int
) -> None:
    rows, seen = bundles * together, []

    def mean_over(part: slice) -> Tensor:
        seen.append(part)
        return torch.arange(float(rows))[part].mean()

    parts = in_parts(mean_over, rows, most, together=together)
    total = sum(float(part()) for part in parts)
    assert total == pytest.approx((rows - 1) / 2)
    assert [row for part in seen for row in range(part.start, part.stop)] == list(range(rows))
    sizes = [part.stop - part.start for part in seen]
    assert all(size % together == 0 for size in sizes)
    assert max(sizes) == part_rows(rows, most, together) <= max(most, together)
