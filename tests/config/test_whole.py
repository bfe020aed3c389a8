"""The whole configuration: frozen, and what follows from its settings."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from advdmd_ray.config import Config, Resume
from advdmd_ray.config.objectives import PolicyGradientSection
from advdmd_ray.config.rewards import best_evidence, reads_scores
from advdmd_ray.learner.health import TextEvidence
from advdmd_ray.learner.signal import RewardSignal

ORACLE = {"data": {"source": "shapes"}, "reward": {"kind": "oracle"}}


@pytest.mark.parametrize(
    ("tree", "source"),
    [
        ({}, "discriminator"),
        ({"policy_gradient": {"enabled": False}}, "discriminator"),
        ({"policy_gradient": {"enabled": False}, "cadence": {"discriminator_updates": 0}}, "nobody"),
        (ORACLE, "oracle"),
        (ORACLE | {"cadence": {"discriminator_updates": 0}}, "oracle"),
    ],
)
def test_who_scores_follows_from_the_reward_and_whether_a_discriminator_is_trained(
    tree: dict[str, dict[str, object]], source: str
) -> None:
    assert Config.model_validate(tree).rewarded_by == source


@given(st.data())
def test_a_run_is_refused_exactly_where_no_score_reaches_an_action_that_rl_learns_from(data: st.DataObject) -> None:
    weight = st.sampled_from([0.0, 1.0])
    section = PolicyGradientSection(
        advantage=data.draw(st.sampled_from(["reward_to_go", "own_step", "final_only", "potential"])),
        gamma=data.draw(st.sampled_from([0.0, 0.5, 1.0])),
        final_weight=data.draw(weight),
        intermediate_weight=data.draw(st.one_of(weight, st.tuples(weight, weight, weight))),
        last_actions=data.draw(st.sampled_from([None, 1, 2, 3])),
    )
    read = reads_scores(section, 4)
    free = Config.model_validate({"policy_gradient": section.model_dump() | {"enabled": False}})
    told = free.model_copy(update={"policy_gradient": section})
    assert read == any(RewardSignal(told).used_levels)
    if read:
        Config.model_validate({"policy_gradient": section.model_dump()})
    else:
        with pytest.raises(ValidationError, match="no score reaches an action"):
            Config.model_validate({"policy_gradient": section.model_dump()})


@pytest.mark.parametrize(
    ("sections", "share"),
    [
        ({}, 0.5),
        ({"policy_gradient": {"enabled": False}}, 1.0),
        ({"reward": {"extra": "toy:brightness"}}, 0.5),
        ({"reward": {"extra": "toy:brightness"}, "discriminator": {"auc_rows": 0}}, 1.0),
        ({"reward": {"kind": "oracle"}}, 1.0),
        ({"dmd": {"gan_weight": 0.0}}, 0.0),
    ],
)
def test_the_discriminator_learns_for_rewards_only_where_rl_hears_it(
    sections: dict[str, dict[str, object]], share: float
) -> None:
    assert Config.model_validate({"dmd": {"gan_weight": 1.0}} | sections).gan_share == share


@pytest.mark.parametrize(("groups", "decay"), [(1, 0.5), (4, 0.3), (8, 0.9), (2, 0.0)])
@pytest.mark.parametrize("measurements", [1, 2, 7, None])
def test_the_best_evidence_is_what_a_discriminator_that_wins_every_comparison_comes_to(
    groups: int, decay: float, measurements: int | None
) -> None:
    evidence = TextEvidence.none(1)
    won = [[4.0 * groups], [2.0 * groups], [4.0 * groups]]
    for _ in range(measurements or 400):
        evidence = evidence.followed(won, decay)
    most = best_evidence(groups, decay, math.inf if measurements is None else measurements)
    assert evidence.above_chance(0.999 * most) == (True,)
    assert evidence.above_chance(1.001 * most) == (False,)


def test_every_setting_says_whether_a_resumed_run_may_change_it() -> None:
    said = {
        f"{section}.{name}": [kind for kind in field.metadata if isinstance(kind, Resume)]
        for section, part in Config()
        for name, field in type(part).model_fields.items()
    }
    assert [name for name, kinds in said.items() if len(kinds) != 1] == []
    assert [".".join(key) for key in Config.settings(*Resume)] == list(said)
    places = ("run", "output"), ("model", "embeddings"), ("data", "cache"), ("metrics", "targets")
    weights = ("scorers", "clip_score"), ("scorers", "pick_score"), ("scorers", "hpsv2")
    weights = (*weights, ("scorers", "image_reward"))
    assert Config.settings(Resume.PLACE) == (*places, *weights)


def test_the_teacher_is_judged_as_the_student_matches_it_unless_told_otherwise() -> None:
    assert Config.model_validate({"model": {"guidance": 3.5}}).judged_guidance == 3.5
    told = Config.model_validate({"model": {"guidance": 3.5}, "evaluation": {"teacher_guidance": 2.0}})
    assert (told.judged_guidance, told.model.guidance) == (2.0, 3.5)


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().run.cycles = 3  # pyright: ignore[reportAttributeAccessIssue] - that is what is refused
