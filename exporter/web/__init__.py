"""What the daemon serves over HTTP: the Flask applications and the listeners under them."""

from exporter.web.application import create_app, create_metrics_app
from exporter.web.listener import Listener
from exporter.web.metrics import metrics_listener

__all__ = ["Listener", "create_app", "create_metrics_app", "metrics_listener"]
