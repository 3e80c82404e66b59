"""The templates that the product brings along."""

import pytest
import yaml
from stored import audit, ledger, tables

from factstore.pipelines import status_of
from factstore.trails import another_trail
from novantra_lite import read_template

HUB = "/api/v1/hub/templates"
#: Id, framework, version, and the attestations by name and type.
TEMPLATES = {
    "slsa-level-2": (
        "SLSA",
        "1.0",
        [("build-provenance", "build-provenance"), ("source-control", "source-control")],
    ),
    "slsa-level-3": (
        "SLSA",
        "1.0",
        [
            ("build-provenance", "build-provenance"),
            ("source-control", "source-control"),
            ("hermetic-build", "hermetic-build"),
            ("reproducible-build", "reproducible-build"),
        ],
    ),
    "pci-dss-v4": (
        "PCI-DSS",
        "4.0",
        [
            ("code-review", "code-review"),
            ("security-scan", "security-scan"),
            ("penetration-test", "penetration-test"),
            ("vulnerability-assessment", "vulnerability-scan"),
        ],
    ),
    "sox-itgc": (
        "SOX",
        "2024",
        [
            ("change-approval", "approval"),
            ("access-review", "access-review"),
            ("code-review", "code-review"),
            ("audit-log", "audit-trail"),
        ],
    ),
    "gdpr-art32": (
        "GDPR",
        "2018",
        [
            ("data-protection-review", "data-protection-review"),
            ("security-scan", "security-scan"),
            ("encryption-verified", "encryption-attestation"),
        ],
    ),
}


def test_there_are_five_templates(factstore):
    listed = factstore.get(HUB)

    assert listed.status == 200
    assert [(record["id"], record["framework"], record["version"]) for record in listed.json] == [
        (key, framework, version) for key, (framework, version, _) in TEMPLATES.items()
    ]
    assert all(record["name"] and record["description"] for record in listed.json)


@pytest.mark.parametrize("key", TEMPLATES)
def test_the_text_of_a_template_says_what_it_is_and_asks_for(factstore, key):
    body = factstore.get(f"{HUB}/{key}").json

    document = yaml.safe_load(body["yaml"])
    attestations = [{"name": name, "type": record_type} for name, record_type in TEMPLATES[key][2]]
    head = ("id", "name", "description", "framework", "version")
    assert list(body) == [*head, "yaml"]
    assert document == {
        **{member: body[member] for member in head},
        "trail": {"attestations": attestations},
    }
    assert read_template(body["yaml"]).names({}) == [name for name, _ in TEMPLATES[key][2]]


@pytest.mark.parametrize("key", TEMPLATES)
def test_a_template_becomes_a_flow(lite, factstore, key):
    template = factstore.get(f"{HUB}/{key}").json

    made = factstore.post(f"{HUB}/{key}/import")

    flow = made.json["id"]
    types = [record_type for _, record_type in TEMPLATES[key][2]]
    assert made.status == 201
    assert made.json.items() >= {"name": template["name"], "requiredApproverRoles": []}.items()
    assert made.json["description"] == template["description"]
    assert made.json["requiredAttestationTypes"] == types
    assert made.json["templateYaml"] == template["yaml"]
    assert factstore.get(f"/api/v1/flows/{flow}").json == made.json
    assert factstore.get(f"/api/v1/flows/{flow}/template").json["effectiveTemplate"]["id"] == key
    assert audit(lite)[-1][1:3] == ("flow.created", flow)
    assert ledger(lite)[-1] == ("FLOW_CREATED", flow)


def test_a_trail_of_an_imported_flow_is_compliant_with_all_that_the_template_asks(lite, factstore):
    flow = factstore.post(f"{HUB}/sox-itgc/import").json["id"]
    trail, states = another_trail(lite, flow), []

    for name, record_type in TEMPLATES["sox-itgc"][2]:
        body = {"name": name, "type": record_type, "status": "PASSED"}
        factstore.post(f"/api/v1/trails/{trail}/attestations", body)
        states.append(status_of(lite, trail))

    assert states == ["PENDING", "PENDING", "PENDING", "COMPLIANT"]


def test_a_template_is_imported_once(lite, factstore):
    factstore.post(f"{HUB}/sox-itgc/import")
    before = tables(lite)

    again = factstore.post(f"{HUB}/sox-itgc/import")

    assert again.status == 409
    assert again.json["message"] == "Flow with name 'SOX IT General Controls' already exists"
    assert tables(lite) == before


def test_a_dry_run_of_an_import_stores_nothing(lite, factstore):
    before = tables(lite)

    response = factstore.post(f"{HUB}/gdpr-art32/import", headers={"X-Dry-Run": "true"})

    assert (response.status, response.json["wouldCreate"]["name"]) == (200, "GDPR Article 32")
    assert tables(lite) == before


@pytest.mark.parametrize(("method", "rest"), [("GET", ""), ("POST", "/import")])
def test_a_template_that_is_not_there_is_not_found(factstore, method, rest):
    refused = factstore.request(method, f"{HUB}/iso-27001{rest}")

    assert refused.status == 404
    assert refused.json["message"].startswith("There is no template 'iso-27001'; there are slsa")


def test_who_may_only_read_may_not_import(lite):
    reader = lite.client("factstore:read")

    answers = [
        reader.get(HUB),
        reader.get(f"{HUB}/sox-itgc"),
        reader.post(f"{HUB}/sox-itgc/import"),
    ]

    assert [answer.status for answer in answers] == [200, 200, 403]
