"""What PostgreSQL knows about publishing: its state, and the commit of each row, written back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, text, update

from exporter.errors import LeadershipLost, RepositoryProblem
from exporter.models import PublishingState
from exporter.publishing.commits import Written

#: Rows that one statement of a write-back holds.
_PART = 1_000


@dataclass(frozen=True)
class State:
    """What the row of publishing_state says."""

    head_commit_id: str | None
    last_error: str | None
    pushed_commit_id: str | None
    push_failures: int


def read_state(connection: Connection) -> State:
    row = connection.execute(
        text("""
            SELECT head_commit_id, last_error, pushed_commit_id, push_failures
            FROM publishing_state
        """)
    ).one_or_none()
    return State(*row) if row else State(None, None, None, 0)


def update_state(connection: Connection, **columns: Any) -> None:
    """Change columns of the one row."""
    connection.execute(update(PublishingState).values(**columns))


def is_published(connection: Connection, commit_id: str) -> bool:
    """Whether a row was published by this commit."""
    found: bool = connection.execute(
        text("""
            SELECT EXISTS (SELECT FROM configurations WHERE git_commit_id = :commit_id)
                OR EXISTS (SELECT FROM device_paths WHERE git_commit_id = :commit_id)
        """),
        {"commit_id": commit_id},
    ).scalar_one()
    return found


def require_rows(connection: Connection, written: Sequence[Written]) -> None:
    """Raise RepositoryProblem unless all commits are of rows that wait in this database."""
    for table, ids in (
        ("configurations", [row.version_id for row in written if row.version_id]),
        ("device_paths", [row.path_id for row in written if row.path_id]),
    ):
        found: int = connection.execute(
            text(f"""
                SELECT count(*) FROM {table}
                WHERE id = ANY(CAST(:ids AS bigint[])) AND git_commit_id IS NULL
            """),
            {"ids": ids},
        ).scalar_one()
        if found != len(set(ids)) or not all(row.version_id or row.path_id for row in written):
            raise RepositoryProblem(
                "the branch has commits that are not of this database's waiting rows\n"
                "hint: configbackup publish --rebuild keeps that repository under another name"
            )


def write_back(
    connection: Connection, written: Sequence[Written], *, head: str | None, expected: str | None
) -> None:
    """Record the commits' ids and the new head in the caller's transaction.

    Raises LeadershipLost where the head is not the expected one: another publisher was first.
    """
    moved = connection.execute(
        text("""
            UPDATE publishing_state SET head_commit_id = :head, last_publish_at = now(),
                last_error = NULL, failing_since = NULL
            WHERE head_commit_id IS NOT DISTINCT FROM :expected
        """),
        {"head": head, "expected": expected},
    )
    if moved.rowcount != 1:
        raise LeadershipLost("another process published in the meantime")
    for start in range(0, len(written), _PART):
        part = written[start : start + _PART]
        _write_back_paths(connection, part)
        _write_back_versions(connection, part)


def _write_back_paths(connection: Connection, written: Sequence[Written]) -> None:
    rows = [row for row in written if row.path_id]
    if rows:
        connection.execute(
            text("""
                UPDATE device_paths AS p SET git_commit_id = w.commit_id
                FROM unnest(CAST(:ids AS bigint[]), CAST(:commits AS text[])) AS w(id, commit_id)
                WHERE p.id = w.id AND p.git_commit_id IS DISTINCT FROM w.commit_id
            """),
            {"ids": [row.path_id for row in rows], "commits": [row.commit_id for row in rows]},
        )


def _write_back_versions(connection: Connection, written: Sequence[Written]) -> None:
    ids = [row.version_id for row in written if row.version_id]
    if not ids:
        return
    oldest, newest = connection.execute(
        text("""
            SELECT min(created_at), max(created_at) FROM configurations
            WHERE id = ANY(CAST(:ids AS bigint[]))
        """),
        {"ids": ids},
    ).one()
    connection.execute(
        _WRITE_BACK_VERSIONS,
        {
            "ids": ids,
            "commits": [row.commit_id for row in written if row.version_id],
            # As literals they let PostgreSQL leave out the other months' partitions.
            "oldest": oldest,
            "newest": newest,
        },
    )


_WRITE_BACK_LOG = """
    UPDATE {table} AS l SET git_commit_id = w.git_commit_id FROM written AS w
    WHERE l.id = w.execution_id AND l.created_at = w.created_at
        AND l.created_at BETWEEN :oldest AND :newest
"""
_WRITE_BACK_VERSIONS = text(f"""
    WITH written AS (
        UPDATE configurations AS c SET git_commit_id = w.commit_id
        FROM unnest(CAST(:ids AS bigint[]), CAST(:commits AS text[])) AS w(id, commit_id)
        WHERE c.id = w.id AND c.git_commit_id IS DISTINCT FROM w.commit_id
        RETURNING c.execution_id, c.created_at, c.git_commit_id
    ), archived AS ({_WRITE_BACK_LOG.format(table="backup_execution_history")})
    {_WRITE_BACK_LOG.format(table="backup_execution_logs")}
""")


def record_problem(connection: Connection, message: str) -> None:
    """Say that publishing fails, and since when."""
    update_state(
        connection,
        last_error=message,
        failing_since=func.coalesce(PublishingState.failing_since, func.now()),
    )


def record_push_failure(connection: Connection, message: str) -> None:
    """Say that pushing fails, since when, and how often in a row."""
    update_state(
        connection,
        push_error=message,
        push_failing_since=func.coalesce(PublishingState.push_failing_since, func.now()),
        push_failures=PublishingState.push_failures + 1,
    )
