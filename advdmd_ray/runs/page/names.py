"""The names that a reader reads in place of those in files and series."""

from collections.abc import Sequence

OBJECTIVES = {
    "dmd": "student, distribution matching",
    "rl": "student, reinforcement learning",
    "fake_score": "fake score",
    "discriminator": "discriminator",
}
ROLES = {"rollout": "rollout actors", "reward": "reward workers", "learner": "learner"}
_WORKERS = {"rollout": "rollout actor", "reward": "reward worker", "learner": "learner"}
_DROPPED = {
    "groups_too_old": "groups older than allowed",
    "groups_lost": "groups lost with their node",
    "stale_actions": "actions too far from the policy that acted",
}
_FIGURES = {"frechet": "Fréchet distance"}
_FACTS = {"cpu": "processor", "gpus": "GPUs", "cuda": "CUDA", "memory_gib": "memory, GiB"}


def plain(name: str) -> str:
    """An identifier as words."""
    return name.replace("_", " ")


def figure_name(key: str) -> str:
    """A figure of the judge, where nobody says its label."""
    return _FIGURES.get(key, plain(key))


def dropped_name(key: str) -> str:
    """What became of trajectories that were not learned from."""
    return _DROPPED.get(key, plain(key))


def fact_name(key: str) -> str:
    """A fact of the machine."""
    return _FACTS.get(key, plain(key))


def worker_name(worker: str) -> str:
    """`rollout-0` as `rollout actor 0`."""
    role, _, number = worker.partition("-")
    return f"{_WORKERS.get(role, role)} {number}".strip()


def level_name(level: str, levels: Sequence[str]) -> str:
    """A level; the last is the final image."""
    return f"level {level}, final image" if level == levels[-1] else f"level {level}"


def counted(number: float, one: str, many: str = "") -> str:
    """`1 image`, `1,000 images`."""
    return f"{number:,.0f} {one if number == 1 else many or f'{one}s'}"
