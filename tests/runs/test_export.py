"""What a run leaves for others: the averaged student as a whole pipeline, or its adapters."""

import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from advdmd_ray import cli
from advdmd_ray.config import Config, dump_config
from advdmd_ray.data.digits.source import DigitsSource
from advdmd_ray.errors import UserError
from advdmd_ray.learner.checkpoint import latest_checkpoint
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.lora import merged_weights
from advdmd_ray.models.sampling_settings import SamplingSettings, read_sampling
from advdmd_ray.runs.export import export, export_adapter, student_of
from local_runs import train_here

pytestmark = pytest.mark.usefixtures("encoders_once")

TRANSFORMER = "diffusion_pytorch_model.safetensors"


def _finished(folder: Path, teacher: Path, rank: int) -> Config:
    config = Config.model_validate(
        {
            "run": {"name": "end", "output": str(folder), "cycles": 2},
            "model": {"path": str(teacher), "max_sequence_length": 5},
            "lora": {"rank": rank},
            "diffusion": {"sigmas": (1.0, 0.5)},
            "rollout": {"actors": 1, "group_size": 2, "groups_per_cycle": 2},
            "learner": {"engine": "torch"},
            "dmd": {"batch_size": 2},
            "fake_score": {"batch_size": 2},
            "discriminator": {"batch_size": 2, "text_errors": None, "auc_high": 1.0},
            "cadence": {"warm_dmd_updates": 0, "ramp_interval": 1},
        }
    )
    train_here(config)
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> Config:
    """A finished run of two cycles that learned a whole network."""
    return _finished(tmp_path_factory.mktemp("runs"), tiny_pipeline, 0)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> Config:
    """A finished run of two cycles that learned adapters."""
    return _finished(tmp_path_factory.mktemp("adapted"), tiny_pipeline, 2)


def test_the_exported_student_is_the_average_of_the_newest_checkpoint(run: Config) -> None:
    folder = export(run)
    average = latest_checkpoint(run.folder / "checkpoints").load("ema")
    exported = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    for name, tensor in average.items():
        assert torch.equal(exported[name.removeprefix("transformer.")], tensor)


def test_the_exported_student_says_the_length_of_its_text_slot(run: Config) -> None:
    assert read_sampling(export(run)) == SamplingSettings(5, sigmas=run.diffusion.sigmas)


def test_a_second_export_replaces_the_first(run: Config) -> None:
    folder = export(run)
    (folder / "leftover").write_text("")
    assert export(run) == folder
    assert not (folder / "leftover").exists()
    assert sorted(path.name for path in run.folder.iterdir() if "student" in path.name) == ["student"]


def test_an_export_that_fails_leaves_the_old_student(run: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = export(run)

    def gone(_: DigitsSource) -> tuple[str, ...]:
        raise UserError("prompts.txt: is not there")

    monkeypatch.setattr(DigitsSource, "prompts", gone)
    with pytest.raises(UserError, match="is not there"):
        export(run)
    assert (folder / "transformer" / TRANSFORMER).is_file()


@pytest.mark.parametrize("adapters", [False, True])
def test_an_export_that_the_disk_refuses_is_one_line_and_leaves_nothing(
    run: Config, adapted: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str], adapters: bool
) -> None:
    config, file = adapted if adapters else run, tmp_path / "run.yaml"
    file.write_text(dump_config(config))
    out = tmp_path / "outs" / "student"
    out.parent.mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # less than any file of weights
    try:
        command = ["export", "--config", str(file), "--out", str(out), *(["--adapter"] if adapters else [])]
        assert cli.main(command) == cli.FAILED
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (said,) = capsys.readouterr().err.splitlines()
    assert said == (
        f"advdmd: failed: {out} cannot be written (file too large); nothing of it is left; make room, or give another "
        "--out"
    )
    assert list(out.parent.iterdir()) == []


def test_an_export_elsewhere_leaves_the_runs_own_alone_and_replaces_nothing(run: Config, tmp_path: Path) -> None:
    own = export(run)
    out = export(run, tmp_path / "elsewhere")
    assert load_file(out / "transformer" / TRANSFORMER).keys() == load_file(own / "transformer" / TRANSFORMER).keys()
    with pytest.raises(UserError, match="exists; give a new folder"):
        export(run, out)


def test_a_student_of_adapters_is_exported_merged_or_as_adapters(adapted: Config, tmp_path: Path) -> None:
    checkpoint = latest_checkpoint(adapted.folder / "checkpoints")
    average = checkpoint.load("ema")
    assert all(".lora_" in name for name in average)
    merged = load_file(export(adapted) / "transformer" / TRANSFORMER)
    teacher = load_file(Path(adapted.model.path) / "transformer" / TRANSFORMER)
    expected = merged_weights(student_of(adapted, checkpoint))
    assert merged.keys() == teacher.keys() == expected.keys()
    assert all(torch.equal(merged[name], tensor) for name, tensor in expected.items())
    changed = {name for name in teacher if not torch.equal(teacher[name], merged[name])}
    assert changed
    assert all(name.endswith(("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")) for name in changed)
    folder = export_adapter(adapted, tmp_path / "adapters")
    (file,) = folder.glob("*.safetensors")
    assert len(load_file(file)) == len(average)
    assert read_sampling(folder) == read_sampling(export(adapted))
    assert "rank 2 on to_q, to_k, to_v, to_out.0, alone" in (folder / "README.md").read_text()
    assert "rank 2 on to_q, to_k, to_v, to_out.0, merged" in (adapted.folder / "student" / "README.md").read_text()


def test_adapters_under_comfyuis_keys_are_written_and_what_an_upload_would_do_is_told(
    adapted: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "run.yaml", tmp_path / "for_comfyui"
    file.write_text(dump_config(adapted))
    upload = ["--push-to-hub", "me/it", "--dry-run"]
    command = ["export", "--config", str(file), "--adapter", "--keys", "comfyui", "--out", str(out), *upload]
    assert cli.main(command) == cli.DONE
    said = capsys.readouterr().out.splitlines()
    assert said[0] == str(out)
    names = [line.split()[2] for line in said if line.startswith("would upload")]
    assert names == ["README.md", "for_comfyui.safetensors", "sampling.json", "scheduler/scheduler_config.json"]
    assert "diffusion_model.joint_blocks.0.x_block.attn.qkv.alpha" in load_file(out / "for_comfyui.safetensors")
    # The levels that ComfyUI is given are those after the shift, as it shifts none that it is given.
    shift = inspect_pipeline(adapted.model.path).scheduler_shift
    assert f"after the shift: 1, {shift * 0.5 / (1 + (shift - 1) * 0.5):g}, 0." in (out / "README.md").read_text()


def test_adapters_of_a_run_without_them_are_refused(run: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="whole networks"):
        export_adapter(run, tmp_path / "adapters")
    assert not (tmp_path / "adapters").exists()


def test_settings_that_the_student_was_not_trained_with_are_refused(
    run: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, settings = tmp_path / "student", str(run.folder.parent / "run.yaml")
    Path(settings).write_text(dump_config(run))
    command = ["export", "--config", settings, "--out", str(out)]
    assert cli.main([*command, "diffusion.sigmas=[1.0, 0.7, 0.4]"]) == cli.BAD_INPUT
    assert "was made with" in capsys.readouterr().err
    assert not out.exists()
    assert cli.main([*command, "dmd.learning_rate=0.5"]) == cli.DONE
    assert read_sampling(out) == SamplingSettings(5, sigmas=run.diffusion.sigmas)
