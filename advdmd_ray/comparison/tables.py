"""The tables of a comparison as Markdown, and all its figures as JSON."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from advdmd_ray.comparison.actors_figure import draw_actors
from advdmd_ray.comparison.figure import compute_text, draw_figure, draw_signals
from advdmd_ray.comparison.job import TABLE
from advdmd_ray.comparison.results import Results, Spread
from advdmd_ray.evaluation.judges.contract import Figure
from advdmd_ray.evaluation.words import duration, figure_text
from advdmd_ray.files import write_atomically

JSON, PICTURE, SIGNALS, ACTORS, PAGE = "results.json", "figure.png", "signals.png", "actors.png", "RESULTS.md"
NONE = "-"
_SIGNALS_TEXT = (
    "What the rewards were worth: means over the learner's cycles since the judgement before. Reward: the "
    "discriminator's logit of the final image, which each run has on a scale of its own. AUC: of real against "
    "generated images, held out, smoothed, at the judgement; 0.5 is a discriminator that cannot tell them apart. "
    "Agreement, where it was measured: of the pairs of a prompt's trajectories whose final images the checker grades "
    "differently, the share that the discriminator orders alike; 0.5 is chance."
)

_ACTORS_TEXT = (
    "The last judgements of rivals that differ in what their actors make, at the same learner compute: every seed, and "
    "their mean. What a rival's start had made is not counted."
)


def write_outputs(results: Results, command: str, folder: Path) -> None:
    """Writes `table.md`, `results.json`, the figures and `RESULTS.md` into the folder of the comparison.

    `figure.png` is always there, `signals.png` if a rival has rewards, `actors.png` if the comparison asks for it.

    Args:
        results: Of the finished jobs.
        command: The command line that makes them again.
        folder: Of the comparison.
    """
    write_atomically(folder / TABLE, (headline_table(results) + "\n").encode())
    whole = asdict(results)
    del whole["actors_curve"]  # which stands among the rivals
    facts = {
        **whole,
        "summary": {rival.name: {figure.key: _json(rival.final(figure.key)) for figure in results.figures}
                    for rival in results.rivals},
        "command": command,
    }  # fmt: skip
    write_atomically(folder / JSON, (json.dumps(facts, indent=1, allow_nan=False) + "\n").encode())
    draw_figure(results, folder / PICTURE)
    signals = draw_signals(results, folder / SIGNALS) is not None
    actors = draw_actors(results, folder / ACTORS) is not None
    write_atomically(folder / PAGE, page(results, command, signals=signals, actors=actors).encode())


def headline_table(results: Results) -> str:
    """Rivals, teacher and real images, with the judge's main figures, compute and time."""
    costs = ("learner compute", "actors' compute", "training time")
    head = ("", "steps", "seeds", *(figure.label for figure in results.main), *costs)
    blank = [NONE] * len(costs)
    rows = [
        [f"teacher, guidance {results.guidance:g}", str(steps), NONE, *_plain(figures, results.main), *blank]
        for steps, figures in results.teacher.items()
    ]
    for rival in results.rivals:
        spreads = [spread_text(rival.final(figure.key), figure) for figure in results.main]
        spent = [compute_text(rival.cost("learner")), compute_text(rival.cost("actors"))]
        seeds = str(len(rival.runs))
        rows.append([rival.title, str(rival.steps), seeds, *spreads, *spent, duration(rival.cost("seconds"))])
    rows.append(["real, held out", NONE, NONE, *_plain(results.real, results.main), *blank])
    return markdown(head, rows)


def skill_table(results: Results) -> str:
    """One column for each skill."""
    head = ("", "steps", *(figure.label for figure in results.skills))
    rows = [
        [f"teacher, guidance {results.guidance:g}", str(steps), *_plain(figures, results.skills)]
        for steps, figures in results.teacher.items()
    ]
    for rival in results.rivals:
        spreads = [spread_text(rival.final(figure.key), figure) for figure in results.skills]
        rows.append([rival.title, str(rival.steps), *spreads])
    rows.append(["real, held out", NONE, *_plain(results.real, results.skills)])
    return markdown(head, rows)


def page(results: Results, command: str, *, signals: bool, actors: bool) -> str:
    """The whole of RESULTS.md: a section that stands in a larger document as it is.

    Args:
        results: Of the finished jobs.
        command: The command line that makes them again.
        signals: Whether there is a figure of the rewards to show.
        actors: Whether there is one of the actors.
    """
    figure = results.figure(results.headline)
    short = any(rival.cost("learner") < results.budget for rival in results.rivals)
    less = ", less where a row says so" if short else ""
    how = (
        f"Compared by: {figure.label} ({figure.better} is better), after {compute_text(results.budget)} "
        f"forward-equivalents of learner compute{less} (one forward of the transformer for one image; "
        "`advdmd_ray/runs/needs/compute.py`). Mean and sample standard deviation over seeds, of the last judgement and "
        f"not of the best; {results.samples} images each, of the student's EMA, with the same prompts and noise "
        "for all."
    )
    parts = [
        f"## {results.name}",
        how,
        headline_table(results),
        f"![{figure.label} at each judgement]({PICTURE})",
    ]
    if actors:
        parts += ["### More actors", _ACTORS_TEXT, f"![{figure.label} against what the actors made]({ACTORS})"]
    if signals:
        parts += ["### Rewards", _SIGNALS_TEXT, f"![reward, AUC and agreement at each judgement]({SIGNALS})"]
    if results.skills:
        parts += ["### By skill", skill_table(results)]
    if results.missing:
        parts.append(f"Without a result yet: {', '.join(results.missing)}.")
    if skipped := [f"{rival.title} {rival.skipped:,}" for rival in results.rivals if rival.skipped]:
        parts.append(f"Updates left out, of all seeds, because their gradient was not finite: {', '.join(skipped)}.")
    parts.append(f"Made by `{command}`, one thread a job: {_makings(results)}.")
    return "\n\n".join(parts) + "\n"


def _makings(results: Results) -> str:
    """By which code and where the jobs were done, with their numbers if they differ in it."""
    texts = Counter(", then ".join(dict.fromkeys(map(_making, job))) for job in results.made)
    if len(texts) == 1:
        return next(iter(texts))
    return "; ".join(f"{count} of {texts.total()} jobs {text}" for text, count in texts.items())


def _making(made: Mapping[str, Any]) -> str:
    host = made["machine"]
    place = f"{host['processor']} ({host['cores']} cores, {host['memory_gib']} GiB), Python {host['python']}"
    return f"at commit {made['commit']} on {place}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread_text(spread: Spread, figure: Figure) -> str:
    """Mean ± standard deviation in the figure's unit; the mean alone for one seed."""
    if math.isnan(spread.mean):
        return NONE
    if math.isnan(spread.std):
        return figure_text(spread.mean, share=figure.share)
    if figure.share:
        return f"{100 * spread.mean:.1f} ± {100 * spread.std:.1f} %"
    return f"{figure_text(spread.mean, share=False)} ± {spread.std:.2g}"


def _plain(values: Any, figures: Sequence[Figure]) -> list[str]:
    found = [values[figure.key] for figure in figures]
    texts = zip(found, figures, strict=True)
    return [NONE if value is None else figure_text(value, share=figure.share) for value, figure in texts]


def _json(spread: Spread) -> dict[str, float | None]:
    return {key: None if math.isnan(value) else value for key, value in asdict(spread).items()}
