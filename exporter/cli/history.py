"""Commands about what is kept: the executions' history and the stored configurations."""

import sys
from functools import partial

import click

from exporter.cli.context import CommandContext
from exporter.cli.output import errors, list_options, print_rows
from exporter.database.engine import database_errors
from exporter.integrity.configurations import verify_configurations
from exporter.integrity.nightly import record_check
from exporter.integrity.numbers import mend_numbers, verify_numbers
from exporter.retention import archive, plan_archive, record

_FAULTS_FOUND = 1


@click.group()
def history() -> None:
    """The history of executions: its numbers, its archive."""


@history.command("verify")
@click.option("--mend", is_flag=True, help="Make the numbers what the executions say.")
@list_options
@click.pass_obj
def verify_history(context: CommandContext, *, mend: bool, output_format: str) -> None:
    """Recompute statistics, device states and counters from the executions; show what differs.

    Exit code 1: something differs (with --mend: still differs).
    """
    with database_errors():
        differences = verify_numbers(context.engine)
        print_rows(
            [{**vars(d), "key": " ".join(map(str, d.key))} for d in differences],
            output_format,
            columns=["table", "key", "column", "stored", "expected"],
            empty="every number is what the executions say",
        )
        if mend and differences:
            mend_numbers(context.engine, differences)
            errors.print(f"mended {len(differences)} numbers")
            differences = verify_numbers(context.engine)
        record_check(context.engine, len(differences))
    sys.exit(_FAULTS_FOUND if differences else 0)


@history.command("archive")
@click.option("--dry-run", is_flag=True, help="Only show what would be done with which month.")
@list_options
@click.pass_obj
def archive_history(context: CommandContext, *, dry_run: bool, output_format: str) -> None:
    """Move old months to the archive, and export and delete those that leave it, now.

    The daemon does so every night. It may be ended at any moment; the next one goes on.
    """
    settings = context.settings.history
    with context.reading() as connection:
        steps = plan_archive(connection, settings)
    print_rows(
        [{"month": step.month, "action": str(step.action)} for step in steps],
        output_format,
        columns=["month", "action"],
        empty="no month is old enough",
    )
    if not dry_run:
        with database_errors():
            counts = record(context.engine, "archive", partial(archive, context.engine, settings))
        errors.print(", ".join(f"{name} {count}" for name, count in counts.items()))


@click.command()
@list_options
@click.pass_obj
def verify(context: CommandContext, *, output_format: str) -> None:
    """Read every stored configuration again, in PostgreSQL and in Git, and heal what can be.

    Exit code 1: a version is damaged and no copy of it is whole.
    """
    with database_errors():
        checked = verify_configurations(context.engine, context.settings.git)
    print_rows(
        [vars(damage) for damage in checked.damages],
        output_format,
        columns=["device", "version_id", "place", "is_healed"],
        empty=f"{checked.texts} configurations, all whole",
    )
    sys.exit(_FAULTS_FOUND if checked.lost else 0)
