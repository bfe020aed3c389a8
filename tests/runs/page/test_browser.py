"""The page in a browser: no complaint in the console, figures as in the files, and no sideways scrolling on a phone.

One browser is started for all. Without Chromium the test is skipped, but not in CI, which installs it.
"""

import asyncio
import os
import threading
from pathlib import Path

import pytest

from advdmd_ray.runs.page import server as module
from advdmd_ray.runs.page.page import write_page
from advdmd_ray.runs.page.record import read_record
from advdmd_ray.runs.page.server import Served, Server
from browser import CHROMIUM, Tab, browser
from page_runs import line_of, write_lines, write_run

READY = "document.documentElement.dataset.ready"
ALL_CHARTS = (
    "[...document.querySelectorAll('.chart')].map((chart) => [chart.id, chart.querySelectorAll('canvas').length])"
)
REWARD = "document.querySelector('#chart-reward')"
LEGEND = f"[...{REWARD}.querySelectorAll('.legend output')].map((value) => value.textContent)"


def test_the_page_frozen_and_live_in_a_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if CHROMIUM is None:
        assert os.environ.get("CI") != "true", "CI installs chromium"
        pytest.skip("chromium is not installed: apt-get install chromium")
    monkeypatch.setattr(module, "LEAST_S", 0.1)
    run = write_run(tmp_path / "demo")
    frozen = write_page(run.report, [read_record(run.path, "demo")])
    live = write_lines(tmp_path / "live", [line_of(cycle) for cycle in range(1, 6)]).path
    with Server("127.0.0.1", 0, Served([(live, "live"), (run.path, "demo")])) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            asyncio.run(look(frozen.as_uri(), server.page_address, live))
        finally:
            server.shutdown()
            thread.join()


async def look(frozen: str, live: str, folder: Path) -> None:
    async with browser() as tab:
        await look_at_frozen(tab, frozen)
        await look_at_live(tab, live, folder)


async def look_at_frozen(tab: Tab, address: str) -> None:
    await tab.size(1280, 900)
    await tab.open(address)
    assert await tab.ask(READY) == ""
    charts = dict(await tab.ask(ALL_CHARTS))
    assert set(charts.values()) == {1}
    assert {"chart-reward", "chart-auc", "chart-judge-distance", "chart-gates"} <= charts.keys()
    # Without a cursor the last values, with it those of its cycle: metrics.jsonl's, to three digits.
    assert await tab.ask(LEGEND) == [f"{level + 40 / 7:.3g}" for level in (1, 2, 3, 4)]
    await tab.ask(f"{REWARD}.querySelector('.plot').focus()")
    for key in ("Home", "ArrowRight", "ArrowRight"):
        await tab.ask(
            f"document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}', bubbles: true}}))"
        )
    assert await tab.ask(LEGEND) == [f"{level + 3 / 7:.3g}" for level in (1, 2, 3, 4)]
    assert (await tab.ask("document.querySelector('#said').textContent")).startswith("cycle 3: level 1 1.43, ")
    # Zoom is shared, and can be undone.
    await tab.ask("document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: '+', bubbles: true}))")
    assert await tab.ask("board.shown.map(Math.round)") == [0, 13]
    assert await tab.ask("Math.round(board.charts.get('auc').uplot.scales.x.max)") == 13
    await tab.ask("document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: '0', bubbles: true}))")
    assert await tab.ask("board.charts.get('auc').uplot.scales.x.max") == 40
    # The slider through time, and one prompt large.
    await tab.ask("document.querySelector('.time input').value = 0")
    await tab.ask("document.querySelector('.time input').dispatchEvent(new Event('input'))")
    assert await tab.ask("[...document.querySelectorAll('.time figure')].map((figure) => figure.hidden)") == [
        False,
        True,
    ]
    assert await tab.ask("document.querySelector('.time output').textContent") == "cycle 20"
    await tab.ask("document.querySelectorAll('.tiles a')[4].click()")
    shown = (
        "[...document.querySelectorAll('#viewer img')].map((image) => [image.alt, image.width % 8, image.width > 80])"
    )
    assert await tab.ask(shown) == [["teacher, 40 steps: two", 0, True], ["student, 4 steps: two", 0, True]]
    await tab.ask("document.querySelector('#viewer').close()")
    for width in (360, 768):
        await tab.size(width, 800)
        assert await tab.ask("document.documentElement.scrollWidth") <= width
    await tab.colours("dark")
    assert await tab.ask("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    assert [address for address in tab.fetched if not address.startswith(("data:", "file:"))] == []
    assert tab.complaints == []


async def look_at_live(tab: Tab, address: str, folder: Path) -> None:
    await tab.open(address)
    assert await tab.ask("board.facts.last") == 40  # the longer of the two runs
    assert "cycle 5 of 40" in await tab.ask("document.querySelector('#head').textContent")
    write_lines(folder, [line_of(cycle) for cycle in range(1, 8)])
    await tab.ask(
        "new Promise((done) => { const look = () => document.querySelector('#head').textContent"
        ".includes('cycle 7 of 40') ? done() : setTimeout(look, 50); look(); })"
    )
    chips = "[...document.querySelectorAll('#tools .chip')]"
    assert await tab.ask(f"{chips}.map((chip) => chip.textContent)") == ["live", "demo"]
    await tab.ask(f"{chips}[1].click()")
    assert await tab.ask(f"{chips}.map((chip) => chip.getAttribute('aria-pressed'))") == ["true", "false"]
    assert len(await tab.ask(LEGEND)) == 4
    assert tab.complaints == []
