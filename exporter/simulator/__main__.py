"""`python -m exporter.simulator DIRECTORY`: a fleet until it is stopped."""

import logging
from pathlib import Path

import click
import uvloop

from exporter.logs import configure
from exporter.settings import LogSettings
from exporter.simulator.device import Conduct
from exporter.simulator.fleet import FleetPlan, FleetProcess
from exporter.simulator.texts import PLATFORMS


@click.command(context_settings={"show_default": True})
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--devices", default=60, type=click.IntRange(1, 5000), help="Size of the fleet.")
@click.option("--seed", default=1, help="The same seed gives the same fleet.")
@click.option("--platforms", default=",".join(PLATFORMS), help="Which platforms it has.")
@click.option(
    "--change-seconds",
    default=20.0,
    type=click.FloatRange(0),
    help="Mean time (s) between two changes of a configuration in the fleet; 0: none.",
)
@click.option(
    "--failing",
    default=0.1,
    type=click.FloatRange(0, 1),
    help="Share of failing devices, where DIRECTORY/faults.yaml does not exist yet.",
)
@click.option(
    "--latency-seconds", default=0.0, type=click.FloatRange(0), help="Time (s) of each answer."
)
@click.option("--config-bytes", default=20_000, help="Size (bytes) of a configuration.")
@click.option("--controlled", is_flag=True, hidden=True)
def main(
    directory: Path,
    devices: int,
    seed: int,
    platforms: str,
    change_seconds: float,
    failing: float,
    latency_seconds: float,
    config_bytes: int,
    controlled: bool,
) -> None:
    """Simulate a fleet of network devices on loopback, until SIGTERM or SIGINT.

    Writes a Nornir inventory (hosts.yaml, groups.yaml, defaults.yaml) into DIRECTORY once every
    device listens. DIRECTORY/faults.yaml says which devices fail and how, and
    DIRECTORY/configurations/NAME.cfg what a device has configured; both can be changed at any time.
    """
    chosen = tuple(word.strip() for word in platforms.split(","))
    if unknown := set(chosen) - set(PLATFORMS):
        raise click.BadParameter(
            f"found {', '.join(sorted(unknown))}, expected some of {', '.join(PLATFORMS)}",
            param_hint="--platforms",
        )
    configure(LogSettings())
    # Its lines about each connection cost more than the connection.
    logging.getLogger("asyncssh").setLevel(logging.ERROR)
    plan = FleetPlan(
        directory=directory,
        devices=devices,
        platforms=chosen,
        conduct=Conduct(seed, latency_seconds, config_bytes),
        change_seconds=change_seconds,
        failing_share=failing,
        is_controlled=controlled,
    )
    uvloop.run(_serve(plan))


async def _serve(plan: FleetPlan) -> None:
    await FleetProcess(plan).run(click.echo)


if __name__ == "__main__":
    main()
