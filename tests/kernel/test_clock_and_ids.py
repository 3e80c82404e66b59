"""Clock and ids: everything follows the time and the chance that an instance was handed."""

import random
import re
import threading

import pytest
from conftest import NOON, WHY, Clock

from novantra_lite import Generator, NovantraLite, encode_ulid, parse_timestamp, seconds_of


@pytest.fixture
def source(clock):
    return Generator(clock, random.Random(7))


@pytest.mark.parametrize(
    ("at", "digits", "text"),
    [
        (0, 3, "1970-01-01T00:00:00.000Z"),
        (NOON, 3, "2026-06-01T12:00:00.000Z"),
        (NOON + 0.25, 3, "2026-06-01T12:00:00.250Z"),
        (NOON + 0.9996, 3, "2026-06-01T12:00:01.000Z"),
        (NOON + 0.000125, 6, "2026-06-01T12:00:00.000125Z"),
    ],
)
def test_a_time_is_written_in_utc_with_a_fixed_width(source, at, digits, text):
    assert source.timestamp(at, digits) == text


def test_the_present_moves_with_the_clock_only(source, clock):
    before = source.now()
    clock.advance(61.5)

    after = source.now()

    assert (before, after) == ("2026-06-01T12:00:00.000Z", "2026-06-01T12:01:01.500Z")


def test_a_ulid_begins_with_its_time_as_the_specification_writes_it():
    text = encode_ulid(1_469_918_176_385, 0)

    assert text == "01ARYZ6S410000000000000000"


def test_the_largest_number_fills_a_ulid():
    assert encode_ulid(2**48 - 1, 2**80 - 1) == "7ZZZZZZZZZZZZZZZZZZZZZZZZZ"


def test_ids_of_one_millisecond_sort_in_the_order_in_which_they_were_made(source, clock):
    ids = [source.ulid("find") for _ in range(500)]
    clock.advance(-3600)

    ids += [source.ulid("find") for _ in range(500)]

    assert ids == sorted(set(ids))
    assert all(re.fullmatch("find_01KT1GW6G0[0-9A-HJKMNP-TV-Z]{16}", key) for key in ids)


def test_ids_made_by_several_threads_are_all_different(source):
    made = []
    threads = [
        threading.Thread(target=lambda: made.extend(source.ulid("x") for _ in range(500)))
        for _ in range(4)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(made)) == 2000


def test_a_uuid_is_of_version_7_in_lower_case_and_sorts_by_time(source, clock):
    made = []
    for _ in range(20):
        made.append(source.uuid())
        clock.advance(0.001)

    form = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    assert all(re.fullmatch(form, item) for item in made)
    assert made == sorted(made)
    assert int(made[0][:13].replace("-", ""), 16) == round((clock() - 0.02) * 1000)


def test_a_secret_is_thirty_two_bytes_that_a_url_may_hold(source):
    first, second = source.secret("nvs_"), source.secret("nvs_")

    assert re.fullmatch(r"nvs_[A-Za-z0-9_-]{43}", first)
    assert first != second


def test_the_same_time_and_chance_give_the_same_records():
    def record():
        with NovantraLite(clock=Clock(), random=random.Random(3)) as lite:
            return lite.collection("risks").create(
                riskKey="bird-strike", title="Bird strike", status="accepted", reason=WHY
            )

    assert record() == record()


@pytest.mark.parametrize(
    ("text", "digits", "stored"),
    [
        ("2026-07-30T23:59:59Z", 3, "2026-07-30T23:59:59.000Z"),
        ("2026-07-30t23:59:59z", 3, "2026-07-30T23:59:59.000Z"),
        ("2026-07-30 23:59:59Z", 3, "2026-07-30T23:59:59.000Z"),
        ("2026-07-30T23:59Z", 3, "2026-07-30T23:59:00.000Z"),
        ("2026-07-31T01:59:59+02:00", 3, "2026-07-30T23:59:59.000Z"),
        ("2026-07-30T23:59:59.1239Z", 3, "2026-07-30T23:59:59.123Z"),
        ("2026-07-30T23:59:59.123456Z", 6, "2026-07-30T23:59:59.123456Z"),
        ("1900-01-01T00:00:00Z", 3, "1900-01-01T00:00:00.000Z"),
    ],
)
def test_a_date_time_is_stored_in_utc_with_a_fixed_width(text, digits, stored):
    assert parse_timestamp(text, digits) == stored


@pytest.mark.parametrize(
    "text",
    [
        *("", "tomorrow", "2026-07-30", "2026-07-30T23:59:59", "2026-02-30T00:00:00Z"),
        *("2026-07-30T25:00:00Z", "2026-07-30T23:59:60Z", "20260730T235959Z", "2026-W31-4T00:00Z"),
        *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"),
        *("2026-07-30T23:59:59Z\0", "2026-07-30T23:59:59Z ", "1780315200"),
    ],
)
def test_what_is_no_date_time_with_an_offset_is_refused(text):
    with pytest.raises(ValueError, match="Expected a date-time"):
        parse_timestamp(text)


def test_a_plain_date_is_its_first_moment_where_dates_are_taken():
    assert parse_timestamp("2026-07-30", dates=True) == "2026-07-30T00:00:00.000Z"
    with pytest.raises(ValueError, match="Expected a date-time"):
        parse_timestamp("2026-02-30", dates=True)


def test_a_stored_time_reads_back_as_seconds():
    assert seconds_of("2026-06-01T12:00:00.250Z") == NOON + 0.25
