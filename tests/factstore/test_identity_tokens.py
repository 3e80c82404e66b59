"""Identity tokens of CI systems, recorded as attestations."""

import base64
import json
import random

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from stored import audit, events, ledger, stored_bytes, tables

from factstore.pipelines import happenings, status_of
from factstore.trails import begin_trail
from novantra_lite import FACTSTORE_SCOPES, HttpResponse, Invalid, NovantraLite

OIDC = "/api/v2/attestations/oidc"
NOON = 1_780_315_200
NOBODY = "00000000-0000-4000-8000-000000000000"
HERE = "https://register.acme.example"

GITHUB = {
    "iss": "https://token.actions.githubusercontent.com",
    "sub": "repo:acme/payments:ref:refs/heads/main",
    "aud": HERE,
    "repository": "acme/payments",
    "workflow": "release",
    "ref": "refs/heads/main",
    "sha": "c0ffee",
    "actor": "ada",
    "run_id": "12345",
    "jti": "one",
    "iat": NOON - 60,
    "exp": NOON + 300,
}
GITLAB = {
    "iss": "https://gitlab.com",
    "sub": "project_path:acme/payments:ref_type:branch:ref:main",
    "project_path": "acme/payments",
    "ci_config_ref_uri": "gitlab.com/acme/payments//.gitlab-ci.yml@refs/heads/main",
    "ref": "main",
    "sha": "c0ffee",
    "user_login": "ada",
    "pipeline_id": 678,
    "jti": "one",
    "aud": HERE,
    "exp": NOON + 300,
}


def part(value):
    """One part of a token."""
    text = value if isinstance(value, str) else json.dumps(value)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def sign(claims, header=None, signature="c2lnbmF0dXJl"):
    """A token that says all this; nobody has signed it."""
    return f"{part(header or {'alg': 'RS256', 'typ': 'JWT'})}.{part(claims)}.{signature}"


@pytest.fixture
def trail(lite, factstore):
    return begin_trail(lite, factstore, requiredAttestationTypes=["oidc-provenance"])


def test_a_token_of_github_becomes_an_attestation(lite, factstore, trail):
    created = factstore.post(OIDC, {"trailId": trail.upper(), "token": sign(GITHUB)})

    key = created.json["id"]
    assert created.status == 201
    assert json.loads(created.json["details"]) == {
        "issuer": "https://token.actions.githubusercontent.com",
        "subject": "repo:acme/payments:ref:refs/heads/main",
        "repository": "acme/payments",
        "workflow": "release",
        "ref": "refs/heads/main",
        "sha": "c0ffee",
        "actor": "ada",
        "runId": "12345",
        "issuedAt": "2026-06-01T11:59:00.000000Z",
        "signatureVerified": False,
        "reason": "The token is not verified: its issuer's keys are not available.",
    }
    assert (created.json["type"], created.json["status"]) == ("oidc-provenance", "PENDING")
    assert (created.json["compliant"], created.json["trailId"]) == (False, trail)
    assert factstore.get(f"/api/v1/trails/{trail}/attestations").json == [created.json]
    assert status_of(lite, trail) == "PENDING"
    assert ("attestation.recorded", key) in [entry[1:3] for entry in audit(lite)]
    assert ("ATTESTATION_RECORDED", key) in ledger(lite)
    assert happenings(lite) == []
    assert events(lite)[-1] == ("factstore.attestation.recorded", {"attestation": created.json})
    assert lite.verify() == []


def test_a_token_of_gitlab_tells_the_same_in_its_own_words(factstore, trail):
    created = factstore.post(OIDC, {"trailId": trail, "token": sign(GITLAB)})

    assert created.status == 201
    assert json.loads(created.json["details"]) == {
        "issuer": "https://gitlab.com",
        "subject": "project_path:acme/payments:ref_type:branch:ref:main",
        "repository": "acme/payments",
        "workflow": "gitlab.com/acme/payments//.gitlab-ci.yml@refs/heads/main",
        "ref": "main",
        "sha": "c0ffee",
        "actor": "ada",
        "runId": "678",
        "issuedAt": None,
        "signatureVerified": False,
        "reason": "The token is not verified: its issuer's keys are not available.",
    }


def test_what_a_token_does_not_say_is_null(factstore, trail):
    claims = {"iss": "https://gitlab.com", "sub": ["x"], "ref": True, "sha": None, "actor": {}}
    claims["exp"] = NOON + 300

    created = factstore.post(OIDC, {"trailId": trail, "token": sign(claims)})

    details = json.loads(created.json["details"])
    assert created.status == 201
    assert {name for name, value in details.items() if value is not None} == {
        "issuer",
        "signatureVerified",
        "reason",
    }


def test_the_token_itself_is_stored_nowhere(lite, factstore, trail):
    token = sign(GITHUB, signature="c2VjcmV0LXNpZ25hdHVyZS1vZi10aGUtdG9rZW4")

    created = factstore.post(
        OIDC, {"trailId": trail, "token": token}, headers={"Idempotency-Key": "build-1"}
    )

    stored = stored_bytes(lite)
    assert created.status == 201
    assert created.json["id"].encode() in stored
    assert all(piece.encode() not in stored for piece in token.split(".")[1:])


def test_a_token_is_good_for_one_attestation(lite, factstore, trail):
    other = begin_trail(lite, factstore, "other")

    first = factstore.post(OIDC, {"trailId": trail, "token": sign(GITHUB)})
    again = factstore.post(OIDC, {"trailId": other, "token": sign(GITHUB | {"sha": "f00d"})})
    later = factstore.post(OIDC, {"trailId": other, "token": sign(GITHUB | {"jti": "two"})})
    elsewhere = factstore.post(OIDC, {"trailId": other, "token": sign(GITLAB)})

    assert [record.status for record in (first, again, later, elsewhere)] == [201, 409, 201, 201]
    assert (again.json["error"], "jti" in again.json["message"]) == ("Conflict", True)
    assert len(factstore.get(f"/api/v1/trails/{other}/attestations").json) == 2


def test_a_token_without_an_id_is_told_by_what_it_says(factstore, trail):
    claims = {name: value for name, value in GITHUB.items() if name != "jti"}

    first = factstore.post(OIDC, {"trailId": trail, "token": sign(claims)})
    again = factstore.post(OIDC, {"trailId": trail, "token": sign(claims, signature="b3RoZXI")})
    other = factstore.post(OIDC, {"trailId": trail, "token": sign(claims | {"run_id": "2"})})

    assert [record.status for record in (first, again, other)] == [201, 409, 201]


@pytest.mark.parametrize(
    "token",
    [
        "nonsense",
        "a.b",
        "..",
        "a.b.c",
        f"{sign(GITHUB)}.more",
        sign(GITHUB, signature=""),
        sign(GITHUB, header={"alg": "none"}),
        sign(GITHUB, header={"alg": "None"}),
        sign(GITHUB, header={"alg": "HS256"}),
        sign(GITHUB, header={"alg": ["RS256"]}),
        sign(GITHUB, header={"typ": "JWT"}),
        sign(GITHUB, header="[]"),
        sign("[1]"),
        sign("{"),
        sign('{"iss": NaN}'),
        sign('{"sha": "f00d", ' + json.dumps(GITHUB)[1:]),
        sign(GITHUB, header='{"alg": "none", "alg": "RS256"}'),
        sign("[" * 100_000)[:100_000],
        f"{part({'alg': 'RS256'})}.\N{LATIN SMALL LETTER E WITH ACUTE}.c2ln",
        f"{part({'alg': 'RS256'})}.a=b.c2ln",
        "x" * 100_001,
        "",
        7,
        None,
        {},
    ],
)
def test_what_is_no_signed_token_is_refused(lite, factstore, trail, token):
    before = tables(lite)

    refused = factstore.post(OIDC, {"trailId": trail, "token": token})

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert "token" in refused.json["message"]
    assert tables(lite) == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"iss": "https://token.actions.githubusercontent.com.evil.example"}, "issuer"),
        ({"iss": "http://gitlab.com"}, "issuer"),
        ({"iss": ["https://gitlab.com"]}, "issuer"),
        ({"iss": None}, "issuer"),
        ({"exp": NOON}, "expired"),
        ({"exp": 0}, "expired"),
        ({"exp": "2099-01-01"}, "exp"),
        ({"exp": True}, "exp"),
        ({"exp": None}, "exp"),
        ({"exp": -1}, "exp"),
        ({"exp": 10**30}, "exp"),
        ({"iat": 1e300}, "iat"),
        ({"iat": "now"}, "iat"),
        ({"nbf": NOON + 61}, "nbf"),
        ({"nbf": "now"}, "nbf"),
        ({"iat": NOON + 61}, "iat"),
    ],
)
def test_claims_that_do_not_hold_are_refused(lite, factstore, trail, change, named):
    before = tables(lite)

    refused = factstore.post(OIDC, {"trailId": trail, "token": sign(GITHUB | change)})

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert named in refused.json["message"]
    assert tables(lite) == before


def test_a_token_expires_as_time_passes(factstore, clock, trail):
    clock.advance(299)
    in_time = factstore.post(OIDC, {"trailId": trail, "token": sign(GITHUB)})
    clock.advance(1)
    too_late = factstore.post(OIDC, {"trailId": trail, "token": sign(GITHUB | {"jti": "two"})})

    assert (in_time.status, too_late.status) == (201, 400)


def test_trail_and_organisation_are_looked_for_first(factstore, trail):
    no_trail = factstore.post(OIDC, {"trailId": NOBODY, "token": "nonsense"})
    no_uuid = factstore.post(OIDC, {"trailId": "nonsense", "token": sign(GITHUB)})
    no_slug = factstore.post(OIDC, {"trailId": trail, "token": sign(GITHUB), "orgSlug": "nobody"})
    unused = factstore.post(OIDC, {"trailId": trail, "token": sign(GITHUB)})

    assert [record.status for record in (no_trail, no_uuid, no_slug, unused)] == [
        404,
        400,
        404,
        201,
    ]
    assert NOBODY in no_trail.json["message"]
    assert "nobody" in no_slug.json["message"]


def test_an_organisation_may_be_named(factstore, trail):
    factstore.post("/api/v1/organisations", {"slug": "acme", "name": "Acme"})

    created = factstore.post(
        OIDC, {"trailId": trail, "token": f" {sign(GITHUB)}\n", "orgSlug": "acme"}
    )

    assert (created.status, created.json["orgSlug"]) == (201, "acme")


def test_a_dry_run_does_not_use_the_token(lite, factstore, trail):
    body, before = {"trailId": trail, "token": sign(GITHUB)}, tables(lite)

    response = factstore.post(OIDC, body, headers={"X-Dry-Run": "true"})

    assert (response.status, response.json["dryRun"]) == (200, True)
    assert response.json["wouldCreate"]["type"] == "oidc-provenance"
    assert tables(lite) == before
    assert factstore.post(OIDC, body).status == 201


# --- Verified -----------------------------------------------------------------

RSA = rsa.generate_private_key(65537, 2048)
P256 = ec.derive_private_key(20260601, ec.SECP256R1())
STRANGER = rsa.generate_private_key(65537, 2048)
LOCAL = "https://git.acme.example"


def public(key, name):
    algorithm = jwt.algorithms.RSAAlgorithm if key is not P256 else jwt.algorithms.ECAlgorithm
    return algorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": name, "use": "sig"}


def signed(claims, key=RSA, name="first", algorithm="RS256"):
    return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": name})


def jwks(*keys):
    return json.dumps({"keys": [public(key, name) for key, name in keys]})


@pytest.fixture
def start(tmp_path, clock):
    """Starts an instance that knows the keys of GitHub Actions and of a server of its own."""
    file, started = tmp_path / "jwks.json", []
    file.write_text(jwks((RSA, "first"), (P256, "second")))

    def make(**settings):
        values = {"oidc_issuers": (f"{GITHUB['iss']}={file}", f"{LOCAL}={file}")}
        values |= {"oidc_audience": HERE} | settings
        lite = NovantraLite(clock=clock, random=random.Random(7), **values)
        started.append(lite)
        client = lite.client(*FACTSTORE_SCOPES)
        trail = begin_trail(lite, client, requiredAttestationTypes=["oidc-provenance"])
        for number, link in enumerate(
            ("https://github.com/acme/payments", f"{LOCAL}/acme/payments")
        ):
            artifact = {"imageName": "pay", "imageTag": "1", "sha256Digest": f"{number}" * 64}
            client.post(f"/api/v1/trails/{trail}/artifacts", artifact | {"commitUrl": link})
        return lite, client, trail

    make.file = file
    yield make
    for lite in started:
        lite.close()


@pytest.mark.parametrize(
    "token",
    [
        signed(GITHUB),
        signed(GITHUB, algorithm="PS256"),
        signed(GITHUB, P256, "second", "ES256"),
        signed(GITHUB | {"iss": LOCAL, "nbf": NOON, "aud": ["anybody", HERE]}),
        signed(GITHUB | {"iat": NOON + 60, "nbf": NOON + 60}),
        signed(GITHUB | {"sha": "C0FFEE"}),
        signed(GITHUB | {"ref": "refs/tags/v1"}),
        signed(GITHUB | {"ref": "refs/pull/5/merge", "head_ref": "topic"}),
    ],
)
def test_a_token_that_its_issuer_signed_passes(start, token):
    lite, client, trail = start()

    created = client.post(OIDC, {"trailId": trail, "token": token})

    assert (created.status, created.json["status"], created.json["compliant"]) == (
        201,
        "PASSED",
        True,
    )
    details = json.loads(created.json["details"])
    assert (details["signatureVerified"], details["reason"]) == (True, None)
    assert status_of(lite, trail) == "COMPLIANT"
    assert lite.verify() == []


def tampered(token):
    head, _, signature = token.split(".")
    return f"{head}.{part(GITHUB | {'repository': 'acme/other'})}.{signature}"


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (sign(GITHUB), "signature"),
        (sign(GITHUB, {"alg": "RS256", "kid": "first"}), "signature"),
        (signed(GITHUB, STRANGER), "signature"),
        (signed(GITHUB, STRANGER, "unknown"), "key"),
        (tampered(signed(GITHUB)), "signature"),
        (signed(GITHUB, P256, "first", "ES256"), "key"),
        (signed({name: GITHUB[name] for name in GITHUB if name != "exp"}), "exp"),
        (signed({name: GITHUB[name] for name in GITHUB if name != "sub"}), "claim"),
        (signed(GITHUB | {"exp": NOON}), "expired"),
        (signed(GITHUB | {"nbf": NOON + 100}), "not valid yet"),
    ],
)
def test_a_token_that_its_issuer_did_not_sign_is_refused(start, token, reason):
    lite, client, trail = start()
    before = tables(lite)

    refused = client.post(OIDC, {"trailId": trail, "token": token})

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert reason in refused.json["message"]
    assert tables(lite) == before


def test_an_issuer_without_keys_here_is_pending(start):
    lite, client, trail = start()

    created = client.post(OIDC, {"trailId": trail, "token": signed(GITLAB)})

    assert (created.status, created.json["status"]) == (201, "PENDING")
    assert json.loads(created.json["details"])["signatureVerified"] is False
    assert status_of(lite, trail) == "PENDING"


@pytest.mark.parametrize(
    ("audience", "status"), [("us", 201), (["them", "us"], 201), ("them", 400), (None, 400)]
)
def test_a_token_may_have_to_be_meant_for_us(start, audience, status):
    _, client, trail = start(oidc_audience="us")

    created = client.post(OIDC, {"trailId": trail, "token": signed(GITHUB | {"aud": audience})})

    assert created.status == status


def test_a_token_for_any_audience_passes_nothing(start):
    lite, client, trail = start(oidc_audience="")

    created = client.post(OIDC, {"trailId": trail, "token": signed(GITHUB)})

    details = json.loads(created.json["details"])
    assert (created.status, created.json["status"]) == (201, "PENDING")
    assert details["signatureVerified"] is True
    assert "oidc_audience" in details["reason"]
    assert status_of(lite, trail) == "PENDING"


GITLAB_HERE = GITHUB | {"iss": LOCAL, "repository": None, "ref_type": "branch"}


@pytest.mark.parametrize(
    ("claims", "status", "named"),
    [
        (GITHUB | {"sha": "f00d"}, "FAILED", "f00d"),
        (GITHUB | {"sha": "c0ffe"}, "FAILED", "c0ffe"),
        (GITHUB | {"sha": None}, "PENDING", "commit"),
        (GITHUB | {"sha": ["c0ffee"]}, "PENDING", "commit"),
        (GITHUB | {"ref": "refs/heads/evil"}, "FAILED", "evil"),
        (GITLAB_HERE | {"ref": "evil"}, "FAILED", "evil"),
        (GITLAB_HERE | {"ref": "main", "sha": "f00d"}, "FAILED", "f00d"),
    ],
)
def test_a_token_of_another_build_does_not_pass(start, claims, status, named):
    lite, client, trail = start()

    created = client.post(OIDC, {"trailId": trail, "token": signed(claims)})

    details = json.loads(created.json["details"])
    assert (created.status, created.json["status"]) == (201, status)
    assert details["signatureVerified"] is True
    assert named in details["reason"]
    expected = {"FAILED": "NON_COMPLIANT", "PENDING": "PENDING"}[status]
    assert status_of(lite, trail) == expected


@pytest.mark.parametrize(
    ("claims", "build", "commit", "status"),
    [
        ({}, "https://github.com/acme/payments/actions/runs/7", None, "PASSED"),
        ({}, "https://github.com/Acme/Payments", None, "PASSED"),
        ({}, "https://github.com/acme/payments-2/actions/runs/7", None, "FAILED"),
        ({}, None, "https://github.com/acme/payments/commit/c0ffee", "PASSED"),
        ({}, None, "https://github.com/acme/other/commit/c0ffee", "FAILED"),
        ({}, "https://ci.acme.example/job/7", "https://[", "PENDING"),
        ({}, None, None, "PENDING"),
        ({"repository": None}, "https://github.com/acme/payments/actions/runs/7", None, "PENDING"),
        (
            {"iss": LOCAL, "repository": None, "project_path": "acme/pay/api"},
            f"{LOCAL}/acme/pay/api/-/jobs/7",
            None,
            "PASSED",
        ),
        (
            {"iss": LOCAL, "repository": None, "project_path": "acme/pay"},
            f"{LOCAL}/evil/acme/pay/-/jobs/7",
            None,
            "FAILED",
        ),
    ],
)
def test_a_token_is_of_the_repository_that_the_trail_links_to(start, claims, build, commit, status):
    _, client, trail = start()
    trail = client.get(f"/api/v1/trails/{trail}").json
    body = {"flowId": trail["flowId"], "gitAuthor": "Ada", "gitAuthorEmail": "ada@example.com"}
    body |= {"gitCommitSha": "c0ffee", "gitBranch": "refs/heads/main", "buildUrl": build}
    trail = client.post("/api/v1/trails", body).json["id"]
    artifact = {"imageName": "pay", "imageTag": "1", "sha256Digest": "ab" * 32, "reportedBy": "ci"}
    client.post(f"/api/v2/trails/{trail}/artifacts", artifact | {"commitUrl": commit})

    created = client.post(OIDC, {"trailId": trail, "token": signed(GITHUB | claims)})

    assert (created.status, created.json["status"]) == (201, status)


class Publisher:
    """Stands in for the network: the issuer's keys, or nothing."""

    def __init__(self):
        self.body, self.urls = jwks((RSA, "first")), []

    def get(self, url, headers):
        self.urls.append(url)
        if self.body is None:
            return HttpResponse(0, None, "The host refused the connection.")
        return HttpResponse(200, None, "Answered with status 200.", self.body.encode())


def test_published_keys_are_fetched_once_and_again_for_a_new_one(start, clock):
    publisher = Publisher()
    _, client, trail = start(oidc_issuers=(GITHUB["iss"],), transport=publisher)
    claims = GITHUB | {"exp": NOON + 10_000}

    def record(number, *key):
        token = signed(claims | {"jti": f"{number}"}, *key)
        return client.post(OIDC, {"trailId": trail, "token": token})

    answers = [record(1), record(2), record(3, STRANGER, "new")]
    publisher.body = jwks((STRANGER, "new"))
    answers.append(record(4, STRANGER, "new"))
    clock.advance(61)
    answers.append(record(5, STRANGER, "new"))

    assert [answer.status for answer in answers] == [201, 201, 400, 400, 201]
    assert answers[-1].json["status"] == "PASSED"
    assert publisher.urls == [f"{GITHUB['iss']}/.well-known/jwks"] * 2


@pytest.mark.parametrize("body", [None, "", "[]", "{}", '{"keys": 7}', "x" * 100])
def test_keys_that_cannot_be_fetched_verify_nothing(start, clock, body):
    publisher = Publisher()
    publisher.body = body
    lite, client, trail = start(oidc_issuers=(GITHUB["iss"],), transport=publisher)

    first = client.post(OIDC, {"trailId": trail, "token": signed(GITHUB)})
    second = client.post(OIDC, {"trailId": trail, "token": signed(GITHUB | {"jti": "two"})})

    assert [record.json["status"] for record in (first, second)] == ["PENDING", "PENDING"]
    assert status_of(lite, trail) == "PENDING"
    assert len(publisher.urls) == 1


@pytest.mark.parametrize(
    "keys", [[], [7], [{"kty": "RSA", "kid": "first"}], [{"kty": "RSA", "kid": "first", "n": 7}]]
)
def test_keys_that_are_none_refuse(start, keys):
    start.file.write_text(json.dumps({"keys": keys}))
    _, client, trail = start()

    refused = client.post(OIDC, {"trailId": trail, "token": signed(GITHUB)})

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")


@pytest.mark.parametrize(
    "entry",
    [
        "https://git.acme.example",
        "https://git.acme.example=",
        "https://git.acme.example=http://git.acme.example/keys",
        "https://git.acme.example=/nowhere.json",
        "git.acme.example=https://git.acme.example/keys",
        "{file}",
        "https://git.acme.example={file}",
    ],
)
def test_an_issuer_that_cannot_be_meant_stops_the_start(tmp_path, entry):
    file = tmp_path / "keys.json"
    file.write_text("no keys")

    with pytest.raises(Invalid, match="oidc_issuers"):
        NovantraLite(oidc_issuers=(entry.format(file=file),))
