"""Whether what a device sent is a configuration: pure decisions."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.collection import judging
from exporter.errors import Reason
from exporter.platforms import platform_named
from exporter.simulator.texts import generate

MARKED = ("ios", "iosxr", "eos", "frr", "vrp", "asa", "panos")
ENDS = {"vrp": "return", "asa": ": end", "panos": "</config>"}
SECRETS = {
    "enable algorithm-type scrypt secret 9 SECRET": "ios",
    "enable password SECRET": "ios",
    "username admin privilege 15 password SECRET": "ios",
    "username admin privilege 15 role network-admin secret sha512 SECRET": "eos",
    " server-private 192.0.2.1 timeout 5 key 7 SECRET": "ios",
    " pre-shared-key local SECRET": "ios",
    "ip ftp password SECRET": "ios",
    "ntp authentication-key 1 md5 SECRET 7": "ios",
    "snmp-server user backup group v3 auth sha SECRET priv aes 128 SECRET": "ios",
    "snmp-server community SECRET ro": "nxos",
    "tacacs-server host 192.0.2.10 key 7 SECRET": "nxos",
    '        encrypted-password "$6$SECRET"; ## SECRET-DATA': "junos",
    '        secret "$9$SECRET"; ## SECRET-DATA': "junos",
    "    community SECRET {": "junos",
    "        set password ENC SECRET": "fortios",
    " local-user admin password irreversible-cipher SECRET": "vrp",
}

lines = st.lists(
    st.text(st.characters(codec="latin-1", exclude_characters="\r\n\b"), max_size=40).filter(
        lambda line: line.strip() not in {"", "end", *ENDS.values()}
    ),
    min_size=8,
    max_size=30,
)


def verdict(text: str, platform: str, **options: object) -> Reason | None:
    checks = judging.judge(text, platform_named(platform), **options)  # type: ignore[arg-type]
    failed = judging.first_failed(checks)
    return failed.reason if failed else None


def generated(platform: str) -> str:
    text = generate(platform, "sw-1", site="x", seed=1, size_bytes=6_000, revision=1)
    return text.decode("latin-1")


@pytest.mark.parametrize("platform", ["ios", "nxos_ssh", "eos", "junos"])
def test_a_whole_configuration_passes_every_check(platform: str) -> None:
    assert verdict(generated(platform), platform, previous_size=6_000) is None


@given(lines, st.sampled_from(MARKED), st.data())
def test_a_text_cut_off_anywhere_never_passes_where_there_is_an_end_marker(
    body: list[str], platform: str, data: st.DataObject
) -> None:
    whole = "\n".join(body) + "\n" + ENDS.get(platform, "end") + "\n"
    length = data.draw(st.integers(0, len(whole) - 2))

    assert verdict(whole[:length], platform) is not None


@given(st.integers(0, 100))
def test_a_braced_text_cut_off_inside_a_block_never_passes(share: int) -> None:
    whole = "system {\n" + generated("junos").replace("\n", "\n    ").rstrip() + "\n}\n"

    assert verdict(whole[: len(whole) * share // 101], "junos") is not None


@given(lines, st.sampled_from(["\r\n", "\r\r\n", "\n\r", "\n"]))
def test_framing_leaves_the_text_as_the_device_sent_it(body: list[str], newline: str) -> None:
    text = "first\n" + "\n".join(body) + "\nend\n"
    raw = "show running-config\n" + text + "\nsw-1#"

    unframed = judging.unframe(
        raw.replace("\n", newline), command="show running-config", prompt=r"sw\-1\S*[#>]\s*"
    )

    assert unframed == text


def test_nul_and_latin_1_bytes_survive() -> None:
    raw = "banner \x00 Z\xfcrich \xff\r\nend\r\nsw#"

    assert judging.unframe(raw, prompt="sw#") == "banner \x00 Z\xfcrich \xff\nend\n"


@pytest.mark.parametrize(
    "pager",
    [
        " --More-- " + "\b" * 10 + " " * 10 + "\b" * 10,
        "--More--\r        \r",
        "<--- More --->\r              \r",
        "  ---- More ----\x1b[42D                  \x1b[42D",
    ],
)
def test_what_a_pager_leaves_behind_is_taken_out(pager: str) -> None:
    assert judging.PAGER.search("a line\r\n" + re.split("[\b\r\x1b]", pager)[0])
    assert judging.unframe(f"one\r\n{pager}two\r\nend\r\n") == "one\ntwo\nend\n"


@pytest.mark.parametrize(
    ("text", "platform", "reason"),
    [
        ("", "ios", Reason.EMPTY),
        ("\n \n", "nxos_ssh", Reason.EMPTY),
        ("None\n", "junos", Reason.EMPTY),
        ("      ^\n% Invalid input detected at '^' marker.\n", "ios", Reason.COMMAND),
        ("% Authorization failed\n", "eos", Reason.COMMAND),
        ("error: permission denied\n", "junos", Reason.COMMAND),
        ("Error: Unrecognized command found at '^' position.\n", "vrp", Reason.COMMAND),
        ("hostname x\ninterface Gi0/1\n", "ios", Reason.TRUNCATED),
        ("hostname x\nend\nhost", "ios", Reason.TRUNCATED),
        ("system {\n    host-name x;\n", "junos", Reason.TRUNCATED),
        ("hostname x\nline vty\n", "nxos_ssh", Reason.TRUNCATED),
        ("version 9.3(8)\nhostname x\n", "nxos_ssh", Reason.TRUNCATED),
        ("version 9.3(8)\nhostname x\nline vty\n", "nxos_ssh", None),
        ("!\nbanner % Invalid\n" + "interface Gi0/1\n" * 40 + "end\n", "ios", None),
    ],
)
def test_an_answer_is_named_for_what_it_is(text: str, platform: str, reason: Reason | None) -> None:
    assert verdict(text, platform) is reason


def test_a_configuration_that_shrank_absurdly_is_truncated_until_a_person_confirms() -> None:
    text = generated("ios")

    assert verdict(text, "ios", previous_size=3 * len(text)) is Reason.TRUNCATED
    assert verdict(text, "ios", previous_size=3 * len(text), accept_shrunk=True) is None


def test_without_its_footer_a_text_must_be_about_as_long_as_the_last_one() -> None:
    text = "version 9.3(8)\n" + "vlan 1\n" * 100

    assert verdict(text, "nxos", previous_size=len(text)) is None
    assert verdict(text, "nxos", previous_size=len(text) * 2) is Reason.TRUNCATED
    assert verdict(text, "nxos", accept_shrunk=True) is None


def test_lines_that_change_by_themselves_do_not_change_the_hash() -> None:
    ios = platform_named("ios")
    text = "Building configuration...\n! Last configuration change at {}\nhostname x\nend\n"

    first, second = (judging.stable_hash(text.format(time), ios) for time in ("10:00", "11:00"))

    assert first == second
    assert first != judging.stable_hash(text.replace("x", "y"), ios)


@pytest.mark.parametrize(("line", "platform"), SECRETS.items())
def test_no_secret_is_left_in_a_masked_text(line: str, platform: str) -> None:
    text = line.replace("SECRET-DATA", "").replace("SECRET", "hunter22")

    masked = judging.mask_secrets(text, platform_named(platform), b"key")

    assert "hunter22" not in masked
    assert masked.split("<masked:")[0] in text
    assert judging.mask_secrets(text, platform_named(platform), b"key") == masked


def test_a_changed_secret_still_shows_as_a_change() -> None:
    ios = platform_named("ios")
    first, second = (
        judging.mask_secrets(f"enable secret 5 {secret}\nend\n", ios, b"key") for secret in "ab"
    )

    assert first != second
    assert first.startswith("enable secret 5 <masked:")


def test_the_number_of_a_key_is_no_secret() -> None:
    text = "key chain OSPF\n key 1\n  key-string 7 0822455D0A16\n"

    assert " key 1\n" in judging.mask_secrets(text, platform_named("ios"), b"key")
