"""The hub: checks samples against the catalogue, serves them to Prometheus and appends them to metrics.jsonl.

One line of metrics.jsonl is one call of `record`, until the file is thinned (`history.py`):

    {"time": 1767225600.0, "cycle": 12, "record": 57, "values": {"advdmd_reward_mean{level=1}": 0.31, ...}}

A gauge stands with its value (null where it is not finite), a counter with its total, a histogram with the list of
this call's observations. Totals go on where the file ends, which `cut_back` makes the checkpoint
that a run goes on from.

A hub in the place of one that ended is told where the figures stand (`ledger.py`): counters and gauges are on its
/metrics at once, and histograms begin at 0 again, which to Prometheus is a restarted process.
"""

import difflib
import logging
import math
import re
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app, start_http_server

from advdmd_ray.errors import UserError
from advdmd_ray.metrics.catalogue import CATALOGUE, Kind, closed_label_sets, finished_sample
from advdmd_ray.metrics.exposition import Identity, OfRun, Scrapes
from advdmd_ray.metrics.history import HISTORY_BYTES, History, Standing, standing_of
from advdmd_ray.metrics.series import Sample, parse_key

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

_log = logging.getLogger(__name__)
_WORD = re.compile(r"[A-Za-z0-9_.:-]+")


def check_port_free(host: str, port: int) -> None:
    """Makes sure /metrics can listen there; to be called before anything is started.

    Raises:
        UserError: if the port is occupied or the host is not an address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # The server sets it too: without it a port that closed a moment ago would look occupied.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except (socket.gaierror, UnicodeError):  # the second of a name that no name server takes
        raise UserError(
            f"metrics.host={host:.100} is not a known address; use 127.0.0.1 (this machine) or 0.0.0.0 (every "
            "interface)"
        ) from None
    except OSError as error:
        raise UserError(
            f"/metrics cannot listen on {host}:{port}: {(error.strerror or str(error)).lower()}; "
            "set metrics.port=0 for a free port, or choose another metrics.port or metrics.host"
        ) from None


class MetricsHub:
    """All series of one run.

    Args:
        jsonl: Path of metrics.jsonl, appended to; None writes no file. Its folder must exist.
        registry: The Prometheus registry; a new one of its own unless given.
        most_bytes: Bound of metrics.jsonl, see `History`.
        standing: Where the figures stand; None: where the file ends.
        identity: Of the run, which `serve` tells with every series; None: it tells no run.

    Attributes:
        registry: All series, without the run's label. Counters are there from the start, gauges once they have a value.
    """

    def __init__(
        self,
        jsonl: Path | None = None,
        registry: CollectorRegistry | None = None,
        most_bytes: int = HISTORY_BYTES,
        standing: Standing | None = None,
        identity: Identity | None = None,
    ) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self._lock = threading.Lock()
        self._collectors: dict[str, Counter | Gauge | Histogram] = {}
        self._set: set[str] = set()  # gauges that have a value
        self._totals: dict[str, float] = {}
        self._cycle = self._number = 0
        self._exposed = self.registry if identity is None else OfRun(self.registry, identity).registry()
        self._server: WSGIServer | None = None
        self._scrapes: Scrapes | None = None
        self._thread: threading.Thread | None = None
        for name in CATALOGUE:
            self._make(name)
        self._history = None if jsonl is None else History(jsonl, most_bytes)
        if standing is None and jsonl is not None:
            standing = standing_of(jsonl)
        if standing is not None:
            self._go_on_from(standing)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def cycle(self) -> int:
        """Of the last record."""
        return self._cycle

    def record(self, samples: Sequence[Sample], cycle: int | None = None, number: int | None = None) -> None:
        """Takes the samples over into /metrics and appends one line to metrics.jsonl, all or nothing.

        Args:
            samples: Values to record; of two of one gauge the later stands, counters add up.
            cycle: Learner cycle they belong to; None keeps the cycle of the call before.
            number: Of this record, above that of the one before; None: the next.

        Raises:
            ValueError: for a name that is not in the catalogue, wrong labels, a counter that would fall, a histogram
                observation that is not finite, or a number that was there. Nothing is recorded then.
        """
        for sample in samples:
            _check(sample)
        with self._lock:
            if number is not None and number <= self._number:
                raise ValueError(f"record {number} comes after record {self._number}")
            self._number = self._number + 1 if number is None else number
            self._cycle = self._cycle if cycle is None else cycle
            values: dict[str, Any] = {}
            for sample in samples:
                value = self._apply(sample)
                values[sample.key] = values.get(sample.key, []) + value if isinstance(value, list) else value
            if self._history is not None:
                entry = {"time": round(time.time(), 3), "cycle": self._cycle, "record": self._number, "values": values}
                self._history.append(entry)

    def serve(self, host: str = "127.0.0.1", port: int = 0, found: Callable[[int], None] = lambda _: None) -> int:
        """Starts /metrics in a thread of its own and returns the port it listens on (the free one chosen for 0).

        Args:
            host: Address to listen on.
            port: Port, or 0.
            found: Is told the port too.

        Raises:
            UserError: if the port is occupied or the host is not an address of this machine.
            RuntimeError: if this hub is being served.
        """
        if self._server is not None:
            raise RuntimeError("this hub is being served; close it first")
        check_port_free(host, port)
        server, self._thread = start_http_server(port, addr=host, registry=self._exposed)
        self._scrapes = Scrapes(make_wsgi_app(self._exposed))
        server.set_app(self._scrapes)
        self._server = server
        found(server.server_port)
        return server.server_port

    def finish(self, outcome: str, linger_s: float) -> None:
        """Says how the run ended, and waits until that was scraped.

        Args:
            outcome: One of `catalogue.OUTCOMES`.
            linger_s: Longest wait; none if Prometheus has never scraped.
        """
        self.record([finished_sample(outcome)])
        self.linger(linger_s)

    def linger(self, most_s: float) -> None:
        """Waits for the next scrape, so long at most; not at all if Prometheus has never done so."""
        if self._scrapes is not None:
            self._scrapes.await_next(most_s)

    def close(self) -> None:
        """Stops /metrics and closes metrics.jsonl. Closing twice does no harm."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(timeout=5)
            self._server = self._thread = None
        with self._lock:
            if self._history is not None:
                self._history.close()
                self._history = None

    def _make(self, name: str) -> None:
        series = CATALOGUE[name]
        text = f"{series.help} Unit: {series.unit}." if series.unit else series.help
        if series.kind is Kind.HISTOGRAM:
            histogram = Histogram(name, text, series.labels, buckets=series.buckets, registry=self.registry)
            self._collectors[name] = histogram
        elif series.kind is Kind.GAUGE:
            # A gauge without labels has the value 0 as soon as it is registered.
            self._collectors[name] = Gauge(name, text, series.labels, registry=None)
        else:
            counter = Counter(name, text, series.labels, registry=self.registry)
            self._collectors[name] = counter
            for row in closed_label_sets(series) if series.labels else ():
                counter.labels(*row)

    def _apply(self, sample: Sample) -> Any:
        """Moves the sample's series and returns what metrics.jsonl says of it."""
        collector = self._collectors[sample.name]
        child = collector.labels(*(text for _, text in sample.labels)) if sample.labels else collector
        if isinstance(child, Counter):
            child.inc(sample.value)
            self._totals[sample.key] = self._totals.get(sample.key, 0.0) + sample.value
            return self._totals[sample.key]
        if isinstance(child, Histogram):
            child.observe(sample.value)
            return [sample.value]
        child.set(sample.value)
        if sample.name not in self._set:
            self._set.add(sample.name)
            self.registry.register(collector)
        return sample.value if math.isfinite(sample.value) else None

    def _go_on_from(self, standing: Standing) -> None:
        self._number, self._cycle = standing.record, standing.cycle
        for key, value in standing.values.items():
            name, labels = parse_key(key)
            if name in CATALOGUE and CATALOGUE[name].kind is not Kind.HISTOGRAM:
                self._apply(Sample(name, value, labels))


def _check(sample: Sample) -> None:
    series = CATALOGUE.get(sample.name)
    if series is None:
        near = difflib.get_close_matches(sample.name, CATALOGUE, n=1, cutoff=0.0)[0]
        raise ValueError(f"{sample.name} is not in the metrics catalogue; nearest is {near}")
    given = tuple(label for label, _ in sample.labels)
    if given != series.labels:
        raise ValueError(f"{sample.name} has the labels {list(series.labels)}, got {list(given)}")
    for label, text in sample.labels:
        allowed = series.values_of(label)
        if allowed is not None and text not in allowed:
            raise ValueError(f"{sample.name}: {label} must be one of {', '.join(allowed)}, got {text!r}")
        if not _WORD.fullmatch(text):
            raise ValueError(f"{sample.name}: {label} must be one plain word, got {text!r}")
    if series.kind is Kind.COUNTER and not 0 <= sample.value < math.inf:
        raise ValueError(f"{sample.name} is a counter: its increment must be finite and at least 0, got {sample.value}")
    if series.kind is Kind.HISTOGRAM and not math.isfinite(sample.value):
        raise ValueError(f"{sample.name} is a histogram: an observation must be finite, got {sample.value}")
