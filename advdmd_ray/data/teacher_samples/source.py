"""`data.source=teacher_samples`: the guided teacher's own images for the run's prompts."""

from typing import TYPE_CHECKING

from advdmd_ray.config import Config
from advdmd_ray.data.captioned_source import CaptionedSource
from advdmd_ray.data.prompt_file import load_prompts
from advdmd_ray.data.source import mismatchable
from advdmd_ray.errors import UserError

if TYPE_CHECKING:
    from advdmd_ray.data.captioned_source import CaptionedLatents
    from advdmd_ray.data.teacher_samples.plan import SamplePlan
    from advdmd_ray.data.teacher_samples.sizes import SizedSamples


class TeacherSamplesSource(CaptionedSource):
    """`data.teacher_samples` images of each prompt in `data.prompts`, of each size, drawn once and kept."""

    takes_buckets = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.data.prompts is None:
            raise UserError(
                "data.source=teacher_samples needs data.prompts, a text file of what the teacher is to draw"
            )

    def prompts(self) -> tuple[str, ...]:
        """See `Source`: each once."""
        return tuple(dict.fromkeys(load_prompts(self.config.data.prompts or "")))

    def check(self) -> None:
        """See `Source`: the prompts can be read, and the judge will have enough images."""
        prompts = mismatchable(self.prompts(), self.config)
        from advdmd_ray.evaluation.judges.thumbnails import check_count  # imports torch

        check_count(len(prompts) * self.config.data.teacher_samples)

    def shards(self) -> "SamplePlan | SizedSamples":
        """See `Source`."""
        from advdmd_ray.data.teacher_samples.plan import plan_samples
        from advdmd_ray.data.teacher_samples.sizes import SizedSamples

        plans = plan_samples(self.config, self.prompts())
        return SizedSamples(plans) if self.config.data.buckets else plans[0]

    def bucket_images(self) -> tuple[int, ...]:
        """See `Source`: as many of each, which is known before they are drawn."""
        return (len(self.prompts()) * self.config.data.teacher_samples,) * len(self.config.data.buckets)

    def latents(self) -> "CaptionedLatents":
        """See `CaptionedSource`."""
        return self.shards().opened()
