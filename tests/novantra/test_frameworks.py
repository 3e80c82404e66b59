"""Frameworks."""

from typing import ClassVar

import pytest

from novantra.retrieval import Listed, Retrieved, make

FRAMEWORKS = "/api/v1/governance/frameworks"


@pytest.fixture
def framework(lite):
    return make(lite, "frameworks", frameworkKey="info-sec", name="Information security")


def make_version(lite, framework_key="info-sec", version_key="2024"):
    framework = make(lite, "frameworks", frameworkKey=framework_key, name="A framework")
    return make(
        lite,
        "framework-versions",
        frameworkId=framework["id"],
        versionKey=version_key,
        versionLabel="An edition",
    )


def make_node(lite, version, node_key="a", **members):
    named = {"nodeKey": node_key, "referenceCode": node_key.upper(), "title": "A node"}
    versioned = {"frameworkVersionId": version["id"], "nodeKind": "group"}
    return make(lite, "framework-nodes", **named, **versioned, **members)


class TestFrameworks(Retrieved):
    path, scope = FRAMEWORKS, "governance.frameworks:read"
    collection = key = "frameworks"
    noun = "framework"
    members = "id frameworkKey name description status sourceKind createdAt updatedAt"
    nulls = "description"
    filters = choices = "status"
    first: ClassVar = {
        "frameworkKey": "info-sec",
        "name": "Information security",
        "description": "What everybody asks for.",
        "status": "active",
        "sourceKind": "standard",
    }
    second: ClassVar = {
        "frameworkKey": "internal-patient-policy",
        "name": "Patient policy",
        "status": "retired",
    }


class TestVersions(Listed):
    path, scope = f"{FRAMEWORKS}/versions", "governance.frameworks:read"
    collection, key = "framework-versions", "versions"
    members = (
        "id frameworkId versionKey versionLabel status sourceKind publishedAt effectiveFrom "
        "effectiveUntil createdAt updatedAt"
    )
    nulls = "publishedAt effectiveFrom effectiveUntil"
    filters = "frameworkId status"

    def rows(self, lite):
        result = make(lite, "frameworks", frameworkKey="one", name="One")
        other = make(lite, "frameworks", frameworkKey="other", name="Other")
        return {
            "frameworkId": result["id"],
            "versionKey": "2024",
            "versionLabel": "2024 publication",
            "status": "active",
            "sourceKind": "standard",
            "publishedAt": "2024-02-01T00:00:00.000Z",
            "effectiveFrom": "2024-07-01T00:00:00.000Z",
            "effectiveUntil": "2029-06-30T23:59:59.000Z",
        }, {
            "frameworkId": other["id"],
            "versionKey": "2019",
            "versionLabel": "2019 publication",
            "status": "superseded",
        }


class TestNodes(Listed):
    path, scope = f"{FRAMEWORKS}/nodes", "governance.frameworks:read"
    collection, key = "framework-nodes", "nodes"
    members = (
        "id frameworkVersionId parentNodeId nodeKey referenceCode title description nodeKind "
        "status sortOrder createdAt updatedAt"
    )
    nulls = "parentNodeId description"
    filters = "frameworkVersionId"

    def rows(self, lite):
        record, other = make_version(lite, "one"), make_version(lite, "other")
        return {
            "frameworkVersionId": record["id"],
            "nodeKey": "ac-1",
            "referenceCode": "AC-1",
            "title": "Policy and procedures",
            "description": "Develop, document and disseminate.",
            "nodeKind": "control",
            "status": "active",
            "sortOrder": 3,
        }, {
            "frameworkVersionId": other["id"],
            "nodeKey": "ac",
            "referenceCode": "AC",
            "title": "Access control",
            "nodeKind": "group",
        }


class TestCoverageLinks(Listed):
    path, scope = f"{FRAMEWORKS}/coverage-links", "governance.frameworks:read"
    collection, key = "coverage-links", "coverageLinks"
    members = (
        "id frameworkVersionId frameworkNodeId subjectModuleKey subjectResourceType "
        "subjectResourceId coverageKind status createdAt updatedAt"
    )
    filters = "frameworkVersionId frameworkNodeId"

    def rows(self, lite):
        record, other = make_version(lite, "one"), make_version(lite, "other")
        control = make(lite, "controls", controlKey="c-1", title="A control")
        subject = {
            "subjectModuleKey": "controls",
            "subjectResourceType": "control",
            "subjectResourceId": control["id"],
        }
        return {
            "frameworkVersionId": record["id"],
            "frameworkNodeId": make_node(lite, record)["id"],
            **subject,
            "coverageKind": "full",
            "status": "active",
        }, {
            "frameworkVersionId": other["id"],
            "frameworkNodeId": make_node(lite, other)["id"],
            **subject,
            "coverageKind": "partial",
        }


def test_the_nodes_below_a_node_are_found_by_it(lite, novantra):
    version = make_version(lite)
    group = make_node(lite, version, "ac")
    control = make_node(lite, version, "ac-1", parentNodeId=group["id"])
    make_node(lite, version, "ac-1.1", parentNodeId=control["id"])

    response = novantra.get(f"{FRAMEWORKS}/nodes", parentNodeId=group["id"])

    assert response.json == {"nodes": [control], "pagination": {}}


@pytest.mark.parametrize("literal", ["versions", "nodes", "coverage-links"])
def test_a_literal_segment_is_not_taken_for_an_id(novantra, framework, literal):
    response = novantra.get(f"{FRAMEWORKS}/{literal}")

    assert (response.status, "framework" in response.json) == (200, False)
