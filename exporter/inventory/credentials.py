"""Credentials as the inventory has them: values, or references to the environment or a file.

`env:NAME` is the environment variable NAME, `file:PATH` the content of a file without the newline
at its end. References resolve at each login, so that a rotated password needs no reload.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_ENVIRONMENT = "env:"
_FILE = "file:"


class Unresolved(Exception):
    """A reference that leads nowhere; the message names it and is no secret."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A value or a reference, and where in the inventory it stands."""

    file: str
    path: str
    value: str = field(repr=False)

    def resolve(self) -> str:
        """The secret itself. Raises Unresolved."""
        return resolve(self.value)


@dataclass(frozen=True, slots=True)
class Access:
    """What a login needs beside the address; its values never appear in a repr."""

    username: Credential | None = field(repr=False)
    password: Credential | None = field(repr=False)
    #: NAPALM's; text that is a reference is a Credential, so is the enable secret.
    optional_args: Mapping[str, Any] = field(repr=False)

    def credentials(self) -> list[Credential]:
        values = (self.username, self.password, *self.optional_args.values())
        return [value for value in values if isinstance(value, Credential)]


def is_reference(value: object) -> bool:
    return isinstance(value, str) and value.startswith((_ENVIRONMENT, _FILE))


def resolve(value: str) -> str:
    """What the reference leads to; any other value is itself. Raises Unresolved."""
    if value.startswith(_ENVIRONMENT):
        secret = os.environ.get(value.removeprefix(_ENVIRONMENT))
        if not secret:
            raise Unresolved(f"{value}, a variable that is not set")
        return secret
    if value.startswith(_FILE):
        try:
            path = Path(value.removeprefix(_FILE)).expanduser()
            secret = path.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            problem = getattr(error, "strerror", None) or "not UTF-8"
            raise Unresolved(f"{value}, a file that cannot be read ({problem})") from None
        if not secret:
            raise Unresolved(f"{value}, an empty file")
        return secret
    return value
