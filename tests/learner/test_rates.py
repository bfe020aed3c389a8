"""Learning rates fall on straight lines over the run: RL's from its own first turn on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.config import Config
from advdmd_ray.config.objectives import CadenceSection
from advdmd_ray.learner.cadence import Cadence
from advdmd_ray.learner.health import Health
from advdmd_ray.learner.updates import rate_factor, rate_of

OPEN = Health(auc=(0.7, 0.7), high=0.98)
BLIND = Health(auc=(0.99, 0.99), high=0.98)
OTHERS = ("dmd", "fake_score", "discriminator")


@given(cycles=st.integers(2, 10_000), final=st.floats(0.01, 1.0))
def test_rates_start_whole_and_end_at_the_final_share(cycles: int, final: float) -> None:
    assert rate_factor(0, cycles, final) == 1
    assert abs(rate_factor(cycles - 1, cycles, final) - final) < 1e-9


@given(
    cycles=st.integers(1, 500),
    final=st.floats(0.01, 1.0),
    version=st.integers(0, 1000),
    began=st.integers(0, 1000),
)
def test_rates_never_rise_and_never_leave_their_range(cycles: int, final: float, version: int, began: int) -> None:
    here, later = (rate_factor(at, cycles, final, began) for at in (version, version + 1))
    assert final - 1e-12 <= later <= here <= 1


def test_a_single_cycle_runs_at_the_whole_rate() -> None:
    assert rate_factor(0, 1, 0.1) == 1


@given(length=st.integers(1, 500), final=st.floats(0.01, 1.0), began=st.integers(0, 1000), after=st.integers(0, 500))
def test_a_rate_knows_its_own_beginning_and_the_end_and_not_what_was_before(
    length: int, final: float, began: int, after: int
) -> None:
    assert rate_factor(began + after, began + length, final, began) == rate_factor(after, length, final)
    assert rate_factor(began, began + length, final, began) == 1


def config(cycles: int, until: str = "end", **cadence: int) -> Config:
    return Config.model_validate(
        {
            "run": {"cycles": cycles},
            "learner": {"final_rate": 0.1, "rates_fall_until": until},
            "policy_gradient": {"final_rate": 0.3},
            "cadence": cadence,
        }
    )


@given(warm=st.integers(0, 40), blind=st.integers(0, 60), interval=st.sampled_from([1, 2, 8]), dmd=st.integers(1, 3))
def test_rl_has_its_whole_rate_at_its_first_turn_and_its_own_share_at_the_end(
    warm: int, blind: int, interval: int, dmd: int
) -> None:
    settings = config(100, warm_dmd_updates=warm, ramp_interval=interval, dmd_updates=dmd)
    cadence, factors = Cadence(settings.cadence, policy_gradient=True), list[float]()
    for version in range(100):
        turn = cadence.plan(BLIND if version < blind else OPEN).policy_gradient
        if turn:
            assert factors or cadence.state.rl_began == version
            factors.append(rate_of("rl", settings, version, cadence.state.rl_began))
    assert factors[0] == 1
    assert factors == sorted(factors, reverse=True)
    ends = {name: rate_of(name, settings, 99, cadence.state.rl_began) for name in ("rl", *OTHERS)}
    assert ends == pytest.approx({"rl": 0.3, **dict.fromkeys(OTHERS, 0.1)})


@given(first=st.integers(0, 99), version=st.integers(0, 99))
def test_the_other_rates_do_not_know_when_rl_began(first: int, version: int) -> None:
    settings = config(100)
    for name in OTHERS:
        assert rate_of(name, settings, version, first) == rate_of(name, settings, version, None)


@given(warm=st.integers(1, 150), dmd=st.integers(1, 3), cycles=st.integers(1, 100))
def test_the_other_rates_have_fallen_where_rl_may_begin_if_they_are_told_so(warm: int, dmd: int, cycles: int) -> None:
    settings = config(cycles, "rl", warm_dmd_updates=warm, ramp_interval=1, dmd_updates=dmd)
    cadence = Cadence(settings.cadence, policy_gradient=True)
    for version in range(cycles):
        before_rl = not cadence.plan(OPEN).policy_gradient
        for name in OTHERS:
            factor = rate_of(name, settings, version, None)
            if before_rl and version < cycles - 1:
                assert 0.1 < factor <= 1
                assert factor > rate_of(name, settings, version + 1, None)
            elif version > 0:
                assert factor == pytest.approx(0.1)


@given(version=st.integers(0, 99))
def test_without_rl_the_other_rates_fall_until_the_end_whatever_they_are_told(version: int) -> None:
    off = {"policy_gradient": {"enabled": False}}
    told, untold = (config(100, until, warm_dmd_updates=7).model_dump() | off for until in ("rl", "end"))
    for name in OTHERS:
        rates = [rate_of(name, Config.model_validate(tree), version, None) for tree in (told, untold)]
        assert rates[0] == rates[1]


@given(cut=st.integers(0, 29))
def test_a_resumed_automaton_remembers_when_rl_began(cut: int) -> None:
    section = CadenceSection(warm_dmd_updates=5, ramp_interval=4)
    before, after = (Cadence(section, policy_gradient=True) for _ in range(2))
    for _ in range(cut):
        before.plan(OPEN)
    after.restore(before.to_facts())
    for _ in range(30):
        after.plan(OPEN)
    assert after.state.rl_began == 5
