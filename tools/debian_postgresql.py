"""Run a command beside the distribution's PostgreSQL, unpacked by `make servers`.

    python tools/debian_postgresql.py COMMAND ...

The command finds the URL of its superuser in CONFIGBACKUP_TEST_DATABASE_URL; the server and its
data are gone when the command ends. Its exit code is ours.
"""

import contextlib
import os
import platform
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SERVERS = Path(__file__).parent.parent / "build" / "servers" / "usr"


def main() -> int:
    with running_server() as url:
        environment = {**os.environ, "CONFIGBACKUP_TEST_DATABASE_URL": url}
        return subprocess.run(sys.argv[1:], check=False, env=environment).returncode


@contextlib.contextmanager
def running_server() -> Iterator[str]:
    """A server in a folder of its own; copied, as its user may not reach the checkout."""
    with tempfile.TemporaryDirectory(prefix="configbackup-debian-", dir="/tmp") as name:
        base = Path(name)
        base.chmod(0o755)
        for part in ("lib/postgresql", "share/postgresql", libraries()):
            shutil.copytree(SERVERS / part, base / "usr" / part, symlinks=True)
        (programs,) = base.glob("usr/lib/postgresql/*/bin")
        data = base / "data"
        data.mkdir(mode=0o700)
        password_file = base / "password"
        password = secrets.token_urlsafe()
        password_file.write_text(password)
        drop = unprivileged_user()
        if drop:
            os.chown(data, drop["user"], drop["group"])
            os.chown(password_file, drop["user"], drop["group"])

        def run(program: str, *arguments: object) -> None:
            subprocess.run(
                [str(part) for part in (programs / program, *arguments)],
                check=True,
                cwd="/",
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "LD_LIBRARY_PATH": str(base / "usr" / libraries())},
                **drop,
            )

        run("initdb", "-D", data, "-U", "postgres", "-A", "scram-sha-256",
            f"--pwfile={password_file}", "-E", "UTF8", "--locale=C", "--no-sync")  # fmt: skip
        port = free_port()
        options = (
            f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories='' "
            "-c max_connections=200 -c fsync=off"
        )
        run("pg_ctl", "-D", data, "-w", "-l", data / "log", "-o", options, "start")
        try:
            yield f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")


def libraries() -> str:
    return f"lib/{platform.machine()}-linux-gnu"


def unprivileged_user() -> dict[str, Any]:
    """Arguments of subprocess: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    account = pwd.getpwnam("configbackup")
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
