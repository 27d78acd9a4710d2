"""What the views of the API share: connections, the audit, limits, and models of what is asked."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from apiflask import APIFlask
from flask import request
from flask_limiter import Limiter
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field
from sqlalchemy import Connection, Engine

from exporter.database.engine import database_errors
from exporter.settings import Settings
from exporter.web.access import View, caller, needs
from exporter.web.caching import Answers
from exporter.web.events import Events
from exporter.web.streams import Streams
from exporter.web.tokens import audit

#: PostgreSQL keeps no NUL in its texts.
Word = Annotated[str, Field(pattern=r"^[^\x00]*$", max_length=500)]
#: The keys of rows are 64-bit numbers.
Number = Annotated[int, Field(ge=1, le=2**63 - 1)]


def _in_utc(moment: datetime) -> datetime:
    """PostgreSQL does not take every offset from UTC that Python does."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("a time of the years 1 to 9999 in UTC") from None


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class Asked(BaseModel):
    """Query or body of a request; what it does not know it refuses."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Answer(BaseModel):
    """An answer has at least these fields."""

    model_config = ConfigDict(extra="allow")


@dataclass(frozen=True)
class Api:
    """The application and what its views work with."""

    app: APIFlask
    engine: Engine
    settings: Settings
    limiter: Limiter
    answers: Answers
    events: Events
    streams: Streams

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with database_errors(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def changing(self, action: str, subject: str, **details: Any) -> Iterator[Connection]:
        """A transaction of one change, which is committed with its line in the audit log."""
        with database_errors(), self.engine.begin() as connection:
            yield connection
            audit(
                connection,
                action,
                subject,
                actor=caller().name,
                address=request.remote_addr or "",
                details=details,
            )

    def change(self, view: View) -> View:
        """Mark a view that changes something: for operators, at a limited rate a caller."""
        limit = self.limiter.shared_limit(
            self.settings.http.trigger_rate, scope="changes", key_func=lambda: caller().name
        )
        limited: Callable[..., Any] = limit(needs("operator")(view))
        return needs("operator")(limited)  # type: ignore[return-value]
