"""Commands that serve: the daemon, workers on other machines, and the first try."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import yaml

from exporter import logs
from exporter.cli.context import CommandContext
from exporter.cli.output import console, errors
from exporter.daemon import Daemon
from exporter.database.accounts import reachable_by
from exporter.errors import ConfigBackupError
from exporter.reference import write_sample
from exporter.settings import DatabaseSettings, load_settings

_FAULTS_FOUND = 1
_WRONG_COMMAND = 2


@click.command()
@click.pass_obj
def run(context: CommandContext) -> None:
    """Run the daemon: PostgreSQL (if embedded), workers, scheduler, publisher, listener.

    Ends on SIGTERM within the grace; reads its settings again on SIGHUP.
    """
    logs.configure(context.settings.logs)
    Daemon(context.settings_file, context.settings).run()


@click.command()
@click.option("--zone", "zones", multiple=True, help="Serve this zone; may be repeated.")
@click.option("--processes", type=click.IntRange(1, 64), help="Worker processes; one a core.")
@click.pass_obj
def worker(context: CommandContext, zones: tuple[str, ...], processes: int | None) -> None:
    """Run workers alone, on another machine or in another zone, for the same PostgreSQL."""
    chosen = {"zones": list(zones) or None, "processes": processes}
    workers = context.settings.workers.model_copy(
        update={key: value for key, value in chosen.items() if value is not None}
    )
    settings = context.settings.model_copy(update={"workers": workers})
    logs.configure(settings.logs)
    Daemon(context.settings_file, settings, is_worker_only=True).run()


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
def init(directory: Path) -> None:
    """Write a commented configuration file and a small inventory into DIRECTORY."""
    try:
        files = write_sample(directory)
    except FileExistsError as error:
        errors.print(f"configbackup: {error} is there already; nothing was written", markup=False)
        sys.exit(_WRONG_COMMAND)
    for file in files:
        console.print(f"wrote {file}", markup=False)
    console.print(f"next: configbackup --settings {files[0]} check", markup=False)


@click.command()
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("configbackup-demo"),
    help="Where the demo keeps everything.",
)
@click.option("--devices", type=click.IntRange(4, 5000), default=60, help="Simulated devices.")
@click.pass_obj
def demo(context: CommandContext, directory: Path, devices: int) -> None:
    """Back up a fleet of simulated devices, again and again, until Ctrl+C."""
    directory = directory.resolve()
    settings_file = _write_demo_settings(directory)
    fleet = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "exporter.simulator",
            str(directory / "inventory"),
            "--devices",
            str(devices),
            "--controlled",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert fleet.stdout is not None
        if not fleet.stdout.readline():
            errors.print("configbackup: the simulated devices could not be started")
            sys.exit(fleet.wait() or 1)
        settings = load_settings(settings_file)
        logs.configure(settings.logs)
        Daemon(settings_file, settings).run(
            when_ready=lambda address: _print_next_steps(settings_file, directory, address)
        )
    finally:
        fleet.terminate()
        fleet.wait()


def _write_demo_settings(directory: Path) -> Path:
    """Settings that show something soon; a file that is there is kept."""
    file = directory / "configbackup.yaml"
    if file.exists():
        return file
    database: dict[str, object] = {}
    user = DatabaseSettings().system_user
    if os.geteuid() == 0 and not reachable_by(directory, user):
        # The server does not run as root, and cannot pass through a closed home folder.
        database["directory"] = "/var/lib/configbackup/demo-postgresql"
    directory.mkdir(parents=True, exist_ok=True)
    content = {
        "database": database,
        "collection": {"deadline_seconds": 15, "retries": 1, "retry_delay_seconds": 5},
        "schedules": [
            {
                "name": "every-half-minute",
                "every_seconds": 30,
                "spread_seconds": 10,
                "second_round": False,
                "selection": {"all": True},
            },
            {
                "name": "nightly",
                "cron": "30 1 * * *",
                "spread_seconds": 600,
                "selection": {"all": True},
            },
        ],
    }
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


def _print_next_steps(settings_file: Path, directory: Path, address: str) -> None:
    command = shutil.which("configbackup") or str(Path(sys.argv[0]).resolve())
    console.print(
        f"""
The fleet is being backed up. In another shell, type:

  export PATH={Path(command).parent}:$PATH CONFIGBACKUP_SETTINGS={settings_file}
  configbackup executions
  configbackup devices --state abnormal
  configbackup backup --failing --wait
  git -C {directory / "state" / "configurations.git"} log --stat

  {address} says what is going on; {directory / "inventory" / "faults.yaml"} says
  which device fails and how: change it and see. Ctrl+C ends the demo.
""",
        markup=False,
        soft_wrap=True,
    )


@click.command()
@click.pass_obj
def check(context: CommandContext) -> None:
    """Check settings, inventory, credentials, drivers, Git and PostgreSQL; report every fault."""
    faults = list(_faults(context))
    for fault in faults:
        errors.print(fault, markup=False, style="red", soft_wrap=True)
    if faults:
        sys.exit(_FAULTS_FOUND)
    console.print("no fault found")


def _faults(context: CommandContext) -> Iterator[str]:
    try:
        settings = context.settings
    except ConfigBackupError as error:
        # The rest depends on it.
        yield str(error)
        return
    from exporter.checks import faults_of_installation

    yield from faults_of_installation(settings)
