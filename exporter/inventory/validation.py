"""Nornir's inventory, judged device by device: facts and access of each, or every fault.

Each fact is the first that is set on the device, its groups in order, the defaults, as in Nornir;
what stands under `connection_options.napalm` goes before the rest. Nornir takes `extras` whole
from one of them; `optional_args` are merged instead, the nearest to the device winning, and
`data.optional_args` is read beside `extras.optional_args`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, NamedTuple

from nornir.core.inventory import BaseAttributes, Defaults, Group, Host
from nornir.core.inventory import Inventory as NornirInventory
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError

from exporter.errors import Fault
from exporter.inventory.credentials import Access, Credential, is_reference
from exporter.inventory.files import describe
from exporter.platforms import PLATFORM_NAMES, platform_named
from exporter.settings import Port

DEFAULT_SITE = "default"
DEFAULT_ZONE = "default"


def _printable(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError
    return text


def _slug(value: object) -> object:
    """NetBox and Nautobot give a site as a mapping with slug and name."""
    return value.get("slug") or value.get("name") if isinstance(value, Mapping) else value


Text = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_printable)]
Label = Annotated[Text, BeforeValidator(_slug)]


class _Facts(BaseModel):
    name: Text
    hostname: Text
    port: Port | None
    platform: Label
    driver: Text | None
    vendor: Label | None
    site: Label | None
    zone: Label | None
    enabled: bool | None
    deadline_seconds: Annotated[float, Field(gt=0, le=86_400)] | None


_ATTRIBUTES = ("hostname", "port", "platform")
_DATA = ("driver", "vendor", "site", "zone", "enabled", "deadline_seconds")
_EXPECTED = {
    "name": "a printable name of 1 to 255 characters without blanks around it",
    "hostname": "a host name or an IP address",
    "port": "a port from 1 to 65535",
    "platform": f"one of {', '.join(PLATFORM_NAMES)}",
    "driver": "the name of a NAPALM driver",
    "enabled": "true or false",
    "deadline_seconds": "seconds above 0, at most 86400",
    "optional_args": "a mapping of NAPALM's optional arguments",
}
_EXPECTED_TEXT = "printable text; in quotes if a number"


@dataclass(frozen=True, slots=True)
class InventoryDevice:
    """A device as the inventory has it; all but credentials."""

    name: str
    address: str
    #: None: the driver's default.
    port: int | None
    platform: str
    driver: str
    vendor: str
    site: str
    zone: str
    groups: tuple[str, ...]
    enabled: bool
    deadline_seconds: float


@dataclass(frozen=True)
class Files:
    """Where a person finds hosts, groups and defaults: file names, or the plugin's name thrice."""

    hosts: str
    groups: str
    defaults: str


class _Level(NamedTuple):
    """The device, one of its groups or the defaults."""

    file: str
    path: str
    element: BaseAttributes
    options: BaseAttributes | None
    data: Mapping[str, Any]


class _Found(NamedTuple):
    value: Any
    file: str
    path: str


@dataclass
class Judgement:
    """What came out: the devices and their access, or faults (each once, however many share it)."""

    devices: dict[str, InventoryDevice] = field(default_factory=dict)
    accesses: dict[str, Access] = field(default_factory=dict)
    faults: dict[Fault, None] = field(default_factory=dict)

    def add_fault(self, found: _Found, expected: str, *, described: str | None = None) -> None:
        text = described or ("nothing" if found.value is None else repr(found.value)[:100])
        self.faults[Fault(found.file, found.path, text, expected)] = None


def judge(inventory: NornirInventory, files: Files, *, deadline_seconds: float) -> Judgement:
    """`deadline_seconds` is for devices whose inventory says nothing."""
    judgement = Judgement()
    circular = _circular_groups(inventory)
    for name in circular:
        found = _Found(name, files.groups, f"groups.{name}.groups")
        judgement.add_fault(found, "groups that do not contain themselves")
    if circular:
        # Nornir's resolution would never end.
        return judgement

    @cache
    def group_level(name: str) -> _Level:
        return _level(files.groups, f"groups.{name}", inventory.groups[name])

    defaults_level = _level(files.defaults, "defaults", inventory.defaults)
    for name, host in inventory.hosts.items():
        groups = tuple(group.name for group in host.extended_groups())
        host_level = _level(files.hosts, f"hosts.{name}", host)
        levels = (host_level, *map(group_level, groups), defaults_level)
        facts = _facts(name, levels, judgement)
        judgement.accesses[name] = _access(levels, judgement)
        if facts is not None:
            judgement.devices[name] = _device(facts, groups, deadline_seconds)
    _judge_addresses(judgement, files)
    return judgement


def _circular_groups(inventory: NornirInventory) -> list[str]:
    def reaches_itself(group: Group) -> bool:
        pending, visited = list(group.groups), set()
        while pending:
            parent = pending.pop()
            if parent is group:
                return True
            if parent.name not in visited:
                visited.add(parent.name)
                pending += parent.groups
        return False

    return [name for name, group in inventory.groups.items() if reaches_itself(group)]


def _level(file: str, path: str, element: Host | Defaults) -> _Level:
    options = element.connection_options.get("napalm")
    return _Level(file, path, element, options, element.data)


def _attribute(levels: Sequence[_Level], name: str) -> _Found:
    # Nornir's hosts and groups answer for their parents; here each level speaks for itself.
    for level in levels:
        if level.options and _is_set(value := getattr(level.options, name)):
            return _Found(value, level.file, f"{level.path}.connection_options.napalm.{name}")
    for level in levels:
        if _is_set(value := object.__getattribute__(level.element, name)):
            return _Found(value, level.file, f"{level.path}.{name}")
    return _Found(None, levels[0].file, f"{levels[0].path}.{name}")


def _is_set(value: object) -> bool:
    # In a table an empty cell is empty text.
    return value is not None and value != ""


def _datum(levels: Sequence[_Level], key: str) -> _Found:
    for level in levels:
        if _is_set(value := level.data.get(key)):
            return _Found(value, level.file, f"{level.path}.data.{key}")
    return _Found(None, levels[0].file, f"{levels[0].path}.data.{key}")


def _facts(name: str, levels: Sequence[_Level], judgement: Judgement) -> _Facts | None:
    found = {"name": _Found(name, levels[0].file, levels[0].path)}
    found |= {attribute: _attribute(levels, attribute) for attribute in _ATTRIBUTES}
    found |= {key: _datum(levels, key) for key in _DATA}
    wrong: set[str] = set()
    facts = None
    try:
        facts = _Facts.model_validate({key: place.value for key, place in found.items()})
    except ValidationError as error:
        wrong = {str(detail["loc"][0]) for detail in error.errors(include_url=False)}
    platform = found["platform"].value
    if "platform" not in wrong and _slug(platform) not in PLATFORM_NAMES:
        wrong.add("platform")
    for key in found:
        if key in wrong:
            judgement.add_fault(found[key], _EXPECTED.get(key, _EXPECTED_TEXT))
    return None if wrong else facts


def _device(facts: _Facts, groups: tuple[str, ...], deadline_seconds: float) -> InventoryDevice:
    platform = platform_named(facts.platform)
    return InventoryDevice(
        name=facts.name,
        address=facts.hostname,
        port=facts.port,
        platform=facts.platform,
        driver=facts.driver or platform.driver,
        vendor=facts.vendor or platform.vendor,
        site=facts.site or DEFAULT_SITE,
        zone=facts.zone or DEFAULT_ZONE,
        groups=groups,
        enabled=facts.enabled is not False,
        deadline_seconds=facts.deadline_seconds or deadline_seconds,
    )


def _access(levels: Sequence[_Level], judgement: Judgement) -> Access:
    optional_args: dict[str, Any] = {}
    for level in reversed(levels):
        for found in _optional_args(level):
            if isinstance(found.value, Mapping):
                optional_args |= {
                    str(key): _reference(value, found, str(key))
                    for key, value in found.value.items()
                }
            else:
                expected = _EXPECTED["optional_args"]
                judgement.add_fault(found, expected, described=describe(found.value))
    if secret := _credential(_datum(levels, "enable_secret"), judgement):
        optional_args["secret"] = secret
    return Access(
        username=_credential(_attribute(levels, "username"), judgement),
        password=_credential(_attribute(levels, "password"), judgement),
        optional_args=optional_args,
    )


def _optional_args(level: _Level) -> Iterator[_Found]:
    extras = getattr(level.options, "extras", None)
    if isinstance(extras, Mapping) and extras.get("optional_args") is not None:
        path = f"{level.path}.connection_options.napalm.extras.optional_args"
        yield _Found(extras["optional_args"], level.file, path)
    if (value := level.data.get("optional_args")) is not None:
        yield _Found(value, level.file, f"{level.path}.data.optional_args")


def _reference(value: Any, found: _Found, key: str) -> Any:
    return Credential(found.file, f"{found.path}.{key}", value) if is_reference(value) else value


def _credential(found: _Found, judgement: Judgement) -> Credential | None:
    if found.value is None:
        return None
    if not isinstance(found.value, str):
        judgement.add_fault(found, _EXPECTED_TEXT, described=describe(found.value))
        return None
    return Credential(found.file, found.path, found.value)


def _judge_addresses(judgement: Judgement, files: Files) -> None:
    taken: dict[tuple[str, int | None], str] = {}
    for name, device in judgement.devices.items():
        endpoint = (device.address.casefold(), device.port)
        if (other := taken.setdefault(endpoint, name)) != name:
            found = _Found(None, files.hosts, f"hosts.{name}.hostname")
            port = "the default port" if device.port is None else f"port {device.port}"
            described = f"{device.address} and {port}, as {other} has them"
            expected = "an address and port of its own"
            judgement.add_fault(found, expected, described=described)
