"""Pushing to a remote, and a new machine that starts from it."""

import base64
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import psutil
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from exporter.errors import RepositoryProblem
from exporter.publishing import Publisher
from exporter.settings import GitSettings
from tests.publishing.fleet import Fleet, no_check

Run = Callable[..., str]
SECRET = "p@ss/wörd%1"
QUOTED = "p%40ss%2Fw%C3%B6rd%251"
STATE = """
    SELECT row_to_json(s) FROM (SELECT pushed_commit_id, head_commit_id, push_error, push_failures,
        push_failing_since, last_push_at FROM publishing_state) s
"""


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    directory = tmp_path / "remote.git"
    subprocess.run(["git", "init", "-q", "--bare", directory], check=True)
    return directory


@pytest.fixture
def with_remote(git_settings: GitSettings, remote: Path) -> GitSettings:
    return git_settings.model_copy(
        update={"remote_url": SecretStr(str(remote)), "retry_delay_seconds": 0.001}
    )


class _GitServer(BaseHTTPRequestHandler):
    """Git's own HTTP backend behind a password; it notes the processes that run meanwhile."""

    projects: ClassVar[str]
    seen: ClassVar[list[str]]

    def do_GET(self) -> None:
        given = self.headers.get("Authorization", "").removeprefix("Basic ")
        if base64.b64decode(given).decode() not in (f"git:{SECRET}", f"{SECRET}:"):
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        for process in psutil.Process().children(recursive=True):
            self.seen.append(" ".join(process.cmdline()))
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = subprocess.run(
            ["git", "-c", "http.receivepack=true", "http-backend"],
            input=body,
            capture_output=True,
            check=True,
            env={
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": self.projects,
                "GIT_HTTP_EXPORT_ALL": "1",
                "REMOTE_USER": "git",
                "REQUEST_METHOD": self.command,
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "CONTENT_TYPE": self.headers.get("Content-Type") or "",
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding") or "",
            },
        ).stdout
        head, _, content = answer.partition(b"\r\n\r\n")
        self.send_response(200)
        for line in head.decode().splitlines():
            name, _, value = line.partition(": ")
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET  # noqa: N815

    def log_request(self, *_: object) -> None:
        """Nothing on the test's standard error."""


@pytest.fixture
def server(remote: Path) -> Iterator[str]:
    """`host:port` of a Git server that wants SECRET, of the user git or as a token."""
    _GitServer.projects, _GitServer.seen = str(remote.parent), []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _GitServer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_is_published_is_pushed_once(
    fleet: Fleet, engine: Engine, with_remote: GitSettings, remote: Path, run: Run
) -> None:
    publisher = Publisher(engine, with_remote, no_check)
    assert publisher.push() is False
    fleet.store(fleet.add_device("core"), b"a\n")
    publisher.publish()
    assert publisher.push() is True
    assert publisher.push() is False
    assert run("rev-parse", "main", directory=remote) == run("rev-parse", "main")
    state = fleet.value(STATE)
    assert isinstance(state, dict)
    assert state["pushed_commit_id"] == state["head_commit_id"]
    assert state["last_push_at"]


def test_a_failed_push_is_said_counted_and_tried_again_later(
    fleet: Fleet, engine: Engine, with_remote: GitSettings, remote: Path
) -> None:
    patient = with_remote.model_copy(update={"retry_delay_seconds": 3600})
    fleet.store(fleet.add_device("core"), b"a\n")
    publisher = Publisher(engine, patient, no_check)
    publisher.publish()
    remote.rename(remote.with_name("away"))
    with pytest.raises(RepositoryProblem, match="does not appear to be a git repository"):
        publisher.push()
    remote.with_name("away").rename(remote)
    assert publisher.push() is False
    state = fleet.value(STATE)
    assert isinstance(state, dict)
    assert (state["push_failures"], state["pushed_commit_id"]) == (1, None)
    assert state["push_failing_since"]
    assert Publisher(engine, patient, no_check).push() is True
    state = fleet.value(STATE)
    assert isinstance(state, dict)
    assert (state["push_failures"], state["push_error"], state["push_failing_since"]) == (
        0,
        None,
        None,
    )


def test_a_remote_with_other_commits_is_never_overwritten(
    fleet: Fleet, engine: Engine, with_remote: GitSettings, remote: Path, run: Run
) -> None:
    git = ["git", f"--git-dir={remote}", "-c", "user.name=x", "-c", "user.email=x@x"]
    tree = subprocess.run([*git, "mktree"], input=b"", capture_output=True, check=True).stdout
    commit = subprocess.run(
        [*git, "commit-tree", "-m", "theirs", tree.decode().strip()],
        capture_output=True,
        check=True,
    ).stdout.decode()
    subprocess.run([*git, "update-ref", "refs/heads/main", commit.strip()], check=True)
    fleet.store(fleet.add_device("core"), b"a\n")
    publisher = Publisher(engine, with_remote, no_check)
    publisher.publish()
    with pytest.raises(RepositoryProblem, match="commits that are not ours"):
        publisher.push()
    assert run("rev-parse", "main", directory=remote) == commit.strip()
    assert "not ours" in str(fleet.value("SELECT push_error FROM publishing_state"))
    assert fleet.value("SELECT last_error FROM publishing_state") is None


def test_a_new_leader_on_another_machine_clones_the_remote(
    fleet: Fleet, engine: Engine, with_remote: GitSettings, tmp_path: Path, run: Run
) -> None:
    device = fleet.add_device("core")
    versions = [fleet.store(device, content) for content in (b"a\n", b"b\n")]
    first = Publisher(engine, with_remote, no_check)
    first.publish()
    first.push()
    # Not found in a rebuild: proves that what follows is a clone.
    fleet.thin_out(versions[0])
    elsewhere = with_remote.model_copy(update={"directory": tmp_path / "elsewhere.git"})
    fleet.store(device, b"c\n")
    assert Publisher(engine, elsewhere, no_check).publish() == 1
    assert run("rev-parse", "main~1", directory=elsewhere.directory) == run("rev-parse", "main")


def test_a_new_leader_rebuilds_where_the_remote_lags_and_can_push_afterwards(
    fleet: Fleet, engine: Engine, with_remote: GitSettings, tmp_path: Path, run: Run
) -> None:
    device = fleet.add_device("core")
    first = Publisher(engine, with_remote, no_check)
    fleet.store(device, b"a\n")
    first.publish()
    first.push()
    fleet.store(device, b"b\n")
    first.publish()
    elsewhere = with_remote.model_copy(update={"directory": tmp_path / "elsewhere.git"})
    second = Publisher(engine, elsewhere, no_check)
    assert second.publish() == 0
    assert run("rev-parse", "main", directory=elsewhere.directory) == run("rev-parse", "main")
    assert second.push() is True


@pytest.mark.parametrize("userinfo", [f"git:{QUOTED}", QUOTED], ids=["password", "token"])
def test_the_secret_of_a_remote_is_in_no_argument(
    userinfo: str,
    fleet: Fleet,
    engine: Engine,
    git_settings: GitSettings,
    server: str,
    remote: Path,
    run: Run,
) -> None:
    url = SecretStr(f"http://{userinfo}@{server}/remote.git")
    publisher = Publisher(engine, git_settings.model_copy(update={"remote_url": url}), no_check)
    fleet.store(fleet.add_device("core"), b"a\n")
    publisher.publish()
    assert publisher.push() is True
    assert run("rev-parse", "main", directory=remote) == run("rev-parse", "main")
    assert any("remote-http" in line for line in _GitServer.seen)
    assert not any(SECRET in line or QUOTED in line for line in _GitServer.seen)


def test_a_refused_password_is_said_without_it(
    fleet: Fleet, engine: Engine, git_settings: GitSettings, server: str
) -> None:
    url = SecretStr(f"http://git:wrong-secret@{server}/remote.git")
    publisher = Publisher(engine, git_settings.model_copy(update={"remote_url": url}), no_check)
    fleet.store(fleet.add_device("core"), b"a\n")
    publisher.publish()
    with pytest.raises(RepositoryProblem, match="Authentication failed") as caught:
        publisher.push()
    assert "wrong-secret" not in f"{caught.value!r} {caught.value.__cause__!r}"
    assert "wrong-secret" not in str(fleet.value("SELECT push_error FROM publishing_state"))
