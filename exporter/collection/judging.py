"""What a device sent, freed of the framing of the dialogue, and whether it is a configuration.

Pure functions. Text is Latin-1 here, one character a byte, so that no byte is lost or changed.
"""

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass

from exporter.errors import Reason
from exporter.platforms import Platform

#: An answer of at most so many lines with an error line in it is an error message.
ERROR_MESSAGE_LINES = 6
#: A header stands among the first so many lines.
HEADER_LINES = 60
#: A pager's question, at the end of what was received so far.
PAGER = re.compile(r"(?i)(?:^|[\r\n])[ \x08]*(?:<?-+ ?\(?more\b[^\r\n]{0,60})\Z")
_PAGER_REMAINS = re.compile(
    r"(?i)[ \x08]*<?-+ ?\(?more\b[^\r\n\x08\x1b]{0,60}"
    r"(?:\x08+ *\x08*|\r *\r|\x1b\[\d*D *\x1b\[\d*D)"
)
_LINE_ENDS = re.compile(r"\r+\n|\n\r+")


@dataclass(frozen=True)
class Check:
    """One check of a fetched text and its verdict."""

    name: str
    #: What is wrong where it failed; None: passed.
    reason: Reason | None
    note: str

    @property
    def passed(self) -> bool:
        return self.reason is None


def unframe(raw: str, *, command: str = "", prompt: str = "") -> str:
    """The text without pager remains, carriage returns, the echo and the prompt.

    `prompt` is a pattern. What is left ends with one newline, or is empty.
    """
    text = _LINE_ENDS.sub("\n", _PAGER_REMAINS.sub("", raw)).replace("\x08", "")
    if prompt:
        text = re.sub(rf"(?:\A|(?<=\n)){prompt}[ \t]*\s*\Z", "", text)
    first, newline, rest = text.partition("\n")
    if command and newline and first.rstrip().endswith(command):
        text = rest
    text = text.strip("\n")
    return text + "\n" if text.strip() else ""


def judge(
    text: str,
    platform: Platform,
    *,
    previous_size: int | None = None,
    accept_shrunk: bool = False,
    shrink_ratio: float = 0.5,
) -> tuple[Check, ...]:
    """Every check of an unframed text, the one that says most about it first."""
    smallest = None if previous_size is None or accept_shrunk else previous_size * shrink_ratio
    return (
        _check_error_lines(text, platform),
        _check_not_empty(text),
        _check_complete(text, platform),
        _check_size(len(text), smallest),
    )


def first_failed(checks: tuple[Check, ...]) -> Check | None:
    return next((check for check in checks if not check.passed), None)


def _check_error_lines(text: str, platform: Platform) -> Check:
    lines = [line for line in text.splitlines() if line.strip()]
    found = platform.error_pattern.search(text) if len(lines) <= ERROR_MESSAGE_LINES else None
    if found is None:
        return Check("no error message", None, "not an error message")
    return Check("no error message", Reason.COMMAND, found.group().strip()[:150])


def _check_not_empty(text: str) -> Check:
    # "None" is what the text of an empty XML element becomes in NAPALM's junos driver.
    if text.strip() in ("", "None"):
        return Check("not empty", Reason.EMPTY, "the answer has no text")
    return Check("not empty", None, f"{len(text)} bytes")


def _check_complete(text: str, platform: Platform) -> Check:
    name = "complete"
    if platform.end_pattern is not None:
        if platform.end_pattern.search(text):
            return Check(name, None, f"ends with {platform.end_marker!r}")
        last = text.rstrip().rpartition("\n")[2].strip()[:60]
        expected = f"the last line is {last!r}, expected {platform.end_marker!r}"
        return Check(name, Reason.TRUNCATED, expected)
    if platform.is_braced:
        return _check_braces(name, text)
    if platform.header is not None:
        head = "\n".join(text.splitlines()[:HEADER_LINES])
        if re.search(rf"(?m)^{platform.header}", head) is None:
            return Check(name, Reason.TRUNCATED, f"no line begins with {platform.header!r}")
        return Check(name, None, f"a line begins with {platform.header!r}; no end marker to check")
    return Check(name, None, "the platform has no mark of completeness")


def _check_braces(name: str, text: str) -> Check:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    depth = 0
    for line in lines:
        depth += line.endswith("{")
        depth -= line == "}"
        if depth < 0:
            return Check(name, Reason.TRUNCATED, "a block is closed that was never opened")
    if depth > 0:
        return Check(name, Reason.TRUNCATED, f"{depth} blocks are not closed")
    if not lines or lines[-1] != "}":
        return Check(name, Reason.TRUNCATED, "the last line closes no block")
    return Check(name, None, "every block is closed")


def _check_size(size: int, smallest: float | None) -> Check:
    if smallest is None or size >= smallest:
        return Check("not shrunk", None, f"{size} bytes")
    note = f"{size} bytes, expected at least {smallest:.0f} after the last configuration"
    return Check("not shrunk", Reason.TRUNCATED, note)


def is_finished(received: str, prompt: re.Pattern[str], platform: Platform) -> bool:
    """Whether the prompt at the end of what was received follows the platform's end marker."""
    found = prompt.search(received)
    if found is None or platform.end_pattern is None:
        return False
    return platform.end_pattern.search(received[: found.start()]) is not None


def stable_hash(text: str, platform: Platform) -> bytes:
    """SHA-256 of the text without the lines that change by themselves."""
    pattern = platform.volatile_pattern
    stable = text if pattern is None else pattern.sub("", text)
    return hashlib.sha256(stable.encode("latin-1")).digest()


def mask_secrets(text: str, platform: Platform, key: bytes) -> str:
    """Replace each secret by a keyed hash: a changed secret still shows as a change."""

    def mask(secret: str) -> str:
        return f"<masked:{hmac.digest(key, secret.encode('latin-1'), 'sha256').hex()[:16]}>"

    return replace_secrets(text, platform, mask)


def replace_secrets(text: str, platform: Platform, replacement: Callable[[str], str]) -> str:
    """The text with each secret that the platform's patterns know replaced."""

    def replace(found: re.Match[str]) -> str:
        group = found.lastindex or 0
        start, end = (place - found.start() for place in found.span(group))
        return found.group()[:start] + replacement(found.group(group)) + found.group()[end:]

    pattern = platform.secret_pattern
    return text if pattern is None else pattern.sub(replace, text)


__all__ = [
    "PAGER",
    "Check",
    "first_failed",
    "is_finished",
    "judge",
    "mask_secrets",
    "replace_secrets",
    "stable_hash",
    "unframe",
]
