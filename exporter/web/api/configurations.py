"""Texts of configurations, for operators: one version, a difference, a search."""

import subprocess
import tempfile
import threading
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import regex
from flask import Response, request
from pydantic import Field
from sqlalchemy import Connection
from werkzeug.exceptions import NotFound, ServiceUnavailable

from exporter.queries.devices import Version, list_versions, version
from exporter.queries.search import search_configurations
from exporter.web.access import needs
from exporter.web.api.context import Answer, Api, Asked, Moment, Number
from exporter.web.problems import InvalidRequest

_DIFF_SECONDS = 5.0
_SEARCH_SECONDS = 10.0
#: Texts are decompressed in this process: more searches at once would starve other requests.
_SEARCHES_AT_ONCE = 2

_TEXT: Any = {
    "description": "The text as the device sent it",
    "content": {"text/plain": {"schema": {"type": "string"}}},
}


class Against(Asked):
    against: Number | None = Field(
        None, description="Number of the older version; nothing: the one before."
    )


class DiffAnswer(Answer):
    device: str
    from_id: int
    to_id: int
    diff: str = Field(description="Unified difference; empty: none.")


class SearchAsked(Asked):
    q: Annotated[str, Field(min_length=1, max_length=500)] = Field(
        description="A regular expression; ^ and $ mean line ends."
    )
    since: Moment | None = Field(
        None, description="Search all versions stored since then; nothing: current ones."
    )
    limit: Annotated[int, Field(ge=1, le=1000)] = 200


class MatchingLine(Answer):
    number: int
    text: str


class Match(Answer):
    device_name: str
    site: str
    config_id: int
    created_at: datetime
    lines: list[MatchingLine]


class SearchAnswer(Answer):
    matches: list[Match]
    is_complete: bool


def add_configurations(api: Api) -> None:
    app = api.app
    searches = threading.BoundedSemaphore(_SEARCHES_AT_ONCE)

    @app.get("/devices/<name>/configurations/<int:version_id>")
    @app.doc(responses={200: _TEXT})
    @needs("operator")
    def configuration(name: str, version_id: int) -> Response:
        """The text of a version."""
        with api.reading() as connection:
            content = _text_of(connection, name, version_id)
        answer = Response(content, content_type="text/plain; charset=utf-8")
        answer.add_etag()
        answer.make_conditional(request)
        return answer

    @app.get("/devices/<name>/configurations/<int:version_id>/diff")
    @app.input(Against, location="query", arg_name="query")
    @app.output(DiffAnswer)
    @needs("operator")
    def diff(name: str, version_id: int, query: Against) -> dict[str, Any]:
        """What changed in a version against an older one."""
        with api.reading() as connection:
            new = _text_of(connection, name, version_id)
            old_id = query.against or _version_before(connection, name, version_id)
            old = _text_of(connection, name, old_id) if old_id else b""
        return {
            "device": name,
            "from_id": old_id,
            "to_id": version_id,
            "diff": unified_diff(old, new, f"version {old_id}", f"version {version_id}"),
        }

    @app.get("/configurations/search")
    @app.input(SearchAsked, location="query", arg_name="query")
    @app.output(SearchAnswer)
    @needs("operator")
    def search(query: SearchAsked) -> dict[str, Any]:
        """Lines that match a regular expression; is_complete tells whether time was enough."""
        try:
            pattern = regex.compile(query.q, regex.MULTILINE)
        except regex.error as error:
            raise InvalidRequest([("query.q", f"is no regular expression: {error}")]) from None
        if not searches.acquire(blocking=False):
            raise ServiceUnavailable("other searches run; try again in seconds", retry_after=5)
        try:
            with api.reading() as connection:
                found = search_configurations(
                    connection,
                    pattern,
                    since=query.since,
                    limit=query.limit,
                    seconds=_SEARCH_SECONDS,
                )
        finally:
            searches.release()
        return {"matches": found.matches, "is_complete": found.is_complete}


def unified_diff(old: bytes, new: bytes, old_name: str, new_name: str) -> str:
    """The difference by Git, whose time is bounded where that of `difflib` grows quadratically.

    Raises ServiceUnavailable where even that takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="configbackup-diff-") as directory:
        for file, content in (("a", old), ("b", new)):
            Path(directory, file).write_bytes(content)
        command = ["git", "diff", "--no-index", "--no-color", "--no-ext-diff", "--text", "a", "b"]
        try:
            done = subprocess.run(
                command, cwd=directory, capture_output=True, timeout=_DIFF_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise ServiceUnavailable("the versions differ too much to compare in time") from None
    if done.returncode > 1:
        raise RuntimeError(f"git diff ended with {done.returncode}")
    lines = done.stdout.decode(errors="replace")
    hunks = lines.find("\n@@ ")
    return "" if hunks < 0 else f"--- {old_name}\n+++ {new_name}{lines[hunks:]}"


def _text_of(connection: Connection, name: str, version_id: int) -> bytes:
    found: Version | None = version(connection, name, version_id)
    if found is None:
        raise NotFound(f"{name} has no version {version_id}")
    if found.text is None:
        raise NotFound(f"the text of version {version_id} was thinned out; Git has it")
    return found.text


def _version_before(connection: Connection, name: str, version_id: int) -> int:
    """0: there is none."""
    older = (row["id"] for row in list_versions(connection, name, limit=10_000))
    return next((number for number in older if number < version_id), 0)
