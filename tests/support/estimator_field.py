"""A field of estimators over analytic networks."""

from torch import Tensor, nn

from advdmd_ray.config import Config
from advdmd_ray.diffusion.denoiser import Conditioning
from benchmarks.estimators.field import Counter, Field
from small_parts import SHAPE, Mixer, brightness_oracle, config, setting


class Linear(nn.Module):
    """A denoiser whose clean prediction is half of the state and a picture: the last state remembers every action."""

    def __init__(self, picture: Tensor) -> None:
        super().__init__()
        self.picture = nn.Parameter(picture)

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        assert len(conditioning) == len(x) == len(t)
        return (x - 0.5 * x - self.picture) / t.reshape(-1, 1, 1, 1)


def field(student: nn.Module, critic: nn.Module, settings: Config | None = None, seed: int = 0) -> Field:
    """A student and a discriminator on 4x4 latents; the checker likes bright images."""
    critic.requires_grad_(requires_grad=False)
    return Field(
        setting=setting(config() if settings is None else settings, Mixer(1)),
        student=student,
        discriminator=critic,
        latent_shape=SHAPE,
        oracle=brightness_oracle(),
        seed=seed,
        forwards=Counter(student, critic),
    )
