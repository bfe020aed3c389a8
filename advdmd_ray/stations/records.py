"""What travels between the stations: frozen records with their shapes, units and versions.

Shapes use n (samples of a group), K (student steps) and C, H, W (latent channels, height, width). Levels are
counted 1..K: level j is the state at `sigmas[j]`, reached by action j - 1; level K is the final latent.
Latents are float32 end to end: rounding an action would move its log-probability by more than a usual clip.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

Stream = Literal["student", "discriminator"]
"""Whose weights."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right and the duty to produce one group.

    Attributes:
        ordinal: Position in the prompt stream, from 0; names the group for ever.
        attempt: 0 for the first issue, counted up each time the ordinal is issued again.
        prompt_id: Row of the prompt table.
        seed: Seed of the group; every draw of its samples derives from it.
        policy_version: Version of the student that must generate the group.
    """

    ordinal: int
    attempt: int
    prompt_id: int
    seed: int
    policy_version: int


@dataclass(frozen=True, slots=True)
class TrajectoryGroup:
    """All trajectories of one prompt, made by one policy version.

    Attributes:
        ordinal: Position in the prompt stream.
        prompt_id: Row of the prompt table.
        policy_version: Version of the student that made every row.
        seeds: `[n]` seed of each sample.
        sigmas: `[K+1]` noise levels from 1 down to 0, after the shift.
        latents: `[n, K+1, C, H, W]` states from pure noise to the final latent.
        means: `[n, K-1, C, H, W]` mean of each stochastic transition.
        stds: `[K-1]` standard deviation of each stochastic transition, latent units.
    """

    ordinal: int
    prompt_id: int
    policy_version: int
    seeds: Int64[np.ndarray, " n"]
    sigmas: Float32[np.ndarray, " k1"]
    latents: Float32[np.ndarray, "n k1 c h w"]
    means: Float32[np.ndarray, "n m c h w"]
    stds: Float32[np.ndarray, " m"]


class Identity(NamedTuple):
    """Which group it is, and what made and scored it.

    Attributes:
        ordinal: Position in the prompt stream.
        prompt_id: Row of the prompt table.
        seed: Of its first sample.
        policy_version: Of the student that made it.
        reward_version: Of the discriminator that scored it.
    """

    ordinal: int
    prompt_id: int
    seed: int
    policy_version: int
    reward_version: int

    def differences(self, wanted: "Identity") -> str:
        """What is another than wanted, in words; empty: nothing."""
        pairs = zip(self._fields, self, wanted, strict=True)
        return ", ".join(f"{name} {found}, not {due}" for name, found, due in pairs if found != due)


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group with the verdict on every state it reached.

    Attributes:
        group: The trajectories.
        rewards: `[n, K]` rewards of levels 1..K: the discriminator's logits; or 0 and, at level K, an oracle's score in
            [0, 1]; or all 0 where nobody scores.
        reward_version: Version of the discriminator that its worker held.
        agreement: `GroupInfo.agreement`; it does not travel with the group's bytes.
        extra: `[n]` the user's own reward of each final image; None where there is none.
    """

    group: TrajectoryGroup
    rewards: Float32[np.ndarray, "n k"]
    reward_version: int
    agreement: tuple[float, ...] = ()
    extra: Float32[np.ndarray, " n"] | None = None

    @property
    def identity(self) -> Identity:
        """As its bytes have it."""
        group = self.group
        return Identity(group.ordinal, group.prompt_id, int(group.seeds[0]), group.policy_version, self.reward_version)


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """What the buffer's index knows of a committed group; its bytes stay where Ray put them.

    Attributes:
        ordinal: Position in the prompt stream.
        prompt_id: Row of the prompt table.
        seed: Of its first sample.
        samples: Number of trajectories, n.
        policy_version: Version of the student that made the group.
        reward_version: Version of the discriminator that scored it.
        size_bytes: Of the columns of the group and of its scores.
        reward_mean: Mean logit per level 1..K over the group.
        reward_m2: Sum of squared deviations from `reward_mean` per level 1..K.
        agreement: Per level, share of the pairs that the oracle tells apart which the discriminator orders alike; nan
            if there is no such pair, empty if the oracle is not asked.
        extra: Mean of the user's own reward over the group, and the sum of squared deviations from it; None where there
            is none.
    """

    ordinal: int
    prompt_id: int
    seed: int
    samples: int
    policy_version: int
    reward_version: int
    size_bytes: int
    reward_mean: tuple[float, ...]
    reward_m2: tuple[float, ...]
    agreement: tuple[float, ...] = ()
    extra: tuple[float, float] | None = None

    @property
    def identity(self) -> Identity:
        """As its worker has read it from the group's bytes."""
        return Identity(self.ordinal, self.prompt_id, self.seed, self.policy_version, self.reward_version)


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a worker says of the weights it runs with, computed from the tensors it loaded.

    Attributes:
        worker: Name of the worker, such as `rollout-0`.
        stream: Which weights.
        version: Version the worker believes it runs.
        digest: Digest over the names, shapes, dtypes and bytes in the worker's own network.
    """

    worker: str
    stream: Stream
    version: int
    digest: str


@dataclass(frozen=True, slots=True)
class GpuUse:
    """What a worker's process has of its GPU.

    Attributes:
        memory_bytes: What torch's allocator holds of the GPU's memory for this process.
        utilisation: Share of the last moments, up to a second, in which the GPU computed for whatever process, in
            [0, 1]; None where that is not known.
    """

    memory_bytes: int
    utilisation: float | None


@dataclass(frozen=True, slots=True)
class WorkReport:
    """Timing and weights of one unit of work.

    Attributes:
        worker: Name of the worker.
        seconds: Wall time spent inside the call.
        load: The weights in use, reported when this call loaded them, else None.
        resident_bytes: Resident memory of the worker's process after the work.
        fault: Which values of what was made are not finite; empty if all are.
        gpu: What the process has of its GPU after the work; None: it has none, or the work was not there.
    """

    worker: str
    seconds: float
    load: LoadReport | None
    resident_bytes: int
    fault: str = ""
    gpu: GpuUse | None = None
