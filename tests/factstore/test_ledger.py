"""The ledger, over real entries in the file."""

import hashlib
import random

import pytest
from conftest import WHY
from kernel.rawfile import rows, tamper
from stored import audit, ledger, tables

from novantra_lite import NovantraLite, record_uuid

LEDGER = "/api/v1/ledger"
ENTRIES = f"{LEDGER}/entries"
FLOWS = "/api/v1/flows"
NOON = "2026-06-01T12:00:00.000Z"
NOBODY = "00000000-0000-4000-8000-000000000000"
ZEROS = "0" * 64


@pytest.fixture
def renamed(factstore, flow_id, clock):
    """The same flow, renamed a minute after noon: the fourth fact."""
    clock.advance(60)
    factstore.put(f"{FLOWS}/{flow_id}", {"name": "pay"})
    return flow_id


def verify_chain(client, begin, end):
    return client.post(f"{LEDGER}/verify-chain", {"from": begin, "to": end})


# --- Entries ------------------------------------------------------------------


def test_an_entry_tells_the_fact_and_what_its_hash_is_over(lite, factstore, flow_id):
    body = factstore.get(ENTRIES).json["entries"][2]

    metadata = body["metadata"]
    assert {name: body[name] for name in ("recordId", "factId", "eventType", "timestamp")} == {
        "recordId": flow_id,
        "factId": flow_id,
        "eventType": "FLOW_CREATED",
        "timestamp": NOON,
    }
    assert metadata == {
        "recordType": "flow",
        "recordKey": flow_id,
        "position": "2",
        "entryHash": rows(lite, "SELECT entry_hash FROM ledger_entry WHERE id = 3")[0][0],
    }


def test_the_chain_can_be_recomputed_from_what_the_pages_tell(lite, factstore, novantra, renamed):
    lite.collection("findings").create(findingKey="a", title="A", severity="low", reason=WHY)

    entries = factstore.get(ENTRIES).json["entries"]

    previous = ZEROS
    for entry in entries:
        names = ["entryId", "recordId", "eventType", "contentHash", "previousHash", "timestamp"]
        assert entry["previousHash"] == previous
        previous = hashlib.sha256("|".join(entry[name] for name in names).encode()).hexdigest()
        assert entry["metadata"]["entryHash"] == previous
    assert len(entries) == 6


@pytest.mark.parametrize(
    ("query", "positions", "pages"),
    [
        ("", [0, 1, 2, 3], (0, 20, 1)),
        ("?size=3", [0, 1, 2], (0, 3, 2)),
        ("?page=1&size=3", [3], (1, 3, 2)),
        ("?page=2&size=3", [], (2, 3, 2)),
        ("?page=0&size=10000", [0, 1, 2, 3], (0, 10_000, 1)),
        ("?page=2147483647&size=10000", [], (2_147_483_647, 10_000, 1)),
    ],
)
def test_pages_go_from_the_oldest_entry_on(factstore, renamed, query, positions, pages):
    page = factstore.get(ENTRIES + query).json

    assert [int(entry["metadata"]["position"]) for entry in page["entries"]] == positions
    assert (page["page"], page["size"], page["totalPages"]) == pages
    assert page["totalElements"] == 4


@pytest.mark.parametrize("query", ["page=-1", "size=0", "page=one", "size=10001"])
def test_a_page_that_cannot_be_meant_is_refused(factstore, query):
    assert factstore.get(f"{ENTRIES}?{query}").status == 400


def test_a_page_costs_no_more_far_into_the_chain(lite, factstore):
    connection = lite.workspace.reader.connection()

    plan = connection.execute(
        "EXPLAIN QUERY PLAN SELECT * FROM ledger_entry WHERE id BETWEEN 5 AND 9 ORDER BY id"
    ).fetchall()

    assert [step[3] for step in plan] == [
        "SEARCH ledger_entry USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"
    ]


def test_a_record_s_entry_is_its_newest(factstore, renamed):
    body = factstore.get(f"{ENTRIES}/{renamed.upper()}").json

    assert (body["recordId"], body["eventType"]) == (renamed, "FLOW_UPDATED")
    assert body["timestamp"] == "2026-06-01T12:01:00.000Z"


def test_a_record_that_the_ledger_does_not_know_has_no_entry(factstore):
    assert factstore.get(f"{ENTRIES}/{NOBODY}").status == 404
    assert factstore.get(f"{ENTRIES}/flow").status == 400


@pytest.mark.parametrize(
    ("key", "record"),
    [
        ("find_01KT1GW7YW8MTJ9VF6MHNMSCJ3", "019e830e-1fdc-4535-24ed-e6a46b4cb243"),
        ("find_7ZZZZZZZZZZZZZZZZZZZZZZZZZ", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
        # More than 128 bits, other letters, another length: no ULID.
        ("find_8ZZZZZZZZZZZZZZZZZZZZZZZZZ", "8fc81670-a15d-5222-be2a-93191ba845b2"),
        ("find_01kt1gw7yw8mtj9vf6mhnmscj3", "b326df95-4ec0-5d05-a903-b9f453498d94"),
        ("find_1", "7c976ee0-5725-5182-9c18-6ab94a5b1ac8"),
        ("019e830e-1fdc-4535-24ed-e6a46b4cb243", "019e830e-1fdc-4535-24ed-e6a46b4cb243"),
    ],
)
def test_every_record_has_a_uuid_in_the_ledger(key, record):
    assert record_uuid("finding", key) == record


def test_a_novantra_record_is_found_by_the_uuid_of_its_ulid(lite, factstore):
    made = lite.collection("findings").create(findingKey="a", title="A", severity="low", reason=WHY)
    record = record_uuid("finding", made["id"])

    body = factstore.get(f"{ENTRIES}/{record}").json
    verdict = factstore.post(f"{LEDGER}/verify/{record}").json

    assert body["recordId"] == record
    assert body["metadata"]["recordType"] == "finding"
    assert body["metadata"]["recordKey"] == made["id"]
    assert verdict["verified"] is True


def test_times_of_entries_never_go_back_with_the_clock(lite, factstore, renamed, clock):
    clock.advance(-3600)

    factstore.post(FLOWS, {"name": "earlier"})

    entries = factstore.get(ENTRIES).json["entries"]
    assert entries[-1]["timestamp"] == "2026-06-01T12:01:00.000Z"
    assert lite.verify() == []


# --- Verification of a record -------------------------------------------------


def test_a_record_as_it_was_recorded_is_verified_by_its_first_entry(lite, factstore, renamed):
    entry = rows(lite, "SELECT content_hash, previous_hash FROM ledger_entry WHERE id = 3")[0]
    before = audit(lite), ledger(lite)

    verdict = factstore.post(f"{LEDGER}/verify/{renamed}")

    assert (verdict.status, verdict.json) == (
        200,
        {
            "recordId": renamed,
            "factId": renamed,
            "verified": True,
            "contentHash": entry[0],
            "chainPosition": 2,
            "previousHash": entry[1],
            "ledgerTimestamp": NOON,
            "verifiedAt": "2026-06-01T12:01:00.000Z",
            "message": "The record and its entries are as they were recorded.",
        },
    )
    assert (audit(lite), ledger(lite)) == before


def test_a_record_that_was_deleted_is_still_verified(factstore, renamed):
    factstore.delete(f"{FLOWS}/{renamed}")

    assert factstore.post(f"{LEDGER}/verify/{renamed}").json["verified"] is True


def test_a_record_without_entries_is_not_verified(factstore):
    verdict = factstore.post(f"{LEDGER}/verify/{NOBODY}").json

    result = ["contentHash", "chainPosition", "previousHash", "ledgerTimestamp"]
    assert [verdict[name] for name in result] == [None] * 4
    assert (verdict["verified"], verdict["message"]) == (
        False,
        "The ledger has no entry of this record.",
    )


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("UPDATE flow SET name = 'mine'", "Flow {} is not what the ledger recorded."),
        ("UPDATE flow SET json = '{}'", "The stored JSON of flow {} differs from its columns."),
        ("DELETE FROM flow", "Flow {} is in the ledger but not in its table."),
        (
            "UPDATE ledger_entry SET content_hash = 'a' WHERE id = 3",
            "Ledger entry 3 was changed, or the one before it was.",
        ),
        (
            "UPDATE ledger_entry SET entry_hash = 'a' WHERE id = 2",
            "Ledger entry 3 was changed, or the one before it was.",
        ),
        (
            "UPDATE ledger_entry SET event_type = 'FLOW_DELETED' WHERE id = 4",
            "Ledger entry 4 was changed, or the one before it was.",
        ),
    ],
)
def test_a_record_that_was_tampered_with_is_not_verified(
    lite, factstore, renamed, statement, fault
):
    tamper(lite, statement)

    verdict = factstore.post(f"{LEDGER}/verify/{renamed}").json

    assert (verdict["verified"], verdict["message"]) == (False, fault.format(renamed))


# --- Verification of the chain ------------------------------------------------


@pytest.mark.parametrize(
    ("begin", "end", "checked", "times"),
    [
        ("2026-06-01T00:00:00Z", "2026-06-02T00:00:00Z", 4, (NOON, "2026-06-01T12:01:00.000Z")),
        (NOON, NOON, 3, (NOON, NOON)),
        ("2026-06-01T14:00:00+02:00", "2026-06-01T12:00:59.999999Z", 3, (NOON, NOON)),
        (
            "2026-06-01T12:00:00.000001Z",
            "2026-06-02T00:00:00Z",
            1,
            ("2026-06-01T12:01:00.000Z",) * 2,
        ),
        ("2026-06-02T00:00:00Z", "2026-06-03T00:00:00Z", 0, (None, None)),
        ("2026-06-02T00:00:00Z", "2026-06-01T00:00:00Z", 0, (None, None)),
    ],
)
def test_the_entries_between_two_times_are_checked(factstore, renamed, begin, end, checked, times):
    verdict = verify_chain(factstore, begin, end).json

    assert verdict == {
        "valid": True,
        "entriesChecked": checked,
        "firstEntryTimestamp": times[0],
        "lastEntryTimestamp": times[1],
        "brokenAt": None,
        "message": f"{checked} entries checked; every one is as it was written.",
    }


def test_the_first_bad_link_is_named_with_its_place_in_the_window(lite, factstore, renamed, clock):
    entry = rows(lite, "SELECT entry_id FROM ledger_entry WHERE id = 3")[0][0]
    tamper(lite, "UPDATE ledger_entry SET content_hash = 'a' WHERE id = 3")

    whole = verify_chain(factstore, "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z").json
    later = verify_chain(factstore, "2026-06-01T12:00:30Z", "2027-01-01T00:00:00Z").json

    assert (whole["valid"], whole["entriesChecked"], whole["brokenAt"]) == (False, 3, entry)
    assert whole["message"] == "Ledger entry 3 was changed, or the one before it was."
    assert (later["valid"], later["entriesChecked"]) == (True, 1)


def test_a_link_is_checked_against_its_predecessor_outside_of_the_window(lite, factstore, renamed):
    tamper(lite, "UPDATE ledger_entry SET entry_hash = 'a' WHERE id = 3")

    verdict = verify_chain(factstore, "2026-06-01T12:00:30Z", "2027-01-01T00:00:00Z").json

    assert (verdict["valid"], verdict["entriesChecked"]) == (False, 1)
    assert verdict["message"] == "Ledger entry 4 was changed, or the one before it was."


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"from": NOON},
        {"from": NOON, "to": None},
        {"from": "noon", "to": NOON},
        {"from": NOON, "to": 7},
        {"from": "2026-06-01", "to": NOON},
        [],
    ],
)
def test_a_chain_is_verified_between_two_times_only(factstore, body):
    assert factstore.post(f"{LEDGER}/verify-chain", body).status == 400


# --- Status, setting, scope ---------------------------------------------------


def test_the_status_tells_length_and_health(lite, factstore, renamed):
    sound = factstore.get(f"{LEDGER}/status").json
    tamper(lite, "UPDATE ledger_entry SET timestamp = 'a' WHERE id = 4")
    changed = factstore.get(f"{LEDGER}/status").json

    assert sound == {
        "enabled": True,
        "type": "local",
        "totalEntries": 4,
        "healthy": True,
        "message": "The newest entry is valid.",
    }
    assert (changed["healthy"], changed["message"]) == (False, "The newest entry is not valid.")


LINES = [
    ("GET", ENTRIES),
    ("GET", f"{ENTRIES}/{NOBODY}"),
    ("POST", f"{LEDGER}/verify/{NOBODY}"),
    ("POST", f"{LEDGER}/verify-chain"),
    ("GET", f"{LEDGER}/status"),
]


@pytest.mark.parametrize(("method", "path"), LINES)
def test_without_the_setting_the_operations_are_not_there_and_facts_are_still_proven(
    clock, method, path
):
    with NovantraLite(clock=clock, random=random.Random(7), ledger=False) as lite:
        client = lite.client("factstore:read", "factstore:write")
        client.post(FLOWS, {"name": "payments"})

        refused = client.request(method, path, json={"from": NOON, "to": NOON})

        assert (refused.status, refused.json["error"]) == (404, "Not Found")
        assert ledger(lite)[-1][0] == "FLOW_CREATED"
        assert lite.verify() == []


@pytest.mark.parametrize(("method", "path"), LINES)
def test_verifying_takes_only_the_right_to_read(lite, method, path):
    reader, stranger = lite.client("factstore:read"), lite.client("assets:read")

    statuses = [
        client.request(method, path, json={"from": NOON, "to": NOON}).status
        for client in (reader, stranger)
    ]

    assert statuses[0] in (200, 404)
    assert statuses[1] == 403


def test_a_dry_run_verifies_and_stores_nothing(lite, factstore, flow_id):
    before = tables(lite)

    body = factstore.post(f"{LEDGER}/verify/{flow_id}", headers={"X-Dry-Run": "true"}).json

    assert body["dryRun"] is True
    assert body["result"]["verified"] is True
    assert tables(lite) == before


# --- Files of earlier versions ------------------------------------------------


@pytest.fixture
def earlier(lite, monkeypatch):
    """A finding whose first entry has its own id, as an earlier version hashed it."""
    with monkeypatch.context() as before:
        before.setattr("novantra_lite.record_uuid", lambda table, key: key)
        return lite.collection("findings").create(
            findingKey="a", title="A", severity="low", reason=WHY
        )["id"]


def test_entries_of_earlier_versions_stay_and_are_verified(lite, factstore, earlier):
    record = record_uuid("finding", earlier)
    lite.collection("findings").update(earlier, severity="high", reason=WHY)

    stored = rows(lite, "SELECT record_id, record_key FROM ledger_entry WHERE id > 2")
    body = factstore.get(ENTRIES).json["entries"]
    verdict = factstore.post(f"{LEDGER}/verify/{record}").json
    chain = verify_chain(factstore, "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z").json

    assert stored == [(earlier, None), (record, earlier)]
    assert [entry["recordId"] for entry in body[2:]] == [record, record]
    assert [entry["metadata"]["recordKey"] for entry in body[2:]] == [earlier, earlier]
    assert (verdict["verified"], verdict["chainPosition"]) == (True, 2)
    assert (chain["valid"], chain["entriesChecked"]) == (True, 4)
    assert lite.verify() == []
