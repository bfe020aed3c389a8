"""The recipes for real models, planned on the headers of the full-size models."""

from dataclasses import replace
from pathlib import Path

import pytest

from advdmd_ray.cli import main
from advdmd_ray.config import read_config
from advdmd_ray.config.shipped import shipped_names
from advdmd_ray.models.families.kept import FLOAT32
from advdmd_ray.planning.cards import CARDS
from advdmd_ray.planning.costs import Speeds, Work, computed
from advdmd_ray.planning.report import plan
from advdmd_ray.runs.doctor.kubernetes import cluster_spec
from advdmd_ray.runs.needs.memory import memory, object_store_demand, placement, sizes_of
from advdmd_ray.runs.needs.micro_batch import HEADROOM
from full_size import MODELS, PUBLISHED, write_full_size
from manifests import cluster, missing, rayjob, submitted
from pictures import write_captioned

CONFIGS = Path(__file__).parents[2] / "configs"
GIB = 2**30
BESIDE_SD35 = {"CLIP-L": 123_060_480, "CLIP-G": 694_659_840, "T5-XXL": 4_762_310_656, "codec": 83_819_683}
"""Published weights of what stands beside the transformer in SD3.5."""


@pytest.mark.parametrize("recipe", sorted(MODELS))
def test_a_recipe_is_planned_on_the_headers_of_its_model(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # a cluster, which nobody asks in a dry run
    folder = write_full_size(recipe, tmp_path / "model")
    write_captioned(tmp_path / "images", 40, (1024, 1024))
    overrides = [f"model.path={folder}", f"data.path={tmp_path / 'images'}", f"run.output={tmp_path}", "metrics.port=0"]
    assert main(["run", "--config", str(CONFIGS / f"{recipe}.yaml"), "--dry-run", *overrides]) == 0
    text = capsys.readouterr().out
    config = read_config(str(CONFIGS / f"{recipe}.yaml"), overrides)
    sizes = sizes_of(config)
    assert sizes.transformer == pytest.approx(PUBLISHED[recipe], rel=0.01)
    assert f"{sizes.transformer:,} weights" in text
    assert (sizes.adapters > 0) == ("lora" in recipe)
    if sizes.adapters:
        assert sizes.adapters * FLOAT32 < 0.03 * 2 * sizes.transformer
    gpus = {role.name: role.workers * role.num_gpus for role in placement(config)}
    assert sum(gpus.values()) == int(_said(recipe, "GPUs of"))
    per_gpu = {row.role: row.gpu for row in memory(config, sizes)}
    # The comment's number of gigabytes holds all that is counted, activations included.
    for role in ("rollout", "reward", "learner"):
        assert 0 < per_gpu[role] < int(_said(recipe, "GB (")) * 1e9, role
    speeds = Speeds(CARDS["a100-40" if _said(recipe, "GB (") == "40" else "a100-80"])
    work = Work.of(config, sizes)
    made = plan(
        config, sizes, card=speeds.card.memory, gpus=8, costs=lambda of: computed(of, work, speeds), search=True
    )
    assert made.thriftiest is not None
    assert made.own.gpu_seconds <= 1.02 * made.thriftiest.gpu_seconds, "cards that stand idle are a fault of the recipe"
    for role, shares in made.own.planned.forecast.shares.items():
        assert shares["busy"] > 0.4, role
        assert made.own.needs.roles[role].used <= HEADROOM * made.own.needs.roles[role].card, role


def test_the_pods_of_the_rayjob_on_gpus_are_what_the_doctor_prints_for_its_model(tmp_path: Path) -> None:
    entrypoint = rayjob("rayjob-gpu.yaml")["spec"]["entrypoint"]
    config = submitted(entrypoint, f"model.path={write_full_size('sd35_medium_lora', tmp_path / 'model')}")
    sizes = replace(sizes_of(config), others=sum(BESIDE_SD35.values()))
    assert missing(cluster_spec(config, sizes), cluster("rayjob-gpu.yaml")) == []
    per_gpu = {row.role: row.gpu for row in memory(config, sizes)}
    assert all(per_gpu[role] < HEADROOM * 40e9 for role in config.roles), "GPUs of 40 GB, as the manifest says"


@pytest.mark.parametrize("name", [name for name in shipped_names() if "/" not in name])
def test_a_recipe_sets_the_object_store_that_its_run_fills(name: str, tmp_path: Path) -> None:
    model = [f"model.path={write_full_size(name, tmp_path / 'model')}"] if name in MODELS else []
    config = read_config(name, model)
    demand = object_store_demand(config, sizes_of(config))
    assert demand <= config.ray.object_store_bytes, f"{demand / GIB:.1f} GiB"
    assert config.buffer.max_bytes <= config.ray.object_store_bytes


@pytest.mark.parametrize("recipe", sorted(MODELS))
def test_a_recipe_has_the_discriminator_that_learnt_to_read_the_prompt(recipe: str) -> None:
    """docs/lab/first-teacher.md: frozen features, the fake score's, or no mismatched text cost 15 points."""
    config = read_config(recipe)
    assert config.discriminator.backbone == "own"
    assert config.discriminator.mismatched_text > 0
    assert config.cadence.warm_dmd_updates > 0


def _said(recipe: str, after: str) -> str:
    """The number in the first line of a recipe that stands before these words."""
    line = _text(recipe).splitlines()[0]
    return line.partition(f" {after}")[0].rpartition(" ")[2]


def _text(recipe: str) -> str:
    return (CONFIGS / f"{recipe}.yaml").read_text()
