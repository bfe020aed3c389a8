"""The run folder: which sample grids stay in it."""

import itertools
import os
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from advdmd_ray.runs.folder import RunFolder


def drawn(folder: RunFolder, versions: range, most: int) -> list[int]:
    """What stays of grids that are drawn one after the other."""
    folder.grid(0).parent.mkdir(parents=True, exist_ok=True)
    for _, left in folder.grids():
        left.unlink()
    for version in versions:
        folder.grid(version).with_suffix(".jpg" if version % 20 else ".png").write_bytes(b"")
        folder.thin_grids(most)
    return [version for version, _ in folder.grids()]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(most=st.integers(2, 12), count=st.integers(1, 40))
def test_however_many_grids_are_drawn_a_bounded_number_stays_over_the_whole_run(
    tmp_path: Path, most: int, count: int
) -> None:
    versions = range(10, 10 * count + 1, 10)
    left = drawn(RunFolder(tmp_path / "run"), versions, most)
    assert len(left) == min(most, count)
    assert left[0] == versions[0]
    assert left[-1] == versions[-1]
    gaps = [later - earlier for earlier, later in itertools.pairwise(left)]
    # Of gaps that are halved or doubled, none is more than four times another, but for that to the newest.
    assert len(gaps) < 3 or max(gaps[:-1]) <= 4 * min(gaps[:-1])


def test_a_grid_is_listed_by_its_version_whatever_its_format(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.grids() == []
    assert drawn(folder, range(10, 31, 10), 5) == [10, 20, 30]
    assert [path.suffix for _, path in folder.grids()] == [".jpg", ".png", ".jpg"]


def test_of_a_picture_in_two_formats_the_newer_is_the_one_that_was_drawn(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.drawn(folder.comparison) is None
    png, jpeg = folder.comparison, folder.comparison.with_suffix(".jpg")
    for newer, older in ((png, jpeg), (jpeg, png)):
        for file in (newer, older):
            file.write_bytes(b"")
            assert folder.drawn(folder.comparison) in {newer, older}
        os.utime(older, (1, 1))
        assert folder.drawn(folder.comparison) == newer


def test_a_validation_is_listed_by_its_version_with_all_of_its_pictures_and_goes_with_them(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.validations() == []
    folder.validation(0, 0).parent.mkdir()
    for version in (10, 20, 30, 1_000_000):
        for number in (1, 0):
            folder.validation(version, number).with_suffix(".jpg" if number else ".png").touch()
    assert [version for version, _ in folder.validations()] == [10, 20, 30, 1_000_000]
    assert [path.suffix for path in folder.validations()[0][1]] == [".png", ".jpg"]
    folder.thin_validations(3)
    assert [(version, len(paths)) for version, paths in folder.validations()] == [(10, 2), (30, 2), (1_000_000, 2)]
