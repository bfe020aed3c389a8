"""The `advdmd` command.

Thin: it reads arguments and calls one function. Whatever is slow to import is imported by the command that needs it,
so `--help` and bad input answer at once, without torch or ray. Exit codes: 0 done, 1 failed or not ready, 2 bad input
(one line on stderr), 130 stopped by Ctrl-C.
"""

import argparse
import json
import logging
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from advdmd_ray import __version__, errors
from advdmd_ray.arguments import Parser
from advdmd_ray.config import Config, dump_config, read_config

if TYPE_CHECKING:
    from rich.table import Table

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

_FAILURES = (
    errors.WeightsMismatchError,
    errors.RatioError,
    errors.DeadlineError,
    errors.WorkerLostError,
    errors.CheckpointError,
)

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments after the program's name; `sys.argv[1:]` if None.

    Returns:
        The exit code.
    """
    try:
        args = parse_arguments(sys.argv[1:] if argv is None else argv)
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
        if args.verbose:
            logging.getLogger("advdmd_ray").setLevel(logging.DEBUG)
        return cast("Command", args.function)(args)
    except errors.UserError as error:
        return _end(f"error: {error}", BAD_INPUT)
    except _FAILURES as error:
        logging.getLogger(__name__).debug("the failure in full", exc_info=True)
        return _end(f"failed: {error}", FAILED)
    except KeyboardInterrupt:
        return _end("stopped by Ctrl-C; a run goes on from its last checkpoint with --resume auto", INTERRUPTED)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments; `section.key=value` overrides may stand before, between and after the options.

    Raises:
        UserError: for an unknown command or option, or a missing or malformed value.
    """
    args, extras = _build_parser().parse_known_args(argv)
    if args.command is None:
        raise errors.UserError(
            "no command given: run, pretrain, sample, evaluate, export, compare or doctor; see advdmd --help"
        )
    for extra in extras:
        if extra.startswith("-") and "=" in extra and "." in extra:
            raise errors.UserError(f"unknown option {extra}; overrides have no dashes: {extra.lstrip('-')}")
        if extra.startswith("-") or "overrides" not in args:
            raise errors.UserError(f"unexpected argument {extra}; see advdmd {args.command} --help")
        args.overrides.append(extra)
    return args


def _end(line: str, code: int) -> int:
    sys.stderr.write(f"advdmd: {' '.join(line.split())}\n")
    return code


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return value


def _build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="advdmd",
        description="Distils a diffusion model into a few-step student with AdvDMD, on Ray and DeepSpeed.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"advdmd {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")

    def add(name: str, function: Command, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.set_defaults(function=function)
        command.add_argument("-v", "--verbose", action="store_true", help="log details, and the whole of a failure")
        return command

    run = add("run", _run, "Train a student: start a local Ray or join a cluster, and run the main job.")
    _add_config(run)
    run.add_argument("--dry-run", action="store_true", help="show configuration, placement and memory; start nothing")
    run.add_argument("--resume", metavar="auto|PATH", help="go on from the run's last checkpoint, or from one at PATH")
    run.add_argument("--fresh", action="store_true", help="move an earlier run of this name aside, to NAME.1")

    _add_config(add("pretrain", _pretrain, "Train the small teacher of data.source and write its pipeline folder."))

    sample = add("sample", _sample, "Draw images from a teacher's or a student's pipeline folder into a PNG grid.")
    sample.add_argument("--pipeline", required=True, metavar="FOLDER", help="diffusers folder, or builtin:NAME")
    sample.add_argument("--prompt", required=True, action="append", metavar="TEXT", help="give it again for more rows")
    sample.add_argument("--steps", type=_positive, help="network calls per image (default: the folder's levels, or 4)")
    sample.add_argument("--guidance", type=float, help="guidance scale (default: the folder's, or 1 for none)")
    sample.add_argument("--images", type=_positive, default=8, help="images per prompt (default 8)")
    sample.add_argument("--seed", type=int, default=0, help="seed of the noise (default 0)")
    place = sample.add_mutually_exclusive_group(required=True)
    place.add_argument("--out", metavar="PNG", help="where the grid goes")
    place.add_argument(
        "--grid", dest="out", nargs="?", const="grid.png", metavar="PNG", help="the same; here, grid.png"
    )

    _add_evaluate(add("evaluate", _evaluate, "Judge a teacher and a student, or draw and collect a benchmark."))

    export = add("export", _export, "Write the student of a run's newest checkpoint as a diffusers folder.")
    _add_config(export)
    export.add_argument("--adapter", action="store_true", help="its adapters alone, for load_lora_weights")
    export.add_argument("--out", required=True, metavar="FOLDER", help="where it goes; must not exist")

    _add_compare(add("compare", _compare, "Train rivals at equal learner compute, and write their table and figure."))

    doctor = add("doctor", _doctor, "Check this machine, its packages and its Ray, and say what to change.")
    _add_config(doctor, required=False)
    return parser


def _add_config(command: argparse.ArgumentParser, *, required: bool = True) -> None:
    command.add_argument("--config", required=required, metavar="PATH", help="YAML file, such as configs/digits.yaml")
    command.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="settings that override the file's, in order"
    )


def _add_evaluate(command: argparse.ArgumentParser) -> None:
    _add_config(command, required=False)
    judge = command.add_argument_group("judge", "the teacher at 40, 8, 4 and 2 steps, and a student; needs --config")
    judge.add_argument("--student", metavar="FOLDER", help="pipeline folder of a student")
    command.add_argument(
        "--out",
        metavar="PATH",
        help="where the table, or the benchmark's images go (judge: judge.json in the run folder)",
    )
    suite = command.add_argument_group("benchmark", "images as the official scorer reads them; what is there stays")
    suite.add_argument("--suite", choices=["geneval", "dpg"], help="GenEval or DPG-Bench")
    suite.add_argument("--metadata", metavar="JSONL", help="geneval: evaluation_metadata.jsonl")
    suite.add_argument("--prompts", metavar="DIR", help="dpg: folder of NAME.txt prompts")
    suite.add_argument("--pipeline", metavar="FOLDER", help="diffusers folder of a teacher or student, or builtin:NAME")
    suite.add_argument("--steps", type=_positive, help="uniform levels (default: the folder's, or 40)")
    suite.add_argument("--guidance", type=float, help="guidance scale (default: the folder's, or 1 for none)")
    suite.add_argument("--images", type=_positive, default=4, help="geneval: images per prompt (default 4)")
    suite.add_argument("--size", type=_positive, nargs=2, metavar=("H", "W"), help="pixels (default: the folder's)")
    suite.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="of the networks")
    suite.add_argument("--seed", type=int, default=0, help="names the seed of every image (default 0)")
    suite.add_argument("--actors", type=_positive, default=1, help="Ray actors that draw (default 1)")
    suite.add_argument("--gpus-each", type=float, default=0.0, help="GPUs of each actor (default 0)")
    command.add_argument(
        "--collect", nargs="+", metavar="RESULTS", help="tabulate what official scorers wrote, side by side"
    )


def _add_compare(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", metavar="FILE", help="YAML file, such as configs/compare/shapes.yaml")
    command.add_argument("--quick", action="store_true", help="rehearse with the file's quick values, in minutes")
    command.add_argument("--jobs", type=_positive, metavar="N", help="jobs at a time (default: one a core)")
    command.add_argument("--only", action="append", default=[], metavar="RIVAL", help="give it again for more rivals")
    command.add_argument("--name", metavar="NAME", help="folder in runs/compare in place of the file's name")


def _run(args: argparse.Namespace) -> int:
    from advdmd_ray import estimate, preflight  # noqa: PLC0415

    config = read_config(args.config, args.overrides)
    start = preflight.check(config, args.resume, fresh=args.fresh)
    if args.dry_run:
        sys.stdout.write(dump_config(config) + "\n" + estimate.plan_text(config) + "\n" + start.note + "\n")
        return DONE
    sys.stderr.write(start.note + "\n")
    with preflight.claim(start):
        _encode_files(config)
        if estimate.ray_address(config) is not None:
            # Clusters that Ray 2.60 starts ask for a token; Ray reads this when it is imported.
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        from advdmd_ray.runtime.launch import run_on_ray  # noqa: PLC0415

        return run_on_ray(config, resume=start.checkpoint)


def _export(args: argparse.Namespace) -> int:
    from advdmd_ray import preflight  # noqa: PLC0415

    config, out = read_config(args.config, args.overrides), Path(args.out)
    preflight.check_model(config)
    preflight.check_writable(out.parent)
    from advdmd_ray.export import export_adapter, export_ema  # noqa: PLC0415

    written = export_adapter(config, out) if args.adapter else export_ema(config, out)
    sys.stdout.write(f"{written}\n")
    return DONE


def _suite(args: argparse.Namespace) -> int:
    wanted = {"geneval": "metadata", "dpg": "prompts"}[args.suite]
    for name in (wanted, "pipeline", "out"):
        if getattr(args, name) is None:
            raise errors.UserError(f"--suite {args.suite} needs --{name}")
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn  # noqa: PLC0415

    from advdmd_ray.evaluation.suites.layout import DpgBench, GenEval  # noqa: PLC0415
    from advdmd_ray.runtime.suite import SuiteSettings, draw_suite  # noqa: PLC0415

    suite = GenEval(Path(args.metadata), args.images) if args.suite == "geneval" else DpgBench(Path(args.prompts))
    height, width = args.size or (None, None)
    if args.suite == "dpg" and height != width:
        raise errors.UserError(f"--size {height}x{width}: DPG-Bench's scorer cuts squares out of a grid; give a square")
    settings = SuiteSettings(args.pipeline, args.steps, args.guidance, height, width, args.precision, args.seed)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task(f"prompts of {suite.name}")
        drawn = draw_suite(
            suite,
            Path(args.out),
            settings,
            actors=args.actors,
            gpus_each=args.gpus_each,
            progress=lambda done, of: bar.update(task, completed=done, total=of),
        )
    sys.stdout.write(f"{args.out}: {len(suite.prompts)} prompts, {drawn} of them drawn now\n")
    return DONE


def _collect(args: argparse.Namespace) -> int:
    from advdmd_ray.evaluation.suites.collect import collect, table  # noqa: PLC0415

    results = {file: collect(Path(file)) for file in args.collect}
    text = table(results)
    if args.out is not None:
        Path(args.out).write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return DONE


def _encode_files(config: Config) -> None:
    """Encodes the images of data.source=files that are not encoded yet, where everybody can see how far it is."""
    if config.data.source != "files":
        return
    from rich.console import Console  # noqa: PLC0415

    from advdmd_ray.data.files.dataset import files_data  # noqa: PLC0415
    from advdmd_ray.evaluation.judges.thumbnails import check_count  # noqa: PLC0415

    with Console(stderr=True).status("looking for images") as status:
        latents = files_data(config, lambda done, of: status.update(f"encoding images: {done} of {of} shards"))
    check_count(len(latents))
    sys.stderr.write(f"{len(latents)} real images with {len(set(latents.captions))} captions\n")


def _sample(args: argparse.Namespace) -> int:
    from advdmd_ray.evaluation.sample import sample_grid  # noqa: PLC0415

    path = sample_grid(
        args.pipeline,
        args.prompt,
        steps=args.steps,
        guidance=args.guidance,
        images=args.images,
        seed=args.seed,
        out=Path(args.out),
    )
    sys.stdout.write(f"{path}\n")
    return DONE


def _doctor(args: argparse.Namespace) -> int:
    from advdmd_ray import doctor  # noqa: PLC0415

    if args.overrides and args.config is None:
        raise errors.UserError(f"{args.overrides[0]} overrides a file; give one by --config")
    config = Config() if args.config is None else read_config(args.config, args.overrides)
    findings = doctor.examine(config)
    sys.stdout.write(doctor.verdict_text(findings) + "\n")
    return FAILED if any(finding.state == "change" for finding in findings) else DONE


def _evaluate(args: argparse.Namespace) -> int:
    from advdmd_ray import preflight  # noqa: PLC0415
    from advdmd_ray.models.folder import inspect_pipeline  # noqa: PLC0415

    if args.collect is not None:
        return _collect(args)
    if args.suite is not None:
        return _suite(args)
    if args.config is None:
        raise errors.UserError(
            "evaluate needs --config to judge, --suite to draw a benchmark, or --collect for a table"
        )
    config = read_config(args.config, args.overrides)
    out = Path(args.out) if args.out else config.folder / "judge.json"
    preflight.check_model(config)
    preflight.check_writable(out.parent)
    if args.student is not None:
        preflight.check_max_sequence_length(config, inspect_pipeline(args.student))

    from rich.console import Console  # noqa: PLC0415

    from advdmd_ray.runs.verdict import judge_run  # noqa: PLC0415

    console = Console(stderr=True)
    with console.status("judging") as status:
        verdict = judge_run(config, None if args.student is None else Path(args.student), status.update)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(verdict, indent=2) + "\n", encoding="utf-8")
    Console().print(judge_table(verdict))
    sys.stdout.write(f"{out}\n")
    return DONE


def _compare(args: argparse.Namespace) -> int:
    from advdmd_ray.comparison import compare  # noqa: PLC0415

    prepared = compare.prepare(args.file, quick=args.quick, name=args.name, only=args.only)
    name = [] if args.name is None else ["--name", args.name]
    command = ["advdmd", "compare", args.file, *(["--quick"] if args.quick else []), *name]
    try:
        failed = compare.run_comparison(prepared, at_once=args.jobs, command=command)
    except KeyboardInterrupt:
        return _end("stopped; the same command goes on where the jobs stopped", INTERRUPTED)
    if failed:
        return _end(f"failed: {failed} of {len(prepared.wanted)} jobs; the same command tries them again", FAILED)
    sys.stdout.write((prepared.folder / compare.TABLE).read_text(encoding="utf-8") + f"{prepared.folder}\n")
    return DONE


def judge_table(verdict: Mapping[str, Any]) -> "Table":
    """The judge's verdict as a table.

    Args:
        verdict: What `judge_run` returns: `{"labels": [figure], "teacher": {steps: score}, "student": score with steps,
            "real": score}`, a score being `{"figures": {key: value}}`; the student may be absent.
    """
    from rich.table import Table  # noqa: PLC0415

    labels = verdict["labels"]
    table = Table("sampler", "steps", *(label["label"] for label in labels))
    rows = [("teacher", str(steps), score) for steps, score in verdict["teacher"].items()]
    if verdict.get("student") is not None:
        rows.append(("student", str(verdict["student"]["steps"]), verdict["student"]))
    rows.append(("real, held out", "", verdict["real"]))
    for name, steps, score in rows:
        figures = (f"{score['figures'][label['key']]:.3f}" for label in labels)
        table.add_row(name, steps, *figures)
    return table


def _pretrain(args: argparse.Namespace) -> int:
    from advdmd_ray import preflight  # noqa: PLC0415

    config = read_config(args.config, args.overrides)
    folder = Path(config.pretrain.folder)
    preflight.check_writable(folder)
    if folder.exists():
        raise errors.UserError(f"{folder} exists; move it away or set another pretrain.folder")

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    from advdmd_ray.pretrain.teacher import pretrain_teacher  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("training the teacher", total=config.pretrain.steps)

        def progress(step: int, loss: float) -> None:
            bar.update(task, completed=step, description=f"training the teacher, loss {loss:.4f}")

        command = shlex.join(["advdmd", "pretrain", "--config", args.config, *args.overrides])
        card = pretrain_teacher(config, command=command, progress=progress)
    sys.stdout.write(json.dumps(card, indent=2) + f"\n{folder}\n")
    return DONE
