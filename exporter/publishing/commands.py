"""Git as a subprocess: always in the same environment, never with a prompt, always bounded."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.errors import RepositoryProblem

#: Longest that a command that only reads or moves a reference may take.
COMMAND_SECONDS = 60.0
_GRACE_SECONDS = 5.0

_CONFIGURATION: Mapping[str, str] = {
    # A repository that another user's daemon made is ours too; hooks of it are never run.
    "safe.directory": "*",
    "core.hooksPath": "/dev/null",
    # What is written back to PostgreSQL as published survives a power cut.
    "core.fsync": "committed",
    "core.fsyncMethod": "batch",
    # Packing happens when we say so, within these bounds.
    "gc.auto": "0",
    "maintenance.auto": "false",
    "pack.threads": "1",
    "pack.windowMemory": "64m",
}
#: How an operator lets Git reach a remote; any other variable of Git could change what we write.
_KEPT_PREFIXES = ("GIT_SSH", "GIT_SSL", "GIT_PROXY")


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def environment(configuration: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of every Git process; a configuration's values stay out of arguments."""
    variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or name.startswith(_KEPT_PREFIXES)
    }
    variables.setdefault("GIT_SSH_COMMAND", "ssh -o BatchMode=yes")
    variables |= {
        "LC_ALL": "C",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
    }
    # Pairs, not keys alone: an empty helper before ours forgets the helpers of other files.
    pairs = [*_CONFIGURATION.items(), *(configuration or {}).items()]
    variables["GIT_CONFIG_COUNT"] = str(len(pairs))
    for number, (key, value) in enumerate(pairs):
        variables |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return variables


def start_git(
    directory: Path, arguments: Sequence[str], *, variables: Mapping[str, str], **streams: Any
) -> "subprocess.Popen[bytes]":
    """A Git process in a group of its own, so that its children can be ended with it."""
    command = ["git", f"--git-dir={directory}", *arguments]
    try:
        return subprocess.Popen(command, env=variables, start_new_session=True, **streams)
    except FileNotFoundError as error:
        raise RepositoryProblem("git was not found on the PATH\nhint: install git") from error


def run_git(
    directory: Path,
    *arguments: str,
    given: str = "",
    timeout_seconds: float = COMMAND_SECONDS,
    variables: Mapping[str, str] | None = None,
    is_gentle: bool = False,
) -> Result:
    """Run to the end, whatever the exit code; gentle: with the lowest priority.

    Raises RepositoryProblem where it does not end in time or cannot be started.
    """
    process = start_git(
        directory,
        arguments,
        variables=environment() if variables is None else variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        if is_gentle:
            os.setpriority(os.PRIO_PGRP, process.pid, 19)
        output, errors = process.communicate(given.encode(), timeout=timeout_seconds)
    except subprocess.TimeoutExpired:
        raise RepositoryProblem(
            f"git {arguments[0]} did not end within {timeout_seconds:g} s"
        ) from None
    finally:
        end_process(process)
    return Result(
        process.returncode, output.decode(errors="replace"), errors.decode(errors="replace")
    )


def check_git(directory: Path, *arguments: str, given: str = "") -> str:
    """The output of a command that must succeed; raises RepositoryProblem with Git's words."""
    result = run_git(directory, *arguments, given=given)
    if result.returncode != 0:
        raise RepositoryProblem(f"git {arguments[0]} failed: {shortened(result.stderr)}")
    return result.stdout


def end_process(process: "subprocess.Popen[bytes]") -> None:
    """End a process that still runs, and its children; asked first, so that it drops its locks."""
    if process.poll() is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_GRACE_SECONDS)
            return


def shortened(message: str) -> str:
    """The lines of Git's message that matter, in one."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return "; ".join(line for line in lines if not line.startswith("fast-import:"))[:500]
