"""A process that only fetches: `python -m bench.fetching napalm|collector`, logins on stdin.

Prints seconds and CPU seconds for all devices; what it needs is imported before the clock starts.
"""

import json
import pickle
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from napalm import get_network_driver

from exporter.collection import Collector, Login, Request
from exporter.simulator.client import SimulatedLogin

_DRIVER = get_network_driver("ios")
_COLLECTOR = Collector(handshakes=15)


def fetch_by_napalm(login: SimulatedLogin) -> int:
    """As anybody uses NAPALM, but for the read timeout, which the slow fleet needs."""
    driver = _DRIVER(
        login.address,
        login.username,
        login.password,
        optional_args={**login.optional_args, "port": login.port, "read_timeout_override": 60},
    )
    driver.open()
    try:
        return len(driver.get_config(retrieve="running")["running"])
    finally:
        driver.close()


def fetch_by_collector(login: SimulatedLogin) -> int:
    request = Request(
        login=Login(
            device=login.device,
            address=login.address,
            driver="ios",
            port=login.port,
            username=login.username,
            password=login.password,
            optional_args=login.optional_args,
        ),
        platform="ios",
        deadline_seconds=120,
        maximum_bytes=10_000_000,
    )
    return len(_COLLECTOR.fetch(request, login.device).text)


def main() -> None:
    fetch: Callable[[SimulatedLogin], int] = {
        "napalm": fetch_by_napalm,
        "collector": fetch_by_collector,
    }[sys.argv[1]]
    logins: Sequence[SimulatedLogin]
    sessions: int
    logins, sessions = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our parent
    fetch(logins[0])
    before = _cpu_seconds()
    started = time.monotonic()
    with ThreadPoolExecutor(sessions) as threads:
        sizes = list(threads.map(fetch, logins))
    seconds = time.monotonic() - started
    assert min(sizes) > 10_000
    print(json.dumps({"seconds": seconds, "cpu_seconds": _cpu_seconds() - before}))


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
