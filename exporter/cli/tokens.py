"""Commands about the tokens of the HTTP API."""

import click

from exporter.cli.context import CommandContext, asker
from exporter.cli.output import errors, list_options, print_rows
from exporter.models import ROLES
from exporter.web.tokens import audit, create_token, list_tokens, revoke_token


@click.group()
def token() -> None:
    """Tokens of the HTTP API; without any, it serves this machine alone."""


@token.command()
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), default=ROLES[0], help="What it may do.")
@click.option("--days", type=click.FloatRange(min=0, min_open=True), help="When it expires.")
@click.pass_obj
def create(context: CommandContext, name: str, role: str, days: float | None) -> None:
    """Make a token and print it; it is shown this once."""
    with context.writing() as connection:
        secret = create_token(connection, name, role=role, by=asker(), days=days)
        audit(connection, "create token", name, actor=asker(), details={"role": role})
    click.echo(secret)


@token.command("list")
@list_options
@click.pass_obj
def list_command(context: CommandContext, output_format: str) -> None:
    """List tokens, without their secrets."""
    with context.reading() as connection:
        rows = list_tokens(connection)
    columns = ["name", "role", "created_at", "created_by", "expires_at", "revoked_at"]
    print_rows(rows, output_format, columns=columns, empty="there is no token")


@token.command()
@click.argument("name")
@click.pass_obj
def revoke(context: CommandContext, name: str) -> None:
    """End a token and the browsers' sessions that began with it."""
    with context.writing() as connection:
        revoke_token(connection, name)
        audit(connection, "revoke token", name, actor=asker())
    errors.print(f"{name} is revoked")
