"""The whole configuration: frozen, and what follows from its settings."""

import pytest
from pydantic import ValidationError

from advdmd_ray.config import Config, Resume

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
