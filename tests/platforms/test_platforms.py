"""The table of platforms: every row compiles, and says what it must."""

import re

import pytest

from exporter.platforms import PLATFORM_NAMES, UnknownPlatform, platform_named

FIRST_CLASS = ("ios", "nxos", "nxos_ssh", "iosxr", "iosxr_netconf", "eos", "junos", "frr")


def test_the_platforms_of_the_first_class_are_there() -> None:
    assert set(FIRST_CLASS) <= set(PLATFORM_NAMES)


def test_an_unknown_platform_is_an_error_that_lists_those_there_are() -> None:
    with pytest.raises(UnknownPlatform, match=r"'iso'.*ios, nxos"):
        platform_named("iso")


@pytest.mark.parametrize("name", PLATFORM_NAMES)
def test_every_row_compiles_and_each_secret_is_one_group(name: str) -> None:
    platform = platform_named(name)

    assert platform.error_pattern.search(" nothing of the kind") is None
    assert platform.volatile_pattern is None or platform.volatile_pattern.groups == 0
    assert [re.compile(f"(?m){secret}").groups for secret in platform.secrets] == [1] * len(
        platform.secrets
    )


@pytest.mark.parametrize("name", FIRST_CLASS)
def test_completeness_of_the_first_class_can_be_checked(name: str) -> None:
    platform = platform_named(name)

    assert platform.end_marker or platform.is_braced or (platform.header and platform.footer)
