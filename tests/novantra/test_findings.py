"""Findings."""

import random
from typing import ClassVar

import pytest
from conftest import WHY
from stored import audit, events, ledger, stored_bytes, tables

from novantra.retrieval import Retrieved, make
from novantra_lite import NovantraLite, novantra_scopes

FINDINGS = "/api/v1/governance/findings"
NEW = {"title": "Annual control review overdue", "severity": "medium", "reason": WHY}
STATES = "open triaged remediation_planned remediating verified closed accepted archived"
MOVES = {
    "open": "triaged accepted archived",
    "triaged": "remediation_planned accepted archived",
    "remediation_planned": "remediating accepted",
    "remediating": "verified remediation_planned",
    "verified": "closed remediating",
    "closed": "archived open",
    "accepted": "archived open",
    "archived": "",
}


class TestFindings(Retrieved):
    path, scope = FINDINGS, "governance.findings:read"
    collection = key = "findings"
    noun = "finding"
    members = (
        "id findingKey sourceKind sourceModuleKey sourceResourceType sourceResourceId "
        "subjectModuleKey subjectResourceType subjectResourceId title description severity status "
        "ownerResponsibilityId ownerMemberUserId dueAt closedAt lifecycleInstanceId createdAt "
        "updatedAt"
    )
    nulls = (
        "sourceResourceType sourceResourceId subjectModuleKey subjectResourceType "
        "subjectResourceId description ownerResponsibilityId ownerMemberUserId dueAt closedAt "
        "lifecycleInstanceId"
    )
    filters = choices = "status sourceKind"
    first: ClassVar = {
        "findingKey": "scanner-998877",
        "sourceKind": "control_gap",
        "sourceModuleKey": "external",
        "sourceResourceType": "scanner-finding",
        "sourceResourceId": "SCANNER-REF-998877",
        "subjectModuleKey": "scope",
        "subjectResourceType": "system",
        "subjectResourceId": "sys_1",
        "title": "An open port",
        "description": "Port 23 answers.",
        "severity": "high",
        "status": "closed",
        "ownerResponsibilityId": "ra_1",
        "ownerMemberUserId": "user_1",
        "dueAt": "2026-07-01T00:00:00.000Z",
        "closedAt": "2026-05-31T00:00:00.000Z",
        "lifecycleInstanceId": "lci_1",
    }
    second: ClassVar = {
        "findingKey": "by-hand",
        "sourceKind": "manual",
        "title": "Seen by hand",
        "severity": "low",
        "status": "open",
    }


@pytest.fixture
def control(lite):
    return make(lite, "controls", controlKey="c-1", title="A control")


@pytest.fixture
def updating(clock):
    """An install whose findings may be updated."""
    with NovantraLite(clock=clock, random=random.Random(7), finding_updates=True) as lite:
        yield lite


def test_a_new_finding_is_open_audited_proven_and_told(lite, clock, novantra, control):
    subject = {
        "subjectModuleKey": "controls",
        "subjectResourceType": "control",
        "subjectResourceId": control["id"],
    }

    created = novantra.post(FINDINGS, NEW | subject)

    finding = created.json["finding"]
    key = finding["id"]
    assert created.status == 201
    assert list(created.json) == ["finding"]
    assert finding == {
        "id": key,
        "findingKey": "api-" + key[-12:].lower(),
        "sourceKind": "module_signal",
        "sourceModuleKey": "external",
        "sourceResourceType": None,
        "sourceResourceId": None,
        **subject,
        "title": "Annual control review overdue",
        "description": None,
        "severity": "medium",
        "status": "open",
        "ownerResponsibilityId": None,
        "ownerMemberUserId": None,
        "dueAt": None,
        "closedAt": None,
        "lifecycleInstanceId": None,
        "createdAt": "2026-06-01T12:00:00.000Z",
        "updatedAt": "2026-06-01T12:00:00.000Z",
    }
    assert novantra.get(f"{FINDINGS}/{key}").json == {"finding": finding}
    assert audit(lite)[-1][1:] == ("finding.created", key, WHY)
    assert audit(lite)[-1][0].startswith("svc_")
    assert ledger(lite)[-1] == ("FINDING_CREATED", key)
    expected = {
        "id": key,
        "title": "Annual control review overdue",
        "severity": "medium",
        "status": "open",
        **subject,
        "createdAt": "2026-06-01T12:00:00.000Z",
    }
    assert events(lite) == [("finding.created", {"finding": expected})]


def test_everything_that_may_be_given_is_kept_and_the_rest_is_ignored(novantra):
    body = {
        "findingKey": "scanner-998877",
        "sourceKind": "audit",
        "sourceModuleKey": "scanner",
        "sourceResourceType": "scanner-finding",
        "sourceResourceId": "SCANNER-REF-998877",
        "description": "Two lines\nof text 数.",
        "ownerResponsibilityId": "ra_1",
        "ownerMemberUserId": "user_1",
    }
    ignored = {"status": "closed", "closedAt": "2026-01-01T00:00:00Z", "id": "find_1", "x": [1]}

    created = novantra.post(FINDINGS, NEW | body | ignored | {"dueAt": "2026-07-30T23:59:59+04:00"})

    finding = created.json["finding"]
    assert created.status == 201
    assert finding.items() >= body.items()
    assert finding["dueAt"] == "2026-07-30T19:59:59.000Z"
    assert (finding["status"], finding["closedAt"], "x" in finding) == ("open", None, False)
    assert finding["id"] != "find_1"


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"title": ""}, ["title"]),
        ({"title": "x" * 301}, ["title"]),
        ({"title": None}, ["title"]),
        ({"title": 5}, ["title"]),
        ({"description": "x" * 10_001}, ["description"]),
        ({"severity": "severe"}, ["severity"]),
        ({"severity": None}, ["severity"]),
        ({"sourceKind": "rumour"}, ["sourceKind"]),
        ({"findingKey": ""}, ["findingKey"]),
        ({"findingKey": "x" * 201}, ["findingKey"]),
        ({"dueAt": "tomorrow"}, ["dueAt"]),
        ({"dueAt": "2026-13-01T00:00:00Z"}, ["dueAt"]),
        ({"dueAt": 5}, ["dueAt"]),
        ({"reason": None}, ["reason"]),
        ({"reason": "too short"}, ["reason"]),
        ({"reason": "  too short  "}, ["reason"]),
        ({"reason": "x" * 1001}, ["reason"]),
        ({"reason": ["a list of words"]}, ["reason"]),
    ],
)
def test_a_wrong_member_is_refused_with_its_path(lite, novantra, change, path):
    refused = novantra.post(FINDINGS, NEW | change)

    assert (refused.status, refused.json["error"]) == (400, "validation")
    assert [issue["path"] for issue in refused.json["issues"]] == [path]
    assert list(lite.collection("findings").list()) == []


def test_every_fault_is_told_at_once(novantra):
    refused = novantra.post(FINDINGS, {"severity": "severe", "dueAt": "tomorrow"})

    paths = sorted(issue["path"] for issue in refused.json["issues"])
    assert paths == [["dueAt"], ["reason"], ["severity"], ["title"]]
    assert {"path": ["reason"], "message": "Required"} in refused.json["issues"]


@pytest.mark.parametrize("reason", ["数数数数数数数数数数", "  ten signs.  ", "x" * 1000])
def test_a_reason_counts_characters_without_the_blanks_around(lite, novantra, reason):
    created = novantra.post(FINDINGS, NEW | {"reason": reason})

    assert created.status == 201
    assert audit(lite)[-1][3] == reason.strip()


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"subjectModuleKey": "controls"}, [["subjectResourceType"], ["subjectResourceId"]]),
        (
            {"subjectModuleKey": "controls", "subjectResourceType": "control"},
            [["subjectResourceId"]],
        ),
        ({"subjectResourceId": "ctrl_1"}, [["subjectModuleKey"], ["subjectResourceType"]]),
    ],
)
def test_part_of_a_subject_is_refused(novantra, given, missing):
    refused = novantra.post(FINDINGS, NEW | given)

    assert (refused.status, refused.json["error"]) == (400, "validation")
    assert [issue["path"] for issue in refused.json["issues"]] == missing


@pytest.mark.parametrize(
    ("module", "type"),
    [("controls", "control"), ("risks", "control"), ("assets", "asset"), ("nothing", "thing")],
)
def test_a_subject_that_is_not_there_is_unprocessable(lite, novantra, module, type):
    subject = {
        "subjectModuleKey": module,
        "subjectResourceType": type,
        "subjectResourceId": "ctrl_01HXY000000000000000000000",
    }

    refused = novantra.post(FINDINGS, NEW | subject)

    assert (refused.status, refused.json["error"]) == (422, "unprocessable")
    assert events(lite) == []


def test_a_key_is_taken_once(lite, novantra):
    novantra.post(FINDINGS, NEW | {"findingKey": "scanner-1"})

    refused = novantra.post(FINDINGS, NEW | {"findingKey": "scanner-1"})

    assert (refused.status, refused.json["error"]) == (409, "conflict")
    assert len(list(lite.collection("findings").list())) == 1
    assert [record_type for record_type, _ in events(lite)] == ["finding.created"]


def test_a_repeat_with_the_same_key_and_body_gives_the_first_answer_and_does_nothing(
    lite, novantra
):
    headers = {"Idempotency-Key": "my-scanner-batch-2026-05-21-item-3947"}
    other_account = lite.client("governance.findings:write")
    first = novantra.post(FINDINGS, NEW, headers=headers)

    stranger = other_account.post(FINDINGS, NEW, headers=headers)
    repeat = novantra.post(FINDINGS, NEW, headers=headers)
    other = novantra.post(FINDINGS, NEW | {"severity": "low"}, headers=headers)

    assert (repeat.status, repeat.body) == (201, first.body)
    assert repeat.headers["idempotency-replayed"] == "true"
    assert repeat.headers["x-request-id"] != first.headers["x-request-id"]
    assert "idempotency-replayed" not in first.headers
    assert (other.status, other.json["error"]) == (409, "conflict")
    assert stranger.json["finding"]["id"] != first.json["finding"]["id"]
    assert [record_type for record_type, _ in events(lite)] == ["finding.created"] * 2
    assert [entry[1] for entry in audit(lite)].count("finding.created") == 2


def test_the_window_of_a_key_ends_after_24_hours(clock):
    life = 2 * 24 * 3600
    with NovantraLite(clock=clock, random=random.Random(7), token_life=life) as lite:
        novantra, headers = lite.client("governance.findings:write"), {"Idempotency-Key": "one"}
        first = novantra.post(FINDINGS, NEW, headers=headers)

        clock.advance(24 * 3600 - 1)
        replayed = novantra.post(FINDINGS, NEW, headers=headers)
        clock.advance(2)
        again = novantra.post(FINDINGS, NEW, headers=headers)

    assert replayed.body == first.body
    assert again.status == 201
    assert again.json["finding"]["id"] != first.json["finding"]["id"]


@pytest.mark.parametrize(
    ("change", "status"), [({"findingKey": "taken"}, 409), ({"subjectModuleKey": "x"}, 400)]
)
def test_a_final_refusal_is_replayed_and_a_fault_is_not(novantra, change, status):
    novantra.post(FINDINGS, NEW | {"findingKey": "taken"})
    headers = {"Idempotency-Key": "one"}

    first = novantra.post(FINDINGS, NEW | change, headers=headers)
    repeat = novantra.post(FINDINGS, NEW | change, headers=headers)

    assert (first.status, repeat.status) == (status, status)
    assert repeat.headers.get("idempotency-replayed") == {409: "true", 400: None}[status]
    assert repeat.json["message"] == first.json["message"]


@pytest.mark.parametrize("key", ["", "with blank", "x" * 256, "é"])
def test_an_idempotency_key_is_1_to_255_visible_characters(novantra, key):
    refused = novantra.post(FINDINGS, NEW, headers={"Idempotency-Key": key})

    assert (refused.status, refused.json["error"]) == (400, "validation")
    assert refused.json["issues"][0]["path"] == ["Idempotency-Key"]


def test_a_dry_run_is_the_real_run_rolled_back(lite, novantra):
    headers = {"X-Dry-Run": "true", "Idempotency-Key": "one"}
    before = tables(lite)

    rehearsed = novantra.post(FINDINGS, NEW, headers=headers)
    refused = novantra.post(FINDINGS, NEW | {"severity": "severe"}, headers=headers)

    assert rehearsed.status == 200
    assert rehearsed.json["dryRun"] is True
    assert rehearsed.json["wouldCreate"]["finding"]["title"] == "Annual control review overdue"
    assert refused.status == 400
    assert tables(lite) == before
    assert novantra.post(FINDINGS, NEW, headers={"Idempotency-Key": "one"}).status == 201


def test_a_description_is_nowhere_in_the_file(lite, novantra):
    novantra.post(FINDINGS, NEW | {"description": "The password is swordfish."})

    assert b"swordfish" not in stored_bytes(lite)
    assert b"Annual control review overdue" in stored_bytes(lite)
    assert novantra.get(FINDINGS).json["findings"][0]["description"] == "The password is swordfish."


def test_patch_is_off_unless_the_setting_is_on(lite, novantra):
    finding = make(lite, "findings", findingKey="f-1", title="A finding", severity="low")

    refused = novantra.patch(f"{FINDINGS}/{finding['id']}", {"status": "triaged", "reason": WHY})

    assert (refused.status, refused.json["error"]) == (405, "method_not_allowed")
    assert "GET" in refused.headers["allow"]
    assert "PATCH" not in refused.headers["allow"]
    assert lite.collection("findings").retrieve(finding["id"]) == finding


def test_closing_a_finding_dates_it_and_is_told_twice(updating, clock):
    client = updating.client(*novantra_scopes())
    finding = make(
        updating, "findings", findingKey="f-1", title="A gap", severity="low", status="verified"
    )
    clock.advance(60)

    changed = client.patch(f"{FINDINGS}/{finding['id']}", {"status": "closed", "reason": WHY})

    moment = "2026-06-01T12:01:00.000Z"
    assert changed.status == 200
    assert changed.json == {
        "finding": finding | {"status": "closed", "closedAt": moment, "updatedAt": moment}
    }
    assert audit(updating)[-1][1:] == ("finding.updated", finding["id"], WHY)
    assert ledger(updating)[-1] == ("FINDING_UPDATED", finding["id"])
    assert [record_type for record_type, _ in events(updating)] == [
        "finding.created",
        "finding.updated",
        "finding.closed",
    ]
    assert events(updating)[-1][1]["finding"]["status"] == "closed"


def test_reopening_a_finding_takes_its_end_away(updating):
    client = updating.client(*novantra_scopes())
    finding = make(
        updating, "findings", findingKey="f-1", title="A gap", severity="low", status="verified"
    )
    path = f"{FINDINGS}/{finding['id']}"
    client.patch(path, {"status": "closed", "reason": WHY})

    reopened = client.patch(path, {"status": "open", "reason": WHY})

    assert reopened.json["finding"]["closedAt"] is None
    assert events(updating)[-1][0] == "finding.updated"


@pytest.mark.parametrize("state", STATES.split())
def test_a_status_moves_only_as_allowed(updating, state):
    client = updating.client(*novantra_scopes())
    outcomes = {}

    for other in STATES.split():
        finding = make(
            updating, "findings", findingKey=f"to-{other}", title="A", severity="low", status=state
        )
        path = f"{FINDINGS}/{finding['id']}"
        outcomes[other] = client.patch(path, {"status": other, "reason": WHY}).status

    outcomes.pop(state)
    allowed = [other for other, status in outcomes.items() if status == 200]
    assert sorted(allowed) == sorted(MOVES[state].split())
    assert set(outcomes.values()) <= {200, 422}


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"status": "resolved", "reason": WHY}, ["status"]),
        ({"reason": WHY}, ["status"]),
        ({"status": "triaged"}, ["reason"]),
    ],
)
def test_a_status_update_without_status_or_reason_is_refused(updating, body, path):
    client = updating.client(*novantra_scopes())
    finding = make(updating, "findings", findingKey="f-1", title="A finding", severity="low")

    refused = client.patch(f"{FINDINGS}/{finding['id']}", body)

    assert (refused.status, refused.json["error"]) == (400, "validation")
    assert [issue["path"] for issue in refused.json["issues"]] == [path]


@pytest.mark.parametrize(
    ("members", "result"),
    [
        ({"severity": "high"}, ["finding.updated"]),
        ({"ownerMemberUserId": "user_1"}, ["finding.updated"]),
        ({"dueAt": "2026-07-01T00:00:00Z"}, ["finding.updated"]),
        ({"status": "accepted"}, ["finding.updated", "finding.closed"]),
        ({"title": "Another title"}, []),
        ({"severity": "low"}, []),
    ],
)
def test_changes_that_integrations_act_on_are_told(lite, members, result):
    finding = make(lite, "findings", findingKey="f-1", title="A finding", severity="low")

    lite.collection("findings").update(finding["id"], reason=WHY, **members)

    assert [record_type for record_type, _ in events(lite)] == ["finding.created", *result]


def test_the_same_status_again_is_refused_and_leaves_nothing(updating):
    client = updating.client(*novantra_scopes())
    finding = make(updating, "findings", findingKey="f-1", title="A finding", severity="low")
    before = tables(updating)

    refused = client.patch(f"{FINDINGS}/{finding['id']}", {"status": "open", "reason": WHY})

    assert (refused.status, refused.json["error"]) == (422, "unprocessable")
    assert refused.json["message"].startswith("This finding is open and cannot become open")
    assert tables(updating) == before
