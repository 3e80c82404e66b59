"""Controls."""

from typing import ClassVar

from novantra.retrieval import Retrieved


class TestControls(Retrieved):
    path, scope = "/api/v1/governance/controls", "governance.controls:read"
    collection = key = "controls"
    noun = "control"
    members = (
        "id controlKey title description status subjectModuleKey subjectResourceType "
        "subjectResourceId subjectVersionId ownerResponsibilityAssignmentId "
        "implementationProjectionId complianceProjectionId createdAt updatedAt"
    )
    nulls = (
        "description subjectModuleKey subjectResourceType subjectResourceId subjectVersionId "
        "ownerResponsibilityAssignmentId implementationProjectionId complianceProjectionId"
    )
    filters = choices = "status"
    first: ClassVar = {
        "controlKey": "customer-data-encryption-at-rest",
        "title": "Encryption of customer data at rest",
        "description": "AES-256 for every volume.",
        "status": "active",
        "subjectModuleKey": "scope",
        "subjectResourceType": "system",
        "subjectResourceId": "sys_1",
        "subjectVersionId": "sysv_1",
        "ownerResponsibilityAssignmentId": "ra_1",
        "implementationProjectionId": "geprj_1",
        "complianceProjectionId": "geprj_2",
    }
    second: ClassVar = {
        "controlKey": "vendor-onboarding-due-diligence",
        "title": "Due diligence at onboarding",
        "status": "draft",
    }


def test_a_page_has_50_records_unless_told_and_never_more_than_200(lite, novantra):
    rows = ((n, {"controlKey": f"control-{n:03}", "title": "A control"}) for n in range(1, 206))
    lite.collection("controls").import_rows(rows, reason="Filling the register for a test.")

    by_default = novantra.get("/api/v1/governance/controls").json
    largest = novantra.get("/api/v1/governance/controls", limit=200).json
    clamped = novantra.get("/api/v1/governance/controls", limit=10**30).json

    assert len(by_default["controls"]) == 50
    assert len(largest["controls"]) == 200
    assert clamped["controls"] == largest["controls"]


def test_a_walk_meets_every_record_once_although_new_ones_arrive(lite, novantra, clock):
    controls, met = lite.collection("controls"), []
    for number in range(7):
        controls.create(controlKey=f"old-{number}", title="Old", reason="Made before the walk.")
        clock.advance(1)

    page = novantra.get("/api/v1/governance/controls", limit=3).json
    while cursor := page["pagination"].get("nextCursor"):
        met += page["controls"]
        controls.create(controlKey=f"new-{len(met)}", title="New", reason="Made on the walk.")
        page = novantra.get("/api/v1/governance/controls", limit=3, cursor=cursor).json
    met += page["controls"]

    assert [record["controlKey"] for record in met] == [f"old-{n}" for n in (6, 5, 4, 3, 2, 1, 0)]


def test_a_cursor_of_another_list_is_refused(lite, novantra):
    for number in range(2):
        lite.collection("controls").create(
            controlKey=f"control-{number}", title="A control", reason="Filling the register."
        )
    cursor = novantra.get("/api/v1/governance/controls", limit=1).json["pagination"]["nextCursor"]

    refused = novantra.get("/api/v1/governance/risks", limit=1, cursor=cursor)

    assert (refused.status, refused.json["error"]) == (400, "invalid_cursor")


def test_controls_cannot_be_made_through_v1(novantra):
    body = {"controlKey": "a-control", "title": "A control", "reason": "As the sample suggests."}

    refused = novantra.post("/api/v1/governance/controls", body)

    assert (refused.status, refused.json["error"]) == (405, "method_not_allowed")
    assert "POST" not in refused.headers["allow"]
