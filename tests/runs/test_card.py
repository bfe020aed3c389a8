"""The model card of an export: what the hub reads of it, and what of the run it says."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from advdmd_ray.config import Config
from advdmd_ray.evaluation.summary import FigureLabel, JudgeSummary, Score, StudentScore
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.location import hub_name
from advdmd_ray.models.model_card import Call, adapter_card, student_card, with_figures
from advdmd_ray.runs.card import about, figures_text

JUDGE = JudgeSummary(
    headline="seen",
    labels=(FigureLabel(key="seen", label="seen | prompts", better="higher", share=True),),
    teacher={4: Score(figures={"seen": 0.5}, images=100), 40: Score(figures={"seen": 0.625}, images=100)},
    student=StudentScore(figures={"seen": 0.75}, images=100, steps=2),
    real=Score(figures={"seen": 1.0}, images=90),
)


def _config(teacher: str, out: Path, **data: str) -> Config:
    return Config.model_validate(
        {"run": {"output": str(out), "name": "cards", "seed": 7}, "model": {"path": teacher}, "data": data}
    )


def _call(teacher: str) -> Call:
    return Call(inspect_pipeline(teacher), (1.0, 0.5), "renoise", 1.0, 8, "a handwritten two", torch.bfloat16)


@pytest.fixture
def teacher(tmp_path: Path, tiny_pipeline: Path) -> str:
    """A teacher as the hub's cache has it, with a card of its own."""
    folder = tmp_path / "models--some-one--their--model" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    for part in tiny_pipeline.iterdir():
        (folder / part.name).symlink_to(part)
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: theirs\nlicense_link: LICENSE.md\n---\nHello")
    return str(folder)


def test_the_hub_reads_what_the_student_is_of_whom_it_descends_and_by_what_licence(
    teacher: str, tmp_path: Path
) -> None:
    said = about(_config(teacher, tmp_path), 3)
    for card, relation in (
        (student_card(_call(teacher), said), "finetune"),
        (adapter_card(_call(teacher), said, how=""), "adapter"),
    ):
        facts = ModelCard(card).data.to_dict()
        assert facts["base_model"] == "some-one/their--model"
        assert facts["base_model_relation"] == relation
        assert facts["library_name"] == "diffusers"
        assert facts["pipeline_tag"] == "text-to-image"
        assert {key: facts[key] for key in facts if key.startswith("license")} == {
            "license": "other",
            "license_name": "theirs",
            "license_link": "LICENSE.md",
        }
        assert ("lora" in facts["tags"]) == (relation == "adapter")


def test_a_teacher_from_no_hub_and_without_a_card_has_neither_name_nor_licence(
    tiny_pipeline: Path, tmp_path: Path
) -> None:
    facts = ModelCard(student_card(_call(str(tiny_pipeline)), about(_config(str(tiny_pipeline), tmp_path), 3)))
    assert not {"base_model", "base_model_relation", "license"} & facts.data.to_dict().keys()
    assert hub_name("owner/name") == "owner/name"
    assert hub_name("builtin:digits") is None


@pytest.mark.parametrize("broken", ["no header", "---\nlicense: [\n---\n", "---\n- a list\n---\n", "\x00"])
def test_a_teachers_card_that_says_no_licence_gives_none(teacher: str, tmp_path: Path, broken: str) -> None:
    Path(teacher, "README.md").write_text(broken)
    assert about(_config(teacher, tmp_path), 3).licence == {}


def test_a_card_says_the_recipe_the_data_and_its_licence(teacher: str, tmp_path: Path) -> None:
    card = student_card(_call(teacher), about(_config(teacher, tmp_path), 12))
    for row in (
        "# cards",
        "| kernel | renoise |",
        "| student steps | 4 |",
        "| learner cycles | 12 |",
        "| run | cards |",
        "| seed | 7 |",
        "| images and captions | digits |",
        "| licence | CC BY 4.0 (Optical Recognition of Handwritten Digits, UCI) |",
    ):
        assert row in card.splitlines()
    own = {"source": "files", "path": "mine", "licence": "mine alone"}
    assert "| licence | mine alone |" in student_card(_call(teacher), about(_config(teacher, tmp_path, **own), 12))
    del own["licence"]
    assert "not said" in student_card(_call(teacher), about(_config(teacher, tmp_path, **own), 12))


def test_figures_are_a_table_that_takes_the_place_of_those_before(teacher: str, tmp_path: Path) -> None:
    before = student_card(_call(teacher), about(_config(teacher, tmp_path), 12))
    assert before.rstrip().endswith("Not judged yet: `advdmd evaluate` does it.")
    after = with_figures(before, figures_text(JUDGE))
    assert after == with_figures(after, figures_text(JUDGE))
    assert after.startswith(before.partition("## Figures")[0])
    assert [line for line in after.partition("## Figures")[2].splitlines() if line.startswith("|")] == [
        "|  | seen \\| prompts (higher is better) | images |",
        "|---|---|---|",
        "| student, 2 steps | 0.750 | 100 |",
        "| teacher, 40 steps | 0.625 | 100 |",
        "| teacher, 4 steps | 0.500 | 100 |",
        "| real images | 1.000 | 90 |",
    ]


def test_figures_of_other_weights_or_another_programs_are_not_the_students(teacher: str, tmp_path: Path) -> None:
    config = _config(teacher, tmp_path)
    config.folder.mkdir(parents=True)
    (config.folder / "summary.json").write_text(json.dumps({"run": "cards", "of": "another version"}))
    assert about(config, 12).figures.startswith("Not judged")
