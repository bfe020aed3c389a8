"""The table of panels: a series of the catalogue gets its place on the dashboard by one line here."""

from deploy.monitoring.table.faults import FAULTS
from deploy.monitoring.table.flow import FLOW, WEIGHTS
from deploy.monitoring.table.learning import LEARNING
from deploy.monitoring.table.resources import RESOURCES, RUN

PANELS = (*RUN, *LEARNING, *FLOW, *WEIGHTS, *RESOURCES, *FAULTS)

WITHOUT_PANEL = {"advdmd_run_phase": "advdmd_run_phase_active names the phase"}
"""Series of the catalogue that no panel shows, and why not."""
