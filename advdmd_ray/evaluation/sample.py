"""`advdmd sample`: a pipeline folder's images in one PNG."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.folder_sampler import FolderSampler
from advdmd_ray.evaluation.pictures.frames import size_name
from advdmd_ray.evaluation.pictures.grids import save_grid, save_grids
from advdmd_ray.evaluation.place import Place, place_of
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.seeding import derive_seed

DEFAULT_STEPS = 4
"""Uniform levels of a folder that names none, where nobody asks for a number of steps."""


def sample_grid(
    pipeline: str,
    prompts: Sequence[str],
    *,
    steps: int | None,
    guidance: float | None,
    negative_prompt: str | None = None,
    images: int,
    seed: int,
    out: Path,
    place: Place | None = None,
    size: tuple[int, int] | None = None,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Path:
    """Sample as the folder says and write a grid, one row of images a prompt; a grid for each size that it names.

    No configuration is read: sizes, text length, levels and guidance are those of the folder's `sampling.json`, where
    it has one, and else the model's own size, 256 text tokens, 4 uniform levels and no guidance. The folder's scheduler
    is followed, so that a teacher's images are what plain diffusers draws from the same noise. An image hangs on the
    seed and on its place in the grid, not on the other images.

    Args:
        pipeline: A diffusers folder of a teacher or a student, or `builtin:NAME`.
        prompts: One row each.
        steps: Network calls an image, at uniform noise levels; None: the folder's levels.
        guidance: CFG scale, or what a network that takes it as input is given; None: the folder's.
        negative_prompt: What guidance leads away from; None: the family's empty prompt.
        images: Images a prompt.
        seed: Names the seed of every image.
        out: The PNG to write.
        place: Where; None: on a GPU in bfloat16 if there is one.
        size: Height and width; None: the folder's, all of them.
        progress: Told how many of the images are drawn.

    Raises:
        UserError: if the folder is not a whole pipeline, its `sampling.json` is damaged, its weights do not fit the
            place, or `out` is not a PNG that can be written.
    """
    if out.suffix.lower() != ".png" or not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: expected a .png in a folder that exists")
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; name a file in it")
    inspect_pipeline(pipeline, size, "--size")
    where = place_of() if place is None else place
    sampler = FolderSampler(
        pipeline,
        where,
        steps=steps,
        default_steps=DEFAULT_STEPS,
        guidance=guidance,
        negative_prompt=negative_prompt,
    )
    sampler.tell_cut(prompts)
    sizes = sampler.sizes if size is None else (size,)
    asked = [prompt for prompt in prompts for _ in range(images)]
    seeds = [derive_seed(seed, "sample", row, number) for row in range(len(prompts)) for number in range(images)]
    grids: list[tuple[str, Float[np.ndarray, "n c _ _"]]] = []
    for number, pixels in enumerate(sizes):
        drawn = sampler.images(asked, seeds, _part(progress, number, len(sizes)), pixels)
        # Files have [n, h, w, c] in 0 to 255; grids are made of [n, c, h, w] in [-1, 1].
        grids.append((size_name(pixels), drawn.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1))
    steps_said = f"{sampler.steps} steps, guidance {sampler.guidance:g}, seed {seed}"
    if negative_prompt is not None:
        steps_said += f", without {negative_prompt!r}"
    caption = f"{Path(pipeline).name}, {steps_said}: " + "; ".join(prompts)
    try:
        if len(grids) > 1:
            return save_grids(out, grids, columns=images, caption=caption)
        return save_grid(out, grids[0][1], columns=images, caption=caption)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror or error})") from None


def _part(progress: Callable[[int, int], None], part: int, parts: int) -> Callable[[int, int], None]:
    """What is told of one of several equal parts, told of all of them."""
    return lambda done, of: progress(part * of + done, parts * of)
