"""Assertions."""

import json

import pytest
from stored import audit, events, tables

from novantra_lite import (
    Approval,
    Artifact,
    Attestation,
    AuditEvent,
    Flow,
    Trail,
    write_transaction,
)

ASSERT = "/api/v1/assert"
DIGEST = "sha256:" + "0" * 64
NOBODY = "00000000-0000-4000-8000-000000000000"
NOON = "2026-06-01T12:00:00.000000Z"
UNIT = "trail: {attestations: [{name: unit}]}"
NAMED = """
version: 1
trail:
  attestations:
    - {name: review, type: pull-request}
    - {name: audit, if: '${{ flow.tags["tier"] in ["1", "2"] and not artifact.name == "docs" }}'}
  artifacts:
    - name: api
      attestations: [{name: unit, type: junit}, {name: review}]
    - name: web
      attestations: [{name: e2e}]
"""


@pytest.fixture
def story(lite):
    """Makes a flow, and trails with an image, attestations such as `junit+ unit:x-`, and approval.

    + is PASSED, - FAILED and ? PENDING; what stands before a colon is the type, behind it the name.
    """

    def tell(*trails, **flow):
        def work(current):
            made = Flow.create(name="payments", **flow)
            return made.id, [add(made, *trail) for trail in trails]

        return write_transaction(lite.workspace, work, actor="test")

    return tell


def add(flow, said="", image="api", template=None, approval=None):
    trail = Trail.create(
        flow=flow.id, git_commit_sha="c0ffee", git_branch="main", git_author="Ada",
        git_author_email="", template_yaml=template,
    )  # fmt: skip
    if image:
        report(trail.id, image)
    for record in said.split():
        status = {"+": "PASSED", "-": "FAILED", "?": "PENDING"}[record[-1]]
        record_type, _, name = record[:-1].partition(":")
        Attestation.create(trail=trail.id, type=record_type, name=name or None, status=status)
    if approval:
        Approval.create(trail=trail.id, flow=flow.id, status=approval)
    return trail.id


def report(trail, image="api"):
    Artifact.create(trail=trail, image_name=image, image_tag="1", sha256_digest=DIGEST)


def gate_events(lite):
    with lite.workspace.read():
        result = AuditEvent.select().order_by(AuditEvent.occurred_at, AuditEvent.id)
        return [
            (
                record.event_type,
                record.actor,
                record.trail_id,
                record.artifact_sha256,
                json.loads(record.payload),
            )
            for record in result
        ]


def test_an_artifact_with_everything_passed_is_compliant(lite, factstore, story):
    flow, (trail,) = story(("junit+ zap+ snyk+",), required_attestation_types=["junit", "snyk"])

    response = factstore.post(ASSERT, {"sha256Digest": DIGEST, "flowId": flow.upper()})

    sentence = "Everything that the flow payments requires has passed."
    assert response.status == 200
    assert list(response.json.items()) == [
        ("sha256Digest", DIGEST),
        ("flowId", flow),
        ("status", "COMPLIANT"),
        ("missingAttestationTypes", []),
        ("failedAttestationTypes", []),
        ("details", sentence),
        ("missingAttestationNames", []),
        ("failedAttestationNames", []),
        ("compliant", True),
        ("message", sentence),
        ("flowName", "payments"),
        ("missingAttestations", []),
        ("failedAttestations", []),
        ("checkedAt", NOON),
        (
            "attestations",
            [
                {"type": "junit", "status": "PASSED"},
                {"type": "zap", "status": "PASSED"},
                {"type": "snyk", "status": "PASSED"},
            ],
        ),
    ]
    payload = {
        "sha256Digest": DIGEST,
        "flowId": flow,
        "status": "COMPLIANT",
        "missingAttestationTypes": [],
        "failedAttestationTypes": [],
    }
    assert gate_events(lite) == [("GATE_ALLOWED", "system", trail, DIGEST, payload)]
    assert audit(lite)[-1][1] == "factstore.event.recorded"
    assert events(lite) == []
    assert factstore.get(f"/api/v1/flows/{flow}").status == 200
    assert lite.verify() == []


TYPES = {"required_attestation_types": ["junit", "snyk"]}
APPROVED = {"requires_approval": True}

#: The flow, the trails, the verdict, what is missing and what failed, which trail decides.
CASES = {
    "nobody reported it": (TYPES, [], False, ["junit", "snyk"], [], None),
    "nobody reported it, nothing required": ({}, [], False, [], [], None),
    "nobody reported it, with a template": (
        TYPES | {"template_yaml": UNIT}, [], False, ["junit", "snyk"], [], None,
    ),
    "nothing required": ({}, [("junit+ zap?",)], True, [], [], 0),
    "nothing required, something failed": ({}, [("junit-",)], False, [], ["junit"], 0),
    "only an approval required": (APPROVED, [("",)], False, [], [], 0),
    "only an approval required, and there": (
        APPROVED, [("", "api", None, "APPROVED")], True, [], [], 0,
    ),
    "all passed": (TYPES, [("snyk+ junit+",)], True, [], [], 0),
    "one missing": (TYPES, [("snyk+",)], False, ["junit"], [], 0),
    "one pending": (TYPES, [("snyk+ junit?",)], False, ["junit"], [], 0),
    "one failed": (TYPES, [("snyk- junit+",)], False, ["snyk"], ["snyk"], 0),
    "failed, then passed": (TYPES, [("snyk- snyk+ junit+",)], True, [], [], 0),
    "passed, then failed": (TYPES, [("snyk+ junit+ snyk-",)], False, ["snyk"], ["snyk"], 0),
    "passed, then pending": (TYPES, [("snyk+ junit+ snyk?",)], True, [], [], 0),
    "passed under another name since": (
        TYPES, [("snyk:a- snyk:b+ junit+",)], False, [], ["snyk"], 0,
    ),
    "passed under its name since": (TYPES, [("snyk:a- snyk:b+ snyk:a+ junit+",)], True, [], [], 0),
    "what nobody requires failed": (TYPES, [("snyk+ a- junit+",)], False, [], ["a"], 0),
    "what nobody requires passed again": (TYPES, [("snyk+ a- junit+ a+",)], True, [], [], 0),
    "failures twice, others too": (
        TYPES, [("a- snyk- a- junit-",)], False, ["junit", "snyk"], ["a", "snyk", "a", "junit"], 0,
    ),
    "a type required twice": (
        {"required_attestation_types": ["b", "a", "b"]}, [("",)], False, ["b", "a", "b"], [], 0,
    ),
    "names do not count as types": (
        TYPES, [("x:junit+ x:snyk+",)], False, ["junit", "snyk"], [], 0,
    ),
    "types are compared exactly": (TYPES, [("JUnit+ snyk+",)], False, ["junit"], [], 0),
    "the trail that reported it last": (
        TYPES, [("junit+ snyk+",), ("a-",), ("junit+ snyk+",)], True, [], [], 2,
    ),
    "an earlier trail failed": (TYPES, [("junit- snyk-",), ("junit+ snyk+",)], True, [], [], 1),
    "a later trail failed": (
        TYPES, [("junit+ snyk+",), ("junit- snyk+",)], False, ["junit"], ["junit"], 1,
    ),
    "a later trail says nothing yet": (
        TYPES, [("junit+ snyk+",), ("",)], False, ["junit", "snyk"], [], 1,
    ),
    "what another trail has does not help": (
        TYPES, [("junit+",), ("snyk+",)], False, ["junit"], [], 1,
    ),
    "a trail without the artifact": (
        TYPES, [("junit+ snyk+", None), ("",)], False, ["junit", "snyk"], [], 1,
    ),
    "approved": (
        TYPES | APPROVED, [("junit+ snyk+", "api", None, "APPROVED")], True, [], [], 0,
    ),
    "approved in spite of a failure": (
        TYPES | APPROVED, [("junit+ snyk+ a-", "api", None, "APPROVED")], False, [], ["a"], 0,
    ),
    "not approved": (TYPES | APPROVED, [("junit+ snyk+",)], False, [], [], 0),
    "approval pending": (
        TYPES | APPROVED, [("junit+ snyk+", "api", None, "PENDING_APPROVAL")], False, [], [], 0,
    ),
    "rejected": (TYPES | APPROVED, [("junit+ snyk+", "api", None, "REJECTED")], False, [], [], 0),
    "an earlier trail's approval does not help": (
        TYPES | APPROVED,
        [("junit+ snyk+", "api", None, "APPROVED"), ("junit+ snyk+",)],
        False, [], [], 1,
    ),
    "the template of an earlier trail does not matter": (
        TYPES, [("x:unit+", "api", UNIT), ("",)], False, ["junit", "snyk"], [], 1,
    ),
    "a blank template": (
        TYPES | {"template_yaml": ""}, [("snyk+",)], False, ["junit"], [], 0,
    ),
    "a blank template, and a failure": (
        TYPES | {"template_yaml": " \n"}, [("junit+ snyk-",)], False, ["snyk"], ["snyk"], 0,
    ),
    "a blank template, approval missing": (
        APPROVED | {"template_yaml": ""}, [("y+",)], False, [], [], 0,
    ),
    "a blank template, approved": (
        APPROVED | {"template_yaml": ""}, [("", "api", None, "APPROVED")], True, [], [], 0,
    ),
    "missing goes before approval": (TYPES | APPROVED, [("junit+",)], False, ["snyk"], [], 0),
}  # fmt: skip


@pytest.mark.parametrize(
    ("flow", "trails", "compliant", "missing", "failed", "deciding"), CASES.values(), ids=CASES
)
def test_required_types(lite, factstore, story, flow, trails, compliant, missing, failed, deciding):
    key, made = story(*trails, **flow)

    matches = factstore.post(ASSERT, {"sha256Digest": DIGEST, "flowId": key}).json

    status = "COMPLIANT" if compliant else "NON_COMPLIANT"
    assert (matches["compliant"], matches["status"]) == (compliant, status)
    assert (matches["missingAttestationTypes"], matches["missingAttestations"]) == (
        missing,
        missing,
    )
    assert (matches["failedAttestationTypes"], matches["failedAttestations"]) == (failed, failed)
    assert (matches["missingAttestationNames"], matches["failedAttestationNames"]) == ([], [])
    assert matches["message"] == matches["details"]
    named = ["flow payments", *(missing or failed)] if trails else []
    assert all(item in matches["details"] for item in named)
    [(event, _, trail, _, payload)] = gate_events(lite)
    assert event == ("GATE_ALLOWED" if compliant else "GATE_BLOCKED")
    assert trail == (None if deciding is None else made[deciding])
    assert payload.items() <= matches.items()


ALL = "x:review+ x:audit+ x:unit+"
TIER = {"template_yaml": NAMED, "tags": {"tier": "1"}}
NAMED_CASES = {
    "all names": (TIER, [(ALL,)], True, [], [], 0),
    "types do not count": (
        TIER, [("review+ audit+ unit+",)], False, ["review", "audit", "unit"], [], 0,
    ),
    "required types do not count": (TIER | TYPES, [(ALL,)], True, [], [], 0),
    "the condition is false": (
        TIER | {"tags": {"tier": "3"}}, [("x:review+ x:unit+",)], True, [], [], 0,
    ),
    "another image": (TIER, [("x:unit+", "web")], False, ["review", "audit", "e2e"], [], 0),
    "an image that the template does not name": (
        TIER, [("x:review+", "other")], False, ["audit"], [], 0,
    ),
    "an image that the condition leaves out": (TIER, [("x:review+", "docs")], True, [], [], 0),
    "a name failed": (
        TIER, [(f"{ALL} x:unit- x:z- y-",)], False, ["unit"], ["unit", "z", "y"], 0,
    ),
    "a name passed again": (TIER, [(f"{ALL} y:unit- z:unit+ unit- unit+",)], True, [], [], 0),
    "a type of this name failed since": (TIER, [(f"{ALL} unit-",)], False, [], ["unit"], 0),
    "a required name failed": (
        TIER, [("x:unit- x:review+ x:audit+",)], False, ["unit"], ["unit"], 0,
    ),
    "the trail that reported it last": (TIER, [("x:unit-",), (ALL,)], True, [], [], 1),
    "the trail's template beside the flow's": (
        TIER,
        [("x:own-", "api", "trail: {attestations: [{name: own}]}")],
        False, ["review", "audit", "unit", "own"], ["own"], 0,
    ),
    "both templates are met": (
        TIER, [(f"{ALL} x:own+", "api", "trail: {attestations: [{name: own}]}")], True, [], [], 0,
    ),
    "a trail's template that asks for nothing beside the flow's": (
        TIER, [("x:unit+", "api", "version: 1")], False, ["review", "audit"], [], 0,
    ),
    "a blank one of the trail's": (
        TIER, [("", "api", "")], False, ["review", "audit", "unit"], [], 0,
    ),
    "each trail's own": (
        {"template_yaml": UNIT},
        [("x:unit+",), ("x:review+", "api", NAMED)],
        False, ["unit"], [], 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("flow", "trails", "compliant", "missing", "failed", "deciding"),
    NAMED_CASES.values(),
    ids=NAMED_CASES,
)
def test_required_names(lite, factstore, story, flow, trails, compliant, missing, failed, deciding):
    key, made = story(*trails, **flow)

    matches = factstore.post(ASSERT, {"sha256Digest": DIGEST, "flowId": key}).json

    by_type = (matches["missingAttestationTypes"], matches["failedAttestationTypes"])
    by_name = (matches["missingAttestationNames"], matches["failedAttestationNames"])
    assert matches["compliant"] is compliant
    assert (by_name, by_type) == ((missing, failed), ([], []))
    assert (matches["missingAttestations"], matches["failedAttestations"]) == (missing, failed)
    [(event, _, trail, _, payload)] = gate_events(lite)
    assert event == ("GATE_ALLOWED" if compliant else "GATE_BLOCKED")
    assert trail == made[deciding]
    assert payload.items() <= matches.items()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[", "Line 2, column 1: while parsing a flow node"),
        ("- name: unit", "Line 1, column 1: expected a template, which is a mapping."),
        ("trail:\nattestations: [{name: x}]", "Line 2, column 1: a template has no member"),
        ("a: &a [*a]", "Line 1, column 4: "),
        ("trail: {attestations: [{name: x, if: flow.nam == 'x'}]}", "Line 1, column 38: "),
    ],
)
@pytest.mark.parametrize("of_trail", [False, True])
def test_a_stored_template_that_cannot_be_read_asks_for_everything(
    lite, factstore, story, text, fault, of_trail
):
    flow, (trail,) = story(
        ("junit:x+ x:unit+", "api", text if of_trail else None),
        template_yaml=None if of_trail else text,
    )
    factstore.post(f"/api/v1/trails/{trail}/attestations", {"type": "y", "status": "PASSED"})

    matches = factstore.post(ASSERT, {"sha256Digest": DIGEST, "flowId": flow}).json

    [missing] = matches["missingAttestationNames"]
    assert (matches["status"], matches["compliant"]) == ("NON_COMPLIANT", False)
    assert missing.startswith("a template that can be read.") and len(missing) > 255
    assert fault in missing and fault in matches["details"]
    assert factstore.get(f"/api/v1/trails/{trail}").json["status"] == "NON_COMPLIANT"
    [artifact] = factstore.get(f"/api/v1/trails/{trail}/artifacts").json
    assert artifact["complianceState"] == "NON_COMPLIANT"


def test_an_artifact_counts_whichever_flow_it_was_reported_for(lite, factstore, story):
    story(("junit+",))
    other = factstore.post(
        "/api/v1/flows", {"name": "other", "requiredAttestationTypes": ["junit"]}
    ).json

    matches = factstore.post(ASSERT, {"sha256Digest": DIGEST, "flowId": other["id"]}).json

    assert (matches["status"], matches["flowName"]) == ("COMPLIANT", "other")


def test_a_trail_of_the_flow_goes_before_a_later_one_of_another(lite, factstore, story):
    flow, (own,) = story(("junit- snyk+",), **TYPES)

    def work(current):
        add(Flow.create(name="other"), "junit+ snyk+")

    write_transaction(lite.workspace, work, actor="test")
    matches = factstore.post(ASSERT, {"sha256Digest": DIGEST, "flowId": flow}).json

    assert (matches["status"], matches["missingAttestations"]) == ("NON_COMPLIANT", ["junit"])
    assert gate_events(lite)[0][2] == own


@pytest.mark.parametrize("template", ["", UNIT])
def test_the_template_of_a_trail_speaks_for_no_other_flow(factstore, story, template):
    story(("x:unit+", "api", template))
    other = {"name": "other", "requiredAttestationTypes": ["pentest"]}
    key = factstore.post("/api/v1/flows", other).json["id"]

    matches = factstore.post(ASSERT, {"sha256Digest": DIGEST, "flowId": key}).json

    assert (matches["status"], matches["missingAttestationTypes"]) == ("NON_COMPLIANT", ["pentest"])


def test_the_trail_that_reported_a_digest_last_decides_however_old_it_is(lite, factstore, story):
    flow, (first, _) = story(("junit+ snyk+",), ("junit-",), **TYPES)

    write_transaction(lite.workspace, lambda current: report(first), actor="test")
    matches = factstore.post(ASSERT, {"sha256Digest": DIGEST, "flowId": flow}).json

    assert (matches["status"], gate_events(lite)[0][2]) == ("COMPLIANT", first)


def test_every_name_under_which_a_trail_reported_a_digest_counts(lite, factstore, story):
    flow, (trail,) = story((ALL,), **TIER)

    write_transaction(lite.workspace, lambda current: report(trail, "web"), actor="test")
    write_transaction(lite.workspace, lambda current: report(trail, "other"), actor="test")
    matches = factstore.post(ASSERT, {"sha256Digest": DIGEST, "flowId": flow}).json

    assert (matches["status"], matches["missingAttestationNames"]) == ("NON_COMPLIANT", ["e2e"])


def test_a_dry_run_tells_the_verdict_and_stores_nothing(lite, factstore, story):
    flow, _ = story(("junit+",), **TYPES)
    before = tables(lite)

    response = factstore.post(ASSERT, {"sha256Digest": DIGEST, "flowId": flow}, dryRun="true")
    missing = factstore.post(ASSERT, {"sha256Digest": DIGEST, "flowId": NOBODY}, dryRun="true")

    assert (response.status, response.json["dryRun"], missing.status) == (200, True, 404)
    assert response.json["wouldCreate"]["missingAttestations"] == ["snyk"]
    assert tables(lite) == before


def test_a_flow_that_is_not_there_is_not_found(lite, factstore):
    refused = factstore.post(ASSERT, {"sha256Digest": DIGEST, "flowId": NOBODY})

    assert (refused.status, refused.json["error"]) == (404, "Not Found")
    assert NOBODY in refused.json["message"]
    assert gate_events(lite) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sha256Digest": None}, "sha256Digest"),
        ({"sha256Digest": ["x"]}, "sha256Digest"),
        ({"sha256Digest": "x" * 256}, "sha256Digest"),
        ({"flowId": None}, "flowId"),
        ({"flowId": ""}, "flowId"),
        ({"flowId": "payments"}, "flowId"),
        ({"flowId": {}}, "flowId"),
    ],
)
def test_bad_input_is_refused_by_name(factstore, change, named):
    refused = factstore.post(ASSERT, {"sha256Digest": DIGEST, "flowId": NOBODY} | change)

    assert refused.status == 400
    assert (refused.json["error"], named in refused.json["message"]) == ("Bad Request", True)


@pytest.mark.parametrize("flow", [TYPES | APPROVED, TIER | APPROVED], ids=["types", "names"])
def test_the_number_of_queries_is_fixed(lite, factstore, story, flow):
    key, trails = story(("junit+ snyk+ " + ALL, "api", None, "APPROVED"), **flow)
    connections = lite.workspace.reader.connection(), lite.workspace.writer.database.connection()

    def statements():
        seen = []
        for connection in connections:
            connection.set_trace_callback(seen.append)
        response = factstore.post(ASSERT, {"sha256Digest": DIGEST, "flowId": key})
        for connection in connections:
            connection.set_trace_callback(None)
        assert response.json["status"] == "COMPLIANT"
        return len(seen), sum(request.startswith("SELECT") for request in seen)

    statements()
    few = statements()

    def work(current):
        for number in range(200):
            Attestation.create(trail=trails[0], type=f"t{number}", name="n", status="PENDING")
            add(Flow.find(key), "junit- x:unit-", f"image-{number}")
        report(trails[0])

    write_transaction(lite.workspace, work, actor="test")
    assert statements() == few
    assert few[1] < 10


OWN_UNIT = "trail: {attestations: [{name: unit}]}"
TYPED_CASES = {
    "a flow's template that asks for nothing": (
        TYPES | {"template_yaml": "version: 1"}, [("snyk+",)], ["junit"], [], [],
    ),
    "a flow's empty template": (
        TYPES | {"template_yaml": "{}"}, [("",)], ["junit", "snyk"], [], [],
    ),
    "a flow's template with an empty trail": (
        TYPES | {"template_yaml": "trail: {attestations: []}"}, [("junit+",)], ["snyk"], [], [],
    ),
    "a trail's template that asks for nothing": (
        TYPES, [("junit+", "api", "version: 1")], ["snyk"], [], [],
    ),
    "a trail's template that asks for less": (
        TYPES, [("x:unit+", "api", OWN_UNIT)], ["junit", "snyk"], [], [],
    ),
    "a trail's template that asks for more": (
        TYPES, [("junit+ snyk+", "api", OWN_UNIT)], [], [], ["unit"],
    ),
    "a failed type that another type of its name does not undo": (
        TYPES, [("junit+ snyk+ zap:unit- x:unit+", "api", OWN_UNIT)], [], ["zap"], [],
    ),
    "types and a trail's names are met": (
        TYPES, [("junit:unit+ snyk+", "api", OWN_UNIT)], [], [], [],
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("flow", "trails", "missing", "failed", "missing_names"), TYPED_CASES.values(), ids=TYPED_CASES
)
def test_no_template_takes_away_the_types_that_a_flow_requires(
    factstore, story, flow, trails, missing, failed, missing_names
):
    key, made = story(*trails, **flow)

    matches = factstore.post(ASSERT, {"sha256Digest": DIGEST, "flowId": key}).json

    [artifact] = factstore.get(f"/api/v1/trails/{made[0]}/artifacts").json
    assert matches["compliant"] is (missing == failed == missing_names == [])
    assert (matches["missingAttestationTypes"], matches["failedAttestationTypes"]) == (
        missing,
        failed,
    )
    assert matches["missingAttestationNames"] == missing_names
    assert artifact["complianceState"] == matches["status"]
