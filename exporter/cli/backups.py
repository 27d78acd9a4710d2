"""Commands about backups: start one, wait for it, cancel it, and what has run."""

import sys
import time
import uuid

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from exporter.backups import BackupRequest, StartedBackup, cancel_backup, start_backup
from exporter.cli.context import CommandContext, asker
from exporter.cli.output import console, errors, list_options, print_record, print_rows
from exporter.database.engine import database_errors
from exporter.errors import ADVICE, Reason
from exporter.models import ENDED_STATUSES
from exporter.queries.executions import (
    backup_counts,
    execution,
    open_executions,
    recent_executions,
)
from exporter.settings import Selection

_NOT_BACKED_UP = 1
_WRONG_COMMAND = 2
_LOOK_SECONDS = 0.5


@click.command()
@click.argument("device_names", metavar="[DEVICE]...", nargs=-1)
@click.option("--site", multiple=True, help="Devices of this site; may be repeated.")
@click.option("--platform", multiple=True, help="Devices of this platform; may be repeated.")
@click.option("--group", multiple=True, help="Devices of this inventory group; may be repeated.")
@click.option("--zone", multiple=True, help="Devices of this zone; may be repeated.")
@click.option("--failing", is_flag=True, help="Devices whose last backup failed.")
@click.option("--all", "every", is_flag=True, help="Every enabled device that is not paused.")
@click.option("--comment", help="Why; it is kept with the backup.")
@click.option("--idempotency-key", help="A second call with this key starts nothing new.")
@click.option(
    "--accept-shrunk",
    is_flag=True,
    help="The configuration really shrank: store it though it is much shorter than the last.",
)
@click.option("--wait", is_flag=True, help="Wait for the end, then show what failed and why.")
@click.option(
    "--timeout",
    "timeout_seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="With --wait: give up waiting after so many seconds (exit code 1); the backup goes on.",
)
@click.pass_obj
def backup(
    context: CommandContext,
    *,
    device_names: tuple[str, ...],
    site: tuple[str, ...],
    platform: tuple[str, ...],
    group: tuple[str, ...],
    zone: tuple[str, ...],
    failing: bool,
    every: bool,
    comment: str | None,
    idempotency_key: str | None,
    accept_shrunk: bool,
    wait: bool,
    timeout_seconds: float | None,
) -> None:
    """Back up devices now: those named, or all that match every option.

    With --wait the exit code says how it ended: 0 every device was backed up, 1 at least one was
    not. An unknown device is an error (2), and nothing is started.
    """
    narrows = any((device_names, site, platform, group, zone, failing))
    if every == narrows:
        raise click.UsageError("name devices, or select some with an option, or all with --all")
    selection = Selection(
        all=every,
        devices=list(device_names),
        site=list(site),
        platform=list(platform),
        group=list(group),
        zone=list(zone),
        failing=failing,
    )
    with context.writing() as connection:
        started = start_backup(
            connection,
            BackupRequest(
                selection=selection,
                trigger="command",
                requested_by=asker(),
                comment=comment,
                idempotency_key=idempotency_key,
                accept_shrunk=accept_shrunk,
            ),
        )
    _announce(started)
    if wait:
        sys.exit(_follow(context, started.task_id, timeout_seconds))


def _announce(started: StartedBackup) -> None:
    word = "started" if started.is_new else "was started before"
    errors.print(
        f"backup {started.task_id} {word}: {started.queued} queued, {started.joined} joined"
    )


def _follow(context: CommandContext, task_id: uuid.UUID, timeout_seconds: float | None) -> int:
    """Show the progress until the backup ends; the exit code."""
    give_up = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=errors,
    )
    with progress:
        bar = progress.add_task("backing up")
        while True:
            with context.reading() as connection:
                counts = backup_counts(connection, task_id)
            ended = sum(counts[status] for status in ENDED_STATUSES)
            progress.update(bar, completed=ended, total=sum(counts.values()))
            if ended == sum(counts.values()):
                break
            if give_up is not None and time.monotonic() > give_up:
                errors.print("still running; follow it with: configbackup executions --open")
                return _NOT_BACKED_UP
            time.sleep(_LOOK_SECONDS)
    return _report(context, task_id, counts)


def _report(context: CommandContext, task_id: uuid.UUID, counts: dict[str, int]) -> int:
    console.print(", ".join(f"{counts[status]} {status}" for status in ENDED_STATUSES))
    if counts["success"] == sum(counts.values()):
        return 0
    with context.reading() as connection:
        rows = recent_executions(connection, limit=10_000, task_id=task_id)
    failures = [
        {**row, "what_to_do": ADVICE[Reason(row["reason"])].action if row["reason"] else None}
        for row in rows
        if row["status"] != "success"
    ]
    print_rows(
        failures,
        "table",
        columns=["device", "status", "reason", "error_message", "what_to_do"],
        empty="",
    )
    return _NOT_BACKED_UP


@click.command()
@click.argument("task_id", type=click.UUID)
@click.pass_obj
def cancel(context: CommandContext, task_id: uuid.UUID) -> None:
    """Cancel a backup: what waits ends at once, what runs is cut off within seconds."""
    with database_errors():
        cancelled = cancel_backup(context.engine, task_id, time_zone=context.settings.time_zone)
    errors.print(f"{cancelled.ended} ended, {cancelled.stopping} being cut off")


@click.command()
@click.argument("execution_id", type=click.UUID, required=False)
@click.option("--status", type=click.Choice(ENDED_STATUSES), help="Only those that ended so.")
@click.option("--reason", type=click.Choice(list(Reason)), help="Only those with this reason.")
@click.option("--device", help="Only those of this device.")
@click.option("--backup", "task_id", type=click.UUID, help="Only those that this backup wants.")
@click.option("--open", "is_open", is_flag=True, help="What waits or runs now.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=30, help="Rows at most.")
@list_options
@click.pass_obj
def executions(
    context: CommandContext,
    *,
    execution_id: uuid.UUID | None,
    status: str | None,
    reason: str | None,
    device: str | None,
    task_id: uuid.UUID | None,
    is_open: bool,
    limit: int,
    output_format: str,
) -> None:
    """List the newest executions, or show everything about one."""
    if execution_id is not None:
        _show_execution(context, execution_id, output_format)
    elif is_open:
        with context.reading() as connection:
            rows = open_executions(connection, limit=limit)
        columns = ["status", "device", "site", "trigger", "not_before", "try_started_at", "task_id"]
        print_rows(rows, output_format, columns=columns, empty="nothing waits or runs")
    else:
        with context.reading() as connection:
            rows = recent_executions(
                connection,
                limit=limit,
                status=status,
                device=device,
                reason=reason,
                task_id=task_id,
            )
        columns = [
            "completed_at",
            "device",
            "status",
            "reason",
            "execution_time",
            "retry_count",
            "config_size",
            "error_message",
        ]
        print_rows(rows, output_format, columns=columns, empty="no execution has ended yet")


def _show_execution(context: CommandContext, execution_id: uuid.UUID, output_format: str) -> None:
    with context.reading() as connection:
        row = execution(connection, execution_id)
    if row is None:
        errors.print(f"no ended execution has the id {execution_id}")
        sys.exit(_WRONG_COMMAND)
    print_record(row, output_format)
