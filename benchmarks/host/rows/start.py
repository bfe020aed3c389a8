"""How long a run takes from the start of its process to the end of its first cycle, and what of it goes where."""

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from advdmd_ray.config import Config
from advdmd_ray.config.reading import read_config
from advdmd_ray.metrics.history import entries_of, last_values
from advdmd_ray.metrics.series import parse_key
from advdmd_ray.runs.folder import RunFolder
from benchmarks.endurance.one_run import running
from benchmarks.host.contest import OURS, Field, Row, always
from benchmarks.host.rows.loop import bare, cpu_of

BOUND_S = 12.5
BOUND = "bound: half of 25 s"
BARE = "bare loop: one process"
LOOK_S = 0.05


def settings(folder: Path, cycles: int) -> Config:
    """The digits as they ship, in this folder."""
    return read_config("digits", [f"run.output={folder}", "run.name=run", f"run.cycles={cycles}", "metrics.port=0"])


def stages(metrics: Path) -> Mapping[str, float]:
    """Seconds of each stage of the start, once it is over; nothing before."""
    if not metrics.is_file():
        return {}
    told = {parse_key(key): value for key, value in last_values(entries_of(metrics)).items()}
    return {
        dict(labels)["stage"]: value for (name, labels), value in told.items() if name == "advdmd_run_start_seconds"
    }


def ours(facts: MutableMapping[str, list[float]]) -> float:
    """Seconds to the first update; the stages and the CPU of all processes become facts.

    Raises:
        RuntimeError: if the run ends before.
    """
    with tempfile.TemporaryDirectory() as folder:
        config, began = settings(Path(folder), cycles=100), time.monotonic()
        with running(Path(folder), config.model_dump(mode="json")) as run:
            spent = run.until(lambda: stages(RunFolder(config.folder).metrics) or None, LOOK_S)
            took = time.monotonic() - began
            facts["CPU of all processes, s"].append(cpu_of(run))
    for stage, seconds in spent.items():
        facts[f"{stage}, s"].append(seconds)
    return took


def in_one_process() -> float:
    """The same for the bare loop."""
    with tempfile.TemporaryDirectory() as folder:
        config, began = settings(Path(folder), cycles=1), time.monotonic()
        return bare(config, Path(folder))[0].at - began


@contextmanager
def _opened() -> Iterator[Field]:
    facts: MutableMapping[str, list[float]] = defaultdict(list)
    yield Field({OURS: partial(ours, facts), BARE: in_one_process, BOUND: always(BOUND_S)}, facts=facts)


START = Row(
    "start",
    "`advdmd run --config digits` from the start of its process to its first update",
    _opened,
    goals={BOUND: 1.0},
    rounds=3,
)
