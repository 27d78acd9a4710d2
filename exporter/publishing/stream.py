"""The writer: commits through one `git fast-import`, to a reference that nobody reads.

The branch is moved by the caller afterwards, so what a crash leaves here is not seen by anyone.
Format of the stream: https://git-scm.com/docs/git-fast-import
"""

import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from exporter.errors import RepositoryProblem
from exporter.publishing.commands import end_process, environment, shortened, start_git
from exporter.publishing.commits import Commit, Written

INCOMING = "refs/configbackup/incoming"


class CommitStream:
    """A running fast-import; a context manager that leaves nothing behind when it fails.

    `identity` is the author's and committer's `Name <address>`. Raises RepositoryProblem with
    Git's words, for a full disk too.
    """

    def __init__(self, directory: Path, *, parent: str | None, identity: str) -> None:
        self._directory = directory
        self._parent = parent
        self._identity = identity
        # The rows of each commit; contents are not kept.
        self._rows: list[tuple[int | None, int | None]] = []
        # Files, not pipes: nobody has to read them while the stream is written.
        self._answers = tempfile.TemporaryFile()  # noqa: SIM115
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = start_git(
            directory,
            # The reference may hold what a crash left: it is replaced, hence --force.
            ("fast-import", "--quiet", "--force", "--done"),
            variables=environment(),
            stdin=subprocess.PIPE,
            stdout=self._answers,
            stderr=self._errors,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        end_process(self._process)
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        crash_report = self._directory / f"fast_import_crash_{self._process.pid}"
        crash_report.unlink(missing_ok=True)
        self._answers.close()
        self._errors.close()

    def write(self, commit: Commit) -> None:
        """Send a commit on top of the last one."""
        parent = self._parent if not self._rows else None
        self._rows.append((commit.version_id, commit.path_id))
        mark = len(self._rows)
        self._send(format_commit(commit, mark=mark, parent=parent, identity=self._identity))

    def finish(self) -> list[Written]:
        """Wait until all objects are stored; the ids of the commits, in order."""
        marks = range(1, len(self._rows) + 1)
        self._send("".join(f"get-mark :{mark}\n" for mark in marks).encode() + b"done\n")
        assert self._process.stdin is not None
        self._process.stdin.close()
        if self._process.wait() != 0:
            raise self._problem()
        self._answers.seek(0)
        commit_ids = self._answers.read().decode().split()
        return [
            Written(commit_id, version_id, path_id)
            for commit_id, (version_id, path_id) in zip(commit_ids, self._rows, strict=True)
        ]

    def _send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except OSError:
            self._process.wait()
            raise self._problem() from None

    def _problem(self) -> RepositoryProblem:
        self._errors.seek(0)
        # The first line is the cause; what follows a full disk is Git's confusion about it.
        message = shortened(self._errors.readline().decode(errors="replace"))
        return RepositoryProblem(f"git fast-import failed in {self._directory}: {message}")


def format_commit(commit: Commit, *, mark: int, parent: str | None, identity: str) -> bytes:
    """A commit in the format of the stream; author's and committer's time are the row's."""
    message = commit.message.encode()
    moment = int(commit.created_at.timestamp())
    header = (
        f"commit {INCOMING}\nmark :{mark}\n"
        f"author {identity} {moment} +0000\ncommitter {identity} {moment} +0000\n"
        f"data {len(message)}\n"
    )
    parts = [header.encode(), message, f"\nfrom {parent}\n".encode() if parent else b"\n"]
    if commit.removed is not None:
        parts.append(f"D {commit.removed}\n".encode())
    if commit.path is not None and commit.content is not None:
        parts.append(f"M 100644 inline {commit.path}\ndata {len(commit.content)}\n".encode())
        parts += (commit.content, b"\n")
    parts.append(b"\n")
    return b"".join(parts)
