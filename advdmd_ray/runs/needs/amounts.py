"""Bytes for a reader."""

import math

from advdmd_ray.runs.needs.memory import GIB, MIB


def amount(size: float) -> str:
    """In GiB, or in MiB below one GiB."""
    if math.isinf(size):
        return "any amount"
    return f"{size / GIB:,.1f} GiB" if size >= GIB else f"{size / MIB:,.0f} MiB"
