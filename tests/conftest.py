"""Set up before any test module is imported: shapes are checked, draws repeat, one thread per process."""

import functools
import gc
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import jaxtyping
import pytest
import torch

torch.set_num_threads(1)
# Processes that tests start have one too; where one takes all cores, its threads must not wait by spinning.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "passive"

# A shell that starts the tests in the background has them ignore Ctrl-C, and so every process that they start and stop.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Annotated shapes and types become run-time checks in the modules that do arithmetic. Those that read the files of
# pipelines have none: a check of each entry of each header takes longer than the reading.
jaxtyping.install_import_hook(
    [
        "advdmd_ray.diffusion",
        "advdmd_ray.losses",
        *(f"advdmd_ray.models.{name}" for name in ("codec", "discriminator", "features", "lora", "merging", "tiny")),
        *(f"advdmd_ray.models.families.{name}" for name in ("base", "flux", "flux2", "krea2", "qwen_image", "sana")),
        *(f"advdmd_ray.models.families.{name}" for name in ("sd3", "z_image")),
        "advdmd_ray.stations.records",
        "advdmd_ray.stations.rollout",
        "advdmd_ray.stations.reward",
    ],
    "beartype.beartype",
)

hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("repeatable")

# What is imported stays: it is not searched for garbage, neither while it grows nor, after that, by every test.
gc.disable()


MANY = 100
"""Modules that are worth a look through all objects; diffusers alone brings hundreds."""
_frozen_with = [0]  # modules


def _freeze() -> None:
    gc.collect()
    gc.freeze()
    _frozen_with[0] = len(sys.modules)


def pytest_collection_finish() -> None:
    """The modules of all tests are imported; from here on garbage is collected as always."""
    _freeze()
    gc.enable()


def pytest_runtest_logfinish() -> None:
    """What a test was the first to import stays too."""
    if len(sys.modules) > _frozen_with[0] + MANY:
        _freeze()


BEFORE_THE_LAST = 0.8
"""Share of the other files behind which the last slow one stands: else the end waits for it."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files, which start many processes and wait for them, are spread among the others, file by file.

    Side by side they would take each other's cores, and at the end those of nobody else.
    """
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    slow = [path for path, tests in files.items() if any(test.get_closest_marker("slow") for test in tests)]
    others = [path for path in files if path not in slow]
    place = {path: number / len(others) for number, path in enumerate(others)}
    place |= {path: BEFORE_THE_LAST * number / len(slow) for number, path in enumerate(slow)}
    items[:] = [item for path in sorted(files, key=place.__getitem__) for item in files[path]]


@pytest.fixture
def thawed() -> Iterator[None]:
    """The suite's modules are among what the collector looks at, as in a process that froze nothing.

    Whoever thaws the heap asks for this; to look after every test whether one did would take longer than most of them.
    """
    gc.unfreeze()
    yield
    gc.unfreeze()
    _freeze()


@pytest.fixture(scope="module")
def unchecked_records() -> Iterator[None]:
    """The records of fake workers go unchecked: they have no arrays, and there are thousands a second."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained pipeline folder; its larger weights make a comparison mean something."""
    from tiny_digits import write_tiny_digits  # noqa: PLC0415 - only tests that run a pipeline load diffusers

    return write_tiny_digits(tmp_path_factory.mktemp("teacher") / "tiny")


@pytest.fixture(scope="module")
def encoders_once() -> Iterator[None]:
    """Text encoders are loaded once a process: in one folder they are the same for every run that begins."""
    from advdmd_ray.runs.parts import inputs  # noqa: PLC0415 - only tests that run a pipeline load diffusers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "load_pipeline", _loaded_once)
        yield


@functools.cache
def _loaded_once(path: str, dtype: torch.dtype, parts: Any) -> Any:
    from advdmd_ray.models.pipeline import load_pipeline  # noqa: PLC0415

    return load_pipeline(path, dtype, parts)


@pytest.fixture
def parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A YAML text that was parsed is not parsed again: a comparison reads its bases for every rival and seed."""
    from advdmd_ray.config import reading  # noqa: PLC0415 - only tests of comparisons read so many
    from advdmd_ray.config.parsing import parse_yaml  # noqa: PLC0415

    parse = functools.cache(lambda text: json.dumps(parse_yaml(text)))
    monkeypatch.setattr(reading, "parse_yaml", lambda text: json.loads(parse(text)))
