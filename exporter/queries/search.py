"""A regular expression over stored configurations, within a time limit."""

import time
from dataclasses import dataclass
from datetime import datetime

import regex
import zstandard
from sqlalchemy import Connection, text

from exporter.queries.rows import Row

_BATCH = 100
_LINES_OF_A_VERSION = 20
_SHOWN_CHARACTERS = 300


@dataclass(frozen=True)
class Found:
    """Versions with their matching lines; `is_complete` false: time or room ran out before."""

    matches: list[Row]
    is_complete: bool


def search_configurations(
    connection: Connection,
    pattern: "regex.Pattern[str]",
    *,
    since: datetime | None,
    limit: int,
    seconds: float,
) -> Found:
    """Lines that match, in current versions, or in all versions stored since a time."""
    which = (
        "JOIN device_states AS s ON s.device_id = d.id AND s.configuration_id = c.id"
        if since is None
        else ""
    )
    when = "TRUE" if since is None else "c.created_at >= :since"
    end = time.monotonic() + seconds
    rows = connection.execution_options(yield_per=_BATCH).execute(
        text(f"""
            SELECT d.name AS device_name, d.site, c.id AS config_id, c.created_at, t.compressed
            FROM configurations AS c JOIN devices AS d ON d.id = c.device_id {which}
            JOIN configuration_texts AS t USING (sha256)
            WHERE d.retired_at IS NULL AND t.compressed IS NOT NULL AND {when}
            ORDER BY d.name, c.id DESC
        """),
        {} if since is None else {"since": since},
    )
    matches: list[Row] = []
    for row in rows:
        left = end - time.monotonic()
        if left <= 0 or len(matches) >= limit:
            return Found(matches, is_complete=False)
        try:
            lines = _matching_lines(pattern, bytes(row.compressed), left)
        except TimeoutError:
            return Found(matches, is_complete=False)
        if lines:
            matches.append(
                {
                    "device_name": row.device_name,
                    "site": row.site,
                    "config_id": row.config_id,
                    "created_at": row.created_at,
                    "lines": lines,
                }
            )
    return Found(matches, is_complete=True)


def _matching_lines(pattern: "regex.Pattern[str]", compressed: bytes, seconds: float) -> list[Row]:
    content = zstandard.decompress(compressed).decode(errors="replace")
    found: dict[int, Row] = {}
    # Within the limit of time the lock of the interpreter is free for other requests.
    for match in pattern.finditer(content, timeout=seconds, concurrent=True):
        begin = content.rfind("\n", 0, match.start()) + 1
        number = content.count("\n", 0, begin) + 1
        end = content.find("\n", begin)
        line = content[begin : end if end >= 0 else None]
        found[number] = {"number": number, "text": line[:_SHOWN_CHARACTERS]}
        if len(found) >= _LINES_OF_A_VERSION:
            break
    return list(found.values())
