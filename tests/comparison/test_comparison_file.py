"""The file of a comparison: read strictly, and each rival resolved to one configuration."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from advdmd_ray.config import read_config
from advdmd_ray.config.comparison import Comparison, Quick, Rival, read_comparison, rival_config
from advdmd_ray.errors import UserError
from comparison_files import ADVDMD, CONFIGS, DMD, write_comparison

SHIPPED = sorted(CONFIGS.glob("*.yaml"))
NOWHERE = Path("nowhere")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"bugdet": 1}, "unknown key bugdet; did you mean budget?"),
        (
            {"rivals": [{"name": "a", "override": {}}]},
            "unknown key rivals.0.override; did you mean rivals.0.overrides?",
        ),
        ({"quick": {"seed": [0]}}, "unknown key quick.seed; did you mean quick.seeds?"),
        ({"budget": 0}, "budget = 0"),
        ({"seeds": [1, 1]}, "seeds must differ"),
        ({"seeds": []}, "seeds"),
        ({"rivals": [DMD, DMD]}, "dmd stands there twice"),
        ({"rivals": [{"name": "teacher"}]}, "teacher is the teacher's own name"),
        ({"judge_samples": 5}, "judge_samples = 5"),
        ({"actors_curve": ["dmd", "rl_6"]}, "actors_curve names rl_6, which is no rival; there: "),
        (
            {"rivals": [DMD, {**DMD, "name": "few", "share": 0.5}], "actors_curve": ["dmd", "few"]},
            "actors_curve is of one learner compute, got shares {'dmd': 1.0, 'few': 0.5}; give them one",
        ),
        ({"actors_curve": ["dmd", "dmd"]}, "actors_curve has dmd alone; name a second rival, or none"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path: Path, values: dict[str, Any], says: str) -> None:
    path = write_comparison(tmp_path, NOWHERE, **values)
    with pytest.raises(UserError) as raised:
        read_comparison(path)
    assert says in str(raised.value)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"dmd.gan_weigth": 1}, "unknown key dmd.gan_weigth; did you mean dmd.gan_weight?"),
        ({"dmd.gan_weight": -1}, "dmd.gan_weight = -1"),
        ({"diffusion.sigmas": [1.0]}, "at least 2 diffusion.sigmas"),
        ({"dmd..gan_weight": 1}, "expected section.key"),
        ({"dmd.gan_weight.x": 1}, "expected section.key"),
        ({"dmd": {"gan_weight": 1}}, "expected section.key"),
    ],
)
def test_what_is_wrong_with_a_rival_names_it(tmp_path: Path, overrides: dict[str, Any], says: str) -> None:
    rivals = [{"name": "odd", "overrides": overrides}]
    comparison = read_comparison(write_comparison(tmp_path, NOWHERE, rivals=rivals))
    with pytest.raises(UserError, match="rival odd: ") as raised:
        rival_config(comparison, comparison.rivals[0], 0, tmp_path)
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("values", "blamed"),
    [
        ({"overrides": {"dmd.gan_weight": -1}}, "small: overrides: dmd.gan_weight = -1"),
        ({"quick": {"overrides": {"dmd.gan_weight": -1}}}, "small-quick: quick.overrides: dmd.gan_weight = -1"),
    ],
)
def test_the_place_of_a_wrong_setting_is_blamed(tmp_path: Path, values: dict[str, Any], blamed: str) -> None:
    path = write_comparison(tmp_path, NOWHERE, **values)
    comparison = read_comparison(path, quick="quick" in values)
    with pytest.raises(UserError) as raised:
        rival_config(comparison, comparison.rivals[0], 0, tmp_path)
    assert str(raised.value).startswith(blamed)
    base = tmp_path / "base.yaml"
    base.write_text("dmd: {batch_size: none}")
    with pytest.raises(UserError) as raised:
        rival_config(comparison, comparison.rivals[0], 0, tmp_path)
    assert str(raised.value).startswith(f"{base}: dmd.batch_size = 'none'")


def test_a_rivals_settings_are_base_then_common_then_quick_then_its_own(tmp_path: Path) -> None:
    path = write_comparison(
        tmp_path,
        NOWHERE,
        overrides={"dmd.learning_rate": 0.1, "fake_score.learning_rate": 0.1, "learner.ema_decay": 0.1},
        rivals=[{"name": "a", "overrides": {"fake_score.learning_rate": 0.2, "learner.ema_decay": 0.2}}],
        quick={"budget": 5, "seeds": [7], "overrides": {"learner.ema_decay": 0.3, "dmd.learning_rate": 0.3}},
    )
    full, quick = read_comparison(path), read_comparison(path, quick=True)
    assert (full.name, full.budget, full.seeds, full.points) == ("small", 200, (0, 1), 2)
    assert (quick.name, quick.budget, quick.seeds, quick.points) == ("small-quick", 5, (7,), 2)
    for comparison, common in ((full, 0.1), (quick, 0.3)):
        config = rival_config(comparison, comparison.rivals[0], 7, tmp_path / "out")
        assert (config.dmd.learning_rate, config.fake_score.learning_rate) == (common, 0.2)
        assert config.learner.ema_decay == 0.2
        assert config.rollout.group_size == 4
        assert config.run.seed == 7
        assert config.folder == tmp_path / "out" / "a" / "seed-7"
        assert (config.learner.engine, config.learner.ranks) == ("torch", 1)


def test_rivals_do_not_touch_each_others_settings(tmp_path: Path) -> None:
    comparison = read_comparison(write_comparison(tmp_path, NOWHERE, rivals=[DMD, ADVDMD]))
    dmd, advdmd = (rival_config(comparison, rival, 0, tmp_path) for rival in comparison.rivals)
    assert (dmd.policy_gradient.enabled, advdmd.policy_gradient.enabled) == (False, True)
    assert [rival.title for rival in comparison.rivals] == ["dmd", "AdvDMD"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
@pytest.mark.parametrize("quick", [False, True])
def test_the_shipped_comparisons_resolve(path: Path, quick: bool) -> None:
    comparison = read_comparison(path, quick=quick)
    base = read_config(comparison.base)
    configs = {rival.name: rival_config(comparison, rival, 3, NOWHERE) for rival in comparison.rivals}
    assert comparison.name == path.stem + "-quick" * quick
    assert all(config.model == base.model for config in configs.values())
    resolved = [
        (rival.trainer, rival.start, rival.share, configs[rival.name].model_dump(exclude={"run"}))
        for rival in comparison.rivals
    ]
    assert all(one not in resolved[:index] for index, one in enumerate(resolved)) or quick


@pytest.mark.parametrize("model", [Comparison, Rival, Quick])
def test_every_key_is_described(model: type[BaseModel]) -> None:
    fields = model.model_fields
    assert [name for name, field in fields.items() if not (field.description or "").endswith(".")] == []
