"""Old versions thin out: their texts are emptied here, their rows stay, and Git keeps them whole.

Of a device's versions older than `all_versions_days` the first, the newest and the last of each
week (UTC) keep their text. A text goes only when every version that has it may go: never one that
is not in Git, and never one that a kept version shares.
"""

from sqlalchemy import Engine, text

from exporter.settings import HistorySettings

_BATCH = 500
#: A night's share at most; the next one goes on.
_MOST = 100_000

_CANDIDATES = text("""
    WITH version AS (
        SELECT sha256, thinned_at, created_at < now() - make_interval(days => :days)
            AND git_commit_id IS NOT NULL
            AND row_number() OVER (PARTITION BY device_id ORDER BY id) > 1
            AND row_number() OVER (PARTITION BY device_id ORDER BY id DESC) > 1
            AND row_number() OVER (
                PARTITION BY device_id, date_trunc('week', created_at) ORDER BY id DESC) > 1
            AS may_go
        FROM configurations
    )
    SELECT sha256 FROM version GROUP BY sha256
    HAVING bool_and(may_go) AND bool_or(thinned_at IS NULL) LIMIT :most
""")
# An ending that stores the same text anew waits here, and then finds it emptied or not.
_LOCK = text("""
    SELECT sha256 FROM configuration_texts
    WHERE sha256 = ANY(:hashes) AND NOT is_damaged ORDER BY sha256 FOR UPDATE
""")
_THIN = text("""
    WITH thinned AS (
        SELECT sha256 FROM configurations WHERE sha256 = ANY(:hashes)
        GROUP BY sha256 HAVING max(id) <= :newest AND bool_and(git_commit_id IS NOT NULL)
    ), emptied AS (
        UPDATE configuration_texts AS t SET compressed = NULL
        FROM thinned WHERE t.sha256 = thinned.sha256
    )
    UPDATE configurations AS c SET thinned_at = now()
    FROM thinned WHERE c.sha256 = thinned.sha256 AND c.thinned_at IS NULL
""")


def thin(engine: Engine, settings: HistorySettings) -> dict[str, int]:
    """Empty the texts that may go; how many versions lost theirs."""
    if settings.all_versions_days is None:
        return {"versions": 0}
    with engine.connect() as connection:
        newest = connection.scalar(text("SELECT coalesce(max(id), 0) FROM configurations"))
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        candidates = connection.scalars(
            _CANDIDATES, {"days": settings.all_versions_days, "most": _MOST}
        ).all()
    count = 0
    for start in range(0, len(candidates), _BATCH):
        with engine.begin() as connection:
            hashes = [bytes(sha256) for sha256 in candidates[start : start + _BATCH]]
            locked = [bytes(s) for s in connection.scalars(_LOCK, {"hashes": hashes})]
            # A statement of its own: it sees what was stored before the locks were ours.
            count += connection.execute(_THIN, {"hashes": locked, "newest": newest}).rowcount
    return {"versions": count}
