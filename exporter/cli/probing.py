"""Commands that talk to one device from here: a trial, and its host key."""

import sys
from dataclasses import asdict

import click

from exporter.cli.context import CommandContext, asker
from exporter.cli.output import console, errors
from exporter.collection import HostKeyPin, Probe, Request, probe
from exporter.errors import ADVICE
from exporter.executions.endings import pin_key
from exporter.inventory import load_inventory
from exporter.queries.devices import device_id, pinned_key

_FAILED = 1


@click.command("probe")
@click.argument("device")
@click.option("--show", "is_shown", is_flag=True, help="Also print the configuration, redacted.")
@click.pass_obj
def probe_command(context: CommandContext, device: str, is_shown: bool) -> None:
    """Connect to a device and show the dialogue, the times and each check; record nothing.

    Secrets are redacted. Exit code 1: a backup would fail now.
    """
    with context.reading() as connection:
        pinned = pinned_key(connection, device)
    pin = HostKeyPin(pinned["key_type"], pinned["key_base64"]) if pinned else None
    result = probe(_request(context, device, pin))
    _print_probe(result, is_shown=is_shown)
    sys.exit(_FAILED if result.failure else 0)


@click.command()
@click.argument("device")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def trust(context: CommandContext, device: str, yes: bool) -> None:
    """Accept the host key that a device shows now, in place of the pinned one."""
    with context.reading() as connection:
        pinned = pinned_key(connection, device)
    result = probe(_request(context, device, None))
    if result.host_key is None:
        errors.print(f"{device} showed no host key", markup=False)
        if result.failure:
            errors.print(str(result.failure), markup=False, style="red")
        sys.exit(_FAILED)
    if pinned:
        old = HostKeyPin(pinned["key_type"], pinned["key_base64"])
        console.print(f"pinned: {old.fingerprint} ({old.key_type})", markup=False)
    new = result.host_key
    console.print(f"shown:  {new.fingerprint} ({new.key_type})", markup=False)
    if not yes:
        click.confirm(f"Trust this key of {device} from now on?", abort=True)
    with context.writing() as connection:
        pin_key(connection, device_id(connection, device), new, accepted_by=asker())
    errors.print(f"the key of {device} is pinned")


def _request(context: CommandContext, device: str, pin: HostKeyPin | None) -> Request:
    inventory = load_inventory(context.settings.inventory, context.settings.collection)
    login = inventory.login(device)
    facts = inventory.devices[device]
    return Request(
        login=login,
        platform=facts.platform,
        deadline_seconds=facts.deadline_seconds,
        maximum_bytes=context.settings.collection.maximum_bytes,
        pinned_key=pin,
    )


def _print_probe(result: Probe, *, is_shown: bool) -> None:
    if result.dialogue:
        console.rule("dialogue")
        console.print(result.dialogue, markup=False, soft_wrap=True)
    if is_shown and result.text:
        console.rule("configuration")
        console.print(result.text, markup=False, soft_wrap=True)
    console.rule("times")
    for name, seconds in asdict(result.times).items():
        if seconds is not None:
            console.print(f"{name.removesuffix('_seconds'):8} {seconds:.3f} s")
    if result.host_key:
        console.print(f"host key {result.host_key.fingerprint}", markup=False)
    console.rule("checks")
    for check in result.checks:
        console.print(
            f"{'ok' if check.passed else 'FAILED':8} {check.name}: {check.note}", markup=False
        )
    if result.failure:
        console.print(f"{result.failure}", markup=False, style="red")
        console.print(f"hint: {ADVICE[result.failure.reason].action}", markup=False)
