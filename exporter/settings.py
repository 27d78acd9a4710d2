"""The configuration file and the environment, validated.

Read once at the start (and on SIGHUP) and passed down; nothing else reads the environment. Every
key has a type, a unit in its name where it is a quantity, a default that works on one machine,
and a sentence; the sample file and the reference are made from them.

The environment overrides the file: `CONFIGBACKUP_DATABASE__URL` is `database.url`. A secret may
come from a file instead: `CONFIGBACKUP_DATABASE__URL_FILE`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, available_timezones

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from exporter.cron import cron_trigger
from exporter.errors import Fault, InvalidSettings

ENVIRONMENT_PREFIX = "CONFIGBACKUP_"
SETTINGS_FILE_VARIABLE = "CONFIGBACKUP_SETTINGS"
_SECRET_KEYS = frozenset({"url", "mask_key", "remote_url", "replica_url"})
DEFAULT_PLACES = (Path("configbackup.yaml"), Path("/etc/configbackup/configbackup.yaml"))


def _known_time_zone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError("a time zone of the IANA database, such as Europe/Berlin")
    return name


def _five_field_cron(expression: str) -> str:
    try:
        cron_trigger(expression)
    except ValueError as error:
        raise ValueError(f"a cron expression of five fields ({error})") from None
    return expression


TimeZone = Annotated[str, AfterValidator(_known_time_zone)]
Cron = Annotated[str, AfterValidator(_five_field_cron)]
Seconds = Annotated[float, Field(gt=0)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Section(BaseModel):
    """A part of the configuration file; unknown keys are faults, not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DatabaseSettings(Section):
    url: SecretStr = Field(
        SecretStr("embedded"),
        description="`embedded` runs an own PostgreSQL on this machine; else the URL of a server "
        "(14 or newer), such as postgresql://configbackup:PASSWORD@host/configbackup.",
    )
    replica_url: SecretStr | None = Field(
        None,
        description="URL of a replica that people's reads go to, such as pages and lists; nothing: "
        "to database.url.",
    )
    directory: Path = Field(
        Path("state/postgresql"), description="Where the embedded PostgreSQL lives."
    )
    port: Port = Field(
        9877, description="Port on 127.0.0.1 that the embedded PostgreSQL listens on."
    )
    system_user: str = Field(
        "configbackup",
        description="User that the embedded PostgreSQL runs as where the daemon is root.",
    )
    pool_size: Annotated[int, Field(ge=2, le=100)] = Field(
        8, description="Connections that each process holds at most."
    )
    pool_timeout_seconds: Seconds = Field(
        30, description="How long to wait for a free connection of the pool."
    )
    statement_timeout_seconds: Seconds = Field(60, description="Limit of one SQL statement.")
    lock_timeout_seconds: Seconds = Field(10, description="Limit of waiting for a lock.")
    idle_in_transaction_timeout_seconds: Seconds = Field(
        60, description="Limit of an open transaction's doing nothing; the server ends it then."
    )
    reader_role: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]*$", max_length=63)] = Field(
        "configbackup_reader",
        description="Role that reads the reporting views: Grafana's. Roles belong to the whole "
        "server: two installations on one server need two.",
    )
    reader_timeout_seconds: Seconds = Field(
        10, description="Limit of one statement of that role; twice that ends its session."
    )


class InventorySettings(Section):
    plugin: str = Field(
        "SimpleInventory", description="Nornir inventory plugin, by its registered name."
    )
    options: dict[str, Any] = Field(
        default_factory=lambda: {
            "host_file": "inventory/hosts.yaml",
            "group_file": "inventory/groups.yaml",
            "defaults_file": "inventory/defaults.yaml",
        },
        description="Arguments of the plugin; those that end in _file are relative to this file.",
    )
    refresh_seconds: Seconds = Field(300, description="How often the inventory is read again.")


class CollectionSettings(Section):
    deadline_seconds: Seconds = Field(
        120, description="Limit of one try, from the connection to the last byte."
    )
    grace_seconds: Seconds = Field(
        10, description="How long after its deadline a try may hold its session."
    )
    retries: Annotated[int, Field(ge=0, le=10)] = Field(
        2, description="Further tries after a failure that a retry can help."
    )
    retry_delay_seconds: Annotated[float, Field(ge=0)] = Field(
        30, description="Wait before the first retry; doubled for each further one, with jitter."
    )
    sessions: Annotated[int, Field(ge=2, le=500)] = Field(
        50, description="Sessions of one worker process; one of them is kept for people."
    )
    handshakes: Annotated[int, Field(ge=1, le=100)] = Field(
        15, description="Simultaneous handshakes of one worker process."
    )
    maximum_bytes: Annotated[int, Field(ge=10_000)] = Field(
        64 * 1024 * 1024, description="A device that sends more than this is cut off."
    )
    shrink_ratio: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.5, description="A configuration shorter than this share of the last one is truncated."
    )
    secrets: Literal["keep", "mask"] = Field(
        "keep", description="`mask` replaces known secrets by a keyed hash before storing."
    )
    mask_key: SecretStr | None = Field(
        None, description="Key of the hashes that replace secrets; needed for `secrets: mask`."
    )

    @model_validator(mode="after")
    def _mask_needs_a_key(self) -> "CollectionSettings":
        if self.secrets == "mask" and self.mask_key is None:
            raise ValueError("a mask_key where secrets is `mask`")
        return self


class WorkerSettings(Section):
    processes: Annotated[int, Field(ge=0, le=64)] = Field(
        0, description="Worker processes that `run` starts; 0: one a core."
    )
    zones: list[str] = Field(
        default_factory=lambda: ["default"],
        min_length=1,
        description="Zones whose devices the workers of this machine reach.",
    )


class Selection(Section):
    """Which devices: all that match every given key."""

    all: bool = Field(False, description="Every enabled device.")
    devices: list[str] = Field(default_factory=list, description="Names.")
    site: list[str] = Field(default_factory=list, description="Sites.")
    platform: list[str] = Field(default_factory=list, description="Platforms.")
    group: list[str] = Field(default_factory=list, description="Groups of the inventory.")
    zone: list[str] = Field(default_factory=list, description="Zones.")
    failing: bool = Field(False, description="Those whose last backup failed.")

    @model_validator(mode="after")
    def _selects_something(self) -> "Selection":
        narrows = any((self.devices, self.site, self.platform, self.group, self.zone, self.failing))
        if self.all == narrows:
            raise ValueError("either `all: true` or at least one of the other keys")
        return self


class ScheduleSettings(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=63)]
    cron: Cron | None = Field(None, description="Five cron fields; or every_seconds.")
    every_seconds: Annotated[float, Field(ge=1)] | None = Field(
        None, description="A fixed interval; or cron."
    )
    time_zone: TimeZone | None = Field(
        None, description="Time zone of cron; the time_zone above where it is missing."
    )
    spread_seconds: Annotated[float, Field(ge=0)] = Field(
        0, description="Window after the tick over which the devices are spread."
    )
    second_round: bool = Field(
        True, description="After the window, back up once more what failed in it."
    )
    selection: Selection = Field(default_factory=lambda: Selection(all=True))

    @model_validator(mode="after")
    def _one_of_cron_and_interval(self) -> "ScheduleSettings":
        if (self.cron is None) == (self.every_seconds is None):
            raise ValueError("exactly one of `cron` and `every_seconds`")
        return self


class GitSettings(Section):
    directory: Path = Field(
        Path("state/configurations.git"), description="The bare repository of configurations."
    )
    branch: str = Field("main", description="The branch that is written.")
    path: str = Field(
        "{site}/{device}.cfg",
        description="Path of a device's file; site, zone, platform, vendor and device are filled "
        "in.",
    )
    author_name: str = Field("configbackup", description="Author of the commits.")
    author_email: str = Field("configbackup@localhost", description="Author of the commits.")
    remote_url: SecretStr | None = Field(None, description="Where to push; nothing: no push.")
    remote_timeout_seconds: Seconds = Field(120, description="Limit of one push or clone.")
    retry_delay_seconds: Seconds = Field(
        15, description="Wait after a failed push; doubled up to an hour."
    )
    maintenance_seconds: Seconds = Field(
        3600, description="How often the repository is packed; one run is bounded."
    )

    @field_validator("path")
    @classmethod
    def _names_the_device(cls, template: str) -> str:
        try:
            filled = template.format(site="s", zone="z", platform="p", vendor="v", device="d")
        except (KeyError, IndexError, ValueError):
            raise ValueError(
                "a path of {site}, {zone}, {platform}, {vendor} and {device}"
            ) from None
        if "{device}" not in template or filled.startswith("/") or ".." in filled.split("/"):
            raise ValueError("a relative path that has {device} in it")
        return template


class HttpSettings(Section):
    address: str = Field("127.0.0.1", description="Address that the one listener binds.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        9876, description="Port of the one listener; 0: chosen by the system."
    )
    public_url: str = Field(
        "",
        description="Where people's browsers reach the pages, such as https://backup.example; "
        "nothing: http://ADDRESS:PORT. Links in dashboards and messages begin with it.",
    )

    @field_validator("public_url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        if url and not url.startswith(("http://", "https://")):
            raise ValueError("an address that begins with http:// or https://")
        return url.rstrip("/")

    @property
    def base_url(self) -> str:
        """What links to our pages begin with, without a slash at its end."""
        return self.public_url or f"http://{self.address}:{self.port}"


class MetricsSettings(Section):
    address: str | None = Field(
        None,
        description="Address of a listener for the metrics alone; nothing: the listener of http "
        "serves them.",
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        9878, description="Port of that listener; 0: chosen by the system."
    )
    token_file: Path | None = Field(
        None,
        description="File with the token that a scraper must send (Authorization: Bearer TOKEN); "
        "read at each scrape. Nothing: anybody may scrape.",
    )
    certificate_file: Path | None = Field(
        None, description="Certificate chain (PEM): the listener of metrics.address speaks TLS."
    )
    key_file: Path | None = Field(None, description="Private key (PEM) of the certificate.")

    @model_validator(mode="after")
    def _tls_is_whole(self) -> "MetricsSettings":
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("both of `certificate_file` and `key_file`, or neither")
        if self.certificate_file is not None and self.address is None:
            raise ValueError("an `address` of a listener that speaks TLS")
        return self


class IntegritySettings(Section):
    configurations_days: Annotated[int, Field(ge=1, le=3650)] = Field(
        30, description="Every stored configuration is read again once in this many nights."
    )


class HistorySettings(Section):
    """How long what is kept; ages are counted from the end of a month or the row's own time."""

    hot_days: Annotated[int, Field(ge=2, le=3650)] = Field(
        30, description="A month all of whose executions are older moves to the archive."
    )
    archive_days: Annotated[int, Field(ge=3, le=36500)] = Field(
        400, description="A month all of whose executions are older leaves the archive: deleted."
    )
    export_directory: Path | None = Field(
        None,
        description="Where a month that leaves the archive is written as a Parquet file before; "
        "needs the extra `archive`. Nothing: it is deleted without a copy.",
    )
    error_details_days: Annotated[int, Field(ge=1)] = Field(
        90, description="After so long an execution's traceback is emptied."
    )
    extra_info_days: Annotated[int, Field(ge=1)] = Field(
        180, description="After so long an execution's times of the steps and last screen are."
    )
    events_days: Annotated[int, Field(ge=1)] = Field(
        7, description="After so long an event is deleted."
    )
    backups_days: Annotated[int, Field(ge=1)] = Field(
        400, description="After so long an ended backup is deleted; its executions are not."
    )
    backup_devices_days: Annotated[int, Field(ge=1)] = Field(
        60, description="After so long the list of devices that an ended backup served is."
    )
    all_versions_days: Annotated[int, Field(ge=1)] | None = Field(
        365,
        description="Of a device's versions older than this the database keeps the text of the "
        "first, the newest and the last of each week; Git keeps all. Nothing: all are kept.",
    )

    @model_validator(mode="after")
    def _archive_is_longer(self) -> "HistorySettings":
        if self.archive_days <= self.hot_days:
            raise ValueError("archive_days greater than hot_days")
        return self


class LogSettings(Section):
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Threshold.")
    format: Literal["auto", "console", "json"] = Field(
        "auto", description="`auto`: for people on a terminal, JSON elsewhere."
    )


class _Environment(EnvSettingsSource):
    """The environment's variables; those of secrets may name a file that holds the secret."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        variables = dict(super()._load_env_vars())
        prefix = ENVIRONMENT_PREFIX.lower()
        for name, value in list(variables.items()):
            if not name.startswith(prefix) or name == SETTINGS_FILE_VARIABLE.lower():
                continue
            keys = name.removeprefix(prefix).split("__")
            if keys[0] not in self.settings_cls.model_fields:
                raise InvalidSettings(
                    [Fault("environment", name.upper(), "an unknown key", "a section's key")]
                )
            if value and keys[-1].removesuffix("_file") in _SECRET_KEYS - {keys[-1]}:
                variables[name.removesuffix("_file")] = _read_secret(name.upper(), Path(value))
                del variables[name]
        return variables


def _read_secret(variable: str, file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(
            [Fault("environment", variable, str(error), "a readable file with the secret")]
        ) from None


class Settings(BaseSettings):
    """The whole configuration: the environment, then the file (given as keywords)."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    time_zone: TimeZone = Field(
        "UTC", description="The time zone of the days in statistics, and of schedules by default."
    )
    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    inventory: InventorySettings = Field(default_factory=InventorySettings)
    collection: CollectionSettings = Field(default_factory=CollectionSettings)
    workers: WorkerSettings = Field(default_factory=WorkerSettings)
    schedules: list[ScheduleSettings] = Field(
        default_factory=list, description="When, and which devices."
    )
    git: GitSettings = Field(default_factory=GitSettings)
    http: HttpSettings = Field(default_factory=HttpSettings)
    metrics: MetricsSettings = Field(default_factory=MetricsSettings)
    integrity: IntegritySettings = Field(default_factory=IntegritySettings)
    history: HistorySettings = Field(default_factory=HistorySettings)
    logs: LogSettings = Field(default_factory=LogSettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return _Environment(settings_cls), init_settings

    @field_validator("schedules")
    @classmethod
    def _unique_names(cls, schedules: list[ScheduleSettings]) -> list[ScheduleSettings]:
        names = [schedule.name for schedule in schedules]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"schedules with names of their own; twice: {', '.join(twice)}")
        return schedules

    @property
    def zone_info(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)


def find_settings_file(environment: Mapping[str, str] = os.environ) -> Path:
    """The file named by CONFIGBACKUP_SETTINGS, else the first default place that has one.

    Raises InvalidSettings where there is none.
    """
    if named := environment.get(SETTINGS_FILE_VARIABLE):
        return Path(named)
    for place in DEFAULT_PLACES:
        if place.is_file():
            return place
    raise InvalidSettings(
        [
            Fault(
                file=str(DEFAULT_PLACES[0]),
                path="(file)",
                found="no such file",
                expected="a configuration file; make one with: configbackup init DIR",
            )
        ]
    )


def load_settings(file: Path) -> Settings:
    """Read and validate the file and the environment.

    Relative paths are made absolute, against the folder of the file. Raises InvalidSettings with
    every fault at once; secrets are not shown in it.
    """
    content = _read_mapping(file)
    try:
        settings = Settings(**content)
    except ValidationError as error:
        raise InvalidSettings(
            [_fault_of(file, detail) for detail in error.errors(include_url=False)]
        ) from None
    except SettingsError as error:
        raise InvalidSettings(
            [Fault("environment", ENVIRONMENT_PREFIX, str(error), "JSON for lists and mappings")]
        ) from None
    return _with_absolute_paths(settings, file.resolve().parent)


def _read_mapping(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(
            [Fault(str(file), "(file)", str(error), "a readable YAML file in UTF-8")]
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "(file)"
        raise InvalidSettings(
            [Fault(str(file), place, error.problem or "a syntax error", "valid YAML")]
        ) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InvalidSettings(
            [Fault(str(file), "(file)", f"a {type(content).__name__}", "a mapping of sections")]
        )
    return content


def _fault_of(file: Path, detail: ErrorDetails) -> Fault:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in detail["loc"])
    if detail["type"] == "missing":
        found = "nothing"
    elif _SECRET_KEYS & {str(part) for part in detail["loc"]} or isinstance(detail["input"], dict):
        found = f"a {type(detail['input']).__name__}"
    else:
        found = repr(detail["input"])[:100]
    if detail["type"] == "extra_forbidden":
        return Fault(str(file), path.lstrip("."), "an unknown key", "a key of the reference")
    expected = detail["msg"].removeprefix("Value error, ")
    return Fault(str(file), path.lstrip(".") or "(file)", found, expected)


def _with_absolute_paths(settings: Settings, base: Path) -> Settings:
    options = {
        key: str(base / Path(value).expanduser())
        if key.endswith("_file") and isinstance(value, str)
        else value
        for key, value in settings.inventory.options.items()
    }
    files = {
        name: base / file.expanduser()
        for name, file in settings.metrics
        if name.endswith("_file") and file is not None
    }
    export = settings.history.export_directory
    return settings.model_copy(
        update={
            "history": settings.history.model_copy(
                update={"export_directory": export and base / export.expanduser()}
            ),
            "metrics": settings.metrics.model_copy(update=files),
            "database": settings.database.model_copy(
                update={"directory": base / settings.database.directory.expanduser()}
            ),
            "git": settings.git.model_copy(
                update={"directory": base / settings.git.directory.expanduser()}
            ),
            "inventory": settings.inventory.model_copy(update={"options": options}),
        }
    )
