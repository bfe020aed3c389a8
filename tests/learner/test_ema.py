"""The moving average, with its warm-up, against its closed form."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.errors import CheckpointError
from advdmd_ray.learner.ema import Ema, warm_decay


@given(
    decay=st.floats(0, 0.999),
    values=st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=20),
)
def test_the_average_is_its_closed_form(decay: float, values: list[float]) -> None:
    ema = Ema({"w": torch.tensor([values[0]])}.items(), decay)
    for value in values[1:]:
        ema.update({"w": torch.tensor([value])}.items())
    decays = [min(decay, (1 + n) / (10 + n)) for n in range(len(values) - 1)]
    shares = [1.0, *(1 - each for each in decays)]
    expected = sum(
        share * value * math.prod(decays[i:]) for i, (share, value) in enumerate(zip(shares, values, strict=True))
    )
    assert ema.updates == len(decays)
    assert ema.state()["w"].item() == pytest.approx(expected, abs=1e-4)


def share_of_the_beginning(decay: float, updates: int) -> float:
    ema = Ema({"w": torch.ones(1)}.items(), decay)
    for _ in range(updates):
        ema.update({"w": torch.zeros(1)}.items())
    return ema.state()["w"].item()


@given(decay=st.floats(0.9, 0.999), updates=st.integers(0, 60))
def test_what_it_began_with_fades_by_a_binomial_and_not_by_the_decay(decay: float, updates: int) -> None:
    within = (1 + updates) / (10 + updates) <= decay
    share = 1 / math.comb(updates + 9, 9) if within else math.prod(warm_decay(decay, n) for n in range(updates))
    assert share_of_the_beginning(decay, updates) == pytest.approx(share, rel=1e-4)


def test_a_run_of_25_cycles_does_not_export_the_teacher() -> None:
    assert share_of_the_beginning(0.98, 25) < 1e-7


@given(decay=st.floats(0, 0.995), n=st.integers(0, 5000))
def test_the_decay_rises_to_its_value_and_stays(decay: float, n: int) -> None:
    assert warm_decay(decay, n) <= warm_decay(decay, n + 1) <= decay
    assert warm_decay(decay, 2000) == decay


@given(decay=st.floats(0, 0.999), updates=st.integers(0, 30))
def test_the_average_of_a_constant_is_that_constant_from_the_first_update_on(decay: float, updates: int) -> None:
    weights = {"w": torch.tensor([1.5, -2.0])}
    ema = Ema(weights.items(), decay)
    for _ in range(updates):
        ema.update(weights.items())
    assert torch.equal(ema.state()["w"], weights["w"])


def test_the_average_owns_its_tensors() -> None:
    weights = {"w": torch.zeros(2)}
    ema = Ema(weights.items(), 0.5)
    weights["w"].fill_(7)
    ema.state()["w"].fill_(9)
    assert torch.equal(ema.state()["w"], torch.zeros(2))


def test_a_loaded_average_continues_as_the_saved_one() -> None:
    first = Ema({"w": torch.zeros(3)}.items(), 0.9)
    first.update({"w": torch.ones(3)}.items())
    second = Ema({"w": torch.full((3,), 5.0)}.items(), 0.9)
    second.load(first.state(), first.updates)
    for ema in (first, second):
        ema.update({"w": torch.full((3,), 2.0)}.items())
    assert torch.equal(first.state()["w"], second.state()["w"])
    assert first.updates == second.updates == 2


def test_weights_of_another_network_are_refused() -> None:
    ema = Ema({"w": torch.zeros(3)}.items(), 0.9)
    for names in (["v"], [], ["w", "w"], ["w", "v"]):
        with pytest.raises(CheckpointError, match=r"is unknown or came twice|1 missing"):
            ema.update([(name, torch.zeros(3)) for name in names])
    with pytest.raises(CheckpointError, match=r"shape \(2,\), expected \(3,\)"):
        ema.update([("w", torch.zeros(2))])
    with pytest.raises(CheckpointError, match=r"shape \(2,\), expected \(3,\)"):
        ema.load({"w": torch.zeros(2)}, 1)


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_outside_its_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay"):
        Ema([], decay)
