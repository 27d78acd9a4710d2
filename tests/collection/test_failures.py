"""Every exception of the libraries has a place, and what is told of one holds no secret."""

import base64
import errno
import http.client
import importlib
import inspect
import json
import pkgutil
import socket
import ssl
import warnings
from collections.abc import Iterator
from itertools import pairwise
from types import ModuleType
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netmiko.exceptions import NetmikoAuthenticationException, NetmikoTimeoutException
from paramiko.ssh_exception import NoValidConnectionsError, SSHException

from exporter.collection.contracts import Login
from exporter.collection.failures import reason_of
from exporter.collection.places import PLACES, Circumstances, place_of
from exporter.collection.redaction import redact
from exporter.errors import Reason
from exporter.platforms import platform_named

LIBRARIES = (
    "napalm", "netmiko", "paramiko", "ncclient", "jnpr.junos", "pyeapi", "requests", "urllib3",
)  # fmt: skip
NOTHING = Circumstances(has_connected=False, is_open=False, is_ready=False)
CONNECTED = Circumstances(has_connected=True, is_open=False, is_ready=False)
READY = Circumstances(has_connected=True, is_open=True, is_ready=True)


def modules_of(package: str) -> Iterator[ModuleType]:
    yield (root := importlib.import_module(package))
    for found in pkgutil.walk_packages(root.__path__, f"{package}."):
        # Modules for other systems and for extras that are not installed raise nothing here.
        try:
            yield importlib.import_module(found.name)
        except (ImportError, AttributeError):
            continue


def exceptions_of(module: ModuleType, package: str) -> Iterator[type[BaseException]]:
    for member in vars(module).values():
        is_exception = inspect.isclass(member) and issubclass(member, BaseException)
        if is_exception and member.__module__.startswith(package):
            yield member


def has_own_place(kind: type[BaseException]) -> bool:
    """A place of the library's, not merely that of the interpreter's Exception below it."""
    ancestors = [one for one in kind.__mro__ if one.__module__ != "builtins"]
    names = {f"{one.__module__}.{one.__qualname__}" for one in ancestors}
    return bool(names & PLACES.keys()) or issubclass(kind, Warning)


@pytest.mark.parametrize("package", LIBRARIES)
def test_every_exception_class_of_a_library_has_a_place(package: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kinds = {kind for one in modules_of(package) for kind in exceptions_of(one, package)}

    assert kinds
    assert sorted(str(kind) for kind in kinds if not has_own_place(kind)) == []


@pytest.mark.parametrize("module", [socket, ssl, http.client])
def test_every_exception_class_of_the_network_modules_has_a_place(module: ModuleType) -> None:
    kinds = [
        kind
        for name, kind in vars(module).items()
        if inspect.isclass(kind) and issubclass(kind, BaseException) and name[0] != "_"
    ]

    assert [kind for kind in kinds if place_of(kind) is None] == []


@pytest.mark.parametrize("name", PLACES)
def test_every_place_is_that_of_a_class_that_exists(name: str) -> None:
    module, _, kind = name.rpartition(".")

    assert issubclass(getattr(importlib.import_module(module), kind), BaseException)


def raised(*chain: BaseException) -> BaseException:
    """The last of the exceptions, each raised while handling the one before it."""
    for inner, outer in pairwise(chain):
        outer.__context__ = inner
    return chain[-1]


REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
UNREACHABLE = OSError(errno.EHOSTUNREACH, "No route to host")


@pytest.mark.parametrize(
    ("error", "seen", "reason"),
    [
        (raised(REFUSED, NetmikoTimeoutException("failed")), NOTHING, Reason.REFUSED),
        (NoValidConnectionsError({("h", 22): REFUSED}), NOTHING, Reason.REFUSED),
        (
            NoValidConnectionsError({("h", 22): REFUSED, ("i", 22): UNREACHABLE}),
            NOTHING,
            Reason.UNREACHABLE,
        ),
        (raised(socket.gaierror(-2, "unknown"), ValueError()), NOTHING, Reason.UNREACHABLE),
        (TimeoutError("timed out"), NOTHING, Reason.UNREACHABLE),
        (TimeoutError("timed out"), CONNECTED, Reason.TIMEOUT),
        (ConnectionResetError(errno.ECONNRESET, "reset"), CONNECTED, Reason.UNREACHABLE),
        (ConnectionResetError(errno.ECONNRESET, "reset"), READY, Reason.DISCONNECTED),
        (EOFError(), READY, Reason.DISCONNECTED),
        (NetmikoAuthenticationException("no"), CONNECTED, Reason.AUTH),
        (ValueError("Failed to enter enable mode."), READY, Reason.AUTH),
        (SSHException("No existing session"), CONNECTED, Reason.TIMEOUT),
        (OSError(errno.ENOSPC, "No space left"), READY, Reason.STORAGE),
        (KeyError("version"), CONNECTED, Reason.UNSUPPORTED),
        (KeyError("version"), READY, Reason.INTERNAL),
        (RuntimeError("?"), READY, Reason.INTERNAL),
        (json.JSONDecodeError("no", "<html>", 0), CONNECTED, Reason.UNSUPPORTED),
        (json.JSONDecodeError("no", '{"a', 0), CONNECTED, Reason.TRUNCATED),
    ],
)
def test_the_innermost_exception_with_a_place_decides(
    error: BaseException, seen: Circumstances, reason: Reason
) -> None:
    assert reason_of(error, seen)[0] is reason


secret_texts = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=6)


@given(secret_texts, st.sampled_from(["secret", "enable_password", "api_token"]))
def test_a_secret_is_redacted_in_every_form(secret: str, argument: str) -> None:
    login = Login("sw-1", "192.0.2.1", "", None, "backup", secret, {argument: f"{secret}x"})
    basic = base64.b64encode(f"backup:{secret}".encode()).decode()
    forms = [secret, repr(secret), json.dumps(secret), quote(secret), basic, f"{secret}x"]

    told = redact("\n".join(forms), login, None)

    assert all(form not in told for form in (secret, quote(secret, safe=""), basic))


def test_secrets_of_the_configuration_are_redacted_too() -> None:
    login = Login("sw-1", "192.0.2.1", "", None, "backup", "pw", {})

    told = redact("enable secret 5 $1$abc\nhostname sw-1", login, platform_named("ios"))

    assert told == "enable secret 5 <hidden>\nhostname sw-1"


def test_a_login_shows_no_secret() -> None:
    arguments: dict[str, Any] = {"secret": "s3cret"}

    assert "s3cret" not in repr(Login("d", "a", "", None, "u", "s3cret", arguments))
