"""What the daemon serves over HTTP: the Flask application and the one listener under it."""

from exporter.web.application import create_app
from exporter.web.listener import Listener

__all__ = ["Listener", "create_app"]
