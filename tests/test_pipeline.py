"""A build from commit to gate with reports as real tools write them; each fails once."""

import base64
import gzip
import io
import json
import random
import tarfile

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from multipart import FORM, form, part, upload

from novantra_lite import NovantraLite

SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(32))
HEX = "ab" * 32
DIGEST = f"sha256:{HEX}"
COMMIT = "c0ffee" + "0" * 34
BUILDER = "https://github.com/acme/payments/.github/workflows/build.yml@refs/heads/main"
IN_TOTO = "application/vnd.in-toto+json"

#: Surefire writes one file for each class of tests.
LEDGER_TESTS = """<?xml version="1.0" encoding="UTF-8"?>
<testsuite name="com.acme.LedgerTest" time="0.41" tests="2" errors="0" skipped="0" failures="0">
  <properties><property name="java.version" value="17"/></properties>
  <testcase name="addsUp" classname="com.acme.LedgerTest" time="0.2"/>
  <testcase name="roundsHalfEven" classname="com.acme.LedgerTest" time="0.21"/>
</testsuite>
"""
CARD_TESTS = """<?xml version="1.0" encoding="UTF-8"?>
<testsuite name="com.acme.CardTest" time="0.1" tests="1" errors="0" skipped="0" failures="0">
  <testcase name="refusesAnExpiredCard" classname="com.acme.CardTest" time="0.1"/>
</testsuite>
"""
FAILED_CARD_TESTS = """<?xml version="1.0" encoding="UTF-8"?>
<testsuite name="com.acme.CardTest" time="0.1" tests="1" errors="0" skipped="0" failures="1">
  <testcase name="refusesAnExpiredCard" classname="com.acme.CardTest" time="0.1">
    <failure message="expected: &lt;402&gt;" type="java.lang.AssertionError">trace</failure>
  </testcase>
</testsuite>
"""


def sarif(*results, successful=True):
    """What CodeQL writes: the rules stand in an extension."""
    rule = {"id": "java/sql-injection", "properties": {"security-severity": "8.8"}}
    run = {
        "tool": {
            "driver": {"name": "CodeQL", "version": "2.20.1"},
            "extensions": [{"name": "codeql/java-queries", "rules": [rule]}],
        },
        "invocations": [{"executionSuccessful": successful}],
        "results": list(results),
    }
    return json.dumps({"version": "2.1.0", "runs": [run]}).encode()


INJECTION = {
    "ruleId": "java/sql-injection",
    "rule": {"id": "java/sql-injection", "index": 0, "toolComponent": {"index": 0}},
    "message": {"text": "This query depends on a user-provided value."},
    "locations": [{"physicalLocation": {"artifactLocation": {"uri": "src/Ledger.java"}}}],
}


def cyclonedx(*vulnerabilities):
    """A bill of materials with what is known of its components."""
    component = {"type": "library", "name": "log4j-core", "version": "2.14.1", "bom-ref": "log4j"}
    document = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1}
    listed = {"components": [component], "vulnerabilities": list(vulnerabilities)}
    return json.dumps(document | listed).encode()


LOG4SHELL = {
    "id": "CVE-2021-44228",
    "analysis": {"state": "exploitable"},
    "affects": [{"ref": "log4j"}],
}

REGO = b"""package release

import rego.v1

default allow := false

allow if {
    startswith(input.artifactName, data.release.prefixes[_])
    time.parse_rfc3339_ns("2026-05-31T00:00:00Z") > 0
}
"""


def bundle(prefixes):
    """A bundle as `opa build` writes it."""
    files = {
        "/.manifest": b'{"revision":"","roots":["release"],"rego_version":1}',
        "/data.json": json.dumps({"release": {"prefixes": prefixes}}).encode(),
        "/policies/release.rego": REGO,
        "/policies/release_test.rego": b"package release_test\nimport rego.v1\ntest_x if true\n",
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), mtime=0)


def provenance(key, digest=HEX, builder=BUILDER):
    """A DSSE envelope around a statement of SLSA provenance."""
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "payments", "digest": {"sha256": digest}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "https://actions.github.io/buildtypes/workflow/v1",
                "externalParameters": {
                    "workflow": {"repository": "https://github.com/acme/payments"}
                },
                "resolvedDependencies": [
                    {
                        "uri": "git+https://github.com/acme/payments@refs/heads/main",
                        "digest": {"gitCommit": COMMIT},
                    }
                ],
            },
            "runDetails": {"builder": {"id": builder}},
        },
    }
    payload = json.dumps(statement).encode()
    signed = f"DSSEv1 {len(IN_TOTO)} {IN_TOTO} {len(payload)} ".encode() + payload
    signature = {"sig": base64.b64encode(key.sign(signed)).decode()}
    return json.dumps(
        {
            "payloadType": IN_TOTO,
            "payload": base64.b64encode(payload).decode(),
            "signatures": [signature],
        }
    )


@pytest.fixture
def lite(clock, tmp_path):
    keys = tmp_path / "builders.pem"
    keys.write_bytes(
        SIGNER.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    with NovantraLite(
        clock=clock, random=random.Random(7), rate_limits=False, provenance_keys=(str(keys),)
    ) as lite:
        yield lite


class Pipeline:
    """A build that reports what it did with its own key, and officers who govern with theirs."""

    def __init__(self, lite):
        self.ci = lite.client("factstore:read", "factstore:write")
        self.officer = lite.client("factstore:read", "factstore:write", "factstore:govern")
        required = ["junit", "sarif", "cyclonedx"]
        flow = {"name": "payments", "requiredAttestationTypes": required}
        self.flow = self.ci.post("/api/v1/flows", flow).json["id"]
        body = {"name": "production", "type": "K8S"}
        environment = self.ci.post("/api/v1/environments", body).json["id"]
        policy = {
            "name": "payments to production",
            "flowId": self.flow,
            "environmentId": environment,
            "enforceProvenance": True,
            "requiredAttestationTypes": required,
        }
        assert self.officer.post("/api/v1/deployment-policies", policy).status in (200, 201)
        trail = {
            "flowId": self.flow, "gitCommitSha": COMMIT, "gitBranch": "main", "gitAuthor": "Ada",
            "gitAuthorEmail": "ada@example.com",
        }  # fmt: skip
        self.trail = self.ci.post("/api/v1/trails", trail).json["id"]
        self.path = f"/api/v1/trails/{self.trail}"

    def report(self, type, **files):
        """Attest a type with the files, and return the attestation's status."""
        attestation = self.ci.post(f"{self.path}/attestations", {"type": type}).json["id"]
        evidence = f"{self.path}/attestations/{attestation}/evidence"
        for name, content in files.items():
            content = content.encode() if isinstance(content, str) else content
            assert upload(self.ci, evidence, content, name=f"{name}.report").status == 201
        attestations = self.ci.get(f"{self.path}/attestations").json
        return next(each["status"] for each in attestations if each["id"] == attestation)

    def prove(self, signature):
        """Report the artifact and its provenance, and return the provenance's status."""
        artifact = {
            "imageName": "payments", "imageTag": "1", "sha256Digest": DIGEST, "reportedBy": "ci",
        }  # fmt: skip
        made = self.ci.post(f"{self.path}/artifacts", artifact).json["id"]
        built = {
            "builderId": BUILDER, "builderType": "GITHUB_ACTIONS", "sourceCommitSha": COMMIT,
            "provenanceSignature": signature,
        }  # fmt: skip
        path = f"{self.path}/artifacts/{made}/provenance"
        return self.ci.post(path, built).json["provenanceStatus"]

    def judge(self, prefixes):
        """Store and activate a bundle, and return whether it lets the artifact pass."""
        file = part(bundle(prefixes), 'form-data; name="file"; filename="bundle.tar.gz"', "")
        name = part(b"release", 'form-data; name="name"', "")
        body = form(name, file)
        made = self.officer.request("POST", "/api/v1/opa/bundles", body=body, headers=FORM)
        assert made.status == 201, made.json
        self.officer.put(f"/api/v1/opa/bundles/{made.json['id']}/activate")
        question = {"artifactName": "payments", "environment": "production"}
        return self.ci.post("/api/v1/opa/evaluate", question).json["resultAllow"]

    def is_released(self):
        """Whether the gate lets the artifact into production, and every other answer agrees."""
        gate = self.ci.post(
            "/api/v1/gate/evaluate",
            {"artifactSha256": HEX, "environment": "production", "requestedBy": "ci"},
        ).json
        return gate["allowed"]

    def is_compliant(self):
        """The one answer of assert, trail and artifact; they must not differ."""
        question = {"sha256Digest": DIGEST.upper().replace("SHA256", "sha256"), "flowId": self.flow}
        verdicts = {
            self.ci.post("/api/v1/assert", question).json["status"] == "COMPLIANT",
            self.ci.get(self.path).json["status"] == "COMPLIANT",
        }
        artifacts = self.ci.get(f"{self.path}/artifacts").json
        verdicts |= {artifact["complianceState"] == "COMPLIANT" for artifact in artifacts}
        assert len(verdicts) == 1
        return verdicts.pop()


#: What each step reports when all is well.
GOOD = {
    "junit": {"ledger": LEDGER_TESTS, "card": CARD_TESTS},
    "sarif": {"codeql": sarif()},
    "cyclonedx": {"bom": cyclonedx()},
    "provenance": provenance(SIGNER),
    "prefixes": ["pay", "ledger"],
}


def run(lite, reports):
    """The status of every step, by its name, and whether the build is compliant and released."""
    pipeline = Pipeline(lite)
    statuses = {"provenance": pipeline.prove(reports["provenance"])}
    for type in ("junit", "sarif", "cyclonedx"):
        statuses[type] = pipeline.report(type, **reports[type])
    statuses["rego"] = pipeline.judge(reports["prefixes"])
    return statuses, pipeline.is_compliant(), pipeline.is_released()


def test_a_sound_build_passes_every_step_and_the_gate(lite):
    statuses, is_compliant, is_released = run(lite, GOOD)

    assert statuses == {
        "provenance": "PROVENANCE_VERIFIED", "junit": "PASSED", "sarif": "PASSED",
        "cyclonedx": "PASSED", "rego": True,
    }  # fmt: skip
    assert (is_compliant, is_released) == (True, True)
    assert lite.verify() == []


@pytest.mark.parametrize(
    ("type", "files"),
    [
        ("junit", {"card": FAILED_CARD_TESTS, "ledger": LEDGER_TESTS}),
        ("sarif", {"codeql": sarif(INJECTION)}),
        ("sarif", {"codeql": sarif(successful=False)}),
        ("cyclonedx", {"bom": cyclonedx(LOG4SHELL)}),
    ],
    ids=["a failed class before a passed one", "an injection", "a broken scan", "log4shell"],
)
def test_a_build_with_one_failing_report_is_stopped(lite, type, files):
    statuses, is_compliant, is_released = run(lite, GOOD | {type: files})

    assert statuses[type] == "FAILED"
    assert (is_compliant, is_released) == (False, False)


@pytest.mark.parametrize(
    "signature",
    [
        provenance(STRANGER),
        provenance(SIGNER, digest="cd" * 32),
        provenance(SIGNER, builder="https://github.com/mallory/payments"),
    ],
    ids=["signed by a stranger", "about another artifact", "from another builder"],
)
def test_a_build_without_sound_provenance_is_stopped(lite, signature):
    statuses, is_compliant, is_released = run(lite, GOOD | {"provenance": signature})

    assert statuses["provenance"] == "PROVENANCE_UNVERIFIED"
    assert (is_compliant, is_released) == (True, False)


def test_a_bundle_whose_data_do_not_allow_the_artifact_denies(lite):
    statuses, _, _ = run(lite, GOOD | {"prefixes": ["ledger"]})

    assert statuses["rego"] is False
