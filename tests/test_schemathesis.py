"""Schemathesis holds every operation to the product's own OpenAPI document, in process.

It sends what the document allows (each boundary in turn, then random data) and what it forbids to
a workspace full of demo data, and compares each answer with the document: status, media type,
headers, body. The seed is fixed: the same requests on every run.
"""

import contextlib
import functools
import itertools
import json
import random
import re
from urllib.parse import urlencode

import pytest
import schemathesis
from conftest import Clock
from records import COMMIT, DIGEST, REGO, Records, other_services
from schemathesis.checks import load_all_checks
from schemathesis.config import ProjectConfig, SchemathesisConfig
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation.feedback import FeedbackSources
from schemathesis.pytest._test_builder import build_operation_test
from schemathesis.python._constants.orchestrator import make_constants_value_source
from schemathesis.specs.openapi.checks import ignored_auth

import novantra_lite
from novantra_lite import Client, NovantraLite, all_scopes, every_operation, openapi_document

#: The paths of the Factstore surface.
FACTSTORE = "|".join(
    sorted(
        {
            "^" + "/".join(operation.path.split("/")[:4]) + "(/|$)"
            for operation in every_operation()
            if operation.surface is novantra_lite.FACTSTORE
        }
    )
)
CONFIG = SchemathesisConfig.from_dict(
    {
        "seed": 20_260_601,
        "generation": {
            "deterministic": True,
            "database": "none",
            "max-examples": 4,
            # No text of either API may hold NUL, and JSON Schema has no short way to say so.
            "allow-x00": False,
        },
        "checks": {
            # Without a history there is nothing that these two could look at.
            "use_after_free": {"enabled": False},
            "ensure_resource_availability": {"enabled": False},
            # 422 is about the state of things: a subject that is not there, a move too late.
            "positive_data_acceptance": {
                "expected-statuses": ["2xx", "3xx", "401", "403", "404", "409", "422"]
            },
            # What is malformed is told before the state of things is asked: no 409, no 422. 413
            # comes before anybody looks at what the body holds.
            "negative_data_rejection": {
                "expected-statuses": ["400", "401", "403", "404", "405", "413", "415"]
            },
        },
        "operations": [
            {
                # Factstore takes numbers and booleans for text, as its clients send them.
                "include-path-regex": FACTSTORE,
                "include-method": ["POST", "PUT"],
                "checks": {"negative_data_rejection": {"enabled": False}},
            },
            {
                # A state is good once, and only in the sign-in that a browser began.
                "include-path": "/api/v1/organisations/{slug}/sso/callback",
                "checks": {"positive_data_acceptance": {"enabled": False}},
            },
            {
                # So many artifacts as a snapshot may have can be more than a JSON body may be.
                "include-path": "/api/v1/environments/{environmentId}/snapshots",
                "checks": {
                    "positive_data_acceptance": {"expected-statuses": ["2xx", "404", "409", "413"]}
                },
            },
        ],
    }
)


#: What is closed at the end: the workspace, and the services that it asks.
OPENED = contextlib.ExitStack()


@functools.cache
def register() -> NovantraLite:
    """The workspace under test."""
    others = OPENED.enter_context(other_services())
    values = {"clock": Clock(), "random": random.Random(7), "rate_limits": False}
    lite = NovantraLite(finding_updates=True, **values, **others)
    lite.load_demo()
    return OPENED.enter_context(lite)


@functools.cache
def client() -> Client:
    """A client with every scope, for what a request needs to have been there before it."""
    return register().client(*all_scopes())


@functools.cache
def lasting() -> Records:
    """The records that reads are about; they leave them as they are."""
    return Records(register(), client())


@functools.cache
def unused() -> Records:
    """The records that the next write is about: as long as it is refused, they are as they were."""
    return Records(register(), client())


@functools.cache
def account() -> dict:
    """Credentials that the token endpoint takes."""
    made = register().accounts.create("Schemathesis", ["assets:read"])
    return {
        "client_id": made.client_id,
        "client_secret": made.client_secret,
        "scope": "assets:read",
    }


@pytest.fixture(scope="module", autouse=True)
def closing():
    yield
    OPENED.close()
    # A process may come back to this file, when it takes over from another.
    for made in (register, client, lasting, unused, account):
        made.cache_clear()


def application(environ, start_response):
    return register()(environ, start_response)


SCHEMA = schemathesis.openapi.from_dict(openapi_document(), config=CONFIG)
SCHEMA.app = application
LABELS = [f"{operation.method} {operation.path}" for operation in every_operation()]


@functools.cache
def described() -> dict:
    """The operations of the document by their labels."""
    return {operation.ok().label: operation.ok() for operation in SCHEMA.get_all_operations()}


def remembered(merge):
    """The configuration of an operation, put together once instead of for every request."""
    expected = {}

    @functools.wraps(merge)
    def config_for(config, *, operation=None, **phase):
        key = operation and operation.label, *phase.values()
        if key not in expected:
            expected[key] = merge(config, operation=operation, **phase)
        return expected[key]

    return config_for


for name in ("checks_config_for", "generation_for", "phases_for"):
    setattr(ProjectConfig, name, remembered(getattr(ProjectConfig, name)))
load_all_checks()


@SCHEMA.auth()
class Token:
    def get(self, case, context):
        return client().headers["Authorization"]

    def set(self, case, data, context):
        case.headers["Authorization"] = data


NUMBERS = itertools.count()
#: The operations whose caller is known by a signature.
SIGNED = {f"{one.method} {one.path}" for one in every_operation() if one.signed}
TIMES = {
    *("collectedAt", "dueAt", "occurredAt", "validFrom", "validUntil"),
    *("buildFinishedOn", "buildStartedOn", "deadline", "expiresAt"),
}
TRIPLE = ("subjectModuleKey", "subjectResourceType", "subjectResourceId")
#: The lists that have the records which these members name.
NAMED = {
    "monitorRunId": "/api/v1/governance/monitoring/runs",
    "indicatorDefinitionId": "/api/v1/governance/indicators",
    "evidenceRequirementId": "/api/v1/governance/evidence/requirements?status=active",
    "submissionPackageId": "/api/v1/governance/submissions/packages",
    "subjectResourceId": "/api/v1/assets",
}
#: The members of Factstore that name a record, and the name that it has among the records.
IDS = {name: name for name in ("flowId", "trailId", "environmentId", "policyId", "snapshotId")}
IDS |= {name: name for name in ("artifactId", "frameworkId", "regulatoryControlId")}
IDS |= {"orgSlug": "slug", "ownerId": "ownerId", "filterFlowId": "flowId"}
IDS |= {"filterEnvironmentId": "environmentId"}
#: Where a text is code of some kind, which JSON Schema cannot describe: some that is good.
CODE = {
    "artifactDigest": DIGEST,
    "attributeMappings": '{"email": "mail"}',
    "channelConfig": '{"webhookUrl": "https://93.184.216.34/hook"}',
    "evidenceType": "review",
    "groupRoleMappings": '{"admins": "ADMIN"}',
    "namePattern": "shop-.*",
    "payload": '{"actions": []}',
    "publicKey": None,
    "regoContent": REGO,
    "sha256": DIGEST,
    "sha256Digest": DIGEST,
    "templateYaml": "version: 1",
}


def a_record(path: str) -> dict:
    """A record of a list of Novantra, made for the request where requests use records up."""
    name = f"made-{next(NUMBERS)}"
    record = next(iter(client().get(path).json.values()))[0]
    if path.endswith("/packages"):
        requirement, reason = record["submissionRequirementId"], "Made for one request."
        packages = register().collection("submission-packages")
        return packages.create(
            submissionRequirementId=requirement, packageKey=name, title=name, reason=reason
        )
    return record


def aim(case) -> None:
    """Lead what is valid in a request to its handler, in what only the state of things can say.

    Ids are those of records that are there, and a cursor is signed: only a page can hand one out.
    """
    wrong = case.meta.is_negative_at
    factstore = re.match(FACTSTORE, case.path)
    records = lasting() if case.method == "GET" else unused()
    if not wrong(ParameterLocation.PATH) and factstore:
        records.prepare(case.method, case.path)
        case.path_parameters |= {name: records[name] for name in case.path_parameters}
    elif not wrong(ParameterLocation.PATH):
        for name in case.path_parameters:
            case.path_parameters[name] = a_record(case.path.partition("/{")[0])["id"]
    if not wrong(ParameterLocation.QUERY):
        for name in case.query.keys() & NAMED.keys():
            case.query[name] = a_record(NAMED[name])["id"]
        values = {name: name for name in ("flowId", "sha256", "evidenceType")}
        if case.path.endswith("/diff"):
            values |= {"from": "index", "to": "index"}
        for name in case.query.keys() & values.keys():
            case.query[name] = records[values[name]]
        case.query.pop("cursor", None)
    if not wrong(ParameterLocation.BODY) and isinstance(case.body, dict):
        complete(case.body)
        if factstore:
            deliver(case.body, records)
        if case.path.endswith("/pull-request"):
            case.body |= {"provider": "GITHUB", "repository": "acme/shop", "commitSha": "c0ffee"}
        if "file" in case.body:
            # Werkzeug puts no line end after an empty file, and Falcon misses it.
            bundle = case.path.endswith("/bundles")
            case.body["file"] = REGO.encode() if bundle else case.body["file"] or b"\n"
        if case.path.endswith("/webhooks/{source}"):
            # The shape of what is told shows by its source, which is no other than this.
            case.body.setdefault("eventType", "build.started")
    if case.operation.label in SIGNED:
        sign(case, records)


def sign(case, records: Records) -> None:
    """Sign the bytes of a body, as only the caller that is meant can."""
    if isinstance(case.body, dict):
        result = case.body
        if case.path.endswith("/webhooks/{source}"):
            result = {"payload": json.dumps(result)}
        is_form = case.media_type == "application/x-www-form-urlencoded"
        case.body = (urlencode(result) if is_form else json.dumps(case.body)).encode()
    sent = case.body if isinstance(case.body, bytes) else b""
    case.headers.update(records.signed(case.path, sent))


def complete(body: dict) -> None:
    """Keep the rules between the members of a body, which its JSON Schema does not have."""
    if all(body.get(name) for name in TRIPLE):
        body |= {"subjectModuleKey": "assets", "subjectResourceType": "asset"}
    else:
        for name in TRIPLE:
            body.pop(name, None)
    for name in body.keys() & NAMED.keys():
        body[name] = a_record(NAMED[name])["id"]
    for name in body.keys() & TIMES:
        # Schemathesis takes "" for a date-time where null would do.
        body[name] = body[name] or None
    if body.get("validUntil"):
        body.pop("validFrom", None)
    for attachment in body.get("attachments") or ():
        attachment |= {"contentBase64": "", "uri": None, "sha256": None}
    if "grant_type" in body:
        body |= account()


def deliver(body: dict, records: Records) -> None:
    """Name records that are there, and tell what no JSON Schema can ask for."""
    for named in (body, *(body.get("items") or ())):
        # Schemathesis takes "" for a UUID where null would do.
        named |= {name: named[name] and records[IDS[name]] for name in named.keys() & IDS.keys()}
        named |= {name: named[name] or None for name in named.keys() & IDS.keys()}
    body |= {name: CODE[name] for name in body.keys() & CODE.keys() if body[name] is not None}
    if "gitAuthor" in body:
        # They may be absent where a CI system tells them.
        body |= {name: value for name, value in COMMIT.items() if body.get(name) is None}
    if {"approvedBy", "reason"} <= body.keys() and not body.get("namePattern"):
        body["sha256"] = DIGEST
    if {"token", "trailId"} <= body.keys():
        body["token"] = records["token"]
    if "issuerUrl" in body:
        body["issuerUrl"] = records["issuer"]
    for name in body.keys() & {"jiraBaseUrl", "confluenceBaseUrl"}:
        body[name] = records["site"]
    if body.get("channelConfig") is None and "channelType" in body:
        body["channelType"] = "IN_APP"
    if {"email", "role"} <= body.keys():
        body["email"] = records["email"]
    if body.get("ownerType") == "USER":
        body["ownerId"] = records["userId"]


#: The operations that were tried without credentials and with wrong ones, which once is enough.
TRIED = set()


def hold(case):
    """Hold one answer to the document."""
    aim(case)
    # The client of the tests reads no compressed bodies.
    answer = case.call(headers={"Accept-Encoding": "identity"})
    existing = [ignored_auth] if case.operation.label in TRIED else []
    if answer.status_code < 400:
        unused.cache_clear()
        TRIED.add(case.operation.label)

    case.validate_response(answer, excluded_checks=existing)


@pytest.mark.parametrize("label", LABELS, ids=LABELS)
def test_every_answer_is_as_the_document_says(label):
    unused.cache_clear()

    # `SCHEMA.parametrize()` would make all requests up as it is collected, in every process.
    tried = build_operation_test(
        config=SCHEMA.config,
        operation=described()[label],
        test_func=hold,
        given_kwargs={},
        feedback=FeedbackSources(constants_value_source=make_constants_value_source(SCHEMA)),
    )

    # Nothing is left out of what was to be tried.
    assert vars(tried._schemathesis_metadata).keys() == {"api_operation"}
    tried()


def test_every_operation_is_among_them():
    assert list(described()) == LABELS


def test_the_document_is_openapi_3_1():
    SCHEMA.validate()

    assert SCHEMA.specification.version == "3.1.0"
