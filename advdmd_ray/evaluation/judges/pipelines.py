"""A pipeline, teacher or student, before a judge."""

from jaxtyping import Float
from torch import Tensor

from advdmd_ray.diffusion.kernels import Kernel
from advdmd_ray.evaluation.judges.contract import Judge, JudgeScore
from advdmd_ray.evaluation.judges.draws import judge_sampler
from advdmd_ray.models.families import adapter_of
from advdmd_ray.models.families.base import Execution, Pipeline
from advdmd_ray.models.pipeline import denoiser_of, image_decoder
from advdmd_ray.models.text import encode_prompts, unconditional

TEACHER_STEPS = (40, 8, 4, 2)


class PipelineSampler:
    """A pipeline that draws images for a judge; with guidance None a student, which is called once a step."""

    def __init__(
        self,
        judge: Judge,
        pipeline: Pipeline,
        guidance: float | None,
        length: int,
        latent_shape: tuple[int, int, int],
        shift: float,
        embedded: float = 1.0,
        execution: Execution = Execution(),  # noqa: B008 - immutable
    ) -> None:
        self._judge, self._pipeline, self._length = judge, pipeline, length
        self._latent_shape, self.shift = latent_shape, shift
        denoiser = denoiser_of(pipeline, embedded, execution)
        empty = unconditional(pipeline, length)
        self._denoiser = denoiser if guidance is None else adapter_of(pipeline).guided(denoiser, empty, guidance)

    def judged(self, kernel: Kernel, sigmas: Float[Tensor, " k1"], *, samples: int, seed: int) -> JudgeScore:
        """See `judge_sampler`."""
        return judge_sampler(
            self._judge,
            self._denoiser,
            lambda prompts: encode_prompts(self._pipeline, prompts, self._length),
            kernel,
            sigmas,
            self._latent_shape,
            image_decoder(self._pipeline),
            samples=samples,
            seed=seed,
        )
