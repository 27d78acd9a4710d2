"""The one shape of every error that is answered: problem details for HTTP APIs (RFC 9457)."""

import json
from collections.abc import Sequence
from typing import Any

from werkzeug.exceptions import UnprocessableEntity

MEDIA_TYPE = "application/problem+json"


class InvalidRequest(UnprocessableEntity):
    """What is wrong with a request, by field: `query.days`, `json.devices.0`, `path.name`."""

    def __init__(self, errors: Sequence[tuple[str, str]]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(f"{field}: {message}" for field, message in self.errors))


def problem(status: int, title: str, detail: str, **more: Any) -> bytes:
    """The body; `title` is the same for every error of this status, `detail` is for this one."""
    content = {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}
    return json.dumps(content).encode()
