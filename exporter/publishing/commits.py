"""From the rows of the outbox to commits; pure, so that the same rows give the same commits."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime


@dataclass(frozen=True)
class Version:
    """A row of `configurations` that becomes a commit."""

    id: int
    device_id: int
    created_at: datetime
    sha256: bytes
    size_bytes: int
    lines_added: int
    lines_removed: int
    execution_id: uuid.UUID
    task_id: uuid.UUID
    trigger: str


@dataclass(frozen=True)
class PathChange:
    """A row of `device_paths`, but a device's first, that becomes a commit."""

    id: int
    device_id: int
    created_at: datetime
    device_name: str
    #: None: the device was retired, its file goes.
    path: str | None


Event = Version | PathChange
#: A text by its sha256; None where it was thinned out.
FindText = Callable[[bytes], bytes | None]


@dataclass(frozen=True)
class DeviceFile:
    """A device's file in Git between two commits."""

    device_name: str
    path: str | None
    #: The device's first row of device_paths, until the first commit publishes it.
    first_path_id: int | None
    #: Text of the file; kept while a retired device has none. None: no version had a text.
    sha256: bytes | None


@dataclass(frozen=True)
class Written:
    """Which rows a commit publishes."""

    commit_id: str
    version_id: int | None
    path_id: int | None


@dataclass(frozen=True)
class Commit:
    """One commit: first a file is removed, then one is written; both may be missing."""

    created_at: datetime
    message: str
    version_id: int | None
    path_id: int | None
    removed: str | None = None
    path: str | None = None
    content: bytes | None = None


def commit_event(event: Event, file: DeviceFile, find_text: FindText) -> tuple[Commit, DeviceFile]:
    """The event's commit, and the device's file after it.

    A version whose text was thinned out has a commit without a change, so that each version keeps
    a commit of its own.
    """
    if isinstance(event, Version):
        return _commit_version(event, file, find_text)
    return _commit_path_change(event, file, find_text)


def _commit_version(
    version: Version, file: DeviceFile, find_text: FindText
) -> tuple[Commit, DeviceFile]:
    content = find_text(version.sha256)
    subject = f"{file.device_name}: +{version.lines_added} -{version.lines_removed}"
    commit = Commit(
        created_at=version.created_at,
        message=_message(
            subject if content is not None else f"{subject} (text thinned out)",
            Device=file.device_name,
            Task=version.task_id,
            Execution=version.execution_id,
            Trigger=version.trigger,
            Version=version.id,
            Path=file.first_path_id,
        ),
        version_id=version.id,
        path_id=file.first_path_id,
        path=file.path,
        content=content,
    )
    written = file.sha256 if content is None else version.sha256
    return commit, replace(file, first_path_id=None, sha256=written)


def _commit_path_change(
    change: PathChange, file: DeviceFile, find_text: FindText
) -> tuple[Commit, DeviceFile]:
    if change.path is None:
        subject = f"{change.device_name}: retired"
    elif file.path is None:
        subject = f"{change.device_name}: back as {change.path}"
    else:
        subject = f"{change.device_name}: moved from {file.path} to {change.path}"
    commit = Commit(
        created_at=change.created_at,
        message=_message(subject, Device=change.device_name, Path=change.id),
        version_id=None,
        path_id=change.id,
        removed=file.path,
        path=change.path,
        content=find_text(file.sha256) if change.path and file.sha256 else None,
    )
    return commit, replace(file, device_name=change.device_name, path=change.path)


def _message(subject: str, **trailers: object) -> str:
    lines = [f"{key}: {_one_line(str(value))}" for key, value in trailers.items() if value]
    return "\n".join([_one_line(subject), "", *lines, ""])


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
