"""Risks."""

from typing import ClassVar

from novantra.retrieval import Retrieved


class TestRisks(Retrieved):
    path, scope = "/api/v1/governance/risks", "governance.risks:read"
    collection = key = "risks"
    noun = "risk"
    members = (
        "id riskKey title description status subjectModuleKey subjectResourceType "
        "subjectResourceId subjectVersionId ownerResponsibilityAssignmentId createdAt updatedAt"
    )
    nulls = (
        "description subjectModuleKey subjectResourceType subjectResourceId subjectVersionId "
        "ownerResponsibilityAssignmentId"
    )
    filters = "status"
    first: ClassVar = {
        "riskKey": "single-supplier",
        "title": "Only one supplier for a part",
        "description": "It would take months to find another one.",
        "status": "under-treatment",
        "subjectModuleKey": "scope",
        "subjectResourceType": "engagement",
        "subjectResourceId": "peng_1",
        "subjectVersionId": "pengv_1",
        "ownerResponsibilityAssignmentId": "ra_1",
    }
    second: ClassVar = {"riskKey": "fire", "title": "Fire in the hangar", "status": "accepted"}
