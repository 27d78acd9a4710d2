"""The fleet in a few numbers."""

from dataclasses import dataclass

from sqlalchemy import Connection, text

from exporter.database.expressions import STATE


@dataclass(frozen=True)
class FleetCounts:
    """Devices of the inventory: the four states share out the enabled ones."""

    never: int
    abnormal: int
    stale: int
    normal: int
    #: Enabled, in no active schedule; each has a state too.
    unscheduled: int
    #: Enabled, paused by a person until a date; each has a state too.
    paused: int
    disabled: int

    @property
    def devices(self) -> int:
        return self.never + self.abnormal + self.stale + self.normal + self.disabled


@dataclass(frozen=True)
class OpenCounts:
    """Executions that have not ended."""

    queued: int
    running: int


def fleet_counts(connection: Connection) -> FleetCounts:
    """Counts of devices by state; retired ones are left out."""
    row = connection.execute(
        text(f"""
            SELECT count(*) FILTER (WHERE enabled AND state = 'never') AS never,
                count(*) FILTER (WHERE enabled AND state = 'abnormal') AS abnormal,
                count(*) FILTER (WHERE enabled AND state = 'stale') AS stale,
                count(*) FILTER (WHERE enabled AND state = 'normal') AS normal,
                count(*) FILTER (WHERE enabled AND NOT is_scheduled) AS unscheduled,
                count(*) FILTER (WHERE enabled AND paused_until > now()) AS paused,
                count(*) FILTER (WHERE NOT enabled) AS disabled
            FROM (
                SELECT d.enabled, d.is_scheduled, d.paused_until, {STATE} AS state
                FROM devices AS d JOIN device_states AS s ON s.device_id = d.id
                WHERE d.retired_at IS NULL
            ) AS present
        """)
    ).one()
    return FleetCounts(**row._mapping)


def open_counts(connection: Connection) -> OpenCounts:
    """Counts of executions that wait and that run."""
    row = connection.execute(
        text("""
            SELECT count(*) FILTER (WHERE status = 'queued') AS queued,
                count(*) FILTER (WHERE status = 'running') AS running
            FROM open_executions
        """)
    ).one()
    return OpenCounts(**row._mapping)
