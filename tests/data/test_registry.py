"""Data sources by name: those that ship, one of a user, and what is refused of their settings."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from advdmd_ray.config import Config
from advdmd_ray.data.registry import SOURCES, source_of
from advdmd_ray.errors import UserError
from advdmd_ray.metrics.history import entries_of, last_values
from advdmd_ray.runs import preflight
from local_runs import train_here
from toy_source import EACH, LEVELS, NAME


def config(**sections: dict[str, Any]) -> Config:
    return Config.model_validate(sections)


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"data": {"source": "digit"}}, "data.source = 'digit': did you mean digits? It is one of digits, shapes,"),
        ({"data": {"source": "no.such:Source"}}, "cannot import no.such (No module named 'no'); install it or put"),
        ({"data": {"source": "toy_source:Tory"}}, "toy_source has no class Tory that derives from Source"),
        ({"data": {"source": "toy_source:ToyJudge"}}, "toy_source has no class ToyJudge that derives from Source"),
        ({"data": {"source": "files"}}, "data.source=files needs data.path: a folder of captioned images, or Parquet"),
        ({"data": {"path": "images"}}, "data.source=digits reads no data.path, got images"),
        ({"data": {"source": NAME, "path": "images"}}, f"data.source={NAME} reads no data.path"),
        ({"reward": {"kind": "oracle"}}, "reward.kind=oracle needs data.source=shapes, whose images can be checked"),
        ({"reward": {"oracle_agreement": True}}, "reward.oracle_agreement needs data.source=shapes"),
    ],
)
def test_what_is_wrong_with_a_source_is_one_line_before_anything_starts(
    sections: dict[str, dict[str, Any]], says: str
) -> None:
    with pytest.raises(UserError) as raised:
        preflight.check(config(**sections))
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_shapes_have_an_oracle() -> None:
    oracle = source_of(config(data={"source": "shapes"}, reward={"kind": "oracle"})).oracle()
    assert oracle(torch.zeros(2, 3, 24, 24), "a red circle").shape == (2,)


def test_a_source_without_a_small_teacher_says_so() -> None:
    with pytest.raises(UserError, match=f"teachers of data.source digits and shapes, got {NAME}"):
        source_of(config(data={"source": NAME})).teacher_recipe(1000, seed=0)


def test_looking_a_source_up_imports_no_torch() -> None:
    data = {"files": {"path": "images"}, "teacher_samples": {"prompts": "prompts.txt"}}
    sections = [{"source": name, **data.get(name, {})} for name in SOURCES]
    code = (
        "import sys; from advdmd_ray.config import Config; from advdmd_ray.data.registry import source_of\n"
        f"for data in {sections}: source_of(Config.model_validate({{'data': data}}))\n"
        "assert not {'torch', 'numpy', 'pyarrow', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_source_from_outside_the_package_trains_a_student_and_judges_it(tmp_path: Path, tiny_pipeline: Path) -> None:
    chosen = config(
        run={"output": str(tmp_path), "cycles": 2},
        model={"path": str(tiny_pipeline)},
        data={"source": NAME},
        diffusion={"sigmas": (1.0, 0.5)},
        rollout={"actors": 1, "group_size": 4, "groups_per_cycle": 2},
        learner={"engine": "torch"},
        dmd={"batch_size": 4},
        fake_score={"batch_size": 4},
        discriminator={"batch_size": 4},
        cadence={"fake_score_updates": 1},
        evaluation={"judge_cycles": 1, "judge_samples": 20},
        metrics={"port": 0},
    )
    preflight.check(chosen)
    assert train_here(chosen) == 2
    values = last_values(entries_of(chosen.folder / "metrics.jsonl"))
    assert 0 < values["advdmd_run_judge{figure=error}"] < 2
    real = source_of(chosen).real_images(("two", "one"))
    means = [float(real.latents[real.prompt_ids == row].mean()) for row in (0, 1)]
    assert len(real) == 2 * EACH
    assert means == pytest.approx([LEVELS["two"], LEVELS["one"]], abs=0.05)
