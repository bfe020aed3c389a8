"""What an update of TwinFlow draws."""

from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from advdmd_ray.diffusion.seeds import derive_seed, noise, uniform


@dataclass(frozen=True, slots=True)
class TwinDraws:
    """The draws of one update; each is named, and hangs on the run's seed, the update and its name alone.

    Attributes:
        shape: (b, c, h, w), of the update's latents.
        seed: The run's.
        update: Its number.
    """

    shape: tuple[int, ...]
    seed: int
    update: int

    def seed_of(self, *names: str) -> int:
        """A seed of this name."""
        return derive_seed(self.seed, *self._path(*names))

    def noise(self, *names: str) -> Float[Tensor, "b c h w"]:
        """Standard normal."""
        return noise(self.shape, self.seed, *self._path(*names))

    def levels(self, *names: str) -> Float[Tensor, " b"]:
        """Levels uniform on (0, 1], one from each of as many equal slices as there are rows, in a drawn order.

        The order matters: rows are sorted by the student's step, and each step's predictions must meet every level.
        """
        rows = self.shape[0]
        slices = uniform((rows,), self.seed, *self._path(*names, "order")).argsort()
        return (slices + 1 - uniform((rows,), self.seed, *self._path(*names))) / rows

    def prompt_ids(self, prompts: int, *names: str) -> Int64[Tensor, " b"]:
        """Prompts, drawn uniformly from so many."""
        drawn = uniform((self.shape[0],), self.seed, *self._path(*names, "prompts"))
        return (drawn * prompts).long()

    def _path(self, *names: str) -> tuple[int | str, ...]:
        return ("twinflow", self.update, *names)
