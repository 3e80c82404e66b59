"""Tampering: whatever is changed in the file by raw SQL is found, and named."""

import contextlib
import hashlib
import json
import sqlite3

import pytest
from conftest import WHY
from factstore.trails import evidence_path, make_attestation, make_trail
from multipart import upload
from rawfile import rows, tamper

from novantra_lite import NovantraLite, main

FLOWS = "/api/v1/flows"
ENVIRONMENTS = "/api/v1/environments"
ALWAYS = {"from": "2000-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z"}


def make_claim(lite, novantra):
    """A claim with the three bytes abc attached; gives its id and that of the attachment."""
    requirement = lite.collection("evidence-requirements").create(
        requirementKey="training", title="Training", reason=WHY
    )
    content = {"fileName": "note.txt", "contentType": "text/plain", "contentBase64": "YWJj"}
    claim = {
        "evidenceRequirementId": requirement["id"],
        "title": "Training of May",
        "attachments": [content],
        "reason": WHY,
    }
    made = novantra.post("/api/v1/governance/evidence/claims", claim).json["claim"]
    return made["id"], made["attachments"][0]["id"]


@pytest.fixture
def names(lite, novantra, factstore):
    """A workspace with records of both surfaces, bytes among them; gives their ids by name."""
    flows = [factstore.post(FLOWS, {"name": name}).json["id"] for name in ("one", "two", "three")]
    findings = [
        lite.collection("findings").create(
            findingKey=key, title=key, severity="low", description="By the door", reason=WHY
        )["id"]
        for key in ("first", "second")
    ]
    trail = make_trail(lite)
    path = evidence_path(trail, make_attestation(lite, trail))
    file = upload(factstore, path, b"abc").json["id"]
    body = factstore.post(ENVIRONMENTS, {"name": "prod", "type": "K8S"}).json["id"]
    ran = {"artifactSha256": "sha256:" + "a" * 64, "artifactName": "app", "artifactTag": "1"}
    snapshot = factstore.post(
        f"{ENVIRONMENTS}/{body}/snapshots", {"recordedBy": "agent", "artifacts": [ran, ran]}
    ).json["id"]
    claim, attachment = make_claim(lite, novantra)
    assert lite.verify() == []
    return {
        **dict(zip(("flow1", "flow2", "flow3"), flows, strict=True)),
        **dict(zip(("finding1", "finding2"), findings, strict=True)),
        "file": file,
        "snapshot": snapshot,
        "claim": claim,
        "attachment": attachment,
    }


#: What is done, what is said of it, and whether the chain that the API verifies shows it.
RECORDS = {
    "a column of a Factstore fact": (
        "UPDATE flow SET visibility = 'PUBLIC' WHERE id = '{flow2}'",
        "Flow {flow2} is not what the ledger recorded.",
    ),
    "a column of a Novantra fact": (
        "UPDATE finding SET severity = 'high' WHERE id = '{finding1}'",
        "Finding {finding1} is not what the ledger recorded.",
    ),
    "only the text that reads give out": (
        "UPDATE flow SET json = json_set(json, '$.name', 'mine') WHERE id = '{flow2}'",
        "The stored JSON of flow {flow2} differs from its columns.",
    ),
    "a column and the text": (
        "UPDATE flow SET name = 'mine', json = json_set(json, '$.name', 'mine') "
        "WHERE id = '{flow2}'",
        "Flow {flow2} is not what the ledger recorded.",
    ),
    "a sealed value": (
        "UPDATE finding SET description = (SELECT description FROM finding "
        "WHERE id = '{finding2}') WHERE id = '{finding1}'",
        "Finding {finding1} is not what the ledger recorded.",
    ),
    "a list that is no JSON any more": (
        "PRAGMA ignore_check_constraints = 1; UPDATE flow SET tags = '{{' WHERE id = '{flow2}'",
        "Flow {flow2} is not what the ledger recorded.",
    ),
    "attachments that are no JSON any more": (
        "PRAGMA ignore_check_constraints = 1; UPDATE evidence_claim SET attachments = '{{'",
        "Evidence claim {claim} is not what the ledger recorded.",
    ),
    "a deleted record": (
        "DELETE FROM flow WHERE id = '{flow2}'",
        "Flow {flow2} is in the ledger but not in its table.",
    ),
    "two records' contents swapped": (
        "UPDATE flow SET description = (SELECT max(o.name) FROM flow AS o WHERE o.id <> flow.id)",
        "Flow {flow1} is not what the ledger recorded.",
    ),
    "the digest of stored bytes": (
        "UPDATE evidence_file SET sha256_hash = 'a' WHERE id = '{file}'",
        "Evidence file {file} is not what the ledger recorded.",
    ),
}
UNSEEN_BY_THE_CHAIN = {
    "an inserted record": (
        "INSERT INTO organisation VALUES ('0', 'a', 'A', '', 'SHARED', '', '', '{{}}')",
        "The ledger has no entry for organisation 0.",
    ),
    "two records in each other's place": (
        "UPDATE flow SET rowid = CASE id WHEN '{flow1}' THEN 1000 WHEN '{flow2}' THEN 1 "
        "ELSE rowid + 1000 END WHERE id <> ''",
        "Flow {flow1} is not in its original position.",
    ),
    "the stored bytes of a file": (
        "UPDATE evidence_piece SET content = zeroblob(40)",
        "Evidence file {file} does not match its recorded hash.",
    ),
    "the stored bytes of a file, deleted": (
        "DELETE FROM evidence_piece",
        "Evidence file {file} does not match its recorded hash.",
    ),
    "the bytes of an attachment": (
        "UPDATE attachment_content SET content = zeroblob(40)",
        "The content of attachment {attachment} does not match its claim.",
    ),
    "the bytes of an attachment, deleted": (
        "DELETE FROM attachment_content",
        "The content of attachment {attachment} is gone.",
    ),
    "what an environment is looked up to have run": (
        "UPDATE snapshot_artifact SET artifact_sha256 = 'b' WHERE id = 2",
        "The artifacts of environment snapshot {snapshot} are not indexed as recorded.",
    ),
    "a key of the ring added": (
        "INSERT INTO ring_key SELECT 2, wrapped, created_at, NULL FROM ring_key",
        "The audit log has no entry for ring key 2.",
    ),
    "the key of the ring removed": (
        "DELETE FROM ring_key",
        "Ring key 1 is in the audit log but not in its table.",
    ),
    "a key for checkpoints added": (
        "INSERT INTO checkpoint_key VALUES ('mine', '')",
        "The audit log has no entry for checkpoint key mine.",
    ),
    "an audit entry": (
        "UPDATE audit_entry SET actor = 'me' WHERE id = 4",
        "Audit entry 4 was changed, or the one before it was.",
    ),
    "an audit entry removed": ("DELETE FROM audit_entry WHERE id = 4", "Audit entry 4 is missing."),
}
SWAP = "UPDATE ledger_entry SET id = CASE id WHEN 4 THEN -5 ELSE -4 END WHERE id IN (4, 5)"
CHAIN = {
    "two entries swapped": (
        f"{SWAP}; UPDATE ledger_entry SET id = abs(id)",
        "Ledger entry 4 was changed, or the one before it was.",
    ),
    "an entry removed": ("DELETE FROM ledger_entry WHERE id = 4", "Ledger entry 4 is missing."),
    "an entry removed, and the gap closed": (
        "DELETE FROM ledger_entry WHERE id = 4; UPDATE ledger_entry SET id = id - 1 WHERE id > 4",
        "Ledger entry 4 was changed, or the one before it was.",
    ),
    "the first entry removed": (
        "DELETE FROM ledger_entry WHERE id = 1",
        "Ledger entry 1 is missing.",
    ),
    "an entry inserted": (
        "UPDATE ledger_entry SET id = -1 - id WHERE id > 4; "
        "UPDATE ledger_entry SET id = -id WHERE id < 0; "
        "INSERT INTO ledger_entry SELECT 5, 'x', record_type, record_id, event_type, "
        "content_hash, previous_hash, timestamp, entry_hash, record_key "
        "FROM ledger_entry WHERE id = 4",
        "Ledger entry 5 was changed, or the one before it was.",
    ),
    "the record of an entry": (
        "UPDATE ledger_entry SET record_key = 'find_1' WHERE record_key = '{finding1}'",
        "Ledger entry 7 was changed, or the one before it was.",
    ),
    "the kind of an entry": (
        "UPDATE ledger_entry SET record_type = 'trail' WHERE id = 4",
        "Ledger entry 4 was changed, or the one before it was.",
    ),
}
EVERYTHING = RECORDS | UNSEEN_BY_THE_CHAIN | CHAIN


@pytest.mark.parametrize("what", EVERYTHING)
def test_whatever_is_changed_in_the_file_is_named(lite, names, what):
    statements, fault = EVERYTHING[what]

    tamper(lite, *statements.format(**names).split("; "))

    assert fault.format(**names) in lite.verify()


@pytest.mark.parametrize("what", RECORDS | CHAIN)
def test_a_record_or_an_entry_that_was_changed_makes_the_chain_invalid(
    lite, names, factstore, what
):
    statements, _ = EVERYTHING[what]
    tamper(lite, *statements.format(**names).split("; "))

    verdict = factstore.post("/api/v1/ledger/verify-chain", ALWAYS).json

    assert verdict["valid"] is False
    assert verdict["brokenAt"] in {
        key for (key,) in rows(lite, "SELECT entry_id FROM ledger_entry")
    }


def rehash(lite, begin):
    """Write the ledger anew from an entry on, with hashes that fit, as its notes describe."""
    columns = (
        "entry_id, record_id, event_type, content_hash, previous_hash, timestamp, entry_hash, id"
    )
    entries = rows(lite, f"SELECT {columns} FROM ledger_entry WHERE id >= ? ORDER BY id", begin)
    previous, statements = entries[0][4], []
    for *parts, _, number in entries:
        parts[4] = previous
        proof = hashlib.sha256("|".join(parts).encode()).hexdigest()
        statements.append(
            f"UPDATE ledger_entry SET previous_hash = '{previous}', entry_hash = '{proof}' "
            f"WHERE id = {number}"
        )
        previous = proof
    return statements


def test_an_entry_that_was_edited_and_hashed_anew_shows_at_the_next_one(lite, names, factstore):
    tamper(lite, "UPDATE ledger_entry SET timestamp = '2020-01-01T00:00:00.000Z' WHERE id = 4")

    tamper(lite, rehash(lite, 4)[0])

    verdict = factstore.post("/api/v1/ledger/verify-chain", ALWAYS).json
    assert "Ledger entry 5 was changed, or the one before it was." in lite.verify()
    assert verdict["message"] == "Ledger entry 5 was changed, or the one before it was."


def test_a_record_that_was_deleted_by_right_may_not_come_back(lite, names, factstore):
    (kept,) = rows(lite, "SELECT * FROM flow WHERE id = ?", names["flow3"])
    factstore.delete(f"{FLOWS}/{names['flow3']}")
    back = ", ".join("NULL" if value is None else f"'{value}'" for value in kept)

    tamper(lite, f"INSERT INTO flow VALUES ({back})")

    text = f"Flow {names['flow3']} is in its table, but deleted according to the ledger."
    assert text in lite.verify()


SCHEMA = {
    "DROP TRIGGER ledger_entry_refuses_update": (
        "The trigger ledger_entry_refuses_update is missing."
    ),
    "CREATE TRIGGER mine AFTER INSERT ON flow BEGIN DELETE FROM flow; END": (
        "The trigger mine is not of novantra-lite."
    ),
    "DROP INDEX flow_key": "The index flow_key is missing.",
    "ALTER TABLE flow ADD COLUMN mine TEXT": (
        "The table flow differs from the one that novantra-lite creates."
    ),
    "CREATE TABLE mine (id TEXT)": "The table mine is not of novantra-lite.",
    "CREATE VIEW mine AS SELECT 1": "The view mine is not of novantra-lite.",
}


@pytest.mark.parametrize("statement", SCHEMA)
def test_a_changed_layout_of_the_file_shows(lite, statement):
    with contextlib.closing(sqlite3.connect(lite.workspace.file, isolation_level=None)) as file:
        file.execute(statement)

    assert lite.verify() == [SCHEMA[statement]]


# --- What only a checkpoint shows ---------------------------------------------


@pytest.fixture
def register(tmp_path, clock):
    """The file of a workspace that was closed twice, the second time with two flows in it."""
    file = tmp_path / "register.db"
    with NovantraLite(file, clock=clock):
        pass
    with NovantraLite(file, clock=clock) as lite:
        client = lite.client("factstore:write")
        for name in ("one", "two"):
            client.post(FLOWS, {"name": name})
    return file


@pytest.fixture
def verify(register, capsys):
    """Runs verify on the file, with its checkpoints or without; gives the faults."""

    def run(*arguments):
        status = main(["verify", str(register), "--json", *arguments])
        payload = json.loads(capsys.readouterr().out)
        assert status == (0 if payload["sound"] else 1)
        return payload["faults"]

    return run


def change(register, change):
    """Change a closed file; `change` is told the instance to look with and gives statements."""
    with NovantraLite(register, read_only=True) as lite:
        assert tamper(lite, *change(lite)) > 0


def test_a_tail_cut_off_both_chains_with_its_record_shows_only_at_the_checkpoint(register, verify):
    notes = "--checkpoint", f"{register}.checkpoints"
    assert verify(*notes) == []
    change(
        register,
        lambda lite: [
            "DELETE FROM flow WHERE name = 'two'",
            "DELETE FROM ledger_entry WHERE id = 4",
            "DELETE FROM audit_entry WHERE id = 6",
            "DELETE FROM search_record WHERE text LIKE '%two%'",
            "INSERT INTO search (search) VALUES ('rebuild')",
        ],
    )

    alone, together = verify(), verify(*notes)

    at = "checkpoint 2 of 2026-06-01T12:00:00.000Z"
    assert alone == []
    assert together == [
        f"Ledger entries 4 to 4, which {at} saw, are missing: the end was cut off.",
        f"Audit entries 6 to 6, which {at} saw, are missing: the end was cut off.",
    ]


def test_a_ledger_written_anew_with_hashes_that_fit_shows_only_at_the_checkpoint(register, verify):
    def rewrite(lite):
        tamper(
            lite,
            "UPDATE flow SET name = 'won', json = json_set(json, '$.name', 'won') "
            "WHERE name = 'one'",
        )
        described = rows(lite, "SELECT name FROM pragma_table_info('flow') WHERE name <> 'json'")
        columns = ", ".join(name for (name,) in described)
        (row,) = rows(lite, f"SELECT {columns} FROM flow WHERE name = 'won'")
        text = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
        content = hashlib.sha256(text.encode()).hexdigest()
        tamper(
            lite,
            f"UPDATE ledger_entry SET content_hash = '{content}' WHERE id = 3",
            "UPDATE search_record SET text = replace(text, 'one', 'won')",
            "INSERT INTO search (search) VALUES ('rebuild')",
        )
        return rehash(lite, 3)

    change(register, rewrite)

    alone, together = verify(), verify("--checkpoint", f"{register}.checkpoints")

    assert alone == []
    assert together == [
        "Ledger entry 4 differs from checkpoint 2 of 2026-06-01T12:00:00.000Z: the entries were "
        "rewritten."
    ]
