"""Arista's eAPI: JSON-RPC 2.0 over HTTP or HTTPS, as far as clients need it: `eos`."""

import asyncio
import base64
import contextlib
import json
import re
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from exporter.simulator.device import Device
from exporter.simulator.faults import deliver, wait_for_ever
from exporter.simulator.handshakes import StreamConnection

_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"^content-length:\s*(\d+)", re.IGNORECASE | re.MULTILINE)
_AUTHORIZATION = re.compile(rb"^authorization:\s*basic\s+(\S+)", re.IGNORECASE | re.MULTILINE)
_VERSION = {"version": "4.30.1F", "modelName": "DCS-7050TX-64", "uptime": 86400.0}
#: eAPI's code for a command that the device does not know.
_INVALID_COMMAND = 1002


class _CommandFailed(Exception):
    """One command of a request failed; eAPI then answers the whole request with an error."""


class EapiConnection(StreamConnection):
    """One HTTP connection; requests are answered one after the other."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self._device = device
        self._reader = asyncio.StreamReader()

    def data_received(self, data: bytes) -> None:
        self._reader.feed_data(data)

    def eof_received(self) -> None:
        self._reader.feed_eof()

    async def _converse(self) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = await self._reader.readuntil(_HEAD_END)
                length = _LENGTH.search(head)
                body = await self._reader.readexactly(int(length.group(1)) if length else 0)
                await self._answer(head, body)
        self.close()

    async def _answer(self, head: bytes, body: bytes) -> None:
        if self._device.conduct.latency_seconds:
            await asyncio.sleep(self._device.conduct.latency_seconds)
        if self._device.has_fault("no_prompt"):
            await wait_for_ever()
        if not self._is_authorised(head):
            self._send("401 Unauthorized", b"Unable to authenticate user: Bad username/password")
            return
        request = json.loads(body)
        answer = json.dumps(self._result(request)).encode()
        if b"running-config" not in body:
            self._send("200 OK", answer)
            return
        is_endless = self._device.has_fault("endless")
        self.write(_head("200 OK", length=None if is_endless else len(answer)))
        await deliver(self, answer, self._device.fault)

    def _send(self, status: str, answer: bytes) -> None:
        self.write(_head(status, length=len(answer)) + answer)

    def _is_authorised(self, head: bytes) -> bool:
        found = _AUTHORIZATION.search(head)
        login = base64.b64decode(found.group(1)).decode() if found else ""
        return self._device.accepts(*login.partition(":")[::2])

    def _result(self, request: dict[str, Any]) -> dict[str, Any]:
        envelope = {"jsonrpc": "2.0", "id": request.get("id")}
        is_text = request["params"].get("format") == "text"
        results: list[dict[str, Any]] = []
        try:
            for command in request["params"]["cmds"]:
                results.append(self._run_command(command, is_text=is_text))
        except _CommandFailed as failure:
            number = len(results) + 1
            total = len(request["params"]["cmds"])
            message = f"CLI command {number} of {total} '{failure}' failed: invalid command"
            errors = {"errors": ["Invalid input (privileged mode required?)"]}
            data = [*results, errors]
            error = {"code": _INVALID_COMMAND, "message": message, "data": data}
            return {**envelope, "error": error}
        return {**envelope, "result": results}

    def _run_command(self, command: str | dict[str, str], *, is_text: bool) -> dict[str, Any]:
        secret = command.get("input", "") if isinstance(command, dict) else ""
        words = command["cmd"] if isinstance(command, dict) else command
        match words.split():
            case ["enable"] if not self._device.asks_for_secret:
                return {}
            case ["enable"] if self._device.accepts_secret(secret):
                return {}
            case ["show", "version"]:
                return {"output": "Software image version: 4.30.1F\n"} if is_text else _VERSION
            case ["configure", "session", *_]:
                return {}
            case ["show", "running-config" | "startup-config", *_] if not self._device.has_fault(
                "invalid"
            ):
                return {"output": _decode(self._device.configuration())}
            case _:
                raise _CommandFailed(words)


def _head(status: str, *, length: int | None) -> bytes:
    end = "Connection: close" if length is None else f"Content-Length: {length}"
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{end}\r\n\r\n".encode()


def _decode(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1")


def tls_context(device: Device, *, is_changed: bool) -> ssl.SSLContext:
    """A server's context with a self-signed certificate for the device's key."""
    key = device.private_key(is_changed=is_changed)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device.name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=3650))
        .sign(key, None)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # The ssl module reads certificates from files alone.
    with tempfile.NamedTemporaryFile() as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        file.write(certificate.public_bytes(Encoding.PEM))
        file.flush()
        context.load_cert_chain(file.name)
    return context
