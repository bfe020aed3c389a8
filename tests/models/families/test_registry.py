"""The noise levels of each family's teacher, against diffusers' own scheduler."""

import importlib
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.diffusion.schedule import stretch_sigmas, teacher_sigmas
from advdmd_ray.models.families.registry import (
    EULER,
    as_euler,
    flux2_exponent,
    noise_shift,
    noise_terminal,
    scheduler_fault,
)

# The scheduler_config.json that each model was published with, and the module of its pipeline.
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "SD3 medium": ("stable_diffusion_3.pipeline_stable_diffusion_3", {"shift": 3.0}),
    "SD3.5": ("stable_diffusion_3.pipeline_stable_diffusion_3", {"shift": 3.0, "use_dynamic_shifting": False}),
    "FLUX.1-dev": (
        "flux.pipeline_flux",
        {
            "shift": 3.0,
            "use_dynamic_shifting": True,
            "base_shift": 0.5,
            "max_shift": 1.15,
            "base_image_seq_len": 256,
            "max_image_seq_len": 4096,
        },
    ),
    "FLUX.1-schnell": ("flux.pipeline_flux", {"shift": 1.0, "use_dynamic_shifting": False}),
    "Qwen-Image": (
        "qwenimage.pipeline_qwenimage",
        {
            "shift": 1.0,
            "use_dynamic_shifting": True,
            "base_shift": 0.5,
            "max_shift": 0.9,
            "base_image_seq_len": 256,
            "max_image_seq_len": 8192,
            "shift_terminal": 0.02,
            "time_shift_type": "exponential",
        },
    ),
    "Z-Image": ("z_image.pipeline_z_image", {"shift": 3.0, "use_dynamic_shifting": False}),
    "FLUX.2 klein": ("flux2.pipeline_flux2_klein", {"shift": 3.0, "use_dynamic_shifting": True}),
    "Krea 2": (
        "krea2.pipeline_krea2",
        {
            "use_dynamic_shifting": True,
            "base_shift": 0.5,
            "max_shift": 1.15,
            "base_image_seq_len": 256,
            "max_image_seq_len": 6400,
        },
    ),
    "a linear shift": (
        "flux.pipeline_flux",
        {"use_dynamic_shifting": True, "time_shift_type": "linear", "shift_terminal": 0.1},
    ),
}


def levels_of_the_pipeline(module: str, settings: dict[str, Any], steps: int, tokens: int) -> torch.Tensor:
    """What its scheduler makes of uniform levels, with mu by the pipeline's own rule."""
    scheduler: Any = FlowMatchEulerDiscreteScheduler(**settings)
    said, pipelines = scheduler.config, importlib.import_module(f"diffusers.pipelines.{module}")
    if module.startswith("flux2"):
        mu = pipelines.compute_empirical_mu(tokens, steps)
    else:
        sizes = said.base_image_seq_len, said.max_image_seq_len
        mu = pipelines.calculate_shift(tokens, *sizes, said.base_shift, said.max_shift)
    uniform = [1 - index / steps for index in range(steps)]
    scheduler.set_timesteps(sigmas=uniform, mu=mu if said.use_dynamic_shifting else None)
    return scheduler.sigmas


@pytest.mark.parametrize("steps", [2, 4, 8, 28, 40, 50])
@pytest.mark.parametrize("tokens", [1024, 4096, 6032])
@pytest.mark.parametrize("model", sorted(PUBLISHED))
def test_a_teacher_has_the_levels_of_its_pipeline(model: str, tokens: int, steps: int) -> None:
    module, settings = PUBLISHED[model]
    assert scheduler_fault(settings, 256) is None
    exponent = flux2_exponent(tokens, steps) if module.startswith("flux2") else None
    ours = teacher_sigmas(steps, noise_shift(settings, tokens, exponent), noise_terminal(settings))
    theirs = levels_of_the_pipeline(module, settings, steps, tokens)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # numpy's, of the solver
@given(st.integers(2, 60), st.floats(0.5, 8.0))
def test_the_levels_of_a_multistep_solver_of_flows_are_eulers_but_for_a_thousandth(steps: int, shift: float) -> None:
    solver: Any = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift, final_sigmas_type="zero"
    )
    solver.set_timesteps(steps)
    settings = as_euler({"_class_name": type(solver).__name__, **solver.config})
    assert scheduler_fault(settings, 256) is None
    ours = teacher_sigmas(steps, noise_shift(settings, 256))
    # A shift is at most so many times as steep as the line without it.
    torch.testing.assert_close(ours, solver.sigmas, rtol=0, atol=1.01e-3 * max(shift, 1 / shift))


@pytest.mark.parametrize(
    "settings",
    [
        {"prediction_type": "epsilon", "use_flow_sigmas": True},
        {"prediction_type": "flow_prediction"},
        {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "use_dynamic_shifting": True},
        {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "use_lu_lambdas": True},
        {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 0},
    ],
)
def test_a_multistep_solver_of_other_levels_is_refused(settings: dict[str, Any]) -> None:
    solver = as_euler({"_class_name": "DPMSolverMultistepScheduler", **settings})
    assert scheduler_fault(solver, 256) is not None


@given(st.integers(2, 60), st.floats(0.5, 8.0), st.floats(0.001, 0.5))
def test_stretched_levels_keep_their_order_begin_at_noise_and_end_where_they_shall(
    steps: int, shift: float, terminal: float
) -> None:
    sigmas = teacher_sigmas(steps, shift, terminal)
    assert bool((sigmas[:-1] > sigmas[1:]).all())
    assert (float(sigmas[0]), float(sigmas[-1])) == (1.0, 0.0)
    assert float(sigmas[-2]) == pytest.approx(terminal, abs=1e-6)


def test_one_level_is_pure_noise_and_has_nothing_to_stretch() -> None:
    assert teacher_sigmas(1, 3.0, 0.02).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("terminal", [0.0, 1.0, -0.1, float("nan")])
def test_a_terminal_level_out_of_range_is_refused(terminal: float) -> None:
    with pytest.raises(ValueError, match=r"in \(0, 1\)"):
        stretch_sigmas(torch.tensor([1.0, 0.5]), terminal)


@pytest.mark.parametrize(
    ("scheduler", "says"),
    [
        ({"_class_name": "FlowMatchHeunDiscreteScheduler"}, f"a {EULER} is needed"),
        ({"use_karras_sigmas": True}, "sets use_karras_sigmas, which is not followed here"),
        ({"use_beta_sigmas": True}, "sets use_beta_sigmas"),
        ({"invert_sigmas": True}, "sets invert_sigmas"),
        ({"shift_terminal": 1.5}, "has shift_terminal 1.5"),
        ({"shift_terminal": "x"}, "has shift_terminal 'x'"),
        ({"shift": 0}, "has shift 0; a number above 0 is needed"),
        ({"shift": float("nan")}, "has shift nan"),
        ({"shift": True}, "has shift True"),
        ({"use_dynamic_shifting": True, "base_shift": "a"}, "has base_shift 'a'"),
        ({"use_dynamic_shifting": True, "base_image_seq_len": 9, "max_image_seq_len": 9}, "must be the larger"),
        ({"use_dynamic_shifting": True, "base_shift": 1e6, "max_shift": 1e6}, "image tokens by inf"),
    ],
)
def test_a_scheduler_that_makes_other_levels_is_not_taken_for_one_that_does_not(
    scheduler: dict[str, Any], says: str
) -> None:
    assert says in (scheduler_fault(scheduler, 256) or "")
