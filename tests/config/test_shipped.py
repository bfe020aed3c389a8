"""The configurations that ship: found by name, read alike from anywhere, and nothing in them can be left out."""

import copy
import functools
import itertools
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from advdmd_ray.comparison.rivals import trainer_class
from advdmd_ray.config import Config, Section, read_config, reading
from advdmd_ray.config.comparison import Comparison, Rival, read_comparison, rival_config
from advdmd_ray.config.layers import Layer, resolve
from advdmd_ray.config.pretrain import read_pretrain
from advdmd_ray.config.shipped import locate, nearest_shipped, shipped_folder, shipped_names, shipped_path
from advdmd_ray.errors import UserError

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
Read = Callable[[Path], Iterable[Any]]


def own_settings(rival: Rival) -> Section:
    """The settings of a rival's trainer, refused where it takes none."""
    settings = trainer_class(rival.trainer).settings
    if rival.settings and not settings.model_fields:
        raise UserError(f"{rival.trainer} takes no settings")
    return resolve(settings, [Layer(rival.name, rival.settings)])


@dataclass(frozen=True)
class _Told:
    """A rival of a comparison, told from others by all that its configuration is made of."""

    said: str
    comparison: Comparison = field(compare=False)
    rival: Rival = field(compare=False)


@functools.cache
def _config_of(told: _Told) -> Config:
    return rival_config(told.comparison, told.rival, 0, Path("nowhere"))


def read_rivals(path: Path) -> Iterator[Any]:
    """Everything that a comparison's file says: itself, and each rival's configuration, rehearsed or not."""
    read = [read_comparison(path, quick=quick) for quick in (False, True)]
    for comparison in read:
        yield {name: getattr(comparison, name) for name in ("name", "seeds", "budget", "points", "judge_samples")}
        told = [(rival.title, rival.trainer, rival.share, rival.start) for rival in comparison.rivals]
        yield comparison.teacher_steps, comparison.actors_curve, comparison.headline, told
        yield [own_settings(rival) for rival in comparison.rivals]
    for comparison in read:
        for rival in comparison.rivals:
            said = comparison.name, comparison.base, comparison.overrides, comparison.quick.overrides, rival
            yield _config_of(_Told(repr(said), comparison, rival))


READERS: dict[str, Read] = {
    "": lambda path: [read_config(path)],
    "compare": read_rivals,
    "pretrain": lambda path: [read_pretrain(path)],
}


def places(tree: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a file says something: every key, and every part of what it holds."""
    parts = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in parts:
        yield (*place, key)
        if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(part, dict) for part in value)):
            yield from places(value, (*place, key))


def without(tree: Any, place: tuple[Any, ...]) -> Any:
    """A copy of a tree without one of its parts."""
    left = copy.deepcopy(tree)
    node = left
    for key in place[:-1]:
        node = node[key]
    del node[place[-1]]
    return left


@pytest.fixture
def read_as_json(parsed_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text that is JSON is read as such, which takes a hundredth of the time of its reading as YAML."""
    parse = reading.parse_yaml
    monkeypatch.setattr(reading, "parse_yaml", lambda text: json.loads(text) if text.startswith("{") else parse(text))


@pytest.mark.usefixtures("read_as_json")
@pytest.mark.parametrize("name", shipped_names())
def test_nothing_in_a_shipped_file_can_be_left_out(name: str, tmp_path: Path) -> None:
    path = shipped_path(name)
    read = READERS[name.rpartition("/")[0]]
    tree = yaml.safe_load(path.read_text())
    if "base" in tree:
        tree["base"] = str(path.parent / tree["base"])
    probe, idle, whole = tmp_path / "probe.yaml", [], list(read(path))
    for place in places(tree):
        probe.write_text(json.dumps(without(tree, place)))
        try:
            # What follows the first difference is not read: every rival has a configuration of its own.
            said = itertools.zip_longest(read(probe), whole)
            idle += [place] if all(now is before or now == before for now, before in said) else []
        except UserError:
            continue  # without it the file says nothing sound: it is needed
    assert idle == [], f"{name} has settings that are the defaults, or its base's"


def test_the_two_step_recipe_differs_only_in_name_and_levels() -> None:
    four, two = (read_config(name) for name in ("digits", "digits_2step"))
    assert (four.steps, two.steps) == (4, 2)
    assert two.model_copy(update={"run": four.run, "diffusion": four.diffusion}) == four
    assert two.run.model_copy(update={"name": four.run.name}) == four.run
    assert two.diffusion.model_copy(update={"sigmas": four.diffusion.sigmas}) == four.diffusion


def test_the_names_are_those_of_the_files() -> None:
    assert shipped_folder() == CONFIGS
    assert {"digits", "sd3_medium", "compare/shapes", "pretrain/shapes"} <= set(shipped_names())
    assert {shipped_path(name) for name in shipped_names()} == set(CONFIGS.rglob("*.yaml"))
    for path in CONFIGS.glob("*.yaml"):
        assert read_config(path.stem) == read_config(path)
        assert read_config(path).run.name == path.stem


def test_a_file_of_the_user_wins_over_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate("digits") == CONFIGS / "digits.yaml"
    (tmp_path / "digits").mkdir()
    assert read_config("digits").run.name == "digits"
    (tmp_path / "digits").rmdir()
    (tmp_path / "digits").write_text("run: {name: own}")
    assert read_config("digits").run.name == "own"


def test_each_command_finds_its_own_kind() -> None:
    assert locate("shapes", "compare") == locate("compare/shapes", "compare") == CONFIGS / "compare" / "shapes.yaml"
    assert read_comparison("shapes").name == "shapes"
    assert read_pretrain("shapes").pretrain.folder == "runs/shapes_teacher"
    assert isinstance(read_comparison("shapes"), Comparison)
    assert nearest_shipped("shape", "compare") == "shapes"
    for read in (read_config, read_comparison):
        with pytest.raises(UserError, match=r"did you mean .*advdmd configs lists them"):
            read("oracel")


@pytest.mark.parametrize("name", ["digits", "shapes"])
def test_a_teacher_is_trained_with_the_settings_of_its_run(name: str) -> None:
    run, training = read_config(name).model_dump(), read_pretrain(name).model_dump()
    del training["pretrain"]
    assert training == run
    # A run's own file will do too: its training has the defaults.
    assert read_pretrain(CONFIGS / f"{name}.yaml", ["pretrain.steps=7"]).pretrain.steps == 7


def test_a_wheel_finds_them_outside_a_checkout(tmp_path: Path) -> None:
    source, installed, elsewhere = tmp_path / "source", tmp_path / "installed", tmp_path / "elsewhere"
    for folder in ("advdmd_ray", "configs"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    build = ["pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(tmp_path), str(source)]
    subprocess.run([sys.executable, "-m", *build], check=True, capture_output=True, timeout=200)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(installed)
    elsewhere.mkdir()
    program = (
        f"import sys; sys.path.insert(0, {str(installed)!r})\n"
        "from advdmd_ray.cli import main\n"
        "from advdmd_ray.config.shipped import shipped_folder\n"
        "print(shipped_folder())\n"
        "sys.exit(main(['configs']) or main(['run', '--config', 'digits', '--dry-run', 'metrics.port=0']))"
    )
    command = [sys.executable, "-I", "-c", program]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{installed / 'advdmd_ray' / 'configs'}\n")
    for name in shipped_names():
        assert f"\n  {name} " in done.stdout
    assert "new run in runs/digits" in done.stdout
    assert list(elsewhere.iterdir()) == []
