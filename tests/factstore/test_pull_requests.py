"""Attestations of pull requests.

The source hosts are real servers on this machine that speak as the providers' references say.
"""

import contextlib
import http.server
import json
import random
import socket
import threading
import time

import pytest
from conftest import Clock
from stored import audit, events, ledger, tables

import novantra_lite
from factstore.trails import make_trail
from novantra_lite import Attestation, AuditEvent, NovantraLite, Trail, Transport

SHA = "3f2a" * 10
TOKEN = "secret-0123"
NOWHERE = "/api/v1/trails/00000000-0000-4000-8000-000000000000/attestations/pull-request"

GITHUB_PULL = {
    "number": 42,
    "title": "Tighten the bolts",
    "state": "closed",
    "user": {"login": "ada"},
    "requested_reviewers": [{"login": "bob"}],
    "merged_at": "2026-05-30T10:00:00Z",
    "html_url": "https://github.com/acme/plant/pull/42",
}
GITHUB_REVIEWS = [
    {"user": {"login": "cyd"}, "state": "APPROVED"},
    {"user": {"login": "ada"}, "state": "COMMENTED"},
    {"user": None, "state": "COMMENTED"},
    {"user": {"login": {"a": 1}}, "state": "COMMENTED"},
    {"user": {"login": "bob"}, "state": "COMMENTED"},
]
GITLAB_PULL = {
    "id": 9001,
    "iid": 7,
    "title": "Tighten the bolts",
    "author": {"username": "ada", "name": "Ada"},
    "reviewers": [{"username": "bob"}, {"username": "cyd"}],
    "merged_at": "2026-05-30T10:00:00.000Z",
    "web_url": "https://gitlab.com/acme/parts/plant/-/merge_requests/7",
}
BITBUCKET_PULL = {
    "type": "pullrequest",
    "id": 5,
    "title": "Tighten the bolts",
    "state": "MERGED",
    "author": {"display_name": "Ada"},
    "reviewers": [{"display_name": "Bob"}],
    "updated_on": "2026-05-31T10:00:00+00:00",
    "links": {"html": {"href": "https://bitbucket.org/acme/plant/pull-requests/5"}},
}
BITBUCKET_LISTED = {name: BITBUCKET_PULL[name] for name in ("type", "id", "title", "links")}
AZURE_PULL = {
    "pullRequestId": 22,
    "title": "Tighten the bolts",
    "status": "completed",
    "createdBy": {"displayName": "Ada", "uniqueName": "ada@acme.example"},
    "reviewers": [{"displayName": "Bob", "uniqueName": "bob@acme.example", "vote": 10}],
    "closedDate": "2026-05-30T10:00:00.123Z",
    "url": "https://dev.azure.com/acme/_apis/git/repositories/1/pullRequests/22",
}
AZURE_LISTED = {name: AZURE_PULL[name] for name in ("pullRequestId", "title", "status")}

GITHUB_PLACE = "/repos/acme/plant"
GITLAB_PLACE = "/api/v4/projects/acme%2Fparts%2Fplant"
BITBUCKET_PLACE = "/2.0/repositories/acme/plant"
AZURE_PLACE = "/acme/line%201/_apis/git/repositories/plant"
AZURE_VERSION = "?api-version=7.1"

#: For each provider: the repository, the header with the token, the answers by request line, and
#: what is told of the pull request.
PROVIDERS = {
    "GITHUB": (
        "acme/plant",
        ("Authorization", "Bearer secret-0123"),
        {
            f"GET {GITHUB_PLACE}/commits/{SHA}/pulls": [GITHUB_PULL, {"number": 43}],
            f"GET {GITHUB_PLACE}/pulls/42/reviews?per_page=100": GITHUB_REVIEWS,
        },
        {
            "id": "42",
            "title": "Tighten the bolts",
            "author": "ada",
            "reviewers": ["bob", "cyd"],
            "mergedAt": "2026-05-30T10:00:00Z",
            "url": "https://github.com/acme/plant/pull/42",
        },
    ),
    "GITLAB": (
        "acme/parts/plant",
        ("PRIVATE-TOKEN", "secret-0123"),
        {f"GET {GITLAB_PLACE}/repository/commits/{SHA}/merge_requests": [GITLAB_PULL]},
        {
            "id": "7",
            "title": "Tighten the bolts",
            "author": "ada",
            "reviewers": ["bob", "cyd"],
            "mergedAt": "2026-05-30T10:00:00.000Z",
            "url": "https://gitlab.com/acme/parts/plant/-/merge_requests/7",
        },
    ),
    "BITBUCKET": (
        "acme/plant",
        ("Authorization", "Bearer secret-0123"),
        {
            f"GET {BITBUCKET_PLACE}/commit/{SHA}/pullrequests": {"values": [BITBUCKET_LISTED]},
            f"GET {BITBUCKET_PLACE}/pullrequests/5": BITBUCKET_PULL,
        },
        {
            "id": "5",
            "title": "Tighten the bolts",
            "author": "Ada",
            "reviewers": ["Bob"],
            "mergedAt": "2026-05-31T10:00:00+00:00",
            "url": "https://bitbucket.org/acme/plant/pull-requests/5",
        },
    ),
    "AZURE_DEVOPS": (
        "acme/line 1/plant",
        ("Authorization", "Basic OnNlY3JldC0wMTIz"),
        {
            f"POST {AZURE_PLACE}/pullrequestquery{AZURE_VERSION}": {
                "results": [{}, {SHA: [AZURE_LISTED]}]
            },
            f"GET {AZURE_PLACE}/pullrequests/22{AZURE_VERSION}": AZURE_PULL,
        },
        {
            "id": "22",
            "title": "Tighten the bolts",
            "author": "ada@acme.example",
            "reviewers": ["bob@acme.example"],
            "mergedAt": "2026-05-30T10:00:00.123Z",
            "url": "{base}/acme/line%201/_git/plant/pullrequest/22",
        },
    ),
}
#: For each provider: the number of its pull request, and the answers when it is asked for by that.
NUMBERED = {
    "GITHUB": (
        42,
        {
            f"GET {GITHUB_PLACE}/pulls/42": GITHUB_PULL,
            f"GET {GITHUB_PLACE}/pulls/42/reviews?per_page=100": GITHUB_REVIEWS,
        },
    ),
    "GITLAB": (7, {f"GET {GITLAB_PLACE}/merge_requests/7": GITLAB_PULL}),
    "BITBUCKET": (5, {f"GET {BITBUCKET_PLACE}/pullrequests/5": BITBUCKET_PULL}),
    "AZURE_DEVOPS": (22, {f"GET {AZURE_PLACE}/pullrequests/22{AZURE_VERSION}": AZURE_PULL}),
}
#: For each provider: what it answers for a commit without pull requests.
NOTHING_FOUND = {
    "GITHUB": (f"GET {GITHUB_PLACE}/commits/{SHA}/pulls", []),
    "GITLAB": (f"GET {GITLAB_PLACE}/repository/commits/{SHA}/merge_requests", []),
    "BITBUCKET": (f"GET {BITBUCKET_PLACE}/commit/{SHA}/pullrequests", {"values": []}),
    "AZURE_DEVOPS": (
        f"POST {AZURE_PLACE}/pullrequestquery{AZURE_VERSION}",
        {"results": [{}, {SHA: []}]},
    ),
}


class Speaker(http.server.BaseHTTPRequestHandler):
    """Answers each request with what the server has for its line: JSON, a status, or a function."""

    def do_GET(self):
        line = f"{self.command} {self.path}"
        length = int(self.headers.get("Content-Length", 0))
        self.server.seen.append((line, dict(self.headers), self.rfile.read(length)))
        response = self.server.answers.get(line, self.server.answers.get("*", 404))
        if callable(response):
            response(self)
        elif isinstance(response, int):
            self.reply(response, b'{"message": "Words of the host"}')
        else:
            self.reply(
                200, response if isinstance(response, bytes) else json.dumps(response).encode()
            )

    do_POST = do_GET

    def reply(self, status, body, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, *_):
        pass


class SourceHost(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Speaker)
        self.answers, self.seen = {}, []
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.over = threading.Event()

    def lines(self):
        return [line for line, *_ in self.seen]


@pytest.fixture(scope="module")
def serving():
    with SourceHost() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def host(serving):
    serving.answers, serving.seen = {}, []
    serving.over.clear()
    yield serving
    serving.over.set()


@pytest.fixture
def lite(host):
    """A workspace with a flow, a trail, an organisation and tokens for four hosts, all here."""
    hosts = tuple(f"{provider}={host.url}" for provider in PROVIDERS)
    with NovantraLite(
        clock=Clock(), random=random.Random(7), scm_hosts=hosts, scm_timeout=5.0
    ) as lite:
        admin = lite.client(*novantra_lite.FACTSTORE_SCOPES)
        admin.post("/api/v1/organisations", {"slug": "acme", "name": "Acme"})
        for provider in PROVIDERS:
            integration = {"provider": provider, "token": TOKEN}
            admin.post("/api/v1/organisations/acme/scm-integrations", integration)
        yield lite


def new_trail(lite):
    """The id of a trail of the commit, whose flow requires a pull request."""
    types = ["pull-request"]
    return make_trail(lite, commit={"git_commit_sha": SHA}, required_attestation_types=types)


@pytest.fixture
def trail(lite):
    return new_trail(lite)


@pytest.fixture
def pull_request(trail):
    return f"/api/v1/trails/{trail}/attestations/pull-request"


def status_of(lite, trail):
    with lite.workspace.read():
        return Trail.find(trail).status


def attestations(lite):
    with lite.workspace.read():
        return [attestation.json() for attestation in Attestation.select()]


def audited(lite):
    with lite.workspace.read():
        return [(e.event_type, e.actor, json.loads(e.payload)) for e in AuditEvent.select()]


def asked(provider, **change):
    return {
        "provider": provider,
        "repository": PROVIDERS[provider][0],
        "commitSha": SHA,
        "orgSlug": "acme",
        **change,
    }


# What is found


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_pull_request_of_a_commit_is_looked_up_and_attested(
    lite, factstore, host, trail, pull_request, provider
):
    repository, (header, value), host.answers, expected = PROVIDERS[provider]
    expected = expected | {"url": expected["url"].format(base=host.url)}

    answer = factstore.post(pull_request, asked(provider))

    record = answer.json
    assert (answer.status, json.loads(record["details"])) == (201, expected)
    assert record["type"] == "pull-request"
    assert (record["name"], record["status"], record["compliant"]) == (provider, "PASSED", True)
    assert (record["trailId"], record["orgSlug"]) == (trail, "acme")
    assert host.lines() == list(host.answers)
    for _, headers, _ in host.seen:
        assert headers[header] == value
        assert headers["Host"] == host.url.removeprefix("http://")
        assert headers["User-Agent"] == "Novantra-Lite/1"
    assert attestations(lite) == [record]
    assert status_of(lite, trail) == "COMPLIANT"
    payload = {
        "attestationId": record["id"],
        "trailId": trail,
        "type": "pull-request",
        "status": "PASSED",
        "provider": provider,
        "repository": repository,
        "commitSha": SHA,
    }
    assert audited(lite) == [("ATTESTATION_RECORDED", "system", payload)]
    assert ("attestation.recorded", record["id"]) in [entry[1:3] for entry in audit(lite)]
    assert ("ATTESTATION_RECORDED", record["id"]) in ledger(lite)
    assert events(lite)[-1] == ("factstore.attestation.recorded", {"attestation": record})


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_pull_request_is_looked_up_by_its_number(factstore, host, pull_request, provider):
    number, host.answers = NUMBERED[provider]
    repository, _, _, expected = PROVIDERS[provider]
    owner, _, name = repository.rpartition("/")

    answer = factstore.post(
        pull_request,
        {
            "provider": provider.lower(),
            "organisationSlug": "acme",
            "repositoryOwner": owner,
            "repositoryName": name,
            "prNumber": number,
        },
    )

    expected = expected | {"url": expected["url"].format(base=host.url)}
    assert (answer.status, json.loads(answer.json["details"])) == (201, expected)
    assert host.lines() == list(host.answers)


def test_each_host_is_asked_in_the_words_of_its_own_api(factstore, host, pull_request):
    host.answers = {**PROVIDERS["GITHUB"][2], **PROVIDERS["AZURE_DEVOPS"][2]}

    factstore.post(pull_request, asked("GITHUB"))
    factstore.post(pull_request, asked("AZURE_DEVOPS"))

    github, _, azure, _ = host.seen
    assert github[1]["Accept"] == "application/vnd.github+json"
    assert github[1]["X-GitHub-Api-Version"] == "2022-11-28"
    assert azure[1]["Content-Type"] == "application/json"
    assert json.loads(azure[2]) == {
        "queries": [{"type": "lastMergeCommit", "items": [SHA]}, {"type": "commit", "items": [SHA]}]
    }


def test_the_second_version_attests_the_same_way(lite, factstore, host, trail):
    host.answers = PROVIDERS["GITLAB"][2]

    answer = factstore.post(
        f"/api/v2/trails/{trail}/attestations/pull-request", asked("GITLAB", prNumber=None)
    )

    assert (answer.status, answer.json["status"]) == (201, "PASSED")
    assert attestations(lite) == [answer.json]


@pytest.mark.parametrize(
    ("provider", "change"),
    [
        ("GITHUB", {"merged_at": None}),
        ("GITLAB", {"merged_at": None}),
        ("BITBUCKET", {"state": "DECLINED", "closed_on": "2026-05-30T10:00:00+00:00"}),
        ("AZURE_DEVOPS", {"status": "abandoned"}),
    ],
)
def test_a_pull_request_that_was_not_merged_says_so(
    factstore, host, pull_request, provider, change
):
    number, answers = NUMBERED[provider]
    host.answers = {
        line: result | change if isinstance(result, dict) else result
        for line, result in answers.items()
    }

    answer = factstore.post(pull_request, asked(provider, prNumber=number))

    assert (answer.status, json.loads(answer.json["details"])["mergedAt"]) == (201, None)


def test_bitbucket_tells_when_it_closed_a_pull_request(factstore, host, pull_request):
    closed = BITBUCKET_PULL | {"closed_on": "2026-05-30T10:00:00+00:00"}
    host.answers = {f"GET {BITBUCKET_PLACE}/pullrequests/5": closed}

    answer = factstore.post(pull_request, asked("BITBUCKET", prNumber=5))

    assert json.loads(answer.json["details"])["mergedAt"] == "2026-05-30T10:00:00+00:00"


@pytest.mark.parametrize("provider", ["BITBUCKET", "AZURE_DEVOPS"])
def test_the_entry_of_the_list_counts_where_the_pull_request_itself_is_not_shown(
    factstore, host, pull_request, provider
):
    line, result = next(iter(PROVIDERS[provider][2].items()))
    host.answers = {line: result}

    answer = factstore.post(pull_request, asked(provider))

    details = json.loads(answer.json["details"])
    assert (answer.status, details["title"]) == (201, "Tighten the bolts")
    assert (details["author"], details["reviewers"], details["mergedAt"]) == (None, [], None)


@pytest.mark.parametrize(
    ("provider", "repository", "commit", "line"),
    [
        ("GITHUB", "a?b/c#d", "../x", "/repos/a%3Fb/c%23d/commits/..%2Fx/pulls"),
        ("GITHUB", "ü/%2e%2e", "a b", "/repos/%C3%BC/%252e%252e/commits/a%20b/pulls"),
        ("GITHUB", "a\r\nX: y/b", "s", "/repos/a%0D%0AX%3A%20y/b/commits/s/pulls"),
        (
            "GITLAB",
            "a?/b/c",
            "s",
            "/api/v4/projects/a%3F%2Fb%2Fc/repository/commits/s/merge_requests",
        ),
        ("BITBUCKET", "a;b/c&d", "s", "/2.0/repositories/a%3Bb/c%26d/commit/s/pullrequests"),
    ],
)
def test_no_name_leads_to_another_path(
    factstore, host, pull_request, provider, repository, commit, line
):
    factstore.post(pull_request, asked(provider, repository=repository, commitSha=commit))

    assert host.lines() == [f"GET {line}"]


# What is not found


@pytest.mark.parametrize("answer", ["404", "an empty list"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_commit_without_a_pull_request_fails_its_trail(
    lite, factstore, host, trail, pull_request, provider, answer
):
    line, empty = NOTHING_FOUND[provider]
    host.answers = {line: 404 if answer == "404" else empty}

    answer = factstore.post(pull_request, asked(provider))

    repository = PROVIDERS[provider][0]
    assert (answer.status, answer.json["status"], answer.json["compliant"]) == (
        201,
        "FAILED",
        False,
    )
    assert (answer.json["type"], answer.json["name"]) == ("pull-request", provider)
    assert json.loads(answer.json["details"]) == {
        "message": f"There is no pull request for {SHA} in {repository} at {provider}.",
        "provider": provider,
        "repository": repository,
        "commitSha": SHA,
    }
    assert host.lines() == [line]
    assert status_of(lite, trail) == "NON_COMPLIANT"
    assert audited(lite)[0][2]["status"] == "FAILED"
    assert [name for name, _ in events(lite)] == [
        "factstore.trail.settled",
        "factstore.attestation.recorded",
    ]


def test_a_commit_that_github_does_not_know_has_no_pull_request(factstore, host, pull_request):
    host.answers = {"*": 422}

    answer = factstore.post(pull_request, asked("GITHUB"))

    assert (answer.status, answer.json["status"]) == (201, "FAILED")


def test_a_number_that_is_not_there_fails_the_trail_too(factstore, host, pull_request):
    answer = factstore.post(pull_request, asked("GITHUB", prNumber=8, commitSha=None))

    assert (answer.status, answer.json["status"]) == (201, "FAILED")
    assert json.loads(answer.json["details"]) == {
        "message": "There is no pull request 8 in acme/plant at GITHUB.",
        "provider": "GITHUB",
        "repository": "acme/plant",
        "commitSha": None,
    }


def test_nothing_is_stored_where_a_missing_pull_request_is_to_be_refused(
    lite, factstore, host, pull_request
):
    before = tables(lite)

    refused = factstore.post(pull_request, asked("GITHUB", assertOnMissing=True))

    assert (refused.status, refused.json["error"]) == (422, "Unprocessable Entity")
    assert refused.json["message"] == f"There is no pull request for {SHA} in acme/plant at GITHUB."
    assert tables(lite) == before


def test_a_found_pull_request_passes_where_a_missing_one_is_to_be_refused(
    factstore, host, pull_request
):
    host.answers = PROVIDERS["GITHUB"][2]

    answer = factstore.post(pull_request, asked("GITHUB", assertOnMissing=True))

    assert (answer.status, answer.json["status"]) == (201, "PASSED")


# Refusals


def test_the_trail_the_organisation_and_the_token_are_missed_in_this_order(
    factstore, host, pull_request
):
    factstore.delete("/api/v1/organisations/acme/scm-integrations/GITHUB")
    result = asked("GITHUB", repository="nonsense")

    refusals = [
        factstore.post(NOWHERE, result | {"orgSlug": None}),
        factstore.post(pull_request, result | {"orgSlug": None}),
        factstore.post(pull_request, result | {"orgSlug": "other"}),
        factstore.post(pull_request, result),
    ]

    assert [(refusal.status, refusal.json["message"]) for refusal in refusals] == [
        (404, "There is no trail with the id 00000000-0000-4000-8000-000000000000."),
        (404, "No organisation is known for the look-up; name one in orgSlug."),
        (404, "There is no organisation 'other'."),
        (404, "Organisation 'acme' has no token for GITHUB."),
    ]
    assert host.seen == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"provider": None}, "provider: Required"),
        ({"provider": "SVN"}, "provider: Expected one of: GITHUB"),
        ({"repository": None}, "repository: Expected owner/name"),
        ({"repository": ""}, "repository: Expected owner/name"),
        ({"repository": "plant"}, "repository: Expected owner/name"),
        ({"repository": "acme/parts/plant"}, "repository: Expected owner/name"),
        ({"repository": "acme/"}, "repository: Expected owner/name"),
        ({"repository": "../plant"}, "repository: Expected owner/name"),
        ({"repository": "acme/."}, "repository: Expected owner/name"),
        ({"repository": None, "repositoryName": "plant"}, "repository: Expected owner/name"),
        ({"repository": ["acme/plant"]}, "repository: Expected string"),
        ({"provider": "GITLAB", "repository": "a/../b"}, "repository: Expected owner/name"),
        ({"provider": "AZURE_DEVOPS"}, "repository: Expected organisation/project/repository"),
        ({"commitSha": None}, "commitSha: Required, unless prNumber is given"),
        ({"commitSha": ""}, "commitSha: Required, unless prNumber is given"),
        ({"commitSha": ".."}, "commitSha: Expected the hash of a commit"),
        ({"commitSha": "x" * 256}, "commitSha: Expected at most 255 characters"),
        ({"prNumber": 0}, "prNumber: Expected a number from 1 to"),
        ({"prNumber": "7/../8"}, "prNumber: Expected integer"),
        ({"assertOnMissing": "maybe"}, "assertOnMissing: Expected boolean"),
    ],
)
def test_a_faulty_request_is_refused_before_any_host_is_asked(
    lite, factstore, host, pull_request, change, message
):
    refused = factstore.post(pull_request, asked("GITHUB") | change)

    assert refused.status == 400
    assert message in refused.json["message"]
    assert (host.seen, attestations(lite)) == ([], [])


@pytest.mark.parametrize(
    ("provider", "status"),
    [
        *((provider, status) for provider in PROVIDERS for status in (401, 403)),
        ("AZURE_DEVOPS", 203),
        ("AZURE_DEVOPS", 302),
    ],
)
def test_a_host_that_refuses_the_token_is_told_of_as_such(
    lite, factstore, host, pull_request, provider, status
):
    host.answers = {"*": status}
    before = tables(lite)

    refused = factstore.post(pull_request, asked(provider))

    message = refused.json["message"]
    assert refused.status == 422
    assert "refused the organisation's token" in message
    assert "Words of the host" not in message
    assert TOKEN not in message
    assert tables(lite) == before
    assert len(host.seen) == 1


def too_often(speaker):
    speaker.reply(403, b"{}", **{"Retry-After": "60"})


def elsewhere(speaker):
    speaker.reply(301, b"", Location=f"{speaker.server.url}/elsewhere")


def huge(speaker):
    speaker.reply(200, b'["' + b"x" * 5_000_000 + b'"]')


def huge_promise(speaker):
    speaker.send_response(200)
    speaker.send_header("Content-Length", str(10**12))
    speaker.end_headers()
    speaker.wfile.write(b"[")


def endless(speaker):
    speaker.send_response(200)
    speaker.end_headers()
    with contextlib.suppress(OSError):
        while not speaker.server.over.is_set():
            speaker.wfile.write(b" " * 65_536)


def cut_off(speaker):
    speaker.send_response(200)
    speaker.send_header("Content-Length", "100")
    speaker.end_headers()
    speaker.wfile.write(b"[]")


USELESS = {
    "500": (500, "Answered with status 500."),
    "503": (503, "Answered with status 503."),
    "429": (429, "Answered with status 429."),
    "202": (202, "Answered with status 202."),
    "403 and a time to wait": (too_often, "Answered with status 403."),
    "a redirect": (elsewhere, "Answered with status 301; redirects are not followed."),
    "not JSON": (b"<html>Words of the host</html>", "cannot be parsed"),
    "not UTF-8": (b'["\xff"]', "cannot be parsed"),
    "nothing": (b"", "cannot be parsed"),
    "null": (b"null", "cannot be parsed"),
    "a string": (b'"Words of the host"', "cannot be parsed"),
    "too many digits": (b"[" + b"9" * 5000 + b"]", "cannot be parsed"),
    "too deep": (b"[" * 100_000, "cannot be parsed"),
    "a huge body": (huge, "too long"),
    "the promise of a huge body": (huge_promise, "cannot be parsed"),
    "an endless body": (endless, "too long"),
    "a body that breaks off": (cut_off, "cannot be parsed"),
}


@pytest.mark.parametrize("useless", USELESS)
def test_a_useless_answer_is_a_bad_gateway_and_stores_nothing(
    lite, factstore, host, pull_request, useless, caplog
):
    host.answers["*"], note = USELESS[useless]
    before = tables(lite)

    answer = factstore.post(pull_request, asked("GITHUB", assertOnMissing=True))

    message = answer.json["message"]
    assert (answer.status, answer.json["error"]) == (502, "Bad Gateway")
    assert message.startswith("GitHub gave ")
    assert note in message
    assert "Words of the host" not in message + caplog.text
    assert TOKEN not in message + caplog.text
    assert tables(lite) == before
    assert len(host.seen) == 1


WRONG = [
    ("GITHUB", {}),
    ("GITHUB", [1]),
    ("GITHUB", [{"number": "42", "title": "x"}]),
    ("GITHUB", [{"number": True, "title": "x"}]),
    ("GITHUB", [{"number": 42, "title": None}]),
    ("GITHUB", [[]]),
    ("GITLAB", {"iid": 7}),
    ("GITLAB", [{"title": "x"}]),
    ("BITBUCKET", {}),
    ("BITBUCKET", {"values": {}}),
    ("BITBUCKET", []),
    ("BITBUCKET", [1]),
    ("BITBUCKET", {"values": [{"id": "../../x", "title": "x"}]}),
    ("AZURE_DEVOPS", {}),
    ("AZURE_DEVOPS", []),
    ("AZURE_DEVOPS", {"results": {}}),
    ("AZURE_DEVOPS", {"results": [1]}),
    ("AZURE_DEVOPS", {"results": [{SHA: 1}]}),
    ("AZURE_DEVOPS", {"results": [{SHA: [{"pullRequestId": "x"}]}]}),
]


@pytest.mark.parametrize(("provider", "wrong"), WRONG)
def test_json_of_another_shape_is_a_bad_gateway(
    lite, factstore, host, pull_request, provider, wrong
):
    host.answers = {"*": wrong}

    answer = factstore.post(pull_request, asked(provider))

    assert (answer.status, attestations(lite)) == (502, [])
    assert "cannot be parsed" in answer.json["message"]


def test_odd_people_and_dates_are_left_out(factstore, host, pull_request):
    odd = {"number": 1, "title": "x", "user": 5, "requested_reviewers": {"login": 1}}
    host.answers = {"*": [], f"GET {GITHUB_PLACE}/pulls/1": odd | {"merged_at": 7, "html_url": []}}

    answer = factstore.post(pull_request, asked("GITHUB", prNumber=1))

    assert json.loads(answer.json["details"]) == {
        "id": "1",
        "title": "x",
        "author": None,
        "reviewers": [],
        "mergedAt": None,
        "url": None,
    }


def test_reviews_of_another_shape_are_a_bad_gateway(factstore, host, pull_request):
    host.answers = {"*": {"a": 1}, f"GET {GITHUB_PLACE}/pulls/42": GITHUB_PULL}

    answer = factstore.post(pull_request, asked("GITHUB", prNumber=42))

    assert answer.status == 502


# The network


def small(url, **settings):
    """An instance whose GitHub is elsewhere, its client, and the path of its trail."""
    lite = NovantraLite(clock=Clock(), scm_hosts=(f"GITHUB={url}",), **settings)
    client = lite.client(*novantra_lite.FACTSTORE_SCOPES)
    client.post("/api/v1/organisations", {"slug": "acme", "name": "Acme"})
    integration = {"provider": "GITHUB", "token": TOKEN}
    client.post("/api/v1/organisations/acme/scm-integrations", integration)
    return lite, client, f"/api/v1/trails/{new_trail(lite)}/attestations/pull-request"


def test_a_slow_host_is_waited_for_only_as_long_as_is_set(host):
    host.answers = {"*": lambda speaker: host.over.wait(20)}
    lite, client, path = small(host.url, scm_timeout=0.2)

    with lite:
        started = time.monotonic()
        answer = client.post(path, asked("GITHUB"))
        taken = time.monotonic() - started

    assert (answer.status, answer.json["message"]) == (
        502,
        "GitHub gave no usable response. No complete answer came in time.",
    )
    assert taken < 5


def test_other_writes_go_on_while_a_host_is_waited_for(host):
    arrived = threading.Event()

    def wait(speaker):
        arrived.set()
        host.over.wait(20)
        speaker.reply(404, b"")

    host.answers = {"*": wait}
    lite, client, path = small(host.url, scm_timeout=20.0)

    with lite:
        answers = []
        thread = threading.Thread(
            target=lambda: answers.append(client.post(path, asked("GITHUB")).status)
        )
        thread.start()
        arrived.wait(10)
        other = client.post("/api/v1/organisations", {"slug": "other", "name": "Other"})
        waiting = list(answers)
        host.over.set()
        thread.join(10)

    assert (other.status, waiting, answers) == (201, [], [201])


def test_a_host_that_is_down_is_a_bad_gateway():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as gone:
        port = gone.getsockname()[1]
    lite, client, path = small(f"http://127.0.0.1:{port}")

    with lite:
        answer = client.post(path, asked("GITHUB"))

    assert (answer.status, answer.json["message"]) == (
        502,
        "GitHub gave no usable response. The host refused the connection.",
    )


def test_a_base_url_may_have_a_path_of_its_own(host):
    lite, client, path = small(f"{host.url}/api/v3/")

    with lite:
        client.post(path, asked("GITHUB"))

    assert host.lines() == [f"GET /api/v3/repos/acme/plant/commits/{SHA}/pulls"]


@pytest.mark.parametrize("address", ["169.254.169.254", "[fe80::1]", "0.0.0.0", "224.0.0.1"])
def test_no_setting_leads_to_where_clouds_keep_their_credentials(address):
    lite, client, path = small(f"http://{address}", scm_timeout=5.0)

    with lite:
        answer = client.post(path, asked("GITHUB"))

    assert answer.status == 502
    assert "has an address that is not public" in answer.json["message"]


def to_loopback(host, port, **options):
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


def test_a_host_that_the_operator_did_not_name_is_not_reached_in_a_private_network(host):
    settings = novantra_lite.Settings.read({}, scm_hosts=(f"GITLAB={host.url}",))
    named = novantra_lite.source_transport(settings, "GITLAB")
    unnamed = novantra_lite.source_transport(settings, "GITHUB")
    hidden = Transport(unnamed.allowed, 5, to_loopback, remedy=unnamed.remedy)

    allowed = named.get(f"{host.url}/", {})
    refused = unnamed.get(f"{host.url}/", {"Authorization": TOKEN})
    pretended = hidden.get(f"http://api.github.example:{host.server_port}/", {})

    assert allowed.status == 404
    assert (refused.status, pretended.status) == (0, 0)
    assert refused.note == (
        "The host 127.0.0.1 has an address that is not public; "
        "the setting scm_hosts permits private networks to hosts that it names."
    )
    assert len(host.seen) == 1


# Repeats and rehearsals


def test_a_repeat_gets_the_first_answer_and_asks_no_host(factstore, host, lite, pull_request):
    host.answers = PROVIDERS["GITHUB"][2]
    headers = {"Idempotency-Key": "one"}

    first = factstore.post(pull_request, asked("GITHUB"), headers=headers)
    host.answers, host.seen = {"*": 500}, []
    again = factstore.post(pull_request, asked("GITHUB"), headers=headers)
    other = factstore.post(pull_request, asked("GITHUB", commitSha="x"), headers=headers)

    assert (first.status, again.status, again.body) == (201, 201, first.body)
    assert again.headers["idempotency-replayed"] == "true"
    assert other.status == 409
    assert host.seen == []
    assert len(attestations(lite)) == 1


def test_a_bad_gateway_is_no_final_answer_and_a_missing_pull_request_is(
    factstore, host, pull_request
):
    body, headers = asked("GITHUB", assertOnMissing=True), {"Idempotency-Key": "one"}

    host.answers = {"*": 500}
    broken = factstore.post(pull_request, body, headers=headers)
    host.answers = {}
    missing = factstore.post(pull_request, body, headers=headers)
    host.answers = PROVIDERS["GITHUB"][2]
    again = factstore.post(pull_request, body, headers=headers)

    assert [broken.status, missing.status, again.status] == [502, 422, 422]
    assert again.headers["idempotency-replayed"] == "true"


def test_a_key_out_of_its_window_asks_the_host_anew(lite, factstore, host, pull_request):
    headers = {"Idempotency-Key": "one"}

    first = factstore.post(pull_request, asked("GITHUB"), headers=headers)
    lite.source.clock.advance(86_401)
    client = lite.client(*novantra_lite.FACTSTORE_SCOPES)
    host.answers = PROVIDERS["GITHUB"][2]
    again = client.post(pull_request, asked("GITHUB"), headers=headers)
    repeat = client.post(pull_request, asked("GITHUB"), headers=headers)

    assert [first.json["status"], again.json["status"]] == ["FAILED", "PASSED"]
    assert repeat.body == again.body


def test_a_dry_run_asks_the_host_and_stores_nothing(lite, factstore, host, pull_request):
    host.answers = PROVIDERS["GITHUB"][2]
    before = tables(lite)

    answer = factstore.post(pull_request, asked("GITHUB"), headers={"X-Dry-Run": "true"})

    assert (answer.status, answer.json["dryRun"]) == (200, True)
    assert answer.json["wouldCreate"]["status"] == "PASSED"
    assert len(host.seen) == 2
    assert tables(lite) == before


def test_the_document_says_that_a_host_may_fail():
    document = novantra_lite.openapi_document()

    for version in ("v1", "v2"):
        path = f"/api/{version}/trails/{{trailId}}/attestations/pull-request"
        refusal = document["paths"][path]["post"]["responses"]["502"]
        assert refusal == {"$ref": "#/components/responses/Factstore502"}
    assert document["components"]["responses"]["Factstore502"]["description"] == "Bad Gateway"
    assert "Novantra502" not in document["components"]["responses"]
