"""TensorBoard: event files in a folder, by the writer that torch's SummaryWriter stands on.

That one alone imports no torch, which a hub has no other use for.
"""

import io
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image

from advdmd_ray.metrics.sinks.point import Point, histogram

Plain = bool | int | float | str


class TensorboardSink:
    """One more event file in the folder; those before stay, and TensorBoard forgets of them what is written again.

    Args:
        folder: For `tensorboard --logdir`; made if it is missing.
        name: Of the run.
        facts: What the run is made of, as JSON has it: shown as hyperparameters, `section.key`.
        first: Points of this cycle and of later ones in the files before are forgotten.
    """

    def __init__(self, folder: Path, name: str, facts: Mapping[str, Any], first: int) -> None:
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.record_writer import RecordWriter

        # protobuf makes their names when they are imported.
        self._events: Any = import_module("tensorboard.compat.proto.event_pb2")
        self._summaries: Any = import_module("tensorboard.compat.proto.summary_pb2")
        self.first = first
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads them in the order of their names.
        numbers = [int(file.suffix[1:]) for file in folder.glob("events.out.tfevents.*") if file.suffix[1:].isdigit()]
        number = max(numbers, default=-1) + 1
        self._file = (folder / f"events.out.tfevents.{number:010d}").open("xb")
        self._writer = RecordWriter(self._file)
        start = self._events.SessionLog(status=self._events.SessionLog.START)
        self._add(wall_time=time.time(), step=first, file_version="brain.Event:2")
        self._add(wall_time=time.time(), step=first, session_log=start)
        self._add(wall_time=time.time(), step=first, summary=hparams_pb(flat(facts), trial_id=name))
        self._file.flush()

    def write(self, point: Point) -> None:
        """See `Sink`; it is in the file when this returns."""
        summaries = self._summaries
        values = [summaries.Summary.Value(tag=tag, simple_value=value) for tag, value in point.scalars.items()]
        for tag, observations in point.observations.items():
            counts, edges = histogram(observations)
            shown = summaries.HistogramProto(
                min=min(observations),
                max=max(observations),
                num=len(observations),
                sum=sum(observations),
                sum_squares=sum(value * value for value in observations),
                bucket_limit=edges,
                bucket=[0, *counts],  # what lies below the first edge
            )
            values.append(summaries.Summary.Value(tag=tag, histo=shown))
        for tag, data in point.pictures.items():
            width, height = Image.open(io.BytesIO(data)).size
            image = summaries.Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=data)
            values.append(summaries.Summary.Value(tag=tag, image=image))
        self._add(wall_time=point.time, step=point.cycle, summary=summaries.Summary(value=values))
        self._file.flush()

    def close(self) -> None:
        """See `Sink`."""
        self._file.close()

    def _add(self, **fields: Any) -> None:
        self._writer.write(self._events.Event(**fields).SerializeToString())


def flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Plain]:
    """Facts by `section.key`; what is no plain value is its text."""
    found: dict[str, Plain] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value if isinstance(value, Plain) else str(value)
    return found
