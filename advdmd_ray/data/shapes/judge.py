"""The judge of generated scenes: an exact checker of what the prompt names, and diversity in pixels.

It asks for 720 prompts: 72 seen ones of each of the seven skills, and 54 of each of the four skills that have held-out
prompts. A skill with fewer prompts repeats them.
"""

import random
from collections.abc import Sequence
from functools import cache, cached_property

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from advdmd_ray.data.shapes.checker import score as check_score
from advdmd_ray.data.shapes.render import render_all
from advdmd_ray.data.shapes.scenes import draw_scene
from advdmd_ray.data.shapes.skills import SKILLS, ShapePrompt, Skill, all_prompts
from advdmd_ray.evaluation.judges.contract import Figure, JudgeScore, whole_images
from advdmd_ray.evaluation.judges.diversity import (
    Projection,
    coverage,
    diversity,
    principal_components,
    within_prompt_distance,
)

SEEN_PROMPTS = 72
"""Seen prompts of each skill."""
HELD_OUT_PROMPTS = 54
"""Held-out prompts of each of `HELD_OUT_SKILLS`."""
HELD_OUT_SKILLS: tuple[Skill, ...] = ("position", "colours", "binding", "dense")
ORDER_SEED, REFERENCE_SEED, CEILING_SEED = 20260503, 20260504, 20260505
"""Of the choice of prompts, of the real scenes to compare with, and of those that give the ceiling."""
SCENES_PER_PROMPT = 6
"""Real scenes of each prompt that tell how varied its images are."""


def judge_prompts() -> tuple[ShapePrompt, ...]:
    """The 720 prompts, the same in every process; the skills take turns, so that every prefix has its share of each.

    Where a skill has too few prompts each comes twice in a row, and again after all have: of the first 20 prompts some
    are alike already, which the diversity within a prompt needs.
    """
    draw = random.Random(ORDER_SEED)  # noqa: S311 - a fixed list of prompts, not a secret
    known = all_prompts()
    turns: list[tuple[float, ShapePrompt]] = []
    for skill in SKILLS:
        for held_out, count in ((False, SEEN_PROMPTS), (True, HELD_OUT_PROMPTS)):
            own = [prompt for prompt in known if prompt.skill == skill and prompt.held_out == held_out]
            if held_out and skill not in HELD_OUT_SKILLS:
                continue
            draw.shuffle(own)
            chosen = own[:count] if len(own) >= count else [own[index // 2 % len(own)] for index in range(count)]
            turns += [((index + 0.5) / count, prompt) for index, prompt in enumerate(chosen)]
    return tuple(prompt for _, prompt in sorted(turns, key=lambda turn: turn[0]))


def real_scenes(prompts: Sequence[ShapePrompt], seed: int) -> Float[np.ndarray, "n 3 24 24"]:
    """One real scene for each prompt; held-out colours only where the prompt itself is held out."""
    generator = np.random.default_rng(seed)
    return render_all([draw_scene(prompt, generator, held_out=prompt.held_out) for prompt in prompts])


def flat_pixels(images: Float[np.ndarray, "n 3 24 24"]) -> Float[np.ndarray, "n 1728"]:
    """Images as float64 vectors in [-1, 1]; values outside are clipped."""
    return np.clip(images.reshape(len(images), -1).astype(np.float64), -1.0, 1.0)


@cache
def _reference(rounds: int) -> tuple[Projection, Float[np.ndarray, "n e"]]:
    """Principal components of the first round, a real scene for each prompt, and the coordinates of all rounds."""
    asked = judge_prompts()
    scenes = flat_pixels(real_scenes(asked * rounds, REFERENCE_SEED))
    projection = principal_components(scenes[: len(asked)])
    return projection, projection(scenes)


class ShapesJudge:
    """Scores scenes by an exact checker; nothing is fitted but the components that distances are taken in.

    A figure for each skill, over its seen prompts: the share of scenes that are what the prompt says, and for dense
    prompts the mean share of their facts. `seen` and `held_out` are the means over the skills. For `diversity` and
    `coverage` see `diversity.py`; the real images of the first are six scenes of each prompt, of the second as many
    as there are images of it.
    """

    name = "shapes"
    figures = (
        Figure("seen", "seen prompts", "higher", share=True),
        Figure("held_out", "held-out prompts", "higher", share=True),
        *(Figure(skill, skill.replace("_", " "), "higher", share=True) for skill in SKILLS),
        Figure("diversity", "diversity", "higher", share=False),
        Figure("coverage", "coverage", "higher", share=True),
    )
    headline = "seen"
    features = staticmethod(whole_images)

    def __init__(self) -> None:
        self._asked = judge_prompts()
        self.prompts = tuple(prompt.text for prompt in self._asked)
        texts = {text: index for index, text in enumerate(dict.fromkeys(self.prompts))}
        self._texts = np.asarray([texts[text] for text in self.prompts])

    @cached_property
    def _real_distances(self) -> dict[int, float]:
        """Mean distance between two real scenes of one prompt, by its number among the distinct prompts."""
        distinct = dict(zip(self.prompts, self._asked, strict=True))
        repeated = [prompt for prompt in distinct.values() for _ in range(SCENES_PER_PROMPT)]
        scenes = flat_pixels(real_scenes(repeated, REFERENCE_SEED))
        return within_prompt_distance(scenes, np.arange(len(distinct)).repeat(SCENES_PER_PROMPT))

    def score(self, images: Float[Tensor, "n 3 24 24"], rows: Int64[Tensor, " n"]) -> JudgeScore:
        """See `Judge`."""
        pixels, asked = images.detach().float().numpy(), rows.numpy()
        vectors = flat_pixels(pixels)
        figures = self._skills(pixels, asked)
        figures["diversity"] = diversity(within_prompt_distance(vectors, self._texts[asked]), self._real_distances)
        counts = np.bincount(asked, minlength=len(self._asked))
        projection, reference = _reference(int(counts.max()))
        matching = np.arange(counts.max())[:, None] < counts  # as many real scenes of each prompt as images of it
        figures["coverage"] = coverage(projection(vectors), reference[matching.ravel()])
        return JudgeScore(figures, len(images))

    def ceiling(self) -> JudgeScore:
        """See `Judge`: one real scene for each prompt, drawn with a seed that neither training nor the judge uses."""
        scenes = torch.from_numpy(real_scenes(self._asked, CEILING_SEED))
        return self.score(scenes, torch.arange(len(self._asked)))

    def _skills(self, images: Float[np.ndarray, "n 3 24 24"], rows: Int64[np.ndarray, " n"]) -> dict[str, float]:
        """The checker's figures: by skill over the seen prompts, and the means over the skills, seen and held out."""
        found: dict[tuple[Skill, bool], list[float]] = {}
        for image, row in zip(images, rows, strict=True):
            prompt = self._asked[row]
            found.setdefault((prompt.skill, prompt.held_out), []).append(check_score(image, prompt))
        asked = {*((skill, False) for skill in SKILLS), *((skill, True) for skill in HELD_OUT_SKILLS)}
        if found.keys() != asked:
            skill, held_out = min(asked - found.keys())
            raise ValueError(f"no image of a {'held-out' if held_out else 'seen'} {skill} prompt; judge at least 20")
        means = {key: float(np.mean(values)) for key, values in found.items()}
        seen = {skill: means[skill, False] for skill in SKILLS}
        held_out = [means[skill, True] for skill in HELD_OUT_SKILLS]
        return {"seen": float(np.mean(list(seen.values()))), "held_out": float(np.mean(held_out)), **seen}
