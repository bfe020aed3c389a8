"""The image has what the program needs, and writes where it may."""

import json
import re
import shlex
from pathlib import Path

import pytest

from advdmd_ray import __version__
from advdmd_ray.config.metrics import MetricsSection
from manifests import DEPLOY, ROOT, submitted


@pytest.fixture(scope="module")
def dockerfile() -> str:
    return (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")


def stages(dockerfile: str) -> dict[str, str]:
    """The instructions of each stage by its name."""
    _, *found = re.split(r"^FROM ", dockerfile, flags=re.MULTILINE)
    return {stage.splitlines()[0].split(" AS ")[1]: stage for stage in found}


def test_the_base_is_pinned_by_a_dated_version_and_a_digest(dockerfile: str) -> None:
    assert re.findall(r"^ARG BASE_IMAGE=(.*)$", dockerfile, flags=re.MULTILINE)
    assert re.search(r"^ARG BASE_IMAGE=debian:bookworm-\d{8}-slim@sha256:[0-9a-f]{64}$", dockerfile, re.MULTILINE)
    outside = {stage.split()[0] for stage in stages(dockerfile).values()} - stages(dockerfile).keys()
    assert outside == {"${BASE_IMAGE}"}


def test_what_the_image_copies_exists_and_is_in_the_build_context(dockerfile: str) -> None:
    allowed = [line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"]
    lines = re.findall(r"^COPY (?!--from)(.+)$", dockerfile, flags=re.MULTILINE)
    copied = [source for line in lines for source in line.split()[:-1]]
    assert set(copied) == set(allowed)
    for source in copied:
        assert (ROOT / source).exists(), source
    taken = re.findall(r"^COPY --from=(\S+) ", dockerfile, flags=re.MULTILINE)
    assert set(taken) == {"build-cpu", "build-cuda"} <= stages(dockerfile).keys()


def test_what_builds_the_package_is_there_when_it_is_built(dockerfile: str) -> None:
    lines = re.findall(r"^COPY (.+) \./\S*$", stages(dockerfile)["build"], flags=re.MULTILINE)
    grafted = re.findall(r"^graft (.+)$", (ROOT / "MANIFEST.in").read_text(), flags=re.MULTILINE)
    needed = {"pyproject.toml", "setup.py", "README.md", "LICENSE", "constraints.txt", "advdmd_ray", *grafted}
    assert {source for line in lines for source in line.split()} == needed
    assert "configs" in grafted, "setup.py copies them"


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_both_images_have_the_pinned_packages_and_are_not_root(target: str, dockerfile: str) -> None:
    stage = stages(dockerfile)[target]
    assert stage.startswith("runtime ")
    assert f"COPY --from=build-{target} /opt/venv /opt/venv" in stage
    assert stage.rstrip().splitlines()[-1].startswith(("USER 10001", "# The last stage"))
    install = stages(dockerfile)[f"build-{target}"]
    assert re.search(r"pip install .*-c constraints\.txt \.$", install, flags=re.MULTILINE)
    assert ("TORCH_INDEX" in install) == (target == "cpu")
    tag = f"advdmd-ray:{__version__}" + ("-cuda" if target == "cuda" else "")
    assert f"--target {target} -t {tag} ." in dockerfile


def test_no_stage_says_that_every_gpu_of_a_node_is_seen(dockerfile: str) -> None:
    settings = re.findall(r"^ENV (.+)$", dockerfile, flags=re.MULTILINE)
    assert not any("NVIDIA_VISIBLE_DEVICES" in line for line in settings)


def test_whatever_is_written_goes_below_tmp_or_onto_a_volume(dockerfile: str) -> None:
    (line,) = re.findall(r"^ENV (PATH.+)$", stages(dockerfile)["runtime"], flags=re.MULTILINE)
    settings = dict(word.split("=", 1) for word in shlex.split(line))
    places = {name: value for name, value in settings.items() if value.startswith("/") and name != "PATH"}
    assert places.keys() >= {"HOME", "RAY_TMPDIR", "XDG_CACHE_HOME", "MPLCONFIGDIR", "HF_HOME"}
    for name, place in places.items():
        assert Path(place).is_relative_to("/models" if name == "HF_HOME" else "/tmp"), name  # noqa: S108
    assert settings["PYTHONDONTWRITEBYTECODE"] == "1"
    assert re.findall(r"^VOLUME (.+)$", dockerfile, flags=re.MULTILINE) == ["/runs"]


def test_the_image_starts_a_run_and_asks_it_whether_it_is_well(dockerfile: str) -> None:
    *_, check, command = re.findall(r"CMD (\[.+\])$", dockerfile, flags=re.MULTILINE)
    config = submitted(" ".join(json.loads(command)))
    assert config.run.output == "/runs"
    assert config.metrics.port == MetricsSection().port
    assert json.loads(check)[-1] == f"http://127.0.0.1:{config.metrics.port}/metrics"
    assert f"EXPOSE {config.metrics.port}" in dockerfile
