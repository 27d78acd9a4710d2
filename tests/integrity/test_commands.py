import json

import pytest
import yaml
from click.testing import CliRunner
from sqlalchemy import text

from exporter.cli import cli
from exporter.executions.endings import end_running
from tests.fleets import add_devices, claim_next, success, trigger_backup


@pytest.fixture
def run(database_url, tmp_path):
    file = tmp_path / "configbackup.yaml"
    directory = str(tmp_path / "configurations.git")
    file.write_text(
        yaml.safe_dump({"database": {"url": database_url}, "git": {"directory": directory}})
    )
    return lambda *arguments: CliRunner().invoke(cli, ["--settings", str(file), *arguments])


@pytest.fixture
def one_success(engine):
    with engine.begin() as connection:
        add_devices(connection, "a")
    trigger_backup(engine, "a")
    end_running(engine, claim_next(engine), success(), time_zone="UTC")


def test_history_verify_reports_every_difference_and_mends_on_request(run, engine, one_success):
    assert run("history", "verify").exit_code == 0
    with engine.begin() as connection:
        connection.execute(text("UPDATE daily_statistics SET count = 5"))
        connection.execute(text("UPDATE device_states SET failed_count = 5"))

    found = run("history", "verify", "--json")
    mended = run("history", "verify", "--mend")

    assert found.exit_code == 1
    assert {
        (d["table"], d["column"], d["stored"], d["expected"]) for d in json.loads(found.stdout)
    } == {
        ("daily_statistics", "count", 5, 1),
        ("device_states", "failed_count", 5, 0),
    }
    assert mended.exit_code == 0
    assert run("history", "verify").exit_code == 0


def test_verify_reads_every_configuration_and_says_what_is_damaged(run, engine, one_success):
    run("publish")
    assert json.loads(run("verify", "--json").stdout) == []
    with engine.begin() as connection:
        connection.execute(text("UPDATE configuration_texts SET compressed = 'x'"))

    healed = run("verify", "--json")

    assert healed.exit_code == 0
    assert json.loads(healed.stdout) == [
        {"device": "a", "version_id": 1, "place": "database", "is_healed": True}
    ]
