"""The one shape of every error that is answered: problem details for HTTP APIs (RFC 9457)."""

import json

MEDIA_TYPE = "application/problem+json"


def problem(status: int, title: str, detail: str) -> bytes:
    """The body; `title` is the same for every error of this status, `detail` is for this one."""
    content = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return json.dumps(content).encode()
