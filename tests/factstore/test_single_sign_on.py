"""Single sign-on.

The flow runs against a real OpenID provider; a hostile one says what a real one never would.
"""

import base64
import contextlib
import hashlib
import hmac
import http.client
import http.server
import json
import random
import sys
import threading
import time
import urllib.parse
import warnings

import jwt
import pytest
from conftest import Clock
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from stored import audit, events, ledger, stored_bytes, tables

import novantra_lite
from novantra_lite import (
    Client,
    Membership,
    NovantraLite,
    SsoIdentity,
    SsoLogin,
    User,
    write_transaction,
)

with warnings.catch_warnings():
    # It uses what its own dependency is about to drop, and which insists on saying so.
    import authlib.deprecate  # noqa: F401

    warnings.simplefilter("ignore")
    import oidc_provider_mock

#: The real provider warns of itself in its own threads.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SSO = "/api/v1/organisations/acme/sso"
MEMBERS = "/api/v1/organisations/acme/members"
REDIRECT = "https://app.example/callback?tab=1"
SECRET = "the client's secret"
NOW = 1_780_315_200

# --- A hostile provider -------------------------------------------------------

EC_KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def jwk(algorithm, key, **members):
    """A public key as a provider publishes it."""
    result = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {**result, **members}


KEYS = [
    jwk("ES256", EC_KEY, kid="ec", use="sig", alg="ES256"),
    jwk("RS256", RSA_KEY, kid="rsa"),
    jwk("EdDSA", ED_KEY, kid="ed"),
]


class Speaker(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.answer(self, "")

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        self.server.answer(self, self.rfile.read(length).decode())

    def log_message(self, *_):
        pass


class HostileProvider(http.server.ThreadingHTTPServer):
    """Speaks OpenID Connect as well as a test lets it."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Speaker)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.behave()

    def behave(self):
        """Forget what the last test had it do."""
        self.seen, self.answers, self.keys, self.nonce = [], {}, KEYS, ""
        self.document = {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/keys",
        }
        self.make_token = lambda claims: sign(claims)
        self.claims = {}

    def told(self, path):
        """What it answers to a path, unless a test says otherwise."""
        if path == "/.well-known/openid-configuration":
            return self.document
        if path == "/keys":
            return {"keys": self.keys}
        usual = {"iss": self.url, "aud": "factstore", "sub": "1", "iat": NOW, "exp": NOW + 300}
        person = {"email": "ada@acme.example", "email_verified": True, "name": "Ada"}
        claims = {**usual, "nonce": self.nonce, **person, **self.claims}
        claims = {name: value for name, value in claims.items() if value is not None}
        return {"id_token": self.make_token(claims)}

    def answer(self, request, body):
        form = dict(urllib.parse.parse_qsl(body))
        self.seen.append((request.command, request.path, form, dict(request.headers)))
        status, result, *headers = self.answers.get(request.path) or (200, self.told(request.path))
        data = result if isinstance(result, bytes) else json.dumps(result).encode()
        request.send_response(status)
        request.send_header("Content-Length", str(len(data)))
        for name, value in headers:
            request.send_header(name, value)
        request.end_headers()
        with contextlib.suppress(OSError):
            request.wfile.write(data)


def sign(claims, key=EC_KEY, algorithm="ES256", kid="ec"):
    """A token with any claims, also with those that the library would not put into one."""
    data = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    return jwt.api_jws.encode(data, key, algorithm, {"kid": kid} if kid else {})


def encode(part):
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unsigned(claims, alg="none"):
    return f"{encode({'alg': alg, 'kid': 'ec'})}.{encode(claims)}."


def signed_with_what_is_public(claims):
    """An HMAC whose secret is the published key, which whoever asks the token would accept."""
    text = f"{encode({'alg': 'HS256', 'kid': 'rsa'})}.{encode(claims)}"
    secret = json.dumps(KEYS[1]).encode()
    return f"{text}.{encode(hmac.digest(secret, text.encode(), 'sha256'))}"


def edited(claims):
    header, _, signature = sign(claims).split(".")
    return f"{header}.{encode({**claims, 'email': 'root@acme.example'})}.{signature}"


# --- What every test starts from ----------------------------------------------


@pytest.fixture(scope="module")
def serving():
    with HostileProvider() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def provider(serving):
    serving.behave()
    return serving


@pytest.fixture
def lite(provider, clock):
    with NovantraLite(
        clock=clock, random=random.Random(7), sso_private_issuers=(provider.url,), sso_timeout=5.0
    ) as lite:
        admin = lite.client(*novantra_lite.FACTSTORE_SCOPES)
        admin.post("/api/v1/organisations", {"slug": "acme", "name": "Acme"})
        yield lite


def set_up(url, **members):
    return {"provider": "OKTA", "issuerUrl": url, "clientId": "factstore", **members}


@pytest.fixture
def config(factstore, provider):
    groups = {"admins": "ADMIN", "readers": "VIEWER", "odd": "OWNER", "writers": "MEMBER"}
    result = set_up(provider.url, clientSecret=SECRET, groupRoleMappings=json.dumps(groups))
    return factstore.post(SSO, result).json


def begin(lite, path=SSO):
    """Begin a sign-in; the query of the URL for the browser, and the state."""
    result = Client(lite).get(f"{path}/login", redirectUri=REDIRECT)
    assert result.status == 200, result.json
    query = urllib.parse.urlsplit(result.json["loginUrl"]).query
    return dict(urllib.parse.parse_qsl(query)), result.json["state"]


def finish(lite, state, path=SSO, **query):
    return Client(lite).get(f"{path}/callback", state=state, **{"code": "c0de", **query})


def sign_in(lite, provider, **claims):
    """A whole sign-in through the hostile provider."""
    provider.claims = {**provider.claims, **claims}
    sent, state = begin(lite)
    provider.nonce = sent["nonce"]
    return finish(lite, state)


def bearer(lite, token):
    return Client(lite, {"Authorization": f"Bearer {token}"})


# --- Set-up -------------------------------------------------------------------


def test_a_set_up_needs_a_provider_an_issuer_and_a_client(lite, factstore):
    result = set_up("https://login.example/tenant//", clientSecret=SECRET)

    created = factstore.post(SSO, result)

    key = created.json["id"]
    assert created.status == 201
    assert list(created.json.items()) == [
        ("id", key),
        ("orgSlug", "acme"),
        ("provider", "OKTA"),
        ("issuerUrl", "https://login.example/tenant"),
        ("clientId", "factstore"),
        ("attributeMappings", '{"email":"email","name":"name"}'),
        ("groupRoleMappings", "{}"),
        ("isMandatory", False),
        ("createdAt", "2026-06-01T12:00:00.000000Z"),
        ("updatedAt", "2026-06-01T12:00:00.000000Z"),
    ]
    assert factstore.get(SSO).json == created.json
    assert audit(lite)[-1][1:3] == ("sso_config.created", key)
    assert ledger(lite)[-1] == ("SSO_CONFIG_CREATED", key)
    assert events(lite) == []
    assert SECRET.encode() not in stored_bytes(lite)


def test_an_organisation_is_named_by_its_slug_or_its_uuid(factstore, config):
    (acme,) = factstore.get("/api/v1/organisations").json

    assert factstore.get(f"/api/v1/organisations/{acme['id'].upper()}/sso").json == config


def test_a_change_leaves_what_it_does_not_name_and_moves_the_time(lite, factstore, config, clock):
    clock.advance(5)

    changed = factstore.put(
        SSO, {"isMandatory": True, "clientSecret": None, "provider": "ENTRA_ID"}
    )

    assert changed.status == 200
    assert changed.json == config | {
        "isMandatory": True,
        "provider": "ENTRA_ID",
        "updatedAt": "2026-06-01T12:00:05.000000Z",
    }
    assert audit(lite)[-1][1:3] == ("sso_config.updated", config["id"])
    with lite.workspace.read():
        assert novantra_lite.SsoConfig.of("acme").client_secret == SECRET


def test_a_secret_that_was_replaced_is_nowhere_in_the_file(lite, factstore, config):
    factstore.put(SSO, {"clientSecret": "the new secret"})

    stored = stored_bytes(lite)
    assert SECRET.encode() not in stored
    assert b"the new secret" not in stored


def test_a_set_up_that_is_taken_away_is_gone(lite, factstore, config):
    gone = factstore.delete(SSO)

    assert gone.status == 204
    assert factstore.get(SSO).status == 404
    assert audit(lite)[-1][1:3] == ("sso_config.deleted", config["id"])


def test_an_organisation_with_single_sign_on_is_in_use(factstore, config):
    refused = factstore.delete("/api/v1/organisations/acme")

    assert refused.status == 409
    assert "single sign-on" in refused.json["message"]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", SSO), ("PUT", SSO), ("DELETE", SSO), ("POST", f"{SSO}/test")]
)
def test_without_a_set_up_there_is_nothing_to_act_on(factstore, method, path):
    refused = factstore.request(method, path, json={})

    assert refused.status == 404
    assert refused.json["message"] == "Organisation 'acme' has no single sign-on."


def test_an_organisation_has_one_set_up_and_hears_of_it_before_its_url_is_judged(factstore, config):
    refused = factstore.post(SSO, set_up("ftp://nowhere"))

    assert refused.status == 409
    assert refused.json["message"] == "Single sign-on of organisation 'acme' already exists"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"issuerUrl": "http://login.example"}, "issuerUrl: The URL must start with https://."),
        ({"issuerUrl": "login.example"}, "issuerUrl: The URL must start with https://."),
        ({"issuerUrl": "https://u:p@login.example"}, "issuerUrl: The URL must not contain a user"),
        ({"issuerUrl": "https://login.example?x"}, "issuerUrl: The URL must end with its path."),
        ({"issuerUrl": "https://"}, "issuerUrl: The URL must"),
        ({"attributeMappings": {"email": "mail"}}, "attributeMappings: Expected string"),
        ({"attributeMappings": "[]"}, "attributeMappings: Expected the JSON text of an object"),
        ({"attributeMappings": "{"}, "attributeMappings: Expected the JSON text of an object"),
        ({"groupRoleMappings": '{"a": 1}'}, "groupRoleMappings: Expected the JSON text of an"),
        ({"groupRoleMappings": "[" * 9000}, "groupRoleMappings: Expected the JSON text of an"),
        ({"provider": "GOOGLE"}, "provider: Expected one of: ENTRA_ID, OKTA"),
        ({"clientId": "x" * 256}, "clientId: Expected 1 to 255 characters"),
        ({"issuerUrl": None}, "issuerUrl: Required"),
    ],
)
def test_what_a_set_up_cannot_be_is_said(factstore, given, message):
    refused = factstore.post(SSO, set_up("https://login.example") | given)

    assert refused.status == 400
    assert refused.json["message"].startswith(message)
    assert factstore.get(SSO).status == 404


@pytest.mark.parametrize(
    "given", [{"issuerUrl": "http://login.example"}, {"issuerUrl": ""}, {"groupRoleMappings": ""}]
)
def test_a_change_is_held_to_the_same_rules(factstore, config, given):
    refused = factstore.put(SSO, given)

    assert refused.status == 400
    assert factstore.get(SSO).json == config


def test_a_set_up_may_not_give_more_than_its_maker_has(lite, factstore, config, provider):
    keeper = lite.client("factstore:admin")
    writer = lite.client("factstore:admin", "factstore:write", "factstore:read")
    other = "/api/v1/organisations/other/sso"

    refused = keeper.post(other, set_up(provider.url))
    kept = keeper.put(SSO, {"groupRoleMappings": '{"everybody":"ADMIN"}'})

    assert refused.status == 403
    assert refused.json["message"].startswith("You cannot grant the scope factstore:read")
    assert (kept.status, writer.get(SSO).json) == (403, config)
    assert writer.post(other, set_up(provider.url)).status == 201


def test_a_rehearsal_stores_nothing(lite, factstore, config):
    before = tables(lite)

    response = factstore.request(
        "PUT", SSO, json={"isMandatory": True}, headers={"X-Dry-Run": "true"}
    )
    made = factstore.request(
        "POST",
        "/api/v1/organisations/other/sso",
        json=set_up("https://login.example"),
        headers={"X-Dry-Run": "true"},
    )

    assert response.json["wouldUpdate"]["isMandatory"] is True
    assert made.json["wouldCreate"]["orgSlug"] == "other"
    assert tables(lite) == before


@pytest.mark.parametrize("scope", ["factstore:read", "factstore:write"])
def test_only_who_administers_sees_a_set_up(lite, config, scope):
    client = lite.client(scope)

    answers = [
        client.get(SSO),
        client.put(SSO, {}),
        client.delete(SSO),
        client.post(SSO, {}),
        client.post(f"{SSO}/test"),
    ]

    assert [answer.status for answer in answers] == [403] * 5


# --- The test of a set-up -----------------------------------------------------


def test_a_good_issuer_passes_its_test(lite, factstore, config, provider):
    response = factstore.request("POST", f"{SSO}/test")

    assert response.status == 200
    assert response.json == {
        "success": True,
        "message": "The discovery document of the issuer was read.",
        "authorizationEndpoint": f"{provider.url}/authorize",
        "tokenEndpoint": f"{provider.url}/token",
    }


def test_endpoints_that_are_missing_are_null(factstore, config, provider):
    provider.document = {"issuer": provider.url, "token_endpoint": 7}

    body = factstore.request("POST", f"{SSO}/test").json

    assert body["success"] is True
    assert (body["authorizationEndpoint"], body["tokenEndpoint"]) == (None, None)


DISCOVERY = "/.well-known/openid-configuration"


@pytest.mark.parametrize(
    "answer",
    [
        (500, {}),
        (404, {}),
        (302, {}, ("Location", "/elsewhere")),
        (200, b"<html>"),
        (200, []),
        (200, b"[" * 90_000),
        (200, {"issuer": "https://other.example"}),
        (200, {"issuer": ["http://127.0.0.1"]}),
        (200, {}),
        (200, b" " * 1_100_000),
    ],
)
def test_a_failing_issuer_is_told_of_without_a_reason(factstore, config, provider, answer):
    provider.answers[DISCOVERY] = answer

    response = factstore.request("POST", f"{SSO}/test")

    assert response.status == 200
    assert response.json == {
        "success": False,
        "message": "The discovery document of the issuer could not be read.",
        "authorizationEndpoint": None,
        "tokenEndpoint": None,
    }
    assert [path for _, path, *_ in provider.seen] == [DISCOVERY]


@pytest.mark.parametrize(
    "url",
    ["https://127.0.0.1:1", "https://localhost", "https://169.254.169.254", "https://[::1]:9"],
)
def test_an_issuer_in_a_private_network_is_not_asked(lite, factstore, url):
    factstore.post(SSO, set_up(url))

    tested = factstore.request("POST", f"{SSO}/test")
    begun = Client(lite).get(f"{SSO}/login", redirectUri=REDIRECT)

    assert (tested.status, tested.json["success"]) == (200, False)
    assert begun.status == 400
    assert "the setting sso_private_issuers permits" in begun.json["message"]


def test_a_port_beside_a_permitted_issuer_is_not_permitted(factstore, provider):
    refused = factstore.post(SSO, set_up(f"{provider.url}1"))

    assert refused.status == 400
    assert refused.json["message"] == "issuerUrl: The URL must start with https://."


# --- Beginning a sign-in ------------------------------------------------------


def test_the_browser_is_sent_with_state_nonce_and_challenge(lite, config, provider):
    provider.document["authorization_endpoint"] = f"{provider.url}/authorize"

    result = Client(lite).get(f"{SSO}/login", redirectUri=REDIRECT)

    url, _, query = result.json["loginUrl"].partition("?")
    sent = urllib.parse.parse_qsl(query)
    assert list(result.json) == ["loginUrl", "state"]
    assert url == f"{provider.url}/authorize"
    assert [name for name, _ in sent] == [
        *("response_type", "client_id", "redirect_uri", "scope", "state"),
        *("nonce", "code_challenge", "code_challenge_method"),
    ]
    assert "scope=openid+profile+email&" in query
    assert (
        dict(sent).items()
        >= {
            "response_type": "code",
            "client_id": "factstore",
            "redirect_uri": REDIRECT,
            "state": result.json["state"],
            "code_challenge_method": "S256",
        }.items()
    )
    assert len(result.json["state"]) == 32
    assert result.json["state"].encode() not in stored_bytes(lite)


def test_an_endpoint_with_a_query_of_its_own_keeps_it(lite, config, provider):
    provider.document["authorization_endpoint"] = f"{provider.url}/authorize?p=policy#top"

    body = Client(lite).get(f"{SSO}/login", redirectUri=REDIRECT).json

    assert body["loginUrl"].startswith(f"{provider.url}/authorize?p=policy&response_type=code&")


def test_no_two_sign_ins_are_alike(lite, config):
    first, _ = begin(lite)
    second, _ = begin(lite)

    names = ("state", "nonce", "code_challenge")
    assert all(first[name] != second[name] for name in names)


def test_sign_ins_that_nobody_finished_are_forgotten(lite, config, clock):
    begin(lite)
    clock.advance(600)

    begin(lite)

    with lite.workspace.read():
        assert SsoLogin.select().count() == 1


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ((500, {}), 502),
        ((302, {}, ("Location", "/elsewhere")), 502),
        ((200, b"<html>"), 502),
        ((200, {"issuer": "https://other.example"}), 400),
    ],
)
def test_a_sign_in_does_not_begin_with_an_issuer_that_fails(lite, config, provider, answer, status):
    provider.answers[DISCOVERY] = answer

    assert Client(lite).get(f"{SSO}/login", redirectUri=REDIRECT).status == status
    with lite.workspace.read():
        assert SsoLogin.select().count() == 0


@pytest.mark.parametrize("url", [None, 7, "javascript:alert(1)", "http://login.example", "/go"])
def test_the_browser_is_sent_only_where_that_is_safe(lite, config, provider, url):
    provider.document["authorization_endpoint"] = url

    refused = Client(lite).get(f"{SSO}/login", redirectUri=REDIRECT)

    assert refused.status == 400
    assert "authorization_endpoint" in refused.json["message"]


def test_an_issuer_that_is_down_is_a_bad_gateway(clock):
    with http.server.HTTPServer(("127.0.0.1", 0), Speaker) as closed:
        url = f"http://127.0.0.1:{closed.server_port}"

    with NovantraLite(clock=clock, sso_private_issuers=(url,)) as lite:
        lite.client(*novantra_lite.FACTSTORE_SCOPES).post(SSO, set_up(url))
        refused = Client(lite).get(f"{SSO}/login", redirectUri=REDIRECT)

    assert refused.status == 502
    assert refused.json["message"] == "The identity provider gave no usable response; try again."


def test_a_sign_in_needs_an_organisation_with_single_sign_on_and_a_place_to_return(lite, config):
    nowhere = Client(lite).get("/api/v1/organisations/other/sso/login", redirectUri=REDIRECT)
    aimless = Client(lite).get(f"{SSO}/login")

    assert nowhere.status == 404
    assert (aimless.status, aimless.json["message"]) == (400, "redirectUri: Required")


def test_sign_ins_of_one_address_are_limited(lite, config, clock):
    rows = [Client(lite).get(f"{SSO}/callback", code="c", state="s").status for _ in range(61)]

    assert (rows[59], rows[60]) == (400, 429)
    clock.advance(60)
    assert Client(lite).get(f"{SSO}/login", redirectUri=REDIRECT).status == 200


# --- Finishing a sign-in ------------------------------------------------------


def test_a_code_is_swapped_with_all_that_binds_it_to_the_sign_in(lite, config, provider):
    sent, state = begin(lite)
    provider.nonce = sent["nonce"]

    finish(lite, state, code="c0de+/=")

    (form,) = [form for _, path, form, _ in provider.seen if path == "/token"]
    verifier = form.pop("code_verifier")
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest())
    assert challenge.rstrip(b"=").decode() == sent["code_challenge"]
    assert len(verifier) == 43
    assert form == {
        "grant_type": "authorization_code",
        "client_id": "factstore",
        "client_secret": SECRET,
        "code": "c0de+/=",
        "redirect_uri": REDIRECT,
    }


def test_a_client_without_a_secret_sends_none(lite, factstore, config, provider):
    factstore.put(SSO, {"clientSecret": ""})

    assert sign_in(lite, provider).status == 200

    (form,) = [form for _, path, form, _ in provider.seen if path == "/token"]
    assert "client_secret" not in form


def test_a_provider_that_takes_the_secret_only_in_a_header_gets_it_there(lite, config, provider):
    provider.document["token_endpoint_auth_methods_supported"] = ["client_secret_basic"]

    assert sign_in(lite, provider).status == 200

    ((form, headers),) = [rest for _, path, *rest in provider.seen if path == "/token"]
    pair = base64.b64decode(headers["Authorization"].removeprefix("Basic ")).decode()
    assert pair == "factstore:the+client%27s+secret"
    assert "client_secret" not in form


def test_who_signs_in_becomes_a_user_and_a_member(lite, factstore, config, provider):
    response = sign_in(lite, provider, groups=["readers"])

    (user,) = factstore.get("/api/v1/users").json
    (member,) = factstore.get(MEMBERS).json
    assert response.status == 200
    assert list(response.json) == ["token", "userId", "email", "name"]
    assert (user["email"], user["name"]) == ("ada@acme.example", "Ada")
    assert response.json["userId"] == user["id"] == member["userId"]
    assert member["role"] == "VIEWER"
    reason = "Signed in to organisation 'acme'."
    assert [record[:2] + record[3:] for record in audit(lite)[-3:]] == [
        ("sso", "api.session.issued", reason),
        ("sso", "user.created", reason),
        ("sso", "member.created", reason),
    ]
    assert [name for name, _ in ledger(lite)[-2:]] == ["USER_CREATED", "MEMBER_CREATED"]
    assert response.json["token"].encode() not in stored_bytes(lite)


def test_who_signs_in_again_keeps_the_name_and_gets_the_role_of_now(
    lite, factstore, config, provider
):
    first = sign_in(lite, provider, groups=["writers"])

    second = sign_in(lite, provider, groups=["readers"], name="Ada L.")

    (user,) = factstore.get("/api/v1/users").json
    (member,) = factstore.get(MEMBERS).json
    assert second.json["userId"] == first.json["userId"]
    assert (second.json["name"], user["name"]) == ("Ada L.", "Ada")
    assert member["role"] == "VIEWER"


@pytest.mark.parametrize(
    ("groups", "role"),
    [
        (None, "MEMBER"),
        ([], "MEMBER"),
        ("admins", "MEMBER"),
        (["strangers"], "MEMBER"),
        (["odd"], "MEMBER"),
        (["odd", "readers"], "VIEWER"),
        (["readers", "admins", "writers"], "ADMIN"),
        ([["admins"], {"admins": 1}, 7, "readers"], "VIEWER"),
    ],
)
def test_groups_stand_for_roles(lite, factstore, config, provider, groups, role):
    sign_in(lite, provider, groups=groups)

    assert [member["role"] for member in factstore.get(MEMBERS).json] == [role]


def test_the_last_admin_of_an_organisation_stays_one(lite, factstore, config, provider):
    sign_in(lite, provider, groups=["admins"])

    response = sign_in(lite, provider, groups=["readers"])

    assert response.status == 200
    assert [member["role"] for member in factstore.get(MEMBERS).json] == ["ADMIN"]


def test_claims_are_named_by_the_set_up(lite, factstore, config, provider):
    names = {"email": "upn", "name": "display", "role": "roles"}
    factstore.put(SSO, {"attributeMappings": json.dumps(names)})

    body = sign_in(lite, provider, upn="bob@acme.example", display="Bob", roles=["readers"]).json

    assert (body["email"], body["name"]) == ("bob@acme.example", "Bob")
    assert factstore.get(MEMBERS).json[0]["role"] == "VIEWER"


@pytest.mark.parametrize("name", [None, 7, "", " ", "x" * 300, ["Ada"]])
def test_who_has_no_usable_name_is_called_by_the_address(lite, config, provider, name):
    assert sign_in(lite, provider, name=name).json["name"] == "ada@acme.example"


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({"email": None}, "The ID token has no e-mail address in the claim email."),
        ({"email": 7}, "The ID token has no e-mail address in the claim email."),
        ({"email": ""}, "The ID token has no e-mail address in the claim email."),
        ({"email": "a" * 256}, "The ID token has no e-mail address in the claim email."),
        ({"email_verified": False}, "The identity provider has not verified the e-mail address."),
        ({"email_verified": "no"}, "The identity provider has not verified the e-mail address."),
        ({"email_verified": "true"}, "The identity provider has not verified the e-mail address."),
        ({"email_verified": 1}, "The identity provider has not verified the e-mail address."),
        ({"email_verified": None}, "The identity provider has not verified the e-mail address."),
    ],
)
def test_nobody_signs_in_without_an_address(lite, factstore, config, provider, claims, message):
    refused = sign_in(lite, provider, **claims)

    assert (refused.status, refused.json["message"]) == (400, message)
    assert factstore.get("/api/v1/users").json == []


# --- Who it is ----------------------------------------------------------------


def test_who_signed_in_is_known_by_the_subject_whatever_the_address(
    lite, factstore, config, provider
):
    first = sign_in(lite, provider).json

    moved = sign_in(lite, provider, email="ada.l@acme.example", email_verified=False).json

    assert (moved["userId"], moved["email"]) == (first["userId"], "ada@acme.example")
    assert len(factstore.get("/api/v1/users").json) == 1


def test_an_address_that_another_subject_has_now_opens_nothing(lite, factstore, config, provider):
    sign_in(lite, provider, groups=["admins"])

    refused = sign_in(lite, provider, sub="2")

    assert refused.status == 400
    assert refused.json["message"] == (
        "The e-mail address belongs to another person of this identity provider."
    )
    assert audit(lite)[-1][:2] == ("sso", "api.authentication.refused")


def test_a_user_of_before_is_linked_by_the_first_verified_address(
    lite, factstore, config, provider
):
    existing = factstore.post("/api/v1/users", {"email": "ada@acme.example", "name": "Ada"}).json

    refused = sign_in(lite, provider, email_verified=None)
    linked = sign_in(lite, provider, email_verified=True)
    again = sign_in(lite, provider, email="other@acme.example", email_verified=None)

    assert refused.status == 400
    assert linked.json["userId"] == again.json["userId"] == existing["id"]


def test_the_same_subject_of_another_issuer_is_somebody_else(lite, factstore, config, provider):
    sign_in(lite, provider)
    with lite.workspace.read():
        (issuer,) = [row.issuer for row in SsoIdentity.select()]
    write_transaction(
        lite.workspace,
        lambda current: SsoIdentity.update(issuer="https://other.example").execute(),
        actor="test",
    )

    refused = sign_in(lite, provider, email="eve@acme.example", email_verified=None)

    assert issuer == provider.url
    assert refused.status == 400


def test_entra_id_names_people_by_their_object_id(lite, factstore, config, provider):
    factstore.put(SSO, {"provider": "ENTRA_ID"})
    claims = {"email_verified": None, "oid": "o-1"}

    first = sign_in(lite, provider, **claims)
    again = sign_in(lite, provider, **claims | {"sub": "pairwise", "email": "ada@new.example"})
    nameless = sign_in(lite, provider, oid=None)

    assert first.json["userId"] == again.json["userId"]
    assert nameless.json["message"] == "The ID token has no usable claim oid."


def test_entra_id_gives_no_user_of_before_to_an_address_that_is_not_verified(
    lite, factstore, config, provider
):
    factstore.post("/api/v1/users", {"email": "ada@acme.example", "name": "Ada"})
    factstore.put(SSO, {"provider": "ENTRA_ID"})

    refused = sign_in(lite, provider, email_verified=None, oid="o-1")
    linked = sign_in(lite, provider, email_verified=True)

    assert (refused.status, linked.status) == (400, 200)
    assert refused.json["message"] == (
        "The e-mail address belongs to a user, and the identity provider has not verified it."
    )


def test_sign_ins_that_nobody_finishes_are_bounded(lite, config, provider, clock, monkeypatch):
    monkeypatch.setattr(SsoLogin, "MOST", 3)
    sent, states = {}, []
    for _ in range(5):
        sent, state = begin(lite)
        states.append(state)
        clock.advance(1)
    provider.nonce = sent["nonce"]

    statuses = [finish(lite, states[0]).status, finish(lite, states[4]).status]

    assert statuses == [400, 200]
    with lite.workspace.read():
        assert SsoLogin.select().count() == 2


def test_wrong_states_lock_out_nobody_who_has_a_right_one(lite, config, provider):
    sent, state = begin(lite)
    provider.nonce = sent["nonce"]

    wrong = [finish(lite, f"wrong-{number}").status for number in range(61)]
    right = finish(lite, state)

    assert wrong == [400] * 60 + [429]
    assert right.status == 200


@pytest.mark.parametrize(
    "change", [{"issuerUrl": "https://evil.example"}, {"clientId": "another client"}]
)
def test_another_issuer_or_client_needs_the_secret_again(factstore, config, change):
    before = factstore.get(SSO).json

    refused = factstore.put(SSO, change)
    accepted = factstore.put(SSO, change | {"clientSecret": "its own"})

    assert refused.status == 400
    assert refused.json["message"].startswith("clientSecret: Required, since the issuer or")
    assert accepted.status == 200
    assert accepted.json.items() >= change.items()
    assert before.items() >= {"clientId": "factstore"}.items()


def test_the_same_issuer_and_client_need_no_secret(factstore, config, provider):
    body = {"issuerUrl": f"{provider.url}/", "clientId": "factstore"}

    assert factstore.put(SSO, body).status == 200


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("https://app.example/callback", 200),
        ("http://localhost:5173/callback", 200),
        ("http://127.0.0.1/callback", 200),
        ("http://[::1]:8080/callback", 200),
        ("http://app.example/callback", 400),
        ("http://localhost.evil.example/callback", 400),
        ("https://app.example@evil.example/", 400),
        ("https://*.example/callback", 400),
        ("https://app.example/callback#x", 400),
        ("https://app.example\\@evil.example/", 400),
        ("https://app.example:x/", 400),
        ("https:///callback", 400),
        ("//app.example/callback", 400),
        ("javascript:alert(1)", 400),
        ("app://callback", 400),
        ("https://app.example/a b", 400),
    ],
)
def test_the_browser_returns_over_https_or_to_this_machine(lite, config, url, status):
    assert Client(lite).get(f"{SSO}/login", redirectUri=url).status == status


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"),
    [
        (EC_KEY, "ES256", "ec"),
        (RSA_KEY, "RS256", "rsa"),
        (RSA_KEY, "PS256", "rsa"),
        (ED_KEY, "EdDSA", "ed"),
        (RSA_KEY, "RS256", None),
    ],
)
def test_an_id_token_may_be_signed_in_four_ways(lite, config, provider, key, algorithm, kid):
    provider.make_token = lambda claims: sign(claims, key, algorithm, kid)

    assert sign_in(lite, provider).status == 200


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": NOW - 59},
        {"iat": NOW + 60, "nbf": NOW + 60},
        {"aud": ["factstore", "other"], "azp": "factstore"},
        {"aud": ["factstore"]},
        {"exp": NOW + 0.5},
    ],
)
def test_an_id_token_may_be_of_a_clock_that_is_a_minute_off(lite, config, provider, claims):
    assert sign_in(lite, provider, **claims).status == 200


@pytest.mark.parametrize(
    ("claims", "refused"),
    [
        ({"iss": "https://other.example"}, "it is of another issuer"),
        ({"iss": "http://127.0.0.1"}, "it is of another issuer"),
        ({"iss": 7}, "it is of another issuer"),
        ({"iss": None}, "it lacks a claim that it needs"),
        ({"aud": "other"}, "it is for another client"),
        ({"aud": ["other"]}, "it is for another client"),
        ({"aud": []}, "it lacks a claim that it needs"),
        ({"aud": None}, "it lacks a claim that it needs"),
        ({"aud": ["factstore", "other"]}, "it is for another client"),
        ({"azp": "other"}, "it is for another client"),
        ({"aud": ["factstore", "other"], "azp": "other"}, "it is for another client"),
        ({"exp": NOW - 60}, "it has expired"),
        ({"exp": NOW - 86_400}, "it has expired"),
        ({"exp": float("nan")}, "it has expired"),
        ({"exp": None}, "it lacks a claim that it needs"),
        ({"exp": "tomorrow"}, "its times are not numbers"),
        ({"exp": True}, "its times are not numbers"),
        ({"iat": NOW + 61}, "it is not valid yet"),
        ({"iat": None}, "it lacks a claim that it needs"),
        ({"nbf": NOW + 61}, "it is not valid yet"),
        ({"nbf": float("nan")}, "it is not valid yet"),
        ({"nbf": [1]}, "its times are not numbers"),
        ({"nonce": "0" * 32}, "it is of another login"),
        ({"nonce": None}, "it lacks a claim that it needs"),
        ({"nonce": 7}, "it is of another login"),
        ({"sub": None}, "it lacks a claim that it needs"),
    ],
)
def test_an_id_token_that_is_not_for_this_sign_in_is_refused(
    lite, factstore, config, provider, claims, refused
):
    sent, state = begin(lite)
    provider.nonce, provider.claims = sent["nonce"], claims

    answer = finish(lite, state)

    assert answer.status == 400
    assert answer.json["message"] == f"The ID token was refused: {refused}."
    assert factstore.get("/api/v1/users").json == []
    assert audit(lite)[-1][:2] == ("sso", "api.authentication.refused")


SIGNATURE = "The ID token was refused: its signature is wrong."
ALGORITHM = "The ID token must be signed with one of RS256, PS256, ES256, EdDSA."
UNKNOWN = "The ID token is not signed with a key that the identity provider publishes."
MALFORMED = "The ID token was refused: it, or the key for it, is not well formed."


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda claims: sign(claims, OTHER_KEY), SIGNATURE),
        (edited, SIGNATURE),
        (lambda claims: sign(claims)[:-8] + "AAAAAAAA", SIGNATURE),
        (unsigned, ALGORITHM),
        (lambda claims: unsigned(claims, "None"), ALGORITHM),
        (lambda claims: unsigned(claims, ["ES256"]), ALGORITHM),
        (lambda claims: unsigned(claims, "ES256"), SIGNATURE),
        (signed_with_what_is_public, ALGORITHM),
        (lambda claims: sign(claims, RSA_KEY, "RS512", "rsa"), ALGORITHM),
        (lambda claims: sign(claims, kid="gone"), UNKNOWN),
        (lambda claims: sign(claims, kid="rsa"), UNKNOWN),
        (lambda claims: sign(claims, RSA_KEY, "RS256", "ec"), UNKNOWN),
        (lambda claims: "a.b", MALFORMED),
        (lambda claims: "", "The identity provider answered without an ID token."),
        (lambda claims: "a.b.c", MALFORMED),
        (lambda claims: "é.é.é", MALFORMED),
        (lambda claims: sign(b"[]"), MALFORMED),
        (lambda claims: sign(b'{"sub": "root", ' + json.dumps(claims).encode()[1:]), MALFORMED),
        (lambda claims: sign(b"{"), MALFORMED),
        (lambda claims: 7, "The identity provider answered without an ID token."),
        (lambda claims: None, "The identity provider answered without an ID token."),
    ],
)
def test_an_id_token_without_a_good_signature_is_refused(
    lite, factstore, config, provider, make, message
):
    provider.make_token = make

    refused = sign_in(lite, provider)

    assert (refused.status, refused.json["message"]) == (400, message)
    assert factstore.get("/api/v1/users").json == []


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([], UNKNOWN),
        (None, UNKNOWN),
        ({"kid": "ec"}, UNKNOWN),
        (["ec", None, 7], UNKNOWN),
        ([KEYS[0] | {"use": "enc"}], UNKNOWN),
        ([KEYS[0] | {"alg": "ES512"}], UNKNOWN),
        ([{"kty": "oct", "k": "c2VjcmV0", "kid": "ec"}], UNKNOWN),
        ([{"kty": "EC", "kid": "ec"}], MALFORMED),
        ([KEYS[0] | {"x": 7}], MALFORMED),
        ([KEYS[0] | {"x": "AAAA"}], MALFORMED),
        ([KEYS[0] | {"crv": "P-384"}], MALFORMED),
        ([KEYS[0] | {"crv": ["P-256"]}], MALFORMED),
        ([jwk("ES256", OTHER_KEY, kid="ec")], SIGNATURE),
    ],
)
def test_keys_that_a_provider_should_not_publish_verify_nothing(
    lite, config, provider, keys, message
):
    provider.keys = keys

    refused = sign_in(lite, provider)

    assert (refused.status, refused.json["message"]) == (400, message)


def test_a_token_that_does_not_say_its_key_needs_a_provider_with_one(lite, config, provider):
    provider.keys = [*KEYS, jwk("ES256", OTHER_KEY, kid="new")]
    provider.make_token = lambda claims: sign(claims, kid=None)

    refused = sign_in(lite, provider)

    assert (refused.status, refused.json["message"]) == (400, UNKNOWN)


def test_a_key_that_is_too_short_verifies_nothing(lite, config, provider):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        short = rsa.generate_private_key(public_exponent=65537, key_size=1024)
        provider.keys = [jwk("RS256", short, kid="short")]
    made = {}

    def make(claims):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return made.setdefault("token", sign(claims, short, "RS256", "short"))

    provider.make_token = make

    assert sign_in(lite, provider).json["message"] == MALFORMED


@pytest.mark.parametrize(
    ("path", "answer", "status", "message"),
    [
        ("/token", (400, {"error": "invalid_grant"}), 400, "refused the authorization code"),
        ("/token", (401, {"error": "invalid_client"}), 400, "refused the authorization code"),
        ("/token", (500, {}), 502, "gave no usable response"),
        ("/token", (307, {}, ("Location", "/elsewhere")), 502, "gave no usable response"),
        ("/token", (200, b"id_token=x"), 502, "gave no usable response"),
        ("/token", (200, {"access_token": "x"}), 400, "answered without an ID token"),
        ("/keys", (500, {}), 502, "gave no usable response"),
        ("/keys", (200, b"nothing"), 502, "gave no usable response"),
    ],
)
def test_what_goes_wrong_at_the_provider_is_told(
    lite, config, provider, path, answer, status, message
):
    provider.answers[path] = answer

    refused = sign_in(lite, provider)

    assert refused.status == status
    assert message in refused.json["message"]
    assert "/elsewhere" not in [path for _, path, *_ in provider.seen]


@pytest.mark.parametrize("name", ["token_endpoint", "jwks_uri"])
@pytest.mark.parametrize(
    "url", [None, 7, "http://127.0.0.1:1/token", "https://127.0.0.1/token", "file:///etc/passwd"]
)
def test_endpoints_may_not_lead_where_an_issuer_may_not(lite, config, provider, name, url):
    sent, state = begin(lite)
    provider.nonce, provider.document[name] = sent["nonce"], url

    refused = finish(lite, state)

    assert refused.status == 400


def test_an_issuer_that_changes_its_mind_is_refused(lite, config, provider):
    sent, state = begin(lite)
    provider.nonce, provider.document["issuer"] = sent["nonce"], "https://other.example"

    refused = finish(lite, state)

    assert refused.status == 400
    assert refused.json["message"].endswith("is of another issuer.")


def test_an_issuer_that_ends_with_a_slash_is_the_same(lite, config, provider):
    provider.document["issuer"] = f"{provider.url}/"

    assert sign_in(lite, provider, iss=f"{provider.url}/").status == 200
    assert sign_in(lite, provider, iss=provider.url).status == 400


# --- States -------------------------------------------------------------------

USED = "The state is unknown, or was used before; sign in again."


def test_a_state_is_good_once(lite, config, provider):
    sent, state = begin(lite)
    provider.nonce = sent["nonce"]
    first = finish(lite, state)

    again = finish(lite, state)

    assert (first.status, again.status) == (200, 400)
    assert again.json["message"] == USED
    assert audit(lite)[-1][:2] == ("sso", "api.authentication.refused")


def test_a_state_is_used_up_by_a_sign_in_that_fails(lite, config, provider):
    sent, state = begin(lite)
    provider.answers["/token"] = (500, {})
    failed = finish(lite, state)
    provider.nonce, provider.answers = sent["nonce"], {}

    again = finish(lite, state)

    assert (failed.status, again.status) == (502, 400)
    assert again.json["message"] == USED


@pytest.mark.parametrize("state", ["0" * 32, "x", "é", "a" * 255])
def test_a_state_that_nobody_was_given_is_refused(lite, config, provider, state):
    begin(lite)

    refused = finish(lite, state)

    assert (refused.status, refused.json["message"]) == (400, USED)


def test_a_state_belongs_to_one_organisation(lite, factstore, config, provider):
    other = "/api/v1/organisations/other/sso"
    factstore.post(other, set_up(provider.url))
    _, state = begin(lite)

    refused = finish(lite, state, path=other)

    assert refused.status == 400
    assert refused.json["message"] == "The state belongs to the sign-in of another organisation."
    assert finish(lite, state).json["message"] == USED


def test_a_state_is_good_for_ten_minutes_of_the_clock(lite, config, provider, clock):
    sent, state = begin(lite)
    _, last = begin(lite)
    clock.advance(599)
    provider.nonce, provider.claims = sent["nonce"], {"exp": NOW + 900}
    assert finish(lite, state).status == 200

    clock.advance(1)

    refused = finish(lite, last)
    assert refused.status == 400
    assert refused.json["message"] == "The state has expired; sign in again."


def test_a_set_up_that_goes_ends_the_sign_ins_that_were_begun(lite, factstore, config):
    _, state = begin(lite)
    factstore.delete(SSO)

    refused = finish(lite, state)

    assert refused.status == 404


def test_a_refusal_of_the_provider_is_told(lite, config):
    _, state = begin(lite)
    query = {"state": state, "error": "access_denied", "error_description": "No."}

    refused = Client(lite).get(f"{SSO}/callback", **query)

    assert refused.status == 400
    text = "The identity provider refused the sign-in: access_denied."
    assert refused.json["message"] == text
    assert finish(lite, state).json["message"] == USED


def test_a_refusal_without_a_state_is_told_too(lite, config):
    refused = Client(lite).get(f"{SSO}/callback", error="access_denied")

    text = "The identity provider refused the sign-in: access_denied."
    assert (refused.status, refused.json["message"]) == (400, text)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"state": "s"}, "code: Required"),
        ({"code": "c"}, "state: Required"),
        ({"code": "c", "state": ""}, "state: Required"),
        ({"state": "s", "error": "<script>"}, "error: Expected the code of an error"),
    ],
)
def test_a_callback_needs_a_code_and_a_state(lite, config, query, message):
    refused = Client(lite).get(f"{SSO}/callback", **query)

    assert (refused.status, refused.json["message"]) == (400, message)


# --- Sessions -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "statuses"),
    [("readers", (200, 403, 403)), ("writers", (200, 201, 403)), ("admins", (200, 201, 200))],
)
def test_a_session_has_the_scopes_of_the_role(lite, config, provider, group, statuses):
    session = bearer(lite, sign_in(lite, provider, groups=[group]).json["token"])

    answers = (
        session.get("/api/v1/flows"),
        session.post("/api/v1/flows", {"name": "payments"}),
        session.get("/api/v1/users"),
    )

    assert tuple(answer.status for answer in answers) == statuses


def test_what_a_session_does_is_done_by_its_user(lite, config, provider):
    body = sign_in(lite, provider).json

    bearer(lite, body["token"]).post("/api/v1/flows", {"name": "payments"})

    assert audit(lite)[-1][:2] == (body["userId"], "flow.created")


@pytest.mark.parametrize(
    ("header", "form"),
    [("Authorization", "Bearer {}"), ("Authorization", "ApiKey {}"), ("X-Api-Key", "{}")],
)
def test_a_session_is_taken_in_each_header_that_clients_send(lite, config, provider, header, form):
    token = sign_in(lite, provider).json["token"]

    answer = Client(lite, {header: form.format(token)}).get("/api/v1/flows")

    assert answer.status == 200


def test_a_session_is_good_for_eight_hours_of_the_clock(lite, config, provider, clock):
    session = bearer(lite, sign_in(lite, provider).json["token"])
    clock.advance(8 * 3600 - 1)
    before = session.get("/api/v1/flows")

    clock.advance(1)

    after = session.get("/api/v1/flows")
    assert (before.status, after.status) == (200, 401)
    assert after.json["message"] == "The session has expired; sign in again."


def remove_member(lite, factstore, user):
    assert factstore.delete(f"{MEMBERS}/{user}").status == 204


def change_role(lite, factstore, user):
    assert factstore.put(f"{MEMBERS}/{user}", {"role": "VIEWER"}).status == 200


def delete_user(lite, factstore, user):
    assert factstore.delete(f"/api/v1/users/{user}").status == 204


def remove_and_add_again(lite, factstore, user):
    remove_member(lite, factstore, user)
    body = {"email": "ada@acme.example", "role": "MEMBER"}
    assert factstore.post(MEMBERS, body).status == 201


def remove_behind_the_api(lite, factstore, user):
    write_transaction(
        lite.workspace, lambda current: Membership.of("acme", user).remove(), actor="import"
    )


@pytest.mark.parametrize(
    "act", [remove_member, change_role, delete_user, remove_and_add_again, remove_behind_the_api]
)
def test_a_session_ends_with_what_it_rests_on(lite, factstore, config, provider, act):
    body = sign_in(lite, provider).json
    session = bearer(lite, body["token"])
    before = session.get("/api/v1/flows")

    act(lite, factstore, body["userId"])

    after = session.get("/api/v1/flows")
    assert (before.status, after.status) == (200, 401)
    assert after.json["message"] == "The session has ended; sign in again."


def test_a_session_speaks_for_one_organisation_only(lite, factstore, config, provider):
    other = "/api/v1/organisations/other/sso"
    factstore.post(other, set_up(provider.url, groupRoleMappings='{"readers":"ADMIN"}'))
    reader = sign_in(lite, provider, groups=["readers"]).json
    sent, state = begin(lite, other)
    provider.nonce = sent["nonce"]
    admin = finish(lite, state, other).json

    assert reader["userId"] == admin["userId"]
    assert bearer(lite, reader["token"]).get("/api/v1/users").status == 403
    assert bearer(lite, admin["token"]).get("/api/v1/users").status == 200


def changed_in(text, location):
    return text[:location] + ("A" if text[location] != "A" else "B") + text[location + 1 :]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text, lite: text[:-1],
        lambda text, lite: changed_in(text, len("fsu_workspace.") + 4),
        lambda text, lite: changed_in(text, -4),
        lambda text, lite: text.replace("fsu_workspace", "fsu_elsewhere"),
        lambda text, lite: text.removeprefix("fsu_"),
        lambda text, lite: "fsu_" + lite.token("factstore:read"),
        lambda text, lite: "fsu_",
        lambda text, lite: "fsu_workspace.",
    ],
)
def test_a_session_that_nobody_was_given_is_refused(lite, config, provider, spoil):
    token = sign_in(lite, provider).json["token"]
    assert token.startswith("fsu_workspace.")

    refused = bearer(lite, spoil(token, lite)).get("/api/v1/flows")

    assert refused.status == 401


def test_a_session_is_no_token_of_the_other_surface(lite, config, provider):
    token = sign_in(lite, provider).json["token"]

    assert bearer(lite, token).get("/api/v1/assets").status == 401


# --- Several workspaces -------------------------------------------------------


@pytest.fixture
def install(tmp_path, provider, clock):
    with NovantraLite(
        workspaces=tmp_path,
        clock=clock,
        random=random.Random(3),
        sso_private_issuers=(provider.url,),
    ) as install:
        for slug in ("north", "south"):
            install.create_workspace(slug)
        yield install


def set_up_in(workspace, url):
    def work(current):
        novantra_lite.SsoConfig.create(
            org_slug="acme", provider="OKTA", issuer_url=url, client_id="factstore"
        )

    write_transaction(workspace, work, actor="console")


def test_a_sign_in_finds_the_workspace_that_has_the_organisation(install, provider):
    set_up_in(install.workspaces["south"], provider.url)
    sent, state = begin(install)
    provider.nonce = sent["nonce"]

    body = finish(install, state).json

    north, south = (install.workspaces[slug] for slug in ("north", "south"))
    with north.read():
        assert User.select().count() == 0
    with south.read():
        assert User.select().count() == 1
    assert body["token"].startswith("fsu_south.")
    assert bearer(install, body["token"]).get("/api/v1/flows").status == 200


def test_a_session_of_one_workspace_is_of_no_use_in_another(install, provider):
    set_up_in(install.workspaces["south"], provider.url)
    sent, state = begin(install)
    provider.nonce = sent["nonce"]
    token = finish(install, state).json["token"]

    refused = bearer(install, token.replace("south", "north")).get("/api/v1/flows")

    assert refused.status == 401


def test_an_organisation_that_several_workspaces_have_cannot_be_told(install, provider):
    for workspace in install.workspaces.values():
        set_up_in(workspace, provider.url)

    refused = Client(install).get(f"{SSO}/login", redirectUri=REDIRECT)

    assert refused.status == 404


# --- Without the library ------------------------------------------------------


def test_an_install_without_the_library_says_what_to_install(lite, config, monkeypatch):
    monkeypatch.setitem(sys.modules, "jwt", None)

    begun = Client(lite).get(f"{SSO}/login", redirectUri=REDIRECT)
    finished = finish(lite, "0" * 32)

    text = "Verifying tokens needs the library PyJWT; install novantra-lite[sso]."
    assert (begun.status, begun.json["message"]) == (503, text)
    assert (finished.status, finished.json["message"]) == (503, text)


# --- A real provider ----------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    people = [
        oidc_provider_mock.User(
            sub="ada",
            claims={
                "email": "ada@acme.example",
                "email_verified": True,
                "name": "Ada",
                "groups": ["admins"],
            },
        ),
        oidc_provider_mock.User(
            sub="bob", claims={"email": "bob@acme.example", "email_verified": True}
        ),
    ]
    with oidc_provider_mock.run_server_in_thread(require_nonce=True, user_claims=people) as server:
        yield f"http://localhost:{server.server_port}"


@pytest.fixture
def signing_in(real):
    """An instance of the real time, as the provider's, set up to sign in there."""
    with NovantraLite(clock=Clock(time.time()), sso_private_issuers=(real,)) as lite:
        groups = '{"admins":"ADMIN"}'
        admin = lite.client(*novantra_lite.FACTSTORE_SCOPES)
        admin.post("/api/v1/organisations", {"slug": "acme", "name": "Acme"})
        created = admin.post(SSO, set_up(real, clientSecret=SECRET, groupRoleMappings=groups))
        assert created.status == 201
        yield lite


def consent(login_url, person):
    """What the provider sends the browser of a person back with."""
    parts = urllib.parse.urlsplit(login_url)
    connection = http.client.HTTPConnection(parts.netloc)
    with contextlib.closing(connection):
        form = urllib.parse.urlencode(person)
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", f"{parts.path}?{parts.query}", form, headers)
        response = connection.getresponse()
        response.read()
    assert response.status == 302
    back = response.headers["Location"]
    assert back.startswith("https://app.example/callback?tab=1&")
    return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(back).query))


def test_people_sign_in_through_a_real_provider(signing_in, real):
    begun = Client(signing_in).get(f"{SSO}/login", redirectUri=REDIRECT).json
    back = consent(begun["loginUrl"], {"sub": "ada"})

    result = Client(signing_in).get(f"{SSO}/callback", **back)

    assert result.status == 200
    assert (result.json["email"], result.json["name"]) == ("ada@acme.example", "Ada")
    session = bearer(signing_in, result.json["token"])
    assert [user["email"] for user in session.get("/api/v1/users").json] == ["ada@acme.example"]
    assert [member["role"] for member in session.get(MEMBERS).json] == ["ADMIN"]
    assert session.request("POST", f"{SSO}/test").json["tokenEndpoint"] == f"{real}/oauth2/token"


def test_a_person_without_groups_or_a_name_is_a_member_called_by_the_address(signing_in):
    begun = Client(signing_in).get(f"{SSO}/login", redirectUri=REDIRECT).json
    back = consent(begun["loginUrl"], {"sub": "bob"})

    body = Client(signing_in).get(f"{SSO}/callback", **back).json

    session = bearer(signing_in, body["token"])
    assert body["name"] == "bob@acme.example"
    assert session.post("/api/v1/flows", {"name": "payments"}).status == 201
    assert session.get("/api/v1/users").status == 403


def test_a_real_code_is_no_good_twice_or_in_another_sign_in(signing_in):
    first = Client(signing_in).get(f"{SSO}/login", redirectUri=REDIRECT).json
    second = Client(signing_in).get(f"{SSO}/login", redirectUri=REDIRECT).json
    back = consent(first["loginUrl"], {"sub": "ada"})

    crossed = Client(signing_in).get(f"{SSO}/callback", **back | {"state": second["state"]})
    spent = Client(signing_in).get(f"{SSO}/callback", **back)

    assert crossed.status == 400
    assert crossed.json["message"] == "The ID token was refused: it is of another login."
    assert spent.status == 400
    assert "refused the authorization code" in spent.json["message"]


def test_a_person_who_refuses_at_a_real_provider_is_told_so(signing_in):
    begun = Client(signing_in).get(f"{SSO}/login", redirectUri=REDIRECT).json
    back = consent(begun["loginUrl"], {"sub": "ada", "action": "deny"})

    refused = Client(signing_in).get(f"{SSO}/callback", **back)

    assert refused.status == 400
    assert refused.json["message"].endswith("refused the sign-in: access_denied.")
