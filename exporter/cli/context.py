"""What a command needs before it begins: the settings, a connection, and who is asking."""

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sqlalchemy import Connection, Engine

from exporter.database.engine import create_engine, database_errors
from exporter.settings import Settings, find_settings_file, load_settings


@dataclass
class CommandContext:
    """Reads the settings when they are first needed: `--help` and `init` need none."""

    named_file: Path | None

    @cached_property
    def settings_file(self) -> Path:
        return self.named_file or find_settings_file()

    @cached_property
    def settings(self) -> Settings:
        return load_settings(self.settings_file)

    @cached_property
    def engine(self) -> Engine:
        return create_engine(self.settings.database, application_name="configbackup command")

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection to read with; PostgreSQL's absence is a DatabaseProblem."""
        with database_errors(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is committed at the end of the block."""
        with database_errors(), self.engine.begin() as connection:
            yield connection


def asker() -> str:
    """Who runs the command, for the record."""
    return f"{getpass.getuser()} (command line)"
