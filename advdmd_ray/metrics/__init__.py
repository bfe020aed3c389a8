"""Metrics: one catalogue of every series, one hub that serves them and writes metrics.jsonl."""

from advdmd_ray.metrics.catalogue import CATALOGUE, LABEL_VALUES, Kind, Series, Station, phase_samples
from advdmd_ray.metrics.hub import MetricsHub, check_port_free
from advdmd_ray.metrics.series import Sample

__all__ = [
    "CATALOGUE",
    "LABEL_VALUES",
    "Kind",
    "MetricsHub",
    "Sample",
    "Series",
    "Station",
    "check_port_free",
    "phase_samples",
]
