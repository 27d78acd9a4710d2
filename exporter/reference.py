"""The sample configuration file, made from the settings: every key, its meaning and default."""

import json
import textwrap
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from exporter.settings import ScheduleSettings, Section, Selection, Settings

_WIDTH = 96

_HEAD = """\
# configbackup. A key that stands behind `#` has the value shown; remove the `#` to change it.
# The environment overrides this file: CONFIGBACKUP_DATABASE__PORT is database.port, and
# CONFIGBACKUP_DATABASE__URL_FILE names a file that holds database.url.
# Check it with `configbackup check`; a running daemon reads it again on SIGHUP.
"""

_SCHEDULES = """\
schedules:
  - name: nightly
    cron: "30 1 * * *"
    spread_seconds: 3600
    selection: {all: true}
"""

_INVENTORY = {
    "hosts.yaml": """\
# One entry a device. Values come from the host, else its groups in order, else the defaults.
# A credential may be env:NAME (a variable of the daemon's environment) or file:PATH.
core-1:
  hostname: 192.0.2.1
  groups: [berlin, ios]
access-1:
  hostname: 192.0.2.2
  groups: [berlin, eos]
""",
    "groups.yaml": """\
berlin:
  data: {site: berlin}
ios:
  platform: ios
eos:
  platform: eos
""",
    "defaults.yaml": """\
username: backup
password: env:DEVICE_PASSWORD
""",
}


def sample_settings() -> str:
    """The commented sample as YAML; it validates as it stands."""
    parts = [_HEAD]
    for name, field in Settings.model_fields.items():
        if name == "schedules":
            parts.append(_commented(field.description or "") + _schedule_keys() + _SCHEDULES)
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            parts.append(_section(name, field.annotation))
        else:
            parts.append(_key(name, field, indent=""))
    return "\n".join(parts)


def write_sample(directory: Path) -> list[Path]:
    """Write the sample file and a small inventory into the folder; the files written.

    Raises FileExistsError for a file that is there already; nothing is written then.
    """
    contents = {directory / "configbackup.yaml": sample_settings()}
    contents |= {directory / "inventory" / name: text for name, text in _INVENTORY.items()}
    for file in contents:
        if file.exists():
            raise FileExistsError(file)
    for file, text in contents.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return list(contents)


def _section(name: str, section: type[Section]) -> str:
    keys = "".join(_key(key, field, indent="  ") for key, field in section.model_fields.items())
    return f"#{name}:\n{keys}"


def _key(name: str, field: FieldInfo, *, indent: str) -> str:
    default = field.get_default(call_default_factory=True, validated_data={})
    return f"{_commented(field.description or '', indent)}#{indent}{name}: {_yaml(default)}\n"


def _schedule_keys() -> str:
    lines = []
    for model, prefix in ((ScheduleSettings, ""), (Selection, "selection.")):
        for name, field in model.model_fields.items():
            if field.description:
                lines.append(_commented(f"  {prefix}{name}: {field.description}"))
    return "".join(lines)


def _commented(text: str, indent: str = "") -> str:
    lines = textwrap.wrap(
        text, _WIDTH, subsequent_indent="    " if text[:1] == " " else "", drop_whitespace=True
    )
    first = text[: len(text) - len(text.lstrip())]
    return "".join(
        f"#{indent} {first if number == 0 else ''}{line.strip() if number == 0 else line}\n"
        for number, line in enumerate(lines)
    )


def _yaml(value: Any) -> str:
    """A value in YAML's flow style."""
    if value is PydanticUndefined or value is None:
        return "null"
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, BaseModel):
        return _yaml(value.model_dump())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, str) and value.isidentifier():
        return value
    return json.dumps(value, default=str)
