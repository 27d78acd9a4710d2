"""The command line. Printing and exit codes live here alone; commands call what the API calls.

Exit codes: 0 done, and every backup that was waited for succeeded; 1 at least one device was not
backed up, or a check found faults; 2 the command was wrong, and nothing was started; 3 this
installation cannot do it now (PostgreSQL, Git, settings).
"""

import sys
from pathlib import Path

import click

from exporter.cli.backups import backup, cancel, executions
from exporter.cli.context import CommandContext
from exporter.cli.devices import devices, diff, show
from exporter.cli.history import history, verify
from exporter.cli.maintenance import database, inventory, publish
from exporter.cli.output import errors
from exporter.cli.probing import probe_command, trust
from exporter.cli.schedules import schedules
from exporter.cli.serving import check, demo, init, run, worker
from exporter.errors import (
    ConfigBackupError,
    NothingSelected,
    UnknownBackup,
    UnknownDevice,
    UnknownSchedule,
)
from exporter.settings import SETTINGS_FILE_VARIABLE

WRONG_COMMAND = 2
CANNOT_NOW = 3


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--settings",
    "settings_file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar=SETTINGS_FILE_VARIABLE,
    help="Configuration file. Without it: ./configbackup.yaml, then "
    "/etc/configbackup/configbackup.yaml.",
)
@click.version_option(package_name="configbackup", prog_name="configbackup")
@click.pass_context
def cli(context: click.Context, settings_file: Path | None) -> None:
    """Back up the configuration of every network device, and know that it worked.

    Exit codes: 0 done; 1 a device was not backed up, or a check found faults; 2 the command was
    wrong and nothing was started; 3 this installation cannot do it now.
    """
    context.obj = CommandContext(settings_file)


for command in (
    demo,
    init,
    check,
    run,
    worker,
    backup,
    cancel,
    executions,
    devices,
    show,
    diff,
    probe_command,
    trust,
    schedules,
    inventory,
    publish,
    history,
    verify,
    database,
):
    cli.add_command(command)


def main() -> None:
    """Run the command; an error of ours is a sentence and an exit code, not a traceback."""
    try:
        cli()
    except (UnknownDevice, UnknownSchedule, UnknownBackup, NothingSelected) as error:
        errors.print(f"configbackup: {error}", markup=False, style="red")
        sys.exit(WRONG_COMMAND)
    except ConfigBackupError as error:
        errors.print(f"configbackup: {error}", markup=False, style="red")
        sys.exit(CANNOT_NOW)
    except BrokenPipeError:
        sys.exit(CANNOT_NOW)
