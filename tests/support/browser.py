"""A headless Chromium that opens pages, reads their consoles and asks them questions, by its DevTools protocol."""

import asyncio
import base64
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium")
"""Debian's; None: not installed."""
START_S = 60.0
_OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage")


class Tab:
    """A page in the browser.

    Attributes:
        complaints: Errors and warnings of the console, exceptions, and what could not be loaded.
        fetched: Addresses that the page asked for.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._numbers = socket, count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()
        self.complaints: list[str] = []
        self.fetched: list[str] = []
        self.listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for message in self._socket:
            said = message.json()
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            else:
                self._hear(said["method"], said["params"])

    def _hear(self, method: str, told: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Network.requestWillBeSent":
            self.fetched.append(told["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(told["exceptionDetails"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] in {"error", "warning"}:
            self.complaints.append(told["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and told["type"] in {"error", "warning", "assert"}:
            self.complaints.append(str(told["args"]))

    async def call(self, method: str, **given: Any) -> dict[str, Any]:
        """Calls a method of the protocol."""
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": given})
        said = await asyncio.wait_for(self._answers[number], START_S)
        if "error" in said:
            raise RuntimeError(f"{method}: {said['error']}")
        return said["result"]

    async def open(self, address: str) -> None:
        """Opens an address, and waits until it is loaded."""
        self._loaded.clear()
        await self.call("Page.navigate", url=address)
        await asyncio.wait_for(self._loaded.wait(), START_S)

    async def ask(self, script: str) -> Any:
        """The value of an expression, once it is settled."""
        said = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in said:
            raise RuntimeError(f"{script}: {said['exceptionDetails']}")
        return said["result"].get("value")

    async def size(self, width: int, height: int, scale: float = 1) -> None:
        """Makes it as large as a screen, and waits until the page has drawn itself anew."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )
        await self.ask("new Promise((done) => setTimeout(done, 400))")

    async def colours(self, scheme: str) -> None:
        """Light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", features=features)

    async def picture(self) -> bytes:
        """What is seen, as a PNG."""
        return base64.b64decode((await self.call("Page.captureScreenshot"))["data"])


def _number_in(port: Path) -> str:
    """The port that a browser has written to a file."""
    latest = time.monotonic() + START_S
    while not (port.is_file() and "\n" in port.read_text()):
        if time.monotonic() > latest:
            raise TimeoutError(f"no browser after {START_S:g} s")
        time.sleep(0.05)
    return port.read_text().split("\n")[0]


@asynccontextmanager
async def browser() -> AsyncIterator[Tab]:
    """A browser with one page."""
    if CHROMIUM is None:
        raise FileNotFoundError("chromium is not installed")
    with TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as profile:
        port = Path(profile) / "DevToolsActivePort"
        process = await asyncio.create_subprocess_exec(
            *(CHROMIUM, *_OPTIONS, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            number = await asyncio.wait_for(asyncio.to_thread(_number_in, port), START_S)
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{number}/json") as answer:
                    pages = [page for page in await answer.json() if page["type"] == "page"]
                async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=2**28) as socket:
                    tab = Tab(socket)
                    for domain in ("Page", "Runtime", "Log", "Network"):
                        await tab.call(f"{domain}.enable")
                    yield tab
                    tab.listening.cancel()
        finally:
            process.terminate()
            await process.wait()
