"""What the judge says of the samplers that were drawn; see `judgement` for the drawing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from advdmd_ray.config import Config
from advdmd_ray.data.registry import source_of
from advdmd_ray.diffusion.threads import threads
from advdmd_ray.evaluation.judges.contract import Figure, JudgeScore, with_scores
from advdmd_ray.evaluation.pictures.frames import framed, room_for, size_name
from advdmd_ray.evaluation.scorers import figures_of
from advdmd_ray.models.sizes import sized_pipelines
from advdmd_ray.provenance import usable_cores
from advdmd_ray.runs.judgement import (
    Drawn,
    Piece,
    PieceDrawer,
    Sampler,
    judge_inputs,
    pieces_of,
    shown_images,
    shown_samplers,
)

THREADS_BESIDE_GPU = 8


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge says, and the first images of each sampler.

    Attributes:
        figures: What the judge gives, and the scorers.
        headline: Key of the figure that samplers are compared by.
        teacher: Score by number of steps.
        student: The student's score, if one was given.
        steps: Student steps K.
        real: Real held-out images, by the judge alone: what a perfect generator could reach.
        prompts: The prompts that are shown.
        images: Images of each sampler that is shown, by its label; image i has prompt i modulo their number.
    """

    figures: tuple[Figure, ...]
    headline: str
    teacher: Mapping[int, JudgeScore]
    student: JudgeScore | None
    steps: int
    real: JudgeScore
    prompts: tuple[str, ...]
    images: Mapping[str, Float[np.ndarray, "n c h w"]]


def draw_here(
    config: Config, student: Path | None, progress: Callable[[int, int], None] = lambda _done, _of: None
) -> dict[Piece, Drawn]:
    """Draws, in this process, what a judgement of the teacher and, if given, of a student needs.

    Args:
        config: Names the judge, the teacher, its guidance, the kernel and levels of the student, and the number of
            images.
        student: An exported student folder.
        progress: Told how many of all images are drawn.
    """
    pieces = pieces_of(config, student=student is not None)
    images, done = sum(len(piece.images) for piece in pieces), 0
    drawn: dict[Piece, Drawn] = {}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with threads(drawing_threads(device)):
        drawer = PieceDrawer(config, student, judge_inputs(config), device)
        for piece in pieces:
            progress(done, images)
            drawn[piece] = drawer.draw(piece)
            done += len(piece.images)
        progress(done, images)
    return drawn


def verdict_of(config: Config, drawn: Mapping[Piece, Drawn]) -> Verdict:
    """Judges what was drawn, whoever drew it.

    Args:
        config: Names the judge.
        drawn: All pieces of `pieces_of`, in its order.
    """
    judge = source_of(config).judge()
    by_sampler: dict[Sampler, list[Drawn]] = {}
    for piece, part in drawn.items():
        by_sampler.setdefault(piece.sampler, []).append(part)
    scores = {
        sampler: with_scores(
            judge.score(torch.cat([part.features for part in parts]), torch.cat([part.rows for part in parts])),
            [part.scores for part in parts],
        )
        for sampler, parts in by_sampler.items()
    }
    sizes = [info.pixels for info in sized_pipelines(config)]
    size = room_for(sizes)
    shown = shown_images(min(len(judge.prompts), config.evaluation.samples), config.evaluation.samples, size)
    images: dict[str, np.ndarray] = {}
    for sampler in shown_samplers(config):
        kept = {index: image for part in by_sampler.get(sampler, []) for index, image in part.shown.items()}
        if kept and shown:
            pixels = framed([kept[index] for index in shown]).transpose(0, 3, 1, 2)
            images[sampler.label] = pixels / np.float32(127.5) - 1
    return Verdict(
        (*judge.figures, *figures_of(config.scorers)),
        judge.headline,
        {sampler.steps: score for sampler, score in scores.items() if not sampler.student},
        next((score for sampler, score in scores.items() if sampler.student), None),
        config.steps,
        judge.ceiling(),
        _labelled(judge.prompts[: len({index % len(judge.prompts) for index in shown})], sizes),
        images,
    )


def _labelled(prompts: tuple[str, ...], sizes: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    """The judge's first prompts, each with its size where there are several."""
    if len(sizes) == 1:
        return prompts
    return tuple(f"{prompt} ({size_name(sizes[row % len(sizes)])})" for row, prompt in enumerate(prompts))


def facts_of(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON-able figures.

    `{"headline": key, "labels": [figure], "teacher": {steps: score}, "student": score with steps, "real": score}`; a
    figure is `{"key", "label", "better", "share"}`, a score `{"figures": {key: value}, "images": number}`.
    """
    facts: dict[str, Any] = {
        "headline": verdict.headline,
        "labels": [asdict(figure) for figure in verdict.figures],
        "teacher": {str(steps): asdict(score) for steps, score in verdict.teacher.items()},
        "real": asdict(verdict.real),
    }
    if verdict.student is not None:
        facts["student"] = {**asdict(verdict.student), "steps": verdict.steps}
    return facts


def drawing_threads(device: str) -> int:
    """CPU threads of whoever draws for a judge: every core, or beside a GPU so many that all its neighbours fit too.

    They do not hang on how many draw, as the last bits of a sum on a CPU hang on them.
    """
    return usable_cores() if device == "cpu" else min(usable_cores(), THREADS_BESIDE_GPU)
