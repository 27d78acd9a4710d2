"""NETCONF 1.0 over SSH (RFC 6241, RFC 6242), as far as Junos clients need it: `junos`."""

import asyncio
import re
from xml.sax.saxutils import escape

from exporter.simulator.faults import deliver
from exporter.simulator.ssh import DeviceSession

#: RFC 6242 section 4.3.
_END = b"]]>]]>"
_HELLO = b"""<hello xmlns="urn:ietf:params:xml:ns:netconf:base:1.0">
<capabilities>
<capability>urn:ietf:params:netconf:base:1.0</capability>
<capability>urn:ietf:params:netconf:capability:candidate:1.0</capability>
<capability>http://xml.juniper.net/netconf/junos/1.0</capability>
</capabilities>
<session-id>1</session-id>
</hello>
"""
_MESSAGE_ID = re.compile(rb"""message-id=["']([^"']*)["']""")
#: XML 1.0 section 2.2 forbids the other control characters.
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")
_ERROR = (
    b"<rpc-error><error-type>protocol</error-type><error-tag>operation-failed</error-tag>"
    b"<error-severity>error</error-severity><error-message>syntax error</error-message></rpc-error>"
)


class NetconfSession(DeviceSession):
    """One NETCONF session: hello, requests, close."""

    def subsystem_requested(self, subsystem: str) -> bool:
        return subsystem == "netconf"

    async def _converse(self) -> None:
        self.write(_HELLO + _END)
        while True:
            try:
                message = await self._reader.readuntil(_END)
            except asyncio.IncompleteReadError:
                return
            if b"<rpc" not in message and b":rpc" not in message:
                continue
            await self.wait_as_usual()
            await self._answer(message)
            if b"close-session" in message:
                return

    async def _answer(self, message: bytes) -> None:
        found = _MESSAGE_ID.search(message)
        number = found.group(1) if found else b""
        head = (
            b'<rpc-reply xmlns="urn:ietf:params:xml:ns:netconf:base:1.0" message-id="%s">\n'
            % number
        )
        tail = b"\n</rpc-reply>\n" + _END
        if b"close-session" in message:
            self.write(head + b"<ok/>" + tail)
        elif b"get-configuration" in message and not self._device.has_fault("invalid"):
            self.write(head + b"<configuration-text>")
            await deliver(self, self._configuration(), self._device.fault)
            self.write(b"</configuration-text>" + tail)
        else:
            self.write(head + _ERROR + tail)

    def _configuration(self) -> bytes:
        text = self._device.configuration().decode("utf-8", "replace")
        return escape(_NO_XML.sub("?", text)).encode()
