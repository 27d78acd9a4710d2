"""Write docs/reporting.md anew from the views: what stands above its first view is kept.

python tools/reporting_page.py
"""

import shutil
import tempfile
from pathlib import Path

from exporter.database import engine, migrations
from exporter.database.embedded import EmbeddedPostgres
from exporter.database.reporting import documentation
from exporter.settings import DatabaseSettings

PAGE = Path("docs/reporting.md")


def main() -> None:
    directory = Path(tempfile.mkdtemp(prefix="configbackup-reporting-", dir="/tmp"))
    directory.chmod(0o755)
    settings = DatabaseSettings(directory=directory)
    server = EmbeddedPostgres(settings)
    server.start()
    try:
        database = engine.create_engine(settings, application_name="reporting page")
        migrations.upgrade(database)
        with database.connect() as connection:
            tables = documentation(connection)
    finally:
        server.stop()
        shutil.rmtree(directory)
    head = PAGE.read_text(encoding="utf-8").split("## reporting.")[0]
    PAGE.write_text(head + tables, encoding="utf-8")


if __name__ == "__main__":
    main()
