"""What the model card of an export says of its run: how it was made, of what data, and what its judge said."""

from pathlib import Path

from pydantic import ValidationError
from yaml import YAMLError

from advdmd_ray.config import Config
from advdmd_ray.evaluation.summary import JudgeSummary, Score, Summary
from advdmd_ray.files import write_atomically
from advdmd_ray.models.location import hub_name, resolve_model_path
from advdmd_ray.models.model_card import NOT_JUDGED, README, About, table, with_figures
from advdmd_ray.runs.folder import RunFolder

LICENCES = {
    "digits": "CC BY 4.0 (Optical Recognition of Handwritten Digits, UCI)",
    "shapes": "none needed: drawn by the program",
}
"""Of the sources that ship with the package."""
LICENCE_KEYS = ("license", "license_name", "license_link")
"""Of a card on the hub; its own spelling."""


def about(config: Config, cycles: int, *, merged: bool = True) -> About:
    """What the card of a run's student says.

    Args:
        config: The run's.
        cycles: Learner cycles that the student has had.
        merged: Whether its adapters, if it has any, are merged into its weights.
    """
    judged = _summary(config)
    figures = None if judged is None or judged.cycles != cycles else judged.judge
    return About(
        title=config.run.name,
        recipe=_recipe(config, cycles, merged=merged),
        data=_data(config),
        base=hub_name(config.model.path),
        licence=_licence(resolve_model_path(config.model.path)),
        figures=NOT_JUDGED if figures is None else figures_text(figures),
    )


def figures_text(judge: JudgeSummary) -> str:
    """The last section of a card: every figure of student, teacher and real images."""
    scores: dict[str, Score] = {f"student, {judge.student.steps} steps": judge.student}
    scores |= {f"teacher, {steps} steps": judge.teacher[steps] for steps in sorted(judge.teacher, reverse=True)}
    scores |= {"real images": judge.real}
    head = ["", *(f"{label.label} ({label.better} is better)" for label in judge.labels), "images"]
    rows = [
        [name, *(f"{score.figures[label.key]:.3f}" for label in judge.labels), str(score.images)]
        for name, score in scores.items()
    ]
    return f"By the judge of the run, of the EMA that is exported:\n\n{table([head, *rows])}"


def tell_figures(student: Path, judge: JudgeSummary) -> None:
    """Writes a verdict into the card of a student that was exported before it."""
    card = student / README
    if card.is_file():
        write_atomically(card, with_figures(card.read_text(encoding="utf-8"), figures_text(judge)).encode())


def _recipe(config: Config, cycles: int, *, merged: bool) -> dict[str, str]:
    lora, reads = config.lora, "merged" if merged else "alone"
    precision, kind = config.model.precision, config.model.quantization
    extra, weight = config.reward.extra, config.reward.extra_weight
    sizes = ", ".join(f"{height} x {width}" for height, width in config.data.buckets)
    return {
        "teacher": config.model.path,
        "teacher guidance": f"{config.model.guidance:g}",
        **({} if config.model.negative_prompt is None else {"negative prompt": config.model.negative_prompt}),
        "student steps": str(config.steps),
        **({"adapters": f"rank {lora.rank} on {', '.join(lora.targets)}, {reads}"} if lora.rank else {}),
        **({} if extra is None else {"reward beside AdvDMD's": f"{extra}, weight {weight:g}"}),
        **({"sizes, height x width": sizes} if sizes else {}),
        "precision of training": precision if kind is None else f"{precision}, the base in {kind}",
        "learner cycles": str(cycles),
        "trajectories of a cycle": str(config.rollout.groups_per_cycle * config.rollout.group_size),
        "learning rates": f"DMD {config.dmd.learning_rate:g}, RL {config.policy_gradient.learning_rate:g}",
        "run": config.run.name,
        "seed": str(config.run.seed),
    }


def _data(config: Config) -> dict[str, str]:
    data = config.data
    said = data.licence or LICENCES.get(data.source)
    return {
        "images and captions": data.source if data.path is None else f"{data.source}: {data.path}",
        **({} if data.prompts is None else {"prompts": data.prompts}),
        "licence": said or "not said (`data.licence` says it)",
    }


def _licence(folder: Path) -> dict[str, str]:
    """What the teacher's own card says of its licence, by the hub's keys; nothing where none can be read."""
    from huggingface_hub import ModelCard  # noqa: PLC0415 - takes a moment

    file = folder / README
    if not file.is_file():
        return {}
    try:
        facts = ModelCard(file.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict()
    except (ValueError, YAMLError):
        return {}
    return {key: str(facts[key]) for key in LICENCE_KEYS if facts.get(key)}


def _summary(config: Config) -> Summary | None:
    """What the run's judge said; None where it has not, or where another version of the program wrote it."""
    file = RunFolder(config.folder).summary
    try:
        return Summary.model_validate_json(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValidationError):
        return None
