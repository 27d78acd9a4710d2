"""One batch of the outbox's rows as commits in a repository."""

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection

from exporter.publishing.commits import DeviceFile, Event, Version, Written, commit_event
from exporter.publishing.outbox import load_texts
from exporter.publishing.stream import CommitStream
from exporter.settings import GitSettings

#: Events whose texts are in memory together, compressed.
_CHUNK = 50


def write_batch(
    connection: Connection,
    directory: Path,
    settings: GitSettings,
    *,
    parent: str | None,
    batch: Sequence[Event],
    files: dict[int, DeviceFile],
) -> list[Written]:
    """Write the commits on top of parent, in order, and keep `files` in step; moves no branch.

    Raises RepositoryProblem; nobody sees then what was written.
    """
    identity = f"{_plain(settings.author_name)} <{_plain(settings.author_email)}>"
    with CommitStream(directory, parent=parent, identity=identity) as stream:
        for start in range(0, len(batch), _CHUNK):
            chunk = batch[start : start + _CHUNK]
            find_text = load_texts(connection, _needed(chunk, files))
            for event in chunk:
                commit, file = commit_event(event, files[event.device_id], find_text)
                stream.write(commit)
                files[event.device_id] = file
        return stream.finish()


def _needed(chunk: Sequence[Event], files: dict[int, DeviceFile]) -> set[bytes]:
    """A moved file is written again from its text, which may be one of this chunk's versions."""
    hashes = {event.sha256 for event in chunk if isinstance(event, Version)}
    return hashes | {
        present
        for event in chunk
        if not isinstance(event, Version) and (present := files[event.device_id].sha256)
    }


def _plain(text: str) -> str:
    return "".join(character for character in text if character not in "<>\n\0")
