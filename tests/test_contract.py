"""Every operation of both surfaces, whatever its chapter: who may, what is refused, and how."""

import json
import random
import re
from urllib.parse import urlencode

import pytest
from conftest import NOON, WHY, Clock
from multipart import FORM, form, part
from records import DIGEST, DOCUMENT, FILE, REGO, Records, example_body, other_services
from stored import tables

import novantra_lite
from novantra_lite import FACTSTORE, NOVANTRA, NovantraLite, every_operation

OPERATIONS = every_operation()
GUARDED = [operation for operation in OPERATIONS if not operation.public]
READS = [operation for operation in GUARDED if operation.method == "GET"]
WRITES = [operation for operation in GUARDED if operation.method != "GET"]
#: The one that refuses every module, since no WASM runtime is installed, is tested with policies.
DOING = [one for one in WRITES if one.path != "/api/v1/policies/{policyId}/wasm"]
SIGNED = [operation for operation in OPERATIONS if operation.signed]
#: The lists that have cursors; those of Factstore have none.
LISTS = [operation for operation in READS if "cursor" in operation.query.members]
WITH_BODY = [operation for operation in OPERATIONS if operation.body is not novantra_lite.EMPTY]
WITH_JSON = [operation for operation in WITH_BODY if "application/json" in operation.media]
WITH_FORM = [operation for operation in WITH_BODY if "multipart/form-data" in operation.media]
SCOPES = (*novantra_lite.novantra_scopes(), *novantra_lite.FACTSTORE_SCOPES)
CODES = {
    400: ("validation", "Bad Request"),
    401: ("unauthenticated", "Unauthorized"),
    403: ("forbidden", "Forbidden"),
    404: ("not_found", "Not Found"),
    405: ("method_not_allowed", "Method Not Allowed"),
    409: ("conflict", "Conflict"),
    413: ("payload_too_large", "Request Entity Too Large"),
    415: ("unsupported_media_type", "Unsupported Media Type"),
    422: ("unprocessable", "Unprocessable Entity"),
    429: ("rate_limited", "Too Many Requests"),
}
CONTRACTED = ("/api/v1", "/api/v2")


def line(operation):
    return f"{operation.method} {operation.path}"


def each(operations, name="operation"):
    """Run a test once for each of these operations."""
    return pytest.mark.parametrize(name, operations, ids=line)


def filled(path):
    """A path whose parameters name nothing that is there."""
    return re.sub(r"{\w+}", "00000000-0000-4000-8000-000000000000", path)


def check(answer, surface=NOVANTRA, *statuses):
    """Hold an answer to what every answer promises, and a refusal to its surface's envelope."""
    headers = answer.headers
    assert answer.status < 500
    assert answer.status in statuses or not statuses
    assert re.fullmatch("req_[0-9A-HJKMNP-TV-Z]{26}", headers["x-request-id"])
    assert int(headers["x-ratelimit-limit"]) >= int(headers["x-ratelimit-remaining"]) >= 0
    assert NOON < int(headers["x-ratelimit-reset"]) <= NOON + 60
    assert headers["x-ratelimit-bucket"] in ("token-read", "token-write", "org")
    if answer.status < 400:
        return answer
    assert headers["content-type"] == "application/json"
    if surface is NOVANTRA:
        assert answer.json["error"] in (CODES[answer.status][0], "invalid_cursor")
        assert list(answer.json) in (
            ["error", "message", "requestId"],
            ["error", "message", "issues", "requestId"],
        )
        assert answer.json["requestId"] == headers["x-request-id"]
        for issue in answer.json.get("issues", []):
            assert list(issue) == ["path", "message"]
            assert isinstance(issue["path"], list)
    else:
        assert list(answer.json) == ["status", "error", "message", "timestamp"]
        assert answer.json["status"] == answer.status
        assert answer.json["error"] in CODES[answer.status]
        assert answer.json["timestamp"] == "2026-06-01T12:00:00.000000Z"
    assert answer.json["message"]
    assert not re.search(r"Traceback|peewee|sqlite|SELECT|\.py\b", answer.body.decode())
    return answer


@pytest.fixture(scope="module")
def lite():
    """One install for all that is only asked and refused."""
    with NovantraLite(
        clock=Clock(),
        random=random.Random(7),
        rate_limits=False,
        finding_updates=True,
        json_limit=20_000,
        claim_limit=30_000,
        upload_limit=40_000,
    ) as lite:
        yield lite


@pytest.fixture(scope="module")
def client(lite):
    return lite.client(*SCOPES)


@pytest.fixture(scope="module")
def document(lite):
    return lite.client().get("/api/v1/openapi.json").json


# --- Who may ------------------------------------------------------------------


UNUSABLE = [
    {},
    {"Authorization": ""},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer workspace.forged"},
    {"Authorization": "Bearer .\u00e9\u00ff"},
    {"Authorization": "Basic c3ZjOnNlY3JldA=="},
    {"Authorization": "Digest x"},
]


@each(GUARDED)
def test_an_operation_is_refused_without_credentials(lite, operation):
    for headers in UNUSABLE:
        refused = lite.client().request(operation.method, filled(operation.path), headers=headers)

        check(refused, operation.surface, 401)
        assert refused.headers["www-authenticate"].startswith("Bearer")


@each(GUARDED)
def test_an_operation_is_refused_to_a_token_without_its_scope(lite, operation):
    # To administer is to govern too.
    lacking = {operation.scope, operation.scope.replace(":govern", ":admin")}
    others = [scope for scope in SCOPES if scope not in lacking]
    client = novantra_lite.Client(lite, {"Authorization": f"Bearer {lite.token(*others)}"})

    refused = client.request(operation.method, filled(operation.path), json={})

    check(refused, operation.surface, 403)
    assert operation.scope in refused.json["message"]
    assert refused.headers["www-authenticate"] == (
        f'Bearer error="insufficient_scope", scope="{operation.scope}"'
    )


def test_every_operation_that_is_not_public_has_a_scope():
    public = {line(operation) for operation in OPERATIONS if not operation.scope}

    assert public == {
        "POST /api/v1/auth/token",
        "POST /api/v1/organisations/{slug}/slack/actions",
        "POST /api/v1/organisations/{slug}/slack/commands",
        "POST /api/v1/webhooks/{source}",
        "GET /api/health/live",
        "GET /api/health/ready",
        "GET /api/v1/openapi.json",
        "GET /api/v1/organisations/{slug}/sso/login",
        "GET /api/v1/organisations/{slug}/sso/callback",
        "GET /actuator/health",
        "GET /api-docs",
        "GET /swagger-ui.html",
        "GET /docs",
        "GET /",
    }


def test_the_scopes_of_novantra_are_the_eighteen_of_the_contract():
    assert novantra_lite.novantra_scopes() == [
        "assets:read",
        "change-management:read",
        "governance.assessments:read",
        "governance.controls:read",
        "governance.evidence:read",
        "governance.evidence:write",
        "governance.exceptions:read",
        "governance.findings:read",
        "governance.findings:write",
        "governance.frameworks:read",
        "governance.indicators:read",
        "governance.monitoring:read",
        "governance.risks:read",
        "governance.submissions:read",
        "governance.submissions:write",
        "organization:read",
        "party-engagements:read",
        "vulnerability-management:read",
    ]


# --- What is documented -------------------------------------------------------


@each([operation for operation in OPERATIONS if operation.path.startswith(CONTRACTED)])
def test_an_operation_is_documented(document, operation):
    described = document["paths"][operation.path][operation.method.lower()]

    parameters = {(p["in"], p["name"]) for p in described.get("parameters", [])}
    assert described["summary"]
    assert str(operation.status) in described["responses"]
    assert {("path", name) for name in re.findall(r"{(\w+)}", operation.path)} <= parameters
    assert {("query", name) for name in operation.query.members} <= parameters
    assert ("requestBody" in described) == (operation.body is not novantra_lite.EMPTY)
    assert described.get("x-setting", "") == operation.setting
    assert (("header", "Idempotency-Key") in parameters) == (operation in WRITES)


def test_operation_ids_are_unique(document):
    ids = [
        described["operationId"]
        for operations in document["paths"].values()
        for described in operations.values()
    ]

    assert len(ids) == len(set(ids))


# --- What every answer carries ------------------------------------------------


@each(OPERATIONS)
def test_every_answer_carries_its_headers(client, operation):
    required = dict.fromkeys(operation.query.required, "x")

    answer = client.request(operation.method, filled(operation.path), json={}, **required)

    check(answer, operation.surface)


# --- Dry runs -----------------------------------------------------------------


@pytest.fixture(scope="module")
def others():
    with other_services() as settings:
        yield settings


@pytest.fixture
def prepared(clock, others):
    """A fresh install that makes what a request names."""
    with NovantraLite(
        self_approval=True,
        clock=clock,
        random=random.Random(7),
        rate_limits=False,
        finding_updates=True,
        **others,
    ) as lite:
        client = lite.client(*SCOPES)
        yield lite, client, Records(lite, client)


KEY = {"label": "ci", "ttlDays": 30, "scopes": ["factstore:read"]}
SSO = {
    "provider": "OKTA",
    "issuerUrl": "{issuer}",
    "clientId": "shop",
    "clientSecret": "s3cret",
    "attributeMappings": '{"email": "mail"}',
    "groupRoleMappings": '{"admins": "ADMIN"}',
    "isMandatory": True,
}
#: For every write, a body with all its members; {words} are ids of records. A form is a pair of
#: headers and bytes.
BODIES = {
    "POST /api/v1/governance/evidence/claims": {
        "evidenceRequirementId": "{evidenceRequirementId}",
        "title": "A claim",
        "claimKey": "claim-1",
        "description": "Something",
        "subjectModuleKey": None,
        "subjectResourceType": None,
        "subjectResourceId": None,
        "validFrom": "2026-01-01T00:00:00Z",
        "validUntil": "2026-12-31T00:00:00Z",
        "sourceKind": "manual",
        "collectedAt": "2026-01-01T00:00:00Z",
        "attachments": [
            {"fileName": "a.txt", "contentType": "text/plain", "contentBase64": "YWJj"}
        ],
        "reason": WHY,
    },
    "POST /api/v1/governance/findings": {
        "title": "A finding",
        "severity": "low",
        "findingKey": "finding-1",
        "description": "Something",
        "sourceKind": "manual",
        "sourceModuleKey": "external",
        "sourceResourceType": "scan",
        "sourceResourceId": "1",
        "subjectModuleKey": None,
        "subjectResourceType": None,
        "subjectResourceId": None,
        "ownerResponsibilityId": "ra_1",
        "ownerMemberUserId": "user_1",
        "dueAt": "2026-07-01T00:00:00Z",
        "reason": WHY,
    },
    "PATCH /api/v1/governance/findings/{findingId}": {"status": "triaged", "reason": WHY},
    "POST /api/v1/governance/submissions/events": {
        "submissionPackageId": "{packageId}",
        "eventKind": "submission",
        "occurredAt": "2026-06-01T00:00:00Z",
        "externalReference": "REG-1",
        "note": "A note",
        "reason": WHY,
    },
    "POST /api/v1/governance/submissions/packages/{packageId}/events": {
        "eventKind": "submission",
        "occurredAt": "2026-06-01T00:00:00Z",
        "externalReference": "REG-1",
        "note": "A note",
        "reason": WHY,
    },
    "POST /api/v1/organisations": {
        "slug": "other",
        "name": "Other",
        "description": "Something",
        "type": "SHARED",
    },
    "PUT /api/v1/organisations/{slug}": {"name": "Renamed", "description": "Something"},
    "DELETE /api/v1/organisations/{slug}": {},
    "POST /api/v1/flows": {
        "name": "other",
        "description": "Something",
        "requiredAttestationTypes": ["junit"],
        "tags": {"team": "money"},
        "orgSlug": "{slug}",
        "templateYaml": "version: 1",
        "requiresApproval": True,
        "requiredApproverRoles": ["boss"],
        "visibility": "PUBLIC",
    },
    "PUT /api/v1/flows/{flowId}": {
        "name": "renamed",
        "description": "Something",
        "requiredAttestationTypes": ["junit"],
        "tags": {"team": "money"},
        "templateYaml": "version: 1",
        "requiresApproval": True,
        "requiredApproverRoles": ["boss"],
        "visibility": "PUBLIC",
    },
    "DELETE /api/v1/flows/{flowId}": {},
    "POST /api/v1/flows/{flowId}/security-thresholds": {
        "maxCritical": 1,
        "maxHigh": 2,
        "maxMedium": None,
        "maxLow": 5,
    },
    "POST /api/v1/organisations/{slug}/scm-integrations": {"provider": "GITLAB", "token": "x"},
    "DELETE /api/v1/organisations/{slug}/scm-integrations/{provider}": {},
    "POST /api/v1/trails": {
        "flowId": "{flowId}",
        "gitCommitSha": "c0ffee",
        "gitBranch": "main",
        "gitAuthor": "Ann",
        "gitAuthorEmail": "ann@example.org",
        "pullRequestId": "17",
        "pullRequestReviewer": "Bea",
        "deploymentActor": "ci",
        "orgSlug": "{slug}",
        "templateYaml": "version: 1",
        "buildUrl": "https://ci.example.org/1",
        "name": "build-1",
    },
    "POST /api/v1/trails/{trailId}/artifacts": {
        "imageName": "shop",
        "imageTag": "1.0",
        "sha256Digest": DIGEST,
        "registry": "registry.example.org",
        "reportedBy": "ci",
        "orgSlug": "{slug}",
        "artifactType": "DOCKER",
        "buildUrl": "https://ci.example.org/1",
        "commitUrl": "https://git.example.org/1",
    },
    "POST /api/v1/trails/{trailId}/artifacts/{artifactId}/provenance": {
        "builderId": "ci",
        "builderType": "GENERIC",
        "buildConfigUri": "https://git.example.org/ci.yml",
        "sourceRepositoryUri": "https://git.example.org",
        "sourceCommitSha": "c0ffee",
        "buildStartedOn": "2026-06-01T10:00:00Z",
        "buildFinishedOn": "2026-06-01T11:00:00Z",
        "provenanceSignature": "c2lnbmVk",
        "slsaLevel": "L2",
    },
    "POST /api/v1/trails/{trailId}/artifacts/{artifactId}/provenance/verify": {"publicKey": None},
    "POST /api/v1/trails/{trailId}/attestations": {
        "type": "junit",
        "status": "PASSED",
        "details": "All green.",
        "name": "unit",
        "evidenceUrl": "https://ci.example.org/1",
        "orgSlug": "{slug}",
        "metadata": {"tests": 12},
    },
    "POST /api/v1/trails/{trailId}/attestations/{attestationId}/evidence": FILE,
    "POST /api/v1/trails/{trailId}/coverage": {
        "tool": "jacoco",
        "passed": True,
        "lineCoverage": 80.5,
        "branchCoverage": 70,
        "minCoverage": 60,
        "reportFileName": "jacoco.xml",
        "reportFileHash": "ab" * 32,
        "details": "Good.",
    },
    "POST /api/v1/evidence/collect": {
        "items": [
            {
                "trailId": "{trailId}",
                "evidenceType": "junit",
                "tool": "maven",
                "passed": True,
                "details": "Good.",
            }
        ]
    },
    "POST /api/v1/trails/{trailId}/attestations/pull-request": {
        "provider": "GITHUB",
        "repository": "acme/shop",
        "commitSha": "c0ffee",
        "assertOnMissing": False,
        "orgSlug": "{slug}",
        "repositoryOwner": "acme",
        "repositoryName": "shop",
        "prNumber": 42,
    },
    "POST /api/v2/attestations/oidc": {
        "trailId": "{trailId}",
        "orgSlug": "{slug}",
        "token": "{token}",
    },
    "POST /api/v1/trails/{trailId}/approvals": {
        "requiredApprovers": ["ann"],
        "comments": "Please.",
        "deadline": "2026-07-01T00:00:00Z",
        "trailId": "{trailId}",
    },
    "POST /api/v1/approvals/{approvalId}/approve": {"approverIdentity": "ann", "comments": "Yes."},
    "POST /api/v1/approvals/{approvalId}/reject": {"approverIdentity": "ann", "comments": "No."},
    "POST /api/v1/assert": {"sha256Digest": DIGEST, "flowId": "{flowId}"},
    "POST /api/v1/environments": {
        "name": "production",
        "type": "K8S",
        "description": "Where it runs",
        "orgSlug": "{slug}",
        "driftPolicy": "BLOCK",
        "scope": {"include": {"names": ["shop"], "patterns": ["shop-.*"]}, "exclude": None},
    },
    "PUT /api/v1/environments/{environmentId}": {
        "name": "renamed",
        "type": "ECS",
        "description": "Where it runs",
        "driftPolicy": "WARN",
        "scope": None,
    },
    "DELETE /api/v1/environments/{environmentId}": {},
    "POST /api/v1/environments/{environmentId}/snapshots": {
        "recordedBy": "agent",
        "artifacts": [
            {
                "artifactSha256": DIGEST,
                "artifactName": "shop",
                "artifactTag": "1.0",
                "instanceCount": 2,
            }
        ],
    },
    "POST /api/v1/environments/{environmentId}/baselines": {
        "snapshotId": "{snapshotId}",
        "approvedBy": "ann",
        "description": "As of June",
    },
    "POST /api/v1/environments/{environmentId}/allowlist": {
        "sha256": DIGEST,
        "namePattern": "shop-.*",
        "reason": WHY,
        "approvedBy": "ann",
        "expiresAt": "2026-07-01T00:00:00Z",
    },
    "DELETE /api/v1/environments/{environmentId}/allowlist/{entryId}": {},
    "POST /api/v1/logical-environments": {"name": "production", "description": "All of it"},
    "PUT /api/v1/logical-environments/{logicalEnvironmentId}": {
        "name": "renamed",
        "description": "All of it",
    },
    "DELETE /api/v1/logical-environments/{logicalEnvironmentId}": {},
    "POST /api/v1/logical-environments/{logicalEnvironmentId}/members/{physicalEnvironmentId}": {},
    "DELETE /api/v1/logical-environments/{logicalEnvironmentId}/members/{physicalEnvironmentId}": (
        {}
    ),
    "POST /api/v1/policies": {
        "name": "careful",
        "enforceProvenance": True,
        "enforceTrailCompliance": True,
        "requiredAttestationTypes": ["junit"],
        "orgSlug": "{slug}",
        "policyType": "ATTESTATION_COUNT",
        "threshold": 2,
        "requireSignature": True,
        "policyEvaluator": "opa",
    },
    "PUT /api/v1/policies/{policyId}": {
        "name": "renamed",
        "enforceProvenance": True,
        "enforceTrailCompliance": True,
        "requiredAttestationTypes": ["junit"],
        "policyType": "APPROVAL_REQUIRED",
        "threshold": 2,
        "requireSignature": True,
        "policyEvaluator": "opa",
    },
    "DELETE /api/v1/policies/{policyId}": {},
    "PUT /api/v1/policies/{policyId}/wasm": {"wasmContent": "AGFzbQEAAAA="},
    "POST /api/v1/policy-attachments": {
        "policyId": "{policyId}",
        "environmentId": "{environmentId}",
    },
    "DELETE /api/v1/policy-attachments/{policyAttachmentId}": {},
    "POST /api/v1/deployment-policies": {
        "name": "careful",
        "description": "Before the night shift",
        "flowId": "{flowId}",
        "environmentId": "{environmentId}",
        "enforceProvenance": True,
        "enforceApprovals": True,
        "requiredAttestationTypes": ["junit"],
        "requireSignature": True,
        "blockOnFailedScan": True,
    },
    "PUT /api/v1/deployment-policies/{deploymentPolicyId}": {
        "name": "renamed",
        "description": "Before the night shift",
        "flowId": "{flowId}",
        "environmentId": None,
        "enforceProvenance": True,
        "enforceApprovals": True,
        "requiredAttestationTypes": ["junit"],
        "isActive": False,
        "requireSignature": True,
        "blockOnFailedScan": True,
    },
    "DELETE /api/v1/deployment-policies/{deploymentPolicyId}": {},
    "POST /api/v1/gate/evaluate": {
        "artifactSha256": DIGEST,
        "environmentId": "{environmentId}",
        "requestedBy": "ann",
        "environment": "",
        "flowId": "{flowId}",
    },
    "POST /api/v1/users": {"email": "ann@example.org", "name": "Ann", "githubId": "ann-17"},
    "PUT /api/v1/users/{userId}": {"name": "Renamed", "githubId": "ann-17"},
    "DELETE /api/v1/users/{userId}": {},
    "POST /api/v1/service-accounts": {"name": "ci", "description": "Builds"},
    "PUT /api/v1/service-accounts/{serviceAccountId}": {"name": "cd", "description": "Deploys"},
    "DELETE /api/v1/service-accounts/{serviceAccountId}": {},
    "POST /api/v1/service-accounts/{serviceAccountId}/api-keys": KEY,
    "DELETE /api/v1/service-accounts/{serviceAccountId}/api-keys/{keyId}": {},
    "POST /api/v1/api-keys": KEY | {"ownerId": "{ownerId}", "ownerType": "SERVICE_ACCOUNT"},
    "DELETE /api/v1/api-keys/{apiKeyId}/revoke": {},
    "POST /api/v1/organisations/{slug}/members": {"email": "{email}", "role": "VIEWER"},
    "PUT /api/v1/organisations/{slug}/members/{userId}": {"role": "ADMIN"},
    "DELETE /api/v1/organisations/{slug}/members/{userId}": {},
    "POST /api/v1/organisations/{slug}/sso": SSO,
    "PUT /api/v1/organisations/{slug}/sso": SSO | {"provider": "ENTRA_ID", "isMandatory": False},
    "DELETE /api/v1/organisations/{slug}/sso": {},
    "POST /api/v1/organisations/{slug}/sso/test": {},
    "POST /api/v1/opa/bundles": {
        "name": "release",
        "version": "1.0",
        "regoContent": REGO,
        "orgSlug": "{slug}",
        "flowId": "{flowId}",
        "environmentId": "{environmentId}",
    },
    "PUT /api/v1/opa/bundles/{bundleId}/activate": {},
    "POST /api/v1/opa/evaluate": {
        "artifactName": "shop",
        "artifactVersion": "1.0",
        "environment": "production",
        "attestations": [{"type": "junit", "status": "PASSED"}],
        "approvalStatus": "APPROVED",
        "trailId": "{trailId}",
        "artifactId": "{artifactId}",
        "artifactDigest": DIGEST,
    },
    "POST /api/v1/trails/{trailId}/security-scans": {
        "tool": "trivy",
        "toolVersion": "0.50",
        "scanType": "SAST",
        "target": "shop:1.0",
        "criticalVulnerabilities": 0,
        "highVulnerabilities": 1,
        "mediumVulnerabilities": 2,
        "lowVulnerabilities": 3,
        "informational": 4,
        "unknown": 0,
        "passed": True,
        **{
            name + suffix: 0
            for name in ("critical", "high", "medium", "low", "informational", "unknown")
            for suffix in ("", "Count", "Vulnerabilities")
            if name + suffix not in ("informational", "unknown")
            and (suffix != "Vulnerabilities" or name in ("informational", "unknown"))
        },
        "scanDurationSeconds": 12,
        "reportUrl": "https://ci.example.org/1",
        "orgSlug": "{slug}",
        "summary": {"critical": 0, "high": 1, "medium": 2, "low": 3, "informational": 4},
    },
    "POST /api/v1/frameworks": {
        "name": "House rules",
        "version": "1",
        "description": "Our own",
        "orgSlug": "{slug}",
    },
    "POST /api/v1/frameworks/{frameworkId}/controls": {
        "controlId": "H-1",
        "title": "Tested",
        "description": "Something",
        "requiredEvidenceTypes": ["junit"],
    },
    "POST /api/v1/compliance/mappings": {
        "regulatoryControlId": "{regulatoryControlId}",
        "flowId": "{flowId}",
        "attestationType": "junit",
        "isMandatory": False,
    },
    "POST /api/v1/compliance/assess": {
        "frameworkId": "{frameworkId}",
        "trailId": "{trailId}",
        "orgSlug": "{slug}",
    },
    "POST /api/v1/evidence/{evidenceKey}/{entityKey}": DOCUMENT,
    "DELETE /api/v1/evidence/{evidenceKey}/{entityKey}": {},
    "POST /api/v1/notifications/{notificationId}/read": {},
    "POST /api/v1/notifications/read-all": {},
    "POST /api/v1/notification-rules": {
        "name": "Failures",
        "triggerEvent": "ATTESTATION_FAILED",
        "channelType": "WEBHOOK",
        "channelConfig": '{"webhookUrl": "{site}/hook"}',
        "filterFlowId": "{flowId}",
        "filterEnvironmentId": "{environmentId}",
    },
    "PUT /api/v1/notification-rules/{ruleId}": {
        "name": "Renamed",
        "isActive": True,
        "triggerEvent": "DRIFT_DETECTED",
        "channelType": "SLACK",
        "channelConfig": '{"webhookUrl": "{site}/hook"}',
        "filterFlowId": "{flowId}",
        "filterEnvironmentId": "{environmentId}",
        "clearFilterFlowId": False,
        "clearFilterEnvironmentId": True,
    },
    "DELETE /api/v1/notification-rules/{ruleId}": {},
    "POST /api/v1/notification-rules/{ruleId}/test": {},
    "POST /api/v1/webhook-configs": {
        "source": "JENKINS",
        "secret": "s",
        "flowId": "{flowId}",
        "allowedTypes": ["BUILD"],
    },
    "DELETE /api/v1/webhook-configs/{webhookConfigId}": {},
    "POST /api/v1/organisations/{slug}/slack": {
        "botToken": "xoxb-2",
        "signingSecret": "s",
        "channel": "#builds",
        "approvers": {"UANN": "ann"},
    },
    "DELETE /api/v1/organisations/{slug}/slack": {},
    "POST /api/v1/organisations/{slug}/slack/notify/trail-non-compliant": {
        "trailId": "{trailId}",
        "flowName": "{flow}",
        "missingAttestationTypes": ["junit"],
        "failedAttestationTypes": ["snyk"],
        "trailUrl": "https://register.example.org/trails/1",
    },
    "POST /api/v1/organisations/{slug}/slack/notify/approval-requested": {
        "approvalId": "{approvalId}",
        "artifactSha": DIGEST,
        "targetEnvironment": "production",
        "requiredApprovers": ["ann"],
    },
    "POST /api/v1/integrations/jira/config": {
        "jiraBaseUrl": "{site}/jira",
        "jiraUsername": "robot",
        "jiraApiToken": "y",
        "defaultProjectKey": "DEV",
    },
    "POST /api/v1/integrations/jira/test": {},
    "POST /api/v1/integrations/jira/tickets": {
        "summary": "Sign the artifact",
        "issueType": "Bug",
        "trailId": "{trailId}",
    },
    "POST /api/v1/integrations/jira/sync": {},
    "POST /api/v1/integrations/confluence/config": {
        "confluenceBaseUrl": "{site}/confluence",
        "confluenceUsername": "robot",
        "confluenceApiToken": "y",
        "defaultSpaceKey": "DEV",
    },
    "POST /api/v1/integrations/confluence/test": {},
    "POST /api/v1/hub/templates/{template}/import": {},
    "POST /api/v1/ledger/verify/{recordId}": {},
    "POST /api/v1/ledger/verify-chain": {
        "from": "2026-01-01T00:00:00Z",
        "to": "2026-12-31T00:00:00Z",
    },
}
ATTESTATION = BODIES["POST /api/v1/trails/{trailId}/attestations"]
BODIES |= {
    "POST /api/v1/attestations": ATTESTATION | {"trailId": "{trailId}"},
    "POST /api/v2/attestations/{org}/{flow}/{trail}/{artifactFingerprint}": ATTESTATION,
    "POST /api/v2/trails": {
        name: value for name, value in BODIES["POST /api/v1/trails"].items() if name != "name"
    },
    "POST /api/v2/trails/{trailId}/attestations": (
        ATTESTATION | {"artifactFingerprint": DIGEST, "flowName": "{flow}"}
    ),
}
# The second version has the bodies of the first, unless it has its own.
BODIES = {key.replace("/v1/", "/v2/"): body for key, body in BODIES.items()} | BODIES
# Standard creates and updates without an entry have bodies that are derived from their schemas.
STANDARD = [operation for operation in WRITES if operation.name in ("create", "update")]
BODIES = (
    {
        line(operation): example_body(operation)
        for operation in STANDARD
        if line(operation) not in BODIES
    }
    | {line(operation): {} for operation in WRITES if operation.name == "delete"}
    | BODIES
)
#: The members of what stands in a list in a body.
INSIDE = {
    "attachments": ("fileName", "contentType", "contentBase64", "uri", "sha256"),
    "items": ("trailId", "evidenceType", "tool", "passed", "details"),
    "artifacts": ("artifactSha256", "artifactName", "artifactTag", "instanceCount"),
    "scope": ("include", "exclude"),
    "attestations": ("type", "status"),
    "data": ("result",),
    "summary": ("critical", "high", "medium", "low", "informational"),
}
#: The queries of the writes that have one.
QUERIES = {"DELETE /api/v1/evidence/{evidenceKey}/{entityKey}": "?evidenceType=review"}
#: The member in which a dry run tells what would be, where that is not by the method.
WOULD = {
    "POST": "wouldCreate",
    "PUT": "wouldUpdate",
    "PATCH": "wouldUpdate",
    "DELETE": "wouldDelete",
    "POST /api/v1/approvals/{approvalId}/approve": "result",
    "POST /api/v1/approvals/{approvalId}/reject": "result",
    "POST /api/v1/gate/evaluate": "result",
    "POST /api/v1/opa/evaluate": "result",
    "POST /api/v1/organisations/{slug}/sso/test": "result",
    "POST /api/v1/logical-environments/{logicalEnvironmentId}/members/{physicalEnvironmentId}": (
        "result"
    ),
    "POST /api/v1/trails/{trailId}/artifacts/{artifactId}/provenance/verify": "result",
    "POST /api/v2/trails/{trailId}/artifacts/{artifactId}/provenance/verify": "result",
}
WOULD |= dict.fromkeys(
    (
        "POST /api/v1/notifications/{notificationId}/read",
        "POST /api/v1/notifications/read-all",
        "POST /api/v1/notification-rules/{ruleId}/test",
        "POST /api/v1/organisations/{slug}/slack",
        "POST /api/v1/organisations/{slug}/slack/notify/trail-non-compliant",
        "POST /api/v1/organisations/{slug}/slack/notify/approval-requested",
        "POST /api/v1/integrations/jira/config",
        "POST /api/v1/integrations/jira/test",
        "POST /api/v1/integrations/jira/sync",
        "POST /api/v1/integrations/confluence/config",
        "POST /api/v1/integrations/confluence/test",
        "POST /api/v1/ledger/verify/{recordId}",
        "POST /api/v1/ledger/verify-chain",
    ),
    "result",
)
#: What is audited and no fact for the ledger.
NO_FACTS = {
    "evidence.attachment.kept",
    "notification.read",
    "notification.tested",
    "slack_message.posted",
}
#: They only tell what they found out.
STORE_NOTHING = {
    "POST /api/v1/integrations/jira/test",
    "POST /api/v1/integrations/confluence/test",
    "POST /api/v1/ledger/verify/{recordId}",
    "POST /api/v1/ledger/verify-chain",
    "POST /api/v1/organisations/{slug}/sso/test",
    "POST /api/v1/trails/{trailId}/artifacts/{artifactId}/provenance/verify",
    "POST /api/v2/trails/{trailId}/artifacts/{artifactId}/provenance/verify",
}


def request_for(records, operation):
    """The path and the body with which an operation succeeds."""
    path = records.prepare(operation.method, operation.path) + QUERIES.get(line(operation), "")
    body = BODIES[line(operation)]
    return path, body if body is FILE else records.fill(body)


def send(client, operation, path, body, **headers):
    """Send a body, which may be a form."""
    if body is FILE:
        record_type, content = body
        return client.request(operation.method, path, body=content, headers=record_type | headers)
    return client.request(operation.method, path, json=body, headers=headers)


def test_the_table_of_bodies_knows_every_write():
    assert {line(operation) for operation in WRITES} <= BODIES.keys()


@each([operation for operation in WRITES if operation in WITH_JSON])
def test_the_table_of_bodies_knows_every_member(operation):
    assert BODIES[line(operation)].keys() == operation.body.members.keys()


@each(DOING)
def test_a_dry_run_answers_as_the_write_would_and_stores_nothing(prepared, operation):
    lite, client, records = prepared
    path, body = request_for(records, operation)
    once = {"Idempotency-Key": "one"}
    before = tables(lite)

    rehearsed = send(client, operation, path, body, **once, **{"X-Dry-Run": "true"})
    after = tables(lite)
    real = send(client, operation, path, body, **once)
    again = send(client, operation, path, body, **once)

    check(rehearsed, operation.surface, 200)
    name = WOULD.get(line(operation), WOULD[operation.method])
    assert list(rehearsed.json) == ["dryRun", name]
    assert rehearsed.json["dryRun"] is True
    assert after == before
    check(real, operation.surface, operation.status)
    assert rehearsed.json[name] or not real.body
    assert "idempotency-replayed" not in real.headers
    assert (again.status, again.body) == (real.status, real.body)
    assert again.headers["idempotency-replayed"] == "true"


@each([operation for operation in DOING if line(operation) not in STORE_NOTHING])
def test_a_write_without_a_fault_is_in_the_audit_log_and_the_ledger(prepared, operation):
    lite, client, records = prepared
    path, body = request_for(records, operation)
    before = tables(lite)

    done = send(client, operation, path, body)

    after = tables(lite)
    audited = after["audit_entry"][len(before["audit_entry"]) :]
    assert {row[7] for row in audited} == {done.headers["x-request-id"]}
    facts = [row for row in audited if row[3] not in NO_FACTS]
    assert len(facts) == len(after["ledger_entry"]) - len(before["ledger_entry"])
    assert lite.verify() == []


# --- Callers who are known by a signature -------------------------------------

PRESSED = (
    '{"user": {"id": "UANN"},'
    ' "actions": [{"action_id": "approve_release", "value": "{approvalId}"}]}'
)
#: What each of them is told that has an effect.
TOLD = {
    "POST /api/v1/webhooks/{source}": {"eventType": "test.passed", "gitCommitSha": "c0ffee"},
    "POST /api/v1/organisations/{slug}/slack/commands": {
        "text": "approve {approvalId}",
        "user_id": "UANN",
    },
    "POST /api/v1/organisations/{slug}/slack/actions": {"payload": PRESSED},
}


def letter(records, operation):
    """The path, the bytes and the headers with which an operation is told something."""
    path = records.prepare(operation.method, operation.path)
    result, media = records.fill(TOLD[line(operation)]), next(iter(operation.media))
    body = (json.dumps(result) if media == "application/json" else urlencode(result)).encode()
    return path, body, {"Content-Type": media}


@each(SIGNED)
def test_what_is_not_signed_is_refused_and_does_nothing(prepared, operation):
    lite, client, records = prepared
    path, body, headers = letter(records, operation)
    another = records.signed(path, body + b" ")
    signatures = [{}, another, dict.fromkeys(another, ""), dict.fromkeys(another, "v0=\u00e9")]
    before = tables(lite)

    for signature in signatures:
        refused = client.request("POST", path, body=body, headers=headers | signature)
        check(refused, operation.surface, 400)
        assert refused.json["message"] == "The signature is missing or does not verify."

    after = tables(lite)
    refusals = after.pop("audit_entry")[len(before.pop("audit_entry")) :]
    # Those of one caller in a minute are one entry; the others are counted.
    assert [row[3] for row in refusals] == ["api.authentication.refused"]
    assert after == before


@each(SIGNED)
def test_what_is_signed_is_rehearsed_or_done_without_a_token(prepared, operation):
    lite, _, records = prepared
    path, body, headers = letter(records, operation)
    headers |= records.signed(path, body)
    before = tables(lite)

    dry = {"X-Dry-Run": "true"}
    rehearsed = lite.client().request("POST", path, body=body, headers=headers | dry)
    rehearsal = tables(lite)
    done = lite.client().request("POST", path, body=body, headers=headers)
    after = tables(lite)

    check(rehearsed, operation.surface, 200)
    assert list(rehearsed.json) == ["dryRun", "result"]
    assert rehearsal == before
    check(done, operation.surface, operation.status)
    audited = after["audit_entry"][len(before["audit_entry"]) :]
    assert {row[7] for row in audited} == {done.headers["x-request-id"]}
    assert {row[2].partition(":")[0] for row in audited} <= {"slack", "webhook"}
    assert len(audited) == len(after["ledger_entry"]) - len(before["ledger_entry"])
    assert lite.verify() == []


# --- Bad bodies ---------------------------------------------------------------

POISON = {
    "cut off": (b'{"title": ', 400),
    "not JSON": (b"title=x", 400),
    "not UTF-8": (b'{"title": "\xff"}', 400),
    "an array": (b"[]", 400),
    "a string": (b'"title"', 400),
    "a number": (b"5", 400),
    "null": (b"null", 400),
    "true": (b"true", 400),
    "two values": (b"{} {}", 400),
    "NaN": (b'{"title": NaN}', 400),
    "Infinity": (b'{"x": -Infinity}', 400),
    "too many digits": (b'{"x": ' + b"9" * 5000 + b"}", 400),
    "a NUL byte": (b'{"title": "a\x00b"}', 400),
    "an escaped NUL": (b'{"title": "a\\u0000b"}', 400),
    "a lone surrogate": (b'{"title": "\\ud800"}', 400),
    "a lone surrogate as a name": (b'{"\\udfff": 1}', 400),
    "a lone surrogate deep inside": (b'{"x": [{"y": "\\ud83d x"}]}', 400),
    "33 levels": (b'{"x": ' + b"[" * 32 + b"]" * 32 + b"}", 400),
    "thousands of levels": (b"[" * 9000 + b"]" * 9000, 400),
    "over the limit": (b'{"x": "' + b"x" * 31_000 + b'"}', 413),
}


def refused_each(client, operation, bodies, headers):
    """Send bodies by what is wrong with them, and hold each refusal to its status."""
    answers = {
        wrong: client.request(operation.method, filled(operation.path), body=body, headers=headers)
        for wrong, (body, _) in bodies.items()
    }

    assert {wrong: answer.status for wrong, answer in answers.items()} == {
        wrong: status for wrong, (_, status) in bodies.items()
    }
    for answer in answers.values():
        check(answer, operation.surface)


@each(WITH_JSON)
def test_a_bad_body_is_refused(client, operation):
    refused_each(client, operation, POISON, {"Content-Type": "application/json; charset=utf-8"})


@each(WITH_JSON)
def test_32_levels_are_no_fault_of_their_own(client, operation):
    body = json.dumps({"unknown": 1})[:-1].encode() + b', "x": ' + b"[" * 31 + b"]" * 31 + b"}"

    answer = client.request(operation.method, filled(operation.path), body=body)

    check(answer, operation.surface)
    assert "nesting" not in answer.body.decode()


POISONED_FORMS = {
    "nothing": (b"", 400),
    "no form": (b'{"file": "x"}', 400),
    "cut off": (form(part(b"abc"))[:-9], 400),
    "no part": (form(), 400),
    "another name": (form(part(b"abc", 'form-data; name="x"; filename="a"')), 400),
    "no name": (form(part(b"abc", 'form-data; filename="a"')), 400),
    "over the limit": (form(part(b"x" * 41_000)), 413),
}


@each(WITH_FORM)
def test_a_bad_form_is_refused(client, operation):
    refused_each(client, operation, POISONED_FORMS, FORM)


@each(WITH_BODY)
def test_a_body_of_another_media_type_is_refused(client, operation):
    for media in ("text/plain", "application/xml", "multipart/mixed", "application/jsonp", "x"):
        refused_each(client, operation, {media: (b"{}", 415)}, {"Content-Type": media})


@each([operation for operation in WITH_BODY if operation.body.required and not operation.partial])
def test_a_missing_body_lacks_what_is_required(client, operation):
    refused = client.request(operation.method, filled(operation.path))

    check(refused, operation.surface, 400)
    assert all(member in refused.body.decode() for member in operation.body.required)


NASTY = [
    *(None, True, 0, -1, 1.5, 1e300, 2**63, 10**30, "", " ", "x" * 15_000, "\u0000", "💥"),
    *([], {}, [None], [[]], {"": None}, {"a": {"b": []}}, ["x"] * 2000, "../../etc/passwd"),
    *("2026-02-30T00:00:00Z", "0000-00-00T00:00:00Z", "9999-12-31T23:59:59-23:59", "%00"),
    *("'; DROP TABLE finding; --", "1900-01-01T00:00:00+23:59", "0001-01-01T00:00:00+14:00"),
]


@each([operation for operation in WRITES if operation in WITH_JSON or operation not in WITH_FORM])
def test_whatever_stands_in_a_member_is_taken_or_refused_in_the_right_words(prepared, operation):
    _, client, records = prepared
    path, body = request_for(records, operation)
    client.headers["X-Dry-Run"] = "true"
    bodies = [body | {member: value} for member in body for value in NASTY]
    bodies += [
        body | {name: nested(body[name], {member: value})}
        for name in body.keys() & INSIDE.keys()
        for member in INSIDE[name]
        for value in NASTY
        if isinstance(body[name], list | dict) and body[name]
    ]
    assert bodies or operation.method == "DELETE" or operation.body is novantra_lite.EMPTY

    for sent in bodies:
        answer = send(client, operation, path, sent)
        check(answer, operation.surface, 200, 400, 404, 409, 413, 422)


def nested(value, change):
    """The object in a member of a body, or the one in its list, changed."""
    return [value[0] | change] if isinstance(value, list) else value | change


NASTY_NAMES = [
    "",
    "a\0b",
    " ",
    ".",
    "..",
    "../../etc/passwd",
    "x" * 3000,
    "\u202e",
    "a/b\\c",
    "a;b=c",
]


#: The parts that a form has besides its file.
BESIDES = {"POST /api/v1/opa/bundles": (part(b"release", 'form-data; name="name"', ""),)}


@each(WITH_FORM)
def test_whatever_a_file_is_called_it_is_taken_or_refused_in_the_right_words(prepared, operation):
    _, client, records = prepared
    path = records.prepare(operation.method, operation.path)
    client.headers["X-Dry-Run"] = "true"
    taken = 0

    for name in NASTY_NAMES:
        for item in ("text/xml", "", "x", "text/xml; charset=%00", "x" * 3000):
            file = part(REGO.encode(), f'form-data; name="file"; filename="{name}"', item)
            result = form(*BESIDES.get(line(operation), ()), file)
            answer = client.request("POST", path, body=result, headers=FORM)
            check(answer, operation.surface, 200, 400, 413)
            taken += answer.status == 200

    assert taken


# --- Bad queries --------------------------------------------------------------


BAD_QUERIES = {
    "limit": ["0", "-1", "1.5", "abc", "", "1e2", "٣", "NaN", " "],
    "cursor": ["", "x", "AAAA", "é", "=" * 9, "A" * 64, "A" * 2000],
    "createdAfter": ["", "yesterday", "2026-13-01", "2026-06-01T12:00:00", "1", "٢٠٢٦-٠٦-٠١"],
}


@each(LISTS)
def test_a_bad_query_is_refused_with_its_path(client, operation):
    required = dict.fromkeys(operation.query.required, "x")

    for name, values in BAD_QUERIES.items():
        for value in values:
            refused = client.get(operation.path, **{name: value}, **required)

            check(refused, operation.surface, 400)
            rows = [issue["path"] for issue in refused.json.get("issues", [])]
            expected = ("invalid_cursor", []) if name == "cursor" else ("validation", [[name]])
            assert (name, value, refused.json["error"], rows) == (name, value, *expected)


@each(READS)
def test_a_nasty_query_is_never_a_failure(client, operation):
    names = [*operation.query.members, "unknown"]
    path = filled(operation.path)

    for name in names:
        for value in ("%00", "%ff", "%F0%9F%92%A5", "x" * 5000, "a,b", "%", "%ED%A0%80", "'--"):
            check(client.get(f"{path}?{name}={value}"), operation.surface, 200, 400, 404)
        check(client.get(f"{path}?{name}=1&{name}=2"), operation.surface, 200, 400, 404)
    check(client.get(f"{path}?&&=&a=b=c&%"), operation.surface, 200, 400, 404)


@each(LISTS)
def test_unknown_parameters_are_ignored(client, operation):
    required = dict.fromkeys(operation.query.required, "x")

    listed = client.get(operation.path, orgId="x", unknown="x", page="x", **required)

    check(listed, operation.surface, 200)


# --- Unknown paths and methods ------------------------------------------------


@pytest.mark.parametrize(
    ("path", "surface"),
    [
        ("/nothing", NOVANTRA),
        ("/api/v1/governance", NOVANTRA),
        ("/api/v1/governance/nothing", NOVANTRA),
        ("/api/v1/governance/findings/find_1/nothing", NOVANTRA),
        ("/api/v1/assets/asset_1/nothing", NOVANTRA),
        ("/api/v1/auth/nothing", NOVANTRA),
        ("/api/v1/organization/nothing", NOVANTRA),
        ("/api/v1/%00", FACTSTORE),
        ("/api/v1/%ff", FACTSTORE),
        ("/api/v1/governance/%ed%a0%80", NOVANTRA),
        ("/api/v1/nothing", FACTSTORE),
        ("/api/v1/flows/x/nothing", FACTSTORE),
        ("/api/v3/flows", FACTSTORE),
        ("/api/v1/assetsandmore", FACTSTORE),
        ("/api/v1/workspace", NOVANTRA),
        ("/api/v1/workspace/", NOVANTRA),
        ("/api/v1/organizations", NOVANTRA),
        ("/api/v1/organisation", FACTSTORE),
        ("/api/v1/assets/asset_1/", NOVANTRA),
        ("/api/v1/asset", NOVANTRA),
        ("/api/v1/findings", NOVANTRA),
        ("/api/v1/finding/find_1", NOVANTRA),
        ("/api/v1/controls", NOVANTRA),
        ("/api/v1/vulnerabilities", NOVANTRA),
        ("/api/v1/change-request", NOVANTRA),
        ("/api/v1/partyEngagements", NOVANTRA),
        ("/api/v1/token", NOVANTRA),
        ("/api/v2/governance/findings", NOVANTRA),
        ("/api/governance/findings", NOVANTRA),
        ("/api//v1/assets", NOVANTRA),
        ("/API/V1/ASSETS", NOVANTRA),
        ("/v1/flows", FACTSTORE),
        ("/api/v1/flow", FACTSTORE),
        ("/api/v1/policy", FACTSTORE),
        ("/api/v1/frameworks/x/controls/y", FACTSTORE),
        ("/api/v1/evidence/health/x/y", FACTSTORE),
    ],
)
def test_an_unknown_path_is_not_found_in_the_words_of_the_surface_that_claims_it(
    client, path, surface
):
    for method in ("GET", "POST", "DELETE"):
        refused = client.request(method, path, json={})

        check(refused, surface, 404)


def empty(result):
    """Whether an answer tells nothing; evidence may be about whatever a text can name."""
    return result == [] or result["evidenceTypes"] == []


@each([operation for operation in READS if "{" in operation.path])
def test_a_nasty_id_is_not_found(client, operation):
    for key in ("%00", "%ff", "%ed%a0%80", "x" * 3000, "'--", "%F0%9F%92%A5", "."):
        refused = client.get(re.sub(r"{\w+}", key, operation.path))

        check(refused, operation.surface, 200, 400, 404)
        assert refused.status != 200 or empty(refused.json)


@each(list({operation.path: operation for operation in OPERATIONS}.values()))
def test_a_method_that_a_path_does_not_answer_to_is_refused_with_those_that_it_does(
    client, operation
):
    offered = {other.method for other in OPERATIONS if other.path == operation.path}
    refusals = {
        method: client.request(method, filled(operation.path), json={})
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
        if method not in offered
    }

    assert refusals
    for refused in refusals.values():
        check(refused, operation.surface, 405)
        allowed = {method.strip() for method in refused.headers["allow"].split(",")}
        assert offered <= allowed <= offered | {"OPTIONS", "HEAD"}


@pytest.mark.parametrize("method", ["BREW", "get", "PROPFIND", "TRACE", "CONNECT"])
@pytest.mark.parametrize(
    ("path", "surface", "allowed"),
    [
        ("/api/v1/flows", FACTSTORE, "GET, POST, HEAD"),
        ("/api/v1/governance/findings/find_1", NOVANTRA, "GET, PATCH, HEAD"),
        ("/api/v1/auth/token", NOVANTRA, "POST"),
    ],
)
def test_a_method_that_nobody_knows_is_refused_with_those_that_the_path_has(
    client, method, path, surface, allowed
):
    refused = client.request(method, path)

    check(refused, surface, 405)
    assert refused.headers["allow"] == allowed
    check(client.request(method, "/api/v1/nothing"), FACTSTORE, 404)


def test_a_method_that_a_setting_takes_away_is_not_offered(clock):
    path = "/api/v1/governance/findings/find_1"
    with NovantraLite(clock=clock) as lite:
        client = lite.client(*SCOPES)

        refused = [client.request(method, path) for method in ("PATCH", "PUT", "DELETE", "BREW")]
        offered = client.request("OPTIONS", path)

    for answer in refused:
        check(answer, NOVANTRA, 405)
    assert {answer.headers["allow"] for answer in [*refused, offered]} == {"GET, HEAD"}


#: What is another with each answer.
#: Which limit is shown, the account's or the organization's, depends on what is left of each.
PASSING = (
    "x-request-id", "content-length",
    "x-ratelimit-remaining", "x-ratelimit-limit", "x-ratelimit-bucket",
)  # fmt: skip


@each([operation for operation in OPERATIONS if operation.method == "GET"])
def test_head_is_answered_as_get_is_without_the_body(client, operation):
    required = dict.fromkeys(operation.query.required, "x")
    path = filled(operation.path)

    read, head = (client.request(method, path, **required) for method in ("GET", "HEAD"))

    assert (head.status, head.body) == (read.status, b"")
    assert re.fullmatch("req_[0-9A-HJKMNP-TV-Z]{26}", head.headers["x-request-id"])
    if "content-length" in read.headers:
        assert head.headers["content-length"].isdigit()
    shown = [
        {name: value for name, value in answer.headers.items() if name not in PASSING}
        for answer in (read, head)
    ]
    assert shown[0] == shown[1]


@pytest.mark.parametrize("method", ["OPTIONS", "HEAD", "TRACE", "CONNECT", "BREW", "get"])
def test_an_uncommon_method_is_answered_with_all_headers(client, method):
    answer = client.request(method, "/api/v1/flows")

    assert 200 <= answer.status < 500
    assert {"x-request-id", "x-ratelimit-limit", "x-ratelimit-bucket"} <= answer.headers.keys()


def test_an_incoming_request_id_is_never_adopted(client):
    text = "req_01HXY000000000000000000000"

    response = client.request("GET", "/api/v1/organization", headers={"X-Request-Id": text})

    assert check(response).headers["x-request-id"] != text


def test_a_body_over_the_limit_is_refused_before_it_is_read(client, lite):
    class Endless:
        """A body that must not be read."""

        def read(self, size=-1):
            raise AssertionError("The body was read.")

    def application(environ, start_response):
        environ["wsgi.input"] = Endless()
        environ["CONTENT_LENGTH"] = "1000000000"
        return lite(environ, start_response)

    strict = novantra_lite.Client(application, client.headers)

    refused = strict.post("/api/v1/governance/findings", {"title": "x"})

    check(refused, NOVANTRA, 413)


def test_openapi_documents_every_path_that_there_is(document):
    paths = {o.path for o in OPERATIONS if o.path.startswith(CONTRACTED)}

    assert paths <= document["paths"].keys()


def test_whoever_used_up_the_limit_of_an_address_keeps_nobody_from_asking_how_the_server_is(clock):
    with NovantraLite(clock=clock, rate_address=3) as lite:
        refused = [lite.client().get("/api/v1/assets").status for _ in range(4)]

        rows = [lite.client().get(f"/api/health/{what}") for what in ("live", "ready")]

    assert refused == [401, 401, 401, 429]
    assert [(record.status, record.headers["x-ratelimit-remaining"]) for record in rows] == [
        (200, "0")
    ] * 2


@pytest.mark.parametrize("path", ["*", "foo", "a:1"])
def test_what_is_no_path_is_not_found_in_an_envelope(lite, path):
    """As in `OPTIONS *`; RFC 9112, section 3.2 has the forms that begin with no slash."""
    environ = novantra_lite.wsgi_environment("GET", path, "", b"")

    said = []
    body = b"".join(lite(environ, lambda status, headers: said.append((status, dict(headers)))))

    ((status, headers),) = said
    assert status.startswith("404 ")
    assert json.loads(body)["error"] == "not_found"
    assert (
        json.loads(body)["requestId"] == {k.lower(): v for k, v in headers.items()}["x-request-id"]
    )


def test_what_a_change_leaves_out_has_no_default_in_the_document(document):
    schemas = document["components"]["schemas"]
    partial = [schemas[operation.body.name] for operation in WITH_BODY if operation.partial]

    rows = [member for schema in partial for member in schema["properties"].values()]

    assert len(partial) > 8
    assert not [member for member in rows if "default" in member]
    assert "default" in schemas["CreateFlowRequest"]["properties"]["description"]
