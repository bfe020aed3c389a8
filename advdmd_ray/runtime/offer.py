"""`python -m advdmd_ray.runtime.offer ADDRESS`: what the living nodes of a cluster offer, as one line of JSON.

A process of its own, so that whoever asks can end it: Ray itself tries an address for minutes.
"""

import json
import sys

import ray

from advdmd_ray.errors import UserError
from advdmd_ray.runtime.cluster import met

BAD_INPUT = 2


def main(address: str) -> int:
    """Joins, prints and leaves.

    Returns:
        0, or 2 if the cluster does not take us; then stderr says why in its last line.
    """
    try:
        with met(address, None):
            nodes = [
                {"name": node["NodeManagerHostname"], "resources": node["Resources"]}
                for node in ray.nodes()
                if node["Alive"]
            ]
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return BAD_INPUT
    sys.stdout.write(f"{json.dumps(nodes)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
