"""From a configuration to the parts: prompts, their real images, and shapes."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from advdmd_ray import cli
from advdmd_ray.config import Config, read_config
from advdmd_ray.data.digits.images import load_digits
from advdmd_ray.data.digits.prompts import DIGIT_PROMPTS
from advdmd_ray.data.files.source import FilesSource
from advdmd_ray.data.registry import source_of
from advdmd_ray.data.shapes.checker import check
from advdmd_ray.data.shapes.recipe import shapes_recipe
from advdmd_ray.data.shapes.skills import all_prompts
from advdmd_ray.data.source import mismatchable
from advdmd_ray.diffusion.kernels import kernel_of
from advdmd_ray.errors import UserError, WeightsMismatchError
from advdmd_ray.models.pipeline import save_pipeline
from advdmd_ray.models.tiny import build_tiny_pipeline
from advdmd_ray.runs.parts.inputs import encode_table, geometry
from advdmd_ray.runs.parts.networks import base_digest
from advdmd_ray.runs.parts.workers import build_decoder, build_reward_worker
from advdmd_ray.stations.weights.snapshot import digest_of, pack

ROOT = Path(__file__).parents[2]
SHAPES_YAML = str(ROOT / "configs" / "shapes.yaml")


@pytest.fixture(scope="module")
def shapes_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained teacher of the shapes."""
    folder, recipe = tmp_path_factory.mktemp("teacher") / "shapes", shapes_recipe(1000, seed=0)
    save_pipeline(build_tiny_pipeline(recipe.words, recipe.codec, recipe.architecture, seed=0), folder)
    return folder


def _with_prompts(path: Path, *texts: str) -> Config:
    file = path / "prompts.txt"
    file.write_text("\n".join(texts), encoding="utf-8")
    return Config.model_validate({"data": {"prompts": str(file)}})


def test_real_images_follow_the_order_of_the_prompts() -> None:
    real, digits = source_of(Config()).real_images((DIGIT_PROMPTS[7], DIGIT_PROMPTS[2])), load_digits("train")
    for row, digit in enumerate((7, 2)):
        assert torch.equal(real.latents[real.prompt_ids == row], digits.images[digits.labels == digit])
    assert set(real.prompt_ids.tolist()) == {0, 1}


def test_a_prompt_written_twice_has_real_images_in_both_rows() -> None:
    real = source_of(Config()).real_images((DIGIT_PROMPTS[3], DIGIT_PROMPTS[1], DIGIT_PROMPTS[3]))
    assert torch.equal(real.latents[real.prompt_ids == 0], real.latents[real.prompt_ids == 2])
    assert real.drawn(torch.tensor([0, 1, 2]), seed=0)[0].shape == (3, 1, 8, 8)


def test_a_prompt_without_real_images_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no real image has the prompt 'a cat'"):
        source_of(_with_prompts(tmp_path, DIGIT_PROMPTS[0], "a cat")).prompts()
    assert source_of(_with_prompts(tmp_path, DIGIT_PROMPTS[4])).prompts() == (DIGIT_PROMPTS[4],)
    assert source_of(Config()).prompts() == DIGIT_PROMPTS


@pytest.mark.parametrize(
    ("discriminator", "rl", "refused"),
    [
        ({}, True, r"discriminator\.text_errors needs another; add one or set it to null"),
        ({}, False, None),
        ({"text_errors": None}, True, None),
        ({"text_errors": None, "mismatched_text": 0.5}, True, r"discriminator\.mismatched_text needs another"),
        ({"mismatched_text": 0.5}, False, r"discriminator\.mismatched_text needs another; add one or set it to 0"),
    ],
)
def test_wrong_texts_need_a_second_prompt(
    tmp_path: Path, discriminator: dict[str, float | None], rl: bool, refused: str | None
) -> None:
    given = _with_prompts(tmp_path, DIGIT_PROMPTS[0], DIGIT_PROMPTS[0])
    assert source_of(given).prompts() == (DIGIT_PROMPTS[0],) * 2
    tree = given.model_dump() | {"discriminator": discriminator, "policy_gradient": {"enabled": rl}}
    source = source_of(Config.model_validate(tree))
    if refused is None:
        source.check()
    else:
        with pytest.raises(UserError, match=rf"has one prompt only, and {refused}"):
            source.check()


def test_captions_that_no_rollout_draws_are_no_wrong_texts_of_the_gate() -> None:
    prompts, texts = ("a cat", "a cat"), ("a cat", "a cat", "a dog")
    with pytest.raises(UserError, match=r"has one prompt only, and discriminator\.text_errors"):
        mismatchable(texts, Config(), prompts)
    assert mismatchable(texts, Config(), ("a cat", "a dog")) == texts


def test_so_do_those_of_captioned_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\n")
    discriminator = {"mismatched_text": 0.5}
    sampled = {"source": "teacher_samples", "prompts": str(tmp_path / "prompts.txt")}
    with pytest.raises(UserError, match=r"prompts\.txt: has one prompt only"):
        source_of(Config.model_validate({"data": sampled, "discriminator": discriminator})).check()
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    with pytest.raises(UserError, match="8 real images can be used, and the judge compares with at least 40"):
        source_of(Config.model_validate({"data": {**sampled, "teacher_samples": 4}})).check()
    monkeypatch.setattr(FilesSource, "latents", lambda _: SimpleNamespace(captions=["a cat", "a cat"]))
    with pytest.raises(UserError, match="images: has one prompt only"):
        encode_table(
            Config.model_validate({"data": {"source": "files", "path": "images"}, "discriminator": discriminator})
        )


def test_texts_that_a_tokenizer_cuts_are_told_though_they_were_encoded_before(
    tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = (" ".join(["one"] * 40), "a handwritten two")
    source = SimpleNamespace(prompts=lambda: texts, captions=tuple, bucket_images=tuple)
    monkeypatch.setattr("advdmd_ray.runs.parts.inputs.source_of", lambda _: source)
    model = {"path": str(tiny_pipeline), "embeddings": str(tmp_path / "texts")}
    config = Config.model_validate({"model": model})
    for _ in range(2):
        encode_table(config)
        told = capsys.readouterr().err
        assert (
            "1 of 2 prompts and captions are cut by tokenizer, which hands on 8 tokens, which is its own limit" in told
        )
        assert "'one one one" in told


def test_a_worker_with_another_teacher_on_its_disk_runs_no_weights(tmp_path: Path, tiny_pipeline: Path) -> None:
    other = Path(shutil.copytree(tiny_pipeline, tmp_path / "teacher"))
    file = other / "transformer" / "diffusion_pytorch_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    config, elsewhere = (Config.model_validate({"model": {"path": str(path)}}) for path in (tiny_pipeline, other))
    worker = build_reward_worker(elsewhere, "reward-0", encode_table(config))
    with pytest.raises(WeightsMismatchError, match=r"reward-0: discriminator 0 belongs to the teacher"):
        worker._network.load(pack("discriminator", 0, {"head": torch.zeros(1)}, base_digest(config)))


def test_the_kernel_is_the_configurations() -> None:
    kernel = kernel_of(Config.model_validate({"diffusion": {"kernel": "cps", "eta": 0.4}}).diffusion)
    assert (kernel.name, kernel.freshness) == ("cps", 0.4)


def test_shapes_and_levels_come_from_the_folders_headers(tiny_pipeline: Path) -> None:
    config = Config.model_validate({"model": {"path": str(tiny_pipeline)}})
    shapes = geometry(config)
    assert shapes.largest.latent_shape == (1, 8, 8)
    assert shapes.largest.sigmas.tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_every_worker_starts_with_the_same_discriminator(tiny_pipeline: Path) -> None:
    config = Config.model_validate({"model": {"path": str(tiny_pipeline)}})
    table = encode_table(config)

    def heads(config: Config) -> str:
        return digest_of(build_reward_worker(config, "reward-0", table)._network.module.state_dict())

    other = config.model_copy(update={"run": config.run.model_copy(update={"seed": 1})})
    assert heads(config) == heads(config) != heads(other)


def test_the_shapes_table_has_a_row_for_every_draw_and_none_held_out() -> None:
    config = read_config(SHAPES_YAML, ["data.prompt_rows=200"])
    texts, by_text = source_of(config).prompts(), {prompt.text: prompt for prompt in all_prompts()}
    assert 190 <= len(texts) <= 200
    assert len(set(texts)) < len(texts)
    assert not any(by_text[text].held_out for text in texts)
    assert texts == source_of(config.model_copy(update={"run": config.run.model_copy(update={"seed": 1})})).prompts()


def test_real_scenes_of_a_table_row_fit_its_prompt(shapes_pipeline: Path) -> None:
    config = read_config(SHAPES_YAML, [f"model.path={shapes_pipeline}", "data.images_per_prompt=3"])
    by_text = {prompt.text: prompt for prompt in all_prompts()}
    texts = ("two crosses", "a red circle and a blue cross", "two crosses", "a square above a cross")
    real = source_of(config).real_images(texts)
    assert real.prompt_ids.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    images = build_decoder(config, config.learner)(real.all()).numpy()
    for row, image in zip(real.prompt_ids.tolist(), images, strict=True):
        assert check(image, by_text[texts[row]]).correct
    assert len({image.tobytes() for image in images}) == len(images)


def test_a_shapes_prompt_nobody_can_draw_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a red circle\nfive squares\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"no real image has the prompt 'five squares'"):
        source_of(read_config(SHAPES_YAML, [f"data.prompts={file}"])).prompts()


def test_a_held_out_prompt_is_refused_unless_such_are_trained_on(tmp_path: Path) -> None:
    secret = next(prompt.text for prompt in all_prompts() if prompt.held_out)
    file = tmp_path / "prompts.txt"
    file.write_text(f"a red circle\n{secret}\n", encoding="utf-8")
    settings = [f"data.prompts={file}"]
    with pytest.raises(
        UserError, match=rf"'{secret}' is a held-out prompt, .*leave it out, or set data\.held_out=true"
    ):
        source_of(read_config(SHAPES_YAML, settings)).prompts()
    assert secret in source_of(read_config(SHAPES_YAML, [*settings, "data.held_out=true"])).prompts()


def test_the_shapes_recipe_passes_the_checks_before_a_run(
    shapes_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [f"model.path={shapes_pipeline}", f"run.output={tmp_path}"]
    assert cli.main(["run", "--config", SHAPES_YAML, "--dry-run", *places]) == cli.DONE
    assert "source: shapes" in capsys.readouterr().out
    shapes = geometry(read_config(SHAPES_YAML, places))
    assert shapes.largest.latent_shape == (22, 3, 3)


@pytest.mark.parametrize("name", ["shapes", "shapes_v2"])
def test_a_recipe_of_the_shapes_names_a_teacher_that_ships(tmp_path: Path, name: str) -> None:
    assert cli.main(["run", "--config", name, "--dry-run", f"run.output={tmp_path}"]) == cli.DONE
