"""Rollout actors whose transformer is compiled."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from advdmd_ray.config import Config
from advdmd_ray.runs.parts.inputs import encode_table
from advdmd_ray.runs.parts.networks import base_digest, build_denoiser, learning
from advdmd_ray.runs.parts.workers import build_rollout_worker
from advdmd_ray.stations.weights.snapshot import pack
from small_parts import lease

pytestmark = pytest.mark.usefixtures("encoders_once")


@pytest.mark.parametrize("rank", [0, 2])
def test_a_compiled_actor_runs_what_it_loaded_through_what_torch_made_of_it(
    monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    calls: list[str] = []

    def compiled(call: Callable[..., Any], *, dynamic: bool) -> Callable[..., Any]:
        assert dynamic is False  # as all images are of one size
        calls.append("compiled")

        def run(*inputs: Any, **named: Any) -> Any:
            calls.append("ran")
            return call(*inputs, **named)

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    groups = []
    for compile_it in (False, True):
        config = Config.model_validate(
            {
                "model": {"path": "builtin:digits"},
                "lora": {"rank": rank},
                "rollout": {"group_size": 2, "compile": compile_it},
            }
        )
        role = learning(config, build_denoiser(config), "student")
        with torch.no_grad():
            for parameter in role.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.01 * torch.ones_like(parameter))
        worker = build_rollout_worker(config, "rollout-0", encode_table(config))
        state = {name: weight for name, weight in role.named_parameters() if weight.requires_grad}
        assert (calls == []) is not compile_it
        worker.load(pack("student", 0, state, base_digest(config)))
        groups.append(worker.generate(lease(0)))
    assert calls == ["compiled", *["ran"] * config.steps]
    np.testing.assert_array_equal(groups[1].latents, groups[0].latents)
