"""`python -m benchmarks.endurance.storm.driver FOLDER RUN ...`: `advdmd run ...` that can be held at instants.

It also writes down which ordinals the prompt frontier settles, one JSON line each time, and where each begins.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from advdmd_ray.cli import main as advdmd
from advdmd_ray.controller.frontier import PromptFrontier
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.stations.buffer.index import BufferIndex
from advdmd_ray.stations.weights.store import WeightStore
from benchmarks.endurance.storm.faults import COMMITTED, PUBLISHED
from benchmarks.endurance.storm.instants import Instants

SETTLED = "settled.jsonl"


def main() -> int:
    """Wraps and runs; the exit code."""
    folder, run, *arguments = sys.argv[1:]
    instants = Instants(Path(folder), RunFolder(Path(run)).checkpoints)
    after(WeightStore, "publish", lambda *_: instants.pass_by(PUBLISHED))
    after(BufferIndex, "commit", lambda *_: instants.pass_by(COMMITTED))
    record(Path(folder) / SETTLED)
    return advdmd(["run", *arguments])


def record(path: Path) -> None:
    """Has every frontier write down where it begins and what it settles; a line is in the file at once."""

    def told(line: dict[str, Any]) -> None:
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    after(PromptFrontier, "settle", lambda _, ordinals: told({"settled": list(ordinals)}))
    from_state = PromptFrontier.from_state

    def begun(state: dict[str, Any] | None, **others: Any) -> PromptFrontier:
        frontier = from_state(state, **others)
        told({"begins": frontier.first_unsettled, "beyond": list(frontier.settled_beyond())})
        return frontier

    PromptFrontier.from_state = begun


def after(kind: type, name: str, then: Callable[..., None]) -> None:
    """Has something done after each call of a method, with the same arguments."""
    method = getattr(kind, name)

    def wrapped(*arguments: Any) -> Any:
        result = method(*arguments)
        then(*arguments)
        return result

    setattr(kind, name, wrapped)


if __name__ == "__main__":
    sys.exit(main())
