"""The place of every exception of NAPALM and the libraries under it: class -> reason.

Names, so that no library is imported before it is used. A class without a name here has the place
of its nearest ancestor that has one; a test walks over all classes of those libraries and fails
on one without any. A rule decides by what the exception says; None from it means that the
exception around it decides.
"""

import errno
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from exporter.errors import Reason


@dataclass(frozen=True)
class Circumstances:
    """How far the try got when it failed."""

    #: A TCP connection was established.
    has_connected: bool
    #: The SSH handshake, or the driver's open where there is none, was over.
    is_open: bool
    #: The driver's open was over.
    is_ready: bool


Rule = Callable[[Any, Circumstances], Reason | None]

_NO_PATH = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT, errno.ENETDOWN, errno.EHOSTDOWN}
_LOST = {None, errno.EBADF, errno.ENOTCONN, errno.EPIPE, errno.ESHUTDOWN, errno.ECONNRESET}


def _lost(_error: Any, seen: Circumstances) -> Reason:
    return Reason.DISCONNECTED if seen.is_open else Reason.UNREACHABLE


def _timed_out(_error: Any, seen: Circumstances) -> Reason:
    return Reason.TIMEOUT if seen.has_connected else Reason.UNREACHABLE


def _os_error(error: OSError, seen: Circumstances) -> Reason | None:
    if error.errno in _NO_PATH:
        return Reason.UNREACHABLE
    if error.errno == errno.ENOSPC:
        return Reason.STORAGE
    return _lost(error, seen) if error.errno in _LOST else None


def _no_valid_connections(error: Any, _seen: Circumstances) -> Reason:
    numbers = {inner.errno for inner in error.errors.values()}
    return Reason.REFUSED if numbers == {errno.ECONNREFUSED} else Reason.UNREACHABLE


def _ssh(error: Any, seen: Circumstances) -> Reason:
    says = str(error)
    if "not found in known_hosts" in says:
        return Reason.HOST_KEY
    if "No existing session" in says or "imeout" in says or "imed out" in says:
        return Reason.TIMEOUT
    if "protocol banner" in says:
        return Reason.UNREACHABLE
    return _lost(error, seen)


def _netconf_ssh(error: Any, seen: Circumstances) -> Reason | None:
    # It keeps no errno; PyEZ around it tells refused from unreachable.
    return None if "Could not open socket" in str(error) else _lost(error, seen)


def _http_status(error: Any, _seen: Circumstances) -> Reason:
    says = str(error).lower()
    is_auth = any(word in says for word in ("401", "403", "unauthorized", "forbidden"))
    return Reason.AUTH if is_auth else Reason.COMMAND


def _eapi_connection(error: Any, seen: Circumstances) -> Reason:
    reason = _http_status(getattr(error, "message", error), seen)
    return reason if reason is Reason.AUTH else Reason.UNREACHABLE


def _eapi_command(error: Any, _seen: Circumstances) -> Reason:
    return Reason.AUTH if "'enable' failed" in str(error) else Reason.COMMAND


def _not_json(error: Any, _seen: Circumstances) -> Reason:
    # A page in place of JSON comes from something that is not the API of the driver.
    is_page = isinstance(error, json.JSONDecodeError) and error.doc.lstrip().startswith("<")
    return Reason.UNSUPPORTED if is_page else Reason.TRUNCATED


def _value_error(error: ValueError, _seen: Circumstances) -> Reason | None:
    if "enable mode" in str(error):
        return Reason.AUTH
    return Reason.COMMAND if "prompt" in str(error).lower() else None


def _xml_agent(error: Any, _seen: Circumstances) -> Reason:
    return Reason.UNSUPPORTED if "not enabled" in str(error) else Reason.UNREACHABLE


PLACES: Mapping[str, Reason | Rule] = {
    # Ours.
    "exporter.collection.sessions.DeadlineExceeded": Reason.TIMEOUT,
    "exporter.collection.sessions.NoBanner": Reason.TIMEOUT,
    "exporter.collection.sessions.TooManyBytes": Reason.TRUNCATED,
    "exporter.collection.sessions.HostKeyChanged": Reason.HOST_KEY,
    "exporter.collection.drivers.NoConfiguration": Reason.UNSUPPORTED,
    # The interpreter's.
    "builtins.ConnectionRefusedError": Reason.REFUSED,
    "builtins.ConnectionError": _lost,
    "builtins.EOFError": _lost,
    "builtins.TimeoutError": _timed_out,
    "builtins.OSError": _os_error,
    "builtins.ImportError": Reason.UNSUPPORTED,
    "builtins.NotImplementedError": Reason.UNSUPPORTED,
    "builtins.ValueError": _value_error,
    "builtins.Warning": Reason.INTERNAL,
    "socket.gaierror": Reason.UNREACHABLE,
    "ssl.SSLCertVerificationError": Reason.HOST_KEY,
    "ssl.SSLEOFError": _lost,
    "ssl.SSLZeroReturnError": _lost,
    "ssl.SSLError": Reason.UNREACHABLE,
    "http.client.IncompleteRead": _lost,
    "http.client.RemoteDisconnected": _lost,
    "http.client.HTTPException": Reason.UNSUPPORTED,
    "json.decoder.JSONDecodeError": _not_json,
    "lxml.etree.XMLSyntaxError": Reason.TRUNCATED,
    # NAPALM.
    "napalm.base.exceptions.ConnectionException": Reason.UNREACHABLE,
    "napalm.base.exceptions.ConnectAuthError": Reason.AUTH,
    "napalm.base.exceptions.ConnectTimeoutError": Reason.TIMEOUT,
    "napalm.base.exceptions.ConnectionClosedException": _lost,
    "napalm.base.exceptions.UnsupportedVersion": Reason.UNSUPPORTED,
    "napalm.base.exceptions.ModuleImportError": Reason.UNSUPPORTED,
    "napalm.base.exceptions.CommandErrorException": Reason.COMMAND,
    "napalm.base.exceptions.CommandTimeoutException": Reason.TIMEOUT,
    "napalm.base.exceptions.LockError": Reason.COMMAND,
    "napalm.base.exceptions.SessionLockedException": Reason.COMMAND,
    "napalm.base.exceptions.UnlockError": Reason.COMMAND,
    # Changing a configuration, templates, validation: nothing of what we call.
    "napalm.base.exceptions.NapalmException": Reason.INTERNAL,
    "napalm.nxapi_plumbing.errors.NXAPIAuthError": Reason.AUTH,
    "napalm.nxapi_plumbing.errors.NXAPIConnectionError": Reason.UNREACHABLE,
    "napalm.nxapi_plumbing.errors.NXAPIPostError": _http_status,
    "napalm.nxapi_plumbing.errors.NXAPIXMLError": Reason.TRUNCATED,
    "napalm.nxapi_plumbing.errors.NXAPIError": Reason.COMMAND,
    "napalm.pyIOSXR.exceptions.ConnectError": _xml_agent,
    "napalm.pyIOSXR.exceptions.EOFError": _lost,
    "napalm.pyIOSXR.exceptions.TimeoutError": Reason.TIMEOUT,
    "napalm.pyIOSXR.exceptions.InvalidXMLResponse": Reason.TRUNCATED,
    "napalm.pyIOSXR.exceptions.IteratorIDError": Reason.TRUNCATED,
    "napalm.pyIOSXR.exceptions.IOSXRException": Reason.COMMAND,
    # netmiko and paramiko.
    "netmiko.exceptions.NetmikoAuthenticationException": Reason.AUTH,
    "netmiko.exceptions.NetmikoTimeoutException": _ssh,
    "netmiko.exceptions.ReadTimeout": Reason.TIMEOUT,
    "netmiko.exceptions.ReadException": _lost,
    "netmiko.exceptions.WriteException": _lost,
    "netmiko.exceptions.ConnectionException": _lost,
    "netmiko.exceptions.NetmikoParsingException": Reason.INTERNAL,
    "netmiko.exceptions.ConfigInvalidException": Reason.INTERNAL,
    "netmiko.exceptions.NetmikoBaseException": Reason.INTERNAL,
    "paramiko.ssh_exception.AuthenticationException": Reason.AUTH,
    "paramiko.ssh_exception.BadHostKeyException": Reason.HOST_KEY,
    "paramiko.ssh_exception.IncompatiblePeer": Reason.UNREACHABLE,
    "paramiko.ssh_exception.NoValidConnectionsError": _no_valid_connections,
    "paramiko.ssh_exception.ChannelException": Reason.DISCONNECTED,
    "paramiko.ssh_exception.ConfigParseError": Reason.INTERNAL,
    "paramiko.ssh_exception.CouldNotCanonicalize": Reason.UNREACHABLE,
    "paramiko.ssh_exception.ProxyCommandFailure": Reason.UNREACHABLE,
    "paramiko.ssh_exception.SSHException": _ssh,
    "paramiko.buffered_pipe.PipeTimeout": _timed_out,
    "paramiko.ber.BERException": Reason.INTERNAL,
    "paramiko.hostkeys.InvalidHostKey": Reason.INTERNAL,
    "paramiko.packet.NeedRekeyException": Reason.DISCONNECTED,
    # A key file of ours that cannot be used.
    "paramiko.pkey.UnknownKeyType": Reason.AUTH,
    "paramiko.sftp.SFTPError": Reason.INTERNAL,
    # NETCONF.
    "ncclient.transport.errors.AuthenticationError": Reason.AUTH,
    "ncclient.transport.errors.SSHUnknownHostError": Reason.HOST_KEY,
    "ncclient.transport.errors.SSHError": _netconf_ssh,
    "ncclient.transport.errors.PermissionError": Reason.COMMAND,
    "ncclient.transport.errors.NetconfFramingError": Reason.TRUNCATED,
    "ncclient.transport.errors.TransportError": _lost,
    "ncclient.transport.errors.SessionError": _lost,
    "ncclient.operations.errors.TimeoutExpiredError": Reason.TIMEOUT,
    "ncclient.operations.errors.MissingCapabilityError": Reason.UNSUPPORTED,
    "ncclient.operations.errors.OperationError": Reason.COMMAND,
    "ncclient.capabilities._InvalidParameter": Reason.UNSUPPORTED,
    "ncclient.xml_.XMLError": Reason.TRUNCATED,
    "ncclient.NCClientError": _lost,
    "jnpr.junos.exception.ConnectAuthError": Reason.AUTH,
    "jnpr.junos.exception.ConnectRefusedError": Reason.REFUSED,
    "jnpr.junos.exception.ConnectClosedError": _lost,
    "jnpr.junos.exception.ConnectNotMasterError": Reason.COMMAND,
    "jnpr.junos.exception.ConnectError": Reason.UNREACHABLE,
    "jnpr.junos.exception.RpcTimeoutError": Reason.TIMEOUT,
    "jnpr.junos.exception.RpcError": Reason.COMMAND,
    "jnpr.junos.exception.JSONLoadError": Reason.TRUNCATED,
    "jnpr.junos.exception.FactLoopError": Reason.INTERNAL,
    "jnpr.junos.factory.safe_eval.UnsafeExpressionError": Reason.INTERNAL,
    # HTTP.
    "pyeapi.eapilib.CommandError": _eapi_command,
    "pyeapi.eapilib.ConnectionError": _eapi_connection,
    "pyeapi.eapilib.EapiError": Reason.COMMAND,
    "requests.exceptions.HTTPError": _http_status,
    "requests.exceptions.ConnectTimeout": Reason.UNREACHABLE,
    "requests.exceptions.Timeout": Reason.TIMEOUT,
    "requests.exceptions.ChunkedEncodingError": _lost,
    "requests.exceptions.ContentDecodingError": Reason.TRUNCATED,
    "requests.exceptions.JSONDecodeError": _not_json,
    "requests.exceptions.InvalidJSONError": Reason.TRUNCATED,
    "requests.exceptions.TooManyRedirects": Reason.UNSUPPORTED,
    "requests.exceptions.RequestException": Reason.UNREACHABLE,
    "requests.cookies.CookieConflictError": Reason.INTERNAL,
    "urllib3.exceptions.ConnectTimeoutError": Reason.UNREACHABLE,
    "urllib3.exceptions.ReadTimeoutError": Reason.TIMEOUT,
    "urllib3.exceptions.SSLError": Reason.UNREACHABLE,
    "urllib3.exceptions.IncompleteRead": _lost,
    "urllib3.exceptions.InvalidChunkLength": _lost,
    "urllib3.exceptions.LocationValueError": Reason.INTERNAL,
    "urllib3.exceptions.ProxySchemeUnsupported": Reason.INTERNAL,
    "urllib3.exceptions.HTTPError": _lost,
    "urllib3.util.ssl_match_hostname.CertificateError": Reason.HOST_KEY,
}


def place_of(kind: type[BaseException]) -> Reason | Rule | None:
    """The place of an exception class: its own, else its nearest ancestor's; None: it has none."""
    for ancestor in kind.__mro__:
        if (place := PLACES.get(f"{ancestor.__module__}.{ancestor.__qualname__}")) is not None:
            return place
    return None


__all__ = ["PLACES", "Circumstances", "place_of"]
