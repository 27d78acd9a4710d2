"""The publisher: one turn writes a batch of commits, pushes them, or packs the repository.

A turn's order, and why a crash between two steps neither loses nor doubles a commit:
1. commits are written by fast-import, to a reference that nobody reads: a crash leaves garbage;
2. this process still leads, then the branch is moved: a crash leaves commits above the head that
   PostgreSQL knows, and the next turn recognises them by their trailers;
3. this process still leads, then the commits' ids and the new head are written back at once.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, func

from exporter.database.engine import database_errors
from exporter.errors import RepositoryProblem
from exporter.publishing import repository
from exporter.publishing.outbox import batches, read_events, read_files
from exporter.publishing.placing import place_devices
from exporter.publishing.record import (
    read_state,
    record_problem,
    record_push_failure,
    update_state,
    write_back,
)
from exporter.publishing.recovery import RequireLeadership, ready_head
from exporter.publishing.remote import Remote
from exporter.publishing.writing import write_batch
from exporter.settings import GitSettings

#: How often a repository that gives no trouble is looked at closely.
_TRUSTED_SECONDS = 60.0
_LONGEST_RETRY_DELAY_SECONDS = 3600.0


class Publisher:
    """Publishes for as long as this process leads; one thread publishes, others may push and pack.

    Every method does one turn, records its problem in publishing_state and raises it:
    RepositoryProblem, else DatabaseProblem or LeadershipLost (not recorded).
    """

    def __init__(
        self, engine: Engine, settings: GitSettings, require_leadership: RequireLeadership
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._require_leadership = require_leadership
        #: Of the devices as they were placed last.
        self._signature: str | None = None
        # After a start, after every problem and every minute the repository is looked at closely.
        self._trusted_until = 0.0
        self._packing = threading.Lock()
        # After a start the remote is asked once, whatever PostgreSQL says that it has.
        self._pushed: str | None = None
        self._push_not_before = 0.0

    def publish(self) -> int:
        """Write at most one batch; how many commits were made or recognised, 0: nothing waits."""
        with database_errors(), self._problems_recorded():
            head, recognised = self._ready_head()
            with self._engine.begin() as connection:
                signature = place_devices(connection, self._settings.path, self._signature)
            self._signature = signature
            return recognised + self._publish_batch(head)

    def push(self) -> bool:
        """Push the published commits; True where the remote was asked to take some.

        False: nothing to push, no remote, or the wait after a failure is not over.
        """
        if self._settings.remote_url is None or time.monotonic() < self._push_not_before:
            return False
        with database_errors():
            with self._engine.connect() as connection:
                state = read_state(connection)
            head = state.head_commit_id
            if head is None or head == self._pushed:
                return False
            self._require_leadership()
            try:
                Remote(self._settings).push(self._settings.directory, head)
            except RepositoryProblem as problem:
                self._push_failed(problem, failures=state.push_failures)
                raise
            self._pushed = head
            with self._engine.begin() as connection:
                update_state(
                    connection,
                    pushed_commit_id=head,
                    last_push_at=func.now(),
                    push_error=None,
                    push_failing_since=None,
                    push_failures=0,
                )
            return True

    def maintain(self) -> None:
        """Pack the repository within bounds, look at its tip closely, and measure it."""
        directory = self._settings.directory
        with database_errors(), self._problems_recorded():
            if not repository.exists(directory):
                return
            with self._packing:
                repository.pack(directory)
            if head := repository.read_head(directory, self._settings.branch):
                repository.check_tip(directory, head)
            size_bytes = repository.measure_bytes(directory)
            with self._engine.begin() as connection:
                update_state(connection, repository_bytes=size_bytes)

    def _ready_head(self) -> tuple[str | None, int]:
        is_trusted = time.monotonic() < self._trusted_until
        if not is_trusted and self._packing.acquire(blocking=False):
            try:
                repository.remove_leftovers(self._settings.directory)
            finally:
                self._packing.release()
        ready = ready_head(
            self._engine, self._settings, self._require_leadership, closely=not is_trusted
        )
        if not is_trusted:
            self._trusted_until = time.monotonic() + _TRUSTED_SECONDS
        return ready

    def _publish_batch(self, head: str | None) -> int:
        directory, branch = self._settings.directory, self._settings.branch
        with self._engine.begin() as connection:
            batch = next(batches(read_events(connection, anew=False)), [])
            if not batch:
                if read_state(connection).last_error:
                    update_state(connection, last_error=None, failing_since=None)
                return 0
            files = read_files(connection, {event.device_id for event in batch}, anew=False)
            written = write_batch(
                connection, directory, self._settings, parent=head, batch=batch, files=files
            )
        new = written[-1].commit_id
        self._require_leadership()
        repository.move_branch(directory, branch, new=new, old=head)
        self._require_leadership()
        with self._engine.begin() as connection:
            write_back(connection, written, head=new, expected=head)
        return len(written)

    @contextmanager
    def _problems_recorded(self) -> Iterator[None]:
        try:
            yield
        except (RepositoryProblem, OSError) as error:
            self._trusted_until = 0.0
            problem = (
                error
                if isinstance(error, RepositoryProblem)
                else RepositoryProblem(f"the repository cannot be used: {error}")
            )
            with self._engine.begin() as connection:
                record_problem(connection, str(problem))
            raise problem from error.__cause__ if problem is error else error

    def _push_failed(self, problem: RepositoryProblem, *, failures: int) -> None:
        delay_seconds = self._settings.retry_delay_seconds * 2.0 ** min(failures, 20)
        self._push_not_before = time.monotonic() + min(delay_seconds, _LONGEST_RETRY_DELAY_SECONDS)
        with self._engine.begin() as connection:
            record_push_failure(connection, str(problem))
