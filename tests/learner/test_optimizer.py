"""One set of moments per objective: each is an AdamW of its own, over the same parameters."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from advdmd_ray.learner.optimizer import MomentSetAdamW

RATES = {"dmd": 1e-3, "rl": 3e-4}


def parameters(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in ((3, 4), (5,), ())]


def set_gradients(params: list[Tensor], step: int, size: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(1000 + step)
    for parameter in params:
        parameter.grad = size * torch.randn(parameter.shape, generator=generator)


def displacement(params: list[Tensor], before: list[Tensor]) -> float:
    moved = [(now - then).abs().reshape(-1) for now, then in zip(params, before, strict=True)]
    return float(torch.cat(moved).detach().mean())


def copies(params: list[Tensor]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in params]


@given(
    turns=st.lists(st.sampled_from(["dmd", "rl"]), min_size=1, max_size=12),
    decay=st.sampled_from([0.0, 0.1]),
)
def test_each_moment_set_is_an_independent_adamw_fed_the_same_gradients(turns: list[str], decay: float) -> None:
    """One torch AdamW per objective, each handed the weights the other left, walks the same path."""
    ours, theirs = parameters(), parameters()
    optimizer = MomentSetAdamW(ours, RATES, betas=(0.9, 0.99), eps=1e-10, weight_decay=decay)
    references = {
        name: torch.optim.AdamW(theirs, lr=rate, betas=(0.9, 0.99), eps=1e-10, weight_decay=decay)
        for name, rate in RATES.items()
    }
    for step, objective in enumerate(turns):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        optimizer.use(objective)
        optimizer.step()
        references[objective].step()
    assert optimizer.steps == {name: turns.count(name) for name in RATES}
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@given(size=st.floats(1e-9, 1e-2))
def test_tiny_policy_gradients_move_the_parameters_as_far_as_their_learning_rate_says(size: float) -> None:
    params = parameters()
    optimizer = MomentSetAdamW(params, RATES)
    for step in range(20):
        set_gradients(params, step)
        optimizer.use("dmd")
        optimizer.step()
    before = copies(params)
    set_gradients(params, 99, size)
    optimizer.use("rl")
    optimizer.step()
    # The first step of a fresh Adam moves every element by lr |g| / (|g| + eps).
    assert displacement(params, before) == pytest.approx(RATES["rl"], rel=0.02)


def test_in_one_shared_adam_the_same_policy_gradients_vanish() -> None:
    """The reason for the class: the shared denominator remembers the large gradients."""
    params = parameters()
    shared = torch.optim.AdamW(params, lr=RATES["rl"], betas=(0.0, 0.999), weight_decay=0.0)
    for step in range(20):
        set_gradients(params, step)
        shared.step()
    before = copies(params)
    set_gradients(params, 99, 1e-6)
    shared.step()
    assert displacement(params, before) < 1e-4 * RATES["rl"]


def test_a_step_descends() -> None:
    parameter = torch.tensor([2.0], requires_grad=True)
    optimizer = MomentSetAdamW([parameter], {"dmd": 0.1})
    parameter.square().sum().backward()
    optimizer.use("dmd")
    optimizer.step()
    assert parameter.item() == pytest.approx(1.9, abs=1e-5)


def test_the_other_objectives_moments_stay_bit_for_bit() -> None:
    params = parameters()
    optimizer = MomentSetAdamW(params, RATES)
    for step, objective in enumerate(("dmd", "rl", "dmd")):
        kept = {p: {k: v.clone() for k, v in optimizer.state[p].items()} for p in params}
        set_gradients(params, step)
        optimizer.use(objective)
        optimizer.step()
        for p, old in kept.items():
            for key, value in old.items():
                assert torch.equal(optimizer.state[p][key], value) == (not key.startswith(objective))


def test_a_missing_gradient_counts_as_zero() -> None:
    ours, theirs = parameters(), parameters()
    for params, missing in ((ours, None), (theirs, torch.zeros(5))):
        optimizer = MomentSetAdamW(params, RATES, weight_decay=0.1)
        for step in range(3):
            set_gradients(params, step)
            if step == 1:
                params[1].grad = missing
            optimizer.use("dmd")
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_step_without_a_selection_of_its_own_is_refused() -> None:
    params = parameters()
    optimizer = MomentSetAdamW(params, RATES)
    set_gradients(params, 0)
    with pytest.raises(RuntimeError, match="without use"):
        optimizer.step()
    optimizer.use("dmd")
    optimizer.step()
    before = copies(params)
    with pytest.raises(RuntimeError, match="without use"):
        optimizer.step()
    assert displacement(params, before) == 0


def test_a_step_at_rest_changes_nothing_and_the_next_is_as_if_it_had_not_been() -> None:
    ours, theirs = parameters(), parameters()
    for params, rests in ((ours, True), (theirs, False)):
        optimizer = MomentSetAdamW(params, RATES, weight_decay=0.1)
        for step in range(3):
            set_gradients(params, step)
            optimizer.use("rl")
            optimizer.step()
            if rests:
                before = copies(params)
                set_gradients(params, 99)
                optimizer.use("rl")
                optimizer.rest()
                optimizer.step()
                assert displacement(params, before) == 0
        assert optimizer.steps == {"dmd": 0, "rl": 3}
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_an_unknown_objective_is_refused_by_name() -> None:
    optimizer = MomentSetAdamW(parameters(), RATES)
    with pytest.raises(ValueError, match=r"unknown objective 'gan'.*dmd"):
        optimizer.use("gan")


@pytest.mark.parametrize(
    ("rates", "options"),
    [
        ({}, {}),
        ({"a.b": 1e-3}, {}),
        ({"dmd": 0.0}, {}),
        ({"dmd": float("nan")}, {}),
        ({"dmd": 1e-3}, {"betas": (0.9, 1.0)}),
        ({"dmd": 1e-3}, {"eps": 0.0}),
        ({"dmd": 1e-3}, {"weight_decay": -0.1}),
    ],
)
def test_values_out_of_range_are_refused(rates: dict[str, float], options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"objectives|rates|weight_decay"):
        MomentSetAdamW(parameters(), rates, **options)  # pyright: ignore[reportArgumentType] - wrong on purpose


def test_a_second_parameter_group_is_refused() -> None:
    optimizer = MomentSetAdamW(parameters(), RATES)
    with pytest.raises(ValueError, match="one parameter group"):
        optimizer.add_param_group({"params": parameters(1)})


def test_everything_that_a_step_computes_with_is_where_the_parameters_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fused kernel takes no tensor of another device; `meta` stands for the accelerator that is not here."""
    given: list[Tensor] = []

    def kernel(*tensors: list[Tensor], **_: object) -> None:
        given.extend(tensor for part in tensors for tensor in part)

    monkeypatch.setattr("advdmd_ray.learner.optimizer.adamw", kernel)
    weight = torch.zeros(3, device="meta", requires_grad=True)
    optimizer = MomentSetAdamW([weight], RATES)
    optimizer.use("dmd")
    optimizer.step()
    assert len(given) == 5  # parameter, gradient, both moments, count
    assert {tensor.device.type for tensor in given} == {"meta"}
