"""Where notifications go in tests: real servers on this machine that answer as they are told."""

import contextlib
import http.server
import json
import threading
import types

RULES = "/api/v1/notification-rules"
NOTIFICATIONS = "/api/v1/notifications"
#: What lets notifications go to a server on this machine.
NEAR = {"webhook_private_targets": ("127.0.0.0/8",)}


@contextlib.contextmanager
def receiver(*statuses, tls=None):
    """A server that keeps what is posted, and answers with these statuses, then with 200."""
    kept, left = types.SimpleNamespace(posted=[]), list(statuses)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kept.posted.append((self.path, self.headers["Content-Type"], json.loads(body)))
            self.send_response(left.pop(0) if left else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        scheme = "https" if tls else "http"
        kept.url = f"{scheme}://127.0.0.1:{server.server_port}/hook/s3cret"
        yield kept
        server.shutdown()
        thread.join()


def add_rule(client, trigger="ATTESTATION_FAILED", channel="IN_APP", url="", **members):
    """The id of a new rule, that sends to a URL if any."""
    body = {"name": "quality", "triggerEvent": trigger, "channelType": channel} | members
    if url:
        body["channelConfig"] = json.dumps({"webhookUrl": url})
    made = client.post(RULES, body)
    assert made.status == 201, made.json
    return made.json["id"]


def deliveries(client, rule):
    """Status, number of attempts and error of what came of a rule's notifications."""
    matches = client.get(f"{RULES}/{rule}/deliveries").json
    return [(record["status"], record["attemptCount"], record["error"]) for record in matches]


def shown(client):
    """Title, severity and entity of every notification inside the product, newest first."""
    matches = client.get(NOTIFICATIONS).json
    return [
        (record["title"], record["severity"], record["entityType"], record["entityId"])
        for record in matches
    ]
