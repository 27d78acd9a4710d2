import json
from typing import Any

import pytest
import requests
from sqlalchemy import Engine, text

from exporter.cli import cli
from exporter.database.engine import create_engine
from exporter.errors import ListenerProblem
from exporter.settings import Settings
from exporter.web import require_token_beyond_loopback
from exporter.web.access import SESSION_COOKIE
from exporter.web.tokens import create_token
from tests.fleets import add_devices, rows
from tests.installation import wait_until
from tests.web.conftest import Client, MakeClient, Serve

ONE = {"devices": ["core-1"]}


@pytest.fixture(autouse=True)
def device(engine: Engine) -> None:
    with engine.begin() as connection:
        add_devices(connection, "core-1")


def test_without_any_token_callers_on_this_machine_are_admins(site: Client) -> None:
    assert site.get("/session").json()["role"] == "admin"
    assert site.post("/backups", json=ONE).status_code == 202


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"X-Forwarded-For": "198.51.100.7"},
        {"Authorization": "Bearer nobody"},
        {"Authorization": "Basic eDp5"},
        {"Authorization": "nonsense"},
        {"Cookie": f"{SESSION_COOKIE}=forged"},
    ],
)
def test_whoever_is_not_plainly_on_this_machine_is_refused(
    site: Client, headers: dict[str, str]
) -> None:
    answer = site.get("/devices/all", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_cross_site_post_starts_nothing(
    site: Client, engine: Engine, headers: dict[str, str]
) -> None:
    # Without a preflight: as a form's text/plain would be sent.
    headers = {"Content-Type": "text/plain", **headers}
    assert site.post("/backups", data=json.dumps(ONE), headers=headers).status_code == 403
    assert not rows(engine, "SELECT FROM backups")


def test_once_there_is_a_token_nobody_comes_without(site: Client, caller: MakeClient) -> None:
    viewer = caller("viewer")
    assert viewer.get("/devices/all").status_code == 200
    assert site.get("/devices/all").status_code == 401


def test_roles_bound_what_a_token_may(caller: MakeClient, engine: Engine) -> None:
    viewer, operator = caller("viewer"), caller("operator")
    for path in ("/backups", "/devices/core-1/resume", "/schedules/nightly/run"):
        assert viewer.post(path, json=ONE).status_code == 403
    assert viewer.get("/configurations/search?q=a").status_code == 403
    assert viewer.get("/devices/core-1/configurations/1").status_code == 403
    assert not rows(engine, "SELECT FROM backups")
    assert operator.post("/backups", json=ONE).status_code == 202


def test_a_revoked_or_expired_token_is_refused(
    site: Client, serve: Serve, settings: Settings, engine: Engine
) -> None:
    with engine.begin() as connection:
        create_token(connection, "stays", role="viewer", by="test", days=None)
        expired = create_token(connection, "old", role="admin", by="test", days=-1)
        revoked = create_token(connection, "gone", role="admin", by="test", days=None)
        connection.execute(text("UPDATE api_tokens SET revoked_at = now() WHERE name = 'gone'"))
    for secret in (expired, revoked):
        assert Client(site.url, secret).get("/session").status_code == 401


def test_secrets_of_tokens_are_nowhere_in_the_database(engine: Engine) -> None:
    with engine.begin() as connection:
        secret = create_token(connection, "bot", role="viewer", by="test", days=None)
    (token,) = rows(engine, "SELECT * FROM api_tokens")
    assert secret not in str(token)
    assert secret.encode() not in bytes(token.token_hash)


def test_an_address_beyond_loopback_needs_a_token(
    settings: Settings, make_settings: Any, engine: Engine
) -> None:
    everywhere = make_settings(http={"address": "0.0.0.0"}).http  # noqa: S104
    with pytest.raises(ListenerProblem, match="token create"):
        require_token_beyond_loopback(engine, everywhere)
    require_token_beyond_loopback(engine, settings.http)
    with engine.begin() as connection:
        create_token(connection, "bot", role="viewer", by="test", days=None)
    require_token_beyond_loopback(engine, everywhere)


def test_a_proxy_names_users_only_from_its_address(
    serve: Serve, make_settings: Any, engine: Engine
) -> None:
    user = {"X-Forwarded-User": "ann", "X-Forwarded-For": "198.51.100.7"}
    trusting = Client(
        serve(
            make_settings(
                http={"port": 0, "trusted_proxies": ["127.0.0.1"], "proxy_operators": ["ann"]}
            )
        )
    )
    assert trusting.get("/session", headers=user).json()["role"] == "operator"
    assert trusting.post("/backups", json=ONE, headers=user).status_code == 202
    (entry,) = rows(engine, "SELECT actor, address, action FROM audit_log")
    assert tuple(entry) == ("ann", "127.0.0.1", "backup")
    evil = {**user, "Origin": "https://evil.example"}
    assert trusting.post("/backups", json=ONE, headers=evil).status_code == 403
    other = Client(serve(make_settings(http={"port": 0, "trusted_proxies": ["10.0.0.0/8"]})))
    assert other.get("/session", headers=user).status_code == 401


def test_a_browser_logs_in_and_changes_only_with_its_csrf_token(
    caller: MakeClient, site: Client
) -> None:
    operator = caller("operator")
    browser = requests.Session()
    url = site.url
    page = browser.get(url + "/", headers={"Accept": "text/html"}, allow_redirects=False)
    assert (page.status_code, page.headers["Location"]) == (303, "/login")
    done = browser.post(url + "/login", data={"token": operator.token}, allow_redirects=False)
    assert done.status_code == 303
    cookie = done.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert operator.token is not None
    assert operator.token not in cookie
    csrf = browser.get(url + "/session").json()["csrf_token"]
    assert browser.post(url + "/backups", json=ONE).status_code == 403
    wrong = {"X-CSRF-Token": "0" * 64}
    assert browser.post(url + "/backups", json=ONE, headers=wrong).status_code == 403
    right = {"X-CSRF-Token": csrf}
    assert browser.post(url + "/backups", json=ONE, headers=right).status_code == 202
    kept = browser.cookies.get_dict()
    assert browser.post(url + "/logout", headers=right).status_code in {200, 303}
    assert requests.get(url + "/session", cookies=kept, timeout=10).status_code == 401


def test_a_session_is_no_token_and_ends_with_its_token(caller: MakeClient, engine: Engine) -> None:
    operator, keeper = caller("operator"), caller("admin")
    browser = requests.Session()
    browser.post(
        operator.url + "/login", data={"token": operator.token}, allow_redirects=False
    ).raise_for_status()
    secret = browser.cookies[SESSION_COOKIE]
    assert Client(operator.url, secret).get("/session").status_code == 401
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM api_tokens WHERE name = 'the operator'"))
    wait_until(
        lambda: browser.get(operator.url + "/session").status_code == 401, "the session ended"
    )
    assert keeper.get("/session").status_code == 200


def test_logins_are_limited(site: Client) -> None:
    statuses = [site.post("/login", data={"token": "guess"}).status_code for _ in range(12)]
    assert statuses == [401] * 10 + [429] * 2


def test_triggers_are_limited_for_each_caller(
    serve: Serve, make_settings: Any, engine: Engine
) -> None:
    url = serve(make_settings(http={"port": 0, "trigger_rate": "3 per minute"}))
    with engine.begin() as connection:
        secrets = [
            create_token(connection, name, role="operator", by="test", days=None)
            for name in ("a", "b")
        ]
    one, other = (Client(url, secret) for secret in secrets)
    assert [one.post("/backups", json=ONE).status_code for _ in range(4)] == [202] * 3 + [429]
    assert one.post("/devices/core-1/resume").status_code == 429
    assert other.post("/backups", json=ONE).status_code == 202


def test_every_change_is_in_the_audit_log(caller: MakeClient, engine: Engine) -> None:
    operator = caller("operator")
    task = operator.post("/backups", json=ONE).json()["task_id"]
    operator.post(f"/backups/{task}/cancel")
    pause = {"until": "2999-01-01T00:00:00Z", "note": "works"}
    assert operator.post("/devices/core-1/pause", json=pause).status_code == 200
    assert operator.post("/devices/core-1/resume").status_code == 200
    entries = rows(engine, "SELECT actor, address, action FROM audit_log ORDER BY id")
    assert {(entry.actor, entry.address) for entry in entries} == {("the operator", "127.0.0.1")}
    assert [entry.action for entry in entries] == [
        "backup",
        "cancel",
        "pause device",
        "resume device",
    ]


def test_grafana_alone_may_read_from_its_pages(serve: Serve, make_settings: Any) -> None:
    grafana = "https://grafana.example"
    site = Client(serve(make_settings(http={"port": 0, "grafana_origins": [grafana]})))
    allowed = site.get("/devices/all", headers={"Origin": grafana})
    assert allowed.headers["Access-Control-Allow-Origin"] == grafana
    other = site.get("/devices/all", headers={"Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in other.headers


@pytest.mark.parametrize("path", ["/../etc/passwd", "/devices/..%2f..%2fetc", "/devices/a%00b"])
def test_path_tricks_find_nothing(site: Client, path: str) -> None:
    assert site.get(path).status_code == 404


def test_a_body_of_10_mb_is_refused(site: Client) -> None:
    answer = site.post("/backups", data=b"x" * 10_000_000)
    assert answer.status_code == 413
    assert site.get("/session").status_code == 200


def test_the_command_makes_lists_and_revokes_tokens(
    settings: Settings, engine: Engine, tmp_path: Any
) -> None:
    from click.testing import CliRunner

    file = tmp_path / "configbackup.yaml"
    url = settings.database.url.get_secret_value()
    file.write_text(json.dumps({"database": {"url": url}}))
    run = CliRunner()
    made = run.invoke(cli, ["--settings", str(file), "token", "create", "bot", "--role", "admin"])
    assert made.exit_code == 0, made.output
    secret = made.output.strip()
    listed = run.invoke(cli, ["--settings", str(file), "token", "list", "--json"])
    assert json.loads(listed.output)[0]["name"] == "bot"
    assert secret not in listed.output
    run.invoke(cli, ["--settings", str(file), "token", "revoke", "bot"])
    check = create_engine(settings.database, application_name="test")
    assert rows(check, "SELECT FROM api_tokens WHERE revoked_at IS NOT NULL")
    check.dispose()
