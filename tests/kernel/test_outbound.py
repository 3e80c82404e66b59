"""Outbound requests and webhook signatures: real sockets, real TLS, and addresses handed in."""

import base64
import contextlib
import datetime
import ipaddress
import json
import socket
import ssl
import threading
import time
import types

import pytest
import standardwebhooks
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from novantra_lite import (
    BoundedSocket,
    HttpResponse,
    Invalid,
    Transport,
    WebhookError,
    check_target,
    new_webhook_secret,
    public_addresses,
    verify_webhook,
    webhook_headers,
)

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
OTHER = "whsec_" + base64.b64encode(b"o" * 32).decode()
BODY = b'{"id":"evt_1","type":"finding.created"}'
AT = 1_700_000_000
LATE = HttpResponse(0, None, "No complete answer came in time.")


def resolver(*answers):
    """Stands in for DNS: each look-up gets the next answer, the last one ever after."""
    waiting = list(answers)

    def resolve(host, port, **options):
        resolve.calls += 1
        addresses = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in addresses
        ]

    resolve.calls = 0
    return resolve


def unknown(host, port, **options):
    raise socket.gaierror(socket.EAI_NONAME, "unknown")


@contextlib.contextmanager
def peer(answer=OK, *, wrap=None):
    """A real server, one connection at a time: `answer` is bytes, or a function of it."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()
    server = types.SimpleNamespace(requests=[], port=listener.getsockname()[1])

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                if wrap:
                    connection = wrap.wrap_socket(connection, server_side=True)
                with connection:
                    if answer is not read_slowly:
                        server.requests.append(read_request(connection))
                    if callable(answer):
                        answer(connection, over)
                    else:
                        connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def read_request(connection):
    """The head (as lines) and the body of a request."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += receive(connection)
    head, body = data.split(b"\r\n\r\n", 1)
    lines = head.decode().split("\r\n")
    length = next(int(line[15:]) for line in lines if line.lower().startswith("content-length:"))
    while len(body) < length:
        body += receive(connection)
    return lines, body


def receive(connection):
    data = connection.recv(65_536)
    if not data:
        raise ConnectionError
    return data


def send(answer, *, timeout=5.0, body=BODY):
    with peer(answer) as server:
        transport = Transport(LOOPBACK, timeout, clock=lambda: AT)
        return transport.post(f"http://127.0.0.1:{server.port}/hook?key=hidden", body, {})


# Targets


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("ftp://hooks.example/", "must start with https:// or http://"),
        ("hooks.example/path", "must start with https:// or http://"),
        ("", "must start with https:// or http://"),
        ("https://user:word@hooks.example/", "user name or password"),
        ("https://@hooks.example/", "user name or password"),
        ("https:///path", "must name a host"),
        ("https://:443/", "must name a host"),
        ("https://hooks.example:99999/", "port from 1 to 65535"),
        ("https://hooks.example:0/", "port from 1 to 65535"),
        ("https://[::1/", "must name a host"),
        ("https://hooks.example/a b", "ASCII without spaces"),
        ("https://hooks.example/\r\nX: 1", "ASCII without spaces"),
        ("https://h\N{LATIN SMALL LETTER U WITH DIAERESIS}ks.example/", "ASCII without spaces"),
        ("https://hooks..example/", "not a valid name"),
    ],
)
def test_a_url_that_cannot_be_sent_to_is_refused_in_a_sentence(url, sentence):
    with pytest.raises(Invalid, match=sentence) as refusal:
        check_target(url)

    assert str(refusal.value).endswith(".")


def test_https_alone_can_be_asked_for():
    resolve = resolver(["8.8.8.8"])

    check_target("HTTPS://hooks.example/", https_only=True, resolve=resolve)

    with pytest.raises(Invalid, match="https://"):
        check_target("http://hooks.example/", https_only=True, resolve=resolve)


def test_a_name_that_does_not_resolve_yet_may_be_registered():
    assert check_target("https://hooks.example/", resolve=unknown) is None


SPECIAL_ADDRESSES = """
    0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 127.0.0.1 127.255.255.254
    169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.100 192.0.0.170 192.0.2.1
    192.88.99.1 192.168.0.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1
    224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255
    :: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:100.64.0.1 ::ffff:169.254.169.254
    ::ffff:224.0.0.1 ::ffff:0:127.0.0.1
    64:ff9b::127.0.0.1 64:ff9b::10.0.0.1 64:ff9b::169.254.169.254 64:ff9b::100.64.0.1
    64:ff9b::224.0.0.1 64:ff9b:1::1 64:ff9b:1::127.0.0.1 64:ff9b:1:ffff::8.8.8.8
    2002:7f00:1:: 2002:a00:1::1 2002:a9fe:a9fe:: 2002:6440:1:: 2002:c0a8:1::1
    2001::1 2001:0:7f00:1::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:db8::1 3fff::1 100::1
    5f00::1 fc00::1 fd12:3456::1 fe80::1 fe80::1%eth0 fec0::1 ff02::1 ff0e::1
"""
PUBLIC_ADDRESSES = """
    8.8.8.8 1.1.1.1 100.63.255.255 100.128.0.1 172.32.0.1 192.0.1.1
    2606:4700:4700::1111 ::ffff:8.8.8.8 64:ff9b::8.8.8.8 2002:808:808::1
"""


def is_refused(*addresses, allowed=()):
    try:
        check_target("https://hooks.example/", allowed, resolve=resolver(list(addresses)))
    except Invalid as refusal:
        return str(refusal) == (
            "The host hooks.example has an address that is not public; "
            "list its network in webhook_private_targets to permit it."
        )
    return False


def test_special_addresses_are_refused_in_every_form_and_public_ones_are_not():
    refused = [
        address for address in (SPECIAL_ADDRESSES + PUBLIC_ADDRESSES).split() if is_refused(address)
    ]

    assert refused == SPECIAL_ADDRESSES.split()


def test_a_public_host_is_its_addresses_with_the_port():
    matches = public_addresses(
        "hooks.example", 443, (), resolver(["8.8.8.8", "8.8.8.8", "1.1.1.1"])
    )

    assert matches == [("8.8.8.8", 443), ("1.1.1.1", 443)]


@pytest.mark.parametrize("header", ["Authorization", "PRIVATE-TOKEN", "X-Vault-Request"])
@pytest.mark.parametrize("allowed", [(), LOOPBACK])
def test_credentials_leave_without_tls_for_allowed_networks_only(header, allowed):
    transport = Transport(allowed, resolve=resolver(["93.184.216.34"]))

    answer = transport.get("http://jira.example/", {header: "secret"})

    assert answer == HttpResponse(
        0, None, "Credentials are not sent without TLS: the URL must be https."
    )


def test_one_private_address_among_public_ones_refuses_the_host():
    assert is_refused("8.8.8.8", "10.0.0.1")


@pytest.mark.parametrize(
    ("network", "address", "refused"),
    [
        *(("10.0.0.0/8", address, False) for address in ("10.1.2.3", "::ffff:10.1.2.3", "8.8.8.8")),
        *(("10.0.0.0/8", address, True) for address in ("192.168.0.1", "127.0.0.1", "fd00::1")),
        ("fd00::/8", "fd00::1", False),
        ("fd00::/8", "fc00::1", True),
        ("64:ff9b::/96", "64:ff9b::10.0.0.1", False),
    ],
)
def test_an_allowed_network_permits_its_addresses_and_no_others(network, address, refused):
    assert is_refused(address, allowed=[ipaddress.ip_network(network)]) == refused


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "[::1]", "0177.0.0.1"])
def test_another_spelling_of_loopback_is_refused(host):
    with pytest.raises(Invalid, match="not public"):
        check_target(f"http://{host}/")


# Requests


def test_a_request_arrives_whole_and_is_answered_with_the_status():
    with peer(b"HTTP/1.1 204 No Content\r\n\r\n") as server:
        url = f"http://hooks.example:{server.port}/a/b?c=d#e"
        transport = Transport(LOOPBACK, resolve=resolver(["127.0.0.1"]))

        answer = transport.post(url, BODY, {"webhook-id": "evt_1"})

    head, body = server.requests[0]
    assert answer == HttpResponse(204, None, "Answered with status 204.", b"")
    assert head[0] == "POST /a/b?c=d HTTP/1.1"
    assert sorted(line for line in head[1:] if not line.startswith("Accept")) == [
        "Connection: close",
        "Content-Length: 39",
        "Content-Type: application/json",
        f"Host: hooks.example:{server.port}",
        "User-Agent: Novantra-Webhooks/1.0",
        "webhook-id: evt_1",
    ]
    assert body == BODY


def test_an_ipv6_host_is_named_in_brackets():
    with peer() as server:
        transport = Transport(LOOPBACK, 5, resolver(["127.0.0.1"]))
        answer = transport.post(f"http://[2606::1]:{server.port}?a=b", BODY, {})

    head, _ = server.requests[0]
    assert (answer.status, head[0]) == (200, "POST /?a=b HTTP/1.1")
    assert f"Host: [2606::1]:{server.port}" in head


def test_a_name_is_looked_up_once_and_its_first_answer_is_the_one_that_counts():
    resolve = resolver(["127.0.0.1"], ["10.0.0.1"])

    with peer() as server:
        transport = Transport(LOOPBACK, resolve=resolve)
        answer = transport.post(f"http://rebind.example:{server.port}/", BODY, {})

    assert (answer.status, resolve.calls) == (200, 1)


def test_a_name_that_turns_private_after_it_was_checked_is_not_connected_to():
    resolve = resolver(["8.8.8.8"], ["127.0.0.1"])

    with peer() as server:
        url = f"http://rebind.example:{server.port}/"
        check_target(url, resolve=resolve)
        answer = Transport(resolve=resolve).post(url, BODY, {})

    assert answer.status == 0
    assert "not public" in answer.note
    assert server.requests == []


@pytest.mark.parametrize("order", [["127.0.0.2", "127.0.0.1"], ["127.0.0.1", "127.0.0.2"]])
def test_the_next_address_is_tried_when_one_refuses(order):
    with peer() as server:
        transport = Transport(LOOPBACK, resolve=resolver(order))

        answer = transport.post(f"http://hooks.example:{server.port}/", BODY, {})

    assert answer.status == 200


def test_a_redirect_is_its_status_and_is_not_followed():
    with peer() as aim:
        location = f"Location: http://127.0.0.1:{aim.port}/\r\n".encode()

        answer = send(b"HTTP/1.1 302 Found\r\n" + location + b"Content-Length: 0\r\n\r\n")

    assert answer == HttpResponse(
        302, None, "Answered with status 302; redirects are not followed.", b""
    )
    assert aim.requests == []


@pytest.fixture
def elsewhere(monkeypatch):
    """A machine whose clock shows another zone than GMT."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "EST5")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"120", 120),
        (b" 7 ", 7),
        (b"0", 0),
        (b"Tue, 14 Nov 2023 22:14:20 GMT", 60),
        (b"Tue, 14 Nov 2023 22:13:00 GMT", 0),
        (b"Tuesday, 14-Nov-23 22:14:20 GMT", 60),
        (b"Tue Nov 14 22:14:20 2023", 60),
        (b"-5", None),
        (b"1.5", None),
        (b"soon", None),
        (b"9" * 5000, None),
        (b"Tue, 99 Nov 2023 99:99:99 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(value, seconds, elsewhere):
    answer = send(b"HTTP/1.1 503 Busy\r\nRetry-After: " + value + b"\r\nContent-Length: 0\r\n\r\n")

    assert answer == HttpResponse(503, seconds, "Answered with status 503.", b"")


def drip_head(connection, over):
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while not over.wait(0.02):
        connection.sendall(b"X")


def drip_body(connection, over):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")
    while not over.wait(0.02):
        connection.sendall(b"X")


def never_answer(connection, over):
    over.wait(10)


def read_slowly(connection, over):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    while connection.recv(65_536):
        over.wait(0.01)


@pytest.mark.parametrize(
    ("behaviour", "body"),
    [(drip_head, BODY), (never_answer, BODY), (read_slowly, b" " * 50_000_000)],
)
def test_a_peer_holds_an_attempt_only_for_its_time(behaviour, body):
    answer = send(behaviour, timeout=0.3, body=body)

    assert answer == LATE


def test_a_slow_look_up_holds_an_attempt_only_for_its_time():
    over = threading.Event()
    transport = Transport(timeout=0.1, resolve=lambda *_, **__: over.wait(10))

    answer = transport.post("https://hooks.example/", BODY, {})

    over.set()
    assert answer == LATE


def test_a_status_counts_even_when_the_body_after_it_never_ends():
    assert send(drip_body, timeout=0.3).status == 200


def flood_body(connection, over):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
    flood(connection, over)


def flood_head(connection, over):
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    flood(connection, over)


def flood_continues(connection, over):
    flood(connection, over, b"HTTP/1.1 100 Continue\r\n\r\n")


def flood(connection, over, line=b"X-Filler: 1234567890\r\n"):
    while not over.is_set():
        connection.sendall(line * 1000)


@pytest.mark.parametrize(
    ("behaviour", "answer"),
    [
        (flood_body, HttpResponse(200, None, "Answered with status 200.")),
        (flood_head, HttpResponse(0, None, "The answer was not valid HTTP.")),
        (flood_continues, HttpResponse(0, None, "The answer was not valid HTTP.")),
    ],
)
def test_an_endless_answer_is_not_read_to_its_end(behaviour, answer):
    assert send(behaviour, timeout=30) == answer


def test_no_more_of_an_answer_is_read_than_65_536_bytes():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        thread = threading.Thread(target=theirs.sendall, args=(b"X" * 100_000,))
        thread.start()
        with BoundedSocket(ours, time.monotonic() + 10).makefile("rb") as stream:
            read = stream.read()
        ours.recv(100_000)
        thread.join()

    assert len(read) == 65_536


@pytest.mark.parametrize(
    ("sent", "note"),
    [
        (b"", "The connection failed, or broke off before an answer."),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "The answer was not valid HTTP."),
        (b"HTTP/9.9 what\r\n\r\n", "The answer was not valid HTTP."),
    ],
)
def test_an_answer_that_is_none_is_told_in_a_sentence(sent, note):
    assert send(sent) == HttpResponse(0, None, note)


def test_trouble_never_tells_the_query_of_the_url():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as gone:
        port = gone.getsockname()[1]

    refused = Transport(LOOPBACK).post(f"http://127.0.0.1:{port}/?key=hidden", BODY, {})
    private = Transport().post("http://127.0.0.1/?key=hidden", BODY, {})
    broken = Transport().post("gopher://127.0.0.1/?key=hidden", BODY, {})

    assert refused == HttpResponse(0, None, "The host refused the connection.")
    assert [private.status, broken.status] == [0, 0]
    assert "hidden" not in private.note + broken.note


@pytest.mark.parametrize("resolve", [unknown, resolver([])])
def test_a_name_without_addresses_is_told_as_such(resolve):
    answer = Transport(resolve=resolve).post("https://hooks.example/", BODY, {})

    assert answer == HttpResponse(0, None, "The name of the host could not be resolved.")


# TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """The file of a certificate for hooks.example, and the context of a server that has it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hooks.example")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hooks.example")]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("authority")
    pem = serialization.Encoding.PEM
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(pem))
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, *private))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return folder / "certificate.pem", context


def test_tls_is_verified_against_the_name_of_the_url(authority, monkeypatch):
    file, context = authority
    monkeypatch.setenv("SSL_CERT_FILE", str(file))

    with peer(wrap=context) as server:
        transport = Transport(LOOPBACK, resolve=resolver(["127.0.0.1"]))
        right = transport.post(f"https://hooks.example:{server.port}/", BODY, {})
        wrong = transport.post(f"https://other.example:{server.port}/", BODY, {})

    assert right == HttpResponse(200, None, "Answered with status 200.", b"ok")
    assert f"Host: hooks.example:{server.port}" in server.requests[0][0]
    assert wrong == HttpResponse(0, None, "The certificate of the host could not be verified.")
    assert len(server.requests) == 1


def test_a_certificate_of_an_unknown_authority_is_refused(authority, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)

    with peer(wrap=authority[1]) as server:
        transport = Transport(LOOPBACK, resolve=resolver(["127.0.0.1"]))
        answer = transport.post(f"https://hooks.example:{server.port}/", BODY, {})

    assert answer == HttpResponse(0, None, "The certificate of the host could not be verified.")
    assert server.requests == []


def test_a_tls_peer_holds_an_attempt_only_for_its_time(authority, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(authority[0]))

    with peer(drip_head, wrap=authority[1]) as server:
        transport = Transport(LOOPBACK, 0.3, resolver(["127.0.0.1"]))
        dripping = transport.post(f"https://hooks.example:{server.port}/", BODY, {})
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as deaf:
        silent = transport.post(f"https://hooks.example:{deaf.getsockname()[1]}/", BODY, {})

    assert dripping == silent == LATE


def test_plain_http_at_a_tls_address_is_told_in_a_sentence():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.sendall(OK)
                connection.recv(65_536)

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"

        answer = Transport(LOOPBACK, 5).post(url, BODY, {})

        thread.join(5)
    assert answer == HttpResponse(0, None, "The secure connection failed.")


# Signatures


def signed(secrets=(SECRET,), at=AT, body=BODY):
    return webhook_headers(secrets, "evt_1", at, body)


def verify(headers, body=BODY, secret=SECRET, at=AT, **options):
    return verify_webhook(body, headers, secret, clock=lambda: at, **options)


def test_a_new_secret_is_its_24_to_64_bytes_in_base64():
    assert new_webhook_secret(bytes(24)) == "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    for length in (0, 23, 65):
        with pytest.raises(ValueError, match="24 to 64"):
            new_webhook_secret(bytes(length))


def test_the_published_example_of_standard_webhooks_is_signed_as_published():
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'

    headers = webhook_headers([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)

    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_headers_of_two_secrets_are_plain_text_and_the_combined_one_holds_its_time():
    headers = signed()

    assert list(headers) == [
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
        "X-Novantra-Signature",
    ]
    assert json.loads(json.dumps(headers)) == headers
    assert headers["X-Novantra-Signature"] == (
        "t=1700000000,v1=79b6b7a786791c7d7cbf293fba5116afee2119223d2f62b275549054fef7fac8"
    )


@pytest.mark.parametrize("secret", [SECRET, OTHER])
def test_the_standardwebhooks_package_accepts_either_secret_during_a_rotation(secret):
    now = int(time.time())

    event = standardwebhooks.Webhook(secret).verify(BODY, signed([SECRET, OTHER], now))

    assert event == {"id": "evt_1", "type": "finding.created"}


def test_a_webhook_signed_by_the_standardwebhooks_package_is_accepted():
    at = datetime.datetime.fromtimestamp(AT, datetime.UTC)
    signature = standardwebhooks.Webhook(SECRET).sign("evt_9", at, BODY.decode())

    event = verify(
        {
            "Webhook-Id": "evt_9",
            "WEBHOOK-TIMESTAMP": "1700000000",
            "webhook-signature": "v2,x " + signature,
        }
    )

    assert event["id"] == "evt_1"


@pytest.mark.parametrize("kept", ["webhook-", "X-Novantra"])
@pytest.mark.parametrize("secret", [SECRET, [OTHER, SECRET]])
def test_either_kind_of_header_is_enough_and_case_does_not_matter(kept, secret):
    headers = {name: value for name, value in signed().items() if name.startswith(kept)}

    for header in (headers, {name.title(): value for name, value in headers.items()}):
        assert verify(header, secret=secret) == {"id": "evt_1", "type": "finding.created"}


@pytest.mark.parametrize("skew", [-300, 300])
def test_five_minutes_of_skew_are_accepted_and_no_more(skew):
    further = AT + skew + skew // 300

    assert verify(signed(), at=AT + skew)["id"] == "evt_1"
    assert verify(signed(), at=further, tolerance=301)["id"] == "evt_1"
    with pytest.raises(WebhookError, match="more than 300 seconds"):
        verify(signed(), at=further)


@pytest.mark.parametrize("kept", ["webhook-", "X-Novantra"])
def test_a_changed_body_time_or_secret_is_refused(kept):
    headers = {name: value for name, value in signed().items() if name.startswith(kept)}
    later = {name: value.replace("1700000000", "1700000001") for name, value in headers.items()}

    for header in (
        {"headers": headers, "body": BODY + b" "},
        {"headers": headers, "secret": OTHER},
        {"headers": headers, "secret": []},
        {"headers": later},
    ):
        with pytest.raises(WebhookError, match="No signature matches"):
            verify(**header)


@pytest.mark.parametrize(
    "change",
    [
        *({"webhook-id": key} for key in ("evt_2", "evt_1.", "\N{SNOWMAN}", "\ud800")),
        *({"webhook-signature": text} for text in ("", "v1,", "v1", "v1,\N{SNOWMAN}", "v1,\ud800")),
        {"webhook-signature": "v1a,AAAA"},
    ],
)
def test_a_changed_id_or_signature_is_refused(change):
    with pytest.raises(WebhookError, match="No signature matches"):
        verify(signed() | change)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"webhook-id": "evt_1", "webhook-timestamp": "1700000000"},
        {"webhook-id": "evt_1", "webhook-signature": "v1,AAAA"},
        {"webhook-timestamp": "1700000000", "webhook-signature": "v1,AAAA"},
        {"webhook-id": "evt_1", "webhook-timestamp": " 1_7", "webhook-signature": "v1,AAAA"},
        {"webhook-id": "e", "webhook-timestamp": "9" * 5000, "webhook-signature": "v1,AAAA"},
        {"X-Novantra-Signature": "v1=abcd"},
        {"X-Novantra-Signature": "t=,v1=abcd"},
        {"X-Novantra-Signature": "t=\N{ARABIC-INDIC DIGIT ONE},v1=abcd"},
    ],
)
def test_headers_that_lack_something_are_refused(headers):
    with pytest.raises(WebhookError) as refusal:
        verify(headers)

    assert str(refusal.value) == "The webhook's signature headers are missing or incomplete."


@pytest.mark.parametrize("body", [b"", b"[1]", b"not json", b"\xff\xfe\x00", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused_even_when_signed(body):
    with pytest.raises(WebhookError, match="not a JSON object"):
        verify(signed(body=body), body=body)


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "whsec_***", "whsec_AAAA*AAAA", "whsec_\N{SNOWMAN}"]
)
def test_a_secret_that_cannot_be_one_is_refused_without_repeating_it(secret):
    with pytest.raises(WebhookError) as refusal:
        verify(signed(), secret=secret)

    assert str(refusal.value) == ("The secret is not a webhook secret: expected whsec_ and Base64.")


def test_what_was_answered_does_not_show_where_answers_are_printed():
    assert "s3cret" not in repr(HttpResponse(200, None, "Answered with status 200.", b"s3cret"))
