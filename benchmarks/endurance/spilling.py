"""`python -m benchmarks.endurance.spilling`: groups held by an object store that is too small, against one with room.

An actor makes groups of 4 MB until 2.5 times the small store is held; then all are read in their order and compared
with what was made, byte for byte. The two stores take turns.
"""

import argparse
import hashlib
import json
import statistics
import sys
import time
from typing import Any

import numpy as np
import ray

from benchmarks.local_ray import local_ray

SMALL, LARGE = 80 * 2**20, 512 * 2**20
GROUP, GROUPS = 4 * 2**20, 50


@ray.remote(num_cpus=0)
class _Maker:
    """Makes groups whose bytes follow from their ordinal, and says their digests."""

    def made(self, ordinal: int) -> tuple[np.ndarray, str]:
        group = np.random.default_rng(ordinal).integers(0, 256, GROUP, np.uint8)
        return group, hashlib.sha256(group.tobytes()).hexdigest()


def turn(store: int) -> dict[str, float]:
    """Seconds to make all groups, and to read them again, with a store of so many bytes.

    Raises:
        RuntimeError: if the bytes of a group came back changed.
    """
    with local_ray(4, store):
        maker: Any = _Maker.remote()
        ray.get(maker.made.options(num_returns=2).remote(0)[1])
        began, held, digests = time.perf_counter(), [], []
        for ordinal in range(GROUPS):
            group, digest = maker.made.options(num_returns=2).remote(ordinal)
            held.append(group)
            digests.append(ray.get(digest))
        made = time.perf_counter() - began
        began, reading = time.perf_counter(), 0.0
        for group, digest in zip(held, digests, strict=True):
            at = time.perf_counter()
            data: Any = ray.get(group)
            reading += time.perf_counter() - at
            if hashlib.sha256(data.tobytes()).hexdigest() != digest:
                raise RuntimeError("a group came back with other bytes")
            del data
    return {"made_s": made, "read_s": reading}


def main() -> None:
    """Takes turns and prints medians as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance.spilling", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="turns of each store (5)")
    args = parser.parse_args()
    turns = [{name: turn(store) for name, store in (("small", SMALL), ("large", LARGE))} for _ in range(args.repeats)]
    medians = {
        name: {key: round(statistics.median(each[name][key] for each in turns), 3) for key in ("made_s", "read_s")}
        for name in ("small", "large")
    }
    sys.stdout.write(json.dumps({"groups": GROUPS, "group_bytes": GROUP, **medians}, indent=1) + "\n")


if __name__ == "__main__":
    main()
