"""What a device sent, freed of the framing of the dialogue, and whether it is a configuration.

Pure functions. Text is Latin-1 here, one character a byte, so that no byte is lost or changed.
"""

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from exporter.errors import Reason
from exporter.platforms import Platform

#: An answer of at most so many characters with an error line in it is an error message.
ERROR_MESSAGE_CHARACTERS = 500
#: A text without its footer must have this share of the size of the last one.
WITHOUT_FOOTER_RATIO = 0.9
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
    # The common cases go without the patterns, which take a millisecond for 20 KB.
    text = _PAGER_REMAINS.sub("", raw) if "\x08" in raw or "\x1b" in raw or "ore" in raw else raw
    text = text.replace("\r\n", "\n")
    text = (_LINE_ENDS.sub("\n", text) if "\r" in text else text).replace("\x08", "")
    body, newline, last = text.rstrip().rpartition("\n")
    if prompt and re.fullmatch(prompt, last):
        text = body + newline
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
    has_footer = platform.footer is None or re.search(rf"(?m)^{platform.footer}", text) is not None
    if accept_shrunk:
        smallest = 0.0
    elif has_footer:
        smallest = (previous_size or 0) * shrink_ratio
    else:
        smallest = inf if previous_size is None else previous_size * WITHOUT_FOOTER_RATIO
    return (
        _check_error_lines(text, platform),
        _check_not_empty(text),
        _check_complete(text, platform),
        _check_size(len(text), smallest, platform),
    )


def first_failed(checks: tuple[Check, ...]) -> Check | None:
    return next((check for check in checks if not check.passed), None)


def _check_error_lines(text: str, platform: Platform) -> Check:
    is_short = len(text) <= ERROR_MESSAGE_CHARACTERS
    found = platform.error_pattern.search(text) if is_short else None
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
        last = _last_line(text)
        if platform.end_pattern.fullmatch(last):
            return Check(name, None, f"ends with {last!r}")
        expected = f"the last line is {last[:60]!r}, expected {platform.end_marker!r}"
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


def _check_size(size: int, smallest: float, platform: Platform) -> Check:
    if size >= smallest:
        return Check("not shrunk", None, f"{size} bytes")
    note = f"{size} bytes, expected at least {smallest:.0f} after the last configuration"
    if smallest == inf:
        note = f"no line begins with {platform.footer!r}, and there is no last one to compare with"
    return Check("not shrunk", Reason.TRUNCATED, note)


def is_finished(received: str, prompt: re.Pattern[str], platform: Platform) -> bool:
    """Whether the prompt at the end of what was received follows the platform's end marker."""
    found = prompt.search(received)
    if found is None or platform.end_pattern is None:
        return False
    return platform.end_pattern.fullmatch(_last_line(received[: found.start()])) is not None


def _last_line(text: str) -> str:
    """The last line that is not blank, without the blanks around it."""
    return text.rstrip().rpartition("\n")[2].strip()


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
