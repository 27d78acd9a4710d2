"""The embedded server's life, on servers of the tests' own."""

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import psycopg2
import pytest
import sqlalchemy
from sqlalchemy import text

from exporter.database.accounts import reachable_by
from exporter.database.embedded import EmbeddedPostgres, embedded_url
from exporter.errors import DatabaseProblem
from exporter.settings import DatabaseSettings

pytestmark = pytest.mark.embedded
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="another user runs the server of root")


@pytest.fixture
def server_settings(shared_embedded_settings: DatabaseSettings) -> DatabaseSettings:
    return shared_embedded_settings


def ask(url: sqlalchemy.URL, question: str):
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        result = connection.execute(text(question))
        return result.scalar_one() if result.returns_rows else None


def postmaster(settings: DatabaseSettings) -> psutil.Process:
    lines = (settings.directory / "data" / "postmaster.pid").read_text().splitlines()
    return psutil.Process(int(lines[0]))


def changed(settings: DatabaseSettings, **changes: object) -> DatabaseSettings:
    return settings.model_copy(update=changes)


def test_the_first_start_makes_a_database_that_an_ordinary_role_owns(server_settings):
    url = EmbeddedPostgres(server_settings).start()

    assert url == embedded_url(server_settings)
    assert ask(url, "SELECT current_database() || ' ' || current_user") == (
        "configbackup configbackup"
    )
    assert ask(url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
    assert ask(url, "SHOW data_checksums") == "on"
    assert ask(url, "SHOW synchronous_commit") == "on"


def test_it_listens_on_loopback_alone_and_wants_the_password(server_settings):
    url = EmbeddedPostgres(server_settings).start()

    listening = {
        connection.laddr.ip
        for connection in postmaster(server_settings).net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(
            host="127.0.0.1", port=url.port, user="postgres", password="guess", dbname="postgres"
        )


def test_only_its_owner_can_read_its_passwords(server_settings):
    EmbeddedPostgres(server_settings).start()

    for name in ("password", "superuser_password"):
        assert stat.S_IMODE((server_settings.directory / name).stat().st_mode) == 0o600
    assert not (server_settings.directory / "initdb_password").exists()


def test_a_second_start_finds_the_running_server(server_settings):
    EmbeddedPostgres(server_settings).start()
    first = postmaster(server_settings)

    EmbeddedPostgres(server_settings).start()

    assert postmaster(server_settings) == first


def test_starts_at_the_same_time_give_one_server(embedded_settings):
    results: list[object] = []

    def start() -> None:
        results.append(EmbeddedPostgres(embedded_settings).start())

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == [embedded_url(embedded_settings)] * 4


def test_it_survives_the_kill_of_its_parent_and_is_found_again(server_settings):
    EmbeddedPostgres(server_settings).stop()
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal, sys\n"
            "from exporter.database.embedded import EmbeddedPostgres\n"
            "from exporter.settings import DatabaseSettings\n"
            "settings = DatabaseSettings.model_validate_json(sys.stdin.readline())\n"
            "EmbeddedPostgres(settings).start()\n"
            "print('started', flush=True)\n"
            "signal.pause()\n",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with parent:
        parent.stdin.write(server_settings.model_dump_json(exclude={"url"}) + "\n")
        parent.stdin.flush()
        while parent.stdout.readline().strip() != "started":
            assert parent.poll() is None
        # The whole group, as a terminal or a service manager would do it.
        os.killpg(parent.pid, signal.SIGKILL)
    survivor = postmaster(server_settings)

    url = EmbeddedPostgres(server_settings).start()

    assert postmaster(server_settings) == survivor
    assert ask(url, "SELECT 1") == 1


def test_a_killed_server_starts_again_with_all_that_was_committed(server_settings):
    embedded = EmbeddedPostgres(server_settings)
    url = embedded.start()
    ask(url, "CREATE TABLE IF NOT EXISTS kept AS SELECT 42 AS answer")

    postmaster(server_settings).kill()
    url = embedded.start()

    assert ask(url, "SELECT answer FROM kept") == 42


def test_a_pid_file_that_points_at_another_program_does_not_stop_a_start(server_settings):
    embedded = EmbeddedPostgres(server_settings)
    embedded.start()
    embedded.stop()
    left_over = server_settings.directory / "data" / "postmaster.pid"
    left_over.write_text(f"{os.getpid()}\n{server_settings.directory}/data\n")

    assert ask(embedded.start(), "SELECT 1") == 1


def test_another_port_in_the_settings_moves_the_server(server_settings):
    EmbeddedPostgres(server_settings).start()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    elsewhere = changed(server_settings, port=port)

    url = EmbeddedPostgres(elsewhere).start()

    assert url.port == elsewhere.port
    assert ask(url, "SHOW port") == str(elsewhere.port)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server_settings.port)).close()


def test_a_foreign_process_on_the_port_is_a_clear_error(server_settings):
    embedded = EmbeddedPostgres(server_settings)
    embedded.stop()

    complaint = pytest.raises(DatabaseProblem, match=r"already in use\nhint: .*database\.port")
    with socket.create_server(("127.0.0.1", server_settings.port)), complaint:
        embedded.start()


def test_a_lost_password_of_the_owner_is_replaced(server_settings):
    embedded = EmbeddedPostgres(server_settings)
    embedded.start()
    (server_settings.directory / "password").unlink()

    assert ask(embedded.start(), "SELECT 1") == 1


def test_stopping_ends_it_though_somebody_is_connected(server_settings):
    embedded = EmbeddedPostgres(server_settings)
    url = embedded.start()
    connection = psycopg2.connect(url.set(drivername="postgresql").render_as_string(False))

    embedded.stop()

    assert not embedded.is_running()
    connection.close()


def test_stopping_what_never_ran_does_nothing(embedded_settings):
    embedded = EmbeddedPostgres(embedded_settings)

    embedded.stop()

    assert not embedded.is_running()


def test_a_start_that_was_cut_off_leaves_nothing_in_the_way(embedded_settings):
    base = embedded_settings.directory
    base.mkdir()
    base.chmod(0o755)
    for left_over in ("data.unfinished", "binaries/0.unfinished"):
        (base / left_over).mkdir(parents=True)
        (base / left_over / "part").write_text("half")
    (base / "binaries").chmod(0o755)
    (base / "initdb_password").write_text("old")
    (base / "superuser_password").write_text("of a cluster that was never finished")

    assert ask(EmbeddedPostgres(embedded_settings).start(), "SELECT 1") == 1


def test_the_data_of_another_major_release_are_left_alone(server_settings):
    embedded = EmbeddedPostgres(server_settings)
    embedded.start()
    embedded.stop()
    version_file = server_settings.directory / "data" / "PG_VERSION"
    version_file.write_text("17\n")

    with pytest.raises(DatabaseProblem, match="was written by PostgreSQL 17, expected 18"):
        embedded.start()

    version_file.write_text("18\n")


def test_the_url_of_a_server_that_was_never_started_says_how_to_start_it(embedded_settings):
    with pytest.raises(DatabaseProblem, match=r"hint: .*configbackup run"):
        embedded_url(embedded_settings)


@only_root
def test_root_needs_a_user_for_it_and_is_told_how_to_make_one(embedded_settings):
    settings = changed(embedded_settings, system_user="nobody-of-that-name")

    with pytest.raises(DatabaseProblem, match=r"hint: useradd --system .* nobody-of-that-name"):
        EmbeddedPostgres(settings).start()


@only_root
def test_it_never_runs_as_root(embedded_settings):
    with pytest.raises(DatabaseProblem, match="refuses to run as root"):
        EmbeddedPostgres(changed(embedded_settings, system_user="root")).start()


@only_root
def test_a_closed_folder_is_named_and_stays_closed(embedded_settings):
    closed = embedded_settings.directory.parent / "home"
    closed.mkdir(mode=0o700)
    settings = changed(embedded_settings, directory=closed / "state" / "postgresql")

    with pytest.raises(DatabaseProblem, match=f"{closed} is closed for the user"):
        EmbeddedPostgres(settings).start()

    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert not reachable_by(settings.directory, settings.system_user)
    assert reachable_by(Path("/var/lib/missing/deeper"), settings.system_user)


@only_root
def test_its_folders_can_be_reached_whatever_the_umask_is(embedded_settings):
    before = os.umask(0o077)
    try:
        url = EmbeddedPostgres(embedded_settings).start()
    finally:
        os.umask(before)

    assert ask(url, "SELECT 1") == 1
