"""Write the table of docs/metrics.md anew from the names: what stands above it is kept.

python tools/metrics_page.py
"""

from pathlib import Path

from exporter.metrics.names import NAMES

PAGE = Path("docs/metrics.md")
_HEADING = "## Reference\n"


def main() -> None:
    rows = (
        f"| `{name.name}` | {name.kind} | {', '.join(name.labels)} | {name.help} |\n"
        for name in NAMES.values()
    )
    table = "| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n" + "".join(rows)
    head = PAGE.read_text(encoding="utf-8").split(_HEADING)[0]
    PAGE.write_text(f"{head}{_HEADING}\n{table}", encoding="utf-8")


if __name__ == "__main__":
    main()
