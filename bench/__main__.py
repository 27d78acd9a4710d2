"""Run every benchmark, one after the other, each in a process of its own.

`python -m bench [NAME ...]` runs those named; exit code 1 where a goal is missed.
"""

import subprocess
import sys
from pathlib import Path

_NOT_BENCHMARKS = {"__init__", "__main__", "report", "soak", "fetching"}


def main() -> int:
    files = sorted(Path(__file__).parent.glob("*.py"))
    names = sys.argv[1:] or [file.stem for file in files if file.stem not in _NOT_BENCHMARKS]
    codes = [
        subprocess.run([sys.executable, "-m", f"bench.{name}"], check=False).returncode
        for name in names
    ]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
