"""Build provenance and its signatures: section 4 of the delivery notes, decision 25."""

import base64
import json
import random

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from looking import audit, events, ledger, tables

import novantra_lite
from novantra_lite import (
    Artifact,
    BuildProvenance,
    Flow,
    Invalid,
    NovantraLite,
    Trail,
    provenance_verdict,
    read_public_keys,
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
    "predicate": {"buildDefinition": {}, "runDetails": {"builder": {"id": "ci"}}},
}
IN_TOTO = "application/vnd.in-toto+json"

ED25519 = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
P256 = ec.derive_private_key(20260601, ec.SECP256R1())
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(32))
KEYS = {"Ed25519": ED25519, "P-256": P256}


def pem(key):
    spki = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return spki.decode()


def sign(key, data):
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(SHA256()))
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


def begin(lite, name):
    def work():
        made = {"git_commit_sha": "0f3e", "git_branch": "main", "git_author": "Ada"}
        flow = Flow.create(name=name)
        return Trail.create(flow=flow.id, git_author_email="ada@acme.example", **made).id

    return novantra_lite.perform(lite.workspace, lambda session: work(), actor="test")


@pytest.fixture
def trail(lite):
    return begin(lite, "payments")


@pytest.fixture
def artifact(factstore, trail):
    return factstore.post(f"/api/v1/trails/{trail}/artifacts", API).json


@pytest.fixture
def path(artifact):
    return f"/api/v1/trails/{artifact['trailId']}/artifacts/{artifact['id']}/provenance"


@pytest.fixture
def trusting(tmp_path, clock):
    """An instance that trusts both keys, each from a file of its own."""
    files = []
    for name, key in KEYS.items():
        files.append(tmp_path / f"{name}.pem")
        files[-1].write_text(f"The key of our builds.\n{pem(key)}")
    given = {"provenance_keys": tuple(map(str, files))}
    with NovantraLite(clock=clock, random=random.Random(7), **given) as lite:
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
    given = BUILT | {
        "buildConfigUri": "https://git.example/ci.yml",
        "sourceRepositoryUri": "https://git.example/payments",
        "sourceCommitSha": "0f3e",
        "buildStartedOn": "2026-06-01T13:00:00+02:00",
        "buildFinishedOn": "2026-06-01T10:00:00Z",
        "provenanceSignature": "x" * 65_536,
        "slsaLevel": "L3",
    }

    recorded = factstore.post(path, given)

    assert recorded.status == 201
    assert (
        recorded.json.items()
        >= (
            given
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
        {"provenanceSignature": "x" * 65_537},
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
    other = begin(lite, "other")
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

    assert [(one.status, one.json["error"]) for one in refused] == [(404, "Not Found")] * 3
    assert NOBODY in refused[0].json["message"] and NOBODY in refused[1].json["message"]
    assert f"does not belong to the trail {other}" in refused[2].json["message"]


def test_an_artifact_without_provenance_has_none_to_read(factstore, artifact, path):
    refused = factstore.get(path)

    assert (refused.status, refused.json["error"]) == (404, "Not Found")
    assert artifact["id"] in refused.json["message"]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_dry_run_stores_nothing(lite, factstore, path, version):
    path, before = path.replace("v1", version), tables(lite)

    told = factstore.post(path, BUILT, headers={"X-Dry-Run": "true"})
    verified = factstore.post(f"{path}/verify", headers={"X-Dry-Run": "true"})

    assert (told.status, told.json["dryRun"]) == (200, True)
    assert told.json["wouldCreate"]["builderType"] == "GITHUB_ACTIONS"
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


@pytest.mark.parametrize("digest", ["%00", "%ED%A0%80", "%2F", "x" * 3000, "'--"])
def test_a_digest_of_any_kind_is_not_found(factstore, artifact, digest):
    refused = factstore.get(f"/api/v1/artifacts/{digest}/provenance")

    assert refused.status == 404


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


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        (None, "The provenance is recorded, but carries no signature."),
        (" ", "The provenance is recorded, but carries no signature."),
        (
            detached(ED25519),
            "The signature was not checked: there is no public key to check with.",
        ),
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
@pytest.mark.parametrize("form", [detached, envelope])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_good_signature_is_verified_with_the_callers_key(
    lite, factstore, trail, path, form, key, version
):
    path = path.replace("v1", version)
    recorded = factstore.post(path, BUILT | {"provenanceSignature": form(KEYS[key])}).json

    good = factstore.post(f"{path}/verify", {"publicKey": pem(KEYS[key])}).json
    wrong = factstore.post(f"{path}/verify", {"publicKey": pem(STRANGER)}).json
    none = factstore.post(f"{path}/verify", {}).json

    assert (good["provenanceStatus"], good["verdict"]) == ("PROVENANCE_VERIFIED", "VERIFIED")
    assert (wrong["provenanceStatus"], wrong["verdict"]) == ("PROVENANCE_UNVERIFIED", "FAILED")
    assert (none["provenanceStatus"], none["verdict"]) == ("PROVENANCE_UNVERIFIED", "UNVERIFIED")
    assert len({good["message"], wrong["message"], none["message"]}) == 3
    # What a caller's key says is that caller's business.
    assert recorded["provenanceStatus"] == "PROVENANCE_UNVERIFIED"
    assert factstore.get(path).json == recorded


def raw(key, digest=DIGEST):
    r, s = decode_dss_signature(sign(key, digest.encode()))
    return base64_of(r.to_bytes(32, "big") + s.to_bytes(32, "big"))


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
    "text beyond ASCII": (envelope(P256, STATEMENT | {"predicate": "Zoë"}), P256),
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

    assert (verified.status, verified.json["verdict"]) == (200, "VERIFIED")


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
        envelope(P256, about({"sha256": "cd" * 32})),
        payload=json.loads(envelope(P256))["payload"],
    ),
    "a tampered type": changed(envelope(P256), payloadType="application/vnd.in-toto.x+json"),
    "another type": envelope(P256, kind="text/plain"),
    "another subject": envelope(P256, about({"sha256": "cd" * 32})),
    "another algorithm": envelope(P256, about({"sha512": "ab" * 32})),
    "an algorithm that is none": envelope(P256, about("ab" * 32)),
    "a digest that is a number": envelope(P256, about({"sha256": 7})),
    "no subject": envelope(P256, {"_type": STATEMENT["_type"]}),
    "a subject that is a number": envelope(P256, STATEMENT | {"subject": 7}),
    "a subject that is an object": envelope(P256, STATEMENT | {"subject": {"digest": {}}}),
    "another kind of statement": envelope(P256, STATEMENT | {"_type": "https://example.com"}),
    "a type of statement that is a number": envelope(P256, STATEMENT | {"_type": 7}),
    "a statement that is a list": envelope(P256, []),
    "a statement that is no JSON": envelope(P256, b"\xff{"),
}


@pytest.mark.parametrize("fault", BAD)
def test_anything_else_fails(factstore, path, fault):
    recorded = factstore.post(path, BUILT | {"provenanceSignature": BAD[fault]})

    verified = factstore.post(f"{path}/verify", {"publicKey": pem(P256) + pem(ED25519)})

    assert (recorded.status, verified.status) == (201, 200)
    assert verified.json["verdict"] == "FAILED"
    assert verified.json["provenanceStatus"] == "PROVENANCE_UNVERIFIED"
    assert verified.json["message"]


@pytest.mark.parametrize(
    ("digest", "subject", "verdict"),
    [
        ("ab" * 32, {"sha256": "ab" * 32}, "VERIFIED"),
        ("sha512:" + "ab" * 64, {"sha512": "ab" * 64}, "VERIFIED"),
        ("sha512:" + "ab" * 64, {"sha256": "ab" * 64}, "FAILED"),
        ("", {"sha256": ""}, "FAILED"),
        ("sha256:", {"sha256": ""}, "FAILED"),
    ],
)
def test_a_digest_of_the_second_version_is_matched_by_its_algorithm(
    factstore, trail, digest, subject, verdict
):
    path = f"/api/v2/trails/{trail}/artifacts"
    key = factstore.post(path, API | {"sha256Digest": digest}).json["id"]
    signature = envelope(ED25519, about(subject))
    factstore.post(f"{path}/{key}/provenance", BUILT | {"provenanceSignature": signature})

    verified = factstore.post(f"{path}/{key}/provenance/verify", {"publicKey": pem(ED25519)})

    assert verified.json["verdict"] == verdict


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
        pem(ED25519) + pem(ec.derive_private_key(7, ec.SECP384R1())),
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


# --- Trusted keys -------------------------------------------------------------


@pytest.mark.parametrize(
    ("signature", "status", "verdict"),
    [
        (detached(ED25519), "PROVENANCE_VERIFIED", "VERIFIED"),
        (envelope(P256), "PROVENANCE_VERIFIED", "VERIFIED"),
        (envelope(STRANGER), "PROVENANCE_UNVERIFIED", "FAILED"),
        ("garbage", "PROVENANCE_UNVERIFIED", "FAILED"),
        (None, "PROVENANCE_UNVERIFIED", "UNVERIFIED"),
    ],
)
def test_trusted_keys_decide_what_is_recorded(trusting, signature, status, verdict):
    client = trusting.client(*novantra_lite.FACTSTORE_SCOPES)
    trail = begin(trusting, "payments")
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
            provenance_verdict(artifact, signed, keys),
            provenance_verdict(artifact, signed, []),
            provenance_verdict(artifact, None, keys),
            provenance_verdict(other, signed, keys),
            provenance_verdict(artifact, BuildProvenance(provenance_signature=None), keys),
        ]

    assert len(keys) == 2
    assert verdicts == ["VERIFIED", "UNVERIFIED", "NONE", "FAILED", "UNVERIFIED"]


def test_the_files_are_read_once_at_the_start(tmp_path):
    file = tmp_path / "keys.pem"
    file.write_text(pem(ED25519) + pem(P256))

    with NovantraLite(provenance_keys=(str(file),)) as lite:
        file.write_text(pem(STRANGER))
        first = trusted_keys(lite.settings)
    with NovantraLite(provenance_keys=(str(file),)) as lite:
        second = trusted_keys(lite.settings)

    assert first == [*read_public_keys(pem(ED25519).encode()), P256.public_key()]
    assert second == [STRANGER.public_key()]


@pytest.mark.parametrize("text", [None, "", "no key", weak_key()])
def test_a_file_without_a_usable_key_stops_the_start(tmp_path, text):
    file = tmp_path / "keys.pem"
    if text is not None:
        file.write_text(text)

    with pytest.raises(Invalid, match=r"keys\.pem of provenance_keys"):
        NovantraLite(provenance_keys=(str(file),))
