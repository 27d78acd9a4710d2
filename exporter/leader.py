"""What the leader alone does, again and again: one thread pool, one turn a duty at a time."""

import uuid
from collections.abc import Callable
from datetime import timedelta

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import SQLAlchemyError

from exporter.backups import close_ended_backups, start_backup
from exporter.database.engine import create_engine
from exporter.database.partitions import ensure_partitions
from exporter.database.reporting import describe_installation, end_long_readers
from exporter.errors import ConfigBackupError, LeadershipLost
from exporter.executions.cancelling import cancel_executions
from exporter.executions.recovery import recover_vanished
from exporter.integrity.nightly import check_nightly
from exporter.inventory import load_inventory, synchronise
from exporter.jobs import delete_stalled_jobs, requeue_lost
from exporter.leadership import Leadership
from exporter.logs import get_logger
from exporter.metrics.stores import MEASURE_SECONDS, measure_stores
from exporter.processes import forget_silent_processes
from exporter.publishing import Publisher
from exporter.queries.executions import waiting_executions_of_retired_devices
from exporter.retention import retain_nightly
from exporter.scheduler import Scheduler, SchedulerStatus
from exporter.schedules import refresh_intervals, synchronise_schedules
from exporter.settings import Settings

log = get_logger(__name__)


class LeaderDuties:
    """Started when leadership is won, stopped when it is lost or the daemon ends."""

    def __init__(self, engine: Engine, settings: Settings, leadership: Leadership) -> None:
        self._engine = engine
        self._settings = settings
        # What lasts minutes has connections of its own, which `stop` ends.
        self._long_name = f"configbackup nightly {uuid.uuid4().hex[:8]}"
        self._long_engine = create_engine(settings.database, application_name=self._long_name)
        self._publisher = Publisher(engine, settings.git, leadership.require)
        self._scheduler = Scheduler(engine, leadership.require, start_backup=start_backup)
        self._turns = BackgroundScheduler(
            timezone="UTC",
            executors={"default": ThreadPoolExecutor(4)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )

    def start(self) -> None:
        """Synchronise inventory and schedules, then begin all duties."""
        _guarded("inventory", self.synchronise_inventory)()
        _guarded("schedules", self._synchronise_schedules)()
        self._every(1, "backups", self._close_backups)
        self._every(2, "publishing", self._publish_all)
        self._every(1, "pushing", self._publisher.push)
        self._every(5, "recovery", self._recover)
        self._every(60, "queue", self._tidy_queue)
        self._every(MEASURE_SECONDS, "stores", self._measure_stores)
        self._every(3600, "partitions", self._make_partitions)
        self._every(3600, "intervals", self._refresh_intervals)
        self._every(10, "readers", self._end_long_readers)
        self._every(600, "integrity", self._check_integrity)
        self._every(600, "retention", self._retain)
        self._every(
            self._settings.inventory.refresh_seconds, "inventory", self.synchronise_inventory
        )
        self._every(self._settings.git.maintenance_seconds, "maintenance", self._publisher.maintain)
        self._turns.start()
        self._scheduler.start()

    def stop(self) -> None:
        """Wait for the turns that run, and begin no other; cut off what would last long."""
        self._scheduler.stop()
        if self._turns.running:
            self._turns.pause()
            event.listen(self._long_engine, "engine_connect", _refuse)
            _guarded("nightly work", self._end_long_sessions)()
            self._turns.shutdown(wait=True)
        self._long_engine.dispose()

    @property
    def scheduler_status(self) -> SchedulerStatus:
        return self._scheduler.status

    def synchronise_inventory(self) -> None:
        """Read the inventory and bring `devices` in line; a broken one changes nothing.

        Raises InvalidInventory and InventoryShrinks.
        """
        inventory = load_inventory(self._settings.inventory, self._settings.collection)
        with self._engine.begin() as connection:
            plan = synchronise(connection, inventory)
            if plan.is_empty:
                return
            refresh_intervals(connection)
            retired = waiting_executions_of_retired_devices(connection)
        log.info(
            "the inventory changed",
            added=len(plan.added),
            changed=len(plan.changed),
            renamed=len(plan.renamed),
            returned=len(plan.returned),
            retired=len(plan.retired),
        )
        cancel_executions(self._engine, retired, time_zone=self._settings.time_zone)

    def _synchronise_schedules(self) -> None:
        with self._engine.begin() as connection:
            synchronise_schedules(connection, self._settings)
            refresh_intervals(connection)
            describe_installation(connection, self._settings)

    def _publish_all(self) -> None:
        while self._publisher.publish():
            pass

    def _close_backups(self) -> None:
        with self._engine.begin() as connection:
            close_ended_backups(connection)

    def _recover(self) -> None:
        recover_vanished(
            self._engine, self._settings.collection, time_zone=self._settings.time_zone
        )
        with self._engine.begin() as connection:
            requeue_lost(connection)

    def _tidy_queue(self) -> None:
        with self._engine.begin() as connection:
            delete_stalled_jobs(connection)
        forget_silent_processes(self._engine)

    def _measure_stores(self) -> None:
        measure_stores(self._engine, self._settings)

    def _make_partitions(self) -> None:
        with self._engine.begin() as connection:
            ensure_partitions(connection)

    def _refresh_intervals(self) -> None:
        with self._engine.begin() as connection:
            refresh_intervals(connection)

    def _end_long_sessions(self) -> None:
        with self._engine.begin() as connection:
            connection.execute(
                text("""
                    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE application_name = :name AND usename = current_user
                """),
                {"name": self._long_name},
            )

    def _check_integrity(self) -> None:
        check_nightly(self._long_engine, self._settings)

    def _retain(self) -> None:
        retain_nightly(self._long_engine, self._settings)

    def _end_long_readers(self) -> None:
        with self._engine.begin() as connection:
            end_long_readers(connection, self._settings.database)

    def _every(self, seconds: float, name: str, turn: Callable[[], object]) -> None:
        self._turns.add_job(
            _guarded(name, turn),
            "interval",
            seconds=timedelta(seconds=seconds).total_seconds(),
            name=name,
        )


def _refuse(_connection: Connection) -> None:
    raise LeadershipLost("this process stops leading")


def _guarded(name: str, turn: Callable[[], object]) -> Callable[[], None]:
    """The turn, as the border where its errors end: logged, and the next turn tries again.

    The same error in a row is logged once.
    """
    last_error = ""

    def run() -> None:
        nonlocal last_error
        try:
            turn()
        except (ConfigBackupError, SQLAlchemyError) as error:
            message = f"{type(error).__name__}: {error}"
            if message != last_error:
                log.error("a duty of the leader failed", duty=name, error=message)
            last_error = message
        except Exception:
            log.exception("a duty of the leader failed", duty=name)
        else:
            if last_error:
                log.info("a duty of the leader works again", duty=name)
            last_error = ""

    return run
