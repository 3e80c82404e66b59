"""Monitoring."""

from typing import ClassVar

import pytest

from novantra.retrieval import Listed, Retrieved, make

MONITORING = "/api/v1/governance/monitoring"


def make_monitor(lite, key="backups"):
    return make(lite, "monitor-definitions", monitorKey=key, title="A monitor")


def make_run(lite, key="backups", **members):
    monitor = make_monitor(lite, key)
    members = {"aggregateResult": "pass"} | members
    return make(lite, "monitor-runs", monitorDefinitionId=monitor["id"], **members)


class TestDefinitions(Retrieved):
    path, scope = f"{MONITORING}/definitions", "governance.monitoring:read"
    collection, key = "monitor-definitions", "monitorDefinitions"
    noun = "monitorDefinition"
    members = (
        "id monitorKey title description status subjectModuleKey subjectResourceType "
        "subjectResourceId ownerResponsibilityAssignmentId createdAt updatedAt lastRunAt"
    )
    nulls = (
        "description subjectModuleKey subjectResourceType subjectResourceId "
        "ownerResponsibilityAssignmentId lastRunAt"
    )
    filters = choices = "status"
    first: ClassVar = {
        "monitorKey": "backups",
        "title": "Backups ran",
        "description": "Every night.",
        "status": "active",
        "subjectModuleKey": "scope",
        "subjectResourceType": "system",
        "subjectResourceId": "sys_1",
        "ownerResponsibilityAssignmentId": "ra_1",
        "lastRunAt": "2026-05-31T02:00:00.000Z",
    }
    second: ClassVar = {"monitorKey": "patches", "title": "Patches are in", "status": "paused"}


class TestRuns(Retrieved):
    path, scope = f"{MONITORING}/runs", "governance.monitoring:read"
    collection, key = "monitor-runs", "monitorRuns"
    noun = "monitorRun"
    members = (
        "id monitorDefinitionId triggerKind aggregateResult passCount failCount warningCount "
        "unknownCount startedAt completedAt createdAt"
    )
    nulls = "completedAt"
    filters, choices = "monitorDefinitionId result:aggregateResult", "result"

    def rows(self, lite):
        record, other = make_monitor(lite, "one"), make_monitor(lite, "other")
        return {
            "monitorDefinitionId": record["id"],
            "triggerKind": "scheduled",
            "aggregateResult": "fail",
            "passCount": 1243,
            "failCount": 7,
            "warningCount": 2,
            "unknownCount": 1,
            "startedAt": "2026-06-01T02:00:00.000Z",
            "completedAt": "2026-06-01T02:10:00.000Z",
        }, {"monitorDefinitionId": other["id"], "aggregateResult": "pass"}


class TestResultItems(Listed):
    path, scope = f"{MONITORING}/result-items", "governance.monitoring:read"
    collection, key = "monitor-result-items", "monitorResultItems"
    members = (
        "id monitorRunId monitorDefinitionId populationMemberKey subjectModuleKey "
        "subjectResourceType subjectResourceId result message findingId evaluatedAt"
    )
    nulls = "subjectModuleKey subjectResourceType subjectResourceId message findingId"
    filters = choices = "result"
    required = "monitorRunId"

    def rows(self, lite):
        run = make_run(lite)
        shared = {"monitorRunId": run["id"], "monitorDefinitionId": run["monitorDefinitionId"]}
        return {
            **shared,
            "populationMemberKey": "volume-1",
            "subjectModuleKey": "scope",
            "subjectResourceType": "volume",
            "subjectResourceId": "vol_1",
            "result": "fail",
            "message": "No backup since Friday.",
            "findingId": "find_1",
            "evaluatedAt": "2026-06-01T12:00:00.000Z",
        }, {**shared, "populationMemberKey": "volume-2", "result": "pass"}


def test_a_run_moves_its_monitors_last_run_and_an_older_one_does_not(lite):
    run = make_run(lite, startedAt="2026-06-01T02:00:00.000Z")
    older = {"aggregateResult": "fail", "startedAt": "2026-05-31T02:00:00.000Z"}

    make(lite, "monitor-runs", monitorDefinitionId=run["monitorDefinitionId"], **older)

    monitor = lite.collection("monitor-definitions").retrieve(run["monitorDefinitionId"])
    assert monitor["lastRunAt"] == "2026-06-01T02:00:00.000Z"


def test_result_items_are_asked_for_by_run(novantra):
    refused = novantra.get(f"{MONITORING}/result-items")

    assert refused.status == 400
    assert refused.json["issues"] == [{"path": ["monitorRunId"], "message": "Required"}]


@pytest.mark.parametrize("run", ["monrun_01HXY000000000000000000000", "nonsense"])
def test_an_unknown_run_has_no_result_items(novantra, run):
    response = novantra.get(f"{MONITORING}/result-items", monitorRunId=run)

    assert response.json == {"monitorResultItems": [], "pagination": {}}
