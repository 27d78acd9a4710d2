"""FRRouting behind a real OpenSSH server: a device that we did not write.

Both run out of build/servers, unpacked and not installed, in a mount namespace of their own: the
user, the groups and the folders that they need exist in there alone.
"""

import functools
import os
import platform
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import pytest

from exporter.collection import Collector, HostKeyPin, Login, Request
from exporter.errors import CollectionFailed, Reason

SERVERS = Path(__file__).parents[2] / "build" / "servers"
LIBRARIES = SERVERS / "usr" / "lib" / f"{platform.machine()}-linux-gnu"
HELPERS = {"SshdSessionPath": "sshd-session", "SshdAuthPath": "sshd-auth"}
#: A name that the shadow file of no system has.
USERNAME, PASSWORD = "frr-backup", "frr-password"
#: `openssl passwd -6 -salt configbackup frr-password`
PASSWORD_HASH = (
    "$6$configbackup$u9UMy05waNQyN06xJOnMrjwLoa.q7cNI8uYnNbvAXNCYD0CiKU5yHPL6FBkEJ7Ree/"
    "QdR6OFOH3pNrsGd3oDd/"
)
CONFIGURATION = """\
hostname frr-1
!
ip prefix-list CUSTOMERS seq 5 permit 192.0.2.0/24
ip prefix-list CUSTOMERS seq 10 deny any
!
route-map EXPORT permit 10
 description what leaves the site
 match ip address prefix-list CUSTOMERS
!
"""
NAMESPACE = ("unshare", "--mount", "--propagation", "private")
#: zebra gets a network of its own, sshd the one of the test. $1: its folder; $2: the programs.
START = """\
set -eu
mount -t tmpfs tmpfs /run
mkdir -p /run/sshd
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
unshare --net "$2/usr/lib/frr/zebra" -u root -g root -P 0 -f "$1/zebra.conf" \
    -i "$1/zebra.pid" -z "$1/zserv.api" --vty_socket "$1" --log "file:$1/zebra.log" &
exec "$2/usr/sbin/sshd" -D -f "$1/sshd_config" -E "$1/sshd.log"
"""


@functools.cache
def missing() -> str:
    """Why this machine cannot run it; empty: it can."""
    if os.geteuid() != 0:
        return "zebra and sshd must be started as root"
    for program in ("usr/lib/frr/zebra", "usr/bin/vtysh", "usr/sbin/sshd"):
        if not (SERVERS / program).exists():
            return f"{program} is not in build/servers: run make servers"
    trial = subprocess.run(
        ["unshare", "--mount", "--net", "true"], capture_output=True, text=True, check=False
    )
    return trial.stderr.strip()


@dataclass(frozen=True)
class Router:
    port: int
    zebra: int

    def request(self, **options: object) -> Request:
        login = Login(
            device="frr-1",
            address="127.0.0.1",
            driver="",
            port=self.port,
            username=USERNAME,
            password=str(options.pop("password", PASSWORD)),
        )
        defaults: dict[str, object] = {"deadline_seconds": 20.0, "maximum_bytes": 1_000_000}
        return Request(login=login, platform="frr", **{**defaults, **options})  # type: ignore[arg-type]


@pytest.fixture
def router(tmp_path: Path, free_port: int) -> Iterator[Router]:
    if reason := missing():
        pytest.skip(reason)
    write_files(tmp_path, free_port)
    process = subprocess.Popen(
        [*NAMESPACE, "sh", "-c", START, "start", str(tmp_path), str(SERVERS)],
        env={**os.environ, "LD_LIBRARY_PATH": library_path()},
    )
    try:
        wait_until(lambda: (tmp_path / "zebra.vty").exists(), process)
        wait_until(lambda: "listening" in read(tmp_path / "sshd.log"), process)
        yield Router(free_port, int(read(tmp_path / "zebra.pid")))
    finally:
        if zebra := read(tmp_path / "zebra.pid"):
            os.kill(int(zebra), signal.SIGKILL)
        process.terminate()
        process.wait()


def write_files(folder: Path, port: int) -> None:
    shell = folder / "login-shell"
    shell.write_text(
        f"#!/bin/sh\nLD_LIBRARY_PATH={library_path()} "
        f"exec {SERVERS}/usr/bin/vtysh --vty_socket {folder} --config_dir {folder}\n"
    )
    shell.chmod(0o755)
    (folder / "passwd").write_text(
        "root:x:0:0::/root:/bin/sh\n"
        "sshd:x:65001:65001::/run/sshd:/bin/false\n"
        f"{USERNAME}:{PASSWORD_HASH}:0:0::/:{shell}\n"
    )
    (folder / "group").write_text("root:x:0:\ntty:x:5:\nfrrvty:x:65000:root\nsshd:x:65001:\n")
    (folder / "zebra.conf").write_text(CONFIGURATION)
    # Else vtysh asks PAM for the password once more.
    (folder / "vtysh.conf").write_text("username root nopassword\n")
    key = folder / "host_key"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(key)
    key.chmod(0o600)
    helpers = [
        f"{option} {SERVERS}/usr/lib/openssh/{name}"
        for option, name in HELPERS.items()
        if (SERVERS / "usr/lib/openssh" / name).exists()
    ]
    lines = [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {key}",
        f"PidFile {folder}/sshd.pid",
        "UsePAM no",
        "PasswordAuthentication yes",
        "PermitRootLogin yes",
        "LogLevel INFO",
        *helpers,
    ]
    (folder / "sshd_config").write_text("\n".join(lines) + "\n")


def library_path() -> str:
    return f"{LIBRARIES}:{LIBRARIES / 'frr'}"


def read(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def wait_until(holds: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 20
    while not holds():
        assert process.poll() is None, "the servers ended"
        assert time.monotonic() < until, "the servers did not start"
        time.sleep(0.05)


def test_a_real_router_is_fetched_and_its_key_checked(router: Router) -> None:
    collector = Collector()

    fetched = collector.fetch(router.request(), "first")
    again = collector.fetch(router.request(pinned_key=fetched.host_key), "again")

    text = fetched.text.decode()
    assert text.rstrip().endswith("\nend")
    assert "ip prefix-list CUSTOMERS seq 5 permit 192.0.2.0/24\n" in text
    assert " description what leaves the site\n" in text
    assert "vtysh" not in text
    assert fetched.host_key is not None
    assert (again.text, again.stable_hash) == (fetched.text, fetched.stable_hash)

    other = HostKeyPin(fetched.host_key.key_type, fetched.host_key.key_base64[:-4] + "AAAA")
    with pytest.raises(CollectionFailed) as refused:
        collector.fetch(router.request(pinned_key=other), "other")
    assert refused.value.reason is Reason.HOST_KEY


def test_a_real_router_that_refuses_or_hangs_ends_with_the_reason(router: Router) -> None:
    collector = Collector()
    with pytest.raises(CollectionFailed) as refused:
        collector.fetch(router.request(password="wrong"), "refused")
    assert refused.value.reason is Reason.AUTH

    os.kill(router.zebra, signal.SIGSTOP)
    with pytest.raises(CollectionFailed) as hung:
        collector.fetch(router.request(deadline_seconds=3.0), "hung")
    assert hung.value.reason is Reason.TIMEOUT
