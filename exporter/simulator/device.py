"""One simulated device: who it is, what it has configured, and what is wrong with it."""

import hashlib
from dataclasses import dataclass, field

import asyncssh
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from exporter.simulator import texts
from exporter.simulator.faults import NO_FAULT, DeviceFault, bend_text

USERNAME = "backup"
#: Devices of this role let a user in without privileges; the enable secret is asked for.
UNPRIVILEGED_ROLE = "edge"


@dataclass(frozen=True)
class Identity:
    """What never changes about a device while the fleet runs."""

    name: str
    platform: str
    site: str
    role: str
    #: Only for eos: the API without TLS.
    is_plain_http: bool = False

    @property
    def password(self) -> str:
        return f"{self.platform}-password"

    @property
    def enable_secret(self) -> str:
        return f"{self.platform}-enable"


@dataclass(frozen=True)
class Conduct:
    """How the devices of a fleet behave."""

    seed: int
    #: Seconds between a command and its answer.
    latency_seconds: float
    configuration_bytes: int


@dataclass
class Device:
    """The state of one device; every connection looks at it anew."""

    identity: Identity
    conduct: Conduct
    #: Secret of the fleet, from which the host keys are derived.
    key_secret: bytes
    fault: DeviceFault = NO_FAULT
    revision: int = 0
    #: What a person wrote; it is used in place of the generated text.
    written: bytes | None = None
    fetches: int = 0
    _generated: tuple[int, bytes] | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return self.identity.name

    def has_fault(self, *names: str) -> bool:
        return self.fault.fault in names

    def accepts(self, username: str, password: str) -> bool:
        is_right = username == USERNAME and password == self.identity.password
        return is_right and not self.has_fault("password")

    def accepts_secret(self, secret: str) -> bool:
        return secret == self.identity.enable_secret and not self.has_fault("enable_secret")

    @property
    def asks_for_secret(self) -> bool:
        is_shell = self.identity.platform == "ios"
        is_edge = is_shell and self.identity.role == UNPRIVILEGED_ROLE
        return is_edge or self.has_fault("enable_secret")

    def configuration(self) -> bytes:
        """What the device shows at this fetch, lines ended by LF, bent by its fault."""
        self.fetches += 1
        text = self._stable_text() if self.written is None else self.written
        shown = texts.with_volatile_lines(self.identity.platform, text, self.fetches)
        return bend_text(self.fault, shown, self.name)

    def _stable_text(self) -> bytes:
        if self._generated is None or self._generated[0] != self.revision:
            text = texts.generate(
                self.identity.platform,
                self.name,
                site=self.identity.site,
                seed=self.conduct.seed,
                size_bytes=self.conduct.configuration_bytes,
                revision=self.revision,
            )
            self._generated = (self.revision, text)
        return self._generated[1]

    def private_key(self, *, is_changed: bool) -> Ed25519PrivateKey:
        """Derived, so that a restarted fleet shows the same keys without storing hundreds."""
        salt = b"changed" if is_changed else b""
        seed = hashlib.blake2b(self.name.encode() + salt, key=self.key_secret, digest_size=32)
        return Ed25519PrivateKey.from_private_bytes(seed.digest())

    def host_key(self, *, is_changed: bool) -> asyncssh.SSHKey:
        key = self.private_key(is_changed=is_changed)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return asyncssh.import_private_key(pem)
