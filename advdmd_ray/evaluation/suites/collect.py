"""The official scorers' results as one table: per skill and overall, with bootstrap intervals over prompts."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from advdmd_ray.errors import UserError
from advdmd_ray.files import read_whole
from advdmd_ray.reading import NotTextError, decoded, text_lines

RESAMPLES = 2000
LEVEL = 0.95
SEED = 0
MEAN_TOLERANCE = 1e-3
"""What DPG-Bench's own mean may be off that of the prompts in its file, for rounding."""
_SCORES = re.compile(r"(?:, [-+.\deE]+)+$")
"""What follows the path of an image in its result."""


@dataclass(frozen=True, slots=True)
class SkillScore:
    """One line of the table.

    Attributes:
        skill: Its name; `overall` for all.
        score: In [0, 1].
        low: Lower end of the 95 % bootstrap interval over prompts; None where the scorer gives no figures by prompt,
            and of a single prompt, which says nothing about others.
        high: Upper end.
        prompts: Prompts in it; 0 where the scorer does not say.
    """

    skill: str
    score: float
    low: float | None
    high: float | None
    prompts: int


def collect(file: Path) -> tuple[SkillScore, ...]:
    """Read what a scorer wrote: GenEval's JSON lines, or DPG-Bench's text.

    Raises:
        UserError: the file cannot be read or is neither.
    """
    try:
        text = decoded(read_whole(file))
    except NotTextError as error:
        raise UserError(f"--collect {file}: {error}") from None
    except OSError as error:
        raise UserError(
            f"--collect {file}: cannot be read ({error.strerror}); give what an official scorer wrote"
        ) from None
    if text.lstrip().startswith("{"):
        return _geneval(file, text)
    if "DPG-Bench score:" in text:
        return _dpg(file, text)
    raise UserError(
        f"--collect {file}: is neither GenEval's results (one JSON object a line) nor a whole DPG-Bench result file"
    )


def _geneval(file: Path, text: str) -> tuple[SkillScore, ...]:
    """A skill's score is its share of correct images; overall is the mean over skills, as GenEval's summary has it."""
    skills: dict[str, dict[str, list[float]]] = {}
    scored: dict[str, int] = {}
    for number, line in enumerate(text_lines(text), start=1):
        if not line.strip():
            continue
        entry = _entry(line)
        if entry is None:
            raise UserError(
                f"--collect {file}, line {number}: is no result of GenEval's evaluate_images.py; give the file it wrote"
            )
        tag, prompt, correct, image = entry
        if image is not None and scored.setdefault(image, number) != number:
            raise UserError(
                f"--collect {file}, line {number}: the image {image!r} has a score in line {scored[image]} already; "
                "give the file of one scoring"
            )
        skills.setdefault(tag, {}).setdefault(prompt, []).append(correct)
    _check_counts(file, skills)
    totals = {skill: _totals(list(prompts.values())) for skill, prompts in skills.items()}
    lines = [
        _scored(skill, lambda drawn, own=own: float(own[drawn, 0].sum() / own[drawn, 1].sum()), len(own))
        for skill, own in totals.items()
    ]
    return (*lines, _overall(totals))


def _check_counts(file: Path, skills: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Each prompt has as many images: a file that was cut between two lines shows nothing else."""
    counts = [(prompt, len(images)) for prompts in skills.values() for prompt, images in prompts.items()]
    usual = Counter(count for _, count in counts).most_common(1)[0][0]
    for prompt, count in counts:
        if count != usual:
            raise UserError(
                f"--collect {file}: has {count} images of {prompt!r:.80}, and {usual} of others; give the file of one "
                "scoring, whole"
            )


def _entry(line: str) -> tuple[str, str, float, str | None] | None:
    """Skill, prompt, whether it is correct, and image of a line of results; None if it is none."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict):
        return None
    tag, correct, image = entry.get("tag"), entry.get("correct"), entry.get("filename")
    prompt = entry.get("metadata", entry.get("prompt"))
    if not isinstance(tag, str) or not isinstance(image, str | None) or not isinstance(entry.get("prompt"), str):
        return None
    if prompt is None or not isinstance(correct, int | float) or correct not in (0, 1):
        return None
    return tag, str(prompt), float(correct), image


def _totals(prompts: Sequence[Sequence[float]]) -> np.ndarray:
    """Correct images and images of each prompt."""
    return np.array([[sum(images), len(images)] for images in prompts])


def _overall(totals: Mapping[str, np.ndarray]) -> SkillScore:
    """The mean over skills; prompts are drawn again within each skill."""
    rng = np.random.default_rng(SEED)

    def mean(pick: Callable[[int], np.ndarray]) -> float:
        shares = []
        for own in totals.values():
            drawn = own[pick(len(own))]
            shares.append(drawn[:, 0].sum() / drawn[:, 1].sum())
        return float(np.mean(shares))

    prompts = sum(len(own) for own in totals.values())
    if prompts == len(totals):  # one of each skill
        return SkillScore("overall", mean(np.arange), None, None, prompts)
    resampled = [mean(lambda count: rng.integers(0, count, count)) for _ in range(RESAMPLES)]
    low, high = _interval(resampled)
    return SkillScore("overall", mean(np.arange), low, high, prompts)


def _scored(skill: str, score: Callable[[np.ndarray], float], count: int) -> SkillScore:
    if count == 1:
        return SkillScore(skill, score(np.arange(1)), None, None, 1)
    rng = np.random.default_rng(SEED)
    low, high = _interval([score(rng.integers(0, count, count)) for _ in range(RESAMPLES)])
    return SkillScore(skill, score(np.arange(count)), low, high, count)


def _interval(resampled: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _dpg(file: Path, text: str) -> tuple[SkillScore, ...]:
    """Overall is the mean over prompts; of the broad categories the scorer gives means alone."""
    prompts: dict[str, float] = {}
    broad: list[SkillScore] = []
    section, said = "", None
    for number, line in enumerate(text_lines(text), start=1):
        if line.startswith("DPG-Bench score:"):
            said = number, _number(file, number, line.partition(":")[2]) / 100
        elif line.endswith("category scores:"):
            section = line[:2]
        elif line.startswith("\t") and section == "L1":
            name, _, value = line.strip().rpartition(":")
            broad.append(SkillScore(name, _number(file, number, value) / 100, None, None, 0))
        elif line.startswith("Model:"):
            section = "summary"
        elif not section and line.strip():
            # Scores follow the path of the image, which may hold commas too; the last is their mean.
            score = _number(file, number, line.rpartition(", ")[2])
            scores = _SCORES.search(line)
            path = line if scores is None else line[: scores.start()]
            if path in prompts:
                raise UserError(
                    f"--collect {file}, line {number}: {path!r} has a score already; give one scoring's file"
                )
            prompts[path] = score
    if not prompts:
        raise UserError(f"--collect {file}: has no score of a prompt; give the file that the scorer wrote, whole")
    values = np.array(list(prompts.values()))
    if said is not None and abs(values.mean() - said[1]) > MEAN_TOLERANCE:
        raise UserError(
            f"--collect {file}, line {said[0]}: says {said[1]:.2%}, and the mean of its {len(values)} prompts is "
            f"{values.mean():.2%}; give the file that the scorer wrote, whole"
        )
    return (*broad, _scored("overall", lambda drawn: float(values[drawn].mean()), len(values)))


def _number(file: Path, line: int, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"--collect {file}, line {line}: expected a number, got {text.strip()!r}")
    return number


def table(results: Mapping[str, Sequence[SkillScore]]) -> str:
    """Results side by side as Markdown: one row a skill, one column a file.

    Args:
        results: Lines by the name of their file.
    """
    skills = list(dict.fromkeys(line.skill for lines in results.values() for line in lines if line.skill != "overall"))
    found = {name: {line.skill: line for line in lines} for name, lines in results.items()}
    rows = [["", *results], ["---"] * (len(results) + 1)]
    rows += [
        [skill, *(_cell(found[name][skill]) if skill in found[name] else "-" for name in results)]
        for skill in (*skills, "overall")
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _cell(line: SkillScore) -> str:
    score = f"{line.score:.1%}"
    prompts = f"{line.prompts} prompt{'' if line.prompts == 1 else 's'}"
    if line.low is None or line.high is None:
        return f"{score} ({prompts})" if line.prompts else score
    return f"{score} ({line.low:.1%} to {line.high:.1%}, {prompts})"
