"""The Fréchet distance between two sets of vectors."""

import numpy as np
from jaxtyping import Float


def frechet(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    """Fréchet distance between Gaussians fitted to two sets of vectors (Dowson and Landau 1982; Heusel et al. 2017).

    `|mean_a - mean_b|^2 + tr(A) + tr(B) - 2 tr((A^(1/2) B A^(1/2))^(1/2))`. The last trace is the sum of the singular
    values of `A^(1/2) B^(1/2)`, with symmetric roots from an eigendecomposition: real, and stable for covariances that
    are singular (pixels that never carry ink).

    Args:
        a: One vector a row, at least two rows.
        b: Likewise.

    Returns:
        The distance, at least 0, in the squared unit of the vectors.

    Raises:
        ValueError: A set has fewer than two vectors.
    """
    if min(len(a), len(b)) < 2:  # noqa: PLR2004 - a covariance needs two
        raise ValueError(f"need at least two vectors in each set, got {len(a)} and {len(b)}")
    offset = a.mean(axis=0) - b.mean(axis=0)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    overlap = np.linalg.svd(_symmetric_root(cov_a) @ _symmetric_root(cov_b), compute_uv=False).sum()
    return max(float(offset @ offset + np.trace(cov_a) + np.trace(cov_b) - 2.0 * overlap), 0.0)


def _symmetric_root(covariance: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(min=0.0))) @ vectors.T
