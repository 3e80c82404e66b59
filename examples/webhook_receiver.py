"""Receive webhooks: verify them, answer at once, and work on each event only once.

    novantra-lite webhook add https://hooks.example.org/ --database register.db    # the secret
    WEBHOOK_SECRET=whsec_… python examples/webhook_receiver.py

A delivery is answered as soon as it is stored (in WEBHOOK_STORE, default events.db), and worked on
afterwards, so that a slow task never makes the sender time out. The sender tries again whenever it
is unsure, always with the same webhook-id: the store keeps one row for each. WEBHOOK_LISTEN says
where to listen (default 127.0.0.1:9000; port 0 picks a free one). During a rotation of the secret,
WEBHOOK_SECRET may hold both, with a blank between. Put TLS in front of it.
"""

import json
import os
import sqlite3
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from novantra_lite import WebhookError, verify_webhook

SECRETS = os.environ["WEBHOOK_SECRET"].split()
LARGEST = 1_000_000
arrived = threading.Event()


def store():
    """A connection to the events that were received."""
    file = sqlite3.connect(os.environ.get("WEBHOOK_STORE", "events.db"), isolation_level=None)
    file.execute("CREATE TABLE IF NOT EXISTS events (id TEXT PRIMARY KEY, body TEXT, done INTEGER)")
    return file


class Receiver(BaseHTTPRequestHandler):
    """Takes in what is signed by the register, and nothing else."""

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        if length > LARGEST:
            return self.answer(413)
        try:
            event = verify_webhook(self.rfile.read(length), self.headers, SECRETS)
        except WebhookError as error:
            self.log_message("refused: %s", error)
            return self.answer(401)
        # The id inside the signed body is the webhook-id.
        row = (event["id"], json.dumps(event))
        file = store()
        try:
            file.execute("INSERT OR IGNORE INTO events VALUES (?, ?, 0)", row)
        finally:
            file.close()
        arrived.set()
        return self.answer(204)

    def answer(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


def work(event):
    """What your integration does with an event; this one prints a line."""
    print(event["id"], event["type"], json.dumps(event["data"]), flush=True)


def work_through():
    """Work on what is stored and not done, now and whenever something arrives."""
    file = store()
    while True:
        undone = file.execute("SELECT id, body FROM events WHERE done = 0 ORDER BY id").fetchall()
        for key, body in undone:
            work(json.loads(body))
            file.execute("UPDATE events SET done = 1 WHERE id = ?", (key,))
        arrived.wait()
        arrived.clear()


if __name__ == "__main__":
    host, _, port = os.environ.get("WEBHOOK_LISTEN", "127.0.0.1:9000").rpartition(":")
    server = ThreadingHTTPServer((host, int(port)), Receiver)
    print(f"Receiving at http://{host}:{server.server_port}/", flush=True)
    threading.Thread(target=work_through, daemon=True).start()
    server.serve_forever()
