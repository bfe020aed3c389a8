"""Bytes that were changed on their way."""

from dataclasses import replace

import numpy as np

from advdmd_ray.stations.weights.snapshot import Payload, Snapshot


def flipped(payload: Payload, byte: int = -1, bit: int = 0) -> Payload:
    """A payload with one bit of one byte, counted over all tensors, turned; the given one stays as it is."""
    borders = np.cumsum([raw.size for raw in payload])
    changed = np.concatenate(payload)
    changed[byte] ^= 1 << bit
    return tuple(np.split(changed, borders[:-1]))


def damaged(snapshot: Snapshot) -> Snapshot:
    """A snapshot with the last bit of its payload turned."""
    return replace(snapshot, payload=flipped(snapshot.payload))
