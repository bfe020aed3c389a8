"""What a run that was told other numbers of actors says of its pace and its groups, from its metrics."""

import json
from pathlib import Path

import pytest

from advdmd_ray.config import Config
from advdmd_ray.runs.folder import RunFolder
from benchmarks.endurance.scaling import Watched, document, stretches
from benchmarks.endurance.sleeping import Stretch, pace


def test_a_pace_is_that_of_its_stretch_alone() -> None:
    looks = [(float(at), 1.0 * at if at <= 10 else 10.0 + 4.0 * (at - 10)) for at in range(30)]
    assert pace(looks, Stretch(0.0, 10.0)) == pytest.approx(1.0)
    assert pace(looks, Stretch(12.5, 25.0)) == pytest.approx(4.0)
    with pytest.raises(ValueError, match=r"1 looks from 28\.5 to 40\.0 are too few"):
        pace(looks, Stretch(28.5, 40.0))


def test_a_run_that_scales_itself_is_told_by_its_changes() -> None:
    looks = [(10.0, 1), (11.0, 1), (12.0, 2), (13.0, 4), (14.0, 4)]
    assert stretches(looks) == [Watched(10.0, 12.0, 1, 0.0), Watched(12.0, 13.0, 2, 2.0), Watched(13.0, 14.0, 4, 3.0)]


def test_the_document_counts_groups_that_were_made_again_for_whatever_reason(tmp_path: Path) -> None:
    config = Config.model_validate({"run": {"output": str(tmp_path), "name": "run"}})
    config.folder.mkdir()
    again = "advdmd_rollout_leases_reissued_total"
    lines = [
        *({"advdmd_buffer_commits_total": 3 * n, "advdmd_rollout_leases_issued_total": 3 * n} for n in range(1, 6)),
        {f"{again}{{reason=lost}}": 1, f"{again}{{reason=expired}}": 2},
        {f"{again}{{reason=lost}}": 2},
    ]
    entries = [{"time": 100.0 + at, "cycle": 0, "record": at + 1, "values": values} for at, values in enumerate(lines)]
    RunFolder(config.folder).metrics.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    seen = document(RunFolder(config.folder), [Watched(100.0, 104.0, 1, 0.0)])
    assert seen["stretches"][0]["groups_per_s"] == pytest.approx(3.0)
    assert (seen["leases"], seen["groups_committed"], seen["leases_issued_again"]) == (15, 15, 4)
