"""The queue's tables: the schema of Procrastinate 3.10 as it is in that release.

Procrastinate keeps no version of its schema in the database; its text is frozen here, and a newer
minor release needs a revision with its numbered changes.
"""

from pathlib import Path

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    schema = Path(__file__).with_name("0002_procrastinate_3_10.sql").read_text(encoding="utf-8")
    # Without parameters, or the percent signs in it would be taken for placeholders.
    op.get_bind().execution_options(no_parameters=True).exec_driver_sql(schema)
    # A job's events tell what our own tables tell already, at three rows and a cascade a job.
    for trigger in (
        "procrastinate_trigger_status_events_update_v1",
        "procrastinate_trigger_status_events_insert_v1",
        "procrastinate_trigger_scheduled_events_v1",
        "procrastinate_trigger_abort_requested_events_v1",
    ):
        op.execute(f"DROP TRIGGER {trigger} ON procrastinate_jobs")
    # One notification a queue and statement, not two a job: a fleet is queued in one statement.
    op.execute("DROP TRIGGER procrastinate_jobs_notify_queue_job_inserted_v1 ON procrastinate_jobs")
    op.execute("""
        CREATE FUNCTION notify_queues_of_new_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE queue text;
        BEGIN
            FOR queue IN SELECT DISTINCT queue_name FROM new_jobs LOOP
                PERFORM pg_notify('procrastinate_queue_v1#' || queue,
                    '{"type": "job_inserted", "job_id": 0}');
            END LOOP;
            RETURN NULL;
        END $$
    """)
    op.execute("""
        CREATE TRIGGER notify_queues_of_new_jobs AFTER INSERT ON procrastinate_jobs
        REFERENCING NEW TABLE AS new_jobs
        FOR EACH STATEMENT EXECUTE FUNCTION notify_queues_of_new_jobs()
    """)
