"""What the objectives share besides the batch."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.data.real import RealImages
from advdmd_ray.diffusion.denoiser import Denoiser
from advdmd_ray.diffusion.kernels import Kernel
from advdmd_ray.diffusion.resolution import Resolution
from advdmd_ray.diffusion.seeds import derive_seed
from advdmd_ray.learner.networks import Networks
from advdmd_ray.stations.prompt_table import PromptTable


@dataclass(frozen=True, slots=True)
class Setting:
    """Fixed for the whole run, for images of one size.

    Attributes:
        config: The run's configuration.
        table: Encoded prompts.
        kernel: The student's transition kernel.
        sigmas: `[K+1]` student levels, the last 0.
        real: Real latents to learn from.
        real_heldout: Real latents that the discriminator is measured on and never learns from.
        teacher: The guided teacher.
        micro_batch: Most rows whose graphs are held at a time, of what can be parted; None: all.
    """

    config: Config
    table: PromptTable
    kernel: Kernel
    sigmas: Float[Tensor, " k1"]
    real: RealImages
    real_heldout: RealImages
    teacher: Denoiser
    micro_batch: int | None = None

    def rows(self, batch_size: int) -> int:
        """Rows of each group in an update of `batch_size` rows over all ranks."""
        return batch_size // self.config.rollout.groups_per_cycle


def settings_of(
    config: Config,
    networks: Networks,
    table: PromptTable,
    real: RealImages,
    kernel: Kernel,
    resolutions: Sequence[Resolution],
) -> tuple[Setting, ...]:
    """The setting of each size; of its real images a share is held out.

    Args:
        config: The run's.
        networks: Of the learner.
        table: The encoded prompts.
        real: Real images of every size.
        kernel: The student's.
        resolutions: The sizes, in the order in which the real images number them.
    """
    teacher = networks.guide(networks.teacher.eval(), table.unconditional, config.model.guidance)
    fraction, seed = config.discriminator.heldout_fraction, derive_seed(config.run.seed, "heldout")

    def setting(size: int, resolution: Resolution) -> Setting:
        learn, heldout = real.of_size(size).split(fraction, seed)
        return Setting(config, table, kernel, resolution.sigmas, learn, heldout, teacher, networks.micro_batch)

    return tuple(setting(size, resolution) for size, resolution in enumerate(resolutions))
