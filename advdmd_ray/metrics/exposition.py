"""What /metrics says beside the series of the hub: whose they are; and who has read it."""

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from prometheus_client.core import CollectorRegistry, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

INFO = "advdmd_run_info"
"""A series that is always 1: its labels say what the run is."""

SCRAPER = "HTTP_X_PROMETHEUS_SCRAPE_TIMEOUT_SECONDS"
"""Header, as WSGI names it, which Prometheus and the collectors that speak its protocol send with each scrape."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which run it is.

    Attributes:
        run: Its name: the label `run` of every series.
        version: Of the package.
        commit: Of the checkout that it runs from; `unknown` elsewhere.
        config: The first 12 hexadecimal digits of the SHA-256 of its config.yaml.
        model: Where its teacher is (`model.path`).
    """

    run: str
    version: str
    commit: str
    config: str
    model: str


class OfRun:
    """A collector: the series of a registry as those of one run, and `INFO`.

    The label is given here and not where values are recorded, so a recorder need not know its run.

    Args:
        registry: Its series have no label `run`.
        identity: The run's.
    """

    def __init__(self, registry: CollectorRegistry, identity: Identity) -> None:
        self._registry, self._identity = registry, identity

    def collect(self) -> Iterator[Metric]:
        """All of them; each call makes new ones."""
        facts = asdict(self._identity)
        info = GaugeMetricFamily(INFO, "Which run it is; always 1.", labels=[*facts])
        info.add_metric([*facts.values()], 1)
        yield info
        for metric in self._registry.collect():
            samples = metric.samples
            metric.samples = [each._replace(labels={**each.labels, "run": self._identity.run}) for each in samples]
            yield metric

    def registry(self) -> CollectorRegistry:
        """A registry of nothing else; which names there are it asks at each scrape, as gauges come later."""
        registry = CollectorRegistry(support_collectors_without_names=True)
        registry.register(self)
        return registry


class Scrapes:
    """A WSGI application that knows when Prometheus, or what collects like it, has read another one.

    A health check, and a person who looks, have no end of a run to see: nobody waits for them.

    Args:
        app: The other one.
    """

    def __init__(self, app: "WSGIApplication") -> None:
        self._app, self._changed = app, threading.Condition()
        self._begun = self._read = 0  # numbers of the last that began, and of the last that was read to its end

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answers one request."""
        if SCRAPER not in environ:
            return self._app(environ, start_response)
        with self._changed:
            self._begun += 1
            number = self._begun
        return _Body(self._app(environ, start_response), lambda: self._ended(number))

    def await_next(self, most_s: float) -> bool:
        """Waits for a scrape that begins from now on, so long at most; not at all if there has never been one.

        Returns:
            Whether there was one.
        """
        with self._changed:
            before = self._begun
            return self._read > 0 and self._changed.wait_for(lambda: self._read > before, most_s)

    def _ended(self, number: int) -> None:
        with self._changed:
            self._read = max(self._read, number)
            self._changed.notify_all()


class _Body:
    """The answer to a scrape. The server closes it once it is sent."""

    def __init__(self, parts: Iterable[bytes], sent: Callable[[], None]) -> None:
        self._parts, self._sent = parts, sent

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._parts)

    def close(self) -> None:
        """It is sent."""
        self._sent()
