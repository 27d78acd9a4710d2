"""A fleet in the database, and a real Git repository beside it."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine

from exporter.publishing import Publisher
from exporter.settings import GitSettings, Settings
from tests.publishing.fleet import Fleet, no_check


@pytest.fixture
def fleet(engine: Engine) -> Fleet:
    return Fleet(engine)


@pytest.fixture
def git_settings(settings: Settings) -> GitSettings:
    return settings.git


@pytest.fixture
def publisher(engine: Engine, git_settings: GitSettings) -> Publisher:
    return Publisher(engine, git_settings, no_check)


@pytest.fixture
def run(git_settings: GitSettings) -> Callable[..., str]:
    """Run Git in the repository of the settings, as a person would; its output."""

    def run_git(*arguments: str, directory: Path = git_settings.directory) -> str:
        return subprocess.run(
            ["git", f"--git-dir={directory}", *arguments],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    return run_git
