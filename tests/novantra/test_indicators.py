"""Indicators."""

from typing import ClassVar

import pytest
from conftest import WHY

from novantra.retrieval import Listed, Retrieved, make
from novantra_lite import Invalid

INDICATORS = "/api/v1/governance/indicators"


@pytest.fixture
def indicator(lite):
    return make(lite, "indicators", indicatorKey="patched", title="Patched", indicatorKind="kpi")


def measure(lite, indicator, value, at):
    return make(
        lite,
        "indicator-measurements",
        indicatorDefinitionId=indicator["id"],
        measurementValue=value,
        measuredAt=at,
    )


class TestIndicators(Retrieved):
    path, scope = INDICATORS, "governance.indicators:read"
    collection = key = "indicators"
    noun = "indicator"
    members = (
        "id indicatorKey title indicatorKind status subjectModuleKey subjectResourceType "
        "subjectResourceId ownerResponsibilityAssignmentId createdAt updatedAt "
        "latestMeasurementValue latestMeasurementAt"
    )
    nulls = (
        "subjectModuleKey subjectResourceType subjectResourceId ownerResponsibilityAssignmentId "
        "latestMeasurementValue latestMeasurementAt"
    )
    filters, choices = "status indicatorKind", "indicatorKind"
    first: ClassVar = {
        "indicatorKey": "patched-in-time",
        "title": "Patched in time",
        "indicatorKind": "kpi",
        "status": "active",
        "subjectModuleKey": "scope",
        "subjectResourceType": "system",
        "subjectResourceId": "sys_1",
        "ownerResponsibilityAssignmentId": "ra_1",
        "latestMeasurementValue": "94.5",
        "latestMeasurementAt": "2026-05-31T00:00:00.000Z",
    }
    second: ClassVar = {
        "indicatorKey": "open-risks",
        "title": "Open risks",
        "indicatorKind": "kri",
        "status": "draft",
    }


class TestMeasurements(Listed):
    path, scope = f"{INDICATORS}/measurements", "governance.indicators:read"
    collection, key = "indicator-measurements", "measurements"
    members = (
        "id indicatorDefinitionId measurementValue measuredAt thresholdState sourceKind createdAt"
    )
    nulls = "thresholdState sourceKind"
    filters = "since:measuredAt"
    choices = "since"
    required = "indicatorDefinitionId"

    def rows(self, lite):
        members = {"indicatorKey": "patched", "title": "Patched", "indicatorKind": "kpi"}
        indicator = make(lite, "indicators", **members)
        return {
            "indicatorDefinitionId": indicator["id"],
            "measurementValue": "94.5",
            "measuredAt": "2026-05-30T00:00:00.000Z",
            "thresholdState": "within",
            "sourceKind": "manual",
        }, {"indicatorDefinitionId": indicator["id"], "measurementValue": "93"}


def test_since_takes_its_own_moment_in(lite, novantra, indicator):
    measure(lite, indicator, "1", "2026-05-01T00:00:00.000Z")
    second = measure(lite, indicator, "2", "2026-05-02T00:00:00.000Z")
    query = {"indicatorDefinitionId": indicator["id"], "since": "2026-05-02T04:00:00+04:00"}

    response = novantra.get(f"{INDICATORS}/measurements", **query)

    assert response.json["measurements"] == [second]


def test_measurements_are_asked_for_by_indicator(novantra):
    refused = novantra.get(f"{INDICATORS}/measurements")

    assert refused.status == 400
    assert refused.json["issues"] == [{"path": ["indicatorDefinitionId"], "message": "Required"}]


def test_an_unknown_indicator_has_no_measurements(novantra):
    query = {"indicatorDefinitionId": "ind_01HXY000000000000000000000"}

    response = novantra.get(f"{INDICATORS}/measurements", **query)

    assert response.json == {"measurements": [], "pagination": {}}


def test_the_latest_measurement_is_told_by_the_indicator_as_text(lite, novantra, indicator):
    measure(lite, indicator, "94.5", "2026-05-02T00:00:00.000Z")
    measure(lite, indicator, "90", "2026-05-01T00:00:00.000Z")

    matches = novantra.get(f"{INDICATORS}/{indicator['id']}").json["indicator"]

    assert matches["latestMeasurementValue"] == "94.5"
    assert matches["latestMeasurementAt"] == "2026-05-02T00:00:00.000Z"


@pytest.mark.parametrize("value", [94.5, "94,5", "", "1e3", "NaN"])
def test_a_measurement_is_a_decimal_in_text(lite, indicator, value):
    with pytest.raises(Invalid, match="measurementValue"):
        lite.collection("indicator-measurements").create(
            indicatorDefinitionId=indicator["id"], measurementValue=value, reason=WHY
        )
