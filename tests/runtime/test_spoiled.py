"""What must never happen: weights or groups that differ from what was handed on end a run.

Over Ray: tests/integration/test_spoiled.py.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advdmd_ray import cli
from advdmd_ray.runtime.local import LocalShell
from advdmd_ray.stations.buffer.record_batch import decode_group, encode_group
from ray_runs import write_config


def _other_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    published = LocalShell.publication

    def publication(shell: LocalShell) -> Any:
        manifests, student, (*others, last) = published(shell)
        last = np.array(last)
        last[-1] ^= 1
        return manifests, student, (*others, last)

    monkeypatch.setattr(LocalShell, "publication", publication)


def _other_means(monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = LocalShell.fetch

    def spoiled(pair: Any) -> Any:
        batch, scores = pair
        group = decode_group(batch)
        return encode_group(replace(group, means=group.means + np.float32(0.1))), scores

    monkeypatch.setattr(LocalShell, "fetch", lambda shell, groups: fetch(shell, [(i, spoiled(p)) for i, p in groups]))


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        pytest.param(
            _other_bytes,
            r"advdmd: failed: reward-0: discriminator version 0: the payload has digest [0-9a-f]{64}, "
            r"published was [0-9a-f]{64}: the bytes of tensor [a-z0-9_.]+ differ; nothing is saved; .*",
            id="weights that differ from the published ones",
        ),
        pytest.param(
            _other_means,
            r"advdmd: failed: learner rank 0: importance ratio differs from 1 by .*; rollout and learner do not "
            r"run the same step; nothing is saved; .*",
            id="actions whose probabilities the learner does not find",
        ),
    ],
)
def test_what_must_never_happen_stops_the_run_with_one_clear_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    spoil: Callable[[pytest.MonkeyPatch], None],
    line: str,
) -> None:
    spoil(monkeypatch)
    config = write_config(tmp_path, "spoiled")
    assert cli.main(["run", "--local", "--config", str(config), "learner.engine=torch"]) == cli.FAILED
    said = capfd.readouterr().err
    assert re.fullmatch(line, said.splitlines()[-1]), said
    assert "Traceback" not in said
