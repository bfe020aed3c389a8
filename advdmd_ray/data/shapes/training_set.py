"""The training set of the shapes: scenes drawn for the prompts, every skill with its share."""

import numpy as np
from jaxtyping import Float, Int64

from advdmd_ray.data.shapes.render import render_all
from advdmd_ray.data.shapes.scenes import draw_scenes
from advdmd_ray.data.shapes.skills import SKILLS, Skill, all_prompts
from advdmd_ray.seeding import derive_seed

SHARES: dict[Skill, float] = {
    "single_object": 0.10,
    "two_objects": 0.10,
    "counting": 0.15,
    "colours": 0.10,
    "position": 0.15,
    "binding": 0.15,
    "dense": 0.25,
}
"""Share of each skill's prompts in the training set."""


def rows_by_skill(*, held_out: bool = False) -> dict[Skill, Int64[np.ndarray, " n"]]:
    """Rows of `all_prompts()`: the seen ones, or with `held_out` all."""
    prompts = all_prompts()
    return {
        skill: np.asarray(
            [row for row, prompt in enumerate(prompts) if prompt.skill == skill and (held_out or not prompt.held_out)]
        )
        for skill in SKILLS
    }


def draw_rows(count: int, seed: int, *, held_out: bool = False) -> Int64[np.ndarray, " n"]:
    """Draw rows of prompts, each skill with its share, in random order; about `count` of them.

    Args:
        count: How many.
        seed: Seeds the choice.
        held_out: Whether held-out prompts may be among them.
    """
    generator = np.random.default_rng(derive_seed(seed, "shapes", "rows"))
    known = rows_by_skill(held_out=held_out)
    rows = np.concatenate([generator.choice(rows, int(count * SHARES[skill])) for skill, rows in known.items()])
    return generator.permutation(rows)


def draw_images(rows: Int64[np.ndarray, " n"], seed: int, *, held_out: bool = False) -> Float[np.ndarray, "n 3 24 24"]:
    """Draw one real image for each row of `all_prompts()`.

    Args:
        rows: Of the prompts.
        seed: Seeds what the prompts leave open.
        held_out: Whether that may be one of the held-out colours.
    """
    prompts = all_prompts()
    scenes = draw_scenes([prompts[row] for row in rows], derive_seed(seed, "shapes", "scenes"), held_out=held_out)
    return render_all(scenes)
