"""The exporter: what /metrics says, read from PostgreSQL and rendered where it changed."""

from exporter.metrics.exposition import Answer, Exposition

__all__ = ["Answer", "Exposition"]
