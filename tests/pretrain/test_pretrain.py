"""Training the small teachers, and those that ship."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray import cli
from advdmd_ray.config import Config
from advdmd_ray.config.pretrain import PretrainConfig, PretrainSection, read_pretrain
from advdmd_ray.data.digits.judge import DigitsJudge
from advdmd_ray.data.real import RealImages
from advdmd_ray.data.recipe import Captioned, TeacherRecipe
from advdmd_ray.data.registry import source_of
from advdmd_ray.data.shapes import recipe as shapes_recipe_module
from advdmd_ray.data.shapes.captions import draw_exam, draw_relations
from advdmd_ray.data.shapes.checker import check
from advdmd_ray.data.shapes.recipe import shapes_lessons, shapes_recipe
from advdmd_ray.data.shapes.skills import SKILLS, all_prompts
from advdmd_ray.diffusion.kernels import Kernel
from advdmd_ray.diffusion.schedule import teacher_sigmas
from advdmd_ray.errors import DivergedError, UserError
from advdmd_ray.evaluation.judges.pipelines import PipelineSampler
from advdmd_ray.models.codec import PatchCodec
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.pipeline import load_pipeline
from advdmd_ray.models.sampling_settings import SamplingSettings, read_sampling
from advdmd_ray.models.text import encode_prompts
from advdmd_ray.models.tiny import SHAPES, build_tiny_pipeline
from advdmd_ray.pretrain.reader import learn_to_say
from advdmd_ray.pretrain.teacher import TEACHER_CARD, architecture_of, pretrain_teacher, weight_hashes
from advdmd_ray.pretrain.training import Checkpoints, learning_rate_factor, pretrain, stratified_times
from advdmd_ray.seeding import derive_seed

ASSETS = Path(str(resources.files("advdmd_ray"))) / "assets"
SHIPPED = ASSETS / "digits"
SHAPES_YAML = Path(__file__).parents[2] / "configs" / "pretrain" / "shapes.yaml"


class Cut(BaseException):
    """The process ends here."""


class CutAt(Checkpoints):
    """Checkpoints whose process ends once the one of step 4 stands."""

    def save(self, step: int, state: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        super().save(step, state)
        if step == 4:
            raise Cut


def train(
    steps: int,
    *,
    seed: int = 0,
    real: RealImages | None = None,
    prompt_dropout: float = 0.1,
    muon: float | None = None,
    checkpoints: Checkpoints | None = None,
) -> tuple[dict[str, torch.Tensor], list[float]]:
    recipe = source_of(Config()).teacher_recipe(1000, seed=0)
    pipeline = build_tiny_pipeline(recipe.words, recipe.codec, recipe.architecture, seed=0)
    losses: list[float] = []
    pretrain(
        pipeline,
        recipe.real if real is None else real,
        encode_prompts(pipeline, [*recipe.prompts, ""], 8),
        steps=steps,
        batch_size=16,
        learning_rate=1e-3,
        seed=seed,
        muon_learning_rate=muon,
        prompt_dropout=prompt_dropout,
        checkpoints=checkpoints,
        progress=lambda _step, loss: losses.append(loss),
    )
    return pipeline.transformer.state_dict(), losses


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@given(st.integers(1, 5000), st.data())
def test_the_learning_rate_rises_to_its_peak_and_falls_to_nearly_nothing(steps: int, data: st.DataObject) -> None:
    factors = [learning_rate_factor(step, steps) for step in range(steps)]
    peak = min(100, steps) - 1
    assert all(0 < factor <= 1 for factor in factors)
    assert math.isclose(factors[peak], 1.0)
    step = data.draw(st.integers(0, steps - 1))
    if step < peak:
        assert factors[step] < factors[step + 1]
    elif step + 1 < steps:
        assert factors[step] >= factors[step + 1]


@given(st.integers(1, 300), st.integers(0, 1000))
def test_every_slice_of_time_gets_one_draw(count: int, seed: int) -> None:
    times = stratified_times(count, torch.Generator().manual_seed(seed))
    assert ((times * count).double().floor() - torch.arange(count)).abs().max() <= (0 if count < 200 else 1)
    assert times.min() >= 0
    assert times.max() <= 1


def test_training_lowers_the_loss() -> None:
    _, losses = train(100)
    assert len(losses) == 2
    assert losses[1] < 0.8 * losses[0]


def test_a_batch_that_is_no_number_changes_nothing_and_some_in_a_row_end_the_training() -> None:
    real = source_of(Config()).teacher_recipe(1000, seed=0).real
    assert isinstance(real.latents, torch.Tensor)
    one, every = real.latents.clone(), torch.full_like(real.latents, math.nan)
    one[::64] = math.nan  # in two of nine batches, by this seed's draws
    weights, _ = train(9, real=replace(real, latents=one), muon=0.02)
    assert all(bool(weight.isfinite().all()) for weight in weights.values())
    assert not equal(weights, train(1)[0])
    with pytest.raises(DivergedError, match="3 steps in a row are not finite"):
        train(9, real=replace(real, latents=every))


def test_training_repeats_with_its_seed() -> None:
    first, _ = train(3)
    assert equal(first, train(3)[0])
    assert not equal(first, train(3, seed=1)[0])


@pytest.mark.parametrize("muon", [None, 1e-2])
def test_a_stopped_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path, muon: float | None) -> None:
    facts = {"steps": 6}
    with pytest.raises(Cut):
        train(6, muon=muon, checkpoints=CutAt(tmp_path / "states", 2, facts))
    kept = Checkpoints(tmp_path / "states", 2, facts)
    found = kept.load()
    assert found is not None
    assert found.step == 4
    resumed, _ = train(6, muon=muon, checkpoints=kept)
    assert equal(resumed, train(6, muon=muon)[0])


def test_a_stopped_training_of_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    train(2, checkpoints=Checkpoints(tmp_path, 2, {"steps": 2, "batch_size": 16}))
    with pytest.raises(UserError, match="other batch_size; set them as they were"):
        train(2, checkpoints=Checkpoints(tmp_path, 2, {"steps": 2, "batch_size": 8}))


def test_muon_trains_the_matrices_of_the_blocks_and_nothing_else() -> None:
    adamw, both = train(1)[0], train(1, muon=1e-2)[0]
    differ = {name for name in adamw if not torch.equal(adamw[name], both[name])}
    assert differ == {
        name
        for name, weight in adamw.items()
        if weight.ndim == 2 and name.startswith("transformer_blocks.") and ".norm" not in name
    }
    assert any("attn.to_q" in name for name in differ)
    assert any("ff.net" in name for name in differ)


def test_labels_do_not_matter_when_every_prompt_is_dropped() -> None:
    real = source_of(Config()).teacher_recipe(1000, seed=0).real
    relabelled = RealImages(real.latents, (real.prompt_ids + 3) % 10)
    assert equal(train(2, real=real, prompt_dropout=1.0)[0], train(2, real=relabelled, prompt_dropout=1.0)[0])
    assert not equal(train(2, real=real, prompt_dropout=0.0)[0], train(2, real=relabelled, prompt_dropout=0.0)[0])


def test_a_trained_folder_holds_its_record(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "teacher"
    config = PretrainConfig.model_validate(
        {
            "run": {"seed": 4},
            "model": {"guidance": 1.5},
            "evaluation": {"samples": 20},
            "pretrain": {"steps": 2, "batch_size": 8, "folder": str(folder)},
        }
    )
    record = pretrain_teacher(config, command="advdmd pretrain")
    assert json.loads((folder / TEACHER_CARD).read_text()) == record
    settings = {"seed": 4, "steps": 2, "batch_size": 8, "learning_rate": 1e-3, "guidance": 1.5, "images": 1437}
    assert {name: record[name] for name in settings} == settings
    assert record["source"] == "digits"
    assert set(record["judge"]["teacher"]) == {"40", "8", "4", "2"}
    assert record["sha256"] == weight_hashes(folder)
    assert set(record["sha256"]) >= {"transformer/diffusion_pytorch_model.safetensors"}
    assert [entry.name for entry in folder.parent.iterdir()] == ["teacher"]
    assert inspect_pipeline(folder).sampling == SamplingSettings(8)
    with pytest.raises(UserError, match="exists"):
        pretrain_teacher(config, command="advdmd pretrain")


def test_the_latents_of_the_shapes_are_scenes_of_their_prompts_and_none_is_held_out() -> None:
    recipe, prompts = shapes_recipe(1000, seed=3), all_prompts()
    assert recipe.prompts == tuple(prompt.text for prompt in prompts)
    latents = recipe.real.all()
    assert latents.shape[1:] == (22, 3, 3)
    assert abs(float(latents.square().mean()) - 1) < 0.05
    asked = [prompts[int(row)] for row in recipe.real.prompt_ids]
    assert not any(prompt.held_out for prompt in asked)
    assert {prompt.skill for prompt in asked} == {prompt.skill for prompt in prompts}
    images = recipe.codec.decode(latents[:100], return_dict=False)[0].numpy()
    assert sum(check(image, prompt).correct for image, prompt in zip(images, asked, strict=False)) >= 98
    again, other = shapes_recipe(1000, seed=3), shapes_recipe(1000, seed=4)
    assert torch.equal(latents, again.real.all())
    assert not torch.equal(recipe.real.prompt_ids, other.real.prompt_ids)


def captioned_of(recipe: TeacherRecipe, count: int, seed: int) -> Captioned:
    assert recipe.captioned is not None
    return recipe.captioned(count, seed)


def test_captions_beyond_the_table_state_relations_that_their_scenes_show_and_none_is_held_out_or_asked_about() -> None:
    recipe = shapes_recipe(1000, seed=3)
    prompts = draw_relations(60, seed=4)
    captioned = captioned_of(recipe, 60, seed=3)
    assert len(set(captioned.texts)) == 60
    assert captioned.texts != tuple(prompt.text for prompt in prompts)
    known = {prompt.text for prompt in all_prompts()} | {prompt.text for prompt in draw_exam(200, seed=4)}
    assert known.isdisjoint(captioned.texts)
    assert known.isdisjoint(prompt.text for prompt in prompts)
    assert all(prompt.relation is not None and not prompt.held_out for prompt in prompts)
    of_text = {prompt.text: prompt for prompt in draw_relations(60, derive_seed(3, "shapes", "captions"))}
    images = recipe.codec.decode(captioned.real.all(), return_dict=False)[0].numpy()
    asked = [of_text[captioned.texts[int(row)]] for row in captioned.real.prompt_ids]
    assert len(asked) == 2 * 60
    assert sum(check(image, prompt).correct for image, prompt in zip(images, asked, strict=True)) >= 118
    assert torch.equal(captioned.real.all(), captioned_of(recipe, 60, seed=3).real.all())


def test_the_command_trains_on_the_scenes_and_captions_of_its_seed_and_writes_a_whole_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shapes_recipe_module, "LESSONS", 300)
    folder = tmp_path / "teacher"
    sizes = [
        "pretrain.images=1000",
        "pretrain.steps=2",
        "pretrain.batch_size=8",
        "pretrain.learning_rate=1e-3",
        "pretrain.muon_learning_rate=4e-3",
        "pretrain.text_width=64",
        "pretrain.text_steps=2",
        "pretrain.relation_captions=20",
        "evaluation.samples=20",
    ]
    arguments = ["pretrain", "--config", str(SHAPES_YAML), "run.seed=5", f"pretrain.folder={folder}", *sizes]
    assert cli.main(arguments) == cli.DONE
    assert str(folder) in capsys.readouterr().out
    recipe = shapes_recipe(1000, seed=5)
    more = captioned_of(recipe, 20, seed=5)
    expected = build_tiny_pipeline(recipe.words, recipe.codec, replace(recipe.architecture, text_width=64), seed=5)
    learn_to_say(expected.text_encoder, expected.tokenizer, shapes_lessons(5), steps=2, seed=5)
    conditioning = encode_prompts(expected, [*recipe.prompts, *more.texts, ""], 1)
    shown = torch.cat([recipe.real.prompt_ids, more.real.prompt_ids + len(recipe.prompts)])
    pretrain(
        expected,
        RealImages(torch.cat([recipe.real.all(), more.real.all()]), shown),
        conditioning,
        steps=2,
        batch_size=8,
        learning_rate=1e-3,
        seed=5,
        muon_learning_rate=4e-3,
    )
    written = load_pipeline(folder)
    for name in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        assert equal(getattr(expected, name).state_dict(), getattr(written, name).state_dict()), name
    record = json.loads((folder / TEACHER_CARD).read_text())
    assert (record["source"], record["seed"], record["max_sequence_length"]) == ("shapes", 5, 1)
    assert read_sampling(folder) == SamplingSettings(1)
    assert record["images"] == len(recipe.real) + len(more.real)
    assert set(record["judge"]["teacher"]) == {"40", "8", "4", "2"}
    assert record["judge"]["real"]["seen"] > 0.99
    assert record["sha256"] == weight_hashes(folder)
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= 15e6


def test_text_encoders_are_as_wide_as_asked_for_and_by_default_as_those_that_ship() -> None:
    assert architecture_of(PretrainSection(), SHAPES) == SHAPES
    wide = architecture_of(PretrainSection(text_width=64, text_position_scale=0.1), SHAPES)
    assert wide == replace(SHAPES, text_width=64, position_scale=0.1)
    pipeline = build_tiny_pipeline(["a", "circle"], PatchCodec(), replace(wide, layers=1), seed=0)
    said = encode_prompts(pipeline, ["a circle"], 1)
    assert (said.embeds.shape, said.pooled.shape) == ((1, 17, 128), (1, 128))
    places = pipeline.text_encoder.text_model.embeddings.position_embedding.weight
    assert float(places.std()) == pytest.approx(0.1, rel=0.1)
    given = (torch.zeros(1, 22, 3, 3), said.embeds, said.pooled, torch.zeros(1))
    assert pipeline.transformer(*given, return_dict=False)[0].isfinite().all()


@pytest.mark.parametrize(("name", "megabytes"), [("digits", 6), ("shapes", 15), ("shapes_v2", 15)])
def test_a_shipped_teacher_is_the_recorded_one(name: str, megabytes: float) -> None:
    record = json.loads((ASSETS / name / TEACHER_CARD).read_text())
    assert weight_hashes(ASSETS / name) == record["sha256"]
    assert read_sampling(ASSETS / name) == SamplingSettings(record["max_sequence_length"])
    assert record["command"].split(" ")[3] in {name, f"configs/{name}.yaml"}
    assert sum(file.stat().st_size for file in (ASSETS / name).rglob("*") if file.is_file()) <= megabytes * 1e6


@pytest.mark.parametrize("name", ["shapes", "shapes_v2"])
def test_a_shipped_shapes_teacher_follows_prompts_better_with_more_steps(name: str) -> None:
    teacher = json.loads((ASSETS / name / TEACHER_CARD).read_text())["judge"]["teacher"]
    shares = [teacher[steps]["seen"] for steps in ("40", "8", "4", "2")]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 2 * shares[3]


def test_the_second_shapes_teacher_leaves_something_to_learn_and_knows_some_of_every_skill() -> None:
    first, second = (json.loads((ASSETS / name / TEACHER_CARD).read_text()) for name in ("shapes", "shapes_v2"))
    before, after = (card["judge"]["teacher"]["40"] for card in (first, second))
    assert 0.6 <= after["seen"] <= 0.85
    assert min(after[skill] for skill in SKILLS) > 0.4
    assert after["position"] > before["position"] + 0.15


def test_the_shipped_teachers_record_says_that_few_steps_are_worse() -> None:
    teacher = json.loads((SHIPPED / TEACHER_CARD).read_text())["judge"]["teacher"]
    distances = [teacher[steps]["frechet"] for steps in ("40", "8", "4", "2")]
    assert distances == sorted(distances)
    assert distances[2] > 3 * distances[0]
    assert teacher["40"]["accuracy"] >= 0.98


def test_the_shipped_teacher_draws_readable_digits() -> None:
    record = json.loads((SHIPPED / TEACHER_CARD).read_text())
    pipeline = load_pipeline("builtin:digits")
    info = inspect_pipeline("builtin:digits")
    sampler = PipelineSampler(
        DigitsJudge(),
        pipeline,
        record["guidance"],
        record["max_sequence_length"],
        info.latent.shape,
        info.scheduler_shift,
    )
    many, few = (
        sampler.judged(Kernel.ode(), teacher_sigmas(steps, sampler.shift), samples=200, seed=0).figures
        for steps in (20, 2)
    )
    assert many["accuracy"] >= 0.95
    assert many["frechet"] < few["frechet"] / 2


@pytest.mark.parametrize(
    ("name", "overrides", "line"),
    [
        ("digits", (), "pretrain.text_steps: the captions of this data.source state nothing to learn; set it to 0"),
        (
            "digits",
            ("pretrain.text_steps=0", "pretrain.relation_captions=5"),
            "pretrain.relation_captions: this data.source draws no captions; set it to 0",
        ),
        (
            "shapes",
            ("pretrain.text_width=32",),
            "pretrain.text_width is 32 and captions state 47 facts; set it to as many or more",
        ),
    ],
)
def test_what_captions_cannot_teach_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, overrides: tuple[str, ...], line: str
) -> None:
    monkeypatch.setattr(shapes_recipe_module, "LESSONS", 10)
    more = ("pretrain.text_steps=5", "pretrain.images=1000", f"pretrain.folder={tmp_path / 'teacher'}")
    with pytest.raises(UserError) as refused:
        pretrain_teacher(read_pretrain(name, [*more, *overrides]), command="")
    assert str(refused.value).startswith(line)
    assert list(tmp_path.iterdir()) == []
