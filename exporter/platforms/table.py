"""One row a platform.

Sources of the patterns: the vendors' command references and NAPALM's own header filters; `ios`
and `frr` were also seen on running systems.
"""

from collections.abc import Mapping

from exporter.platforms.row import Platform, UnknownPlatform
from exporter.platforms.secret_patterns import (
    BRACED,
    CISCO,
    FORTIOS,
    HUAWEI,
    PROCURVE,
    ROS,
    SROS,
    XML,
)

_CISCO_ERRORS = (
    r"% ?Invalid",
    r"% ?Incomplete",
    r"% ?Ambiguous",
    r"% ?Unknown command",
    r"% ?Unrecognized",
    r"% ?(?:Command )?[Aa]uthorization",
    r"% ?Permission denied",
    r"% ?Error",
    r"Command authorization failed",
    r"Error:",
)
_IOS_VOLATILE = (
    r"Building configuration",
    r"Current configuration ?:",
    r"! (?:Last configuration change|NVRAM config last updated|No configuration change)",
    r"ntp clock-period",
    r"Using \d+ out of",
)
_NXOS_VOLATILE = (
    r"!Command:",
    r"!Time:",
    r"!Running configuration last done at",
    r"!No configuration change since",
)
_IOSXR_VOLATILE = (
    r"Building configuration",
    r"!! (?:IOS XR|Last configuration change)",
    r"\w{3} \w{3} +\d+ [\d:.]+ \w+$",
)
_COMWARE_ERRORS = (r"% ?(?:Unrecognized|Incomplete|Ambiguous|Too many|Wrong|Permission)", r"Error:")

_ROWS = (
    Platform(
        "ios", "ios", "Cisco", "!",
        command="show running-config",
        end_marker="end",
        volatile_lines=_IOS_VOLATILE,
        error_lines=_CISCO_ERRORS,
        secrets=CISCO,
    ),
    Platform(
        "nxos", "nxos", "Cisco", "!",
        command="show running-config",
        header=r"version \S",
        footer=r"line (?:vty|console)",
        volatile_lines=_NXOS_VOLATILE,
        error_lines=_CISCO_ERRORS,
        secrets=CISCO,
    ),
    Platform(
        "nxos_ssh", "nxos_ssh", "Cisco", "!",
        command="show running-config",
        header=r"version \S",
        footer=r"line (?:vty|console)",
        volatile_lines=_NXOS_VOLATILE,
        error_lines=_CISCO_ERRORS,
        secrets=CISCO,
    ),
    Platform(
        "iosxr", "iosxr", "Cisco", "!",
        end_marker="end",
        volatile_lines=_IOSXR_VOLATILE,
        error_lines=_CISCO_ERRORS,
        secrets=CISCO,
    ),
    Platform(
        "iosxr_netconf", "iosxr_netconf", "Cisco", "!",
        end_marker="end",
        volatile_lines=_IOSXR_VOLATILE,
        error_lines=_CISCO_ERRORS,
        secrets=CISCO,
    ),
    Platform(
        "eos", "eos", "Arista", "!",
        end_marker="end",
        volatile_lines=(r"! Command:", r"! Time:"),
        error_lines=_CISCO_ERRORS,
        secrets=CISCO,
    ),
    Platform(
        "junos", "junos", "Juniper", "#",
        is_braced=True,
        volatile_lines=(r"## Last (?:commit|changed):",),
        error_lines=(r"error:", r"unknown command", r"syntax error"),
        secrets=BRACED,
    ),
    Platform(
        "frr", "ios", "FRRouting", "!",
        command="show running-config",
        end_marker="end",
        volatile_lines=(r"Building configuration", r"Current configuration:"),
        error_lines=_CISCO_ERRORS,
        secrets=CISCO,
    ),
    Platform(
        "asa", "asa", "Cisco", ":",
        end_marker=r": end",
        volatile_lines=(r": (?:Saved|Written by)", r":[ \t]*$", r"Cryptochecksum:"),
        error_lines=(*_CISCO_ERRORS, r"ERROR:"),
        secrets=CISCO,
    ),
    Platform(
        "fortios", "fortigate", "Fortinet", "#",
        end_marker="end",
        volatile_lines=(
            r"#conf_file_ver=",
            r"#buildno=",
            # Encrypted with a new salt at each showing.
            r"[ \t]*set (?:\S*password|passwd|\S*secret|psksecret|private-key|key) \"?ENC ",
        ),
        error_lines=(r"Unknown action", r"Command fail", r"command parse error"),
        secrets=FORTIOS,
    ),
    Platform(
        "vrp", "huawei_vrp", "Huawei", "#",
        command="display current-configuration",
        end_marker="return",
        volatile_lines=(r"!Last configuration was (?:updated|saved)",),
        error_lines=(r"Error:", r"\^$"),
        secrets=HUAWEI,
    ),
    Platform(
        "comware", "h3c_comware", "HPE", "#",
        command="display current-configuration",
        end_marker="return",
        error_lines=_COMWARE_ERRORS,
        secrets=HUAWEI,
    ),
    Platform(
        "sros", "sros", "Nokia", "#",
        end_marker=r"(?:exit all|# Finished .*)",
        volatile_lines=(r"# (?:Generated|Finished)",),
        error_lines=(r"Error: ", r"MINOR: CLI"),
        secrets=SROS,
    ),
    Platform(
        "vyos", "vyos", "VyOS", "//",
        is_braced=True,
        volatile_lines=(r"// (?:Release version|vyos-config-version)",),
        error_lines=(r"Invalid command", r"Configuration path"),
        secrets=BRACED,
    ),
    Platform(
        "panos", "panos", "Palo Alto Networks", "<!--",
        end_marker="</config>",
        error_lines=(r"Invalid syntax", r"Unknown command", r"<response status=\"error\""),
        secrets=XML,
    ),
    Platform(
        "ros", "ros", "MikroTik", "#",
        header=r"# \S+.*by RouterOS",
        volatile_lines=(r"# \S+ [\d:]+ by RouterOS",),
        error_lines=(r"bad command name", r"syntax error", r"expected "),
        secrets=ROS,
    ),
    Platform(
        "procurve", "procurve", "HPE", ";",
        command="show running-config",
        header=r"(?:; \S+ Configuration Editor|hostname )",
        volatile_lines=(r"; .* Configuration Editor",),
        error_lines=(r"Invalid input", r"Incomplete input", r"Ambiguous input"),
        secrets=PROCURVE,
    ),
)  # fmt: skip

_BY_NAME: Mapping[str, Platform] = {row.name: row for row in _ROWS}
PLATFORM_NAMES: tuple[str, ...] = tuple(_BY_NAME)


def platform_named(name: str) -> Platform:
    """The row of a platform. Raises UnknownPlatform, which lists the names there are."""
    try:
        return _BY_NAME[name]
    except KeyError:
        raise UnknownPlatform(
            f"unknown platform {name!r}, expected one of {', '.join(PLATFORM_NAMES)}"
        ) from None
