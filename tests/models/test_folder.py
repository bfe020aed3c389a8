"""Pipeline folders, whole and damaged."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors import safe_open

from advdmd_ray.config.inputs import ModelSection
from advdmd_ray.errors import UserError
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.headers import check_safetensors
from advdmd_ray.models.sampling_settings import SAMPLING, SamplingSettings, read_sampling, write_sampling

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


def refused(folder: Path, match: str) -> str:
    with pytest.raises(UserError, match=match) as caught:
        inspect_pipeline(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_whole_folder_is_described(tiny_folder: Path, tiny: StableDiffusion3Pipeline) -> None:
    info = inspect_pipeline(tiny_folder)
    assert info.latent.shape == (1, 8, 8)
    assert info.scheduler_shift == 1.0
    assert info.layers == 4
    assert info.dropped == ("text_encoder_3", "tokenizer_3")
    assert info.component("transformer").size_bytes == (tiny_folder / WEIGHTS).stat().st_size
    with safe_open(str(tiny_folder / WEIGHTS), "pt") as weights:
        assert info.component("transformer").parameters == sum(weights.get_tensor(k).numel() for k in weights.keys())  # noqa: SIM118 - no iterator


@pytest.mark.parametrize("kept", [0, 5, 7, 8, 100, 20_000, -1])
def test_a_truncated_weight_file_is_named(folder: Path, kept: int) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:kept])
    assert refused(folder, "copy it again").startswith(str(folder / WEIGHTS))


@pytest.mark.parametrize("content", [b"not a safetensors file", b"\xff" * 64, b"\x02" + b"\0" * 7 + b"[]"])
def test_a_file_of_another_format_is_refused(folder: Path, content: bytes) -> None:
    (folder / WEIGHTS).write_bytes(content)
    refused(folder, "not a safetensors file")


def test_bytes_after_the_data_are_refused(folder: Path) -> None:
    with (folder / WEIGHTS).open("ab") as stream:
        stream.write(b"x")
    refused(folder, "damaged")


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "transformer" / "diffusion_pytorch_model.bin")
    refused(folder, "pickled weights are not read")


@pytest.mark.parametrize("component", ["transformer", "scheduler", "vae", "text_encoder", "tokenizer_2"])
def test_a_missing_component_is_named(folder: Path, component: str) -> None:
    shutil.rmtree(folder / component)
    assert refused(folder, "missing").startswith(str(folder / component))


def test_a_component_that_the_index_does_not_name_is_missing(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index["text_encoder_2"] = [None, None]
    (folder / "model_index.json").write_text(json.dumps(index))
    refused(folder, "names no text_encoder_2")


@pytest.mark.parametrize(
    "file", ["model_index.json", "transformer/config.json", "scheduler/scheduler_config.json", "vae/config.json"]
)
def test_a_missing_or_broken_configuration_is_named(folder: Path, file: str) -> None:
    (folder / file).write_text("{")
    assert refused(folder, "JSON").startswith(str(folder / file))
    (folder / file).unlink()
    assert refused(folder, "missing").startswith(str(folder / file))


def test_another_pipeline_class_is_refused(folder: Path) -> None:
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    refused(folder, "is a StableDiffusionPipeline; .* is needed: StableDiffusion3Pipeline, FluxPipeline")


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none", "no such folder")


def test_a_folder_without_vocabulary_is_refused(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").unlink()
    refused(folder, "no vocabulary")


def test_every_shard_of_an_index_is_checked(folder: Path) -> None:
    home = folder / "transformer"
    shard = home / "diffusion_pytorch_model-00001-of-00002.safetensors"
    (folder / WEIGHTS).rename(shard)
    second = home / "diffusion_pytorch_model-00002-of-00002.safetensors"
    shutil.copy(folder / "vae" / "diffusion_pytorch_model.safetensors", second)
    index = home / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shard.name, "b": second.name, "c": shard.name}}))
    assert inspect_pipeline(folder).component("transformer").weight_files == (shard, second)
    second.write_bytes(second.read_bytes()[:-1])
    assert refused(folder, "damaged").startswith(str(second))
    second.unlink()
    assert refused(folder, "missing").startswith(str(second))


def renamed_variant(folder: Path, variant: str) -> list[Path]:
    """The weights of all components, renamed as those of a variant are called."""
    files = sorted(folder.rglob("*.safetensors"))
    return [file.rename(file.with_name(file.name.replace(".safetensors", f".{variant}.safetensors"))) for file in files]


def test_weights_of_a_variant_alone_are_found_and_those_without_come_first(folder: Path) -> None:
    plain = inspect_pipeline(folder)
    files = renamed_variant(folder, "fp16")
    info = inspect_pipeline(folder)
    assert (plain.variant, info.variant) == (None, "fp16")
    assert sorted(file for part in info.components for file in part.weight_files) == files
    assert [part.parameters for part in info.components] == [part.parameters for part in plain.components]
    shutil.copy(folder / "vae" / "diffusion_pytorch_model.fp16.safetensors", folder / "vae" / Path(WEIGHTS).name)
    assert inspect_pipeline(folder).component("vae").variant is None
    files[0].write_bytes(files[0].read_bytes()[:-1])
    assert refused(folder, "damaged").startswith(str(files[0]))


def test_several_variants_are_refused_as_nobody_knows_which_is_meant(folder: Path) -> None:
    renamed_variant(folder, "fp16")
    vae = folder / "vae" / "diffusion_pytorch_model.fp16.safetensors"
    shutil.copy(vae, vae.with_name("diffusion_pytorch_model.ema.safetensors"))
    refused(folder, "in the variants ema, fp16 and none without; keep one")
    vae.unlink()
    refused(folder, "has weights in the variants ema, fp16; keep one")


def test_files_that_a_mac_left_beside_a_model_are_no_part_of_it(folder: Path) -> None:
    before = inspect_pipeline(folder).files("vae")
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        (folder / "vae" / f"._{name}").write_bytes(b"\0\5\x16\7")
    assert inspect_pipeline(folder).files("vae") == before


def test_the_sampling_file_is_part_of_what_is_known_of_a_folder(folder: Path) -> None:
    assert inspect_pipeline(folder).sampling is None
    write_sampling(folder, SamplingSettings(3))
    assert json.loads((folder / SAMPLING).read_text()) == {"max_sequence_length": 3}
    assert inspect_pipeline(folder).sampling == SamplingSettings(3)
    whole = SamplingSettings(3, 8, 12, (1.0, 0.5), 3.5, ((8, 12), (12, 8)))
    write_sampling(folder, whole)
    assert read_sampling(folder) == whole


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "cannot be read as JSON"),
        (b'{"max_sequence_length": 8', "cannot be read as JSON"),
        (b"\xff\xfe", "cannot be read as JSON"),
        (b"[8]", "is not a JSON object"),
        (b"{}", r"has the keys \[\]; max_sequence_length is needed"),
        (b'{"max_sequence_length": 8, "height": 8}', "height and width go together"),
        (b'{"max_sequence_length": 8, "height": 8, "width": 0}', "width is 0; a whole number from 1 to 8192"),
        (b'{"max_sequence_length": 8, "sigmas": [1.0, 1.0]}', r"sigmas is \[1\.0, 1\.0\]; a list of numbers that fall"),
        (b'{"max_sequence_length": 8, "sigmas": []}', "a list of numbers that fall"),
        (b'{"max_sequence_length": 8, "sigmas": [1.5]}', "a list of numbers that fall"),
        (b'{"max_sequence_length": 8, "guidance": 0.5}', "guidance is 0.5; a number of at least 1"),
        (b'{"max_sequence_length": 8, "sizes": []}', "a list of .height, width., whole numbers from 1 to 8192"),
        (b'{"max_sequence_length": 8, "sizes": [[64]]}', "a list of .height, width., whole numbers from 1 to 8192"),
        (b'{"max_sequence_length": 8, "sizes": [[64, 0.5]]}', "a list of .height, width., whole numbers"),
        (b'{"max_sequence_length": 8, "steps": 4}', r"has the keys \['max_sequence_length', 'steps'\]"),
        (b'{"max_sequence_lenght": 8}', r"has the keys \['max_sequence_lenght'\]"),
        (b'{"max_sequence_length": "8"}', "max_sequence_length is '8'; a whole number from 1 to 1024 is needed"),
        (b'{"max_sequence_length": "8\\n"}', "max_sequence_length is '8"),
        (b'{"max_sequence_length": 8.0}', r"max_sequence_length is 8\.0"),
        (b'{"max_sequence_length": true}', "max_sequence_length is True"),
        (b'{"max_sequence_length": null}', "max_sequence_length is None"),
        (b'{"max_sequence_length": 0}', "max_sequence_length is 0"),
        (b'{"max_sequence_length": -1}', "max_sequence_length is -1"),
        (b'{"max_sequence_length": 1025}', "max_sequence_length is 1025"),
    ],
)
def test_a_sampling_file_that_is_not_exactly_right_is_named_with_what_is_wrong(
    folder: Path, content: bytes, says: str
) -> None:
    (folder / SAMPLING).write_bytes(content)
    assert refused(folder, says).startswith(f"{folder / SAMPLING}: ")


def test_a_sampling_file_that_is_a_folder_is_refused(folder: Path) -> None:
    (folder / SAMPLING).mkdir()
    refused(folder, "sampling.json: cannot be read")


@given(length=st.integers(-5, 1100))
def test_the_lengths_that_a_folder_takes_are_those_of_the_configuration(
    tmp_path_factory: pytest.TempPathFactory, length: int
) -> None:
    folder = tmp_path_factory.mktemp("pipeline")
    write_sampling(folder, SamplingSettings(length))
    try:
        configured = ModelSection(max_sequence_length=length).max_sequence_length
    except ValidationError:
        with pytest.raises(UserError, match=f"max_sequence_length is {length};"):
            read_sampling(folder)
    else:
        assert read_sampling(folder) == SamplingSettings(configured)


def test_a_whole_file_counts_its_elements(tiny_folder: Path) -> None:
    assert check_safetensors(tiny_folder / "vae" / "diffusion_pytorch_model.safetensors") == 1


def test_folders_are_inspected_without_torch_or_diffusers(tiny_folder: Path) -> None:
    code = (
        f"import sys; from advdmd_ray.models.folder import inspect_pipeline; inspect_pipeline({str(tiny_folder)!r});"
        "assert not {'torch', 'diffusers', 'transformers', 'ray', 'numpy'} & set(sys.modules)"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=60)
