import gzip
import shutil
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from email.message import Message
from pathlib import Path
from urllib.error import HTTPError

import pytest
import sqlalchemy
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from sqlalchemy import Engine

from exporter.leadership import Leadership
from exporter.metrics import Exposition
from exporter.settings import Settings, load_settings
from exporter.web import Listener, create_app, create_metrics_app, metrics_listener
from tests.conftest import MakeSettings
from tests.fleets import add_devices
from tests.metrics.conftest import samples_of, series
from tests.metrics.endings import back_up
from tests.metrics.test_rendering import check_with_promtool

Fetch = Callable[..., tuple[int, Message, bytes]]
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


def fetch(
    url: str, context: ssl.SSLContext | None = None, **headers: str
) -> tuple[int, Message, bytes]:
    request = urllib.request.Request(  # noqa: S310
        url, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:  # noqa: S310
            return answer.status, answer.headers, answer.read()
    except HTTPError as answer:
        with answer:
            return answer.code, answer.headers, answer.read()


@pytest.fixture
def serve(engine: Engine, exposition: Exposition) -> Iterator[Callable[[Settings], str]]:
    """Starts the listener of http for the settings; returns its address."""
    listeners = []

    def start(settings: Settings) -> str:
        listener = Listener(create_app(engine, settings, exposition), settings.http)
        listener.start()
        listeners.append(listener)
        return f"http://127.0.0.1:{listener.port}"

    yield start
    for listener in listeners:
        listener.stop()


def test_the_format_is_what_the_scraper_accepts(
    engine: Engine, settings: Settings, serve: Callable[[Settings], str]
) -> None:
    with engine.begin() as connection:
        add_devices(connection, "a")
    back_up(engine, "a")
    url = serve(settings) + "/metrics"
    status, headers, text = fetch(url)
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    check_with_promtool(text)
    _, headers, openmetrics = fetch(url, Accept=OPENMETRICS)
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in openmetrics_families(openmetrics.decode())}
    buckets = families["configbackup_execution_duration_seconds"].samples
    exemplars = [sample.exemplar for sample in buckets if sample.exemplar]
    (task_id,) = [row[0] for row in _task_ids(engine)]
    assert [exemplar.labels["task_id"] for exemplar in exemplars] == [str(task_id)]
    assert exemplars[0].value == 1.5


def _task_ids(engine: Engine) -> list[tuple[object]]:
    with engine.connect() as connection:
        return list(connection.exec_driver_sql("SELECT task_id FROM backups"))


def test_gzip_is_one_member_that_every_client_reads(
    engine: Engine, settings: Settings, serve: Callable[[Settings], str]
) -> None:
    with engine.begin() as connection:
        add_devices(connection, *(f"device-{number}" for number in range(150)))
    url = serve(settings) + "/metrics"
    _, headers, body = fetch(url, Accept_Encoding="gzip")
    assert headers["Content-Encoding"] == "gzip"
    assert len(series(samples_of(gzip.decompress(body).decode()), "device_info")) == 150
    if curl := shutil.which("curl"):
        told = subprocess.run([curl, "-sS", "--compressed", url], capture_output=True, check=True)
        assert len(series(samples_of(told.stdout.decode()), "device_info")) == 150


def test_a_token_is_asked_for_where_one_is_set(
    make_settings: MakeSettings, serve: Callable[[Settings], str], tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    url = serve(make_settings(metrics={"token_file": file})) + "/metrics"
    for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic first"}):
        status, headers, _ = fetch(url, **wrong)
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
    assert fetch(url, Authorization="Bearer first")[0] == 200
    file.write_text("second")
    assert fetch(url, Authorization="Bearer first")[0] == 401
    assert fetch(url, Authorization="Bearer second")[0] == 200
    file.write_text("")
    assert fetch(url, Authorization="Bearer ")[0] == 401
    file.unlink()
    assert fetch(url, Authorization="Bearer second")[0] == 503


def test_an_address_of_their_own_takes_the_metrics_off_the_other_listener(
    engine: Engine,
    exposition: Exposition,
    make_settings: MakeSettings,
    serve: Callable[[Settings], str],
) -> None:
    settings = make_settings(metrics={"address": "127.0.0.1", "port": 0})
    own = metrics_listener(create_metrics_app(engine, settings, exposition), settings.metrics)
    own.start()
    assert fetch(f"http://127.0.0.1:{own.port}/metrics")[0] == 200
    assert fetch(f"http://127.0.0.1:{own.port}/healthz")[0] == 200
    assert fetch(f"http://127.0.0.1:{own.port}/")[0] == 404
    assert fetch(serve(settings) + "/metrics")[0] == 404
    own.stop()


def test_the_listener_of_the_metrics_speaks_tls(
    engine: Engine, exposition: Exposition, make_settings: MakeSettings, tmp_path: Path
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
            f" -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout {key}"
            f" -out {certificate}"
        ).split(),
        check=True,
        capture_output=True,
    )
    files = {"certificate_file": certificate, "key_file": key}
    settings = make_settings(metrics={"address": "127.0.0.1", "port": 0, **files})
    own = metrics_listener(create_metrics_app(engine, settings, exposition), settings.metrics)
    own.start()
    context = ssl.create_default_context(cafile=certificate)
    url = f"https://localhost:{own.port}/metrics"
    # One who says nothing, and one who does not speak TLS, hold nobody up.
    with _connected(own.port), _connected(own.port) as broken:
        broken.sendall(b"GET / HTTP/1.0\r\n\r\n")
        status, _, body = fetch(url, context)
    assert status == 200
    assert samples_of(body.decode())
    own.stop()


def _connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port))


def test_slow_and_broken_scrapers_and_many_at_once_hold_nobody_up(
    engine: Engine, settings: Settings, serve: Callable[[Settings], str]
) -> None:
    with engine.begin() as connection:
        add_devices(connection, *(f"device-{number}" for number in range(400)))
    address = serve(settings)
    fetch(address + "/metrics")
    port = int(address.rpartition(":")[2])
    request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    with ExitStack() as slow:
        for number in range(20):
            connection = slow.enter_context(_connected(port))
            connection.sendall(request)
            # Every other one goes away in the middle of its answer.
            if number % 2:
                connection.recv(10)
                connection.close()
        with ThreadPoolExecutor(4) as scrapers:
            began = time.monotonic()
            answers = list(
                scrapers.map(
                    lambda _: fetch(address + "/metrics", Accept_Encoding="gzip"), range(8)
                )
            )
            assert time.monotonic() - began < 5
    assert {status for status, _, _ in answers} == {200}
    assert len(series(samples_of(gzip.decompress(answers[-1][2]).decode()), "device_info")) == 400


def test_ready_is_who_has_a_database_of_today_and_a_leader(
    engine: Engine, settings: Settings, serve: Callable[[Settings], str]
) -> None:
    url = serve(settings) + "/readyz"
    status, _, body = fetch(url)
    assert (status, b'"leadership":false' in body) == (503, True)
    leadership = Leadership(engine)
    assert leadership.acquire()
    assert fetch(url)[0] == 200
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    status, _, body = fetch(url)
    assert (status, b'"migrations":false' in body) == (503, True)
    leadership.release()


def test_not_ready_is_who_reaches_no_postgresql(settings: Settings, frozen_port: int) -> None:
    url = f"postgresql+psycopg2://nobody@127.0.0.1:{frozen_port}/nothing"
    listener = Listener(create_app(sqlalchemy.create_engine(url), settings), settings.http)
    listener.start()
    assert fetch(f"http://127.0.0.1:{listener.port}/readyz")[0] == 503
    assert fetch(f"http://127.0.0.1:{listener.port}/healthz")[0] == 200
    listener.stop()


def test_paths_of_files_are_relative_to_the_configuration_file(tmp_path: Path) -> None:
    file = tmp_path / "configbackup.yaml"
    file.write_text("metrics: {token_file: secrets/token}\n")
    assert load_settings(file).metrics.token_file == tmp_path / "secrets" / "token"
