"""Exceptions."""

from typing import ClassVar

from novantra.retrieval import Retrieved


class TestExceptions(Retrieved):
    path, scope = "/api/v1/governance/exceptions", "governance.exceptions:read"
    collection = key = "exceptions"
    noun = "exception"
    members = (
        "id exceptionKey title exceptionKind status subjectModuleKey subjectResourceType "
        "subjectResourceId subjectVersionId approverResponsibilityAssignmentId validFrom "
        "validUntil reviewDueAt createdAt updatedAt"
    )
    nulls = (
        "subjectModuleKey subjectResourceType subjectResourceId subjectVersionId "
        "approverResponsibilityAssignmentId validFrom validUntil reviewDueAt"
    )
    filters, choices = "status exceptionKind", "status"
    first: ClassVar = {
        "exceptionKey": "legacy-cipher",
        "title": "Old cipher on the test bench",
        "exceptionKind": "compensating-control",
        "status": "active",
        "subjectModuleKey": "scope",
        "subjectResourceType": "system",
        "subjectResourceId": "sys_1",
        "subjectVersionId": "sysv_1",
        "approverResponsibilityAssignmentId": "ra_1",
        "validFrom": "2026-01-01T00:00:00.000Z",
        "validUntil": "2026-12-31T23:59:59.000Z",
        "reviewDueAt": "2026-09-01T00:00:00.000Z",
    }
    second: ClassVar = {
        "exceptionKey": "late-patch",
        "title": "Patch after the season",
        "exceptionKind": "waiver",
        "status": "proposed",
    }
