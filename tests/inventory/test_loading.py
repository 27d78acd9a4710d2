"""What is read of an inventory: each fact from device, groups or defaults; any plugin."""

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
import yaml
from nornir.core.inventory import ConnectionOptions, Defaults, Group, Groups, Host, Hosts
from nornir.core.inventory import Inventory as NornirInventory
from nornir.core.plugins.inventory import InventoryPluginRegister
from nornir.plugins.inventory.simple import SimpleInventory

from exporter.errors import CollectionFailed, InvalidInventory, Reason
from exporter.inventory import Inventory, InventoryDevice, load_inventory
from exporter.settings import CollectionSettings, InventorySettings

LoadFiles = Callable[..., Inventory]

HOSTS = """
    core-1:
      hostname: 192.0.2.1
      port: 2222
      groups: [edge, berlin]
      data: {deadline_seconds: 300, enable_secret: "env:TEST_ENABLE"}
    leaf-1:
      hostname: leaf-1.example.net
      platform: eos
      data: {enabled: false, vendor: Arista Networks, driver: eos}
"""
GROUPS = """
    berlin:
      data: {site: berlin, zone: dmz}
    edge:
      platform: ios
      groups: [old]
      connection_options:
        napalm:
          extras: {optional_args: {transport: telnet, inline_transfer: true}}
    old:
      username: legacy
      data: {site: never}
"""
DEFAULTS = """
    platform: junos
    username: backup
    password: env:TEST_PASSWORD
    connection_options:
      napalm:
        extras: {optional_args: {transport: ssh, keepalive: 30}}
"""


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PASSWORD", "pass-word")
    monkeypatch.setenv("TEST_ENABLE", "enable-word")


def test_facts_come_from_device_then_groups_then_defaults(load: LoadFiles) -> None:
    devices = load(HOSTS, GROUPS, DEFAULTS).devices

    assert devices["core-1"] == InventoryDevice(
        name="core-1",
        address="192.0.2.1",
        port=2222,
        platform="ios",
        driver="ios",
        vendor=devices["core-1"].vendor,
        site="never",
        zone="dmz",
        groups=("edge", "old", "berlin"),
        enabled=True,
        deadline_seconds=300,
    )
    leaf = devices["leaf-1"]
    assert (leaf.platform, leaf.vendor, leaf.enabled) == ("eos", "Arista Networks", False)
    assert (leaf.site, leaf.zone, leaf.port) == ("default", "default", None)
    assert leaf.deadline_seconds == 90


def test_a_login_merges_optional_arguments_and_resolves_references(load: LoadFiles) -> None:
    login = load(HOSTS, GROUPS, DEFAULTS).login("core-1")

    assert (login.address, login.port, login.driver) == ("192.0.2.1", 2222, "ios")
    assert (login.username, login.password) == ("legacy", "pass-word")
    assert login.optional_args == {
        "transport": "telnet",
        "inline_transfer": True,
        "keepalive": 30,
        "secret": "enable-word",
    }


def test_a_file_reference_is_read_at_each_login(load: LoadFiles, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("first\n")
    inventory = load(HOSTS, GROUPS, f"{{username: u, password: 'file:{secret}', platform: ios}}")
    assert inventory.login("leaf-1").password == "first"

    secret.write_text("second\n")

    assert inventory.login("leaf-1").password == "second"


def test_a_device_whose_credentials_lead_nowhere_is_not_contacted(
    load: LoadFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    inventory = load(HOSTS, GROUPS, DEFAULTS)
    monkeypatch.delenv("TEST_PASSWORD")

    with pytest.raises(CollectionFailed, match="env:TEST_PASSWORD") as failure:
        inventory.login("core-1")

    assert failure.value.reason is Reason.GUARDED
    with pytest.raises(CollectionFailed, match="'gone' is not in the inventory"):
        inventory.login("gone")


def test_every_credential_that_leads_nowhere_is_told_once(
    load: LoadFiles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TEST_PASSWORD")
    hosts = "".join(f"r{n}: {{hostname: r{n}, platform: ios}}\n" for n in range(5))
    hosts += "k: {hostname: k, platform: ios, password: 'file:/nowhere/key'}\n"
    hosts += "spare: {hostname: s, platform: ios, password: 'env:NO', data: {enabled: false}}\n"

    faults = load(hosts, "", "password: env:TEST_PASSWORD").unresolved_credentials()

    assert [(Path(fault.file).name, fault.path, fault.found) for fault in faults] == [
        ("defaults.yaml", "defaults.password", "env:TEST_PASSWORD, a variable that is not set"),
        (
            "host.yaml",
            "hosts.k.password",
            "file:/nowhere/key, a file that cannot be read (No such file or directory)",
        ),
        ("host.yaml", "hosts.r0.username", "none (nor for 5 other devices)"),
    ]


def test_secrets_appear_in_no_representation(load: LoadFiles) -> None:
    hosts = "r: {hostname: r, username: SECRET, password: SECRET, data: {enable_secret: SECRET}}"

    inventory = load(hosts, "", "platform: ios")

    assert "SECRET" not in repr(
        (inventory, vars(inventory), inventory.login("r").optional_args.keys())
    )
    assert "SECRET" not in repr(inventory._accesses)


def test_resolution_agrees_with_nornir(
    load: LoadFiles, inventory_settings: InventorySettings
) -> None:
    ours = load(HOSTS, GROUPS, DEFAULTS)

    theirs = SimpleInventory(**inventory_settings.options).load().hosts

    for name, device in ours.devices.items():
        expected = theirs[name].get_connection_parameters("napalm")
        found = (device.address, device.port, device.platform, ours.login(name).username)
        assert found == (
            expected.hostname,
            expected.port,
            expected.platform,
            expected.username,
        )
        assert device.site == theirs[name].get("site", "default")


class _Plugin:
    """As NetBox's and Nautobot's: objects, no files; a site is a mapping."""

    def __init__(self, url: str, nb_token: str) -> None:
        self.url, self.token = url, nb_token

    def load(self) -> NornirInventory:
        if self.url == "broken":
            raise ConnectionError(f"no answer with {self.token}")
        defaults = Defaults(username="u", password="p", platform="ios")
        group = Group("g", defaults=defaults, data={"zone": "dmz"})
        options = {"napalm": ConnectionOptions(port=2022)}
        host = Host(
            "r1",
            hostname="r1",
            platform="",  # an empty cell of a table
            groups=[group],  # type: ignore[arg-type]
            defaults=defaults,
            connection_options=options,
            data={"site": {"id": 7, "slug": "rome", "name": "Rome"}},
        )
        return NornirInventory(Hosts({"r1": host}), Groups({"g": group}), defaults)


@pytest.fixture
def _plugin() -> Any:
    InventoryPluginRegister.register("TestPlugin", _Plugin)
    yield
    InventoryPluginRegister.deregister("TestPlugin")


def load_plugin(plugin: str = "TestPlugin", **options: str) -> Inventory:
    return load_inventory(InventorySettings(plugin=plugin, options=options), CollectionSettings())


@pytest.mark.usefixtures("_plugin")
def test_any_plugin_of_nornir_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_TOKEN", "t0ken")

    device = load_plugin(url="x", nb_token="env:TEST_TOKEN").devices["r1"]

    assert (device.site, device.zone, device.port) == ("rome", "dmz", 2022)
    assert device.platform == "ios"


@pytest.mark.usefixtures("_plugin")
def test_a_plugin_that_fails_is_a_fault_without_its_token() -> None:
    with pytest.raises(InvalidInventory, match=r"TestPlugin: \(load\): found ConnectionError") as e:
        load_plugin(url="broken", nb_token="t0ken-t0ken")

    assert "t0ken" not in str(e.value)


@pytest.mark.usefixtures("_plugin")
@pytest.mark.parametrize(
    ("plugin", "options", "message"),
    [
        ("NoSuch", {}, r"inventory\.plugin: found 'NoSuch', expected .*SimpleInventory"),
        ("TestPlugin", {"uri": "x"}, r"inventory\.options: found .*unexpected keyword.*'uri'"),
        ("SimpleInventory", {"files": "x"}, r"inventory\.options: found .*'files'"),
        (
            "TestPlugin",
            {"url": "", "nb_token": "env:NO"},
            r"inventory\.options\.nb_token: found env:NO",
        ),
    ],
)
def test_wrong_plugin_settings_are_faults(
    plugin: str, options: dict[str, str], message: str
) -> None:
    with pytest.raises(InvalidInventory, match=message):
        load_plugin(plugin, **options)


def test_ten_thousand_devices_load_in_seconds(load: LoadFiles) -> None:
    hosts = {
        f"sw-{n:05}": {
            "hostname": f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}",
            "groups": [f"site-{n % 50}", "access"],
            "data": {"rack": n % 40},
        }
        for n in range(10_000)
    }
    groups: dict[str, Any] = {f"site-{n}": {"data": {"site": f"site-{n}"}} for n in range(50)}
    groups["access"] = {"platform": "ios"}
    texts = yaml.dump(hosts, Dumper=yaml.CSafeDumper), yaml.safe_dump(groups)

    start = perf_counter()
    inventory = load(*texts)

    assert len(inventory.devices) == 10_000
    # Takes 2 s where the machine is free.
    assert perf_counter() - start < 20
