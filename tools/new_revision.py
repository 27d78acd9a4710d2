"""Write a migration from what the models have and the migrations have not.

    python tools/new_revision.py "add a table"

Read it before you commit it: Alembic does not see changed checks, and knows nothing of locks.
"""

import shutil
import socket
import sys
import tempfile
from pathlib import Path

from alembic import command

from exporter.database import engine, migrations
from exporter.database.embedded import EmbeddedPostgres
from exporter.settings import DatabaseSettings


def main(message: str) -> None:
    directory = Path(tempfile.mkdtemp(prefix="configbackup-revision-", dir="/tmp"))
    directory.chmod(0o755)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        settings = DatabaseSettings(directory=directory, port=probe.getsockname()[1])
    server = EmbeddedPostgres(settings)
    server.start()
    try:
        database = engine.create_engine(settings, application_name="new revision")
        migrations.upgrade(database)
        with database.connect() as connection:
            config = migrations.alembic_config()
            config.attributes["connection"] = connection
            number = f"{int(migrations.heads()[0]) + 1:04}"
            command.revision(config, message, autogenerate=True, rev_id=number)
    finally:
        server.stop()
        shutil.rmtree(directory)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1]:
        sys.exit('usage: make revision MESSAGE="add a table"')
    main(sys.argv[1])
