"""The alerts as the Prometheus operator reads them: the groups of alerts.yml in a PrometheusRule."""

from pathlib import Path
from typing import Any

import yaml


def prometheus_rule(alerts: Path) -> str:
    """The resource as YAML, with the rules of `alerts` as they are."""
    rule: dict[str, Any] = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "advdmd-ray", "namespace": "advdmd"},
        "spec": yaml.safe_load(alerts.read_text(encoding="utf-8")),
    }
    head = "# Written from alerts.yml by `make monitoring`: the alerts for the Prometheus operator.\n"
    return head + yaml.safe_dump(rule, sort_keys=False, width=120, allow_unicode=True)
