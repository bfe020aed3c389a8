"""The teacher's own images as the real set."""

import itertools
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
import torch

from advdmd_ray.comparison.serial import SerialRun
from advdmd_ray.config import Config
from advdmd_ray.data.registry import source_of
from advdmd_ray.data.teacher_samples.plan import SAMPLES_SEED, SHARD, SamplePlan
from advdmd_ray.data.teacher_samples.sizes import SizedSamples
from advdmd_ray.data.teacher_samples.source import TeacherSamplesSource
from advdmd_ray.diffusion.schedule import teacher_sigmas
from advdmd_ray.diffusion.seeds import group_noise
from advdmd_ray.errors import UserError
from advdmd_ray.models.families import adapter
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.pipeline import load_denoiser
from advdmd_ray.runs.parts.inputs import encode_table
from advdmd_ray.runs.parts.workers import build_tools
from advdmd_ray.seeding import derive_seed
from tiny_families import write_family

PROMPTS = ("a handwritten one", "a handwritten two", "a handwritten seven")


def _config(
    tmp_path: Path, guidance: float = 2.0, model: Mapping[str, object] = MappingProxyType({}), **data: object
) -> Config:
    prompts = tmp_path / "prompts.txt"
    # A prompt that stands there twice is drawn as often as the others.
    prompts.write_text("\n".join([*PROMPTS, PROMPTS[0]]), encoding="utf-8")
    return Config.model_validate(
        {
            "run": {"output": str(tmp_path / "runs")},
            "model": dict(model),
            "data": {
                "source": "teacher_samples",
                "prompts": str(prompts),
                "teacher_samples": 14,
                "teacher_steps": 3,
                **data,
            },
            "rollout": {"group_size": 4, "groups_per_cycle": 2},
            "learner": {"engine": "torch"},
            "dmd": {"batch_size": 2},
            "fake_score": {"batch_size": 2},
            "discriminator": {"batch_size": 2, "blocks": (1, 2)},
            "cadence": {"fake_score_updates": 1, "warm_dmd_updates": 0, "ramp_interval": 1},
            "evaluation": {"teacher_guidance": guidance},
        }
    )


def plan_of(config: Config) -> SamplePlan:
    plan = TeacherSamplesSource(config).shards()
    assert isinstance(plan, SamplePlan)
    return plan


def _drawn(config: Config) -> SamplePlan:
    plan = plan_of(config)
    tools = build_tools(config, encode_table(config))
    for shard in plan.missing():
        plan.make(shard, tools)
    return plan


def test_a_run_draws_them_and_learns_from_them(tmp_path: Path) -> None:
    config = _config(tmp_path)
    run = SerialRun(config)
    plan = plan_of(config)
    assert plan.images == 14 * len(PROMPTS) > SHARD  # a whole shard and the rest
    assert plan.shards == 2
    assert not plan.missing()
    assert run.cycle().updates["discriminator"].updates
    real = source_of(config).real_images(run.table.texts)
    assert len(real) == plan.images
    counts = real.prompt_ids.bincount(minlength=len(run.table.texts)).tolist()
    assert dict(zip(run.table.texts, counts, strict=True)) == dict.fromkeys(PROMPTS, 14)
    judge = source_of(config).judge()
    assert judge.ceiling().figures["frechet"] >= 0
    rows = torch.arange(6) % len(PROMPTS)
    grey = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1  # as the digits' codec gives them
    features = [judge.features(images) for images in (grey, grey.expand(-1, 3, -1, -1))]
    assert judge.score(features[0], rows) == judge.score(features[1], rows)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_they_are_what_the_guided_teacher_draws_for_their_prompts(tmp_path: Path, guidance: float) -> None:
    config = _config(tmp_path, guidance)
    plan, table = _drawn(config), encode_table(config)
    latents = plan.opened()
    assert latents.captions == list(PROMPTS) * 14
    ways, shift = (
        adapter(inspect_pipeline(config.model.path).family),
        inspect_pipeline(config.model.path).scheduler_shift,
    )
    teacher = ways.guided(load_denoiser(config.model.path), table.unconditional, guidance)
    row = 4
    seed = derive_seed(SAMPLES_SEED, "teacher_sample", row)
    x = group_noise(plan.latent_shape, [seed], "initial")
    with torch.no_grad():
        for sigma, after in itertools.pairwise(teacher_sigmas(3, shift).tolist()):
            x = x + (after - sigma) * teacher(x, torch.tensor([sigma]), table.of(1, 1))
    torch.testing.assert_close(latents[torch.tensor([row])], x, rtol=0, atol=1e-5)
    assert not torch.allclose(latents[torch.tensor([1])], x, atol=1e-2)  # another draw of the same prompt


def test_a_shard_that_is_lost_is_drawn_again_and_is_what_it_was(tmp_path: Path) -> None:
    config = _config(tmp_path)
    plan = _drawn(config)
    whole = [plan.file(shard).read_bytes() for shard in range(plan.shards)]
    plan.file(0).unlink()
    with pytest.raises(UserError, match=r"1 of 2 shards of the teacher's samples are not there"):
        plan.opened()
    assert plan.missing() == [0]
    _drawn(config)
    assert [plan.file(shard).read_bytes() for shard in range(plan.shards)] == whole
    assert sorted(file.name for file in plan.folder.iterdir()) == ["00000000-00000032.arrow", "00000032-00000042.arrow"]


def test_what_they_hang_on_names_their_folder(tmp_path: Path) -> None:
    config = _config(tmp_path)
    plan = plan_of(config)
    others = [
        _config(tmp_path, teacher_steps=4),
        _config(tmp_path, guidance=3.0),
        config.model_copy(update={"model": config.model.model_copy(update={"precision": "bfloat16"})}),
        config.model_copy(update={"model": config.model.model_copy(update={"negative_prompt": "six"})}),
    ]
    described = Path(shutil.copytree(inspect_pipeline(config.model.path).folder, tmp_path / "teacher"))
    model = config.model.model_copy(update={"path": str(described)})
    others.append(config.model_copy(update={"model": model}))
    assert plan_of(others[-1]) == plan
    file = described / "vae" / "config.json"
    file.write_text(file.read_text() + "\n")
    assert len({plan.folder, *(plan_of(other).folder for other in others)}) == 6
    assert plan_of(config.model_copy(update={"run": config.run.model_copy(update={"seed": 5})})) == plan
    (tmp_path / "prompts.txt").write_text("a handwritten nine", encoding="utf-8")
    assert plan_of(config).folder != plan.folder


def test_more_of_them_are_the_same_ones_and_some_more(tmp_path: Path) -> None:
    few = _drawn(_config(tmp_path)).opened()
    more = plan_of(_config(tmp_path, teacher_samples=20))
    assert more.missing() == [1]  # the whole shard serves again, the last one has grown
    many = _drawn(_config(tmp_path, teacher_samples=20)).opened()
    assert (len(few), len(many)) == (42, 60)
    torch.testing.assert_close(many[torch.arange(42)], few[torch.arange(42)], rtol=0, atol=1e-5)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    config = _config(tmp_path)
    (tmp_path / "file").write_text("")
    plan = replace(plan_of(config), folder=tmp_path / "file" / "below")
    with pytest.raises(UserError, match=r"file/below: cannot be made \(Not a directory\); choose another data.cache"):
        plan.make(0, build_tools(config, encode_table(config)))


SIZES = [[16, 32], [32, 16], [16, 16]]


def test_of_each_size_they_are_what_a_run_of_that_size_alone_draws_and_learns_from(tmp_path: Path) -> None:
    model = {"path": str(write_family("sd3", tmp_path / "teacher")), "guidance": 2.0}
    sized = _config(tmp_path, model=model, buckets=SIZES)
    run = SerialRun(sized)
    plan = TeacherSamplesSource(sized).shards()
    assert isinstance(plan, SizedSamples)
    assert plan.images == 3 * 14 * len(PROMPTS)
    assert plan.missing() == []
    assert [len(plan.rows(shard)) for shard in range(6)] == [32, 10] * 3
    with pytest.raises(IndexError, match="there are 6 shards, got number 6"):
        plan.rows(6)
    assert run.cycle().updates["discriminator"].updates
    assert source_of(sized).bucket_images() == (42, 42, 42)
    latents = plan.opened()
    for number, (height, width) in enumerate(SIZES):
        alone = plan_of(_config(tmp_path, model={**model, "height": height, "width": width}))
        rows = (latents.sizes == number).nonzero().squeeze(1)
        theirs = alone.opened()  # nothing of it is missing
        assert theirs.captions == [latents.captions[row] for row in rows]
        assert torch.equal(theirs[torch.arange(42)], latents[rows])
        assert torch.equal(theirs.thumbnails, latents.thumbnails[rows])
        drawn, _ = source_of(sized).real_images(run.table.texts).of_size(number).drawn(torch.tensor([0, 1]), 1)
        assert drawn.shape == (2, *alone.latent_shape)
    with pytest.raises(ValueError, match=r"rows of sizes \[0, 1\] cannot"):
        latents[torch.tensor([0, 42])]
    plan.plans[1].file(0).unlink()
    assert plan.missing() == [2]


def test_without_prompts_the_teacher_has_nothing_to_draw() -> None:
    with pytest.raises(UserError, match=r"source=teacher_samples needs data\.prompts"):
        source_of(Config.model_validate({"data": {"source": "teacher_samples"}}))
