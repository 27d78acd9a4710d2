"""Take secrets out of what is told about a failure: messages, tracebacks, screens."""

import base64
import json
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

from exporter.collection.contracts import Login
from exporter.collection.judging import replace_secrets
from exporter.platforms import Platform

_HIDDEN = "<hidden>"
#: An optional argument whose name holds one of these is a secret.
_SECRET_WORDS = ("secret", "pass", "key", "token", "community", "enable")


def redact(text: str, login: Login, platform: Platform | None) -> str:
    """The text without the login's secrets, in any form, and without those of the platform."""
    for secret in sorted(_forms_of(login), key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    return text if platform is None else replace_secrets(text, platform, lambda _: _HIDDEN)


def _forms_of(login: Login) -> set[str]:
    """Each secret as it is, and as exceptions, addresses and headers write it."""
    forms = set()
    for secret in _secrets_of(login):
        credentials = f"{login.username}:{secret}".encode()
        forms |= {
            secret,
            repr(secret)[1:-1],
            repr(secret.encode())[2:-1],
            json.dumps(secret)[1:-1],
            quote(secret, safe=""),
            quote_plus(secret),
            # As it comes back from a dialogue that is read one character a byte.
            secret.encode().decode("latin-1"),
            base64.b64encode(credentials).decode(),
        }
    return forms


def _secrets_of(login: Login) -> Iterator[str]:
    yield from filter(None, [login.password])
    for name, value in login.optional_args.items():
        if isinstance(value, str) and value and any(word in name for word in _SECRET_WORDS):
            yield value


__all__ = ["redact"]
