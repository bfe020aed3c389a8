"""TensorBoard reads back what metrics.jsonl says: each series, each cycle once, and the pictures as they were drawn."""

import io
import math
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from advdmd_ray.metrics.catalogue import CATALOGUE, Kind
from advdmd_ray.metrics.history import cut_back, entries_of
from advdmd_ray.metrics.hub import MetricsHub
from advdmd_ray.metrics.series import Sample
from advdmd_ray.metrics.sinks.follower import Follower
from advdmd_ray.metrics.sinks.point import Point
from advdmd_ray.metrics.sinks.tensorboard_sink import TensorboardSink, flat
from tensorboard_files import file_says, read_back, scalars

FACTS = {"run": {"cycles": 6, "seed": 0.5}, "lora": {"targets": ["to_q", "to_k"], "rank": None}, "commit": "abc"}
UPDATES = "advdmd_learner_updates_total"


def picture(kind: str, shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 8), (shade, 0, 0)).save(buffer, format=kind)
    return buffer.getvalue()


class Drawn:
    """A run that draws a grid of every second cycle, and a comparison at its end."""

    def __init__(self) -> None:
        self.shade = 0

    def of(self, cycle: int) -> Mapping[str, bytes]:
        return {"samples/grid": picture("PNG", self.shade + cycle)} if cycle % 2 == 0 else {}

    def last(self, since: float) -> Mapping[str, bytes]:
        return {"samples/comparison": picture("JPEG", self.shade)}


def every_series(number: int) -> list[Sample]:
    """One of each of the catalogue; some gauges are not finite now and then."""
    open_labels = {"level": "3", "worker": "rollout-0", "figure": "accuracy", "scorer": "clip_score"}
    found = []
    for place, series in enumerate(CATALOGUE.values()):
        odd = series.kind is Kind.GAUGE and (place + number) % 5 == 0
        value = math.nan if odd else place + number / 3
        labels = ((label, (series.values_of(label) or (open_labels[label],))[0]) for label in series.labels)
        found.append(Sample(series.name, value, tuple(labels)))
    return found


def follow(path: Path, hub: MetricsHub, drawn: Drawn) -> Follower:
    folder = path.parent / "tensorboard"
    return Follower(
        "tensorboard",
        lambda first: TensorboardSink(folder, "mine", FACTS, first),
        path,
        hub.cycle,
        folder / "cycle.json",
        drawn,
    )


def test_what_tensorboard_reads_is_what_metrics_jsonl_says(tmp_path: Path) -> None:
    path, drawn = tmp_path / "metrics.jsonl", Drawn()
    with MetricsHub(path) as hub:
        following = follow(path, hub, drawn)
        for number in range(8):
            hub.record(every_series(number), number // 2)
        following.close()
    read = read_back(tmp_path / "tensorboard")
    shown = scalars(read)
    assert shown == file_says(path)
    assert len(shown) == sum(series.kind is not Kind.HISTOGRAM for series in CATALOGUE.values())
    histograms = [series for series in CATALOGUE.values() if series.kind is Kind.HISTOGRAM]
    assert len(read.Tags()["histograms"]) == len(histograms)
    for tag in read.Tags()["histograms"]:
        observed = [value for entry in entries_of(path) for value in entry["values"][tag.split("/", 1)[1]]]
        for each in read.Histograms(tag):
            own, told = observed[each.step * 2 : each.step * 2 + 2], each.histogram_value
            assert (told.num, told.min, told.max, sum(told.bucket)) == (2, min(own), max(own), 2)
            assert told.sum == pytest.approx(sum(own))
    grids = [(each.step, each.encoded_image_string) for each in read.Images("samples/grid")]
    assert grids == [(cycle, picture("PNG", cycle)) for cycle in (0, 2)]
    (comparison,) = read.Images("samples/comparison")
    assert (comparison.step, comparison.width, comparison.height) == (3, 12, 8)
    assert comparison.encoded_image_string == picture("JPEG", 0)


def test_a_run_that_goes_back_to_a_checkpoint_has_each_cycle_once_as_it_was_made_last(tmp_path: Path) -> None:
    path, drawn = tmp_path / "metrics.jsonl", Drawn()
    for attempt, (begin, end) in enumerate([(0, 6), (3, 8), (7, 9)]):
        if attempt:
            cut_back(path, begin, {f"{UPDATES}{{objective=dmd}}": float(begin + 1)})
        drawn.shade = 100 * attempt
        with MetricsHub(path) as hub:
            following = follow(path, hub, drawn)
            for cycle in range(begin + (attempt > 0), end):
                loss = Sample.of("advdmd_learner_loss", cycle + attempt / 4, objective="dmd")
                hub.record([Sample.of(UPDATES, 1, objective="dmd"), loss], cycle)
            following.close()
    read = read_back(tmp_path / "tensorboard")
    assert scalars(read) == file_says(path)
    assert [cycle for cycle, _ in scalars(read)["learner/advdmd_learner_updates_total/dmd"]] == [*range(9)]
    shades = {0: 0, 2: 2, 4: 104, 6: 106, 8: 208}
    grids = {each.step: each.encoded_image_string for each in read.Images("samples/grid")}
    assert grids == {cycle: picture("PNG", shade) for cycle, shade in shades.items()}
    assert len(list((tmp_path / "tensorboard").glob("events*"))) == 3


def test_a_file_that_ends_within_a_point_hides_none_of_the_next(tmp_path: Path) -> None:
    for first in (0, 1):
        sink = TensorboardSink(tmp_path, "mine", FACTS, first)
        sink.write(Point(first, 1.0, 1.0, {"run/advdmd_run_cycle": float(first)}, {}))
        sink.close()
        if first == 0:
            (file,) = tmp_path.glob("events*")
            whole = file.read_bytes()
            file.write_bytes(whole + whole[-40:-7])
    assert scalars(read_back(tmp_path)) == {"run/advdmd_run_cycle": [(0, 0.0), (1, 1.0)]}


def test_the_configuration_is_the_runs_hyperparameters(tmp_path: Path) -> None:
    plugin: Any = import_module("tensorboard.plugins.hparams.plugin_data_pb2")
    assert flat(FACTS) == {
        "run.cycles": 6,
        "run.seed": 0.5,
        "lora.targets": "['to_q', 'to_k']",
        "lora.rank": "None",
        "commit": "abc",
    }
    TensorboardSink(tmp_path, "mine", FACTS, 0).close()
    kept = read_back(tmp_path).SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    told = plugin.HParamsPluginData.FromString(kept).session_start_info.hparams
    assert (told["run.cycles"].number_value, told["commit"].string_value) == (6.0, "abc")
    assert len(told) == len(flat(FACTS))
