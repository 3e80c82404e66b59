"""The product as a process of its own, and a receiver of webhooks."""

import contextlib
import http.client
import json
import os
import queue
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

PROGRAM = [sys.executable, "-m", "novantra_lite"]


@contextlib.contextmanager
def serving(*arguments, **environment):
    """A server that is ready to answer; `said` holds what it announced in its first line."""
    line = [*PROGRAM, "serve", *map(str, arguments), "--listen", "127.0.0.1:0", "--json"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, env=os.environ | environment) as process:
        try:
            process.said = json.loads(process.stdout.readline())
            yield process
        finally:
            process.kill()


def connect(url):
    """A connection to a server that stays open from one request to the next."""
    return http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)


def call(connection, method, path, token="", body=None, **headers):
    """The status and the JSON of a request over a connection."""
    send(connection, method, path, token, body, **headers)
    return receive(connection)


def send(connection, method, path, token="", body=None, **headers):
    """Send a request whole, without waiting for its answer."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    data = None
    if body is not None:
        data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
    connection.request(method, path, data, headers)


def receive(connection):
    """The status and the JSON of the answer that a connection waits for."""
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read() or "null")


class Receiver(ThreadingHTTPServer):
    """Takes webhooks on a port of this machine; `arrived` is a queue of their headers and bytes.

    While `open` is not set, it takes a webhook in and keeps the sender waiting for the answer.
    """

    def __init__(self, status=204):
        super().__init__(("127.0.0.1", 0), Hook)
        self.status, self.arrived, self.open = status, queue.Queue(), threading.Event()
        self.open.set()
        self.url = f"http://127.0.0.1:{self.server_port}/hook"
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *raised):
        self.open.set()
        self.shutdown()
        self.thread.join()
        self.server_close()


class Hook(BaseHTTPRequestHandler):
    """What a receiver does with one webhook."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.arrived.put((dict(self.headers), body))
        self.server.open.wait()
        with contextlib.suppress(OSError):
            self.send_response(self.server.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def log_message(self, *body):
        """Keep quiet."""
