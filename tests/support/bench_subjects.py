"""Models of the benchmark for GPUs, ready to be measured on the CPU."""

from pathlib import Path

import torch

from benchmarks.models import FULL, TINY
from benchmarks.parts import Settings, Subject

CPU = torch.device("cpu")
QUICK = Settings(CPU, engine="torch", warm_up=1, repeats=1)
MODELS = {model.name: model for model in (*TINY, *FULL)}
TINY_NAMES = [model.name for model in TINY]
FULL_NAMES = [model.name for model in FULL]


def subject_of(name: str, folder: Path, settings: Settings = QUICK) -> Subject:
    """A model by its name; its headers go into a new folder there."""
    return Subject.of(MODELS[name], settings, folder / name)
