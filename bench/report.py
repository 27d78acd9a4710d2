"""How every benchmark reports: a table for people, build/bench/NAME.json for machines."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

FOLDER = Path("build/bench")


@dataclass(frozen=True)
class Result:
    """One number; goal and met are None where it is only told."""

    name: str
    value: float
    unit: str
    #: In words and the unit: `at least 0.8`.
    goal: str | None = None
    met: bool | None = None


def at_most(name: str, value: float, unit: str, goal: float) -> Result:
    return Result(name, value, unit, f"at most {goal:g}", value <= goal)


def at_least(name: str, value: float, unit: str, goal: float) -> Result:
    return Result(name, value, unit, f"at least {goal:g}", value >= goal)


def write(name: str, results: Sequence[Result]) -> bool:
    """Print the table and write the file; True where every goal is met."""
    table = Table("what", "value", "unit", "goal", "met", title=name, title_justify="left")
    for column in (1, 4):
        table.columns[column].justify = "right"
    for result in results:
        met = {None: "", True: "yes", False: "[bold red]NO[/]"}[result.met]
        table.add_row(result.name, f"{result.value:,.4g}", result.unit, result.goal or "", met)
    Console(width=120).print(table)
    FOLDER.mkdir(parents=True, exist_ok=True)
    content = json.dumps([dataclasses.asdict(result) for result in results], indent=2)
    (FOLDER / f"{name}.json").write_text(content + "\n", encoding="utf-8")
    return all(result.met is not False for result in results)
