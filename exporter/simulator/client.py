"""Start a fleet from Python and change its devices: for tests and benchmarks."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self, cast

import yaml

from exporter.simulator.faults import DeviceFault
from exporter.simulator.plan import faults_file, write_at_once
from exporter.simulator.texts import PLATFORMS

_STOP_TIMEOUT_SECONDS = 10


@dataclass(frozen=True)
class SimulatedLogin:
    """What a driver needs to reach a simulated device."""

    device: str
    address: str
    platform: str
    port: int
    username: str
    password: str = field(repr=False)
    #: NAPALM's, without the port.
    optional_args: Mapping[str, Any] = field(repr=False)


class Fleet:
    """A running fleet. Changes of faults and configurations are in force when a call returns."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        self._process = process
        self.inventory_directory = directory
        _await_line(process)
        self._hosts: dict[str, Any] = _read_yaml(directory / "hosts.yaml")
        self._groups: dict[str, Any] = _read_yaml(directory / "groups.yaml")

    @property
    def names(self) -> tuple[str, ...]:
        """The devices, in the order of the plan: platforms alternate."""
        return tuple(self._hosts)

    @property
    def process_id(self) -> int:
        return self._process.pid

    def login(self, name: str) -> SimulatedLogin:
        host = self._hosts[name]
        platform = host["groups"][-1]
        group = self._groups[platform]
        options = host.get("connection_options") or group.get("connection_options") or {}
        return SimulatedLogin(
            device=name,
            address=host["hostname"],
            platform=platform,
            port=host["port"],
            username=group["username"],
            password=group["password"],
            optional_args=options.get("napalm", {}).get("extras", {}).get("optional_args", {}),
        )

    def set_fault(self, name: str, fault: str, **parameters: float) -> None:
        """Break a device. Raises KeyError for an unknown device, ValueError for the fault."""
        self._require(name)
        DeviceFault(fault, **parameters)  # type: ignore[arg-type]
        self._write_faults({**self._faults(), name: {"fault": fault, **parameters}})

    def clear_fault(self, name: str) -> None:
        """Mend a device; one that is not broken stays as it is."""
        self._require(name)
        self._write_faults({key: value for key, value in self._faults().items() if key != name})

    def set_configuration(self, name: str, text: str | bytes | None) -> None:
        """Give a device this configuration; None: the generated one again."""
        self._require(name)
        file = self.inventory_directory / "configurations" / f"{name}.cfg"
        if text is None:
            file.unlink(missing_ok=True)
        else:
            write_at_once(file, text)
        self._reload()

    def stop(self) -> None:
        """End the process; its directory stays, host keys included."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            _pipe(pipe).close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _require(self, name: str) -> None:
        if name not in self._hosts:
            raise KeyError(f"{name!r} is no device of the fleet in {self.inventory_directory}")

    def _faults(self) -> dict[str, Any]:
        return _read_yaml(self.inventory_directory / "faults.yaml")

    def _write_faults(self, faults: Mapping[str, Any]) -> None:
        write_at_once(self.inventory_directory / "faults.yaml", faults_file(faults))
        self._reload()

    def _reload(self) -> None:
        pipe = _pipe(self._process.stdin)
        pipe.write(b"reload\n")
        pipe.flush()
        _await_line(self._process)


def start_fleet(
    directory: Path,
    *,
    devices: int,
    platforms: Sequence[str] = PLATFORMS,
    seed: int = 1,
    failing: float = 0.0,
    change_seconds: float = 0.0,
    latency_seconds: float = 0.0,
    configuration_bytes: int = 20_000,
) -> Fleet:
    """Start a fleet in a process of its own and return when every device listens.

    The process ends with `Fleet.stop()`, or by itself when this process is gone. Raises
    RuntimeError where it does not start; its own message is on standard error then.
    """
    directory.mkdir(parents=True, exist_ok=True)
    options: dict[str, object] = {
        "--devices": devices,
        "--platforms": ",".join(platforms),
        "--seed": seed,
        "--failing": failing,
        "--change-seconds": change_seconds,
        "--latency-seconds": latency_seconds,
        "--config-bytes": configuration_bytes,
    }
    words = [str(word) for pair in options.items() for word in pair]
    process = subprocess.Popen(
        [sys.executable, "-m", "exporter.simulator", str(directory), "--controlled", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    return Fleet(process, directory)


def _await_line(process: subprocess.Popen[bytes]) -> None:
    """Wait until the simulator says that it is ready or has obeyed."""
    if not _pipe(process.stdout).readline():
        raise RuntimeError(f"the simulator ended with status {process.wait()}")


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    """The process is started with pipes, which its type does not know."""
    return cast(IO[bytes], pipe)


def _read_yaml(file: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
