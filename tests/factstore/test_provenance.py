"""Build provenance and its signatures."""

import base64
import json
import random
from datetime import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from stored import audit, events, ledger, tables

import novantra_lite
from factstore.trails import make_trail
from novantra_lite import (
    Artifact,
    BuildProvenance,
    Invalid,
    NovantraLite,
    load_public_keys,
    provenance_verdict,
    trusted_keys,
)

NOON = "2026-06-01T12:00:00.000000Z"
NOBODY = "00000000-0000-4000-8000-000000000000"
DIGEST = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32
API = {"imageName": "payments", "imageTag": "1", "sha256Digest": DIGEST, "reportedBy": "ci"}
BUILT = {"builderId": "https://github.com/acme/ci", "builderType": "GITHUB_ACTIONS"}
STATEMENT = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [
        {"name": "other", "digest": {"sha256": "cd" * 32}},
        {"name": "payments", "digest": {"sha256": "ab" * 32}},
    ],
    "predicateType": "https://slsa.dev/provenance/v1",
    "predicate": {
        "buildDefinition": {},
        "runDetails": {"builder": {"id": "https://github.com/acme/ci"}},
    },
}
IN_TOTO = "application/vnd.in-toto+json"

ED25519 = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
P256 = ec.derive_private_key(20260601, ec.SECP256R1())
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(32))
P384 = ec.derive_private_key(20260601, ec.SECP384R1())
RSA = rsa.generate_private_key(65537, 2048)
KEYS = {"Ed25519": ED25519, "P-256": P256}


def pem(key):
    spki = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return spki.decode()


def sign(key, data):
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(SHA256()))
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, PKCS1v15(), SHA256())
    return key.sign(data)


def base64_of(data):
    return base64.b64encode(data).decode()


def detached(key, digest=DIGEST):
    return base64_of(sign(key, digest.encode()))


def envelope(key, statement=STATEMENT, kind=IN_TOTO, **changes):
    payload = statement if isinstance(statement, bytes) else json.dumps(statement).encode()
    # The specification's own words: PAE of type and body, with lengths in bytes.
    signed = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    made = {
        "payloadType": kind,
        "payload": base64_of(payload),
        "signatures": [{"keyid": "ci", "sig": base64_of(sign(key, signed))}],
    }
    return json.dumps(made | changes)


@pytest.fixture
def artifact(factstore, trail):
    return factstore.post(f"/api/v1/trails/{trail}/artifacts", API).json


@pytest.fixture
def path(artifact):
    return f"/api/v1/trails/{artifact['trailId']}/artifacts/{artifact['id']}/provenance"


def reported(lite):
    """A client of an instance, and the path of the provenance of an artifact reported there."""
    client, trail = lite.client(*novantra_lite.FACTSTORE_SCOPES), make_trail(lite, "payments")
    artifact = client.post(f"/api/v1/trails/{trail}/artifacts", API).json["id"]
    return client, f"/api/v1/trails/{trail}/artifacts/{artifact}/provenance"


def demand(client, name, **demands):
    flow = client.get("/api/v1/flows").json[0]["id"]
    made = client.post("/api/v1/deployment-policies", {"name": name, "flowId": flow} | demands)
    assert made.status == 200


@pytest.fixture
def trusting(tmp_path, clock):
    """An instance that trusts both keys, each from a file of its own."""
    files = []
    for name, key in KEYS.items():
        files.append(tmp_path / f"{name}.pem")
        files[-1].write_text(f"The key of our builds.\n{pem(key)}")
    values = {"provenance_keys": tuple(map(str, files))}
    with NovantraLite(clock=clock, random=random.Random(7), **values) as lite:
        yield lite


# --- Recording ----------------------------------------------------------------


def test_provenance_needs_only_a_builder(lite, factstore, trail, artifact, path):
    recorded = factstore.post(path, BUILT)

    key = recorded.json["id"]
    assert recorded.status == 201
    assert list(recorded.json.items()) == [
        ("id", key),
        ("artifactId", artifact["id"]),
        ("builderId", "https://github.com/acme/ci"),
        ("builderType", "GITHUB_ACTIONS"),
        ("buildConfigUri", None),
        ("sourceRepositoryUri", None),
        ("sourceCommitSha", None),
        ("buildStartedOn", None),
        ("buildFinishedOn", None),
        ("provenanceSignature", None),
        ("slsaLevel", "L0"),
        ("provenanceStatus", "PROVENANCE_UNVERIFIED"),
        ("recordedAt", NOON),
    ]
    assert factstore.get(path).json == recorded.json
    (listed,) = factstore.get(f"/api/v1/trails/{trail}/artifacts").json
    assert listed == artifact | {"provenanceStatus": "PROVENANCE_UNVERIFIED"}
    assert audit(lite)[-2][1:3] == ("build_provenance.recorded", key)
    assert ledger(lite)[-2] == ("BUILD_PROVENANCE_RECORDED", key)
    assert [type for type, _ in events(lite)] == ["factstore.artifact.reported"]
    assert lite.verify() == []


def test_everything_that_may_be_given_is_kept(factstore, path):
    body = BUILT | {
        "buildConfigUri": "https://git.example/ci.yml",
        "sourceRepositoryUri": "https://git.example/payments",
        "sourceCommitSha": "0f3e",
        "buildStartedOn": "2026-06-01T13:00:00+02:00",
        "buildFinishedOn": "2026-06-01T10:00:00Z",
        "provenanceSignature": "x" * 1_000_000,
        "slsaLevel": "L3",
    }

    recorded = factstore.post(path, body)

    assert recorded.status == 201
    assert (
        recorded.json.items()
        >= (
            body
            | {
                "buildStartedOn": "2026-06-01T11:00:00.000000Z",
                "buildFinishedOn": "2026-06-01T10:00:00.000000Z",
            }
        ).items()
    )


@pytest.mark.parametrize(
    "change",
    [
        {"builderId": None},
        {"builderId": "x" * 256},
        {"builderType": None},
        {"builderType": "github_actions"},
        {"buildConfigUri": "x" * 513},
        {"sourceRepositoryUri": ["x"]},
        {"sourceCommitSha": "x" * 256},
        {"buildStartedOn": "yesterday"},
        {"buildFinishedOn": "2026-06-01"},
        {"provenanceSignature": "x" * 1_000_001},
        {"provenanceSignature": {"payload": ""}},
        {"slsaLevel": "L4"},
    ],
)
def test_a_wrong_member_is_refused(lite, factstore, path, change):
    before = tables(lite)

    refused = factstore.post(path, BUILT | change)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert next(iter(change)) in refused.json["message"]
    assert tables(lite) == before


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_provenance_is_recorded_once(lite, factstore, path, version):
    path = path.replace("v1", version)
    first = factstore.post(path, BUILT)
    before = tables(lite)

    again = factstore.post(path, BUILT | {"builderId": "somebody else"})

    assert (first.status, again.status, again.json["error"]) == (201, 409, "Conflict")
    assert first.json["artifactId"] in again.json["message"]
    assert tables(lite) == before


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("method", ["GET", "POST", "POST verify"])
def test_what_is_not_there_is_not_found(lite, factstore, trail, artifact, method, version):
    other = make_trail(lite, "other")
    method, _, below = method.partition(" ")
    below = below and f"/{below}"
    ways = [(NOBODY, artifact["id"]), (trail, NOBODY), (other, artifact["id"])]

    refused = [
        factstore.request(
            method, f"/api/{version}/trails/{way[0]}/artifacts/{way[1]}/provenance{below}",
            json=None if method == "GET" else BUILT,
        )
        for way in ways
    ]  # fmt: skip

    assert [(response.status, response.json["error"]) for response in refused] == [
        (404, "Not Found")
    ] * 3
    assert NOBODY in refused[0].json["message"] and NOBODY in refused[1].json["message"]
    assert f"does not belong to the trail {other}" in refused[2].json["message"]


def test_an_artifact_without_provenance_has_none_to_read(factstore, artifact, path):
    refused = factstore.get(path)

    assert (refused.status, refused.json["error"]) == (404, "Not Found")
    assert artifact["id"] in refused.json["message"]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_dry_run_stores_nothing(lite, factstore, path, version):
    path, before = path.replace("v1", version), tables(lite)

    response = factstore.post(path, BUILT, headers={"X-Dry-Run": "true"})
    verified = factstore.post(f"{path}/verify", headers={"X-Dry-Run": "true"})

    assert (response.status, response.json["dryRun"]) == (200, True)
    assert response.json["wouldCreate"]["builderType"] == "GITHUB_ACTIONS"
    assert verified.json["result"]["verdict"] == "NONE"
    assert tables(lite) == before


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_digest_finds_the_provenance_of_its_first_artifact(lite, factstore, trail, version):
    first, second = [
        factstore.post(f"/api/v1/trails/{trail}/artifacts", API).json["id"] for _ in range(2)
    ]
    path = f"/api/{version}/trails/{trail}/artifacts"
    digest = f"/api/{version}/artifacts/{DIGEST}/provenance"
    factstore.post(f"{path}/{second}/provenance", BUILT)

    only_second = factstore.get(digest)
    recorded = factstore.post(f"{path}/{first}/provenance", BUILT)
    both = factstore.get(digest)
    none = factstore.get(digest.replace("ab", "cd"))

    assert (only_second.status, none.status) == (404, 404)
    assert (both.status, both.json) == (200, recorded.json)
    assert factstore.get(f"{path}/{second}/provenance").json["artifactId"] == second


@pytest.mark.parametrize("digest", ["%00", "%ED%A0%80", "x" * 3000, "'--", "sha512:" + "ab" * 64])
def test_what_is_no_digest_is_refused(factstore, artifact, digest):
    refused = factstore.get(f"/api/v1/artifacts/{digest}/provenance")

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert "sha256" in refused.json["message"]


# --- Verifying ----------------------------------------------------------------


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_verifying_without_provenance_says_that_there_is_none(factstore, artifact, path, version):
    verified = factstore.post(f"{path.replace('v1', version)}/verify")

    assert verified.status == 200
    assert verified.json == {
        "artifactId": artifact["id"],
        "provenanceStatus": "NO_PROVENANCE",
        "verdict": "NONE",
        "message": "No provenance is recorded for this artifact.",
    }


NO_KEY = "The signature was not verified: there is no public key to verify it with."


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        (None, "The provenance has no signature."),
        (" ", "The provenance has no signature."),
        (detached(ED25519), NO_KEY),
    ],
)
def test_what_cannot_be_checked_is_unverified(lite, factstore, path, signature, message):
    factstore.post(path, BUILT | {"provenanceSignature": signature})
    before = tables(lite)

    verified = factstore.post(f"{path}/verify", {"publicKey": None})

    assert verified.status == 200
    assert verified.json["provenanceStatus"] == "PROVENANCE_UNVERIFIED"
    assert (verified.json["verdict"], verified.json["message"]) == ("UNVERIFIED", message)
    assert tables(lite) == before


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    ("form", "status", "verdict"),
    [(detached, "PROVENANCE_UNVERIFIED", "SIGNED"), (envelope, "PROVENANCE_VERIFIED", "VERIFIED")],
)
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_good_signature_is_verified_with_the_callers_key(
    lite, factstore, trail, path, form, key, version, status, verdict
):
    path = path.replace("v1", version)
    recorded = factstore.post(path, BUILT | {"provenanceSignature": form(KEYS[key])}).json

    good = factstore.post(f"{path}/verify", {"publicKey": pem(KEYS[key])}).json
    wrong = factstore.post(f"{path}/verify", {"publicKey": pem(STRANGER)}).json
    none = factstore.post(f"{path}/verify", {}).json

    assert (good["provenanceStatus"], good["verdict"]) == (status, verdict)
    assert (wrong["provenanceStatus"], wrong["verdict"]) == ("PROVENANCE_UNVERIFIED", "FAILED")
    assert (none["provenanceStatus"], none["verdict"]) == ("PROVENANCE_UNVERIFIED", "UNVERIFIED")
    assert len({good["message"], wrong["message"], none["message"]}) == 3
    # What a caller's key says is that caller's business.
    assert recorded["provenanceStatus"] == "PROVENANCE_UNVERIFIED"
    assert factstore.get(path).json == recorded


def raw(key, digest=DIGEST, size=32):
    r, s = decode_dss_signature(sign(key, digest.encode()))
    return base64_of(r.to_bytes(size, "big") + s.to_bytes(size, "big"))


def unpadded(text):
    return text.replace("+", "-").replace("/", "_").rstrip("=")


def changed(text, **changes):
    return json.dumps(json.loads(text) | changes)


def about(digest, **more):
    return STATEMENT | {"subject": [{"name": "payments", "digest": digest}], **more}


GOOD = {
    "r and s": (raw(P256), P256),
    "URL-safe and unpadded": (unpadded(detached(P256)), P256),
    "broken into lines": ("\n".join([detached(ED25519)[:40], detached(ED25519)[40:], ""]), ED25519),
    "an older statement": (
        envelope(ED25519, STATEMENT | {"_type": "https://in-toto.io/Statement/v0.1"}),
        ED25519,
    ),
    "a predicate's own type": (
        envelope(ED25519, kind="application/vnd.in-toto.provenance+json"),
        ED25519,
    ),
    "hexadecimal in upper case": (envelope(P256, about({"sha256": "AB" * 32})), P256),
    "several digests": (envelope(P256, about({"sha512": "00", "sha256": "ab" * 32})), P256),
    "text beyond ASCII": (
        envelope(P256, STATEMENT | {"predicate": STATEMENT["predicate"] | {"note": "Zoë"}}),
        P256,
    ),
    "a sigstore bundle": (
        json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
                "verificationMaterial": {"publicKey": {"hint": "ci"}},
                "dsseEnvelope": json.loads(envelope(P256)),
            }
        ),
        P256,
    ),
    "JSON lines, with a signed SBOM beside the provenance": (
        envelope(P256, STATEMENT | {"predicateType": "https://spdx.dev/Document"})
        + "\n"
        + envelope(P256)
        + "\n",
        P256,
    ),
    "an envelope spread over lines": (json.dumps(json.loads(envelope(P256)), indent=2), P256),
    "an envelope beyond 64 KiB": (
        envelope(P256, STATEMENT | {"predicate": STATEMENT["predicate"] | {"log": "x" * 500_000}}),
        P256,
    ),
    "version 0.2 of SLSA provenance": (
        envelope(
            P256,
            STATEMENT
            | {
                "_type": "https://in-toto.io/Statement/v0.1",
                "predicateType": "https://slsa.dev/provenance/v0.2",
                "predicate": {"builder": {"id": "https://github.com/acme/ci"}},
            },
        ),
        P256,
    ),
    "the digest's bare text": (base64_of(sign(ED25519, b"ab" * 32)), ED25519),
    "the digest's bytes, ECDSA": (
        base64_of(P256.sign(bytes.fromhex("ab" * 32), ec.ECDSA(Prehashed(SHA256())))),
        P256,
    ),
    "the digest's bytes, Ed25519": (base64_of(sign(ED25519, bytes.fromhex("ab" * 32))), ED25519),
    "the digest's bytes, RSA": (
        base64_of(RSA.sign(bytes.fromhex("ab" * 32), PKCS1v15(), Prehashed(SHA256()))),
        RSA,
    ),
    "RSA with PSS": (base64_of(RSA.sign(DIGEST.encode(), PSS(MGF1(SHA256()), 32), SHA256())), RSA),
    "RSA over an envelope": (envelope(RSA), RSA),
    "P-384 over an envelope": (envelope(P384), P384),
    "P-384 with SHA-384": (base64_of(P384.sign(DIGEST.encode(), ec.ECDSA(SHA384()))), P384),
    "P-384 as r and s": (raw(P384, size=48), P384),
    "an envelope in URL-safe base64": (
        changed(envelope(ED25519), payload=unpadded(json.loads(envelope(ED25519))["payload"])),
        ED25519,
    ),
    "signatures of others beside it": (
        changed(
            envelope(ED25519),
            signatures=[
                {"sig": base64_of(bytes(64))},
                *json.loads(envelope(ED25519))["signatures"],
            ],
        ),
        ED25519,
    ),
}


@pytest.mark.parametrize("form", GOOD)
def test_a_signature_is_taken_in_every_form_that_tools_write(factstore, path, form):
    signature, key = GOOD[form]
    factstore.post(path, BUILT | {"provenanceSignature": signature})

    verified = factstore.post(f"{path}/verify", {"publicKey": pem(key)})

    verdict = "VERIFIED" if signature.startswith("{") else "SIGNED"
    assert (verified.status, verified.json["verdict"]) == (200, verdict)


BAD = {
    "words": "looks good to me",
    "no base64": "a",
    "not of ASCII": "Zoë",
    "an empty signature": "====",
    "a short signature": base64_of(bytes(63)),
    "zeros": base64_of(bytes(64)),
    "about another digest": detached(P256, OTHER),
    "half an envelope": "{",
    "no envelope": "{}",
    "too deep": '{"payload":' + "[" * 5000,
    "NaN": changed(envelope(P256)).replace('"ci"', "NaN"),
    "a lone surrogate": changed(envelope(P256)).replace('"ci"', '"\\ud800"'),
    "no signatures": changed(envelope(P256), signatures=[]),
    "a signature behind 16 others": changed(
        envelope(ED25519),
        signatures=[{"sig": ""}] * 16 + json.loads(envelope(ED25519))["signatures"],
    ),
    "signatures of no kind": changed(envelope(P256), signatures="abc"),
    "signatures by name": changed(envelope(P256), signatures={"sig": ""}),
    "a signature that is a number": changed(envelope(P256), signatures=[{"sig": 7}]),
    "a payload that is a number": changed(envelope(P256), payload=7),
    "a type that is a number": changed(envelope(P256), payloadType=7),
    "a tampered payload": changed(
        envelope(P256, about({"sha256": "cd" * 32})), payload=json.loads(envelope(P256))["payload"]
    ),
    "a tampered type": changed(envelope(P256), payloadType="application/vnd.in-toto.x+json"),
    "another type": envelope(P256, kind="text/plain"),
    "another subject": envelope(P256, about({"sha256": "cd" * 32})),
    "another algorithm": envelope(P256, about({"sha512": "ab" * 32})),
    "an algorithm that is none": envelope(P256, about("ab" * 32)),
    "a digest that is a number": envelope(P256, about({"sha256": 7})),
    "no subject": envelope(P256, {"_type": STATEMENT["_type"]}),
    "a subject without digests beside another": envelope(
        P256, STATEMENT | {"subject": [{"name": "other"}, *STATEMENT["subject"]]}
    ),
    "a subject that is a number": envelope(P256, STATEMENT | {"subject": 7}),
    "a subject that is an object": envelope(P256, STATEMENT | {"subject": {"digest": {}}}),
    "another kind of statement": envelope(P256, STATEMENT | {"_type": "https://example.com"}),
    "a type of statement that is a number": envelope(P256, STATEMENT | {"_type": 7}),
    "a statement that is a list": envelope(P256, []),
    "a statement that is no JSON": envelope(P256, b"\xff{"),
    "a signed SBOM": envelope(P256, STATEMENT | {"predicateType": "https://spdx.dev/Document"}),
    "a failed test result": envelope(
        P256,
        STATEMENT
        | {
            "predicateType": "https://in-toto.io/attestation/test-result/v0.1",
            "predicate": {"result": "FAILED", "failedTests": ["t"]},
        },
    ),
    "no type of predicate": envelope(
        P256, {name: value for name, value in STATEMENT.items() if name != "predicateType"}
    ),
    "two types of predicate": envelope(
        P256, b'{"predicateType":"https://spdx.dev/Document",' + json.dumps(STATEMENT).encode()[1:]
    ),
    "two subjects": envelope(
        P256, json.dumps(STATEMENT).encode()[:-1] + b',"subject":[{"digest":{"sha256":"cd"}}]}'
    ),
    "two digests of one name": envelope(
        P256, json.dumps(STATEMENT).encode().replace(b'"sha256"', b'"sha256":"cd","sha256"')
    ),
    "two payloads": '{"payload":"e30",' + envelope(P256)[1:],
    "an unknown version of SLSA provenance": envelope(
        P256, STATEMENT | {"predicateType": "https://slsa.dev/provenance/v9"}
    ),
    "another builder": envelope(
        P256, STATEMENT | {"predicate": {"runDetails": {"builder": {"id": "https://evil.example"}}}}
    ),
    "dependencies that are texts": envelope(
        P256,
        STATEMENT
        | {
            "predicate": STATEMENT["predicate"]
            | {"buildDefinition": {"resolvedDependencies": ["git+https://github.com/acme/tools"]}}
        },
    ),
    "no builder": envelope(P256, STATEMENT | {"predicate": {"runDetails": {}}}),
    "a builder that is a number": envelope(
        P256, STATEMENT | {"predicate": {"runDetails": {"builder": {"id": 7}}}}
    ),
    "a predicate that is text": envelope(P256, STATEMENT | {"predicate": "Zoë"}),
    "17 lines of envelopes": "\n".join([envelope(P256)] * 17),
    "a line that is no envelope": envelope(P256) + "\n{",
    "a bundle without an envelope": json.dumps({"dsseEnvelope": None}),
    "a list of envelopes": f"[{envelope(P256)}]",
    "another algorithm's digest bytes": base64_of(sign(ED25519, bytes.fromhex("cd" * 32))),
}


@pytest.mark.parametrize("fault", BAD)
def test_anything_else_fails(factstore, path, fault):
    recorded = factstore.post(path, BUILT | {"provenanceSignature": BAD[fault]})

    verified = factstore.post(f"{path}/verify", {"publicKey": pem(P256) + pem(ED25519)})

    assert (recorded.status, verified.status) == (201, 200)
    assert verified.json["verdict"] == "FAILED"
    assert verified.json["provenanceStatus"] == "PROVENANCE_UNVERIFIED"
    assert verified.json["message"]


def private(key):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def weak_key():
    return pem(rsa.generate_private_key(65537, 1024))


@pytest.mark.parametrize(
    "given",
    [
        "",
        "x",
        "\ud800",
        7,
        [],
        pem(ED25519).replace("M", "N"),
        pem(ED25519).replace("PUBLIC", "CERTIFICATE"),
        "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----",
        pem(ED25519) + pem(ec.derive_private_key(7, ec.SECP521R1())),
        private(ED25519),
        weak_key(),
        pem(ED25519) * 200,
    ],
    ids=lambda given: str(given)[:30],
)
def test_a_key_that_is_none_of_ours_is_refused(lite, factstore, path, given):
    factstore.post(path, BUILT | {"provenanceSignature": detached(ED25519)})
    before = tables(lite)

    body = json.dumps({"publicKey": given}).encode()
    headers = {"Content-Type": "application/json"}
    refused = factstore.request("POST", f"{path}/verify", body=body, headers=headers)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert "PRIVATE" not in refused.json["message"]
    assert tables(lite) == before


# --- What a statement says ----------------------------------------------------

REPOSITORY = "https://github.com/acme/payments"
COMMIT = "c0ffee" * 6 + "c0ff"
OF_GITHUB = STATEMENT["predicate"] | {
    "buildDefinition": {
        "externalParameters": {"workflow": {"ref": "refs/heads/main", "repository": REPOSITORY}},
        "resolvedDependencies": [
            {"uri": "git+https://github.com/acme/tools@refs/tags/v1", "digest": {"sha1": "0" * 40}},
            {"uri": f"git+{REPOSITORY}@refs/heads/main", "digest": {"gitCommit": COMMIT}},
        ],
    }
}
OLDER = {
    "builder": {"id": "https://github.com/acme/ci"},
    "invocation": {"configSource": {"uri": f"git+{REPOSITORY}.git", "digest": {"sha1": COMMIT}}},
    "materials": [{"uri": "git+https://github.com/acme/tools", "digest": {"sha1": "0" * 40}}],
}
STATEMENTS = {
    "v1": STATEMENT | {"predicate": OF_GITHUB},
    "v0.2": STATEMENT | {"predicateType": "https://slsa.dev/provenance/v0.2", "predicate": OLDER},
}


@pytest.mark.parametrize("version", STATEMENTS)
@pytest.mark.parametrize(
    ("change", "verdict", "named"),
    [
        ({}, "VERIFIED", ""),
        ({"sourceRepositoryUri": REPOSITORY, "sourceCommitSha": COMMIT}, "VERIFIED", ""),
        ({"sourceRepositoryUri": f"git+{REPOSITORY}.git"}, "VERIFIED", ""),
        ({"sourceCommitSha": COMMIT.upper()}, "VERIFIED", ""),
        ({"slsaLevel": "L3"}, "VERIFIED", ""),
        ({"builderId": "https://github.com/acme/ci2"}, "FAILED", "builderId"),
        ({"sourceRepositoryUri": "https://github.com/acme/tools"}, "FAILED", "sourceRepositoryUri"),
        ({"sourceCommitSha": "0" * 40}, "FAILED", "sourceCommitSha"),
        ({"sourceCommitSha": "c0ffee"}, "FAILED", "sourceCommitSha"),
    ],
)
def test_the_body_must_say_what_was_signed(trusting, version, change, verdict, named):
    client, path = reported(trusting)
    signature = envelope(P256, STATEMENTS[version])

    recorded = client.post(path, BUILT | {"provenanceSignature": signature} | change)
    verified = client.post(f"{path}/verify")

    assert recorded.status == 201
    assert verified.json["verdict"] == verdict
    assert named in verified.json["message"]
    assert recorded.json["provenanceStatus"] == verified.json["provenanceStatus"]


@pytest.mark.parametrize("version", STATEMENTS)
def test_what_the_body_leaves_out_is_taken_from_a_verified_statement(trusting, version):
    client, path = reported(trusting)

    signature = envelope(P256, STATEMENTS[version])
    recorded = client.post(path, BUILT | {"provenanceSignature": signature}).json

    source = {"v1": REPOSITORY, "v0.2": f"git+{REPOSITORY}.git"}[version]
    assert recorded["provenanceStatus"] == "PROVENANCE_VERIFIED"
    assert (recorded["sourceRepositoryUri"], recorded["sourceCommitSha"]) == (source, COMMIT)
    assert recorded["slsaLevel"] == "L0"
    assert trusting.verify() == []


def test_nothing_is_taken_from_a_statement_that_fails(trusting):
    client, path = reported(trusting)

    signature = envelope(STRANGER, STATEMENTS["v1"])
    recorded = client.post(path, BUILT | {"provenanceSignature": signature}).json

    assert recorded["provenanceStatus"] == "PROVENANCE_UNVERIFIED"
    assert (recorded["sourceRepositoryUri"], recorded["sourceCommitSha"]) == (None, None)


def test_a_source_that_the_statement_does_not_tell_is_not_verified(trusting):
    client, path = reported(trusting)

    body = BUILT | {"provenanceSignature": envelope(P256), "sourceCommitSha": COMMIT}
    recorded = client.post(path, body).json

    assert recorded["provenanceStatus"] == "PROVENANCE_UNVERIFIED"


UNNAMED = {"resolvedDependencies": OF_GITHUB["buildDefinition"]["resolvedDependencies"][1:]}
TWICE = OF_GITHUB["buildDefinition"] | {
    "resolvedDependencies": [
        {"uri": f"git+{REPOSITORY}@refs/heads/main", "digest": {"gitCommit": COMMIT}},
        {"uri": f"git+{REPOSITORY}@refs/heads/evil", "digest": {"gitCommit": "e" * 40}},
    ]
}


@pytest.mark.parametrize(
    ("build", "source"), [(UNNAMED, (None, None)), (TWICE, (REPOSITORY, None))]
)
@pytest.mark.parametrize("claim", [{"sourceCommitSha": COMMIT}, {"sourceCommitSha": "e" * 40}])
def test_a_dependency_is_not_the_source_for_being_there(trusting, build, source, claim):
    client, path = reported(trusting)
    statement = STATEMENT | {"predicate": STATEMENT["predicate"] | {"buildDefinition": build}}
    body = BUILT | {"provenanceSignature": envelope(P256, statement)}

    claimed = client.post(path, body | claim, headers={"X-Dry-Run": "true"}).json["wouldCreate"]
    recorded = client.post(path, body).json

    assert claimed["provenanceStatus"] == "PROVENANCE_UNVERIFIED"
    assert recorded["provenanceStatus"] == "PROVENANCE_VERIFIED"
    assert (recorded["sourceRepositoryUri"], recorded["sourceCommitSha"]) == source


def test_a_detached_signature_vouches_for_nothing_but_the_digest(trusting):
    client, path = reported(trusting)
    body = {"builderId": "https://evil.example", "sourceCommitSha": "e" * 40, "slsaLevel": "L3"}
    body |= {"builderType": "GENERIC", "provenanceSignature": detached(P256)}

    recorded = client.post(path, body)
    verified = client.post(f"{path}/verify").json

    assert recorded.json["provenanceStatus"] == "PROVENANCE_UNVERIFIED"
    assert (verified["provenanceStatus"], verified["verdict"]) == (
        "PROVENANCE_UNVERIFIED",
        "SIGNED",
    )
    assert "builder, source and commit are not signed" in verified["message"]


@pytest.mark.parametrize(
    ("signature", "enforced", "required"),
    [
        (envelope(P256), "ALLOWED", "ALLOWED"),
        (detached(P256), "ALLOWED", "ALLOWED"),
        (None, "ALLOWED", "BLOCKED"),
        (envelope(STRANGER), "BLOCKED", "BLOCKED"),
        ("garbage", "BLOCKED", "BLOCKED"),
        (
            envelope(P256, STATEMENT | {"predicateType": "https://spdx.dev/Document"}),
            "BLOCKED",
            "BLOCKED",
        ),
    ],
)
def test_a_signature_that_fails_opens_no_gate(trusting, signature, enforced, required):
    client, path = reported(trusting)
    client.post(path, BUILT | {"provenanceSignature": signature})
    body = {"artifactSha256": DIGEST, "requestedBy": "ci"}

    demand(client, "proven", enforceProvenance=True)
    first = client.post("/api/v1/gate/evaluate", body).json
    demand(client, "signed", requireSignature=True)
    second = client.post("/api/v1/gate/evaluate", body).json

    assert (first["decision"], second["decision"]) == (enforced, required)


def test_a_record_of_an_older_version_is_judged_anew_at_the_gate(trusting):
    client, path = reported(trusting)
    artifact, sbom = path.split("/")[-2], STATEMENT | {"predicateType": "https://spdx.dev/Document"}
    novantra_lite.write_transaction(
        trusting.workspace,
        lambda session: BuildProvenance.create(
            artifact=artifact,
            builder_id="https://github.com/acme/ci",
            builder_type="GENERIC",
            provenance_signature=envelope(P256, sbom),
            provenance_status="PROVENANCE_VERIFIED",
        ),
        actor="test",
    )
    demand(client, "proven", enforceProvenance=True)

    result = client.post("/api/v1/gate/evaluate", {"artifactSha256": DIGEST}).json

    assert result["decision"] == "BLOCKED"


def certificate(key):
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ci")])
    made = x509.CertificateBuilder(name, name, key.public_key(), 7)
    made = made.not_valid_before(datetime(2026, 1, 1)).not_valid_after(datetime(2027, 1, 1))
    return made.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()


@pytest.mark.parametrize("key", [P256, P384, RSA])
def test_a_certificate_serves_as_a_key(factstore, path, key):
    factstore.post(path, BUILT | {"provenanceSignature": envelope(key)})

    own = factstore.post(f"{path}/verify", {"publicKey": certificate(key)}).json
    others = factstore.post(f"{path}/verify", {"publicKey": certificate(P256) + pem(ED25519)}).json

    assert own["verdict"] == "VERIFIED"
    assert others["verdict"] == ("VERIFIED" if key is P256 else "FAILED")


# --- Trusted keys -------------------------------------------------------------


@pytest.mark.parametrize(
    ("signature", "status", "verdict"),
    [
        (detached(ED25519), "PROVENANCE_UNVERIFIED", "SIGNED"),
        (envelope(P256), "PROVENANCE_VERIFIED", "VERIFIED"),
        (envelope(STRANGER), "PROVENANCE_UNVERIFIED", "FAILED"),
        ("garbage", "PROVENANCE_UNVERIFIED", "FAILED"),
        (None, "PROVENANCE_UNVERIFIED", "UNVERIFIED"),
    ],
)
def test_trusted_keys_decide_what_is_recorded(trusting, signature, status, verdict):
    client = trusting.client(*novantra_lite.FACTSTORE_SCOPES)
    trail = make_trail(trusting, "payments")
    artifact = client.post(f"/api/v1/trails/{trail}/artifacts", API).json["id"]
    path = f"/api/v1/trails/{trail}/artifacts/{artifact}/provenance"

    recorded = client.post(path, BUILT | {"provenanceSignature": signature})
    verified = client.post(f"{path}/verify")
    own = client.post(f"{path}/verify", {"publicKey": pem(Ed25519PrivateKey.generate())})

    (listed,) = client.get("/api/v1/artifacts", sha256=DIGEST).json
    assert (recorded.json["provenanceStatus"], listed["provenanceStatus"]) == (status, status)
    assert (verified.json["provenanceStatus"], verified.json["verdict"]) == (status, verdict)
    # A key that the caller gives decides alone.
    assert own.json["verdict"] == ("FAILED" if signature else "UNVERIFIED")


def test_the_gate_hears_the_verdict_on_a_record(trusting):
    keys = trusted_keys(trusting.settings)

    with trusting.workspace.read():
        artifact, other = Artifact(sha256_digest=DIGEST), Artifact(sha256_digest=OTHER)
        signed = BuildProvenance(provenance_signature=detached(P256))
        verdicts = [
            provenance_verdict(artifact, signed, keys)[0],
            provenance_verdict(artifact, signed, [])[0],
            provenance_verdict(artifact, None, keys)[0],
            provenance_verdict(other, signed, keys)[0],
            provenance_verdict(artifact, BuildProvenance(provenance_signature=None), keys)[0],
        ]

    assert len(keys) == 2
    assert verdicts == ["SIGNED", "UNVERIFIED", "NONE", "FAILED", "UNVERIFIED"]


def test_the_files_are_read_once_at_the_start(tmp_path):
    file = tmp_path / "keys.pem"
    file.write_text(pem(ED25519) + pem(P256))

    with NovantraLite(provenance_keys=(str(file),)) as lite:
        file.write_text(pem(STRANGER))
        first = trusted_keys(lite.settings)
    with NovantraLite(provenance_keys=(str(file),)) as lite:
        second = trusted_keys(lite.settings)

    assert first == [*load_public_keys(pem(ED25519).encode()), P256.public_key()]
    assert second == [STRANGER.public_key()]


@pytest.mark.parametrize("text", [None, "", "no key", weak_key()])
def test_a_file_without_a_usable_key_stops_the_start(tmp_path, text):
    file = tmp_path / "keys.pem"
    if text is not None:
        file.write_text(text)

    with pytest.raises(Invalid, match=r"keys\.pem of provenance_keys"):
        NovantraLite(provenance_keys=(str(file),))
