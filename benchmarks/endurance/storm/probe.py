"""`python -m benchmarks.endurance.storm.probe ADDRESS`: what a Ray cluster holds, as one JSON line."""

import json
import logging
import sys
from typing import Any

import ray
from ray._private import state
from ray._private.internal_api import get_memory_info_reply, get_state_from_address


def held(address: str) -> dict[str, Any]:
    """Living actors, placement groups, objects and their bytes, and what of the resources is not free."""
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    actors = [actor["ActorClassName"] for actor in state.actors().values() if actor["State"] != "DEAD"]
    groups = [name for name, group in ray.util.placement_group_table().items() if group["state"] != "REMOVED"]
    have, free = ray.cluster_resources(), ray.available_resources()
    store: Any = get_memory_info_reply(get_state_from_address(address)).store_stats
    return {
        "actors": actors,
        "placement_groups": groups,
        "objects": store.num_local_objects,
        "bytes": store.object_store_bytes_used,
        "cpus_taken": have.get("CPU", 0.0) - free.get("CPU", 0.0),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(held(sys.argv[1])) + "\n")
