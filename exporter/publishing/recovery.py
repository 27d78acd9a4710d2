"""The repository made fit to be written: checked, caught up with, cloned or rebuilt.

PostgreSQL says which commit the branch must be at. What differs is ours (a crash between the move
of the branch and the write-back) or it is a problem; where no repository lies at all, on a new
leader's machine or after somebody deleted it, one is made again without being asked.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Engine

from exporter.errors import RepositoryProblem
from exporter.logs import get_logger
from exporter.publishing import repository
from exporter.publishing.commits import DeviceFile, Written
from exporter.publishing.outbox import batches, read_events, read_files
from exporter.publishing.placing import place_devices
from exporter.publishing.record import is_published, read_state, require_rows, write_back
from exporter.publishing.remote import Remote
from exporter.publishing.repository import REBUILD_HINT
from exporter.publishing.writing import write_batch
from exporter.settings import GitSettings

log = get_logger(__name__)

RequireLeadership = Callable[[], None]


def ready_head(
    engine: Engine, settings: GitSettings, require_leadership: RequireLeadership, *, closely: bool
) -> tuple[str | None, int]:
    """The branch's commit, as PostgreSQL knows it, and how many commits were recognised for that.

    Closely: every file of the tip is looked for too. Raises RepositoryProblem for a repository that
    is damaged or has commits that are not ours.
    """
    directory, branch = settings.directory, settings.branch
    if not repository.exists(directory):
        _restore(engine, settings, require_leadership)
    with engine.connect() as connection:
        expected = read_state(connection).head_commit_id
    head = repository.read_head(directory, branch)
    if head is None and expected and repository.has_commit(directory, expected):
        # The branch has another name since the settings changed.
        repository.move_branch(directory, branch, new=expected, old=None)
        head = expected
    if closely and head:
        repository.check_tip(directory, head)
    if head == expected:
        return head, 0
    if head is None:
        raise RepositoryProblem(
            f"the repository {directory} has no branch {branch}, expected it at {expected}\n"
            f"{REBUILD_HINT}"
        )
    if expected and _is_outdated(engine, directory, head=head, expected=expected):
        log.warning("another machine published since this one led, the repository is outdated")
        _restore(engine, settings, require_leadership)
        return ready_head(engine, settings, require_leadership, closely=True)
    written = repository.commits_above(directory, expected, head)
    require_leadership()
    with engine.begin() as connection:
        require_rows(connection, written)
        write_back(connection, written, head=head, expected=expected)
    log.info("commits of an interrupted turn were recognised", commits=len(written))
    return head, len(written)


def _is_outdated(engine: Engine, directory: Path, *, head: str, expected: str) -> bool:
    """Whether the head is a former one of ours, and what came after it was written elsewhere."""
    if repository.has_commit(directory, expected):
        return False
    with engine.connect() as connection:
        return is_published(connection, head)


def rebuild(engine: Engine, settings: GitSettings, require_leadership: RequireLeadership) -> int:
    """Write the repository anew from PostgreSQL and put it in place of the old one, which is kept.

    The same rows give the same commits; ids that changed all the same (texts thinned out, another
    author in the settings) are written back. Answers how many commits it has. Raises
    RepositoryProblem, and LeadershipLost where somebody published in the meantime.
    """
    with engine.begin() as connection:
        place_devices(connection, settings.path, None)
    fresh = repository.fresh_directory(settings.directory)
    try:
        repository.create(fresh, settings.branch)
        with engine.connect() as connection:
            expected = read_state(connection).head_commit_id
        written = _write_all(engine, settings, fresh)
        head = written[-1].commit_id if written else None
        if head:
            repository.move_branch(fresh, settings.branch, new=head, old=None)
            repository.check_tip(fresh, head)
        require_leadership()
        with engine.begin() as connection:
            write_back(connection, written, head=head, expected=expected)
            # Inside the transaction: nobody else writes back while the folders change places.
            kept = repository.replace(settings.directory, fresh)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    log.info("the repository was rebuilt", commits=len(written), kept=str(kept) if kept else None)
    return len(written)


def _write_all(engine: Engine, settings: GitSettings, directory: Path) -> list[Written]:
    written: list[Written] = []
    files: dict[int, DeviceFile] = {}
    with engine.connect() as connection:
        for batch in batches(read_events(connection, anew=True)):
            unknown = {event.device_id for event in batch} - files.keys()
            files |= read_files(connection, unknown, anew=True)
            parent = written[-1].commit_id if written else None
            written += write_batch(
                connection, directory, settings, parent=parent, batch=batch, files=files
            )
    return written


def _restore(engine: Engine, settings: GitSettings, require_leadership: RequireLeadership) -> None:
    with engine.connect() as connection:
        expected = read_state(connection).head_commit_id
    if expected is None:
        repository.create(settings.directory, settings.branch)
    elif not _clone(settings, expected, require_leadership):
        rebuild(engine, settings, require_leadership)


def _clone(settings: GitSettings, head: str, require_leadership: RequireLeadership) -> bool:
    """Clone the remote, where there is one and it has the head."""
    if settings.remote_url is None:
        return False
    fresh = repository.fresh_directory(settings.directory)
    try:
        repository.create(fresh, settings.branch)
        Remote(settings).fetch(fresh)
        if not repository.has_commit(fresh, head):
            return False
        found = repository.read_head(fresh, settings.branch)
        repository.move_branch(fresh, settings.branch, new=head, old=found)
        require_leadership()
        repository.replace(settings.directory, fresh)
    except RepositoryProblem as problem:
        log.warning("the remote cannot be cloned, rebuilding instead", error=str(problem))
        return False
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    log.info("the repository was cloned from the remote")
    return True
