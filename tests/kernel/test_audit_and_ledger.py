"""Audit and ledger: who did what, when and why, in two chains that show whatever was touched."""

import hashlib
import sqlite3

import pytest
from conftest import WHY
from rawfile import FINDING, FINDINGS, audit, rows, tamper
from stored import stored_bytes

from novantra_lite import AuditEntry, Client, Endpoint, NovantraLite, write_transaction

#: The audit log begins with a key, the organization and an account; the ledger with the latter two.
OPENING = [
    ("system", "key_ring.key_added", "ring_key", "1"),
    ("system", "organization.created", "organization"),
    ("console", "service_account.created", "service_account"),
]


@pytest.fixture
def findings(lite, novantra):
    """Three findings, the second changed afterwards."""
    made = [
        novantra.post(FINDINGS, FINDING | {"description": text}).json["finding"]
        for text in ("By the door", "By the wing", "By the tail")
    ]
    lite.collection("findings").update(made[1]["id"], severity="low", reason="Less than it seemed.")
    return [finding["id"] for finding in made]


def test_a_fresh_workspace_has_told_where_it_comes_from(lite, novantra):
    first = audit(lite)

    assert first[0] == OPENING[0]
    assert [entry[:3] for entry in first[1:]] == OPENING[1:]
    assert lite.verify() == []


def test_a_write_is_one_audit_entry_and_one_proof(lite, novantra, clock):
    clock.advance(1.5)

    answer = novantra.post(FINDINGS, FINDING)

    finding = answer.json["finding"]["id"]
    with lite.workspace.read():
        entry = AuditEntry.get(AuditEntry.id == 4)
        account = entry.actor
        assert (entry.action, entry.subject_id, entry.reason, entry.at) == (
            "finding.created",
            finding,
            WHY,
            "2026-06-01T12:00:01.500Z",
        )
    assert account.startswith("svc_")
    assert entry.request_id == answer.headers["x-request-id"]
    assert rows(
        lite,
        "SELECT id, record_type, record_key, event_type, timestamp FROM ledger_entry WHERE id = 3",
    ) == [(3, "finding", finding, "FINDING_CREATED", "2026-06-01T12:00:01.500Z")]


def test_a_change_keeps_what_was_there_before(lite, findings):
    with lite.workspace.read():
        entry = AuditEntry.get(AuditEntry.id == 7)

        assert (entry.actor, entry.reason) == ("console", "Less than it seemed.")
        assert entry.detail == '{"before":{"severity":"high"}}'


def test_a_record_whose_secret_was_read_is_changed_without_sealing_that_anew(lite):
    key = lite.webhooks.add("https://93.184.216.34/hook")["id"]

    def work(current):
        endpoint = Endpoint.find(key)
        assert endpoint.secret.startswith("whsec_")
        endpoint.change(status="paused")

    write_transaction(lite.workspace, work, actor="test")

    assert lite.webhooks.list()[0]["status"] == "paused"
    assert lite.verify() == []


def test_a_secret_that_is_replaced_does_not_stay_in_the_audit_log(lite):
    endpoint = lite.webhooks.add("https://93.184.216.34/hook")

    lite.webhooks.rotate(endpoint["id"])

    with lite.workspace.read():
        (entry,) = AuditEntry.select().where(AuditEntry.action == "webhook_endpoint.updated")
        assert entry.detail == '{"before":{"previousUntil":null}}'


def test_reasons_and_details_are_unreadable_in_the_file(lite, findings):
    stored = rows(lite, "SELECT reason, detail FROM audit_entry WHERE id = 7")[0]

    assert [text[:2] for text in stored] == ["1.", "1."]
    assert b"Less than it seemed" not in stored_bytes(lite)


def test_the_proof_is_the_hash_that_the_notes_describe(lite, findings):
    entries = rows(
        lite,
        "SELECT entry_id, record_id, event_type, content_hash, previous_hash, timestamp, "
        "entry_hash FROM ledger_entry ORDER BY id",
    )

    previous = "0" * 64
    for *parts, proof in entries:
        assert parts[4] == previous
        assert proof == hashlib.sha256("|".join(parts).encode()).hexdigest()
        previous = proof
    assert len(entries) == 6


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_entry SET actor = 'nobody' WHERE id = 4",
        "DELETE FROM audit_entry WHERE id = 4",
        "UPDATE ledger_entry SET content_hash = ''",
        "DELETE FROM ledger_entry",
        "REPLACE INTO audit_entry SELECT 4, at, 'me', action, subject_type, subject_id, reason, "
        "request_id, detail, hash, address FROM audit_entry WHERE id = 4",
        "REPLACE INTO ledger_entry SELECT * FROM ledger_entry WHERE id = 3",
    ],
)
def test_the_file_itself_refuses_to_change_what_was_recorded(lite, findings, statement):
    connection = lite.workspace.writer.database.connection()
    before = rows(lite, "SELECT * FROM audit_entry"), rows(lite, "SELECT * FROM ledger_entry")

    with pytest.raises(sqlite3.IntegrityError, match="only grows"):
        connection.execute(statement)

    after = rows(lite, "SELECT * FROM audit_entry"), rows(lite, "SELECT * FROM ledger_entry")
    assert after == before


SWAP = """UPDATE {0} SET id = CASE id WHEN {1} THEN -{2} ELSE -{1} END WHERE id IN ({1}, {2})"""
COPY = "INSERT INTO {0} SELECT {1}, {2} FROM {0} WHERE id = {3}"
AUDIT = "at, actor, action, subject_type, subject_id, reason, request_id, detail, hash, address"
LEDGER = (
    "record_type, record_id, event_type, content_hash, previous_hash, timestamp, entry_hash, "
    "record_key"
)
ONE = "WHERE rowid = (SELECT min(rowid) FROM finding)"

TAMPERINGS = {
    "an edited record": (f"UPDATE finding SET severity = 'low' {ONE}", "is not what the ledger"),
    "an edited time": (f"UPDATE finding SET updated_at = '' {ONE}", "is not what the ledger"),
    "an edited ciphertext": (
        f"UPDATE finding SET description = '1.AAAA' {ONE}",
        "is not what the ledger",
    ),
    "ciphertexts swapped between records": (
        "UPDATE finding SET description = (SELECT max(description) FROM finding)",
        "is not what the ledger",
    ),
    "edited JSON": (
        f"UPDATE finding SET json = replace(json, 'open', 'closed') {ONE}",
        "differs from its columns",
    ),
    "a deleted record": (f"DELETE FROM finding {ONE}", "in the ledger but not in its table"),
    "an inserted record": (
        "INSERT INTO organisation VALUES ('0', 'a', 'A', '', 'SHARED', '', '', '{}')",
        "The ledger has no entry for organisation 0",
    ),
    "an edited secret": (
        "UPDATE service_account SET secret_hash = 'mine'",
        "is not what the ledger",
    ),
    "a widened account": (
        """UPDATE service_account SET scopes = '["factstore:admin"]'""",
        "is not what the ledger",
    ),
    "an edited actor": ("UPDATE audit_entry SET actor = 'me' WHERE id = 4", "Audit entry 4 was"),
    "an edited action": ("UPDATE audit_entry SET action = '' WHERE id = 5", "Audit entry 5 was"),
    "an edited reason": (
        "UPDATE audit_entry SET reason = '1.AAAA' WHERE id = 6",
        "Audit entry 6 was",
    ),
    "a reason of another entry": (
        "UPDATE audit_entry SET reason = (SELECT reason FROM audit_entry WHERE id = 7) "
        "WHERE id = 4",
        "Audit entry 4 was",
    ),
    "an edited detail": ("UPDATE audit_entry SET detail = NULL WHERE id = 7", "Audit entry 7 was"),
    "an edited address": (
        "UPDATE audit_entry SET address = '192.0.2.1' WHERE id = 5",
        "Audit entry 5 was",
    ),
    "a removed address": (
        "UPDATE audit_entry SET address = NULL WHERE id = 5",
        "Audit entry 5 was",
    ),
    "an address added": (
        "UPDATE audit_entry SET address = '::1' WHERE id = 1",
        "Audit entry 1 was",
    ),
    "an edited audit hash": ("UPDATE audit_entry SET hash = '' WHERE id = 5", "Audit entry 5 was"),
    "a removed audit entry": ("DELETE FROM audit_entry WHERE id = 5", "Audit entry 5 is missing"),
    "the first audit entry removed": (
        "DELETE FROM audit_entry WHERE id = 1",
        "Audit entry 1 is missing",
    ),
    "the last audit entry removed": ("DELETE FROM audit_entry WHERE id = 7", "udit"),
    "an audit entry added": (COPY.format("audit_entry", 8, AUDIT, 4), "Audit entry 8 was"),
    "audit entries closed up": (
        ("DELETE FROM audit_entry WHERE id = 4", "UPDATE audit_entry SET id = id - 1 WHERE id > 4"),
        "Audit entry 4 was",
    ),
    "audit entries swapped": (
        (SWAP.format("audit_entry", 4, 5), "UPDATE audit_entry SET id = abs(id)"),
        "Audit entry 4 was",
    ),
    "ledger entries swapped": (
        (SWAP.format("ledger_entry", 3, 4), "UPDATE ledger_entry SET id = abs(id)"),
        "Ledger entry 3 was",
    ),
    "an edited proof": (
        "UPDATE ledger_entry SET entry_hash = 'a' WHERE id = 3",
        "Ledger entry 3 was",
    ),
    "an edited content hash": (
        "UPDATE ledger_entry SET content_hash = 'a' WHERE id = 4",
        "Ledger entry 4 was",
    ),
    "an edited moment": (
        "UPDATE ledger_entry SET timestamp = 'a' WHERE id = 4",
        "Ledger entry 4 was",
    ),
    "an edited link": (
        "UPDATE ledger_entry SET previous_hash = 'a' WHERE id = 5",
        "Ledger entry 5 was",
    ),
    "an edited kind": (
        "UPDATE ledger_entry SET record_type = 'gone' WHERE id = 4",
        "edger entry 4",
    ),
    "a removed proof": ("DELETE FROM ledger_entry WHERE id = 4", "Ledger entry 4 is missing"),
    "the last proof removed": ("DELETE FROM ledger_entry WHERE id = 6", "is not what the ledger"),
    "a proof added": (COPY.format("ledger_entry", "7, 'x'", LEDGER, 3), "Ledger entry 7 was"),
    "a record and its last proof removed": (
        (
            "DELETE FROM ledger_entry WHERE id > 4",
            "DELETE FROM finding WHERE rowid = (SELECT max(rowid) FROM finding)",
            "UPDATE finding SET json = replace(json, severity, 'high'), severity = 'high'",
        ),
        "udit",
    ),
}


@pytest.mark.parametrize(("statements", "fault"), TAMPERINGS.values(), ids=TAMPERINGS)
def test_whatever_is_touched_in_the_file_shows(lite, findings, statements, fault):
    assert lite.verify() == []
    statements = (statements,) if isinstance(statements, str) else statements

    touched = tamper(lite, *statements)

    assert touched > 0
    assert any(fault in item for item in lite.verify())


def test_a_webhook_s_address_and_secret_are_proven_too(lite):
    lite.webhooks.add("https://93.184.216.34/hook")

    tamper(lite, "UPDATE endpoint SET url = 'https://93.184.216.35/hook'")

    assert lite.verify()[0].endswith("is not what the ledger recorded.")


def test_faults_of_both_chains_and_of_records_are_told_together(lite, findings):
    tamper(
        lite,
        "UPDATE audit_entry SET actor = 'me' WHERE id = 4",
        f"UPDATE finding SET severity = 'low' {ONE}",
        "INSERT INTO organisation VALUES ('0', 'a', 'A', '', 'SHARED', '', '', '{}')",
    )

    faults = lite.verify()

    assert sorted(faults) == [
        "Audit entry 4 was changed, or the one before it was.",
        f"Finding {findings[0]} is not what the ledger recorded.",
        "The ledger has no entry for organisation 0.",
    ]


def test_a_refused_write_leaves_no_trace_in_either_chain(lite, novantra):
    novantra.post(FINDINGS, FINDING | {"findingKey": "taken"})

    answer = novantra.post(FINDINGS, FINDING | {"findingKey": "taken"})

    assert answer.status == 409
    assert rows(lite, "SELECT max(id) FROM audit_entry") == [(4,)]
    assert lite.verify() == []


def test_reads_are_counted_by_account_and_minute(lite, clock):
    record, other = lite.client("assets:read"), lite.client("assets:read", "organization:read")
    for client in (record, other, record):
        client.get("/api/v1/assets")
    clock.advance(60)
    record.get("/api/v1/assets")

    lite.step()
    clock.advance(60)
    lite.step()

    counted = rows(lite, "SELECT minute, count FROM read_count ORDER BY minute, count")
    assert counted == [
        ("2026-06-01T12:00:00.000Z", 1),
        ("2026-06-01T12:00:00.000Z", 2),
        ("2026-06-01T12:01:00.000Z", 1),
    ]
    assert rows(lite, "SELECT max(id) FROM audit_entry") == [(4,)]


def test_refused_credentials_are_audited_without_what_was_presented(lite):
    Client(lite, {"Authorization": "Bearer workspace.stolen-token"}).get("/api/v1/assets")

    assert audit(lite, after=2) == [
        ("unknown", "api.authentication.refused", "request", "GET /api/v1/assets")
    ]
    assert b"stolen-token" not in stored_bytes(lite)


def test_the_chains_go_on_over_a_restart(tmp_path):
    for number in range(3):
        with NovantraLite(tmp_path / "register.db") as lite:
            lite.collection("findings").create(
                findingKey=f"f{number}", title="A", severity="low", reason=WHY
            )
            assert lite.verify() == []
            assert rows(lite, "SELECT max(id) FROM ledger_entry") == [(number + 2,)]


def test_work_that_fails_after_it_was_noted_takes_its_notes_back(lite):
    def work(current):
        lite.workspace.journal.record(current, "console.tried", "finding", "find_0")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        write_transaction(lite.workspace, work, actor="console", reason=WHY)
    lite.collection("findings").create(findingKey="a", title="A", severity="low", reason=WHY)

    assert [action for _, action, *_ in audit(lite, after=2)] == ["finding.created"]
    assert lite.verify() == []
