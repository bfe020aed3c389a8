"""The files that are generated, and by what."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from deploy.monitoring.dashboard import dashboard
from deploy.monitoring.rules import prometheus_rule

_DEPLOY = Path(__file__).parents[1]
WRITTEN: dict[Path, Callable[[], str]] = {
    _DEPLOY / "grafana" / "dashboard.json": dashboard,
    _DEPLOY / "prometheusrule.yaml": partial(prometheus_rule, _DEPLOY / "alerts.yml"),
}
