"""Load the inventory through any of Nornir's plugins, and judge it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from nornir.core.inventory import Inventory as NornirInventory
from nornir.core.plugins.inventory import INVENTORY_PLUGIN_PATH, InventoryPluginRegister

from exporter.collection import Login
from exporter.errors import CollectionFailed, Fault, InvalidInventory, Reason
from exporter.inventory.credentials import Access, Credential, Unresolved, is_reference, resolve
from exporter.inventory.files import read_simple_inventory
from exporter.inventory.validation import Files, InventoryDevice, judge
from exporter.settings import CollectionSettings, InventorySettings

SIMPLE_INVENTORY = "SimpleInventory"
#: Options whose values may hold a secret, such as `nb_token`.
_SECRET_OPTION_WORDS = ("token", "password", "secret", "key")


@dataclass(frozen=True)
class Inventory:
    """A valid inventory; its credentials appear in no repr."""

    devices: Mapping[str, InventoryDevice]
    _accesses: Mapping[str, Access] = field(repr=False)
    _files: Files

    def login(self, name: str) -> Login:
        """What a collector needs to log in; references are resolved now.

        Raises CollectionFailed (`guarded`) where the device is not in the inventory or a
        reference leads nowhere: the device is not contacted.
        """
        if name not in self.devices:
            raise CollectionFailed(Reason.GUARDED, f"{name!r} is not in the inventory any more")
        device, access = self.devices[name], self._accesses[name]
        if access.username is None:
            raise CollectionFailed(Reason.GUARDED, "the inventory has no username for the device")
        try:
            return Login(
                device=name,
                address=device.address,
                driver=device.driver,
                port=device.port,
                username=access.username.resolve(),
                password=access.password.resolve() if access.password else "",
                optional_args={
                    key: value.resolve() if isinstance(value, Credential) else value
                    for key, value in access.optional_args.items()
                },
            )
        except Unresolved as unresolved:
            message = f"credentials do not resolve: {unresolved}"
            raise CollectionFailed(Reason.GUARDED, message) from None

    def unresolved_credentials(self) -> list[Fault]:
        """Credentials of enabled devices that are missing or lead nowhere, each place once."""
        enabled = {name: self._accesses[name] for name, d in self.devices.items() if d.enabled}
        places = dict.fromkeys(c for access in enabled.values() for c in access.credentials())
        nameless = [name for name, access in enabled.items() if access.username is None]
        # Without a password there may be a key.
        keyless = [
            name
            for name, access in enabled.items()
            if access.password is None and not access.optional_args.get("key_file")
        ]
        return [
            *filter(None, map(_unresolved_fault, places)),
            *self._missing_fault("username", nameless),
            *self._missing_fault("password", keyless),
        ]

    def _missing_fault(self, key: str, names: list[str]) -> list[Fault]:
        if not names:
            return []
        others = f" (nor for {len(names) - 1} other devices)" if len(names) > 1 else ""
        expected = f"a {key} of the device, a group or the defaults"
        return [Fault(self._files.hosts, f"hosts.{names[0]}.{key}", f"none{others}", expected)]


def load_inventory(settings: InventorySettings, collection: CollectionSettings) -> Inventory:
    """Read the inventory through the plugin of the settings.

    Raises InvalidInventory with every fault at once.
    """
    faults: list[Fault] = []
    if settings.plugin == SIMPLE_INVENTORY:
        nornir, faults = _load_files(settings.options)
        names = ("host_file", "group_file", "defaults_file")
        files = Files(*(str(settings.options.get(name, name)) for name in names))
    else:
        nornir = _load_plugin(settings)
        files = Files(*[f"inventory plugin {settings.plugin}"] * 3)
    judgement = judge(nornir, files, deadline_seconds=collection.deadline_seconds)
    if all_faults := [*faults, *judgement.faults]:
        raise InvalidInventory(all_faults)
    return Inventory(judgement.devices, judgement.accesses, files)


def _load_files(options: Mapping[str, Any]) -> tuple[NornirInventory, list[Fault]]:
    try:
        return read_simple_inventory(**options)
    except TypeError as error:
        raise InvalidInventory([_options_fault(error)]) from None


def _load_plugin(settings: InventorySettings) -> NornirInventory:
    plugin = _plugin_named(settings.plugin)
    options = {key: _resolved_option(key, value) for key, value in settings.options.items()}
    try:
        loader = plugin(**options)
    except TypeError as error:
        raise InvalidInventory([_options_fault(error)]) from None
    try:
        return loader.load()  # type: ignore[no-any-return]
    except Exception as error:  # noqa: BLE001 - the border to foreign code, which may raise anything
        found = _without_secrets(f"{type(error).__name__}: {error}", options)
        fault = Fault(f"inventory plugin {settings.plugin}", "(load)", found, "an inventory")
        raise InvalidInventory([fault]) from None


def _plugin_named(name: str) -> Any:
    """Only the plugin asked for is imported: a broken one beside it does no harm."""
    if plugin := InventoryPluginRegister.available.get(name):
        return plugin
    entry_points = metadata.entry_points(group=INVENTORY_PLUGIN_PATH)
    installed = sorted({*entry_points.names, *InventoryPluginRegister.available})
    expected = f"one of the installed plugins: {', '.join(installed)}"
    if name not in entry_points.names:
        raise InvalidInventory([Fault("configuration", "inventory.plugin", repr(name), expected)])
    try:
        return entry_points[name].load()
    except (ImportError, AttributeError) as error:
        found = f"{name!r}, which cannot be imported ({error})"
        raise InvalidInventory(
            [Fault("configuration", "inventory.plugin", found, expected)]
        ) from None


def _resolved_option(key: str, value: Any) -> Any:
    if not is_reference(value):
        return value
    try:
        return resolve(value)
    except Unresolved as unresolved:
        place, expected = f"inventory.options.{key}", "a reference that resolves"
        raise InvalidInventory([Fault("configuration", place, str(unresolved), expected)]) from None


def _options_fault(error: TypeError) -> Fault:
    return Fault("configuration", "inventory.options", str(error), "arguments of the plugin")


def _without_secrets(message: str, options: Mapping[str, Any]) -> str:
    for key, value in options.items():
        if isinstance(value, str) and any(word in key.lower() for word in _SECRET_OPTION_WORDS):
            message = message.replace(value, "***") if value else message
    return message.splitlines()[0][:300]


def _unresolved_fault(credential: Credential) -> Fault | None:
    try:
        credential.resolve()
    except Unresolved as unresolved:
        expected = "a reference that resolves"
        return Fault(credential.file, credential.path, str(unresolved), expected)
    return None


def fingerprint(settings: InventorySettings) -> tuple[object, ...] | None:
    """Changes when the files of SimpleInventory change; None: a plugin, ask it each time."""
    if settings.plugin != SIMPLE_INVENTORY:
        return None
    return tuple(
        (status.st_ino, status.st_size, status.st_mtime_ns) if status else None
        for status in map(_status, (v for k, v in settings.options.items() if k.endswith("_file")))
    )


def _status(file: str) -> Any:
    try:
        return Path(file).expanduser().stat()
    except OSError:
        return None
