"""Paths of devices: safe everywhere, reversible, and never shared."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.publishing.paths import (
    MAXIMUM_ENTRY_BYTES,
    Names,
    Place,
    assign_paths,
    decode,
    encode,
    fold,
    order_steps,
)

TEMPLATES = ("{site}/{device}.cfg", "{device}", "{site}{device}", "{platform}/{site}-{device}.txt")

# Few characters make clashes likely; the whole of Unicode finds what nobody thought of.
_odd = st.sampled_from(["aux", "CON.x", "lpt1", ".git", "GIT~1", "..", "-x", "a/b", "%41", "%FF"])
_few = st.text(alphabet="aAbB.-% /\u0130ßẞ\u017fKÅÅ\u030a1", max_size=6)
_any = st.text(
    alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=300
)
names = st.one_of(_odd, _few, _any)


def device(device_id: int, device: str, site: str = "berlin") -> Names:
    return Names(device_id, device, site, "default", "ios", "cisco")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("core-01.berlin", "core-01.berlin"),
        ("Zürich core", "Zürich core"),
        ("", "%FF"),
        ("..", "%2E%2E"),
        (".git", "%2Egit"),
        ("-rf", "%2Drf"),
        ("a/b\\c", "a%2Fb%5Cc"),
        ("a\nb\x7f", "a%0Ab%7F"),
        ("aux", "%61ux"),
        ("COM1.core", "%43OM1.core"),
        ("council", "council"),
        ("dot.", "dot%2E"),
        ("100%", "100%25"),
        ("u\u0308", "u%CC%88"),
        ("a" * 150, "a" * 140 + "%/" + "a" * 10),
    ],
)
def test_a_name_is_encoded_only_where_it_is_unsafe(name: str, path: str) -> None:
    assert encode(name) == path
    assert decode(path) == name


@given(names)
def test_every_name_is_found_again_in_its_path(name: str) -> None:
    assert decode(encode(name)) == name


@given(names)
def test_every_entry_of_a_path_is_safe_on_every_file_system(name: str) -> None:
    for entry in encode(name).split("/"):
        assert 0 < len(entry.encode()) <= MAXIMUM_ENTRY_BYTES + 1
        assert entry[0] not in ".- "
        assert entry[-1] not in ". "
        assert not re.search(r'[\x00-\x1f\x7f\\<>:"|?*~]', entry)
        assert not re.fullmatch(r"(?i)(con|prn|aux|nul|(com|lpt)\d)(\..*)?", entry)


@settings(deadline=None)
@given(
    template=st.sampled_from(TEMPLATES),
    fleet=st.lists(st.tuples(names, names), max_size=12, unique_by=lambda pair: pair[0]),
)
def test_no_two_devices_share_a_path_whatever_they_are_called(
    template: str, fleet: list[tuple[str, str]]
) -> None:
    devices = [device(number, name, site) for number, (name, site) in enumerate(fleet)]
    paths = assign_paths(template, devices)
    assert len({fold(path) for path in paths.values()}) == len(devices)
    folders = {path.rpartition("/")[0] for path in paths.values()}
    assert not folders & set(paths.values())


def test_the_second_of_two_names_that_differ_in_case_is_encoded() -> None:
    paths = assign_paths("{site}/{device}.cfg", [device(1, "Core-1"), device(2, "core-1")])
    assert paths == {1: "berlin/Core-1.cfg", 2: "berlin/%63ore-1.cfg"}


def test_names_that_join_to_the_same_path_are_kept_apart() -> None:
    paths = assign_paths("{site}-{device}", [device(1, "2", "a-1"), device(2, "1-2", "a")])
    assert paths == {1: "a-1-2", 2: "a-%31-2"}


def test_two_devices_that_swap_their_names_never_meet() -> None:
    steps = order_steps([Place(1, "a", "b"), Place(2, "b", "a"), Place(3, "c", "c")])
    assert [(step.device_id, step.path) for step in steps] == [
        (2, "%FF2%FFb"),
        (1, "b"),
        (2, "a"),
    ]


def test_who_waits_for_a_path_goes_after_who_leaves_it() -> None:
    steps = order_steps([Place(1, "a", "b"), Place(2, "b", None), Place(3, None, "a")])
    assert [(step.device_id, step.path) for step in steps] == [(2, None), (1, "b"), (3, "a")]


def test_a_waiting_version_does_not_overwrite_the_file_that_still_lies_there() -> None:
    steps = order_steps([Place(1, "x", "y"), Place(2, None, "x", opening="x")])
    assert [(step.device_id, step.path, step.is_opening) for step in steps] == [
        (2, "%FF2%FFx", True),
        (1, "y", False),
        (2, "x", False),
    ]


@given(st.permutations(range(6)), st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5)))
def test_every_device_arrives_and_no_step_takes_a_path_that_is_held(
    order: list[int], new: set[int], leaving: set[int]
) -> None:
    places = [
        Place(
            number,
            None if number in new else f"p{number}",
            None if number in leaving else f"P{target}",
            opening=f"P{target}" if number in new and target % 2 else None,
        )
        for number, target in enumerate(order)
    ]
    held = {fold(place.current): place.device_id for place in places if place.current}
    where = {place.device_id: place.current for place in places}
    for step in order_steps(places):
        if previous := where[step.device_id]:
            del held[fold(previous)]
        if step.path:
            assert held.setdefault(fold(step.path), step.device_id) == step.device_id
        where[step.device_id] = step.path
    assert where == {place.device_id: place.desired for place in places}
