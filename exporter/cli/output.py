"""What commands print: every list as a table for people, or as JSON or CSV for programs."""

import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

console = Console(highlight=False)
#: What is not the answer itself goes to standard error: progress, hints, errors.
errors = Console(stderr=True, highlight=False)

Command = TypeVar("Command", bound=Callable[..., Any])

#: The same colours everywhere, beside the word, never instead of it.
_COLOURS = {
    "success": "green",
    "normal": "green",
    "failed": "red",
    "abnormal": "red",
    "timeout": "magenta",
    "cancelled": "yellow",
    "stale": "yellow",
    "never": "yellow",
    "running": "cyan",
    "queued": "blue",
}


def list_options(command: Command) -> Command:
    """--json and --csv, as the argument `output_format`."""
    command = click.option(
        "--csv", "output_format", flag_value="csv", help="Print CSV with a header line."
    )(command)
    command = click.option(
        "--json", "output_format", flag_value="json", help="Print JSON, times in UTC (ISO 8601)."
    )(command)
    return click.option("--table", "output_format", flag_value="table", default=True, hidden=True)(
        command
    )


def print_rows(
    rows: Sequence[Mapping[str, Any]], output_format: str, *, columns: Sequence[str], empty: str
) -> None:
    """Print rows in the format; `columns` are the table's, JSON and CSV have every key.

    `empty` is the sentence that a person reads where there is no row.
    """
    if output_format == "json":
        click.echo(json.dumps([_plain(row) for row in rows], indent=2, ensure_ascii=False))
    elif output_format == "csv":
        _print_csv(rows, columns)
    elif rows:
        console.print(_table(rows, columns))
    else:
        errors.print(empty)


def print_record(record: Mapping[str, Any], output_format: str) -> None:
    """Print one thing: name and value a line, or a JSON object."""
    if output_format == "json":
        click.echo(json.dumps(_plain(record), indent=2, ensure_ascii=False))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in record.items():
        table.add_row(f"{name}:", _cell(value))
    console.print(table)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _json_value(value) for name, value in row.items()}


def _json_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if value is None or isinstance(value, bool | int | float | str | list | dict):
        return value
    return str(value)


def _print_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    writer = csv.DictWriter(sys.stdout, list(rows[0]) if rows else columns)
    writer.writeheader()
    for row in rows:
        writer.writerow(_plain(row))


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        is_number = any(isinstance(row[column], int | float) for row in rows)
        table.add_column(
            column.replace("_", " "),
            justify="right" if is_number else "left",
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(_cell(row[column]) for column in columns))
    return table


def _cell(value: Any) -> Text:
    """Text as it is: what a device or a person wrote is never read as markup."""
    if value is None:
        return Text("-", style="dim")
    if isinstance(value, datetime):
        return Text(value.strftime("%Y-%m-%d %H:%M:%SZ"))
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, float):
        return Text(f"{value:.2f}")
    if isinstance(value, list):
        return Text(", ".join(str(item) for item in value))
    return Text(str(value), style=_COLOURS.get(str(value), ""))
