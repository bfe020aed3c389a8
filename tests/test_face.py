"""The library's face: few names, found by people and tools, imported when they are asked for."""

import importlib
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import advdmd_ray
from advdmd_ray.config import Config, read_config
from advdmd_ray.losses.distribution_matching import dmd_loss

PACKAGE = Path(advdmd_ray.__file__).parent


def test_every_name_is_listed_and_is_what_its_module_has() -> None:
    assert set(advdmd_ray.__all__) <= set(dir(advdmd_ray))
    assert sorted(name for names in advdmd_ray._HOMES.values() for name in names) == sorted(
        set(advdmd_ray.__all__) - {"__version__"}
    )
    for module, names in advdmd_ray._HOMES.items():
        for name in names:
            offered = getattr(advdmd_ray, name)
            assert offered.__name__ == name
            assert offered.__doc__
            assert offered.__module__.startswith(f"advdmd_ray.{module}"), name
    assert (advdmd_ray.Config, advdmd_ray.read_config, advdmd_ray.dmd_loss) == (Config, read_config, dmd_loss)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        _ = advdmd_ray.distil  # type: ignore[attr-defined]


def test_the_package_is_imported_without_torch_ray_or_diffusers() -> None:
    code = "import sys, advdmd_ray; dir(advdmd_ray); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "advdmd_ray" in loaded
    assert not {"torch", "ray", "diffusers", "numpy", "pydantic"} & loaded


def test_the_door_for_python_m_does_not_take_the_place_of_the_function() -> None:
    with pytest.raises(ImportError, match="from advdmd_ray import run"):
        importlib.import_module("advdmd_ray.run")
    assert callable(advdmd_ray.run)


def test_types_are_marked_for_tools() -> None:
    assert (PACKAGE / "py.typed").read_bytes() == b""
    assert version("advdmd-ray") == advdmd_ray.__version__
