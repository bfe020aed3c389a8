"""The sinks of a run: what they need of this machine, what they are given, and where it stands how far they are."""

import importlib.metadata
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from advdmd_ray.config import Config
from advdmd_ray.errors import UserError
from advdmd_ray.metrics.sinks.follower import CLOSE_S, Follower, Sink
from advdmd_ray.provenance import made_here
from advdmd_ray.runs.folder import RunFolder

FAILED_S = 5.0
"""Seconds that the end of a run that failed waits for a sink."""


def check_sinks(config: Config) -> None:
    """Make sure that the packages of `metrics.sinks` are installed, and that W&B has a login where it needs one.

    Raises:
        UserError: if not.
    """
    for name in config.metrics.sinks:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            raise UserError(
                f"metrics.sinks={name}: needs the package {name}, which is not installed; run `pip install {name}` "
                f"where the run is started, or leave {name} out of metrics.sinks"
            ) from None
    if "wandb" in config.metrics.sinks:
        from advdmd_ray.metrics.sinks.wandb_sink import check_login  # noqa: PLC0415 - imports wandb

        check_login()


def environment() -> dict[str, str]:
    """What W&B reads of the environment; a worker of a cluster that was there before has not the driver's."""
    return {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}


class DrawnPictures:
    """`Pictures` of a run folder."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def of(self, cycle: int) -> Mapping[str, bytes]:
        """See `Pictures`: the grid and the validation of that version, if they were drawn."""
        drawn = dict(self._read("samples/grid", self._folder.grid(cycle)))
        for number, path in enumerate(dict(self._folder.validations()).get(cycle, []), start=1):
            drawn |= self._read(f"samples/validation/{number}", path)
        return drawn

    def last(self, since: float) -> Mapping[str, bytes]:
        """See `Pictures`: teacher and student side by side."""
        return self._read("samples/comparison", self._folder.comparison, since)

    def _read(self, tag: str, picture: Path, since: float = 0.0) -> Mapping[str, bytes]:
        try:
            path = self._folder.drawn(picture)
            return {tag: path.read_bytes()} if path is not None and path.stat().st_mtime >= since else {}
        except FileNotFoundError:  # not kept
            return {}


class Sinks:
    """The followers of a run's metrics.jsonl, which its hub has opened.

    Args:
        config: The run's.
        folder: Its folder, as this process sees it.
        last: The last cycle that the file has a line of.
    """

    def __init__(self, config: Config, folder: RunFolder, last: int) -> None:
        def opened(name: str, first: int) -> Sink:
            facts = {**config.model_dump(mode="json"), **made_here()}
            if name == "tensorboard":
                from advdmd_ray.metrics.sinks.tensorboard_sink import TensorboardSink  # noqa: PLC0415 - only if asked

                return TensorboardSink(folder.sink(name), config.run.name, facts, first)
            from advdmd_ray.metrics.sinks.wandb_sink import WandbSink  # noqa: PLC0415 - only if it is asked for

            return WandbSink(folder.sink(name), config.run.name, facts)

        self._followers = [
            Follower(
                name,
                lambda first, name=name: opened(name, first),
                folder.metrics,
                last,
                folder.sink(name) / "cycle.json",
                DrawnPictures(folder),
            )
            for name in config.metrics.sinks
        ]

    def close(self, within_s: float = CLOSE_S) -> None:
        """Hands over what there is; each sink has so many seconds."""
        for follower in self._followers:
            follower.close(within_s)


@contextmanager
def following(config: Config, folder: RunFolder, last: int) -> Iterator[None]:
    """Sinks follow the run inside; where that fails, its end does not wait for them for long."""
    sinks = Sinks(config, folder, last)
    try:
        yield
    except BaseException:  # Ctrl-C too: what was recorded until then is shown
        sinks.close(FAILED_S)
        raise
    sinks.close()
