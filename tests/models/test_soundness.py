"""Weights that are no numbers, are not there or do not fit are told by file and tensor when they are loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from advdmd_ray.errors import UserError
from advdmd_ray.models.pipeline import load_pipeline, load_transformer

TRANSFORMER = Path("transformer") / "diffusion_pytorch_model.safetensors"
ENCODER = Path("text_encoder") / "model.safetensors"
HEAD = "norm_out.linear.weight"


@pytest.fixture
def folder(tiny_pipeline: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_pipeline, tmp_path / "pipeline"))


def changed(file: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_that_is_no_number_is_told_with_its_file(folder: Path, value: float, dtype: torch.dtype) -> None:
    changed(folder / TRANSFORMER, lambda tensors: tensors[HEAD].view(-1)[7:8].fill_(value))
    for load in (load_pipeline, load_transformer):
        with pytest.raises(UserError) as refused:
            load(folder, dtype)
        assert str(refused.value).startswith(f"{folder / TRANSFORMER}: {HEAD} holds NaN or infinite numbers")


def test_a_text_encoder_is_looked_at_by_those_who_load_it(folder: Path) -> None:
    name = next(iter(load_file(folder / ENCODER)))
    changed(folder / ENCODER, lambda tensors: tensors[name].view(-1)[:1].fill_(float("nan")))
    with pytest.raises(UserError, match="holds NaN") as refused:
        load_pipeline(folder, parts="text")
    assert f"{folder / ENCODER}: {name} " in str(refused.value)
    load_pipeline(folder, parts="codec")


@pytest.mark.parametrize(
    ("file", "says"),
    [(TRANSFORMER, f"no file has {HEAD}, which its config.json asks for"), (ENCODER, "and its config.json asks for")],
)
def test_a_tensor_that_is_not_there_is_not_drawn_at_random(folder: Path, file: Path, says: str) -> None:
    name = HEAD if file is TRANSFORMER else next(iter(load_file(folder / file)))
    changed(folder / file, lambda tensors: tensors.pop(name))
    with pytest.raises(UserError, match=r"copy the folder again$") as refused:
        load_pipeline(folder)
    assert says in str(refused.value)


@pytest.mark.parametrize("damage", ["a tensor of another shape", "an empty tokenizer", "a width that is text"])
def test_what_a_library_says_of_a_damaged_folder_is_one_line(folder: Path, damage: str) -> None:
    if damage == "a tensor of another shape":
        changed(folder / TRANSFORMER, lambda tensors: tensors.update({HEAD: torch.zeros(3, 3)}))
    elif damage == "an empty tokenizer":
        (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    else:
        file = folder / "transformer" / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "num_attention_heads": "x"}))
    with pytest.raises(UserError, match=r"cannot be loaded \(\w+Error: .*copy the folder again$") as refused:
        load_pipeline(folder)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600
