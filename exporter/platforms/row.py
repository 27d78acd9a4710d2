"""The shape of a platform's row, and what is compiled from it."""

import re
from dataclasses import dataclass
from functools import cached_property

from exporter.errors import ConfigBackupError


class UnknownPlatform(ConfigBackupError):
    """A platform that has no row in the table was named."""


@dataclass(frozen=True)
class Platform:
    """One network operating system.

    Patterns see the text as Latin-1, one character a byte, `^` and `$` at every line.
    """

    name: str
    #: NAPALM driver that fetches it where the inventory names none.
    driver: str
    vendor: str
    #: Begins a comment line, for what is written about a configuration.
    comment: str
    #: Sent as it is where the driver lets us, because NAPALM's get_config drops lines of the text;
    #: empty: get_config alone.
    command: str = ""
    #: The whole last line that is not blank; None: the platform has no reliable one.
    end_marker: str | None = None
    #: Must stand among the first lines, where there is no end marker.
    header: str | None = None
    #: Stands near the end of every whole text, where there is no end marker. A text without it
    #: must be about as long as the last one.
    footer: str | None = None
    #: Blocks open with `{` and close with `}`, each at the end of a line of its own.
    is_braced: bool = False
    #: Lines that change by themselves; left out of the hash that decides whether it changed.
    volatile_lines: tuple[str, ...] = ()
    #: Lines that say that the command failed.
    error_lines: tuple[str, ...] = ()
    #: Each with exactly one group: the secret.
    secrets: tuple[str, ...] = ()

    @cached_property
    def end_pattern(self) -> re.Pattern[str] | None:
        """Matches the last line that is not blank, where it is the end marker."""
        return None if self.end_marker is None else re.compile(self.end_marker)

    @cached_property
    def volatile_pattern(self) -> re.Pattern[str] | None:
        """Finds every volatile line with its newline."""
        if not self.volatile_lines:
            return None
        return re.compile(rf"(?m)^(?:{'|'.join(self.volatile_lines)}).*\n?")

    @cached_property
    def error_pattern(self) -> re.Pattern[str]:
        """Finds a line that says that the command failed."""
        return re.compile(rf"(?m)^[ \t]*(?:{'|'.join(self.error_lines)}).*$")

    @cached_property
    def secret_pattern(self) -> re.Pattern[str] | None:
        """Finds each secret; `match.lastindex` is the group that holds it."""
        return re.compile(f"(?m){'|'.join(self.secrets)}") if self.secrets else None
