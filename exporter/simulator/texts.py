"""Plausible configurations per platform: what stays, and the lines that change by themselves."""

import random
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

_IOS_HEAD = """version 15.2
service timestamps debug datetime msec
service timestamps log datetime msec
service password-encryption
!
hostname %(name)s
!
boot-start-marker
boot-end-marker
!
enable secret 9 $9$%(secret)s
!
username %(user)s privilege 15 secret 9 $9$%(secret2)s
username readonly privilege 1 password 7 0822455D0A16
aaa new-model
aaa authentication login default group tacacs+ local
ip domain name %(site)s.example.net
ip ssh version 2
!
"""
_IOS_INTERFACE = """interface GigabitEthernet%(slot)d/0/%(port)d
 description %(description)s
 switchport access vlan %(vlan)d
 ip address 10.%(slot)d.%(port)d.1 255.255.255.0
 spanning-tree portfast
!
"""
_IOS_TAIL = """router ospf 1
 router-id 10.255.0.%(number)d
 network 10.0.0.0 0.255.255.255 area 0
!
ip access-list extended MANAGEMENT
%(rules)s deny   ip any any log
!
snmp-server community %(community)s RO
snmp-server location %(site)s
tacacs server main
 address ipv4 192.0.2.10
 key 7 %(secret2)s
!
line con 0
line vty 0 4
 transport input ssh
!
ntp clock-period 17179800
ntp server 192.0.2.123
end
"""
_NXOS_HEAD = """version 9.3(8) Bios:version 07.69
hostname %(name)s
vdc %(name)s id 1
  limit-resource vlan minimum 16 maximum 4094

feature tacacs+
feature lacp
username %(user)s password 5 $5$%(secret)s  role network-admin
ip domain-lookup
snmp-server user %(user)s network-admin auth md5 0x%(secret2)s priv 0x%(secret2)s localizedkey
ntp server 192.0.2.123 use-vrf management

"""
_NXOS_INTERFACE = """interface Ethernet%(slot)d/%(port)d
  description %(description)s
  switchport access vlan %(vlan)d
  spanning-tree port type edge
  no shutdown

"""
_NXOS_TAIL = """interface mgmt0
  vrf member management
  ip address 192.0.2.%(number)d/24
ip access-list MANAGEMENT
%(rules)s  deny ip any any log
snmp-server community %(community)s group network-operator
line console
line vty
router ospf 1
  router-id 10.255.0.%(number)d
"""
_EOS_HEAD = """! device: %(name)s (DCS-7050TX-64, EOS-4.30.1F)
!
! boot system flash:/EOS-4.30.1F.swi
!
hostname %(name)s
!
dns domain %(site)s.example.net
!
snmp-server community %(community)s ro
!
username %(user)s privilege 15 role network-admin secret sha512 $6$%(secret)s
!
"""
_EOS_INTERFACE = """interface Ethernet%(slot)d/%(port)d
   description %(description)s
   switchport access vlan %(vlan)d
   spanning-tree portfast
!
"""
_EOS_TAIL = """ip access-list MANAGEMENT
%(rules)s   1000 deny ip any any log
!
ntp server 192.0.2.123
!
tacacs-server host 192.0.2.10 key 7 %(secret2)s
!
management api http-commands
   protocol http
   no shutdown
!
end
"""
_JUNOS_HEAD = """version 21.4R3-S4.9;
system {
    host-name %(name)s;
    domain-name %(site)s.example.net;
    root-authentication {
        encrypted-password "$6$%(secret)s"; ## SECRET-DATA
    }
    login {
        user %(user)s {
            uid 2000;
            class super-user;
            authentication {
                encrypted-password "$6$%(secret2)s"; ## SECRET-DATA
            }
        }
    }
    services {
        netconf {
            ssh;
        }
    }
    ntp {
        server 192.0.2.123;
    }
}
interfaces {
"""
_JUNOS_INTERFACE = """    ge-%(slot)d/0/%(port)d {
        description "%(description)s";
        unit 0 {
            family inet {
                address 10.%(slot)d.%(port)d.1/24;
            }
        }
    }
"""
_JUNOS_TAIL = """}
snmp {
    location "%(site)s <%(number)d & more>";
    community %(community)s {
        authorization read-only;
    }
}
policy-options {
    prefix-list MANAGEMENT {
%(rules)s    }
}
"""
#: Platform -> head, one interface, tail, one rule.
_TEMPLATES = {
    "ios": (_IOS_HEAD, _IOS_INTERFACE, _IOS_TAIL, " permit tcp host 10.0.0.%d any eq 22\n"),
    "nxos_ssh": (_NXOS_HEAD, _NXOS_INTERFACE, _NXOS_TAIL, "  permit tcp 10.0.0.%d/32 any eq 22\n"),
    "eos": (_EOS_HEAD, _EOS_INTERFACE, _EOS_TAIL, "   permit tcp host 10.0.0.%d any eq ssh\n"),
    "junos": (_JUNOS_HEAD, _JUNOS_INTERFACE, _JUNOS_TAIL, "        10.0.0.%d/32;\n"),
}
PLATFORMS = tuple(_TEMPLATES)
_PORTS = 48
_USES = ("uplink", "server", "printer", "access point", "camera", "phone", "spare", "storage")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_CLOCK_PERIOD = re.compile(rb"^ntp clock-period \d+", re.MULTILINE)


def generate(
    platform: str, name: str, *, site: str, seed: int, size_bytes: int, revision: int
) -> bytes:
    """The part of a device's configuration that stays from fetch to fetch.

    The same arguments give the same text; each revision changes a description and adds or removes
    rules. It is never shorter than head and tail, and about size_bytes long otherwise.
    """
    head, interface, tail, rule = _TEMPLATES[platform]
    choice = random.Random(f"{seed}/{name}")
    rules = "".join(rule % (1 + number) for number in range(3 + revision % 20))
    values = {
        "name": name,
        "site": site,
        "user": "backup",
        "secret": _word(choice, 43),
        "secret2": "".join(choice.choices("0123456789ABCDEF", k=32)),
        "community": _word(choice, 12),
        "number": choice.randrange(1, 255),
        "rules": rules,
    }
    first, last = head % values, tail % values
    descriptions = _descriptions(interface, size_bytes - len(first) - len(last), choice)
    for number in range(max(1, revision - 9), revision + 1):
        change = random.Random(f"{seed}/{name}/{number}")
        place = change.randrange(len(descriptions))
        descriptions[place] = f"{change.choice(_USES)} CHG{change.randrange(10**6):06d}"
    blocks = [
        interface
        % {
            "slot": index // _PORTS % 250,
            "port": index % _PORTS + 1,
            "vlan": 10 + index % 90,
            "description": description,
        }
        for index, description in enumerate(descriptions)
    ]
    return "".join((first, *blocks, last)).encode()


def _word(choice: random.Random, length: int) -> str:
    return "".join(choice.choices(_LETTERS, k=length))


def _descriptions(interface: str, room_bytes: int, choice: random.Random) -> list[str]:
    count = max(1, room_bytes // len(interface))
    return [f"{choice.choice(_USES)} {index}" for index in range(count)]


def with_volatile_lines(platform: str, text: bytes, fetch: int) -> bytes:
    """The configuration as the device shows it at its fetch number `fetch`.

    The lines that change by themselves differ at each fetch, also within one second.
    """
    now = datetime.now(UTC) + timedelta(seconds=fetch)
    return _VOLATILE[platform](text, now, fetch)


def _ios(text: bytes, now: datetime, fetch: int) -> bytes:
    changing = _CLOCK_PERIOD.sub(b"ntp clock-period %d" % (17179800 + fetch % 100), text)
    when = f"! Last configuration change at {now:%H:%M:%S} UTC {now:%a %b %d %Y} by netops\n!\n"
    size = len(changing) + len(when)
    header = f"Building configuration...\n\nCurrent configuration : {size} bytes\n!\n{when}"
    return header.encode() + changing


def _nxos(text: bytes, now: datetime, fetch: int) -> bytes:
    header = (
        f"\n!Command: show running-config\n!Running configuration last done at: {now:%c}\n"
        f"!Time: {now:%c}\n\n"
    )
    return header.encode() + text


def _eos(text: bytes, now: datetime, fetch: int) -> bytes:
    return f"! Command: show running-config\n! Time: {now:%c}\n".encode() + text


def _junos(text: bytes, now: datetime, fetch: int) -> bytes:
    return f"\n## Last commit: {now:%Y-%m-%d %H:%M:%S} UTC by netops\n".encode() + text


_VOLATILE: dict[str, Callable[[bytes, datetime, int], bytes]] = {
    "ios": _ios,
    "nxos_ssh": _nxos,
    "eos": _eos,
    "junos": _junos,
}

__all__ = ["PLATFORMS", "generate", "with_volatile_lines"]
