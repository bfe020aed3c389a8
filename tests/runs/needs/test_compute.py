"""The count of forward-equivalents: its laws, and that the networks of a real run count the same."""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from advdmd_ray.comparison.serial import SerialRun
from advdmd_ray.config import Config
from advdmd_ray.learner.cadence import CyclePlan, measures
from advdmd_ray.learner.learner import Learner
from advdmd_ray.models import pipeline
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.runs.needs.compute import Cost, Network, cycle_cost, cycles_within, expected_costs, full_cycle_cost
from tiny_digits import write_tiny_digits

pytestmark = pytest.mark.usefixtures("encoders_once")

NETWORK = Network(layers=4)
COUNTS = st.integers(min_value=0, max_value=5)
PLANS = st.builds(
    CyclePlan,
    phase=st.just("full"),
    fake_score=COUNTS,
    discriminator=COUNTS,
    dmd=COUNTS,
    policy_gradient=st.integers(min_value=0, max_value=1),
)
NOTHING = CyclePlan("warm", fake_score=0, discriminator=0, dmd=0, policy_gradient=0)


def config(**sections: Mapping[str, Any]) -> Config:
    """Two groups of four a cycle, three steps, an RL turn as soon as one may be."""
    tree: dict[str, dict[str, Any]] = {
        "run": {"seed": 3},
        "diffusion": {"sigmas": (1.0, 0.6, 0.3)},
        "rollout": {"group_size": 4, "groups_per_cycle": 2},
        "learner": {"engine": "torch"},
        "dmd": {"batch_size": 4},
        "fake_score": {"batch_size": 6},
        "discriminator": {"batch_size": 2, "text_errors": None, "auc_high": 1.0, "blocks": (0, 2)},
        "cadence": {"warm_dmd_updates": 1, "ramp_interval": 1, "fake_score_updates": 2, "discriminator_updates": 2},
    }
    for name, values in sections.items():
        tree[name] = tree.get(name, {}) | dict(values)
    return Config.model_validate(tree)


def cost_of(settings: Config, plan: CyclePlan, network: Network = NETWORK) -> Cost:
    """Of a cycle whose groups are as large as RL has them."""
    return cycle_cost(settings, plan, network, group_size=settings.rollout.group_size)


def without_updates(cost: Cost) -> Cost:
    """What a cycle costs whatever it plans."""
    return dataclasses.replace(cost, fake_score=0.0, discriminator=0.0, dmd=0.0, rl=0.0)


@given(PLANS, PLANS)
def test_the_updates_of_two_plans_cost_what_both_cost_together(one: CyclePlan, other: CyclePlan) -> None:
    both = CyclePlan(
        "full",
        fake_score=one.fake_score + other.fake_score,
        discriminator=one.discriminator + other.discriminator,
        dmd=one.dmd + other.dmd,
        policy_gradient=one.policy_gradient + other.policy_gradient,
    )
    settings = config()
    fixed = cost_of(settings, NOTHING)
    together = cost_of(settings, both)
    apart = [cost_of(settings, plan).learner for plan in (one, other)]
    assert together.learner == pytest.approx(sum(apart) - fixed.learner)
    assert without_updates(together) == fixed == without_updates(fixed)


@given(PLANS, st.sampled_from(["fake_score", "discriminator", "dmd"]))
def test_one_more_update_costs_more_and_never_less(plan: CyclePlan, kind: str) -> None:
    more = dataclasses.replace(plan, **{kind: dataclasses.asdict(plan)[kind] + 1})
    assert cost_of(config(), more).learner > cost_of(config(), plan).learner


@pytest.mark.parametrize(
    ("section", "values", "part"),
    [
        ("model", {"guidance": 2.0}, "dmd"),
        ("dmd", {"gan_weight": 1.0}, "dmd"),
        ("discriminator", {"gradient_penalty": 1.0}, "discriminator"),
        ("discriminator", {"mismatched_text": 1.0}, "discriminator"),
        ("discriminator", {"blocks": (0, 3)}, "discriminator"),
        ("discriminator", {"auc_rows": 4}, "auc"),
        ("discriminator", {"text_errors": 3.0}, "auc"),
        ("reward", {"final_levels": (0.1, 0.2, 0.3, 0.4)}, "reward"),
        ("rollout", {"group_size": 8}, "rollout"),
    ],
)
def test_what_asks_more_of_the_networks_costs_more(section: str, values: dict[str, Any], part: str) -> None:
    plan = CyclePlan("full", fake_score=1, discriminator=1, dmd=1, policy_gradient=1)
    sections = {"discriminator": {"auc_rows": 3}}
    base = config(**sections)
    richer = config(**sections | {section: {**sections.get(section, {}), **values}})
    more, less = cost_of(richer, plan), cost_of(base, plan)
    assert dataclasses.asdict(more)[part] > dataclasses.asdict(less)[part]


def test_a_gan_term_that_has_not_begun_costs_nothing() -> None:
    plan = CyclePlan("warm", fake_score=1, discriminator=1, dmd=1, policy_gradient=0)
    with_term, without = config(dmd={"gan_weight": 1.0}), config(dmd={"gan_weight": 0.0})
    waits = dataclasses.replace(plan, gan=False)
    assert cost_of(with_term, waits) == cost_of(without, plan) == cost_of(without, waits)
    later = config(dmd={"gan_weight": 1.0}, cadence={"warm_gan_updates": 5})
    costs = list(itertools.islice(expected_costs(later, NETWORK), 7))
    assert costs[4].dmd == costs[1].dmd < costs[5].dmd == costs[6].dmd


def test_only_cycles_that_measure_the_discriminator_pay_for_it() -> None:
    seldom = config(cadence={"warm_dmd_updates": 30, "measure_cycles": 4})
    costs = list(itertools.islice(expected_costs(seldom, NETWORK), 40))
    paid = [cycle for cycle, cost in enumerate(costs) if cost.auc > 0]
    assert paid == list(range(3, 40, 4))
    assert len({costs[cycle].auc for cycle in paid}) == 1


def test_known_counts_of_one_cycle() -> None:
    plan = CyclePlan("full", fake_score=2, discriminator=3, dmd=1, policy_gradient=1)
    settings = config(model={"guidance": 3.0}, dmd={"gan_weight": 0.5}, reward={"final_levels": (0.1, 0.2)})
    cost = cost_of(settings, plan)
    assert cost.fake_score == 2 * 6 * 3
    assert cost.discriminator == 3 * 2 * 2 * 0.75
    assert cost.auc == 2 * 8 * 4 * 0.75
    assert cost.dmd == 4 * (3 + 1 + 2 + 2 * 0.75)
    assert cost.rl == 8 * 2 * 3
    assert (cost.rollout, cost.reward) == (8 * 3, 8 * 4 * 0.75)
    assert cost.learner == cost.fake_score + cost.discriminator + cost.auc + cost.dmd + cost.rl
    # Each of these states once more with a wrong text; nobody asks for it without RL.
    gated = {"discriminator": {"text_errors": 3.0}, "reward": {"final_levels": (0.1, 0.2)}}
    assert cost_of(config(**gated), plan).auc == 2 * cost.auc
    assert cost_of(config(**gated, policy_gradient={"enabled": False}), plan).auc == cost.auc


def test_a_guidance_scale_that_is_an_input_costs_no_second_forward() -> None:
    plan = CyclePlan("full", fake_score=2, discriminator=3, dmd=1, policy_gradient=1)
    embedded = Network(layers=4, embedded_guidance=True)
    guided, plain = config(model={"guidance": 3.0}), config()
    assert cost_of(guided, plan, embedded) == cost_of(plain, plan)
    assert cost_of(guided, plan).dmd - cost_of(guided, plan, embedded).dmd == guided.dmd.batch_size


@pytest.mark.parametrize("enabled", [True, False])
def test_a_healthy_run_comes_to_spend_the_cost_of_a_full_cycle(enabled: bool) -> None:
    sizes = {"group_size": 8, "warm_group_size": 4}
    settings = config(policy_gradient={"enabled": enabled}, rollout=sizes)
    *_, late = itertools.islice(expected_costs(settings, NETWORK), 40)
    assert late == full_cycle_cost(settings, NETWORK)
    assert (late.rl > 0) == enabled


@given(st.integers(min_value=1, max_value=40))
def test_the_cycles_of_a_budget_are_the_first_that_reach_it(cycles: int) -> None:
    settings = config()
    costs = expected_costs(settings, NETWORK)
    spent = math.fsum(next(costs).learner for _ in range(cycles))
    assert cycles_within(settings, spent * (1 - 1e-9), NETWORK) == cycles
    assert cycles_within(settings, spent * (1 + 1e-9), NETWORK) == cycles + 1


@given(PLANS, st.sampled_from(["teacher", "fake_score", "own"]))
def test_executed_is_the_method_and_what_gradient_checkpointing_makes_again(plan: CyclePlan, backbone: str) -> None:
    discriminator = {"backbone": backbone}
    plain, frugal = (
        config(discriminator=discriminator, dmd={"gan_weight": 1.0}, learner={"gradient_checkpointing": frugal})
        for frugal in (False, True)
    )
    size = plain.rollout.group_size
    assert cycle_cost(plain, plan, NETWORK, group_size=size, executed=True) == cost_of(plain, plan)
    assert cost_of(frugal, plan) == cost_of(plain, plan)
    more = cycle_cost(frugal, plan, NETWORK, group_size=size, executed=True)
    assert more.fake_score * 3 == cost_of(plain, plan).fake_score * 4
    assert more.rl * 3 == cost_of(plain, plan).rl * 4
    assert more.auc == cost_of(plain, plan).auc
    assert more.actors == cost_of(plain, plan).actors
    share, batch = 0.75, plain.dmd.batch_size
    assert more.dmd - cost_of(plain, plan).dmd == plan.dmd * batch * (1 + share * (backbone != "teacher"))
    again = plan.discriminator * 2 * plain.discriminator.batch_size * share * (backbone == "own")
    assert more.discriminator - cost_of(plain, plan).discriminator == again


class Meter:
    """Counts forward-equivalents block by block in the networks themselves, by who is at work."""

    def __init__(self) -> None:
        self.spent = {"learner": 0.0, "actors": 0.0}
        self.at_work = "actors"
        self.learning: dict[int, Any] = {}

    def watch(self, transformer: Any) -> None:
        layers = len(transformer.transformer_blocks)

        def after_block(block: nn.Module, _: Any, output: tuple[Tensor | None, Tensor]) -> None:
            tokens = output[1]
            images = tokens.shape[0] / layers
            self.spend(images)
            if not tokens.requires_grad:
                return
            # A hook runs when a backward gets to its tensor: the tokens in each, a weight where weights learn.
            tokens.register_hook(lambda _: self.spend(images))
            weight = next(block.parameters())
            if weight.requires_grad:
                if id(weight) in self.learning:  # of a forward whose backward went to the image alone
                    self.learning[id(weight)].remove()
                self.learning[id(weight)] = weight.register_hook(lambda _: self.spend(images))

        for block in transformer.transformer_blocks:
            block.register_forward_hook(after_block)

    def spend(self, amount: float) -> None:
        self.spent[self.at_work] += amount


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> Meter:
    """A meter in every transformer that is loaded from now on; a copied network keeps it."""
    meter, load, learn = Meter(), pipeline.load_transformer, Learner.cycle

    def load_watched(path: str, *rest: Any) -> Any:
        transformer = load(path, *rest)
        meter.watch(transformer)
        return transformer

    def learn_watched(*args: Any) -> Any:
        meter.at_work = "learner"
        report = learn(*args)
        meter.at_work = "actors"
        return report

    monkeypatch.setattr(pipeline, "load_transformer", load_watched)
    monkeypatch.setattr(Learner, "cycle", learn_watched)
    return meter


@pytest.fixture(scope="module")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two blocks, of which the discriminator reads the first: as of more, those behind it are not run for it."""
    return write_tiny_digits(tmp_path_factory.mktemp("teacher") / "tiny", layers=2)


REAL_RUNS: dict[str, dict[str, Any]] = {
    "warm, then RL": {},
    "guidance and the direct GAN term": {"model": {"guidance": 2.0}, "dmd": {"gan_weight": 0.5}},
    "gradient penalty": {"discriminator": {"gradient_penalty": 1.0}},
    "mismatched text": {"discriminator": {"mismatched_text": 0.5}},
    "mismatched text and gradient penalty": {"discriminator": {"mismatched_text": 0.5, "gradient_penalty": 1.0}},
    "pairs and the direct GAN term": {"discriminator": {"pairing": "relativistic"}, "dmd": {"gan_weight": 0.5}},
    "features of the fake score": {"discriminator": {"backbone": "fake_score"}, "dmd": {"gan_weight": 0.5}},
    "a backbone of its own": {
        "discriminator": {"backbone": "own", "mismatched_text": 0.5},
        "dmd": {"gan_weight": 0.5},
    },
    "DMD2, the GAN term at the final levels": {
        "policy_gradient": {"enabled": False},
        "dmd": {"gan_weight": 0.5, "gan_levels": "final"},
    },
    "averaged rewards": {"reward": {"ema_decay": 0.5}},
    "small groups before RL": {"rollout": {"group_size": 4, "warm_group_size": 2}, "discriminator": {"auc_rows": 3}},
    "no RL": {"policy_gradient": {"enabled": False}},
    "no discriminator": {"policy_gradient": {"enabled": False}, "cadence": {"discriminator_updates": 0}},
    "a gate that compares texts": {"discriminator": {"text_errors": 3.0, "auc_rows": 3}},
    "no AUC": {"policy_gradient": {"enabled": False}, "discriminator": {"auc_rows": 0}},
    "measured in the second cycle, where the GAN term begins": {
        "policy_gradient": {"enabled": False},
        "dmd": {"gan_weight": 0.5},
        "cadence": {"measure_cycles": 2, "warm_gan_updates": 1},
    },
    "an ODE": {"policy_gradient": {"enabled": False}, "diffusion": {"kernel": "ode"}},
    "RL on two rows of four": {"rollout": {"group_size": 4}, "policy_gradient": {"group_rows": 2}},
    "RL on the last action": {"policy_gradient": {"last_actions": 1}},
    "minibatches and two DMD updates": {"policy_gradient": {"minibatches": 2}, "cadence": {"dmd_updates": 2}},
    "averaged rewards, minibatches and two DMD updates": {
        "reward": {"ema_decay": 0.5},
        "policy_gradient": {"minibatches": 2},
        "cadence": {"dmd_updates": 2},
    },
    "an ODE without RL and AUC": {
        "policy_gradient": {"enabled": False},
        "discriminator": {"auc_rows": 0},
        "diffusion": {"kernel": "ode"},
    },
}


# Together they are among the others.
APART = (
    *("gradient penalty", "mismatched text", "averaged rewards", "minibatches and two DMD updates"),
    *("no RL", "no AUC", "an ODE"),
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.wide] if name in APART else []) for name in REAL_RUNS]
)
def test_the_count_is_what_the_networks_of_a_real_run_count(meter: Meter, tiny_pipeline: Path, name: str) -> None:
    sections = {key: dict(values) for key, values in REAL_RUNS[name].items()}
    sections["model"] = {"path": str(tiny_pipeline), **sections.get("model", {})}
    sections["discriminator"] = {"blocks": (0,), **sections.get("discriminator", {})}
    settings = config(**sections)
    network = Network.of(inspect_pipeline(tiny_pipeline))
    run, turns = SerialRun(settings), 0
    for version in range(2):
        before = dict(meter.spent)
        report = run.cycle()
        turns += report.plan.policy_gradient
        checked = not report.plan.policy_gradient and math.isfinite(report.fresh_deviation)
        size = settings.group_size_at(version)
        measured = measures(settings, version)
        cost = cycle_cost(settings, report.plan, network, group_size=size, measured=measured, ratio_check=checked)
        assert meter.spent["learner"] - before["learner"] == pytest.approx(cost.learner), version
        assert meter.spent["actors"] - before["actors"] == pytest.approx(cost.actors), version
    assert turns == (1 if settings.policy_gradient.enabled and not settings.measures_text else 0)
    assert torch.is_grad_enabled()


class Forwards:
    """Counts the forwards of an image that learners really make, those that a backward pass repeats included."""

    def __init__(self) -> None:
        self.made, self._learning = 0.0, False

    def load(self, load: Any) -> Any:
        """As `load`, with a count in every transformer that is loaded; a copied network keeps it."""

        def watched(*given: Any) -> Any:
            transformer = load(*given)
            layers = len(transformer.transformer_blocks)

            # Checkpointed blocks get their inputs by place, others by name.
            def before(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
                tokens = inputs[0] if inputs else named["hidden_states"]
                self.made += self._learning * len(tokens) / layers

            for block in transformer.transformer_blocks:
                block.register_forward_pre_hook(before, with_kwargs=True)
            return transformer

        return watched

    def cycle(self, cycle: Any) -> Any:
        """As `cycle`, which is a learner's."""

        def watched(*given: Any) -> Any:
            self._learning = True
            report = cycle(*given)
            self._learning = False
            return report

        return watched


@pytest.mark.parametrize("backbone", ["teacher", pytest.param("fake_score", marks=pytest.mark.wide), "own"])
def test_nothing_is_made_again_but_what_the_executed_compute_counts(
    tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch, backbone: str
) -> None:
    forwards = Forwards()
    monkeypatch.setattr(pipeline, "load_transformer", forwards.load(pipeline.load_transformer))
    monkeypatch.setattr(Learner, "cycle", forwards.cycle(Learner.cycle))
    network, found = Network.of(inspect_pipeline(tiny_pipeline)), {}
    for frugal, micro_batch in ((False, None), (False, 3), (True, None), (True, 3)):
        settings = config(
            model={"path": str(tiny_pipeline)},
            learner={"gradient_checkpointing": frugal, "micro_batch": micro_batch},
            rollout={"group_size": 2},
            dmd={"gan_weight": 0.5},
            fake_score={"batch_size": 4},
            discriminator={"batch_size": 4, "blocks": (0,), "backbone": backbone, "gradient_penalty": 1.0},
            cadence={"warm_dmd_updates": 0},
        )
        forwards.made = 0.0
        plan = SerialRun(settings).cycle().plan
        assert plan.policy_gradient == 1
        costs = [cycle_cost(settings, plan, network, group_size=2, executed=executed) for executed in (False, True)]
        found[frugal, micro_batch] = forwards.made, costs[1].learner - costs[0].learner
    plain, _ = found[False, None]
    assert found[False, 3] == (plain, 0.0)
    for micro_batch in (None, 3):
        made, again = found[True, micro_batch]
        assert again > 0
        assert made - plain == pytest.approx(again), micro_batch
