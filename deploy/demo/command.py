"""The command: which run, when something is done to it, where everything goes."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from advdmd_ray.cli.arguments import COUNT, PATH, Parser
from advdmd_ray.config import Config, read_config
from advdmd_ray.errors import DeadlineError, Interrupted, UserError
from advdmd_ray.provenance import made_here
from benchmarks.endurance.storm.table import lines
from benchmarks.new_folder import new_folder
from deploy.demo.cluster import WORKERS, Cluster
from deploy.demo.picture import draw
from deploy.demo.place import EndedError, Place, free_ports, place_in
from deploy.demo.prometheus import Prometheus, command, require_program
from deploy.demo.seen import Seen, seen
from deploy.demo.story import Events, Plan, Story
from deploy.demo.verdict import verdict

DONE, FAILED, BAD_INPUT, SIGNALLED = 0, 1, 2, 128
DESCRIPTION = "Starts a Ray cluster and Prometheus on this machine, and scales, stops and resumes a run on it."
EVERY = {"scrape_interval": "1s", "evaluation_interval": "1s"}
NO_TOKEN, NO_JOB = "0" * 64, "none"
WINDOW_S = 60


def main(argv: Sequence[str] | None = None) -> int:
    """Plays the story, judges what Prometheus saw, and writes curve.png and demo.json.

    Args:
        argv: Arguments after the program's name; `sys.argv[1:]` if None.

    Returns:
        0; 1 if a step failed or a line of the verdict is no; 2 for bad input; 128 and the number of a signal that came.
    """
    try:
        plan, config = _plan(_parser().parse_args(argv))
        require_program()
    except UserError as error:
        sys.stderr.write(f"cluster-demo: error: {error}\n")
        return BAD_INPUT
    plan.folder.mkdir(parents=True)
    try:
        with place_in(plan.folder) as place:
            events, found = _played(place, plan)
    except Interrupted as signalled:
        sys.stderr.write(f"cluster-demo: {signalled}; nothing that it started is left; see {plan.folder}\n")
        return SIGNALLED + signalled.number
    except (DeadlineError, EndedError) as error:
        sys.stderr.write(f"cluster-demo: failed: {error}\n")
        return FAILED
    per_cycle = config.rollout.groups_per_cycle * config.rollout.group_size
    findings = verdict(found, events, per_cycle, len(config.diffusion.sigmas))
    document = made_here() | {"events": asdict(events), "seen": asdict(found), "verdict": [*map(asdict, findings)]}
    (plan.folder / "demo.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    picture = draw(found, events, plan.folder / "curve.png")
    sys.stdout.write(f"{lines(findings)}look at {picture} and {plan.run.report}\n")
    return DONE if all(each.holds for each in findings) else FAILED


def _played(place: Place, plan: Plan) -> tuple[Events, Seen]:
    """Starts everything, and plays.

    Raises:
        DeadlineError: if something does not come in time.
        EndedError: if something ends that should not.
    """
    (port,) = free_ports(1)
    server = Prometheus(f"http://127.0.0.1:{port}")
    looking = place.start("prometheus", command(plan.folder, port, EVERY), plan.folder)
    cluster, began = Cluster(place), time.time()
    cluster.start()
    if cluster.status_of(NO_JOB, NO_TOKEN) is not None:
        raise EndedError(f"the job server at {cluster.server} answers without the token")
    _tell(f"a head and {len(WORKERS)} workers; the job server refuses whoever has not the token")
    looking.until("Prometheus", lambda: server.newest("vector(1)"), 60.0)
    _tell(f"Prometheus at {server.address}")
    story = Story(place, cluster, server, plan, _tell)
    _tell(story.ask_the_doctor())
    events = story.play()
    return events, seen(server, int(time.time() - began) + WINDOW_S)


def _tell(line: str) -> None:
    sys.stderr.write(f"cluster-demo: {line}\n")


def _plan(args: argparse.Namespace) -> tuple[Plan, Config]:
    """Raises UserError for a folder that is there, or settings that are wrong."""
    folder = new_folder(args.out, "cluster")
    config = str(Path(args.config).absolute()) if Path(args.config).is_file() else args.config
    plan = Plan(folder, config, args.overrides, args.cycles, args.more)
    return plan, read_config(config, plan.arguments[2:])


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m deploy.demo", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings of the run")
    parser.add_argument("--config", type=PATH, default="digits", help="a shipped configuration or a file (digits)")
    parser.add_argument(
        "--cycles", type=COUNT, default=15, help="cycles before it is scaled, and again before it is stopped (15)"
    )
    parser.add_argument("--more", type=COUNT, help="cycles after it is resumed (to run.cycles)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="a new folder (runs/bench/cluster-...)")
    return parser
