"""What a row of the table of panels consists of."""

from dataclasses import dataclass
from enum import StrEnum

from deploy.monitoring.queries import Query


class Row(StrEnum):
    """The rows of the dashboard, in their order."""

    RUN = "Run"
    LEARNING = "Learning"
    FLOW = "Flow"
    WEIGHTS = "Weights"
    RESOURCES = "Resources"
    FAULTS = "Faults"


class Unit(StrEnum):
    """Grafana's names of the units that panels have."""

    NUMBER = "short"
    SCIENTIFIC = "sci"
    SHARE = "percentunit"
    SECONDS = "s"
    BYTES = "bytes"
    PER_SECOND = "cps"


class Look(StrEnum):
    """How a panel shows its queries."""

    LINES = "lines over time"
    LOG_LINES = "lines over time, on a logarithmic axis"
    NUMBER = "the newest value of each query"
    NAME = "the legend of each query, for what is a name and not a number"


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        row: The row it stands in, after those before it.
        title: Its title, of its own.
        unit: Unit of all its queries.
        says: One line: what it is, and what is healthy.
        queries: What it shows.
        look: How it shows them.
        width: In 24ths of the dashboard.
        bad_from: The value from which it turns red; None: it never does.
    """

    row: Row
    title: str
    unit: Unit
    says: str
    queries: tuple[Query, ...]
    look: Look = Look.LINES
    width: int = 8
    bad_from: float | None = None
