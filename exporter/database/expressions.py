"""SQL that views and queries share; `d` is devices, `s` device_states."""

from exporter.health import FRESH_INTERVALS

_OLDEST_FRESH = f"now() - make_interval(secs => {FRESH_INTERVALS} * d.interval_seconds)"

#: A device's state. See the words in docs/architecture.md.
STATE = f"""
    CASE WHEN s.success_count + s.failed_count + s.timeout_count = 0 THEN 'never'
         WHEN s.consecutive_failures > 0 THEN 'abnormal'
         WHEN s.last_success_at < {_OLDEST_FRESH} THEN 'stale'
         ELSE 'normal' END
"""

#: Whether the last success is not too old; true without an interval, false without a success.
IS_FRESH = f"coalesce(s.last_success_at >= {_OLDEST_FRESH}, s.last_success_at IS NOT NULL)"


def success_rate(success: str, ran: str) -> str:
    """SQL of a success rate: percent with two digits; NULL where nothing ran."""
    return f"CAST(round(100.0 * {success} / nullif({ran}, 0), 2) AS double precision)"
