"""Commands about devices: their present, pauses, versions, and a look at the dialogue."""

import difflib
import sys
from datetime import UTC, datetime, timedelta

import click
from sqlalchemy import Connection

from exporter.cli.context import CommandContext, asker
from exporter.cli.output import console, errors, list_options, print_rows
from exporter.inventory import pause_device, purge_device, resume_device
from exporter.queries.devices import list_devices, list_versions, version

_WRONG_COMMAND = 2


class _Until(click.ParamType[datetime]):
    """A time: ISO 8601 (UTC where no zone is given), or a span from now such as 90m, 12h, 7d."""

    name = "time"
    _UNITS = {"m": "minutes", "h": "hours", "d": "days"}  # noqa: RUF012

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        if isinstance(value, str) and value[:-1].isdigit() and value[-1] in self._UNITS:
            return datetime.now(UTC) + timedelta(**{self._UNITS[value[-1]]: int(value[:-1])})
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is neither a span such as 12h or 7d nor an ISO 8601 time")
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        if moment <= datetime.now(UTC):
            self.fail(f"{value!r} is in the past")
        return moment


@click.group(invoke_without_command=True)
@click.option("--site", help="Only those of this site.")
@click.option(
    "--state",
    type=click.Choice(["normal", "abnormal", "never", "stale"]),
    help="Only those in this state.",
)
@click.option("--search", help="Only those with this text in name or address.")
@click.option("--retired", is_flag=True, help="Also those that left the inventory.")
@list_options
@click.pass_context
def devices(
    click_context: click.Context,
    *,
    site: str | None,
    state: str | None,
    search: str | None,
    retired: bool,
    output_format: str,
) -> None:
    """List devices with their state; pause, resume or purge one."""
    if click_context.invoked_subcommand:
        return
    context: CommandContext = click_context.obj
    with context.reading() as connection:
        rows = list_devices(
            connection, site=site, state=state, search=search, include_retired=retired
        )
    columns = [
        "name",
        "address",
        "platform",
        "site",
        "state",
        "last_status",
        "last_reason",
        "last_success_at",
        "consecutive_failures",
        "paused_until",
    ]
    print_rows(rows, output_format, columns=columns, empty="no device")


@devices.command()
@click.argument("device")
@click.option("--until", type=_Until(), required=True, help="ISO 8601 time, or 90m, 12h, 7d.")
@click.option("--note", required=True, help="Why; it shows everywhere.")
@click.pass_obj
def pause(context: CommandContext, device: str, until: datetime, note: str) -> None:
    """Leave a device out of its schedules until a time; the pause ends by itself."""
    with context.writing() as connection:
        pause_device(connection, device, until=until, note=note, by=asker())
    errors.print(f"{device} is paused until {until:%Y-%m-%d %H:%M}Z")


@devices.command()
@click.argument("device")
@click.pass_obj
def resume(context: CommandContext, device: str) -> None:
    """End a pause."""
    with context.writing() as connection:
        resume_device(connection, device)
    errors.print(f"{device} takes part in its schedules again")


@devices.command()
@click.argument("device")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def purge(context: CommandContext, device: str, yes: bool) -> None:
    """Delete a device with its executions and configurations, for ever.

    Its commits stay in Git, and its executions stay counted in statistics and counters.
    """
    if not yes:
        click.confirm(f"Delete {device} and its whole history?", abort=True)
    with context.writing() as connection:
        purge_device(connection, device)
    errors.print(f"{device} is deleted")


@click.command()
@click.argument("device")
@click.option("--version", "version_id", type=int, help="Id of a version; the newest without it.")
@click.option("--versions", is_flag=True, help="List the versions instead.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=30, help="Versions at most.")
@list_options
@click.pass_obj
def show(
    context: CommandContext,
    *,
    device: str,
    version_id: int | None,
    versions: bool,
    limit: int,
    output_format: str,
) -> None:
    """Print a device's configuration as it was sent, or list its versions."""
    with context.reading() as connection:
        if versions:
            rows = list_versions(connection, device, limit=limit)
            columns = [
                "id",
                "created_at",
                "size_bytes",
                "lines_added",
                "lines_removed",
                "git_commit_id",
            ]
            print_rows(rows, output_format, columns=columns, empty="no version is stored yet")
        else:
            sys.stdout.buffer.write(_text_of(connection, device, version_id))


@click.command()
@click.argument("device")
@click.option("--from", "old_id", type=int, help="Id of a version; the second newest without it.")
@click.option("--to", "new_id", type=int, help="Id of a version; the newest without it.")
@click.pass_obj
def diff(context: CommandContext, device: str, old_id: int | None, new_id: int | None) -> None:
    """Show what changed between two versions of a device (exit code 0 also with a difference)."""
    with context.reading() as connection:
        newest = [row["id"] for row in list_versions(connection, device, limit=2)]
        if old_id is None and len(newest) < 2:
            errors.print(f"{device} has fewer than two versions")
            return
        old_id = newest[1] if old_id is None else old_id
        new_id = newest[0] if new_id is None else new_id
        old, new = (_text_of(connection, device, number) for number in (old_id, new_id))
    for line in difflib.unified_diff(
        old.decode(errors="replace").splitlines(),
        new.decode(errors="replace").splitlines(),
        f"{device} version {old_id}",
        f"{device} version {new_id}",
        lineterm="",
    ):
        console.print(line, style=_DIFF_STYLES.get(line[:1]), markup=False, soft_wrap=True)


_DIFF_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def _text_of(connection: Connection, device: str, version_id: int | None) -> bytes:
    found = version(connection, device, version_id)
    if found is None:
        errors.print(f"{device} has no such version; see: configbackup show {device} --versions")
        sys.exit(_WRONG_COMMAND)
    if found.text is None:
        errors.print(f"the text of version {found.id} was thinned out; Git has it")
        sys.exit(_WRONG_COMMAND)
    return found.text
