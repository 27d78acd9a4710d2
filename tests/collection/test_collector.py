"""The Collector against simulated devices: every failure ends with its reason, in time."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from napalm.base import NetworkDriver

from exporter.collection import Collector, Fetched, HostKeyPin, Login, Request, probe
from exporter.errors import CollectionCancelled, CollectionFailed, Reason
from exporter.simulator import FAULTS, Fleet, start_fleet
from tests.collection.conftest import MakeRequest, request_for

PLATFORMS = ("ios", "nxos_ssh", "eos", "junos")
SHORT_SECONDS = 2.0
MARGIN_SECONDS = 2.0
SUCCESS = "success"
#: What each fault ends with, and where a platform ends otherwise.
EXPECTED: dict[str, str] = {
    "refused": Reason.REFUSED,
    "silent": Reason.TIMEOUT,
    "banner_silent": Reason.TIMEOUT,
    "banner_slow": Reason.TIMEOUT,
    "banner_endless": Reason.TIMEOUT,
    "password": Reason.AUTH,
    "host_key": Reason.HOST_KEY,
    "enable_secret": Reason.AUTH,
    "no_prompt": Reason.TIMEOUT,
    "slow": Reason.TIMEOUT,
    "stalled": Reason.TIMEOUT,
    "reset": Reason.DISCONNECTED,
    "closed": Reason.DISCONNECTED,
    "truncated": Reason.TRUNCATED,
    "empty": Reason.EMPTY,
    "invalid": Reason.COMMAND,
    "endless": Reason.TRUNCATED,
    "banner": SUCCESS,
    "pager": SUCCESS,
}
#: HTTP has no host key; NETCONF has no enable secret.
EXCEPTIONS = {("host_key", "eos"): SUCCESS, ("enable_secret", "junos"): SUCCESS}
OTHER_KEY = HostKeyPin("ssh-ed25519", "AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUW")


@dataclass(frozen=True)
class Outcome:
    reason: str
    seconds: float
    failure: CollectionFailed | None = None


def expected(fault: str, platform: str) -> str:
    return EXCEPTIONS.get((fault, platform), EXPECTED[fault])


def try_once(collector: Collector, request: Request) -> Outcome:
    started = time.monotonic()
    try:
        collector.fetch(request, request.login.device)
    except CollectionFailed as failure:
        return Outcome(failure.reason, time.monotonic() - started, failure)
    return Outcome(SUCCESS, time.monotonic() - started)


@pytest.fixture
def broken(fleet: Fleet) -> Iterator[dict[tuple[str, str], str]]:
    """(fault, platform) -> the device that is broken so."""
    free = {
        platform: [name for name in fleet.names if fleet.login(name).platform == platform]
        for platform in PLATFORMS
    }
    devices = {(fault, platform): free[platform].pop(0) for fault in FAULTS for platform in free}
    for (fault, _), name in devices.items():
        if fault != "host_key":
            fleet.set_fault(name, fault)
    yield devices
    for name in devices.values():
        fleet.clear_fault(name)


def test_every_fault_ends_with_its_reason_in_time_and_tells_no_secret(
    fleet: Fleet, make_request: MakeRequest, broken: dict[tuple[str, str], str]
) -> None:
    collector = Collector(handshakes=30)
    requests = {
        (fault, platform): make_request(
            name,
            pinned_key=OTHER_KEY if fault == "host_key" else None,
            **(
                {"deadline_seconds": SHORT_SECONDS}
                if expected(fault, platform) == Reason.TIMEOUT
                else {}
            ),
        )
        for (fault, platform), name in broken.items()
    }

    with ThreadPoolExecutor(len(requests)) as threads:
        outcomes = dict(
            zip(
                requests,
                threads.map(lambda one: try_once(collector, one), requests.values()),
                strict=True,
            )
        )

    assert {case: one.reason for case, one in outcomes.items()} == {
        case: expected(*case) for case in requests
    }
    late = {
        case: one.seconds
        for case, one in outcomes.items()
        if one.seconds > requests[case].deadline_seconds + MARGIN_SECONDS
    }
    assert late == {}
    for case, one in outcomes.items():
        assert_no_secret_is_told(one.failure, requests[case])
    assert (collector.sessions_in_use, collector.handshakes_waiting) == (0, 0)


def assert_no_secret_is_told(failure: CollectionFailed | None, request: Request) -> None:
    if failure is None:
        return
    told = failure.message + failure.details + failure.last_screen
    secret = request.login.optional_args.get("secret", request.login.password)
    assert request.login.password not in told
    assert secret not in told
    assert len(failure.message) <= 200
    assert len(failure.last_screen) <= 2_000


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_healthy_device_is_fetched_with_its_times_and_host_key(
    make_request: MakeRequest, device_of: Callable[[str], str], platform: str
) -> None:
    request = make_request(device_of(platform))

    fetched = Collector().fetch(request, "one")

    assert len(fetched.text) > 5_000
    assert b"\r" not in fetched.text
    assert fetched.times.connect_seconds is not None
    assert fetched.times.fetch_seconds is not None
    assert (fetched.host_key is None) == (platform == "eos")


def test_a_device_slower_than_the_prompt_may_settle_is_fetched_whole(
    tmp_path: Path,
) -> None:
    with start_fleet(
        tmp_path, devices=2, platforms=("ios", "nxos_ssh"), latency_seconds=0.7
    ) as slow:
        requests = [request_for(slow, name) for name in slow.names]
        with ThreadPoolExecutor(2) as threads:
            outcomes = threads.map(lambda one: try_once(Collector(), one), requests)

    assert [one.reason for one in outcomes] == [SUCCESS, SUCCESS]


@pytest.mark.parametrize("platform", ["ios", "junos"])
def test_the_key_seen_first_is_accepted_again(
    make_request: MakeRequest, device_of: Callable[[str], str], platform: str
) -> None:
    collector, name = Collector(), device_of(platform)
    first = collector.fetch(make_request(name), name)

    again = collector.fetch(make_request(name, pinned_key=first.host_key), name)

    assert again.host_key == first.host_key


@pytest.mark.parametrize("driver", ["ios", "junos", "iosxr_netconf"])
def test_another_key_is_refused_with_both_fingerprints_before_a_password_is_sent(
    make_request: MakeRequest, device_of: Callable[[str], str], driver: str
) -> None:
    name = device_of("ios" if driver == "ios" else "junos")
    request = make_request(name, driver=driver, pinned_key=OTHER_KEY, password="wrong")

    with pytest.raises(CollectionFailed) as failed:
        Collector().fetch(request, name)

    assert failed.value.reason is Reason.HOST_KEY
    assert failed.value.message.count("SHA256:") == 2
    assert OTHER_KEY.fingerprint in failed.value.message


def test_bytes_are_stored_as_the_device_sent_them(
    fleet: Fleet, make_request: MakeRequest, device_of: Callable[[str], str]
) -> None:
    name = device_of("ios")
    text = b"hostname Z\xfcrich\x00\nbanner motd ^C sn\xc3\xb6 \xff^C\n--More-- is no pager\nend\n"
    fleet.set_configuration(name, text)
    try:
        fetched = Collector().fetch(make_request(name), name)
    finally:
        fleet.set_configuration(name, None)

    assert text in fetched.text


def test_secrets_are_masked_where_a_key_is_given(
    make_request: MakeRequest, device_of: Callable[[str], str]
) -> None:
    name = device_of("ios")

    masked = Collector().fetch(make_request(name, mask_key=b"key"), name)

    assert b"<masked:" in masked.text


@pytest.mark.parametrize("fault", ["silent", "stalled", "no_prompt"])
def test_a_cancelled_try_ends_within_a_second(
    fleet: Fleet, make_request: MakeRequest, device_of: Callable[[str], str], fault: str
) -> None:
    name, collector = device_of("ios"), Collector()
    fleet.set_fault(name, fault)
    try:
        with ThreadPoolExecutor(1) as threads:
            running = threads.submit(collector.fetch, make_request(name), "try")
            wait_until(lambda: collector.cancel("try"))
            cancelled = time.monotonic()
            with pytest.raises(CollectionCancelled):
                running.result()
    finally:
        fleet.clear_fault(name)

    assert time.monotonic() - cancelled < 1.0
    assert collector.cancel("try") is False


def test_a_try_that_waits_for_its_handshake_past_its_deadline_says_so(
    make_request: MakeRequest, device_of: Callable[[str], str]
) -> None:
    collector = Collector(handshakes=0)
    with ThreadPoolExecutor(1) as threads:
        request = make_request(device_of("ios"), deadline_seconds=1.0)
        running = threads.submit(try_once, collector, request)
        wait_until(lambda: collector.handshakes_waiting == 1)
        outcome = running.result()

    assert outcome.reason is Reason.TIMEOUT
    assert "waiting for its turn to shake hands" in str(outcome.failure)


def test_a_device_that_is_silent_in_its_handshake_does_not_hold_up_the_others(
    fleet: Fleet, make_request: MakeRequest, device_of: Callable[[str], str]
) -> None:
    collector, silent = Collector(handshakes=1), device_of("nxos_ssh")
    fleet.set_fault(silent, "banner_silent")
    try:
        with ThreadPoolExecutor(2) as threads:
            hung = threads.submit(try_once, collector, make_request(silent, deadline_seconds=6.0))
            healthy = threads.submit(try_once, collector, make_request(device_of("ios")))
            assert healthy.result().reason == SUCCESS
            assert not hung.done()
            collector.cancel(silent)
            with pytest.raises(CollectionCancelled):
                hung.result()
    finally:
        fleet.clear_fault(silent)


class ForeignDriver(NetworkDriver):
    """A driver as others write them: it heeds no deadline and tells everything."""

    released = threading.Event()

    def __init__(self, hostname: str, username: str, password: str, **_options: Any) -> None:
        self.hostname, self.password, self.device = hostname, password, None

    def open(self) -> None:
        if self.hostname == "stubborn":
            self.released.wait(30)
        if self.hostname == "talkative":
            raise RuntimeError(f"password {self.password!r} refused")

    def close(self) -> None:
        raise RuntimeError("a bad farewell")

    def get_config(self, retrieve: str = "all") -> dict[str, str]:
        return {"startup": ""} if self.hostname == "odd" else {retrieve: "hostname x\nend\n"}


@pytest.fixture
def ask_foreign(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Request]:
    module = ModuleType("napalm_foreign")
    module.ForeignDriver = ForeignDriver  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "napalm_foreign", module)

    def make(address: str, driver: str = "foreign", platform: str = "ios") -> Request:
        login = Login(address, address, driver, None, "backup", "hunter22", {})
        return Request(login, platform, deadline_seconds=0.3, maximum_bytes=1_000)

    return make


def test_a_foreign_driver_is_called_with_what_it_knows(ask_foreign: Callable[..., Request]) -> None:
    fetched: Fetched = Collector().fetch(ask_foreign("plain"), 1)

    assert fetched.text == b"hostname x\nend\n"


@pytest.mark.parametrize(
    ("request_of", "reason"),
    [
        (("talkative",), Reason.INTERNAL),
        (("odd",), Reason.UNSUPPORTED),
        (("plain", "no_such_driver"), Reason.UNSUPPORTED),
        (("plain", "foreign", "no_such_platform"), Reason.UNSUPPORTED),
    ],
)
def test_a_driver_that_cannot_is_told_apart_and_redacted(
    ask_foreign: Callable[..., Request], request_of: tuple[str, ...], reason: Reason
) -> None:
    with pytest.raises(CollectionFailed) as failed:
        Collector().fetch(ask_foreign(*request_of), 1)

    assert failed.value.reason is reason
    assert "hunter22" not in failed.value.message + failed.value.details


def test_a_try_that_nothing_can_end_is_counted_as_stuck(
    ask_foreign: Callable[..., Request],
) -> None:
    collector = Collector(grace_seconds=0.1)
    with ThreadPoolExecutor(1) as threads:
        running: Future[Fetched] = threads.submit(collector.fetch, ask_foreign("stubborn"), 1)
        try:
            wait_until(lambda: collector.sessions_stuck == 1)
        finally:
            ForeignDriver.released.set()
        with pytest.raises(CollectionFailed) as failed:
            running.result()

    assert failed.value.reason is Reason.TIMEOUT
    assert collector.sessions_stuck == 0


def test_a_probe_shows_dialogue_times_and_checks(
    make_request: MakeRequest, device_of: Callable[[str], str]
) -> None:
    request = make_request(device_of("ios"))

    shown = probe(request)

    assert shown.failure is None
    assert [check.passed for check in shown.checks] == [True] * 4
    assert "show running-config" in shown.dialogue
    assert shown.host_key is not None
    assert request.login.password not in shown.dialogue


def test_a_probe_of_a_broken_device_shows_what_failed(
    fleet: Fleet, make_request: MakeRequest, device_of: Callable[[str], str]
) -> None:
    name = device_of("ios")
    fleet.set_fault(name, "truncated")
    try:
        shown = probe(make_request(name))
    finally:
        fleet.clear_fault(name)

    assert shown.failure is not None
    assert shown.failure.reason is Reason.TRUNCATED
    assert [check.name for check in shown.checks if not check.passed] == ["complete"]


def wait_until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "the condition did not come true"
        time.sleep(0.01)
