"""Assessments."""

from typing import ClassVar

import pytest
from conftest import WHY
from stored import audit, events

from novantra.retrieval import Retrieved, make
from novantra_lite import Unprocessable


class TestAssessments(Retrieved):
    path, scope = "/api/v1/governance/assessments", "governance.assessments:read"
    collection = key = "assessments"
    noun = "assessment"
    members = (
        "id assessmentKey title description status subjectModuleKey subjectResourceType "
        "subjectResourceId subjectVersionId assessorResponsibilityAssignmentId "
        "reviewerResponsibilityAssignmentId createdAt updatedAt completedAt"
    )
    nulls = (
        "description subjectModuleKey subjectResourceType subjectResourceId subjectVersionId "
        "assessorResponsibilityAssignmentId reviewerResponsibilityAssignmentId completedAt"
    )
    filters = choices = "status"
    first: ClassVar = {
        "assessmentKey": "access-2026",
        "title": "Access review 2026",
        "description": "Every account, once a year.",
        "status": "completed",
        "subjectModuleKey": "scope",
        "subjectResourceType": "system",
        "subjectResourceId": "sys_1",
        "subjectVersionId": "sysv_1",
        "assessorResponsibilityAssignmentId": "ra_1",
        "reviewerResponsibilityAssignmentId": "ra_2",
        "completedAt": "2026-05-30T08:00:00.000Z",
    }
    second: ClassVar = {
        "assessmentKey": "access-2027",
        "title": "Access review 2027",
        "status": "planned",
    }


@pytest.fixture
def running(lite):
    return make(
        lite, "assessments", assessmentKey="a-1", title="Access review", status="in-progress"
    )


def test_completing_an_assessment_dates_it_and_tells_of_it(lite, clock, running):
    clock.advance(60)

    lite.collection("assessments").update(running["id"], status="completed", reason=WHY)

    stored = lite.collection("assessments").retrieve(running["id"])
    assert stored["completedAt"] == stored["updatedAt"] == "2026-06-01T12:01:00.000Z"
    assert audit(lite)[-1] == ("console", "assessment.updated", running["id"], WHY)
    assert events(lite) == [
        (
            "assessment.completed",
            {
                "assessment": {
                    "id": running["id"],
                    "assessmentKey": "a-1",
                    "title": "Access review",
                    "status": "completed",
                    "subjectModuleKey": None,
                    "subjectResourceType": None,
                    "subjectResourceId": None,
                    "createdAt": "2026-06-01T12:00:00.000Z",
                    "completedAt": "2026-06-01T12:01:00.000Z",
                }
            },
        )
    ]


def test_a_status_that_cannot_follow_changes_nothing(lite, running):
    with pytest.raises(Unprocessable, match="in-progress and cannot become superseded"):
        lite.collection("assessments").update(running["id"], status="superseded", reason=WHY)

    assert lite.collection("assessments").retrieve(running["id"]) == running
    assert events(lite) == []
