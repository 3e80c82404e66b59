"""Assets."""

from typing import ClassVar
from urllib.parse import quote

import pytest

from novantra.retrieval import Listed, Retrieved, make

ASSETS = "/api/v1/assets"


def make_asset(lite, key):
    return make(lite, "assets", assetKey=key, assetKind="calibrated-tool", displayName="A tool")


class TestAssets(Retrieved):
    path, scope = ASSETS, "assets:read"
    collection = key = "assets"
    noun = "asset"
    members = (
        "id assetKey assetKind displayName description sourceKind status "
        "custodianResponsibilityId commissionedAt decommissionedAt createdAt updatedAt"
    )
    nulls = "description custodianResponsibilityId commissionedAt decommissionedAt"
    filters = "status assetKind"
    first: ClassVar = {
        "assetKey": "torque-wrench-7",
        "assetKind": "calibrated-tool",
        "displayName": "Torque wrench 7",
        "description": "40 to 200 Nm.",
        "sourceKind": "cmms-import",
        "status": "active",
        "custodianResponsibilityId": "ra_1",
        "commissionedAt": "2020-01-01T00:00:00.000Z",
        "decommissionedAt": "2030-01-01T00:00:00.000Z",
    }
    second: ClassVar = {
        "assetKey": "van-2",
        "assetKind": "vehicle",
        "displayName": "Van 2",
        "status": "decommissioned",
    }


class TestCustodyAssignments(Listed):
    path, scope = f"{ASSETS}/custody-assignments", "assets:read"
    collection, key = "custody-assignments", "custodyAssignments"
    members = (
        "id assetId assignmentKey assignmentKind subjectModuleKey subjectResourceType "
        "subjectResourceId status startedAt endedAt createdAt updatedAt"
    )
    nulls = "endedAt"
    filters = "assetId status"

    def rows(self, lite):
        custodian = {
            "subjectModuleKey": "membership",
            "subjectResourceType": "member-user",
            "subjectResourceId": "user_1",
        }
        return {
            "assetId": make_asset(lite, "one")["id"],
            "assignmentKey": "wrench-to-anna",
            "assignmentKind": "primary",
            **custodian,
            "status": "ended",
            "startedAt": "2026-01-01T00:00:00.000Z",
            "endedAt": "2026-05-01T00:00:00.000Z",
        }, {
            "assetId": make_asset(lite, "other")["id"],
            "assignmentKey": "van-to-anna",
            **custodian,
            "status": "active",
        }


class TestReadinessAssessments(Listed):
    path, scope = f"{ASSETS}/readiness-assessments", "assets:read"
    collection, key = "readiness-assessments", "readinessAssessments"
    members = (
        "id assetId readinessAssessmentKey assessmentKind readinessState status performedAt "
        "performedByResponsibilityId createdAt updatedAt"
    )
    nulls = "performedAt performedByResponsibilityId"
    filters = "assetId readinessState"

    def rows(self, lite):
        return {
            "assetId": make_asset(lite, "one")["id"],
            "readinessAssessmentKey": "wrench-2026",
            "assessmentKind": "calibration",
            "readinessState": "ready",
            "status": "completed",
            "performedAt": "2026-05-01T00:00:00.000Z",
            "performedByResponsibilityId": "ra_1",
        }, {
            "assetId": make_asset(lite, "other")["id"],
            "readinessAssessmentKey": "van-2026",
            "assessmentKind": "inspection",
            "readinessState": "not-ready",
        }


@pytest.mark.parametrize("literal", ["custody-assignments", "readiness-assessments"])
def test_a_literal_segment_is_not_taken_for_an_id(novantra, literal):
    response = novantra.get(f"{ASSETS}/{literal}")

    assert (response.status, response.json["pagination"]) == (200, {})


def test_assets_are_not_below_governance(novantra):
    refused = novantra.get("/api/v1/governance/assets")

    assert (refused.status, refused.json["error"]) == (404, "not_found")


@pytest.mark.parametrize("value", ["", "no such status", "x" * 5000, "💥"])
@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/assets?status=",
        "/api/v1/assets?assetKind=",
        "/api/v1/assets/custody-assignments?assetId=",
        "/api/v1/governance/evidence/claims?status=",
    ],
)
def test_whatever_a_filter_of_free_text_holds_it_matches_nothing_at_worst(novantra, path, value):
    listed = novantra.get(path + quote(value))

    assert (listed.status, listed.json["pagination"]) == (200, {})
    assert [rows for name, rows in listed.json.items() if name != "pagination"] == [[]]
