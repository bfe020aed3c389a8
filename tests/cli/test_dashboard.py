"""`advdmd dashboard`: serves until it is stopped, or writes one file."""

import os
import re
import signal
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from advdmd_ray import cli
from page_runs import write_run


def test_it_says_where_the_page_is_serves_it_and_ends_with_130(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, seen = write_run(tmp_path / "demo", cycles=4).path, list[bytes]()

    def look_and_stop() -> None:
        said = ""
        while "http://" not in said:
            time.sleep(0.01)
            said += capfd.readouterr().out
        (address,) = re.findall(r"http://127\.0\.0\.1:\d+/", said)
        with urllib.request.urlopen(address) as answer:  # noqa: S310 - it begins with http
            seen.append(answer.read())
        os.kill(os.getpid(), signal.SIGINT)

    beside = threading.Thread(target=look_and_stop, daemon=True)
    beside.start()
    assert cli.main(["dashboard", str(folder), "--port", "0"]) == cli.INTERRUPTED
    beside.join()
    assert b"4 of 4" in seen[0]
    assert capfd.readouterr().err == "advdmd: stopped by Ctrl-C\n"


def test_the_page_of_several_runs_is_written_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(write_run(tmp_path / name, cycles=4).path) for name in ("one", "two")]
    before = sorted(path for path in tmp_path.rglob("*"))
    out = tmp_path / "both.html"
    assert cli.main(["dashboard", *runs, "--out", str(out)]) == cli.DONE
    assert capsys.readouterr().out == f"{out}\n"
    assert sorted(path for path in tmp_path.rglob("*") if path != out) == before
    text = out.read_text()
    assert '"runs": ["one", "two"]' in text
    assert 'href="one/comparison.png"' in text
