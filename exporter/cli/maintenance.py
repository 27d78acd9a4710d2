"""Commands about inventory, Git and PostgreSQL."""

import json
import sys
from pathlib import Path

import click
import sqlalchemy

from exporter.cli.context import CommandContext
from exporter.cli.output import console, errors, list_options, print_rows
from exporter.database.embedded import superuser_url
from exporter.database.engine import database_errors, database_url, is_embedded, parsed_url
from exporter.database.migrations import is_current, upgrade
from exporter.database.reporting import make_reader
from exporter.inventory import load_inventory, plan_synchronisation, synchronise
from exporter.leadership import Leadership
from exporter.publishing import Publisher, rebuild
from exporter.schedules import refresh_intervals

_OUTDATED = 1


@click.command()
@click.option("--apply", "is_applied", is_flag=True, help="Synchronise now, not at the next turn.")
@click.option(
    "--confirm-shrink",
    is_flag=True,
    help="With --apply: also where more than half of the fleet would be retired.",
)
@list_options
@click.pass_obj
def inventory(
    context: CommandContext, *, is_applied: bool, confirm_shrink: bool, output_format: str
) -> None:
    """Show what a synchronisation with the inventory would add, change, rename and retire."""
    loaded = load_inventory(context.settings.inventory, context.settings.collection)
    with context.writing() as connection:
        if is_applied:
            plan = synchronise(connection, loaded, confirm_shrink=confirm_shrink)
            refresh_intervals(connection)
        else:
            plan = plan_synchronisation(connection, loaded)
    rows = [{"change": "add", "device": name, "details": ""} for name in plan.added]
    rows += [
        {
            "change": "change",
            "device": name,
            "details": ", ".join(f"{c.field}: {c.before} -> {c.after}" for c in changes),
        }
        for name, changes in plan.changed.items()
    ]
    rows += [
        {"change": "rename", "device": old, "details": f"to {new}"}
        for old, new in plan.renamed.items()
    ]
    rows += [{"change": "return", "device": name, "details": ""} for name in plan.returned]
    rows += [{"change": "retire", "device": name, "details": ""} for name in plan.retired]
    print_rows(
        rows,
        output_format,
        columns=["change", "device", "details"],
        empty=f"{len(loaded.devices)} devices, nothing to change",
    )


@click.command()
@click.option("--rebuild", "is_rebuilt", is_flag=True, help="Write the repository anew.")
@click.pass_obj
def publish(context: CommandContext, is_rebuilt: bool) -> None:
    """Commit what is not yet in Git, once; or write the repository anew from PostgreSQL.

    Where a daemon leads it publishes by itself; then only --rebuild is of use, and it waits until
    the daemon is stopped.
    """
    leadership = Leadership(context.engine)
    with database_errors():
        if not leadership.acquire():
            errors.print("a daemon leads and publishes; stop it first")
            sys.exit(3)
        try:
            if is_rebuilt:
                rebuild(context.engine, context.settings.git, leadership.require)
                console.print(f"rebuilt {context.settings.git.directory}", markup=False)
            else:
                count = Publisher(
                    context.engine, context.settings.git, leadership.require
                ).publish()
                console.print(f"{count} commits")
        finally:
            leadership.release()


@click.group()
def database() -> None:
    """The database: where it is, its schema, and its address for other programs."""


@database.command()
@click.pass_obj
def migrate(context: CommandContext) -> None:
    """Bring the schema up to date (the daemon does so when it starts)."""
    with database_errors():
        upgrade(context.engine)
    console.print("the schema is up to date")


@database.command()
@click.pass_obj
def status(context: CommandContext) -> None:
    """Say where PostgreSQL is, and whether its schema is up to date (exit code 1: it is not)."""
    url = database_url(context.settings.database)
    with context.reading() as connection:
        server = connection.exec_driver_sql("SHOW server_version").scalar_one()
    current = is_current(context.engine)
    answer = {
        "embedded": is_embedded(context.settings.database),
        "host": url.host,
        "port": url.port,
        "database": url.database,
        "server_version": server,
        "schema_is_current": current,
    }
    click.echo(json.dumps(answer, indent=2))
    sys.exit(0 if current else _OUTDATED)


@database.command()
@click.option(
    "--administrator-url-file",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="File with the URL of a role that may create roles; not needed for the embedded server.",
)
@click.pass_obj
def reader(context: CommandContext, administrator_url_file: Path | None) -> None:
    """Create the role that reads the reporting views, or rotate its password.

    Prints Grafana's environment, the password in it: send it to a file that only Grafana reads.
    """
    settings = context.settings.database
    url = database_url(settings)
    administrator = url
    if administrator_url_file is not None:
        content = administrator_url_file.read_text(encoding="utf-8").strip()
        administrator = parsed_url(content, key=str(administrator_url_file))
    elif is_embedded(settings):
        administrator = superuser_url(settings).set(database=url.database)
    engine = sqlalchemy.create_engine(administrator, hide_parameters=True)
    with database_errors(), engine.begin() as connection:
        made = make_reader(connection, settings, url)
    engine.dispose()
    for name, value in made.environment.items():
        click.echo(f"{name}={value}")
    if not made.is_confined:
        errors.print(
            f"without a superuser {made.role} could not be kept from advisory locks and large "
            "objects; give one with --administrator-url-file",
            style="yellow",
        )
