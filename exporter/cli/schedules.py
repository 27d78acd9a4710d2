"""Commands about schedules."""

import click

from exporter.cli.context import CommandContext, asker
from exporter.cli.output import errors, list_options, print_rows
from exporter.queries.schedules import list_schedules
from exporter.schedules import pause_schedule, resume_schedule


@click.group(invoke_without_command=True)
@list_options
@click.pass_context
def schedules(click_context: click.Context, output_format: str) -> None:
    """List schedules with their ticks; pause or resume one."""
    if click_context.invoked_subcommand:
        return
    context: CommandContext = click_context.obj
    with context.reading() as connection:
        rows = list_schedules(connection)
    columns = [
        "name",
        "cron",
        "interval_seconds",
        "time_zone",
        "is_active",
        "last_tick_at",
        "next_tick_at",
        "missed_ticks",
        "paused_note",
    ]
    print_rows(rows, output_format, columns=columns, empty="the configuration has no schedule")


@schedules.command()
@click.argument("schedule")
@click.option("--note", required=True, help="Why; it shows everywhere.")
@click.pass_obj
def pause(context: CommandContext, schedule: str, note: str) -> None:
    """Let a schedule rest until it is resumed, also over restarts and reloads."""
    with context.writing() as connection:
        pause_schedule(connection, schedule, by=asker(), note=note)
    errors.print(f"{schedule} is paused")


@schedules.command()
@click.argument("schedule")
@click.pass_obj
def resume(context: CommandContext, schedule: str) -> None:
    """Let a schedule fire again, from its next tick on."""
    with context.writing() as connection:
        resume_schedule(connection, schedule)
    errors.print(f"{schedule} is active")
