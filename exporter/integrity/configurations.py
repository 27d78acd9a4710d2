"""Stored configurations: read again, hashed, and compared with Git; healed from the whole copy.

There are two copies of each version: the compressed text in PostgreSQL (until it is thinned out)
and the file of its commit in Git. Its SHA-256 says which of them is whole.
"""

import hashlib
import os
import subprocess
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard
from sqlalchemy import Connection, Engine, Row, text

from exporter.publishing.commands import end_process, environment, start_git
from exporter.settings import GitSettings

#: Texts that are read in one transaction.
_PART = 200


@dataclass(frozen=True)
class Damage:
    """One copy that is not what its hash says."""

    device: str
    version_id: int
    #: `database` or `git`.
    place: str
    is_healed: bool


@dataclass
class Checked:
    """What one check read and found."""

    texts: int = 0
    damages: list[Damage] = field(default_factory=list)

    @property
    def lost(self) -> int:
        return sum(not damage.is_healed for damage in self.damages)


def verify_configurations(engine: Engine, settings: GitSettings, *, share: float = 1.0) -> Checked:
    """Read the share of texts that was not verified for the longest time, and heal what can be.

    Raises RepositoryProblem where Git cannot be started.
    """
    checked = Checked()
    with engine.connect() as connection:
        total = connection.scalar(text("SELECT count(*) FROM configuration_texts")) or 0
        hashes = connection.scalars(
            text("""
                SELECT sha256 FROM configuration_texts
                ORDER BY verified_at NULLS FIRST, sha256 LIMIT :limit
            """),
            {"limit": -int(-total * share // 1)},
        ).all()
    with _blobs(settings.directory) as blobs:
        for start in range(0, len(hashes), _PART):
            part = [bytes(sha256) for sha256 in hashes[start : start + _PART]]
            with engine.begin() as connection:
                _verify_part(connection, settings.directory, blobs, part, checked)
    with engine.begin() as connection:
        connection.execute(
            text("""
                UPDATE installation SET damaged_configurations = (
                    SELECT count(*) FROM configuration_texts WHERE is_damaged)
            """)
        )
    return checked


def _verify_part(
    connection: Connection,
    directory: Path,
    blobs: "_Blobs",
    hashes: Sequence[bytes],
    checked: Checked,
) -> None:
    versions: dict[bytes, list[Row[Any]]] = {}
    for row in connection.execute(_VERSIONS, {"hashes": list(hashes)}):
        versions.setdefault(bytes(row.sha256), []).append(row)
    in_git = blobs.of_commits(
        [row.git_commit_id for rows in versions.values() for row in rows if row.git_commit_id]
    )
    whole: list[bytes] = []
    damaged: list[bytes] = []
    for row in connection.execute(_TEXTS, {"hashes": list(hashes)}):
        sha256 = bytes(row.sha256)
        checked.texts += 1
        files = [(v, in_git.get(v.git_commit_id)) for v in versions.get(sha256, [])]
        found = _verify_text(connection, directory, blobs, row, files, checked)
        (whole if found else damaged).append(sha256)
    connection.execute(
        text("""
            UPDATE configuration_texts SET verified_at = now(), is_damaged = sha256 = ANY(:damaged)
            WHERE sha256 = ANY(:hashes)
        """),
        {"hashes": [*whole, *damaged], "damaged": damaged},
    )


# Locked, so that thinning does not empty a text between its reading and its healing.
_TEXTS = text("""
    SELECT sha256, compressed FROM configuration_texts
    WHERE sha256 = ANY(:hashes) ORDER BY sha256 FOR UPDATE
""")
_VERSIONS = text("""
    SELECT c.id, c.sha256, c.git_commit_id, d.name AS device
    FROM configurations AS c JOIN devices AS d ON d.id = c.device_id
    WHERE c.sha256 = ANY(:hashes) ORDER BY c.id
""")


def _verify_text(
    connection: Connection,
    directory: Path,
    blobs: "_Blobs",
    stored: Row[Any],
    files: Sequence[tuple[Row[Any], "_Blob | None"]],
    checked: Checked,
) -> bool:
    """Whether each place that has a copy has a whole one, or got it from the other."""
    sha256 = bytes(stored.sha256)
    content = _unpacked(stored.compressed, sha256)
    is_whole = True
    if content is None:
        whole_blob = next((blob.id for _, blob in files if blob and blob.sha256 == sha256), "")
        content = blobs.content(whole_blob)
        if stored.compressed is not None:
            is_whole = content is not None
            _report(checked, files[0][0], "database", is_healed=is_whole)
            if content is not None:
                _write_text(connection, sha256, content)
    for version, blob in files:
        if blob is not None and blob.sha256 != sha256:
            is_healed = content is not None and _write_blob(directory, blob.id, content)
            _report(checked, version, "git", is_healed=is_healed)
            is_whole = is_whole and is_healed
    return is_whole


def _write_text(connection: Connection, sha256: bytes, content: bytes) -> None:
    connection.execute(
        text("UPDATE configuration_texts SET compressed = :compressed WHERE sha256 = :sha256"),
        {"compressed": zstandard.compress(content), "sha256": sha256},
    )


def _report(checked: Checked, version: Row[Any], place: str, *, is_healed: bool) -> None:
    checked.damages.append(Damage(version.device, version.id, place, is_healed))


def _unpacked(compressed: bytes | None, sha256: bytes) -> bytes | None:
    """The text; None where there is none, or not the one of this hash."""
    if compressed is None:
        return None
    try:
        content = zstandard.ZstdDecompressor().decompressobj().decompress(bytes(compressed))
    except zstandard.ZstdError:
        return None
    return content if hashlib.sha256(content).digest() == sha256 else None


def _write_blob(directory: Path, blob_id: str, content: bytes) -> bool:
    """Write a file's content as a loose object, which Git takes where a packed one is damaged.

    False: the commit's file has another content; writing this one would not heal it.
    """
    raw = b"blob %d\0" % len(content) + content
    if hashlib.sha1(raw).hexdigest() != blob_id:  # noqa: S324 - the name that Git gives it
        return False
    place = directory / "objects" / blob_id[:2] / blob_id[2:]
    place.parent.mkdir(exist_ok=True)
    fresh = place.with_name(f"tmp_obj_{blob_id[2:]}")
    with fresh.open("wb") as file:
        file.write(zlib.compress(raw))
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(place)
    return True


@dataclass(frozen=True)
class _Blob:
    """The file that a commit wrote; sha256 is None where it cannot be read."""

    id: str
    sha256: bytes | None


@contextmanager
def _blobs(directory: Path) -> Iterator["_Blobs"]:
    blobs = _Blobs(directory)
    try:
        yield blobs
    finally:
        blobs.close()


class _Blobs:
    """Reads what commits wrote, through one process of Git that is begun again when it dies."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._reader: subprocess.Popen[bytes] | None = None

    def of_commits(self, commits: Sequence[str]) -> dict[str, _Blob | None]:
        """By commit: its file, unreadable where the commit is; None where it wrote none."""
        return {
            commit: None if blob_id is None else _Blob(blob_id, self._hash(blob_id))
            for commit, blob_id in self._written_by(commits).items()
        }

    def _hash(self, blob_id: str) -> bytes | None:
        content = self.content(blob_id)
        return None if content is None else hashlib.sha256(content).digest()

    def close(self) -> None:
        if self._reader is not None:
            end_process(self._reader)
            self._reader = None

    def _written_by(self, commits: Sequence[str]) -> dict[str, str | None]:
        """The blob that each commit wrote; an empty name for a commit that cannot be read."""
        found: dict[str, str | None] = dict.fromkeys(commits, "")
        process = start_git(
            self._directory,
            ["diff-tree", "--stdin", "-r", "--root", "--no-renames", "--always"],
            variables=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        output, _ = process.communicate("".join(f"{c}\n" for c in found).encode())
        commit = ""
        for line in output.decode(errors="replace").splitlines():
            if not line.startswith(":"):
                commit = line
                found[commit] = None
            elif line.split(" ")[4][0] != "D":
                found[commit] = line.split(" ")[3]
        return found

    def content(self, blob_id: str) -> bytes | None:
        """A file; None where it cannot be read, or has no name."""
        if not blob_id:
            return None
        reader = self._reader or self._start()
        assert reader.stdin is not None
        assert reader.stdout is not None
        try:
            reader.stdin.write(f"{blob_id}\n".encode())
            reader.stdin.flush()
            header = reader.stdout.readline().split()
            if len(header) == 3:
                content = reader.stdout.read(int(header[2]) + 1)
                if len(content) == int(header[2]) + 1:
                    return content[:-1]
        except BrokenPipeError:
            header = []
        if len(header) != 2:  # not `ID missing`: it died of what it read
            self.close()
        return None

    def _start(self) -> "subprocess.Popen[bytes]":
        self._reader = start_git(
            self._directory,
            ["cat-file", "--batch"],
            variables=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        return self._reader
