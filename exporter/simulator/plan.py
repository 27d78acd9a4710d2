"""Which devices a fleet has, and the files that describe it: all decided by the seed."""

import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from exporter.simulator.device import UNPRIVILEGED_ROLE, USERNAME, Identity
from exporter.simulator.faults import COMMON_FAULTS, FAULTS

_SITES = ("berlin", "hamburg", "lyon", "madrid", "oslo", "turin")
_MORE_SITES = ("antwerp", "bergen", "cork", "dresden", "espoo", "faro", "genoa", "halle", "izmir")
_ROLES = ("access", "access", "access", "core", UNPRIVILEGED_ROLE)
#: A fleet of all platforms has two of five devices with the first one.
_MIX = ("ios", "nxos_ssh", "ios", "eos", "junos")
_VENDORS = {"ios": "cisco", "nxos_ssh": "cisco", "eos": "arista", "junos": "juniper"}
#: Fleets above this have all sites.
_SMALL_FLEET = 100


def plan_devices(count: int, *, seed: int, platforms: Sequence[str]) -> list[Identity]:
    """The devices of a fleet; in a bigger fleet of the same seed those of a small one recur."""
    choice = random.Random(seed)
    sites = _SITES if count <= _SMALL_FLEET else _SITES + _MORE_SITES
    mix = [platform for platform in _MIX if platform in platforms]
    numbers: dict[tuple[str, str], int] = {}
    plain_http = 0
    identities = []
    for index in range(count):
        site, role = choice.choice(sites), choice.choice(_ROLES)
        number = numbers[site, role] = numbers.get((site, role), 0) + 1
        platform = mix[index % len(mix)]
        plain_http += platform == "eos"
        identities.append(
            Identity(
                name=f"{site}-{role}-{number:02d}",
                platform=platform,
                site=site,
                role=role,
                is_plain_http=platform == "eos" and plain_http % 3 == 0,
            )
        )
    return identities


def plan_faults(names: Sequence[str], share: float, seed: int) -> dict[str, str]:
    """Which devices fail from the start, and how: each of them in another way."""
    failing = random.Random(f"{seed}/faults").sample(names, round(len(names) * share))
    return {name: COMMON_FAULTS[index % len(COMMON_FAULTS)] for index, name in enumerate(failing)}


def faults_file(faults: Mapping[str, Any]) -> str:
    """The text of faults.yaml, with what may stand in it as comments."""
    known = "".join(f"#   {name}: {sentence}\n" for name, sentence in FAULTS.items())
    return (
        "# What is wrong with which device; read again whenever this file changes.\n"
        "#   NAME: FAULT  or  NAME: {fault: FAULT, bytes_per_second: 1, after_bytes: 500}\n"
        f"# Faults:\n{known}{yaml.safe_dump(dict(faults), sort_keys=True)}"
    )


def write_inventory(directory: Path, addresses: Sequence[tuple[Identity, str, int]]) -> None:
    """Write Nornir's SimpleInventory, each file at once; hosts.yaml comes last."""
    hosts = {identity.name: _host(identity, host, port) for identity, host, port in addresses}
    groups = _groups([identity for identity, _, _ in addresses])
    defaults = {"data": {"zone": "default"}}
    for name, content in (("defaults", defaults), ("groups", groups), ("hosts", hosts)):
        write_at_once(directory / f"{name}.yaml", yaml.safe_dump(content, sort_keys=False))


def write_at_once(file: Path, text: str | bytes) -> None:
    """Replace the file, so that a reader never sees half of it."""
    fresh = file.with_name(f".{file.name}.new")
    fresh.write_bytes(text.encode() if isinstance(text, str) else text)
    fresh.replace(file)


def _host(identity: Identity, address: str, port: int) -> dict[str, Any]:
    host: dict[str, Any] = {
        "hostname": address,
        "port": port,
        "groups": [identity.site, identity.platform],
        "data": {"role": identity.role},
    }
    if identity.is_plain_http:
        host["connection_options"] = _napalm_options(transport="http")
    return host


def _groups(identities: Iterable[Identity]) -> dict[str, Any]:
    groups: dict[str, Any] = {}
    for identity in identities:
        groups[identity.site] = {"data": {"site": identity.site}}
        groups[identity.platform] = {
            "platform": identity.platform,
            "username": USERNAME,
            "password": identity.password,
            "data": {"vendor": _VENDORS[identity.platform]},
        }
        if identity.platform == "ios":
            secret = _napalm_options(secret=identity.enable_secret)
            groups[identity.platform]["connection_options"] = secret
    return groups


def _napalm_options(**optional_args: str) -> dict[str, Any]:
    return {"napalm": {"extras": {"optional_args": optional_args}}}
