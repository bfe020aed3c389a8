"""Quality at the same learner compute against what the actors made for it."""

from pathlib import Path

from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

from advdmd_ray.comparison.figure import COLOURS, frame, goal, half, reference_line, saved
from advdmd_ray.comparison.results import Results


def draw_actors(results: Results, path: Path) -> Path | None:
    """Draws the last judgement of each rival on the actors' curve: a dot for each seed, their mean and its spread.

    A rival without actors has no place on it.

    Args:
        results: Of the finished jobs.
        path: Where the PNG goes.

    Returns:
        The path; None, and nothing is drawn, if fewer than two rivals on the curve have a result.
    """
    shares = {rival.name: rival.actors_share().mean for rival in results.actors_curve}
    acting = [rival for rival in results.actors_curve if shares[rival.name] > 0]
    rivals = sorted(acting, key=lambda rival: shares[rival.name])
    if len(rivals) < 2:  # noqa: PLR2004 - a curve
        return None
    figure = results.figure(results.headline)
    canvas = Canvas(figsize=(7.5, 4.6), dpi=130, layout="constrained")
    axes = canvas.subplots()
    at = [shares[rival.name] for rival in rivals]
    finals = [rival.final(results.headline) for rival in rivals]
    axes.errorbar(
        at, [final.mean for final in finals], yerr=[half(final) for final in finals],
        color=COLOURS[0], marker="o", ms=7, lw=1.8, capsize=3, zorder=3,
    )  # fmt: skip
    for place, rival, final in zip(at, rivals, finals, strict=True):
        scores = [run["points"][-1]["figures"][results.headline] for run in rival.runs]
        axes.plot([place] * len(scores), scores, color=COLOURS[0], ls="", marker="o", ms=3.5, alpha=0.5, zorder=2)
        axes.annotate(
            rival.name, (place, final.mean), xytext=(8, -12), textcoords="offset points", fontsize=9, color=COLOURS[0]
        )
    text, level = goal(results)
    if level is not None:
        reference_line(axes, level, text, (0, 4), ha="left", fontsize=9)
    axes.set_xscale("log", base=2)
    axes.set_xticks(at)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12)
    axes.set_xlabel("actors' forwards for each forward-equivalent of the learner")
    axes.set_ylabel(f"{figure.label} ({figure.better} is better)")
    if figure.share:
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    frame(axes)
    canvas.suptitle(f"{results.name}: more actors, the same learner compute", x=0.008, ha="left", fontsize=11)
    return saved(canvas, path)
