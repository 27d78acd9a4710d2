"""The bare repository on disk: made, read, checked, moved, packed and replaced."""

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import git
from git.exc import BadName, ODBError

from exporter.errors import RepositoryProblem
from exporter.publishing.commands import check_git, environment, run_git, shortened
from exporter.publishing.commits import Written
from exporter.publishing.stream import INCOMING
from exporter.settings import GitSettings

REBUILD_HINT = "hint: configbackup publish --rebuild"
NO_COMMIT = "0" * 40
#: Longest run of packing; what it did not finish is left to the next one.
MAINTENANCE_SECONDS = 600.0
#: A reference's lock is held for milliseconds; one this old was left by a crash.
_OLD_REFERENCE_LOCK_SECONDS = 10.0
#: Other locks may be held by a run of packing that outlived its parent.
_OLD_LOCK_SECONDS = MAINTENANCE_SECONDS + 300.0


@dataclass(frozen=True)
class HistoryEntry:
    """A commit that changed a path."""

    commit_id: str
    committed_at: datetime
    subject: str


def exists(directory: Path) -> bool:
    """Whether anything lies there; an empty folder (a fresh mount) counts as nothing."""
    return directory.is_dir() and any(directory.iterdir())


def create(directory: Path, branch: str) -> None:
    """A new, empty repository, there at once or not at all."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    fresh = fresh_directory(directory)
    check_git(fresh, "init", "--quiet", "--bare", "--template=", f"--initial-branch={branch}")
    fresh.rename(directory)


def fresh_directory(directory: Path) -> Path:
    """A name beside the repository for one that is being made; what a crash left is removed."""
    for left in directory.parent.glob(f"{directory.name}.new-*"):
        shutil.rmtree(left, ignore_errors=True)
    return directory.with_name(f"{directory.name}.new-{os.getpid()}-{time.time_ns()}")


def replace(directory: Path, fresh: Path) -> Path | None:
    """Put a finished repository in place; where the old one was kept, None where there was none."""
    kept = None
    if exists(directory):
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        kept = directory.with_name(f"{directory.name}.damaged-{moment}")
        directory.rename(kept)
    fresh.rename(directory)
    return kept


@contextmanager
def opened(directory: Path) -> Iterator[git.Repo]:
    """The repository for reading; raises RepositoryProblem for what is damaged or not there."""
    try:
        with git.Repo(directory) as repository:
            repository.git.update_environment(**environment())
            yield repository
    except (git.GitError, ODBError, BadName, KeyError, ValueError, OSError) as error:
        what = f"{type(error).__name__}: {str(error).strip()}"[:300]
        raise RepositoryProblem(
            f"the repository {directory} cannot be read: {what}\n{REBUILD_HINT}"
        ) from error


def read_head(directory: Path, branch: str) -> str | None:
    """The branch's commit, without a process of Git; None: no such branch."""
    path = f"refs/heads/{branch}"
    with opened(directory) as repository:
        if path not in {head.path for head in repository.heads}:
            return None
        return git.SymbolicReference.dereference_recursive(repository, path)


def has_commit(directory: Path, commit_id: str) -> bool:
    return run_git(directory, "cat-file", "-e", f"{commit_id}^{{tree}}").returncode == 0


def check_tip(directory: Path, commit_id: str) -> None:
    """Raise RepositoryProblem unless every folder of the commit can be read, every file is there.

    A tenth of a second for 10,000 files; the contents of files are not read.
    """
    result = run_git(directory, "rev-list", "--objects", "--no-walk", "--quiet", commit_id)
    if result.returncode != 0:
        raise RepositoryProblem(
            f"the repository {directory} is damaged: {shortened(result.stderr)}\n{REBUILD_HINT}"
        )


def commits_above(directory: Path, base: str | None, head: str) -> list[Written]:
    """The commits from base (None: from the beginning) to head, oldest first, by their trailers.

    Raises RepositoryProblem where the head is not above the base.
    """
    if base and (run_git(directory, "merge-base", "--is-ancestor", base, head).returncode != 0):
        raise RepositoryProblem(
            f"the branch in {directory} is at {head}, expected {base}\n{REBUILD_HINT}"
        )
    output = check_git(
        directory,
        "log",
        "--reverse",
        "--format=%H|%(trailers:key=Version,valueonly,separator=%x2C)"
        "|%(trailers:key=Path,valueonly,separator=%x2C)",
        f"{base}..{head}" if base else head,
    )
    return [_written(line) for line in output.splitlines()]


def _written(line: str) -> Written:
    commit_id, version_id, path_id = line.split("|")
    return Written(commit_id, _row_id(version_id), _row_id(path_id))


def _row_id(trailer: str) -> int | None:
    return int(trailer) if re.fullmatch(r"[1-9][0-9]{0,17}", trailer) else None


def move_branch(directory: Path, branch: str, *, new: str, old: str | None) -> None:
    """Set the branch if it is still at old (None: not there), and drop the stream's reference."""
    check_git(
        directory,
        "update-ref",
        "--stdin",
        given=f"update refs/heads/{branch} {new} {old or NO_COMMIT}\ndelete {INCOMING}\n",
    )


def remove_leftovers(directory: Path) -> None:
    """Remove what a crash or a full disk left: old locks, half-written packs, crash reports.

    Not to be called while something is packed.
    """
    for pattern, age_seconds in (
        ("*.lock", _OLD_REFERENCE_LOCK_SECONDS),
        ("refs/**/*.lock", _OLD_REFERENCE_LOCK_SECONDS),
        ("objects/*.lock", _OLD_LOCK_SECONDS),
        ("objects/pack/*.lock", _OLD_LOCK_SECONDS),
        ("objects/info/**/*.lock", _OLD_LOCK_SECONDS),
        ("objects/pack/tmp_*", 0.0),
        ("fast_import_crash_*", 0.0),
    ):
        for leftover in directory.glob(pattern):
            if time.time() - leftover.stat().st_mtime >= age_seconds:
                leftover.unlink(missing_ok=True)


def pack(directory: Path) -> None:
    """Join small packs and loose objects, with the lowest priority and within bounds.

    Raises RepositoryProblem where Git cannot.
    """
    for task in ("loose-objects", "incremental-repack"):
        result = run_git(
            directory,
            "maintenance",
            "run",
            "--quiet",
            f"--task={task}",
            timeout_seconds=MAINTENANCE_SECONDS,
            is_gentle=True,
        )
        if result.returncode != 0:
            raise RepositoryProblem(
                f"git maintenance, task {task}, failed: {shortened(result.stderr)}"
            )


def measure_bytes(directory: Path) -> int:
    """Bytes of all files of the repository."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def read_version(settings: GitSettings, commit_id: str, path: str) -> bytes:
    """A file as a commit has it; raises RepositoryProblem where it is not there."""
    with opened(settings.directory) as repository:
        content: bytes = (repository.commit(commit_id).tree / path).data_stream.read()
        return content


def history(settings: GitSettings, path: str, limit: int = 100) -> list[HistoryEntry]:
    """The commits that changed a path, newest first; moves are not followed."""
    with opened(settings.directory) as repository:
        commits = repository.iter_commits(settings.branch, paths=path, max_count=limit)
        return [
            HistoryEntry(commit.hexsha, commit.committed_datetime, str(commit.summary))
            for commit in commits
        ]
