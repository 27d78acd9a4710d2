"""Where files should lie by now: rows of `device_paths` from the rows of `devices`."""

from sqlalchemy import Connection, text

from exporter.publishing.paths import Names, Place, assign_paths, order_steps


def place_devices(connection: Connection, template: str, known: str | None) -> str:
    """Write the rows of device_paths that say where files should lie by now.

    Answers a signature of all devices; with the same one as `known` there is nothing to place but
    devices whose first version waits.
    """
    signature: str = connection.execute(
        text("""
            SELECT concat_ws(' ', count(*), sum(hashtextextended(concat_ws(chr(31), id, name, site,
                zone, platform, vendor, retired_at IS NULL), 0)), :template)
            FROM devices
        """),
        {"template": template},
    ).scalar_one()
    if signature != known or connection.execute(_SOME_WAIT_FOR_A_PLACE).scalar_one():
        _insert_steps(connection, template)
    return signature


_PLACE = "SELECT path FROM device_paths WHERE device_id = c.device_id ORDER BY id DESC LIMIT 1"
_SOME_WAIT_FOR_A_PLACE = text(f"""
    SELECT EXISTS (SELECT FROM configurations c WHERE git_commit_id IS NULL AND ({_PLACE}) IS NULL)
""")


def _insert_steps(connection: Connection, template: str) -> None:
    # One at a time, also when a former leader does not know yet that it is one.
    connection.execute(text("SELECT FROM publishing_state FOR UPDATE"))
    devices = connection.execute(
        text("""
            WITH waiting AS (
                SELECT device_id, min(created_at) AS since
                FROM configurations WHERE git_commit_id IS NULL GROUP BY device_id
            )
            SELECT d.id, d.name, d.site, d.zone, d.platform, d.vendor,
                d.retired_at IS NOT NULL AS is_retired, p.path, p.id IS NOT NULL AS was_placed,
                CASE WHEN p.path IS NULL AND (p.id IS NULL OR w.since >= p.created_at)
                    THEN w.since END AS waits_since
            FROM devices d
            LEFT JOIN LATERAL (
                SELECT id, path, created_at FROM device_paths
                WHERE device_id = d.id ORDER BY id DESC LIMIT 1
            ) p ON true
            LEFT JOIN waiting w ON w.device_id = d.id
            ORDER BY d.retired_at IS NOT NULL, d.id
        """)
    ).all()
    # A retired device has a place only for a version that still waits.
    wanted = [device for device in devices if not device.is_retired or device.waits_since]
    paths = assign_paths(template, (Names(*device[:6]) for device in wanted))
    steps = order_steps(
        Place(
            device.id,
            device.path,
            None if device.is_retired else paths[device.id],
            paths[device.id] if device.waits_since else None,
        )
        for device in devices
        if device.was_placed or device.waits_since
    )
    names = {device.id: device.name for device in devices}
    waits_since = {device.id: device.waits_since for device in devices}
    connection.execute(
        text("""
            INSERT INTO device_paths (device_id, device_name, path, created_at)
            SELECT device_id, device_name, path, coalesce(created_at, now())
            FROM unnest(CAST(:ids AS bigint[]), CAST(:names AS text[]), CAST(:paths AS text[]),
                CAST(:times AS timestamptz[])) WITH ORDINALITY
                AS step(device_id, device_name, path, created_at, position)
            ORDER BY position
        """),
        {
            "ids": [step.device_id for step in steps],
            "names": [names[step.device_id] for step in steps],
            "paths": [step.path for step in steps],
            "times": [waits_since[step.device_id] if step.is_opening else None for step in steps],
        },
    )
