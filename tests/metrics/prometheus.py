"""A real Prometheus for tests: Debian's, unpacked by tools/test-servers."""

import json
import os
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from tests.installation import wait_until

PROGRAM = Path("build/servers/usr/bin/prometheus")


class Prometheus:
    """Scrapes one address each second, from its making to `close`."""

    def __init__(
        self, directory: Path, port: int, target: str, rules: list[dict[str, str]] | None = None
    ) -> None:
        directory.mkdir(parents=True)
        (directory / "rules.yml").write_text(
            yaml.safe_dump({"groups": [{"name": "test", "rules": rules or []}]})
        )
        (directory / "prometheus.yml").write_text(
            yaml.safe_dump(
                {
                    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                    "rule_files": ["rules.yml"],
                    "scrape_configs": [
                        {
                            "job_name": "configbackup",
                            "static_configs": [{"targets": [target]}],
                        }
                    ],
                }
            )
        )
        self._url = f"http://127.0.0.1:{port}/api/v1/"
        with (directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    PROGRAM,
                    f"--config.file={directory / 'prometheus.yml'}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                    "--enable-feature=exemplar-storage",
                ],
                stdout=log,
                stderr=log,
                env=dict(os.environ),
            )

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()

    def query(self, expression: str) -> dict[str, float]:
        """Values of an instant query by their labels in one text, such as `status=success`."""
        return {
            ",".join(f"{key}={value}" for key, value in sorted(found["metric"].items())): float(
                found["value"][1]
            )
            for found in self.get("query", query=expression)["result"]
        }

    def value(self, expression: str) -> float | None:
        """The one value of a query; None where there is none."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return next(iter(found.values()), None)

    def wait_for(self, expression: str, expected: float) -> None:
        wait_until(
            lambda: self.value(expression) == expected, f"Prometheus says {expression} {expected}"
        )

    def get(self, path: str, **parameters: str) -> Any:
        url = f"{self._url}{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own
                return json.load(answer)["data"]
        except ConnectionError:
            return {"result": []}
        except urllib.error.URLError as error:
            if isinstance(error.reason, ConnectionError):
                return {"result": []}
            raise
