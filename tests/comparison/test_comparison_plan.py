"""The jobs of a comparison, and the refusal to mix results of different settings."""

import itertools
import json
import re
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from advdmd_ray.comparison.job import SETTINGS, Job
from advdmd_ray.comparison.plan import claim_settings, plan_jobs, settings_of
from advdmd_ray.comparison.twinflow_settings import TwinFlowSettings
from advdmd_ray.config.comparison import read_comparison
from advdmd_ray.data.teacher_samples.source import TeacherSamplesSource
from advdmd_ray.errors import UserError
from advdmd_ray.models.sampling_settings import SamplingSettings, write_sampling
from advdmd_ray.runs.needs.compute import cycles_within, expected_costs
from comparison_files import ADVDMD, CONFIGS, DMD, RESULTS, TWINFLOW, write_comparison

pytestmark = pytest.mark.usefixtures("parsed_once")


def jobs_of(folder: Path, pipeline: Path, **values: Any) -> tuple[Job, ...]:
    return plan_jobs(read_comparison(write_comparison(folder, pipeline, **values)), folder / "out")


def test_the_teacher_comes_first_and_then_every_rival_seed_by_seed(tmp_path: Path, tiny_pipeline: Path) -> None:
    rivals, overrides = [DMD, ADVDMD, TWINFLOW], {"evaluation.teacher_guidance": 3.0}
    jobs = jobs_of(tmp_path, tiny_pipeline, rivals=rivals, overrides=overrides)
    names = [job.name for job in jobs]
    assert names[:4] == ["teacher", "dmd seed 0", "advdmd seed 0", "twinflow seed 0"]
    assert names[4:] == ["dmd seed 1", "advdmd seed 1", "twinflow seed 1"]
    assert len({job.folder for job in jobs}) == len(jobs)
    assert (jobs[0].config.judged_guidance, jobs[1].config.model.guidance) == (3.0, 1.0)
    assert (jobs[0].budget, jobs[0].teacher_steps, jobs[1].teacher_steps) == (2.0, (2, 1), ())


def test_a_headline_that_the_judge_does_not_have_is_refused_with_those_that_it_has(
    tmp_path: Path, tiny_pipeline: Path
) -> None:
    with pytest.raises(UserError, match=r"headline = 'sceen': .* of data\.source=digits has frechet, .*; name one"):
        jobs_of(tmp_path, tiny_pipeline, headline="sceen")
    assert jobs_of(tmp_path, tiny_pipeline, headline="frechet")


@pytest.mark.parametrize("changed", [{"data.path": "half"}, {"data.prompts": "more.txt"}])
def test_rivals_with_other_real_images_have_another_judge_where_it_is_made_of_them(
    changed: dict[str, Any], tmp_path: Path, tiny_pipeline: Path
) -> None:
    rivals = [{"name": "a"}, {"name": "b", "overrides": changed}]
    (name,) = changed
    with pytest.raises(UserError, match=rf"rival b has another {re.escape(name)} than rival a; .* one judge"):
        jobs_of(tmp_path, tiny_pipeline, rivals=rivals, overrides={"data.source": "files", "data.path": "images"})
    if name == "data.prompts":  # of the digits the judge is the same, whatever a rival trains on
        assert jobs_of(tmp_path, tiny_pipeline, rivals=rivals)


def test_learning_rates_fall_along_the_budget(tmp_path: Path, tiny_pipeline: Path) -> None:
    _, dmd, advdmd = jobs_of(tmp_path, tiny_pipeline, seeds=[0])
    for job in (dmd, advdmd):
        assert job.config.run.cycles == cycles_within(job.config, 200, job.network)
    assert dmd.config.run.cycles > advdmd.config.run.cycles > 1


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"discriminator.blocks": [9]}, "rival b: discriminator.blocks"),
        ({"model.max_sequence_length": 1}, "rival b: model.max_sequence_length is 1, but .* says 8"),
        ({"model.guidance": 2.0, "data.source": "shapes"}, "rival b has another data.source than rival a; one"),
        ({"lora.rank": 4}, r"rival b: lora\.rank = 4: a comparison trains whole networks"),
        (
            {"data.source": "teacher_samples", "data.prompts": "prompts.txt"},
            r"rival b: a comparison draws no data\.source=teacher_samples itself; set data\.cache",
        ),
        ({"evaluation.teacher_guidance": 2.0}, "rival b has guidance 2 for it, rival a 1; set evaluation.teacher_guid"),
    ],
)
def test_a_rival_that_cannot_run_is_refused(
    tmp_path: Path, tiny_pipeline: Path, overrides: dict[str, Any], says: str
) -> None:
    pipeline = Path(shutil.copytree(tiny_pipeline, tmp_path / "teacher"))
    write_sampling(pipeline, SamplingSettings(8))
    with pytest.raises(UserError, match=says):
        jobs_of(tmp_path, pipeline, rivals=[{"name": "a"}, {"name": "b", "overrides": overrides}])


def test_what_learns_from_a_reward_of_ones_own_is_not_called_advdmd(tmp_path: Path, tiny_pipeline: Path) -> None:
    own = {**ADVDMD, "overrides": {"reward.extra": "toy:brightness"}}
    for name in ({}, {"label": None, "name": "advdmd"}):
        with pytest.raises(UserError, match=r"rival advdmd: is called '\w+' and learns from reward\.extra=toy:bright"):
            jobs_of(tmp_path, tiny_pipeline, rivals=[own | name])
    _, job, *_ = jobs_of(tmp_path, tiny_pipeline, rivals=[own | {"label": "AdvDMD and brightness"}])
    assert job.config.reward.extra == "toy:brightness"


def test_the_same_settings_may_go_on(tmp_path: Path, tiny_pipeline: Path) -> None:
    for _ in range(2):
        claim_settings(jobs_of(tmp_path, tiny_pipeline))
    # More seeds, other labels, another place of the file and settings that no job reads are no other settings.
    other = jobs_of(
        tmp_path,
        tiny_pipeline,
        seeds=[1, 0, 2],
        rivals=[{**ADVDMD, "label": "ours"}, DMD],
        overrides={"metrics.port": 1, "run.cycles": 3},
    )
    claim_settings(other)


def test_judging_the_teacher_at_another_guidance_leaves_the_students_results_valid(
    tmp_path: Path, tiny_pipeline: Path
) -> None:
    claim_settings(jobs_of(tmp_path, tiny_pipeline))
    teacher, *students = jobs_of(tmp_path, tiny_pipeline, overrides={"evaluation.teacher_guidance": 3.0})
    claim_settings(students)
    with pytest.raises(UserError, match=r"config\.model\.guidance was 1\.0 and is 3\.0"):
        claim_settings([teacher])


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"budget": 300}, "budget was 200.0 and is 300.0"),
        ({"points": 3}, "points"),
        ({"judge_samples": 40}, "judge_samples"),
        ({"overrides": {"dmd.learning_rate": 0.5}}, "config.dmd.learning_rate was 0.0001 and is 0.5"),
        ({"overrides": {"learner.late_steps": 3}}, "config.learner.late_steps"),
        ({"rivals": [DMD, {**TWINFLOW, "name": "advdmd"}]}, "trainer|sigmas|policy_gradient"),
    ],
)
def test_results_of_other_settings_are_refused_and_the_difference_is_named(
    tmp_path: Path, tiny_pipeline: Path, values: dict[str, Any], key: str
) -> None:
    claim_settings(jobs_of(tmp_path, tiny_pipeline))
    with pytest.raises(UserError, match=key) as raised:
        claim_settings(jobs_of(tmp_path, tiny_pipeline, **values))
    assert "--name" in str(raised.value)


def test_a_refused_start_leaves_nothing_behind(tmp_path: Path, tiny_pipeline: Path) -> None:
    claim_settings(jobs_of(tmp_path, tiny_pipeline, rivals=[DMD]))
    _, new, *_ = jobs = jobs_of(tmp_path, tiny_pipeline, rivals=[ADVDMD, DMD], budget=300)
    with pytest.raises(UserError, match="budget was"):
        claim_settings(jobs)
    assert not new.folder.exists()


def test_the_teacher_is_judged_beside_the_samples_that_the_rivals_learn_from(
    tmp_path: Path, tiny_pipeline: Path
) -> None:
    (tmp_path / "prompts.txt").write_text("one\ntwo\n")
    overrides = {
        "data.source": "teacher_samples",
        "data.prompts": str(tmp_path / "prompts.txt"),
        "data.cache": str(tmp_path),
        "model.guidance": 3.0,
        "evaluation.teacher_guidance": 2.0,
    }
    teacher, *rivals = jobs_of(tmp_path, tiny_pipeline, overrides=overrides)
    assert teacher.config.judged_guidance == settings_of(teacher)["config"]["model"]["guidance"] == 2.0
    theirs, *others = (TeacherSamplesSource(job.config).shards() for job in (teacher, *rivals))
    assert others == [theirs] * len(rivals)
    # Students of images that were drawn otherwise are others.
    assert {settings_of(job)["config"]["data"]["guidance"] for job in rivals} == {2.0}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cost", 0),
        ("teacher", "other weights"),
        ("judge_seed", 1),
        ("judge_revision", 0),
        ("pipeline", {"shift": 9.0}),
    ],
)
def test_another_count_teacher_or_judge_is_another_comparison(
    tmp_path: Path, tiny_pipeline: Path, key: str, value: Any
) -> None:
    job = jobs_of(tmp_path, tiny_pipeline)[1]
    claim_settings([job])
    path = job.folder / SETTINGS
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UserError, match=rf"settings: {key}(\.\w+)? was"):
        claim_settings([job])


def test_a_setting_that_is_younger_than_the_results_counts_as_its_default(tmp_path: Path, tiny_pipeline: Path) -> None:
    job = jobs_of(tmp_path, tiny_pipeline)[2]
    claim_settings([job])
    path = job.folder / SETTINGS
    stood = json.loads(path.read_text())
    del stood["config"]["learner"]["late_steps"], stood["judge_revision"], stood["pipeline"]
    path.write_text(json.dumps(stood))
    claim_settings([job])
    learner = job.config.learner.model_copy(update={"late_steps": 4.0})
    with pytest.raises(UserError, match=r"late_steps was 2\.0 and is 4\.0"):
        claim_settings([replace(job, config=job.config.model_copy(update={"learner": learner}))])


def test_results_of_a_trainer_that_learned_otherwise_are_refused(tmp_path: Path) -> None:
    jobs = {job.rival: job for job in plan_jobs(read_comparison(CONFIGS / "shapes.yaml"), tmp_path)}
    for name, revision in (("advdmd", 2), ("twinflow_2step", 3)):
        claim_settings([jobs[name]])
        path = jobs[name].folder / SETTINGS
        stood = json.loads(path.read_text())
        del stood["revision"]  # as results have it that are older than the key
        path.write_text(json.dumps(stood))
        with pytest.raises(UserError, match=f"revision was 1 and is {revision}"):
            claim_settings([jobs[name]])


@pytest.mark.parametrize(
    ("rival", "section", "change", "counts"),
    [
        ("advdmd", "rollout", {"group_size": 10}, True),
        ("twinflow_2step", "rollout", {"group_size": 10}, False),
        ("twinflow_2step", "learner", {"final_rate": 0.9}, True),
    ],
)
def test_results_hang_on_the_sections_that_their_trainer_reads_alone(
    rival: str, section: str, change: dict[str, float], counts: bool, tmp_path: Path
) -> None:
    job = next(job for job in plan_jobs(read_comparison(CONFIGS / "shapes.yaml"), tmp_path) if job.rival == rival)
    job.folder.mkdir(parents=True)
    claim_settings([job])
    values = getattr(job.config, section).model_copy(update=change)
    other = replace(job, config=job.config.model_copy(update={section: values}))
    with pytest.raises(UserError, match=f"config.{section}") if counts else nullcontext():
        claim_settings([other])


@pytest.mark.parametrize(
    ("rival", "says"),
    [
        (
            {"trainer": "gan"},
            "rival b: trainer = 'gan': did you mean advdmd? It is one of advdmd, twinflow, or a class",
        ),
        ({"settings": {"bound": 2.0}}, "rival b: trainer advdmd has no settings of its own; use overrides"),
        (
            {"trainer": "twinflow", "settings": {"bonud": 2.0}},
            "rival b: settings: unknown key bonud; did you mean bound?",
        ),
        ({"trainer": "twinflow", "settings": {"bound": 0.0}}, "rival b: settings: bound = 0.0"),
    ],
)
def test_what_is_wrong_with_a_trainer_is_one_line(
    tmp_path: Path, tiny_pipeline: Path, rival: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError) as raised:
        jobs_of(tmp_path, tiny_pipeline, rivals=[{"name": "a"}, {"name": "b", **rival}])
    assert says in str(raised.value)


def test_results_hang_on_the_trainers_own_settings(tmp_path: Path) -> None:
    jobs = plan_jobs(read_comparison(CONFIGS / "shapes.yaml"), tmp_path)
    job = next(job for job in jobs if job.rival == "twinflow_2step")
    assert isinstance(job.settings, TwinFlowSettings)
    claim_settings([job])
    with pytest.raises(UserError, match=r"settings\.bound was 1\.0 and is 2\.0"):
        claim_settings([replace(job, settings=job.settings.model_copy(update={"bound": 2.0}))])
    # Results that are older than the key do not say what they were made with.
    path = job.folder / SETTINGS
    stood = json.loads(path.read_text())
    del stood["settings"]
    path.write_text(json.dumps(stood))
    with pytest.raises(UserError, match="settings was None"):
        claim_settings([job])


@pytest.mark.parametrize("mode", ["whole", "quick"])
@pytest.mark.parametrize("name", ["shapes", "oracle", "ablation", "channels", "two_steps", "beyond", "finalists"])
def test_the_comparisons_that_ship_can_be_planned(name: str, mode: str, tmp_path: Path) -> None:
    comparison = read_comparison(CONFIGS / f"{name}.yaml", quick=mode == "quick")
    teacher, *jobs = plan_jobs(comparison, tmp_path)
    assert len(jobs) == len(comparison.rivals) * len(comparison.seeds)
    assert teacher.config.judged_guidance == 2.5
    first = jobs[0]
    assert all(job.config.model.guidance == first.config.model.guidance for job in jobs)
    for job in jobs:
        plan = itertools.islice(expected_costs(job.config, job.network), job.config.run.cycles)
        assert any(cost.rl > 0 for cost in plan) == job.config.policy_gradient.enabled, job.name


@pytest.mark.parametrize(
    ("name", "without"), [("digits", set()), ("oracle", set()), ("shapes", set()), ("ablation", {"final_gan_levels"})]
)
def test_the_results_that_ship_are_refused_for_what_is_younger_than_they_and_nothing_else(
    name: str, without: set[str], tmp_path: Path
) -> None:
    output = Path(shutil.copytree(RESULTS / name, tmp_path / name))
    jobs = plan_jobs(read_comparison(CONFIGS / f"{name}.yaml"), output)
    with pytest.raises(UserError, match="holds results of other settings"):
        claim_settings(jobs)
    assert {job.rival for job in jobs if not job.done} == without
    done = [job for job in jobs if job.done]
    for job in done:
        path, now = job.folder / SETTINGS, settings_of(job)
        stood = json.loads(path.read_text()) | {"revision": now["revision"]}
        if "policy_gradient" in stood["config"]:
            stood["config"]["policy_gradient"]["final_rate"] = now["config"]["policy_gradient"]["final_rate"]
            del stood["config"]["discriminator"]["auc_low"]  # and text_errors has its default
        path.write_text(json.dumps(stood))
    claim_settings(done)


@pytest.mark.parametrize("name", ["beyond", "channels", "finalists", "two_steps"])
def test_the_results_of_the_second_teacher_are_whole_and_go_on(name: str, tmp_path: Path) -> None:
    output = Path(shutil.copytree(RESULTS / name, tmp_path / name))
    jobs = plan_jobs(read_comparison(CONFIGS / f"{name}.yaml"), output)
    claim_settings(jobs)
    assert all(job.done for job in jobs)


def changed_keys(one: Job, other: Job) -> set[str]:
    first, second = (
        {
            f"{section}.{key}": value
            for section, keys in settings_of(job)["config"].items()
            for key, value in keys.items()
        }
        for job in (one, other)
    )
    return {key for key in first if first[key] != second[key]}


def test_dmd2_is_advdmd_without_rl_and_dmd_is_dmd2_without_a_discriminator(tmp_path: Path) -> None:
    comparison = read_comparison(CONFIGS / "shapes.yaml")
    jobs = {job.rival: job for job in plan_jobs(comparison, tmp_path)[: len(comparison.rivals) + 1]}
    of_rl = {"policy_gradient.enabled", "discriminator.auc_rows"}
    assert changed_keys(jobs["dmd2"], jobs["advdmd"]) == of_rl
    assert changed_keys(jobs["final_only"], jobs["advdmd"]) == {"policy_gradient.advantage"}
    assert changed_keys(jobs["advdmd_2step"], jobs["advdmd"]) == {"diffusion.sigmas"}
    without = {"cadence.discriminator_updates", "dmd.gan_weight", "reward.oracle_agreement"}
    assert changed_keys(jobs["dmd"], jobs["dmd2"]) == without


def test_an_ablation_changes_one_setting_of_its_first_rival(tmp_path: Path) -> None:
    _, first, *others = plan_jobs(read_comparison(CONFIGS / "ablation.yaml"), tmp_path)
    together = {
        "cps": {"diffusion.kernel", "diffusion.eta"},
        "every_fourth": {"cadence.ramp_interval", "cadence.ramp_rl_turns"},
    }
    for job in others:
        changed = changed_keys(first, job)
        assert len(changed) == 1 or changed == together.get(job.rival), job.name
