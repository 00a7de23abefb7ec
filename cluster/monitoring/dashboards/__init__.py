"""The four dashboards as data: what is asked of Prometheus, and how it is shown. `grafana.py` turns them into files."""

from cluster.monitoring.dashboards.fleet import FLEET
from cluster.monitoring.dashboards.listeners import LISTENERS
from cluster.monitoring.dashboards.pipeline import PIPELINE
from cluster.monitoring.dashboards.training import TRAINING

DASHBOARDS = (TRAINING, PIPELINE, FLEET, LISTENERS)
