"""Whom the embedded PostgreSQL runs as, and which folders that user can reach."""

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.errors import DatabaseProblem


@dataclass(frozen=True)
class Account:
    """The user that the server runs as."""

    name: str
    user_id: int
    group_id: int

    def drop(self) -> dict[str, Any]:
        """Arguments of subprocess that give a child this user's rights and no others.

        Only root can and must give some up.
        """
        if os.geteuid() != 0 or self.user_id == 0:
            return {}
        return {"user": self.user_id, "group": self.group_id, "extra_groups": []}


def find_account(user: str) -> Account:
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        raise DatabaseProblem(
            f"there is no user {user!r} to run the embedded PostgreSQL as; it refuses to run as "
            "root\n"
            f"hint: useradd --system --no-create-home --shell /usr/sbin/nologin {user}"
        ) from None
    return Account(found.pw_name, found.pw_uid, found.pw_gid)


def reachable_by(path: Path, user: str) -> bool:
    """Whether `user` may pass through every existing folder down to `path`.

    What does not exist yet is made by us, and made passable. Only root can ask: everybody else
    runs the server as themselves, and hears True.
    """
    return closed_folder(path, find_account(user)) is None


def closed_folder(path: Path, account: Account) -> Path | None:
    """The first existing folder on the way to `path` that `account` may not pass, if any."""
    drop = account.drop()
    if not drop:
        return None
    for folder in [*reversed(path.absolute().parents), path.absolute()]:
        if not folder.exists():
            return None
        # Asked with the user's own rights: mode bits alone would overlook access lists.
        if subprocess.run(["test", "-x", folder], check=False, cwd="/", **drop).returncode:
            return folder
    return None


def make_passable(folder: Path) -> None:
    """Make a folder and its missing parents, passable for everybody whatever the umask is."""
    if not folder.parent.is_dir():
        make_passable(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        return
    folder.chmod(0o755)
