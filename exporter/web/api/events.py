"""GET /events: executions and backups as they start and end."""

import uuid
from typing import Any

from flask import Response, request
from pydantic import Field

from exporter.database.engine import database_errors
from exporter.queries.events import Place
from exporter.queries.rows import Row
from exporter.web.api.context import Api, Asked, Word
from exporter.web.problems import InvalidRequest


class EventsAsked(Asked):
    device: Word | None = Field(None, description="Name of the device.")
    task: uuid.UUID | None = Field(None, description="task_id of the backup.")
    site: Word | None = None


_RESPONSE: Any = {
    "description": "Server-Sent Events without end",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}


def add_events(api: Api) -> None:
    app = api.app

    @app.get("/events")
    @app.input(EventsAsked, location="query", arg_name="asked")
    @app.doc(responses={200: _RESPONSE})
    def events(asked: EventsAsked) -> Response:
        """Executions and backups as they start and end; Last-Event-ID resumes without a gap."""

        def wanted(row: Row) -> bool:
            return (
                (asked.device is None or row["device"] == asked.device)
                and (asked.site is None or row["site"] == asked.site)
                and (asked.task is None or row["task_id"] == asked.task)
            )

        last = _last_place(request.headers.get("Last-Event-ID"))
        with database_errors():
            messages = api.events.listen(wanted, last)
        body: Any = api.streams.admit(messages)
        return Response(body, content_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def _last_place(header: str | None) -> Place | None:
    if not header:
        return None
    transaction, _, number = header.partition("-")
    if not (transaction.isdecimal() and number.isdecimal()):
        raise InvalidRequest([("header.Last-Event-ID", "is the id of no event")])
    place = Place(int(transaction), int(number))
    if max(place) >= 2**63:
        raise InvalidRequest([("header.Last-Event-ID", "is the id of no event")])
    return place
