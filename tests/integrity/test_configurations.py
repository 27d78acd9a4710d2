"""Copies of configurations damaged in PostgreSQL and in Git, and what heals them."""

import subprocess

import pytest
import zstandard
from sqlalchemy import text

from exporter.database.reporting import describe_installation
from exporter.executions.endings import end_running
from exporter.integrity.configurations import Damage, verify_configurations
from exporter.integrity.nightly import check_nightly
from exporter.publishing import Publisher
from tests.fleets import add_devices, claim_next, row, rows, success, trigger_backup


@pytest.fixture
def publisher(engine, settings):
    return Publisher(engine, settings.git, lambda: None)


@pytest.fixture
def stored(engine, publisher):
    """Ids of three versions that are in Git: a's two and b's one."""
    with engine.begin() as connection:
        add_devices(connection, "a", "b")
    for device, content in (("a", b"one\n" * 500), ("a", b"two\n"), ("b", b"three\n")):
        trigger_backup(engine, device)
        assert end_running(engine, claim_next(engine), success(content), time_zone="UTC")
    assert publisher.publish() == 3
    return [r.id for r in rows(engine, "SELECT id FROM configurations ORDER BY id")]


def damage_text(engine, version, value="'\\x00'"):
    with engine.begin() as connection:
        connection.execute(
            text(f"""
                UPDATE configuration_texts SET compressed = {value} WHERE sha256 =
                    (SELECT sha256 FROM configurations WHERE id = :id)
            """),
            {"id": version},
        )


def damage_pack(directory):
    """Pack everything, and turn over every byte of the pack."""
    git(directory, "repack", "-adq")
    for pack in directory.glob("objects/pack/*.pack"):
        content = bytearray(pack.read_bytes())
        content[12:-20] = bytes(255 - byte for byte in content[12:-20])
        pack.chmod(0o644)
        pack.write_bytes(bytes(content))


def git(directory, *arguments):
    return subprocess.run(
        ["git", f"--git-dir={directory}", *arguments], check=True, capture_output=True, text=True
    ).stdout


def blob_of(engine, settings, version):
    commit = row(engine, "SELECT git_commit_id AS id FROM configurations WHERE id = :v", v=version)
    return git(settings.git.directory, "diff-tree", "-r", "--root", commit.id).split()[4]


def damage_blob(directory, blob_id):
    """Give the loose object of a file wrong bytes."""
    place = directory / "objects" / blob_id[:2] / blob_id[2:]
    place.chmod(0o644)
    place.write_bytes(b"nothing that Git could read")


def test_whole_copies_are_told_apart_from_none(engine, settings, stored):
    checked = verify_configurations(engine, settings.git)
    assert (checked.texts, checked.damages) == (3, [])


@pytest.mark.parametrize(
    "value",
    ["'\\x00'", "'\\x28b52ffd'", f"'\\x{zstandard.compress(b'another').hex()}'"],
    ids=["no frame", "cut off", "another text"],
)
def test_a_text_damaged_in_the_database_is_healed_from_git(engine, settings, stored, value):
    damage_text(engine, stored[0], value)

    checked = verify_configurations(engine, settings.git)

    assert checked.damages == [Damage("a", stored[0], "database", is_healed=True)]
    assert verify_configurations(engine, settings.git).damages == []


def test_a_file_damaged_in_git_is_healed_from_the_database(engine, settings, stored):
    damage_blob(settings.git.directory, blob_of(engine, settings, stored[1]))

    checked = verify_configurations(engine, settings.git)

    assert checked.damages == [Damage("a", stored[1], "git", is_healed=True)]
    assert verify_configurations(engine, settings.git).damages == []
    git(settings.git.directory, "fsck", "--strict")


def test_a_text_that_no_copy_can_heal_is_counted_as_damage(engine, settings, stored):
    damage_blob(settings.git.directory, blob_of(engine, settings, stored[2]))
    damage_text(engine, stored[2])

    checked = verify_configurations(engine, settings.git)

    assert {(d.place, d.is_healed) for d in checked.damages} == {
        ("database", False),
        ("git", False),
    }
    assert row(engine, "SELECT damaged_configurations FROM reporting.settings")[0] == 1


def test_a_thinned_out_version_is_checked_in_git_alone(engine, settings, stored):
    damage_text(engine, stored[0], "NULL")
    assert verify_configurations(engine, settings.git).damages == []
    damage_blob(settings.git.directory, blob_of(engine, settings, stored[0]))

    checked = verify_configurations(engine, settings.git)

    assert checked.damages == [Damage("a", stored[0], "git", is_healed=False)]


def test_a_repository_whose_packs_are_all_damaged_is_reported_and_reading_goes_on(
    engine, settings, stored
):
    damage_pack(settings.git.directory)

    checked = verify_configurations(engine, settings.git)

    assert {(d.version_id, d.place) for d in checked.damages} == {(v, "git") for v in stored}
    assert checked.lost == 3


def test_a_share_takes_what_was_not_verified_for_longest(engine, settings, stored):
    for _ in range(3):
        assert verify_configurations(engine, settings.git, share=1 / 3).texts == 1

    unverified = "SELECT FROM configuration_texts WHERE verified_at IS NULL"
    assert rows(engine, unverified) == []


def test_what_waits_for_git_is_checked_in_the_database_alone(engine, settings, stored):
    trigger_backup(engine, "b")
    end_running(engine, claim_next(engine), success(b"four\n"), time_zone="UTC")

    assert verify_configurations(engine, settings.git).damages == []


def test_the_nightly_check_is_done_once_and_counts_what_differs(engine, settings, stored):
    with engine.begin() as connection:
        describe_installation(connection, settings)
        connection.execute(text("UPDATE device_states SET success_count = 9"))

    assert check_nightly(engine, settings)
    assert not check_nightly(engine, settings)

    found = row(engine, "SELECT * FROM reporting.settings")
    assert found.integrity_differences == 2
    assert found.integrity_checked_at is not None
