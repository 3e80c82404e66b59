"""Regulatory frameworks, their controls, and the frameworks that every workspace knows."""

import pytest
from stored import audit, ledger, tables

from novantra_lite import NovantraLite

FRAMEWORKS = "/api/v1/frameworks"
NOON = "2026-06-01T12:00:00.000000Z"
NOBODY = "00000000-0000-4000-8000-000000000000"
SOX = "5eed0002-0000-4000-8000-000000000000"
GIVEN = {"name": "DORA", "version": "2025"}
CONTROL = {"controlId": "DORA-9", "title": "Protection and prevention"}


@pytest.fixture
def dora(factstore):
    return factstore.post(FRAMEWORKS, GIVEN).json["id"]


def test_every_workspace_knows_three_frameworks(factstore):
    existing = factstore.get(FRAMEWORKS).json

    assert [
        (
            record["name"],
            record["version"],
            record["orgSlug"],
            record["isActive"],
            {c["controlId"]: " ".join(c["requiredEvidenceTypes"]) for c in record["controls"]},
        )
        for record in existing
    ] == [
        (
            "PCI-DSS v4.0",
            "4.0",
            None,
            True,
            {
                "PCI-6.3.3": "SECURITY_SCAN PATCH_ATTESTATION",
                "PCI-6.4.1": "DAST_SCAN SECURITY_SCAN",
                "PCI-11.3.1": "SECURITY_SCAN",
                "PCI-12.3.4": "SECURITY_SCAN BUILD_ATTESTATION",
            },
        ),
        (
            "SOX",
            "2002",
            None,
            True,
            {
                "SOX-ITGC-1": "CHANGE_APPROVAL DEPLOYMENT_ATTESTATION",
                "SOX-ITGC-2": "ACCESS_REVIEW APPROVAL",
                "SOX-ITGC-3": "CODE_REVIEW BUILD_ATTESTATION",
                "SOX-ITGC-4": "AUDIT_LOG_ATTESTATION",
            },
        ),
        (
            "GDPR",
            "2018",
            None,
            True,
            {
                "GDPR-25": "PRIVACY_REVIEW SECURITY_SCAN",
                "GDPR-32": "SECURITY_SCAN ENCRYPTION_ATTESTATION",
                "GDPR-35": "DPIA_ATTESTATION",
                "GDPR-33": "INCIDENT_RESPONSE_ATTESTATION",
            },
        ),
    ]
    assert all(record["description"] for record in existing)
    assert {c["description"] for record in existing for c in record["controls"]} == {None}


def test_the_known_frameworks_are_the_same_records_in_every_workspace(tmp_path):
    with NovantraLite(tmp_path / "register.db") as lite:
        client = lite.client("factstore:read", "factstore:write")
        client.post(FRAMEWORKS, GIVEN)
        first = client.get(FRAMEWORKS).json
    with NovantraLite(tmp_path / "register.db") as lite, NovantraLite() as other:
        again = lite.client("factstore:read").get(FRAMEWORKS).json
        elsewhere = other.client("factstore:read").get(FRAMEWORKS).json

        assert again == first
        assert elsewhere == first[:3]
        assert first[1]["id"] == SOX
        assert first[1]["controls"][3]["id"] == "5eed0002-0000-4000-8000-000000000004"
        assert lite.verify() == []


@pytest.mark.parametrize(
    ("statement", "result"),
    [
        (
            "UPDATE regulatory_framework SET version = '1', json = json_set(json, '$.version', '1')"
            f" WHERE id = '{SOX}'",
            [f"Regulatory framework {SOX} is not what the ledger recorded."],
        ),
        (
            f"UPDATE regulatory_framework SET json = '{{}}' WHERE id = '{SOX}'",
            [f"The stored JSON of regulatory framework {SOX} differs from its columns."],
        ),
        (
            f"DELETE FROM regulatory_control WHERE id = '{SOX[:-1]}4'",
            [f"Regulatory control {SOX[:-1]}4 is in the ledger but not in its table."],
        ),
        (
            f"INSERT INTO regulatory_framework SELECT '{NOBODY}', name, version, description, "
            "is_active, org_slug, created_at, json_set(json, '$.id', "
            f"'{NOBODY}') FROM regulatory_framework WHERE id = '{SOX}'",
            [f"The ledger has no entry for regulatory framework {NOBODY}."],
        ),
    ],
)
def test_whatever_is_done_to_a_known_framework_behind_the_api_shows(lite, statement, result):
    before = lite.verify()

    lite.workspace.writer.database.connection().execute(statement)

    assert before == []
    assert lite.verify() == result


def test_a_framework_is_made_without_controls(lite, factstore):
    created = factstore.post(FRAMEWORKS, GIVEN | {"isActive": False, "controls": [CONTROL]})

    key = created.json["id"]
    assert created.status == 201
    assert created.json == {
        "id": key,
        "name": "DORA",
        "version": "2025",
        "description": None,
        "isActive": True,
        "orgSlug": None,
        "controls": [],
        "createdAt": NOON,
    }
    assert factstore.get(f"{FRAMEWORKS}/{key.upper()}").json == created.json
    assert factstore.get(FRAMEWORKS).json[3] == created.json
    assert audit(lite)[-1][1:3] == ("regulatory_framework.created", key)
    assert ledger(lite)[-1] == ("REGULATORY_FRAMEWORK_CREATED", key)
    assert lite.verify() == []


def test_everything_that_may_be_given_is_kept_and_names_may_repeat(factstore):
    factstore.post("/api/v1/organisations", {"slug": "acme", "name": "Acme"})
    body = {"name": "SOX", "version": "", "description": "Ours", "orgSlug": "acme"}

    first = factstore.post(FRAMEWORKS, body)
    second = factstore.post(FRAMEWORKS, body | {"version": 7})

    assert (first.status, second.status) == (201, 201)
    assert first.json.items() >= body.items()
    assert second.json["version"] == "7"
    assert first.json["id"] != second.json["id"]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"name": None}, 400),
        ({"name": "x" * 256}, 400),
        ({"name": {}}, 400),
        ({"version": None}, 400),
        ({"version": "x" * 51}, 400),
        ({"description": ["x"]}, 400),
        ({"orgSlug": "nobody"}, 404),
    ],
)
def test_a_wrong_framework_is_refused(lite, factstore, change, status):
    before = tables(lite)

    refused = factstore.post(FRAMEWORKS, GIVEN | change)

    assert refused.status == status
    assert next(iter(change)) in refused.json["message"] or "nobody" in refused.json["message"]
    assert tables(lite) == before


def test_controls_are_added_to_the_end(lite, factstore, dora):
    first = factstore.post(f"{FRAMEWORKS}/{dora}/controls", CONTROL)
    second = factstore.post(
        f"{FRAMEWORKS}/{dora}/controls",
        CONTROL | {"requiredEvidenceTypes": ["a||b", "", "a||b"], "description": "Again"},
    )

    assert (first.status, second.status) == (201, 201)
    assert first.json == {
        "id": first.json["id"],
        "frameworkId": dora,
        "controlId": "DORA-9",
        "title": "Protection and prevention",
        "description": None,
        "requiredEvidenceTypes": [],
        "createdAt": NOON,
    }
    assert second.json["requiredEvidenceTypes"] == ["a||b", "", "a||b"]
    assert factstore.get(f"{FRAMEWORKS}/{dora}").json["controls"] == [first.json, second.json]
    assert audit(lite)[-1][1:3] == ("regulatory_control.added", second.json["id"])
    assert ledger(lite)[-1] == ("REGULATORY_CONTROL_ADDED", second.json["id"])
    assert lite.verify() == []


def test_a_known_framework_takes_further_controls(lite, factstore):
    added = factstore.post(f"{FRAMEWORKS}/{SOX}/controls", CONTROL).json

    controls = factstore.get(f"{FRAMEWORKS}/{SOX}").json["controls"]
    assert len(controls) == 5
    assert controls[4] == added
    assert lite.verify() == []


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"controlId": None}, 400),
        ({"controlId": "x" * 101}, 400),
        ({"title": None}, 400),
        ({"title": "x" * 501}, 400),
        ({"requiredEvidenceTypes": "scan"}, 400),
        ({"requiredEvidenceTypes": [None]}, 400),
        ({"requiredEvidenceTypes": ["x" * 256]}, 400),
    ],
)
def test_a_wrong_control_is_refused(lite, factstore, dora, change, status):
    before = tables(lite)

    refused = factstore.post(f"{FRAMEWORKS}/{dora}/controls", CONTROL | change)

    assert refused.status == status
    assert next(iter(change)) in refused.json["message"]
    assert tables(lite) == before


@pytest.mark.parametrize(("key", "status"), [(NOBODY, 404), ("SOX", 400)])
def test_a_framework_that_is_not_there_is_not_found(factstore, key, status):
    read = factstore.get(f"{FRAMEWORKS}/{key}")
    added = factstore.post(f"{FRAMEWORKS}/{key}/controls", CONTROL)

    assert (read.status, added.status) == (status, status)
    assert status == 400 or read.json["message"] == (
        f"There is no regulatory framework with the id {NOBODY}."
    )


def test_a_dry_run_tells_what_would_be_made_and_makes_nothing(lite, factstore, dora):
    before = tables(lite)

    framework = factstore.post(FRAMEWORKS, GIVEN, headers={"X-Dry-Run": "true"})
    control = factstore.post(f"{FRAMEWORKS}/{dora}/controls", CONTROL, dryRun="true")

    assert (framework.status, control.status) == (200, 200)
    assert framework.json["wouldCreate"]["controls"] == []
    assert control.json["wouldCreate"]["frameworkId"] == dora
    assert tables(lite) == before
