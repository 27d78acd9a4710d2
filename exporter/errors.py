"""The closed list of reasons why an execution does not succeed, and the exceptions.

    ConfigBackupError
    +-- InvalidSettings         the configuration file or the environment (every fault at once)
    +-- InvalidInventory        the inventory (every fault at once); the last good one stays
    +-- InventoryShrinks        a synchronisation would retire more than half of the fleet
    +-- UnknownDevice           a name that is not in the inventory
    +-- UnknownSchedule
    +-- UnknownBackup
    +-- NothingSelected         a selection that matches no device
    +-- ListenerProblem         the HTTP listener cannot bind its address
    +-- CollectionFailed        one device's try, with its reason
    +-- CollectionCancelled     one device's try, cut off by a person
    +-- DatabaseProblem         PostgreSQL cannot be started, reached or used
    +-- RepositoryProblem       the Git repository is missing, damaged or refused
    +-- LeadershipLost          this process no longer leads

Messages are for people: lower case, no full stop, never a secret, with a remedy where there is one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Reason(StrEnum):
    """Why an execution did not succeed: a column and a metric label, hence a closed list."""

    UNREACHABLE = "unreachable"
    REFUSED = "refused"
    AUTH = "auth"
    HOST_KEY = "host_key"
    TIMEOUT = "timeout"
    DISCONNECTED = "disconnected"
    COMMAND = "command"
    EMPTY = "empty"
    TRUNCATED = "truncated"
    UNSUPPORTED = "unsupported"
    STORAGE = "storage"
    INTERRUPTED = "interrupted"
    GUARDED = "guarded"
    INTERNAL = "internal"


@dataclass(frozen=True)
class ReasonAdvice:
    """What a reason means, whether a retry can help, and what the person on call should do."""

    meaning: str
    is_retried: bool
    action: str
    #: The device or its network is at fault; else it is ours (the daemon, its disk, its database).
    is_devices_fault: bool = True


ADVICE: Mapping[Reason, ReasonAdvice] = {
    Reason.UNREACHABLE: ReasonAdvice(
        "no connection: no route, no name, no answer to the attempt, or no common algorithm",
        True,
        "check that the device is up, and the path and the firewall between this host and it",
    ),
    Reason.REFUSED: ReasonAdvice(
        "the device answered that nothing listens on the port",
        True,
        "check that SSH, NETCONF or the HTTP API is enabled and that the inventory has its port",
    ),
    Reason.AUTH: ReasonAdvice(
        "the device refused the user name, the password, the key or the enable secret",
        False,
        "check the credentials in the inventory; many devices at once mean a rotated password",
    ),
    Reason.HOST_KEY: ReasonAdvice(
        "the device shows another host key than the pinned one",
        False,
        "find out why the key changed; if the change is legitimate: configbackup trust DEVICE",
    ),
    Reason.TIMEOUT: ReasonAdvice(
        "the deadline passed before the configuration was complete",
        True,
        "see the times and the last screen of the execution; raise deadline_seconds if it is slow",
    ),
    Reason.DISCONNECTED: ReasonAdvice(
        "the device closed or reset the connection during the dialogue",
        True,
        "look for session limits, reloads or a failing link; see the last screen of the execution",
    ),
    Reason.COMMAND: ReasonAdvice(
        "the device answered the command with an error",
        True,
        "check the rights of the user and the platform in the inventory",
    ),
    Reason.EMPTY: ReasonAdvice(
        "the device answered without any configuration",
        True,
        "check the rights of the user; try: configbackup probe DEVICE",
    ),
    Reason.TRUNCATED: ReasonAdvice(
        "the configuration is incomplete: its end is missing, or it shrank absurdly",
        True,
        "try: configbackup probe DEVICE; if the configuration really shrank, back it up with "
        "configbackup backup DEVICE --accept-shrunk",
    ),
    Reason.UNSUPPORTED: ReasonAdvice(
        "the platform or its version cannot be fetched with the driver",
        False,
        "check the platform and driver in the inventory, and that the driver is installed",
    ),
    Reason.STORAGE: ReasonAdvice(
        "the configuration was fetched but could not be stored",
        True,
        "check the disk and PostgreSQL of this installation",
        is_devices_fault=False,
    ),
    Reason.INTERRUPTED: ReasonAdvice(
        "the worker vanished while the execution ran, and no try was left",
        True,
        "look for killed or crashed worker processes; check their memory",
        is_devices_fault=False,
    ),
    Reason.GUARDED: ReasonAdvice(
        "this installation declined to contact the device, to protect it or itself",
        True,
        "see the error message for the guard that held it back",
        is_devices_fault=False,
    ),
    Reason.INTERNAL: ReasonAdvice(
        "an error of this program",
        True,
        "report it with the traceback in error_details",
        is_devices_fault=False,
    ),
}


class ConfigBackupError(Exception):
    """Base of every error this program raises on purpose."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong in a file that a person wrote."""

    file: str
    #: Where in the file, dotted: `schedules[0].cron`, `hosts.core-1.platform`.
    path: str
    #: What was found; never a secret.
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.file}: {self.path}: found {self.found}, expected {self.expected}"


class FaultyFile(ConfigBackupError):
    """Base of errors that report every fault of a file at once."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class InvalidSettings(FaultyFile):
    """The configuration file or the environment is wrong; nothing was changed."""


class InvalidInventory(FaultyFile):
    """The inventory is wrong; the last good one stays in force."""


class InventoryShrinks(ConfigBackupError):
    """A synchronisation would retire more than half of the fleet; it needs a confirmation."""


class UnknownDevice(ConfigBackupError):
    """A device that is not in the inventory was named; nothing was started."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        shown = ", ".join(repr(name) for name in self.names[:10])
        more = f" and {len(self.names) - 10} more" if len(self.names) > 10 else ""
        super().__init__(f"not in the inventory: {shown}{more}")


class UnknownSchedule(ConfigBackupError):
    """A schedule that the configuration file does not have was named."""


class UnknownBackup(ConfigBackupError):
    """No backup has this task_id."""


class NothingSelected(ConfigBackupError):
    """The selection matches no enabled device; nothing was started."""


@dataclass(frozen=True)
class TryTimes:
    """Seconds that the steps of one try took; None for a step that was not reached."""

    connect_seconds: float | None = None
    login_seconds: float | None = None
    fetch_seconds: float | None = None
    store_seconds: float | None = None


@dataclass
class CollectionFailed(ConfigBackupError):
    """One device's try failed. Message, details and screen are redacted before they get here."""

    reason: Reason
    #: One short line for a table cell; never a secret.
    message: str
    #: The traceback, redacted; empty where it says nothing.
    details: str = ""
    times: TryTimes = field(default_factory=TryTimes)
    #: The last text the device sent (at most 2,000 characters), redacted.
    last_screen: str = ""

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class DatabaseProblem(ConfigBackupError):
    """PostgreSQL cannot be started, reached or used."""


class RepositoryProblem(ConfigBackupError):
    """The Git repository is missing, damaged or refused by its remote."""


class ExportProblem(ConfigBackupError):
    """A month could not be written to its file, or the file does not say what the rows do."""


class ListenerProblem(ConfigBackupError):
    """The HTTP listener cannot bind its address and port."""


class LeadershipLost(ConfigBackupError):
    """This process no longer leads; what it was about to do is left to the new leader."""


class CollectionCancelled(ConfigBackupError):
    """The try was cut off because somebody cancelled the execution."""
