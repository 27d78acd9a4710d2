"""The devices of the inventory: list, look at, pause, resume."""

from datetime import UTC, datetime
from typing import Any

from pydantic import Field

from exporter.inventory.people import pause_device, resume_device
from exporter.queries.devices import list_devices, list_versions, one_device
from exporter.queries.rows import Row
from exporter.web.access import caller
from exporter.web.api.context import Answer, Api, Asked, Moment, Word
from exporter.web.problems import InvalidRequest


class DeviceAnswer(Answer):
    id: int
    name: str
    address: str
    platform: str
    vendor: str
    site: str
    zone: str
    enabled: bool
    state: str


class DevicesAnswer(Answer):
    devices: list[DeviceAnswer]


class VersionAnswer(Answer):
    id: int
    created_at: datetime
    size_bytes: int
    lines_added: int
    lines_removed: int
    git_commit_id: str | None


class VersionsAnswer(Answer):
    configurations: list[VersionAnswer]


class PauseAsked(Asked):
    until: Moment = Field(description="When the pause ends by itself, with a time zone.")
    note: Word = Field(description="Why; it shows everywhere.")


def add_devices(api: Api) -> None:
    app = api.app

    @app.get("/devices/all")
    @app.output(DevicesAnswer)
    def devices() -> dict[str, Any]:
        """Devices of the inventory with their present, by name."""
        with api.reading() as connection:
            return {"devices": list_devices(connection)}

    @app.get("/devices/<name>")
    @app.output(DeviceAnswer)
    def device(name: str) -> Row:
        """One device of the inventory with its present."""
        with api.reading() as connection:
            return one_device(connection, name)

    @app.get("/devices/<name>/configurations")
    @app.output(VersionsAnswer)
    def configurations(name: str) -> dict[str, Any]:
        """The stored versions, newest first (at most 1,000)."""
        with api.reading() as connection:
            return {"configurations": list_versions(connection, name, limit=1_000)}

    @app.post("/devices/<name>/pause")
    @app.input(PauseAsked, arg_name="asked")
    @app.output(DeviceAnswer)
    @api.change
    def pause(name: str, asked: PauseAsked) -> Row:
        """No schedule backs the device up until then."""
        if asked.until <= datetime.now(UTC):
            raise InvalidRequest([("json.until", "is over already")])
        until = asked.until
        with api.changing("pause device", name, until=until, note=asked.note) as connection:
            pause_device(connection, name, until=until, note=asked.note, by=caller().name)
            return one_device(connection, name)

    @app.post("/devices/<name>/resume")
    @app.output(DeviceAnswer)
    @api.change
    def resume(name: str) -> Row:
        """End a pause now."""
        with api.changing("resume device", name) as connection:
            resume_device(connection, name)
            return one_device(connection, name)
