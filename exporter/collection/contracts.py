"""What goes into a try and what comes out of it."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from exporter.errors import TryTimes


@dataclass(frozen=True)
class Login:
    """How to reach one device; its representation shows no secret."""

    device: str
    address: str
    #: NAPALM driver; empty: the platform's own.
    driver: str
    #: None: the driver's default port.
    port: int | None
    username: str
    password: str = field(repr=False)
    #: NAPALM's optional arguments; they may hold further secrets.
    optional_args: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class HostKeyPin:
    """A device's SSH host key as it stands in a known_hosts file: `ssh-ed25519`, `AAAA...`."""

    key_type: str
    key_base64: str

    @property
    def fingerprint(self) -> str:
        """The fingerprint as OpenSSH shows it: `SHA256:...`."""
        digest = hashlib.sha256(base64.b64decode(self.key_base64)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


@dataclass(frozen=True)
class Request:
    """One try of one device."""

    login: Login
    #: A name of the platforms' table.
    platform: str
    #: From the start of the try to the last byte.
    deadline_seconds: float
    #: A device that sends more is cut off.
    maximum_bytes: int
    #: None: the key that the device shows is accepted and handed back.
    pinned_key: HostKeyPin | None = None
    #: Bytes of the device's current configuration; None: it has none.
    previous_size: int | None = None
    #: A person confirmed that the configuration really shrank.
    accept_shrunk: bool = False
    #: A text shorter than this share of the previous size is truncated.
    shrink_ratio: float = 0.5
    #: Key of the hashes that replace secrets; None: secrets are kept.
    mask_key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Fetched:
    """A configuration that passed every check."""

    text: bytes
    #: SHA-256 of the text without its volatile lines.
    stable_hash: bytes
    times: TryTimes
    #: The key that the device showed; None: the transport has none (HTTP).
    host_key: HostKeyPin | None
