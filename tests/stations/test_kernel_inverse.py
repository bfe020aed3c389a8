"""The clean prediction behind a stored mean: the inverse of every kernel's step."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.diffusion.kernels import Kernel, clean_from_mean, clean_from_velocity, transition
from advdmd_ray.learner.batch import clean_predictions, collate
from advdmd_ray.stations.records import Lease, ScoredGroup
from small_parts import SHAPE, SIGMAS, Mixer, Painter, normal, rollout_worker, table

kernels = st.one_of(
    st.just(Kernel.renoise()),
    st.floats(0.05, 0.99).map(Kernel.cps),
    st.floats(0.1, 1.5).map(Kernel.flow_sde),
)


@given(kernel=kernels, t=st.floats(0.1, 1.0), share=st.floats(0.0, 0.9))
def test_the_inverse_of_a_step_gives_back_the_clean_prediction(kernel: Kernel, t: float, share: float) -> None:
    x, velocity = normal(3, *SHAPE, seed=1), normal(3, *SHAPE, seed=2)
    mean = transition(kernel, x, velocity, t, share * t).mean
    expected = clean_from_velocity(x, velocity, t)
    # The mean holds (1 - t') of the prediction; dividing it out enlarges the round-off.
    torch.testing.assert_close(clean_from_mean(kernel, x, mean, t, share * t), expected, rtol=1e-4, atol=2e-4)


def _group(kernel: Kernel, student: torch.nn.Module) -> ScoredGroup:
    import numpy as np  # noqa: PLC0415 - only here

    worker = rollout_worker(student, kernel=kernel)
    group = worker.generate(Lease(ordinal=0, attempt=0, prompt_id=1, seed=3, policy_version=0))
    return ScoredGroup(group, np.zeros((4, 3), np.float32), 0)


@pytest.mark.parametrize("kernel", [Kernel.renoise(), Kernel.cps(0.7), Kernel.ode()], ids=lambda kernel: kernel.name)
def test_the_fake_score_learns_from_what_the_student_predicted_at_every_step(kernel: Kernel) -> None:
    student = Mixer(4)
    scored = _group(kernel, student)
    clean = clean_predictions(collate([scored], 0), kernel)
    conditioning: Conditioning = table().of(1, 4)
    for step in range(3):
        x = torch.tensor(scored.group.latents[:, step])
        velocity = student(x, SIGMAS[step].expand(4), conditioning)
        expected = clean_from_velocity(x, velocity, SIGMAS[step])
        torch.testing.assert_close(clean[0, :, step], expected, rtol=1e-4, atol=1e-4)


def test_a_student_with_one_answer_is_inverted_to_that_answer() -> None:
    picture = normal(*SHAPE, seed=9)
    clean = clean_predictions(collate([_group(Kernel.renoise(), Painter(picture))], 0), Kernel.renoise())
    torch.testing.assert_close(clean, picture.expand_as(clean), rtol=1e-5, atol=1e-5)
