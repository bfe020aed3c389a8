"""`python -m advdmd_ray.runtime.offer ADDRESS FILE TEXT`: what the living nodes of a cluster offer, as a line of JSON.

A process of its own, so that whoever asks can end it: Ray itself tries an address for minutes.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from advdmd_ray.errors import UserError
from advdmd_ray.runtime.cluster import met

BAD_INPUT = 2
LOOK_S = 20.0
"""A node that has no room for a look within this time is not spoken of."""


@ray.remote(num_cpus=0, max_retries=0)
def seen(file: str, text: str) -> bool:
    """Whether a node sees a file that says this. As it is sent along, the node needs none of our packages."""
    try:
        with open(file, encoding="utf-8") as found:  # noqa: PTH123 - see the docstring
            return found.read() == text
    except (OSError, UnicodeDecodeError):
        return False


def sights(nodes: Sequence[Mapping[str, Any]], file: str, text: str) -> list[bool | None]:
    """Whether each node sees the file; None: it did not say."""
    looks = [
        seen.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(file, text)
        for node in nodes
    ]
    done, _ = ray.wait(looks, num_returns=len(looks), timeout=LOOK_S)
    told: list[bool | None] = []
    for look in looks:
        try:
            told.append(ray.get(look) if look in done else None)
        except RayError:  # the node is gone, or has another Python
            told.append(None)
    return told


def main(address: str, file: str, text: str) -> int:
    """Joins, prints and leaves.

    Args:
        address: Of the cluster.
        file: In a folder that the nodes are to see; empty: they are not asked.
        text: What it says.

    Returns:
        0, or 2 if the cluster does not take us; then stderr says why in its last line.
    """
    try:
        with met(address, None):
            alive = [node for node in ray.nodes() if node["Alive"]]
            told = sights(alive, file, text) if file else [None] * len(alive)
            nodes = [
                {
                    "name": node["NodeManagerHostname"],
                    "resources": node["Resources"],
                    "labels": node["Labels"],
                    "sees": sees,
                }
                for node, sees in zip(alive, told, strict=True)
            ]
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return BAD_INPUT
    sys.stdout.write(f"{json.dumps(nodes)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
