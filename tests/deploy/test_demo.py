"""The cluster demo ends what it starts, says what is wrong, and sees what Prometheus has not seen.

All of it plays in tests/integration/test_cluster_demo.py.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from advdmd_ray.errors import DeadlineError, Interrupted
from deploy.demo import place as place_module
from deploy.demo.command import BAD_INPUT, main
from deploy.demo.place import EndedError, Place, place_in
from deploy.demo.prometheus import DEPLOY, Curve, command
from deploy.demo.seen import Seen
from deploy.demo.story import NAME, Events
from deploy.demo.verdict import verdict

STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if not os.fork():
    os.setsid()
open("ready", "a").write("x")
time.sleep(300)
"""
"""Two processes, of which one leaves for a group of its own, as Ray's do, and both stay when they are asked to end."""


def signalled(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def failing() -> None:
    raise DeadlineError("too late")


@pytest.mark.parametrize(
    ("happens", "error"),
    [(signalled(signal.SIGINT), Interrupted), (signalled(signal.SIGTERM), Interrupted), (failing, DeadlineError)],
    ids=["Ctrl-C", "SIGTERM", "error"],
)
def test_all_that_was_started_is_gone_whatever_happens(
    happens: Callable[[], None], error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place_module, "POLITE_S", 0.1)
    monkeypatch.setattr(place_module, "LOOK_S", 0.02)
    before = signal.getsignal(signal.SIGINT)
    places = list[Place]()

    def play() -> None:
        with place_in(tmp_path) as place:
            places.append(place)
            started = place.start("stubborn", [sys.executable, "-c", STUBBORN], tmp_path)
            ready = tmp_path / "ready"
            started.until("both", lambda: (ready.exists() and len(ready.read_text()) == 2) or None, 60)
            assert len(place.living()) == 2
            assert place.living("no such command") == []
            happens()

    with pytest.raises(error):
        play()
    (place,) = places
    assert place.living() == []
    assert not place.ray_folder.exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_step_that_fails_says_its_last_line_and_where_its_log_is(tmp_path: Path) -> None:
    with place_in(tmp_path) as place:
        step = place.start("step", ["sh", "-c", "echo early; echo no room; exit 3"])
        with pytest.raises(EndedError, match=r"^step ended with exit code 3: no room; see /.*step\.log$"):
            step.ended(60)
        with pytest.raises(EndedError, match="no room"):
            step.until("nothing", lambda: None, 60)
        slow = place.start("slow", ["sleep", "60"])
        with pytest.raises(DeadlineError, match=r"waited 0 s for a word; see /.*slow\.log"):
            slow.until("a word", lambda: None, 0)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--out", "."], "exists; name another folder"),
        (["--cycles", "0"], "from 1 to"),
        (["rollout.actor=2"], "rollout.actor"),
        (["--config", "nothing"], "nothing"),
        ([], "apt-get install prometheus"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_started(
    arguments: Sequence[str],
    names: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(arguments) == BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("cluster-demo: error: ")
    assert names in line
    assert list(tmp_path.iterdir()) == []


def test_prometheus_has_the_shipped_files_but_for_how_often_it_asks(tmp_path: Path) -> None:
    command(tmp_path, 1, {"scrape_interval": "1s"})
    shipped, own = (yaml.safe_load((folder / "prometheus.yml").read_text()) for folder in (DEPLOY, tmp_path))
    assert own == shipped | {"global": {"scrape_interval": "1s"}}
    assert (tmp_path / "alerts.yml").read_bytes() == (DEPLOY / "alerts.yml").read_bytes()
    # Prometheus watches a folder that is there at once, and one that comes later only seconds after.
    assert (tmp_path / own["scrape_configs"][0]["file_sd_configs"][0]["files"][0]).parent.is_dir()


EVENTS = Events(submitted=0, asked=20, scaled=30, stopped=40, saved=45, ended=90, cycle=6)


def curves(first: Sequence[tuple[float, float]], second: Sequence[tuple[float, float]]) -> list[Curve]:
    return [Curve({}, list(first)), Curve({}, list(second))]


SEEN = Seen(
    runs=[NAME],
    lives=["127.0.0.1:1", "127.0.0.1:2"],
    reward={1: curves([(15, 0.1)], [(60, 0.2)]), 2: curves([(15, 0.1)], [(60, 0.2)])},
    actors=curves([(5, 0), (15, 1), (35, 2)], [(60, 2)]),
    commits=curves([(15, 4), (19, 8), (31, 16), (39, 24), (44, 26)], [(60, 26), (80, 40)]),
    trained=curves([(15, 8), (19, 16), (44, 48)], [(60, 48), (80, 80)]),
    cycles=curves([(15, 1), (44, 6)], [(60, 6), (80, 10)]),
    outcomes=["stopped", "completed"],
)


def test_a_run_that_was_scaled_stopped_and_resumed_holds_every_line() -> None:
    lines = verdict(SEEN, EVENTS, 8, 2)
    assert [line for line in lines if not line.holds] == []
    told = "\n".join(line.evidence for line in lines)
    assert "1 actor before, 2 after 10 s; 60 groups a minute before, 60 after" in told
    assert (
        "16 trajectories trained when it was scaled, 48 when it was stopped at cycle 6, 80 at the end: 10 cycles of 8"
        in told
    )


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"runs": [NAME, "another"]}, "as one run"),
        ({"lives": ["127.0.0.1:1"]}, "as one run"),
        ({"lives": ["127.0.0.1:1"] * 2}, "as one run"),
        ({"actors": curves([(15, 2), (35, 2)], [])}, "actors came"),
        ({"actors": curves([(15, 1), (35, 1)], [(60, 2)])}, "actors came"),
        ({"outcomes": ["completed"]}, "how it ended"),
        ({"outcomes": ["failed", "completed"]}, "how it ended"),
        ({"trained": curves([(15, 8), (44, 48)], [(80, 88)])}, "counted everything once"),
        ({"trained": curves([(15, 8), (44, 56)], [(80, 80)])}, "counted everything once"),
        ({"trained": curves([(44, 48)], [(80, 80)])}, "counted everything once"),
        ({"trained": curves([(15, 8), (44, 48)], [])}, "counted everything once"),
        ({"cycles": curves([(44, 6)], [])}, "counted everything once"),
        ({"reward": {1: curves([(15, 0.1)], [(60, 0.2)])}}, "curve runs through both"),
        ({"reward": {**SEEN.reward, 2: [Curve({}, [(15, 0.1)])]}}, "curve runs through both"),
    ],
)
def test_what_prometheus_has_not_seen_is_a_no(change: dict[str, object], line: str) -> None:
    (no,) = [each for each in verdict(replace(SEEN, **change), EVENTS, 8, 2) if not each.holds]
    assert line in no.says
