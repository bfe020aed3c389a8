"""The moving average against its closed form."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.errors import CheckpointError
from advdmd_ray.learner.ema import Ema


@given(
    decay=st.floats(0, 0.999),
    values=st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=20),
)
def test_the_average_is_its_closed_form(decay: float, values: list[float]) -> None:
    ema = Ema({"w": torch.tensor([values[0]])}.items(), decay)
    for value in values[1:]:
        ema.update({"w": torch.tensor([value])}.items())
    n = len(values) - 1
    expected = decay**n * values[0] + (1 - decay) * sum(decay ** (n - i) * values[i] for i in range(1, n + 1))
    assert ema.state()["w"].item() == pytest.approx(expected, abs=1e-4)


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
    second.load(first.state())
    for ema in (first, second):
        ema.update({"w": torch.full((3,), 2.0)}.items())
    assert torch.equal(first.state()["w"], second.state()["w"])


def test_weights_of_another_network_are_refused() -> None:
    ema = Ema({"w": torch.zeros(3)}.items(), 0.9)
    for names in (["v"], [], ["w", "w"], ["w", "v"]):
        with pytest.raises(CheckpointError, match=r"is unknown or came twice|1 missing"):
            ema.update([(name, torch.zeros(3)) for name in names])
    with pytest.raises(CheckpointError, match=r"shape \(2,\), expected \(3,\)"):
        ema.update([("w", torch.zeros(2))])
    with pytest.raises(CheckpointError, match=r"shape \(2,\), expected \(3,\)"):
        ema.load({"w": torch.zeros(2)})


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_outside_its_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay"):
        Ema([], decay)
