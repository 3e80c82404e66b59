"""Submissions."""

from typing import ClassVar

import pytest
from conftest import WHY
from stored import audit, events, ledger, tables

from novantra.retrieval import Listed, Retrieved, make

SUBMISSIONS = "/api/v1/governance/submissions"
EVENTS = f"{SUBMISSIONS}/events"
SCOPE = "governance.submissions:read"
#: Which state an event takes a package to, and from which states it may.
KINDS = {
    "submission": ("submitted", ["draft", "in_review", "ready"]),
    "receipt": ("acknowledged", ["submitted"]),
    "acceptance": ("accepted", ["submitted", "acknowledged"]),
    "rejection": ("rejected", ["submitted", "acknowledged"]),
    "withdrawal": ("withdrawn", ["submitted", "acknowledged"]),
    "resubmission": ("submitted", ["rejected", "withdrawn"]),
}
STATES = [
    *("draft", "in_review", "ready", "submitted"),
    *("acknowledged", "accepted", "rejected", "withdrawn"),
]


def make_requirement(lite, key="yearly-report"):
    members = {"title": "The yearly report", "submissionKind": "regulator_report"}
    return make(lite, "submission-requirements", requirementKey=key, **members)


def make_package(lite, key="report-2026", **members):
    requirement = make_requirement(lite, f"for-{key}")
    members = {"submissionRequirementId": requirement["id"], "title": "A report"} | members
    return make(lite, "submission-packages", packageKey=key, **members)


class TestRequirements(Retrieved):
    path, scope = f"{SUBMISSIONS}/requirements", SCOPE
    collection, key = "submission-requirements", "submissionRequirements"
    noun = "submissionRequirement"
    members = "id requirementKey title submissionKind status createdAt updatedAt"
    filters = choices = "status"
    first: ClassVar = {
        "requirementKey": "yearly-report",
        "title": "The yearly report",
        "submissionKind": "regulator_report",
        "status": "active",
    }
    second: ClassVar = {
        "requirementKey": "old-report",
        "title": "The old report",
        "submissionKind": "regulator_report",
        "status": "archived",
    }


class TestPackages(Retrieved):
    path, scope = f"{SUBMISSIONS}/packages", SCOPE
    collection, key = "submission-packages", "submissionPackages"
    noun = "submissionPackage"
    members = (
        "id submissionRequirementId packageKey title status dueAt submittedAt acknowledgedAt "
        "acceptedAt externalReference ownerResponsibilityAssignmentId createdAt updatedAt"
    )
    nulls = (
        "dueAt submittedAt acknowledgedAt acceptedAt externalReference "
        "ownerResponsibilityAssignmentId"
    )
    filters = "status submissionRequirementId"

    def rows(self, lite):
        return {
            "submissionRequirementId": make_requirement(lite, "one")["id"],
            "packageKey": "report-2026",
            "title": "Report 2026",
            "status": "accepted",
            "dueAt": "2026-07-30T23:59:59.000Z",
            "submittedAt": "2026-05-01T00:00:00.000Z",
            "acknowledgedAt": "2026-05-02T00:00:00.000Z",
            "acceptedAt": "2026-05-03T00:00:00.000Z",
            "externalReference": "REG-1",
            "ownerResponsibilityAssignmentId": "ra_1",
        }, {
            "submissionRequirementId": make_requirement(lite, "other")["id"],
            "packageKey": "report-2027",
            "title": "Report 2027",
            "status": "draft",
        }


class TestEvents(Listed):
    path, scope = EVENTS, SCOPE
    collection, key = "submission-events", "submissionEvents"
    members = (
        "id submissionPackageId eventKind occurredAt externalReference note resultingStatus "
        "createdAt"
    )
    nulls = "externalReference note"
    filters = "submissionPackageId"

    def rows(self, lite):
        return {
            "submissionPackageId": make_package(lite, "one")["id"],
            "eventKind": "submission",
            "occurredAt": "2026-05-01T00:00:00.000Z",
            "externalReference": "REG-1",
            "note": "By courier.",
            "resultingStatus": "submitted",
        }, {
            "submissionPackageId": make_package(lite, "other", status="submitted")["id"],
            "eventKind": "receipt",
        }


def test_an_event_moves_its_package_and_both_are_audited_proven_and_told(lite, novantra):
    package = make_package(lite)
    body = {
        "submissionPackageId": package["id"],
        "eventKind": "submission",
        "occurredAt": "2026-06-01T13:00:00+02:00",
        "externalReference": "REG-1",
        "note": "Through the portal.",
        "reason": WHY,
    }
    before = len(audit(lite))

    recorded = novantra.post(EVENTS, body)

    event = recorded.json["submissionEvent"]
    occurred = "2026-06-01T11:00:00.000Z"
    assert recorded.status == 201
    assert event == {
        "id": event["id"],
        "submissionPackageId": package["id"],
        "eventKind": "submission",
        "occurredAt": occurred,
        "externalReference": "REG-1",
        "note": "Through the portal.",
        "resultingStatus": "submitted",
        "createdAt": "2026-06-01T12:00:00.000Z",
    }
    moved = {"status": "submitted", "submittedAt": occurred, "externalReference": "REG-1"}
    path = f"{SUBMISSIONS}/packages/{package['id']}"
    assert novantra.get(path).json["submissionPackage"] == package | moved
    assert [entry[1:] for entry in audit(lite)[before:]] == [
        ("submission.event.recorded", event["id"], WHY),
        ("submission.package.updated", package["id"], WHY),
    ]
    assert ledger(lite)[-2:] == [
        ("SUBMISSION_EVENT_RECORDED", event["id"]),
        ("SUBMISSION_PACKAGE_UPDATED", package["id"]),
    ]
    (first, result), (second, moving) = events(lite)
    assert (first, second) == (
        "submission.package.event_recorded",
        "submission.package.status_changed",
    )
    assert result["submissionEvent"] == event
    assert result["submissionPackage"].items() >= moved.items()
    assert (moving["previousStatus"], moving["submissionPackage"]["status"]) == (
        "draft",
        "submitted",
    )


def test_an_event_happens_now_unless_told(lite, novantra):
    package = make_package(lite, status="submitted")
    body = {"submissionPackageId": package["id"], "eventKind": "receipt", "reason": WHY}

    recorded = novantra.post(EVENTS, body)

    moved = lite.collection("submission-packages").retrieve(package["id"])
    assert recorded.json["submissionEvent"]["occurredAt"] == "2026-06-01T12:00:00.000Z"
    assert moved["acknowledgedAt"] == "2026-06-01T12:00:00.000Z"


@pytest.mark.parametrize("type", KINDS)
def test_an_event_moves_packages_only_from_the_states_that_allow_it(lite, novantra, type):
    result, allowed = KINDS[type]
    outcomes = {}

    for state in STATES:
        package = make_package(lite, f"in-{state}", status=state)
        body = {"submissionPackageId": package["id"], "eventKind": type, "reason": WHY}
        answer = novantra.post(EVENTS, body)
        now = lite.collection("submission-packages").retrieve(package["id"])["status"]
        outcomes[state] = answer.status, now

    assert outcomes == {
        state: (201, result) if state in allowed else (422, state) for state in STATES
    }


def test_a_package_goes_all_the_way_and_its_history_is_listed(lite, novantra, clock):
    package = make_package(lite)
    for item in ("submission", "rejection", "resubmission", "receipt", "acceptance"):
        body = {"submissionPackageId": package["id"], "eventKind": item, "reason": WHY}
        assert novantra.post(EVENTS, body).status == 201
        clock.advance(60)

    listed = novantra.get(EVENTS, submissionPackageId=package["id"])

    matches = [(e["eventKind"], e["resultingStatus"]) for e in listed.json["submissionEvents"]]
    assert matches == [
        ("acceptance", "accepted"),
        ("receipt", "acknowledged"),
        ("resubmission", "submitted"),
        ("rejection", "rejected"),
        ("submission", "submitted"),
    ]


def test_the_path_below_a_package_records_its_events_too(lite, novantra):
    package = make_package(lite)
    path = f"{SUBMISSIONS}/packages/{package['id']}/events"

    recorded = novantra.post(path, {"eventKind": "submission", "reason": WHY})

    assert recorded.status == 201
    assert recorded.json["submissionEvent"]["submissionPackageId"] == package["id"]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"eventKind": "approval"}, ["eventKind"]),
        ({"eventKind": None}, ["eventKind"]),
        ({"submissionPackageId": None}, ["submissionPackageId"]),
        ({"submissionPackageId": 5}, ["submissionPackageId"]),
        ({"occurredAt": "now"}, ["occurredAt"]),
        ({"externalReference": "x" * 201}, ["externalReference"]),
        ({"note": "x" * 4001}, ["note"]),
        ({"reason": "short"}, ["reason"]),
    ],
)
def test_a_wrong_member_is_refused_with_its_path(lite, novantra, change, path):
    package = make_package(lite)
    body = {"submissionPackageId": package["id"], "eventKind": "submission", "reason": WHY}

    refused = novantra.post(EVENTS, body | change)

    assert (refused.status, refused.json["error"]) == (400, "validation")
    assert [issue["path"] for issue in refused.json["issues"]] == [path]
    assert lite.collection("submission-packages").retrieve(package["id"]) == package


def test_a_package_that_is_not_there_has_no_events(lite, novantra):
    key = "subpkg_01HXY000000000000000000000"
    body = {"submissionPackageId": key, "eventKind": "submission", "reason": WHY}

    refused = novantra.post(EVENTS, body)

    assert (refused.status, refused.json["error"]) == (422, "unprocessable")
    assert events(lite) == []


def test_a_repeated_event_moves_nothing_again(lite, novantra):
    package = make_package(lite)
    body = {"submissionPackageId": package["id"], "eventKind": "submission", "reason": WHY}
    headers = {"Idempotency-Key": "one"}
    first = novantra.post(EVENTS, body, headers=headers)
    novantra.post(EVENTS, body | {"eventKind": "rejection"})
    before = tables(lite)

    repeat = novantra.post(EVENTS, body, headers=headers)

    assert (repeat.status, repeat.body) == (201, first.body)
    assert tables(lite) == before


def test_the_console_moves_a_package_by_its_status(lite):
    package = make_package(lite)

    lite.collection("submission-packages").update(package["id"], status="ready", reason=WHY)

    ((record_type, result),) = events(lite)
    assert record_type == "submission.package.status_changed"
    assert (result["previousStatus"], result["submissionPackage"]["status"]) == ("draft", "ready")


def test_an_unknown_package_in_the_path_is_not_found_and_one_in_the_body_is_unprocessable(novantra):
    key = "subpkg_01HXY000000000000000000000"
    body = {"eventKind": "submission", "reason": WHY}

    in_path = novantra.post(f"{SUBMISSIONS}/packages/{key}/events", body)
    in_body = novantra.post(EVENTS, body | {"submissionPackageId": key})

    assert (in_path.status, in_path.json["error"]) == (404, "not_found")
    assert (in_body.status, in_body.json["error"]) == (422, "unprocessable")
