"""The file of a comparison: rivals, seeds and the learner compute that each may spend. Read by `advdmd compare`."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from advdmd_ray.config.base import Section
from advdmd_ray.config.layers import Layer, layer_of, resolve, section_of
from advdmd_ray.config.reading import base_of, read_layers, read_tree
from advdmd_ray.config.shipped import locate
from advdmd_ray.config.texts import PathText
from advdmd_ray.config.whole import Config
from advdmd_ray.errors import UserError

Name = Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1)]
Budget = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Samples = Annotated[int, Field(ge=20, le=10**6)]
Points = Annotated[int, Field(ge=1, le=10_000)]
Steps = Annotated[int, Field(ge=1, le=1000)]

TEACHER = "teacher"
"""Folder of the teacher's figures beside those of the rivals; no rival can have this name."""


class Rival(Section):
    """One way to train the student."""

    name: Name = Field(description="Folder of its results, and its name in files.")
    label: str | None = Field(
        default=None, min_length=1, description="Its name in tables and figures; default: the name."
    )
    trainer: str = Field(
        default="advdmd", min_length=1, description="Its learner: a name that ships, or package.module:Class."
    )
    settings: dict[str, Any] = Field(default={}, description="The trainer's own settings.")
    overrides: dict[str, Any] = Field(default={}, description="section.key: value over the base file's settings.")
    share: Share = Field(default=1.0, description="Share of the budget at which its jobs end.")
    start: Name | None = Field(
        default=None,
        description="The rival above it whose end it begins with, seed by seed; what that spent counts.",
    )

    @property
    def title(self) -> str:
        """Its name for a reader."""
        return self.name if self.label is None else self.label


class Quick(Section):
    """What `--quick` puts in place of the file's values: a rehearsal of minutes whose figures mean little."""

    seeds: Seeds | None = Field(default=None, description="Seeds.")
    budget: Budget | None = Field(default=None, description="Learner forward-equivalents.")
    points: Points | None = Field(default=None, description="Judgements along the budget.")
    judge_samples: Samples | None = Field(default=None, description="Images per judgement.")
    overrides: dict[str, Any] = Field(default={}, description="section.key: value over every rival's settings.")


class Comparison(Section):
    """Rivals x seeds at equal learner compute."""

    name: Name = Field(description="Folder of the results.")
    base: PathText = Field(
        min_length=1,
        description="Configuration that all rivals start from: a path relative to this file, or a name that ships.",
    )
    seeds: Seeds = Field(default=(0, 1, 2), description="Each rival is trained once with each.")
    budget: Budget = Field(description="Learner forward-equivalents; a job ends in the cycle that spends its share.")
    points: Points = Field(
        default=8, description="Judgements of the student's EMA, evenly over what a job spends itself."
    )
    judge_samples: Samples = Field(default=720, description="Images per judgement, of the teacher too.")
    teacher_steps: tuple[Steps, ...] = Field(
        default=(40, 8, 4, 2), min_length=1, description="Steps at which the teacher is judged; the first is the goal."
    )
    overrides: dict[str, Any] = Field(default={}, description="section.key: value over the base, for every rival.")
    rivals: tuple[Rival, ...] = Field(min_length=1, description="What is compared, in the order of the table.")
    headline: str | None = Field(
        default=None, description="Figure of the judge that figures are drawn of; default: the judge's own choice."
    )
    actors_curve: tuple[Name, ...] = Field(
        default=(), description="Rivals of few and many actors; actors.png has their scores against what these made."
    )
    quick: Quick = Field(default=Quick(), description="Values of `--quick`.")

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        names = [rival.name for rival in self.rivals]
        twice = [name for name in names if names.count(name) > 1]
        if twice or TEACHER in names:
            which = f"{twice[0]} stands there twice" if twice else f"{TEACHER} is the teacher's own name"
            raise ValueError(f"rivals need names of their own: {which}; rename one")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ, got {list(self.seeds)}")
        return self

    @model_validator(mode="after")
    def _starts_are_there(self) -> Self:
        above = dict[str, Rival]()
        for rival in self.rivals:
            if rival.start is not None:
                if rival.start not in above:
                    names = ", ".join(above) or "none"
                    raise ValueError(
                        f"rival {rival.name} starts from {rival.start}, which is none of those above it; there: {names}"
                    )
                if (before := above[rival.start]).share >= rival.share:
                    raise ValueError(
                        f"rival {rival.name} ends at {rival.share:g} of the budget, and {before.name}, from which it "
                        f"starts, at {before.share:g}; give {before.name} a smaller share"
                    )
                if before.trainer != rival.trainer:
                    raise ValueError(
                        f"rival {rival.name} has trainer {rival.trainer}, and {before.name}, from which it starts, "
                        f"{before.trainer}; one cannot go on from the other's state"
                    )
            above[rival.name] = rival
        return self

    @model_validator(mode="after")
    def _curve_is_of_rivals(self) -> Self:
        names = [rival.name for rival in self.rivals]
        if strange := [name for name in self.actors_curve if name not in names]:
            raise ValueError(f"actors_curve names {strange[0]}, which is no rival; there: {', '.join(names)}")
        if len(set(self.actors_curve)) == 1:
            raise ValueError(f"actors_curve has {self.actors_curve[0]} alone; name a second rival, or none")
        shares = {rival.name: rival.share for rival in self.rivals if rival.name in self.actors_curve}
        if len(set(shares.values())) > 1:
            raise ValueError(f"actors_curve is of one learner compute, got shares {shares}; give them one")
        return self

    def rehearsal(self) -> Self:
        """The comparison that `--quick` runs, under a name of its own."""
        given = {name: value for name, value in self.quick if name != "overrides" and value is not None}
        return self.model_copy(update={"name": f"{self.name}-quick", **given})


def read_comparison(path: str | Path, *, quick: bool = False) -> Comparison:
    """Reads a comparison's YAML file.

    Args:
        path: The file, or the name of one that ships; its `base` comes back as a path from here.
        quick: Whether the values under `quick` take the place of the file's.

    Raises:
        UserError: as `read_config`, one line each.
    """
    path = locate(path, "compare")
    tree = read_tree(path, "compare")
    if "rivals" not in tree and (sections := [key for key in tree if section_of(Config, key) is not None]):
        raise UserError(
            f"{path}: has {sections[0]}, as the configuration of a run, and no rivals; give a comparison's file, such "
            "as `advdmd configs compare/digits` prints"
        )
    comparison = resolve(Comparison, [Layer(str(path), tree)])
    comparison = comparison.model_copy(update={"base": str(base_of(path, comparison.base))})
    if quick:
        return comparison.rehearsal()
    return comparison.model_copy(update={"quick": Quick()})


def rival_config(comparison: Comparison, rival: Rival, seed: int, output: Path) -> Config:
    """The configuration of one job: base, then the comparison's overrides, those of `--quick`, and the rival's.

    A job is one process with one learner rank, so `learner.engine` is torch; DeepSpeed makes the same updates.

    Args:
        comparison: Names the base and the overrides.
        rival: One of its rivals.
        seed: Becomes `run.seed`.
        output: Folder of the comparison; the job's folder is `output/RIVAL/seed-SEED`.

    Raises:
        UserError: for an override that is no setting, or settings that contradict each other.
    """
    fixed = {
        "run.seed": seed,
        "run.output": str(output / rival.name),
        "run.name": f"seed-{seed}",
        "learner.engine": "torch",
        "learner.ranks": 1,
    }
    layers = (
        layer_of(f"{comparison.name}: overrides", comparison.overrides),
        layer_of(f"{comparison.name}: quick.overrides", comparison.quick.overrides),
        layer_of(f"{comparison.name}: rival {rival.name}", rival.overrides),
        layer_of(comparison.name, fixed),
    )
    return resolve(Config, [*read_layers(Path(comparison.base)), *layers])
