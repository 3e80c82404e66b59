"""A small HashiCorp Vault on a real socket: KV version 2, AppRole, capabilities and health."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

TOKEN = "hvs.Root-0123456789"
ROLE, SECRET = "role-1", "secret-1"
#: Go writes times with nanoseconds.
CREATED = "2026-05-04T03:02:01.987654321Z"


class FakeVault:
    """What Vault holds, and what it was asked; a test turns it sealed, strict or strange."""

    def __init__(self):
        self.url = ""
        self.mount = "secret"
        self.initialized, self.sealed = True, False
        self.tokens = {TOKEN: {"root"}}
        self.secret_id = SECRET
        #: Versions by path: a document and when it was deleted.
        self.documents = {}
        #: Method, raw path, and the token presented, of every request.
        self.requests = []
        #: Path prefixes and what is answered there, whatever is asked.
        self.answers = {}
        self.created = CREATED
        #: Set once somebody asked, and what an answer waits for.
        self.asked, self.may_answer = threading.Event(), threading.Event()
        self.may_answer.set()

    def answer(self, method, raw_path, token, body):
        """Status and JSON of an answer; None for an empty one."""
        path = unquote(raw_path.partition("?")[0]).removeprefix("/v1/")
        for prefix, result in self.answers.items():
            if path.startswith(prefix):
                return result
        if path == "sys/health":
            status = 501 if not self.initialized else 503 if self.sealed else 200
            return status, {"initialized": self.initialized, "sealed": self.sealed}
        if self.sealed:
            return 503, {"errors": ["Vault is sealed"]}
        if path == "auth/approle/login":
            return self.log_in(body)
        if token not in self.tokens:
            return 403, {"errors": ["permission denied"]}
        if path == "sys/capabilities-self":
            rights = {record: self.rights(token) for record in body["paths"]}
            return 200, {**rights, "data": rights}
        for part in ("data", "metadata"):
            if path.startswith(f"{self.mount}/{part}/"):
                key = path.removeprefix(f"{self.mount}/{part}/").rstrip("/")
                return self.refuse(method, token, key) or getattr(self, f"{method.lower()}_{part}")(
                    key, body
                )
        return 404, {"errors": [f'no handler for route "{path}". route entry not found.']}

    def rights(self, token):
        return sorted(self.tokens[token] or {"deny"})

    def refuse(self, method, token, key):
        needed = {"GET": "read", "LIST": "list", "DELETE": "delete"}
        right = needed.get(method, "update" if key in self.documents else "create")
        if not self.tokens[token] & {right, "root"}:
            return 403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}
        return None

    def log_in(self, body):
        if body != {"role_id": ROLE, "secret_id": self.secret_id}:
            return 400, {"errors": ["invalid role or secret ID"]}
        token = f"hvs.Role-{len(self.tokens)}"
        self.tokens[token] = {"create", "update", "read", "list", "delete"}
        return 200, {"auth": {"client_token": token, "lease_duration": 3600}}

    def post_data(self, key, body):
        versions = self.documents.setdefault(key, [])
        versions.append({"data": body["data"], "deletion_time": ""})
        number = len(versions)
        return 200, {"data": {"version": number, "created_time": self.created}}

    def get_data(self, key, body):
        if key not in self.documents:
            return 404, {"errors": []}
        versions = self.documents[key]
        newest, number = versions[-1], len(versions)
        values = {"version": number, "deletion_time": newest["deletion_time"], "destroyed": False}
        if newest["deletion_time"]:
            return 404, {"data": {"data": None, "metadata": values}}
        return 200, {"data": {"data": newest["data"], "metadata": values}}

    def delete_data(self, key, body):
        for newest in self.documents.get(key, [])[-1:]:
            newest["deletion_time"] = newest["deletion_time"] or CREATED
        return 204, None

    def get_metadata(self, key, body):
        if key not in self.documents:
            return 404, {"errors": []}
        versions = {
            str(number): {"created_time": self.created, "deletion_time": record["deletion_time"]}
            for number, record in enumerate(self.documents[key], 1)
        }
        return 200, {"data": {"current_version": len(versions), "versions": versions}}

    def list_metadata(self, key, body):
        below = {
            document.removeprefix(key + "/")
            for document in self.documents
            if document.startswith(key + "/")
        }
        names = sorted({name.partition("/")[0] + "/" * ("/" in name) for name in below})
        return (200, {"data": {"keys": names}}) if names else (404, {"errors": []})


class Handler(BaseHTTPRequestHandler):
    """Takes requests off the socket, and keeps the connection for the next one."""

    protocol_version = "HTTP/1.1"
    timeout = 5

    def respond(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"null")
        token, vault = self.headers.get("X-Vault-Token", ""), self.server.vault
        vault.requests.append((self.command, self.path, token))
        vault.asked.set()
        vault.may_answer.wait(5)
        status, result = vault.answer(self.command, self.path, token, body)
        data = (
            b""
            if result is None
            else result
            if type(result) is bytes
            else json.dumps(result).encode()
        )
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = do_LIST = respond

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def running_vault():
    """A FakeVault that listens, at its `url`."""
    vault = FakeVault()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.vault = False, vault
        vault.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield vault
        finally:
            server.shutdown()
            thread.join()
