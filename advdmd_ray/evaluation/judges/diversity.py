"""How varied a set of images is: among the images of one prompt, and over the real images.

Both are measured in pixels, without a network. Noise counts as variety to the first, so read it beside the figures of
quality; the second asks that an image lie near a real one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from scipy.spatial.distance import cdist, pdist

NEIGHBOURS = 5
"""k of the coverage, the value of arXiv 2002.09797."""
COMPONENTS = 64
"""Most principal components that distances between images are taken in."""


def within_prompt_distance(images: Float[np.ndarray, "n d"], prompts: Int64[np.ndarray, " n"]) -> dict[int, float]:
    """Mean distance between two images of one prompt, `mean_{i<j} sqrt(mean_d (x_id - x_jd)^2)`, by prompt.

    Args:
        images: One flattened image a row.
        prompts: Prompt of each; those with a single image are left out.

    Returns:
        Root mean square difference per value, in the images' unit.
    """
    distances: dict[int, float] = {}
    for prompt in np.unique(prompts):
        own = images[prompts == prompt]
        if len(own) > 1:
            distances[int(prompt)] = float(pdist(own).mean() / np.sqrt(images.shape[1]))
    return distances


def diversity(generated: Mapping[int, float], real: Mapping[int, float]) -> float:
    """Mean within-prompt distance over that of real images of the same prompts: 0 is collapsed, 1 as varied as real.

    Args:
        generated: `within_prompt_distance` of generated images.
        real: Likewise of real images; has at least the prompts of `generated`.

    Raises:
        ValueError: No prompt has two generated images, or one of them has no two real images.
    """
    missing = sorted(generated.keys() - real.keys())
    if not generated or missing:
        raise ValueError(
            f"no two real images of prompt {missing[0]}" if missing else "no prompt has two images; judge more of them"
        )
    return float(sum(generated.values()) / sum(real[prompt] for prompt in generated))


@dataclass(frozen=True, slots=True)
class Projection:
    """Principal components of a set of images.

    Attributes:
        mean: `[d]` mean image.
        axes: `[d, e]` orthonormal directions of the largest variance, the largest first.
    """

    mean: Float[np.ndarray, " d"]
    axes: Float[np.ndarray, "d e"]

    def __call__(self, images: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n e"]:
        """Coordinates of images, in their unit."""
        return (images - self.mean) @ self.axes


def principal_components(images: Float[np.ndarray, "n d"], components: int = COMPONENTS) -> Projection:
    """The principal components of flattened images, at most `components` of them, by a singular value decomposition."""
    mean = images.mean(axis=0)
    _, _, directions = np.linalg.svd(images - mean, full_matrices=False)
    return Projection(mean, np.ascontiguousarray(directions[:components].T))


def coverage(
    generated: Float[np.ndarray, "n d"], real: Float[np.ndarray, "m d"], neighbours: int = NEIGHBOURS
) -> float:
    """Share of real images that have a generated one as near as their k-th nearest real neighbour.

    `mean_i [min_j |g_j - r_i| <= d_k(r_i)]` with d_k the distance to the k-th nearest of the other real images
    (Naeem et al., arXiv 2002.09797). For two sets of m images of one distribution its mean is
    `1 - (m - 1) ... (m - k) / ((2m - 1) ... (2m - k))`, about 0.97 for k = 5; fewer generated images cover less.

    Args:
        generated: One vector a row, at least one.
        real: Likewise, more than `neighbours`.
        neighbours: k.

    Raises:
        ValueError: A set has too few vectors.
    """
    if len(real) <= neighbours or not len(generated):
        raise ValueError(
            f"coverage needs more than {neighbours} real images and a generated one, got {len(real)} and "
            f"{len(generated)}"
        )
    # The nearest of a real image is itself, at distance 0.
    radii = np.partition(cdist(real, real), neighbours, axis=1)[:, neighbours]
    return float((cdist(real, generated).min(axis=1) <= radii).mean())
