"""Plausible configurations per platform: what stays, and the lines that change by themselves."""

import functools
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib import resources

import yaml

PLATFORMS = ("ios", "nxos_ssh", "eos", "junos")
_PORTS = 48
_USES = ("uplink", "server", "printer", "access point", "camera", "phone", "spare", "storage")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_CLOCK_PERIOD = b"\nntp clock-period "


@functools.cache
def _templates() -> dict[str, dict[str, str]]:
    """Platform -> head, one interface, tail and one rule, with places to fill in."""
    text = resources.files(__package__).joinpath("texts.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def generate(
    platform: str, name: str, *, site: str, seed: int, size_bytes: int, revision: int
) -> bytes:
    """The part of a device's configuration that stays from fetch to fetch.

    The same arguments give the same text; each revision changes a description and adds or removes
    rules. It is never shorter than head and tail, and about size_bytes long otherwise.
    """
    template = _templates()[platform]
    choice = random.Random(f"{seed}/{name}")
    values = {
        "name": name,
        "site": site,
        "user": "backup",
        "secret": _word(choice, 43),
        "secret2": "".join(choice.choices("0123456789ABCDEF", k=32)),
        "community": _word(choice, 12),
        "number": choice.randrange(1, 255),
        "rules": "".join(template["rule"] % (1 + row) for row in range(3 + revision % 20)),
    }
    first, last = template["head"] % values, template["tail"] % values
    sample_bytes = len(_interface(template, 23, "access point 100"))
    count = (size_bytes - len(first) - len(last)) // sample_bytes
    descriptions = [f"{choice.choice(_USES)} {index}" for index in range(max(1, count))]
    for number in range(max(1, revision - 9), revision + 1):
        change = random.Random(f"{seed}/{name}/{number}")
        place = change.randrange(len(descriptions))
        descriptions[place] = f"{change.choice(_USES)} CHG{change.randrange(10**6):06d}"
    blocks = [_interface(template, index, text) for index, text in enumerate(descriptions)]
    return "".join((first, *blocks, last)).encode()


def _interface(template: dict[str, str], index: int, description: str) -> str:
    slot, port = divmod(index, _PORTS)
    place = {"slot": slot % 250, "port": port + 1, "vlan": 10 + index % 90}
    return template["interface"] % {**place, "description": description}


def _word(choice: random.Random, length: int) -> str:
    return "".join(choice.choices(_LETTERS, k=length))


def with_volatile_lines(platform: str, text: bytes, fetch: int) -> bytes:
    """The configuration as the device shows it at its fetch number `fetch`.

    The lines that change by themselves differ at each fetch, also within one second.
    """
    now = datetime.now(UTC) + timedelta(seconds=fetch)
    return _VOLATILE[platform](text, now, fetch)


def _ios(text: bytes, now: datetime, fetch: int) -> bytes:
    before, line, after = text.partition(_CLOCK_PERIOD)
    changing = (
        before
        + line
        + (b"%d" % (17179800 + fetch % 100) + after.lstrip(b"0123456789") if line else b"")
    )
    when = f"! Last configuration change at {now:%H:%M:%S} UTC {now:%a %b %d %Y} by netops\n!\n"
    size = len(changing) + len(when)
    header = f"Building configuration...\n\nCurrent configuration : {size} bytes\n!\n{when}"
    return header.encode() + changing


def _nxos(text: bytes, now: datetime, fetch: int) -> bytes:
    header = (
        f"\n!Command: show running-config\n!Running configuration last done at: {now:%c}\n"
        f"!Time: {now:%c}\n\n"
    )
    return header.encode() + text


def _eos(text: bytes, now: datetime, fetch: int) -> bytes:
    return f"! Command: show running-config\n! Time: {now:%c}\n".encode() + text


def _junos(text: bytes, now: datetime, fetch: int) -> bytes:
    return f"\n## Last commit: {now:%Y-%m-%d %H:%M:%S} UTC by netops\n".encode() + text


_VOLATILE: dict[str, Callable[[bytes, datetime, int], bytes]] = {
    "ios": _ios,
    "nxos_ssh": _nxos,
    "eos": _eos,
    "junos": _junos,
}
