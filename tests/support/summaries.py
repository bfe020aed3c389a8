"""The summary of a run that went well, and changes of it."""

from typing import Any

from advdmd_ray.evaluation.summary import Summary


def scored(**figures: float) -> dict[str, Any]:
    return {"figures": figures, "images": 1000}


RAW = {
    "run": "demo",
    "seed": 0,
    "cycles": 300,
    "kernel": "renoise",
    "sigmas": (1.0, 0.75, 0.5, 0.25),
    "judge": {
        "headline": "frechet",
        "labels": (
            {"key": "frechet", "label": "Fréchet distance", "better": "lower", "share": False},
            {"key": "accuracy", "label": "accuracy", "better": "higher", "share": True},
        ),
        "teacher": {
            40: scored(frechet=2.1, accuracy=0.985),
            8: scored(frechet=4.4, accuracy=0.98),
            4: scored(frechet=9.7, accuracy=0.972),
            2: scored(frechet=21.5, accuracy=0.91),
        },
        "student": {**scored(frechet=3.9, accuracy=0.981), "steps": 4},
        "real": scored(frechet=1.2, accuracy=0.989),
    },
    "updates": {"dmd": 300, "rl": 212, "fake_score": 1200, "discriminator": 600},
    "discriminator": {
        "auc": {1: 0.61, 2: 0.66, 3: 0.71, 4: 0.83},
        "auc_while_rl": {4: {"mean": 0.85, "min": 0.79}},
    },
    "trajectories": {"trained": 38400, "dropped": {"age": 0, "stale_kl": 3}},
    "weights": {
        "published": {"student": 301, "discriminator": 301},
        "verified": {"student": 590, "discriminator": 301},
        "mismatched": {"student": 0, "discriminator": 0},
        "workers": {"rollout-0": {"student": 300}, "reward-0": {"discriminator": 300}},
    },
    "seconds": {"setup": 21.4, "train": 247.0, "judge": 33.3},
    "roles": {"rollout": {"busy": 180.2, "waiting": 250.0, "blocked": 3.1}},
    "ratio_deviation": 0.0,
    "machine": {"system": "Linux", "cores": 2},
    "versions": {"torch": "2.13.0"},
    "commit": "0123456789abcdef0123456789abcdef01234567-dirty",
}


def summary_with(**changes: Any) -> Summary:
    return Summary.model_validate({**RAW, **changes})
