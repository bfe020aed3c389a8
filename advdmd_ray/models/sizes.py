"""The teacher's pipeline at every size of a run's images."""

from advdmd_ray.config import Config
from advdmd_ray.models.folder import SIZE, PipelineInfo, at_size, inspect_pipeline

BUCKETS = "data.buckets"


def sized_pipelines(config: Config) -> tuple[PipelineInfo, ...]:
    """The pipeline at each of `Config.sizes`, in their order.

    Raises:
        UserError: as `inspect_pipeline`, or if the model has no images of one of the sizes.
    """
    first, *others = config.sizes
    said_by = BUCKETS if config.data.buckets else SIZE
    info = inspect_pipeline(config.model.path, first, said_by)
    return (info, *(at_size(info, pixels, said_by) for pixels in others if pixels is not None))


def largest_pipeline(config: Config) -> PipelineInfo:
    """The pipeline at the size of the largest latents, which memory and time are estimated for; raises the same."""
    return max(sized_pipelines(config), key=lambda info: info.latent.numel)


def main_pipeline(config: Config) -> PipelineInfo:
    """The pipeline at the size that is meant where nobody chooses one; raises the same."""
    return sized_pipelines(config)[config.sizes.index(config.main_size)]
