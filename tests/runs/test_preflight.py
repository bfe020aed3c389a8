"""Pre-flight: whatever would make a run fail is one clear error before anything starts."""

import fcntl
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from advdmd_ray.config import Config
from advdmd_ray.errors import UserError
from advdmd_ray.learner import checkpoint
from advdmd_ray.learner.checkpoint import save_checkpoint
from advdmd_ray.models.attention import check_attention
from advdmd_ray.models.families.registry import FAMILIES
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.sampling_settings import SAMPLING, SamplingSettings, write_sampling
from advdmd_ray.runs import guiding, preflight
from advdmd_ray.runs.folder import RunFolder, claim
from advdmd_ray.runs.same_run import check_same_run
from pictures import picture, write_captioned
from pipeline_folder import LAYERS, write_pipeline, write_safetensors


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_config(tmp_path)


def make_config(tmp_path: Path, **sections: dict[str, object]) -> Config:
    tree: dict[str, dict[str, object]] = {
        "model": {"path": str(tmp_path / "teacher")},
        "run": {"output": str(tmp_path / "runs"), "name": "r"},
        "metrics": {"port": 0},
    }
    for name, values in sections.items():
        tree[name] = tree.get(name, {}) | values
    if not (tmp_path / "teacher").exists():
        write_pipeline(tmp_path / "teacher")
    return Config.model_validate(tree)


def save(config: Config, folder: Path, step: int = 3) -> Path:
    facts = {"config": config.model_dump(mode="json")}
    return save_checkpoint(RunFolder(folder).checkpoints, step, {"student": {"w": torch.ones(2)}}, facts, keep=2)


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_sound_configuration_starts_a_new_run_and_checking_leaves_nothing_behind(
    config: Config, tmp_path: Path
) -> None:
    before = listing(tmp_path)
    start = preflight.check(config)
    assert (start.folder, start.checkpoint, start.aside) == (config.folder, None, None)
    assert listing(tmp_path) == before
    assert not config.folder.parent.exists()


def test_a_truncated_weight_file_is_named(config: Config, tmp_path: Path) -> None:
    file = tmp_path / "teacher" / "transformer" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"transformer/diffusion_pytorch_model\.safetensors"):
        preflight.check(config)


def test_discriminator_blocks_must_exist_in_the_transformer(tmp_path: Path) -> None:
    preflight.check(make_config(tmp_path, discriminator={"blocks": (0, LAYERS - 1)}))
    with pytest.raises(UserError, match=f"blocks 0 to {LAYERS - 1}"):
        preflight.check(make_config(tmp_path, discriminator={"blocks": (1, LAYERS)}))


@pytest.mark.parametrize(("configured", "trained"), [(8, 1), (1, 8)])
def test_another_text_length_than_the_pipeline_was_trained_with_is_refused(
    tmp_path: Path, configured: int, trained: int
) -> None:
    config = make_config(tmp_path, model={"max_sequence_length": configured})
    preflight.check(config)
    write_sampling(tmp_path / "teacher", SamplingSettings(trained))
    with pytest.raises(UserError) as caught:
        preflight.check(config)
    assert str(caught.value) == (
        f"model.max_sequence_length is {configured}, but {tmp_path / 'teacher' / SAMPLING} says {trained}, which the "
        f"pipeline was trained with; set model.max_sequence_length={trained}"
    )
    preflight.check(make_config(tmp_path, model={"max_sequence_length": trained}))


def test_more_text_tokens_than_the_family_takes_are_refused(tmp_path: Path) -> None:
    preflight.check(make_config(tmp_path, model={"max_sequence_length": 512}))
    with pytest.raises(UserError, match="StableDiffusion3Pipeline takes at most 512 tokens"):
        preflight.check(make_config(tmp_path, model={"max_sequence_length": 513}))


def test_a_size_of_images_that_the_model_has_not_is_refused(tmp_path: Path) -> None:
    preflight.check(make_config(tmp_path, model={"height": 8, "width": 12}))
    with pytest.raises(UserError, match="9 x 8 pixels do not divide into tokens of 2"):
        preflight.check(make_config(tmp_path, model={"height": 9, "width": 8}))


def test_files_are_looked_at_and_any_prompt_goes_with_them(tmp_path: Path) -> None:
    images, prompts = tmp_path / "images", tmp_path / "prompts.txt"
    images.mkdir()
    prompts.write_text("what no caption says\n")
    config = make_config(tmp_path, data={"source": "files", "path": str(images), "prompts": str(prompts)})
    with pytest.raises(UserError, match=r"data\.path .* holds no image"):
        preflight.check(config)
    images.rmdir()
    write_captioned(images, 39)
    with pytest.raises(UserError, match="39 real images can be used, and the judge compares with at least 40"):
        preflight.check(config)
    (images / "last.png").write_bytes(b"no picture")
    preflight.check(config)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda file: file.with_suffix(".txt").unlink(), "has no caption"),
        (lambda file: file.write_bytes(b"no picture"), "is no image, or a broken one"),
        (lambda file: file.write_bytes(picture(1, (3, 3))), r"has too few pixels \(3 x 3\)"),
    ],
)
def test_images_none_of_which_can_be_used_are_refused_before_a_run(
    tmp_path: Path, spoil: Callable[[Path], object], says: str
) -> None:
    images = write_captioned(tmp_path / "images", 40)
    config = make_config(tmp_path, data={"source": "files", "path": str(images)})
    preflight.check(config)
    for file in sorted(images.glob("*.png"))[:16]:
        spoil(file)
    with pytest.raises(UserError, match=f"none of the first 16 images can be used: 000.png \\({says}\\), 001.png"):
        preflight.check(config)


def test_more_spoilt_images_than_may_be_left_out_are_refused_before_a_run(tmp_path: Path) -> None:
    images = write_captioned(tmp_path / "images", 40)
    (images / "003.png").write_bytes(b"no picture")
    data: dict[str, object] = {"source": "files", "path": str(images)}
    preflight.check(make_config(tmp_path, data=data))
    with pytest.raises(UserError, match=r"more than data\.most_skipped=0 images cannot be used: 003\.png"):
        preflight.check(make_config(tmp_path, data=data | {"most_skipped": 0}))


def test_a_buffer_that_cannot_hold_one_cycle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"buffer\.max_bytes"):
        preflight.check(make_config(tmp_path, buffer={"max_bytes": 2**17}))


def test_a_bad_prompt_line_is_named_with_its_number(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a handwritten one\n\na handwritten two\n")
    with pytest.raises(UserError, match=r"prompts\.txt.*2"):
        preflight.check(make_config(tmp_path, data={"prompts": str(prompts)}))


def test_a_prompt_without_real_images_is_refused(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a handwritten one\na handwritten letter\n")
    with pytest.raises(UserError, match="letter"):
        preflight.check(make_config(tmp_path, data={"prompts": str(prompts)}))


def test_an_occupied_metrics_port_is_refused(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        with pytest.raises(UserError, match=r"metrics\.port"):
            preflight.check(make_config(tmp_path, metrics={"port": other.getsockname()[1]}))


@pytest.mark.parametrize("place", ["below_a_file", "read_only_file_system"])
def test_a_folder_that_cannot_be_written_is_refused_even_for_root(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    output = {"below_a_file": tmp_path / "file" / "deep", "read_only_file_system": Path("/proc/nowhere")}[place]
    with pytest.raises(UserError, match=r"run\.output"):
        preflight.check(make_config(tmp_path, run={"output": str(output)}))


def test_a_used_run_folder_is_refused_and_left_as_it_was(config: Config) -> None:
    config.folder.mkdir(parents=True)
    (config.folder / "metrics.jsonl").write_text("{}\n")
    before = listing(config.folder)
    with pytest.raises(UserError, match=r"--resume auto.*--fresh.*run\.name"):
        preflight.check(config)
    assert listing(config.folder) == before


def test_resume_auto_goes_on_from_the_newest_intact_checkpoint(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    older, newest = save(config, config.folder, 3), save(config, config.folder, 4)
    assert preflight.check(config, "auto").checkpoint == newest
    (newest / "student.safetensors").write_bytes(b"torn")
    assert preflight.check(config, "auto").checkpoint == older
    assert "damaged" in caplog.text


def test_resume_auto_with_nothing_to_resume_starts_fresh_and_says_so(config: Config) -> None:
    start = preflight.check(config, "auto")
    assert start.checkpoint is None
    assert start.aside is None
    assert "nothing to resume" in start.note


def test_resume_auto_keeps_the_remains_of_a_run_without_checkpoint(config: Config) -> None:
    config.folder.mkdir(parents=True)
    (config.folder / "metrics.jsonl").write_text("{}\n")
    start = preflight.check(config, "auto")
    with claim(start) as folder:
        assert list(folder.iterdir()) == [RunFolder(folder).lock]
    assert start.aside is not None
    assert (start.aside / "metrics.jsonl").read_text() == "{}\n"


@pytest.mark.parametrize("of", ["the run", "its checkpoints", "one checkpoint"])
def test_resume_takes_a_run_its_checkpoints_or_one_checkpoint(config: Config, tmp_path: Path, of: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    save(config, elsewhere, 3)
    newest = save(config, elsewhere, 4)
    path = {"the run": elsewhere, "its checkpoints": newest.parent, "one checkpoint": newest}[of]
    assert preflight.check(config, str(path)).checkpoint == newest


def test_resume_of_something_else_is_refused(config: Config, tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path, tmp_path / "teacher"):
        with pytest.raises(UserError, match="no checkpoint there"):
            preflight.check(config, str(path))


def test_resume_with_only_damaged_checkpoints_is_refused(config: Config) -> None:
    (save(config, config.folder) / "student.safetensors").unlink()
    for resume in ("auto", str(config.folder)):
        with pytest.raises(UserError, match=r"student\.safetensors"):
            preflight.check(config, resume)


def test_the_bytes_of_a_checkpoint_are_hashed_once_before_a_run_resumes(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, hashed = save(config, config.folder), list[str]()
    digest = checkpoint._sha256

    def counted(file: Path) -> str:
        hashed.append(file.name)
        return digest(file)

    monkeypatch.setattr(checkpoint, "_sha256", counted)
    start = preflight.check(config, "auto")
    assert start.checkpoint == path
    checkpoint.verified_checkpoint(path)  # as the driver and every rank open it
    assert hashed == ["student.safetensors"]


def test_a_foreign_checkpoint_is_not_mixed_into_a_used_folder(config: Config, tmp_path: Path) -> None:
    save(config, config.folder)
    foreign = save(config, tmp_path / "foreign")
    with pytest.raises(UserError, match="not its own"):
        preflight.check(config, str(foreign))


def test_fresh_moves_every_earlier_run_aside_and_loses_none(config: Config) -> None:
    for turn in range(3):
        with claim(preflight.check(config, fresh=True)) as folder:
            (folder / "summary.json").write_text(str(turn))
    kept = [config.folder.with_name(name) / "summary.json" for name in ("r.1", "r.2", "r")]
    assert [path.read_text() for path in kept] == ["0", "1", "2"]


def test_fresh_and_resume_contradict_each_other(config: Config) -> None:
    with pytest.raises(UserError, match="contradict"):
        preflight.check(config, "auto", fresh=True)


@pytest.mark.parametrize(("resume", "fresh"), [(None, False), (None, True), ("auto", False)])
def test_a_run_in_progress_is_neither_joined_nor_moved(config: Config, resume: str | None, fresh: bool) -> None:
    with claim(preflight.check(config)), pytest.raises(UserError, match="now"):
        preflight.check(config, resume, fresh=fresh)
    preflight.check(config)


def test_of_two_that_passed_the_checks_one_gets_the_folder(config: Config) -> None:
    first, second = preflight.check(config), preflight.check(config)
    with claim(first), pytest.raises(UserError, match="another process"), claim(second):
        pass


@pytest.mark.parametrize("earlier", ["nothing", "an empty folder", "a run"])
def test_a_start_that_is_refused_after_all_leaves_everything_as_it_was(config: Config, earlier: str) -> None:
    if earlier != "nothing":
        config.folder.mkdir(parents=True)
    if earlier == "a run":
        (config.folder / "metrics.jsonl").write_text("{}\n")
    before = sorted(config.folder.parent.rglob("*"))
    with pytest.raises(UserError, match="no cluster"), claim(preflight.check(config, fresh=earlier == "a run")):
        _open_and_refuse(RunFolder(config.folder).metrics)
    assert sorted(config.folder.parent.rglob("*")) == before


def _open_and_refuse(path: Path) -> None:
    path.touch()  # nothing was recorded
    raise UserError("no cluster answers")


def _write_and_refuse(path: Path) -> None:
    path.write_text("run: {}")
    raise UserError("no room")


def test_a_refusal_that_comes_when_something_was_written_keeps_it(config: Config) -> None:
    with pytest.raises(UserError, match="no room"), claim(preflight.check(config)):
        _write_and_refuse(RunFolder(config.folder).config)
    assert RunFolder(config.folder).config.is_file()


def test_a_lock_that_nobody_holds_is_no_run(config: Config) -> None:
    config.folder.mkdir(parents=True)
    with RunFolder(config.folder).lock.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
    assert preflight.check(config).aside is None


@pytest.mark.parametrize(
    ("section", "values", "key"),
    [
        ("rollout", {"groups_per_cycle": 4}, "rollout.groups_per_cycle"),
        ("diffusion", {"sigmas": [1.0, 0.5]}, "diffusion.sigmas"),
        ("run", {"seed": 5}, "run.seed"),
        ("discriminator", {"backbone": "fake_score"}, "discriminator.backbone"),
        ("cadence", {"dmd_updates": 2}, "cadence.dmd_updates"),
        ("cadence", {"ramp_interval": 1}, "cadence.ramp_interval"),
        ("lora", {"rank": 4, "alpha": 8.0}, "lora.rank"),
        ("discriminator", {"heldout_fraction": 0.5}, "discriminator.heldout_fraction"),
        ("data", {"images_per_prompt": 4}, "data.images_per_prompt"),
    ],
)
def test_a_resumed_run_cannot_change_what_its_checkpoint_hangs_on(
    config: Config, section: str, values: dict[str, object], key: str
) -> None:
    save(config, config.folder)
    tree = config.model_dump(mode="json")
    tree[section] |= values
    with pytest.raises(UserError, match=f"^{key} is .* a resumed run cannot change it"):
        preflight.check(Config.model_validate(tree), "auto")


def test_a_resumed_run_keeps_the_guidance_of_the_images_that_the_teacher_draws(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("one\ntwo\n")
    data: dict[str, object] = {"source": "teacher_samples", "prompts": str(tmp_path / "prompts.txt")}
    path = save(make_config(tmp_path, data=data), tmp_path / "runs" / "r")
    check_same_run(make_config(tmp_path, data=data), path)
    with pytest.raises(UserError, match=r"drawn with guidance 2 \(evaluation\.teacher_guidance\).*with 1: a resumed"):
        check_same_run(make_config(tmp_path, data=data, evaluation={"teacher_guidance": 2.0}), path)


def test_a_resumed_run_may_judge_its_teacher_otherwise(config: Config, tmp_path: Path) -> None:
    path = save(config, config.folder)
    check_same_run(make_config(tmp_path, evaluation={"teacher_guidance": 2.0}), path)


def _save_with(config: Config, tree: Mapping[str, object]) -> Path:
    """A checkpoint whose configuration was written by another version."""
    folder = RunFolder(config.folder).checkpoints
    return save_checkpoint(folder, 3, {"student": {"w": torch.ones(2)}}, {"config": tree}, keep=2)


def test_a_setting_younger_than_the_checkpoint_had_its_default(config: Config) -> None:
    tree = config.model_dump(mode="json")
    del tree["discriminator"]["backbone"]
    saved = _save_with(config, tree)
    assert preflight.check(config, "auto").checkpoint == saved


def test_a_checkpoint_may_have_the_section_of_its_teachers_training(config: Config) -> None:
    tree = config.model_dump(mode="json")
    tree["pretrain"] = {"steps": 3}
    saved = _save_with(config, tree)
    assert preflight.check(config, "auto").checkpoint == saved


def test_a_checkpoint_with_a_setting_that_is_gone_is_refused_by_name(config: Config) -> None:
    tree = config.model_dump(mode="json")
    tree["discriminator"]["gone"] = 1
    _save_with(config, tree)
    with pytest.raises(UserError, match=r"does not take: discriminator\.gone; start anew by --fresh"):
        preflight.check(config, "auto")


def test_a_resumed_run_may_go_on_for_longer(config: Config) -> None:
    newest = save(config, config.folder)
    tree = config.model_dump(mode="json")
    tree["run"]["cycles"] += 10
    assert preflight.check(Config.model_validate(tree), "auto").checkpoint == newest


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("run", {"name": "another"}),
        ("model", {"embeddings": "elsewhere"}),
        ("data", {"cache": "elsewhere", "most_skipped": 0}),
        ("learner", {"zero_stage": 0, "checkpoint_cycles": 1}),
        ("cadence", {"warm_dmd_updates": 0}),
        ("policy_gradient", {"learning_rate": 1e-5}),
    ],
)
def test_a_resumed_run_may_change_places_machines_and_rates(
    config: Config, section: str, values: dict[str, object]
) -> None:
    newest = save(config, config.folder)
    tree = config.model_dump(mode="json")
    tree[section] |= values
    assert preflight.check(Config.model_validate(tree), str(newest)).checkpoint == newest


def test_a_checkpoint_of_more_cycles_than_the_run_shall_have_is_refused(config: Config) -> None:
    save(config, config.folder, 7)
    tree = config.model_dump(mode="json")
    tree["run"]["cycles"] = 6
    with pytest.raises(
        UserError, match=r"^run\.cycles is 6, but step-00000007 has 7 cycles; set run\.cycles=7 or more"
    ):
        preflight.check(Config.model_validate(tree), "auto")


def test_a_finished_run_that_is_resumed_says_that_nothing_is_left_to_train(config: Config) -> None:
    tree = config.model_dump(mode="json")
    tree["run"]["cycles"] = 7
    finished = Config.model_validate(tree)
    newest = save(finished, finished.folder, 7)
    start = preflight.check(finished, "auto")
    assert start.checkpoint == newest
    assert "all 7 cycles are made; what follows them, export and judgement, is made again" in start.note


def test_more_cpus_than_this_machine_has_are_refused_before_a_local_ray_starts(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    tree = config.model_dump(mode="json")
    tree["rollout"]["num_cpus"] = 1000.0
    with pytest.raises(UserError, match=r"the workers reserve 2000\.75 CPUs, this machine has"):
        preflight.check(Config.model_validate(tree))


@pytest.mark.parametrize(
    ("target", "near"), [("to_query", "to_q"), ("attn_to_k", "to_k"), ("to_out", r"to_out\.0"), ("o_q", "to_q")]
)
def test_adapters_of_layers_that_the_transformer_has_not_are_refused_with_the_nearest_name(
    tmp_path: Path, target: str, near: str
) -> None:
    preflight.check(make_config(tmp_path, lora={"rank": 4, "targets": ("to_q", "to_out.0", "attn.to_v")}))
    with pytest.raises(UserError, match=f"no linear layer named '{target}'; did you mean {near}. It has: to_k, to_out"):
        preflight.check(make_config(tmp_path, lora={"rank": 4, "targets": ("to_q", target)}))
    preflight.check(make_config(tmp_path, lora={"rank": 0, "targets": (target,)}))


def test_quantised_weights_are_refused(config: Config, tmp_path: Path) -> None:
    file = tmp_path / "teacher" / "text_encoder" / "model.safetensors"
    write_safetensors(file, {"w": (3, 4)}, "U8")
    with pytest.raises(UserError, match=r"text_encoder/model\.safetensors: w is U8, and quantised weights are not"):
        preflight.check(config)


@pytest.mark.parametrize("scheduler", ['{"_class_name": "DDIMScheduler"}', '{"use_karras_sigmas": true}'])
def test_a_scheduler_whose_levels_are_not_followed_is_refused(config: Config, tmp_path: Path, scheduler: str) -> None:
    (tmp_path / "teacher" / "scheduler" / "scheduler_config.json").write_text(scheduler)
    with pytest.raises(UserError, match=r"scheduler_config\.json: (is a DDIMScheduler|sets use_karras_sigmas)"):
        preflight.check(config)


def test_a_folder_of_embeddings_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    preflight.check(make_config(tmp_path, model={"embeddings": str(tmp_path / "embeddings")}))
    with pytest.raises(UserError, match=r"/proc/embeddings cannot be written.*choose another model\.embeddings"):
        preflight.check(make_config(tmp_path, model={"embeddings": "/proc/embeddings"}))


def test_a_folder_of_latents_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(f"prompt {number}" for number in range(20)))
    data: dict[str, object] = {"source": "teacher_samples", "prompts": str(tmp_path / "prompts.txt")}
    preflight.check(make_config(tmp_path, data=data))
    with pytest.raises(UserError, match=r"/proc/latents cannot be written.*choose another data\.cache"):
        preflight.check(make_config(tmp_path, data=data | {"cache": "/proc/latents"}))


def test_more_gpus_than_this_machine_has_are_refused_before_a_local_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    preflight.check(make_config(tmp_path, rollout={"num_gpus": 0.5}))
    with pytest.raises(UserError, match=r"the workers reserve 1\.2 GPUs, torch sees 1 here"):
        preflight.check(make_config(tmp_path, rollout={"num_gpus": 0.6}))


def test_what_another_machine_must_have_is_not_asked_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    large = make_config(tmp_path, rollout={"num_gpus": 8.0, "num_cpus": 4096.0})
    assert preflight.check(large, here=False).folder == large.folder
    with pytest.raises(UserError, match="blocks 0 to"):
        preflight.check(make_config(tmp_path, discriminator={"blocks": (99,)}), here=False)


def test_an_attention_that_the_model_has_not_or_that_is_not_installed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="SD3Transformer2DModel always uses torch's own attention"):
        preflight.check(make_config(tmp_path, model={"attention": "native"}))
    (flux,) = (family for family in FAMILIES if family.name == "flux")
    check_attention(flux, "native")
    monkeypatch.setattr("importlib.util.find_spec", lambda _module: None)
    with pytest.raises(UserError, match="needs the module flash_attn, which is not installed"):
        check_attention(flux, "flash")


def test_a_base_in_8_bits_needs_what_stores_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(
        tmp_path,
        model={"quantization": "int8", "precision": "bfloat16"},
        lora={"rank": 2, "targets": ("to_q",)},
        learner={"gradient_checkpointing": True},
    )
    (subject,) = (one for one in preflight.checks(config) if one.subject == "quantization")
    monkeypatch.setattr("importlib.util.find_spec", lambda _module: object())
    subject.look()
    monkeypatch.setattr("importlib.util.find_spec", lambda _module: None)
    with pytest.raises(UserError, match=r"needs torchao, which is not installed; install advdmd-ray\[quantization\]"):
        subject.look()


@pytest.mark.parametrize(
    ("distilled", "guides", "settings", "named"),
    [
        (True, False, {"model": {"guidance": 4.0}}, r"model\.guidance is 4"),
        (True, False, {"evaluation": {"teacher_guidance": 2.0}}, r"evaluation\.teacher_guidance is 2"),
        (True, False, {}, None),
        (True, True, {"model": {"guidance": 4.0}}, None),
        (False, False, {"model": {"guidance": 4.0}}, None),
    ],
)
def test_a_distilled_teacher_is_guided_only_where_its_pipeline_guides_it(
    tmp_path: Path, distilled: bool, guides: bool, settings: dict[str, dict[str, object]], named: str | None
) -> None:
    config = make_config(tmp_path, **settings)
    known = inspect_pipeline(config.model.path)
    info = replace(known, distilled=distilled, family=replace(known.family, guides_distilled=guides))
    if named is None:
        guiding.check_guidance(config, info)
        return
    with pytest.raises(UserError, match=f"{named}, but .* is distilled already, .*; set .*=1, or give the base model"):
        guiding.check_guidance(config, info)
