"""Models: records, the moves of their status, and the facts that their writes are."""

import json
import random

import pytest
from conftest import WHY, Clock
from rawfile import audit, counts, rows
from stored import stored_bytes

from novantra_lite import (
    NOVANTRA,
    Approval,
    Conflict,
    Finding,
    Flow,
    NotFound,
    NovantraLite,
    Trail,
    Unprocessable,
    governed,
    write_transaction,
)


@pytest.fixture
def finding(lite):
    return lite.collection("findings").create(
        findingKey="f-1", title="Seal broken", severity="low", description="By the door", reason=WHY
    )


def change(lite, key, **values):
    def work(current):
        return Finding.find(key).change(**values)

    return write_transaction(lite.workspace, work, actor="console", reason=WHY)


def test_a_change_tells_which_fields_were_other_before(lite, finding, clock):
    clock.advance(60)

    changed = change(lite, finding["id"], severity="high", title="Seal broken")

    assert changed == {"severity", "updated_at"}
    assert rows(lite, "SELECT severity, title, created_at, updated_at FROM finding") == [
        ("high", "Seal broken", "2026-06-01T12:00:00.000Z", "2026-06-01T12:01:00.000Z")
    ]
    assert audit(lite, after=3) == [("console", "finding.updated", "finding", finding["id"])]
    assert rows(
        lite, "SELECT event_type FROM ledger_entry WHERE record_key = ?", finding["id"]
    ) == [("FINDING_CREATED",), ("FINDING_UPDATED",)]
    assert rows(lite, "SELECT type FROM event") == [("finding.created",), ("finding.updated",)]


def test_a_change_to_what_is_there_already_is_no_fact(lite, finding, clock):
    before = counts(lite)
    clock.advance(60)

    changed = change(lite, finding["id"], severity="low", description="By the door")

    assert changed == set()
    assert counts(lite) == before
    assert rows(lite, "SELECT updated_at FROM finding") == [("2026-06-01T12:00:00.000Z",)]


def test_a_status_that_may_not_follow_is_refused_with_the_choices(lite, finding):
    before = counts(lite)

    with pytest.raises(Unprocessable) as refusal:
        change(lite, finding["id"], status="verified")

    assert str(refusal.value) == (
        "This finding is open and cannot become verified; "
        "it can become triaged, accepted, archived."
    )
    assert refusal.value.issues == [{"path": ["status"], "message": "Cannot follow open"}]
    assert counts(lite) == before


def test_an_end_status_stays_as_it_is(lite, finding):
    change(lite, finding["id"], status="archived")

    with pytest.raises(Unprocessable, match="cannot become open; this status is final"):
        change(lite, finding["id"], status="open")

    assert rows(lite, "SELECT status FROM finding") == [("archived",)]


def test_a_key_belongs_to_one_record(lite, finding):
    before = counts(lite)

    with pytest.raises(Conflict, match=r"already a record with this key \(finding, findingKey\)"):
        lite.collection("findings").create(
            findingKey="f-1", title="Another", severity="low", reason=WHY
        )

    assert counts(lite) == before


def test_a_record_that_is_not_there_is_named_in_the_refusal(lite):
    with lite.workspace.read(), pytest.raises(NotFound) as refusal:
        Finding.find("find_0")

    assert str(refusal.value) == "There is no finding with the id find_0."


def test_a_removed_record_is_gone_from_its_table_and_stays_in_the_ledger(lite, factstore):
    flow = factstore.post("/api/v1/flows", {"name": "release"}).json["id"]

    answer = factstore.delete(f"/api/v1/flows/{flow}")

    assert answer.status == 204
    assert rows(lite, "SELECT * FROM flow") == []
    assert rows(lite, "SELECT event_type FROM ledger_entry WHERE record_id = ?", flow) == [
        ("FLOW_CREATED",),
        ("FLOW_DELETED",),
    ]
    assert audit(lite, after=4)[0][1:] == ("flow.deleted", "flow", flow)
    assert lite.verify() == []


def test_what_goes_with_a_removed_record_is_in_the_ledger_too(lite, factstore):
    flow = factstore.post("/api/v1/flows", {"name": "release"}).json["id"]
    factstore.post(f"/api/v1/flows/{flow}/security-thresholds", {"maxHigh": 3})

    answer = factstore.delete(f"/api/v1/flows/{flow}")

    assert answer.status == 204
    assert rows(lite, "SELECT * FROM security_threshold") == []
    assert rows(lite, "SELECT event_type FROM ledger_entry ORDER BY id DESC LIMIT 2") == [
        ("FLOW_DELETED",),
        ("SECURITY_THRESHOLD_DELETED",),
    ]
    assert lite.verify() == []


def test_an_encrypted_field_is_unreadable_in_the_file_and_readable_in_the_record(lite, finding):
    stored = rows(lite, "SELECT description FROM finding")[0][0]

    result = lite.collection("findings").retrieve(finding["id"])

    assert stored.startswith("1.")
    assert "door" not in stored
    assert b"By the door" not in stored_bytes(lite)
    assert result == finding
    assert result["description"] == "By the door"


@pytest.fixture(scope="module")
def demo():
    with NovantraLite(clock=Clock(), random=random.Random(7)) as lite:
        lite.load_demo()
        yield lite


#: The demo has records of all of these.
WITHOUT_DERIVED = [
    resource
    for resource in governed()
    if resource.surface is NOVANTRA or resource.collection == "flows"
]


@pytest.mark.parametrize("resource", WITHOUT_DERIVED, ids=lambda resource: resource.collection)
def test_the_json_that_sqlite_writes_is_the_record_s_own(demo, resource):
    with demo.workspace.read():
        records = list(resource.model.select().limit(20))

        written = [
            json.loads(demo.workspace.json_of(type(record), record.id)) for record in records
        ]

        assert written == [record.json() for record in records] != []
        assert [list(record) for record in written] == [list(resource.model.members())] * len(
            written
        )


def test_the_statement_of_a_record_with_line_separators_and_brackets_is_opened_whole(lite):
    odd = 'a}\x1e{"b\x1f c\u2028 "}'

    finding = lite.collection("findings").create(
        findingKey="k}\x1e", title=odd, severity="low", description=odd, reason=WHY
    )

    result = lite.collection("findings").retrieve(finding["id"])
    assert (result["title"], result["description"]) == (odd, odd)
    assert [record["description"] for record in lite.collection("findings").list()] == [odd]


# --- Looking records up -------------------------------------------------------


@pytest.fixture
def shop(lite, factstore):
    """A flow of no organisation, with a trail."""
    flow = factstore.post("/api/v1/flows", {"name": "shop"}).json
    commit = {"gitCommitSha": "4f2a", "gitBranch": "main", "gitAuthor": "Ann"}
    trail = {"flowId": flow["id"], "name": "one", "gitAuthorEmail": "ann@example.org"} | commit
    return flow["id"], factstore.post("/api/v1/trails", trail).json["id"]


def test_a_record_is_found_by_its_id_or_by_values_of_which_none_is_one(lite, shop):
    flow, trail = shop

    with lite.workspace.read():
        assert (
            Flow.find_or_none(flow).name
            == Flow.find_or_none(name="shop", org_slug=None).name
            == "shop"
        )
        assert (Flow.find_or_none("nobody"), Flow.find_or_none(name="shop", org_slug="acme")) == (
            None,
            None,
        )
        assert Trail.exists(flow=flow, name="one") and Trail.exists(
            flow=Flow.find(flow), name="one"
        )
        assert not Trail.exists(flow=flow, name="two") and not Trail.exists(flow=trail, name="one")


def test_records_with_the_same_values_come_in_the_order_in_which_they_were_made(lite, factstore):
    made = [factstore.post("/api/v1/flows", {"name": name}).json["id"] for name in "zyx"]

    with lite.workspace.read():
        assert [flow.id for flow in Flow.find_all(org_slug=None)] == made
        assert [flow.id for flow in Flow.find_all()] == made
        assert Flow.find_all(org_slug="acme") == []
        assert Flow.find_or_none(org_slug=None).id == made[0]
        assert Flow.last(org_slug=None).id == made[-1]
        assert Flow.last(org_slug="acme") is None


def test_a_foreign_key_reads_as_its_record_which_is_looked_up_once(lite, shop):
    requests = []
    with lite.workspace.read() as current:
        trail = Trail.find(shop[1])
        connection = current.database.connection()
        connection.set_trace_callback(requests.append)
        names = [trail.flow.name, trail.flow.name]
        connection.set_trace_callback(None)

    assert names == ["shop", "shop"]
    assert trail.flow_id == shop[0]
    assert len(requests) == 1


def test_an_approval_is_found_by_its_trail_rather_than_among_all_that_were_given(lite):
    values = {"trail": "t", "status": "APPROVED"}
    sql, members = Approval.statements().query((), values, "LIMIT 1")
    connection = lite.workspace.reader.connection()

    (plan,) = connection.execute(f"EXPLAIN QUERY PLAN {sql}", members).fetchall()

    assert "approval_lookup (trail_id=? AND status=?)" in plan[3]
