"""The scorers' results as a table with honest intervals."""

import json
from pathlib import Path

import numpy as np
import pytest

from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.suites.collect import SkillScore, collect, table

DPG = """out/0.png, 1.0, 0.5, 0.75
out/1.png, 0.25, 0.25, 0.25
Model: out
L1 category scores:
\tentity: 80.0
\trelation: 60.5
L2 category scores:
\tentity - whole: 81.0
Image path: out
Save results to: results.txt
DPG-Bench score: 50.0
"""

LINE = '{"tag": "colors", "prompt": "a fox", "correct": true, "filename": "a.png"}'


def _geneval(file: Path, shares: dict[str, list[list[bool]]]) -> Path:
    lines = [
        json.dumps(
            {
                "filename": f"{tag}/{prompt}/{image}.png",
                "tag": tag,
                "prompt": f"{tag} {prompt}",
                "correct": correct,
                "reason": "",
                "metadata": json.dumps({"prompt": f"{tag} {prompt}"}),
            }
        )
        for tag, prompts in shares.items()
        for prompt, images in enumerate(prompts)
        for image, correct in enumerate(images)
    ]
    file.write_text("\n".join(lines) + "\n")
    return file


def _by_skill(lines: tuple[SkillScore, ...]) -> dict[str, SkillScore]:
    return {line.skill: line for line in lines}


def test_geneval_is_correct_images_by_skill_and_their_mean(tmp_path: Path) -> None:
    yes, no = [True] * 4, [False] * 4
    found = _by_skill(
        collect(_geneval(tmp_path / "r.jsonl", {"colors": [yes, no, yes, yes], "position": [no, no, [True, *no[1:]]]}))
    )
    assert found["colors"].score == pytest.approx(0.75)
    assert found["position"].score == pytest.approx(1 / 12)
    # The mean over skills, not over images: a skill with more prompts counts no more.
    assert found["overall"].score == pytest.approx((0.75 + 1 / 12) / 2)
    assert [found[skill].prompts for skill in ("colors", "position", "overall")] == [4, 3, 7]


def test_intervals_hold_the_score_and_narrow_with_more_prompts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    widths = []
    for count in (20, 500):
        shares = {"colors": [[bool(rng.random() < 0.6)] * 4 for _ in range(count)]}
        score = _by_skill(collect(_geneval(tmp_path / f"{count}.jsonl", shares)))["colors"]
        assert score.low is not None
        assert score.high is not None
        assert score.low < score.score < score.high
        widths.append(score.high - score.low)
        # Images of one prompt are no independent evidence: the error is that of prompts.
        expected = 2 * 1.96 * np.sqrt(score.score * (1 - score.score) / count)
        assert widths[-1] == pytest.approx(expected, rel=0.15)
    assert widths[1] < 0.4 * widths[0]


def test_one_prompt_has_a_score_and_no_interval(tmp_path: Path) -> None:
    lines = collect(_geneval(tmp_path / "r.jsonl", {"colors": [[True, True, False, True]], "position": [[False] * 4]}))
    assert [(line.score, line.low, line.high) for line in lines] == [
        (0.75, None, None),
        (0.0, None, None),
        (0.375, None, None),
    ]
    assert table({"r": lines}).splitlines()[2:] == [
        "| colors | 75.0% (1 prompt) |",
        "| position | 0.0% (1 prompt) |",
        "| overall | 37.5% (2 prompts) |",
    ]


def test_dpg_is_the_mean_over_prompts_and_the_scorers_own_categories(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text(DPG)
    found = _by_skill(collect(tmp_path / "r.txt"))
    assert found["overall"].score == pytest.approx(0.5)
    assert found["overall"].prompts == 2
    assert (found["overall"].low, found["overall"].high) == (pytest.approx(0.25), pytest.approx(0.75))
    assert (found["entity"].score, found["relation"].score) == (pytest.approx(0.8), pytest.approx(0.605))
    assert found["entity"].low is None
    assert "entity - whole" not in found


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is neither"),
        ("hello", "is neither"),
        ('{"tag": "colors"}', "line 1: is no result"),
        (DPG.replace("0.75", "many"), "line 1: expected a number, got 'many'"),
        (DPG.replace("out/0.png, 1.0, 0.5, 0.75\nout/1.png, 0.25, 0.25, 0.25\n", ""), "no score of a prompt"),
        (DPG.replace("0.75", "nan"), "line 1: expected a number, got 'nan'"),
        (
            DPG.replace("out/1.png, 0.25, 0.25, 0.25\n", ""),
            r"line 10: says 50\.00%, and the mean of its 1 prompts is 75",
        ),
        (DPG.replace("out/1", "out/0"), "line 2: 'out/0.png' has a score already"),
        (f"{LINE}\n{LINE.replace('true', 'false')}", "line 2: the image 'a.png' has a score in line 1 already"),
        (LINE.replace('"a fox"', "null"), "line 1: is no result"),
        (LINE.replace("true", '"nan"'), "line 1: is no result"),
        (LINE.replace("true", "NaN"), "line 1: is no result"),
        (LINE.replace('"colors"', "null"), "line 1: is no result"),
        (f"{LINE}\n{LINE[:30]}", "line 2: is no result"),
        (
            "\n".join(
                LINE.replace("a fox", prompt).replace("a.png", f"{number}.png")
                for number, prompt in enumerate(("x", "x", "y", "y", "z"))
            ),
            "has 1 images of 'z', and 2 of others",
        ),
    ],
)
def test_what_is_no_result_file_is_refused_with_its_place(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "r").write_text(content)
    with pytest.raises(UserError, match=says):
        collect(tmp_path / "r")


@pytest.mark.parametrize("folder", ["out, 7", "out, a, 0.5", "C:\\x, 1e3"])
def test_the_path_of_a_dpg_image_may_hold_commas(tmp_path: Path, folder: str) -> None:
    (tmp_path / "r.txt").write_text(DPG.replace("out/", f"{folder}/"))
    overall = _by_skill(collect(tmp_path / "r.txt"))["overall"]
    assert (overall.score, overall.prompts) == (pytest.approx(0.5), 2)


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16"])
def test_results_are_read_though_a_shell_wrote_them_with_a_mark_or_a_prompt_holds_a_separator(
    tmp_path: Path, coding: str
) -> None:
    line = LINE.replace("a fox", "a\u2028fox\x85")
    (tmp_path / "r.jsonl").write_text(f"{line}\r\n\r\n", encoding=coding, newline="")
    assert [(line.score, line.prompts) for line in collect(tmp_path / "r.jsonl")] == [(1.0, 1), (1.0, 1)]
    (tmp_path / "r.txt").write_text(DPG, encoding=coding)
    assert collect(tmp_path / "r.txt")[-1].score == 0.5


def test_teacher_and_student_stand_side_by_side() -> None:
    teacher = (SkillScore("colors", 0.8, 0.75, 0.85, 94), SkillScore("overall", 0.7, 0.65, 0.75, 553))
    student = (SkillScore("position", 0.5, None, None, 0), SkillScore("overall", 0.72, 0.67, 0.77, 553))
    assert table({"teacher": teacher, "student": student}).splitlines() == [
        "|  | teacher | student |",
        "| --- | --- | --- |",
        "| colors | 80.0% (75.0% to 85.0%, 94 prompts) | - |",
        "| position | - | 50.0% |",
        "| overall | 70.0% (65.0% to 75.0%, 553 prompts) | 72.0% (67.0% to 77.0%, 553 prompts) |",
    ]
