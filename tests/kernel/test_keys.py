"""Keys and encryption: what is sealed opens in its own place only, with the file's own keys."""

import base64
import hashlib
import random

import pytest
from conftest import WHY
from rawfile import audit, rows, tamper

from novantra_lite import Generator, KeyRing, NovantraLite, Unavailable

PLACE = "finding/description/find_1"


@pytest.fixture
def ring(clock):
    ring = KeyRing(bytes(32), Generator(clock, random.Random(7)))
    ring.add(1, ring.wrap(1, b"a" * 32))
    return ring


def test_a_sealed_text_opens_in_its_place(ring):
    sealed = ring.seal("Prüfung", PLACE)

    assert sealed.startswith("1.")
    assert len(base64.b64decode(sealed[2:])) == 12 + len('"Prüfung"'.encode()) + 16
    assert ring.open(sealed, PLACE) == "Prüfung"


def test_the_same_text_is_sealed_differently_each_time(ring):
    assert ring.seal("a", PLACE) != ring.seal("a", PLACE)


@pytest.mark.parametrize(
    "place",
    ["finding/description/find_2", "finding/title/find_1", "control/description/find_1", ""],
)
def test_a_sealed_text_does_not_open_in_another_place(ring, place):
    sealed, data = ring.seal("a", PLACE), ring.seal_bytes(b"a", PLACE)

    with pytest.raises(Unavailable, match="cannot be opened"):
        ring.open(sealed, place)
    with pytest.raises(Unavailable, match="cannot be opened"):
        ring.open_bytes(data, place)


@pytest.mark.parametrize(
    "sealed",
    [
        "1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "2.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "1.AAAA",
        "1.A",
        "1.",
        "",
        "1.\N{SNOWMAN}",
    ],
)
def test_a_text_that_was_tampered_with_is_unavailable(ring, sealed):
    with pytest.raises(Unavailable, match="cannot be opened"):
        ring.open(sealed, PLACE)


@pytest.mark.parametrize("data", [b"", b"short", bytes(40)])
def test_bytes_that_were_tampered_with_are_unavailable(ring, data):
    with pytest.raises(Unavailable, match="cannot be opened"):
        ring.open_bytes(data, PLACE)


def test_every_changed_byte_is_noticed(ring):
    data = ring.seal_bytes(b"By the door", PLACE)

    for index in range(len(data)):
        changed = bytearray(data)
        changed[index] ^= 1
        with pytest.raises(Unavailable):
            ring.open_bytes(bytes(changed), PLACE)


def test_the_newest_key_seals_and_every_key_opens(ring):
    before, data = ring.seal("a", PLACE), ring.seal_bytes(b"b", PLACE)

    ring.add(2, ring.wrap(2, b"b" * 32))

    assert ring.seal("a", PLACE).startswith("2.")
    assert (ring.open(before, PLACE), ring.open_bytes(data, PLACE)) == ("a", b"b")


def test_each_purpose_has_a_key_of_its_own_that_outlasts_a_rotation(ring):
    tokens, cursors = ring.derive("access tokens"), ring.derive("cursors")

    ring.add(2, ring.wrap(2, b"b" * 32))

    assert len({tokens, cursors, b"a" * 32}) == 3
    assert (ring.derive("access tokens"), ring.derive("cursors")) == (tokens, cursors)


def test_a_wrapped_key_is_bound_to_its_number(ring):
    with pytest.raises(Unavailable, match="NOVANTRA_LITE_KEY"):
        ring.add(3, ring.wrap(2, b"b" * 32))


def record(lite, description="By the door"):
    return lite.collection("findings").create(
        findingKey=description, title="Seal", severity="low", description=description, reason=WHY
    )


def test_a_rotation_is_recorded_and_old_and_new_records_outlast_it(tmp_path):
    with NovantraLite(tmp_path / "register.db") as lite:
        old = record(lite, "Old")
        number = lite.rotate_keys()
        new = record(lite, "New")

        assert number == 2
        assert audit(lite, after=3)[0] == ("system", "key_ring.key_added", "ring_key", "2")

    with NovantraLite(tmp_path / "register.db") as lite:
        sealed = rows(lite, "SELECT substr(description, 1, 2) FROM finding ORDER BY id")

        assert sealed == [("1.",), ("2.",)]
        assert list(lite.collection("findings").list()) == [old, new]
        assert lite.verify() == []


def test_the_key_file_is_for_its_owner_alone(tmp_path):
    with NovantraLite(tmp_path / "register.db"):
        file = tmp_path / "register.db.key"

        assert file.stat().st_mode & 0o777 == 0o600
        assert len(base64.b64decode(file.read_text())) == 32


@pytest.mark.parametrize(
    "key", [base64.b64encode(b"k" * 32).decode(), "correct horse battery staple"]
)
def test_a_key_from_the_settings_needs_no_file(tmp_path, key):
    with NovantraLite(tmp_path / "register.db", key=key) as lite:
        finding = record(lite)
    with NovantraLite(tmp_path / "register.db", key=key) as lite:
        matches = lite.collection("findings").retrieve(finding["id"])

    assert matches["description"] == "By the door"
    assert not (tmp_path / "register.db.key").exists()


def test_another_key_than_the_file_was_made_with_is_refused_in_words(tmp_path):
    with NovantraLite(tmp_path / "register.db", key="the right one") as lite:
        record(lite)
    before = hashlib.sha256((tmp_path / "register.db").read_bytes()).digest()

    with pytest.raises(Unavailable) as refusal:
        NovantraLite(tmp_path / "register.db", key="the wrong one")

    assert "NOVANTRA_LITE_KEY or the key file beside the database is not" in str(refusal.value)
    assert hashlib.sha256((tmp_path / "register.db").read_bytes()).digest() == before


def test_a_lost_key_file_is_told_and_not_replaced(tmp_path):
    with NovantraLite(tmp_path / "register.db") as lite:
        record(lite)
    (tmp_path / "register.db.key").unlink()

    with pytest.raises(Unavailable, match=r"key file .*register\.db\.key"):
        NovantraLite(tmp_path / "register.db")

    assert not (tmp_path / "register.db.key").exists()


def test_a_value_moved_to_another_record_is_a_503_that_tells_nothing(lite, novantra):
    first, second = record(lite, "First"), record(lite, "Second")
    tamper(
        lite,
        f"UPDATE finding SET json = replace(json, description, (SELECT description FROM finding "
        f"WHERE id = '{first['id']}')) WHERE id = '{second['id']}'",
    )

    answer = novantra.get(f"/api/v1/governance/findings/{second['id']}")

    assert (answer.status, answer.json["error"]) == (503, "internal")
    assert answer.json["message"] == "An encrypted value of this record cannot be opened."
