"""What the object store cannot hold, and where it goes."""

import shutil
from pathlib import Path

import pytest

from advdmd_ray.runs.needs.spilling import FULLEST, Disk, Spilling, ray_disk

HERE = Path("/disk/ray")


@pytest.mark.parametrize(
    ("demand", "offered", "room", "spills", "fits"),
    [
        (100, 100, 0, False, True),
        (101, 100, 1, True, True),
        (102, 100, 1, True, False),
    ],
)
def test_only_what_the_store_lacks_must_have_room_on_the_disk(
    demand: int, offered: int, room: int, spills: bool, fits: bool
) -> None:
    found = Spilling(demand, offered, Disk(HERE, room))
    assert (found.spills, found.fits) == (spills, fits)
    assert ("/disk/ray" in found.text) == spills
    assert ("may be written there" in found.text) == (not fits)
    if spills:
        assert f"raise ray.object_store_bytes to {demand}" in found.text


def test_the_disks_of_a_cluster_are_not_known_here() -> None:
    found = Spilling(2, 1, None)
    assert found.spills
    assert found.fits
    assert "raise ray start --object-store-memory of the nodes to 2" in found.text


def test_ray_writes_where_its_variable_says_and_never_fills_a_disk_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "not" / "there"))
    disk = ray_disk()
    assert disk.folder == tmp_path / "not" / "there" / "ray"
    assert disk.room <= usage.free
    kept = int((1 - FULLEST) * usage.total)
    for free, room in ((kept + 5, 5), (kept, 0), (0, 0)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        assert ray_disk().room == room
