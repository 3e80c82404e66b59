"""A small Jira on a real socket: issues, their search by label, and whoever is calling."""

import base64
import contextlib
import re
from urllib.parse import parse_qs, urlsplit

from factstore.servers import neighbour

USER, TOKEN = "robot@acme.example", "ATATT-0123-Secret"


class FakeJira:
    """What Jira holds; a test makes it refuse, vanish, forget its answers, or move its search."""

    def __init__(self):
        self.issues = {}
        #: Answers that stand before all others, each for one request.
        self.answers = []
        #: Whether an issue is made and the answer lost.
        self.loses_answers = False
        self.search = "/rest/api/2/search"
        self.server = None

    @property
    def url(self):
        return self.server.url

    def asked(self, method, path=""):
        """The requests so far with a method, to paths that start so."""
        return [
            request
            for request in self.server.asked
            if request.method == method and request.path.startswith(path)
        ]

    def labels(self):
        """The labels of all issues, in the order of their making."""
        return [issue["fields"]["labels"][0] for issue in self.issues.values()]

    def answer(self, request):
        if self.answers:
            return self.answers.pop(0)
        credentials = base64.b64encode(f"{USER}:{TOKEN}".encode()).decode()
        if request.headers["Authorization"] != f"Basic {credentials}":
            return 401, b"<html>Sign in</html>"
        parts = urlsplit(request.path)
        if (request.method, parts.path) == ("POST", "/rest/api/2/issue"):
            return self.make(request.json["fields"])
        if parts.path == self.search:
            return self.find(parse_qs(parts.query)["jql"][0])
        if parts.path == "/rest/api/2/myself":
            return 200, {"name": "robot", "displayName": "Robot"}
        key = parts.path.removeprefix("/rest/api/2/issue/")
        if key in self.issues:
            return 200, self.issues[key]
        return 404, {"errorMessages": ["Nothing here"], "errors": {}}

    def make(self, fields):
        if fields["issuetype"]["name"] == "Saga":
            faults = {"issuetype": "The issue type selected is invalid."}
            return 400, {"errorMessages": [], "errors": faults}
        key = f"{fields['project']['key']}-{len(self.issues) + 1}"
        status = {"name": "To Do", "statusCategory": {"key": "new"}}
        self.issues[key] = {"id": "1", "key": key, "fields": fields | {"status": status}}
        if self.loses_answers:
            # The gateway before it gives up.
            return 504, b""
        return 201, {"id": "1", "key": key, "self": f"{self.url}/rest/api/2/issue/1"}

    def find(self, jql):
        label = re.fullmatch('labels = "([^"]*)"', jql)[1]
        matches = [value for value in self.issues.values() if label in value["fields"]["labels"]]
        return 200, {"issues": matches, "total": len(matches)}

    def move(self, key, name, category):
        """Give an issue another status."""
        self.issues[key]["fields"]["status"] = {"name": name, "statusCategory": {"key": category}}


@contextlib.contextmanager
def running_jira():
    """A FakeJira that listens, at its `url`."""
    jira = FakeJira()
    with neighbour(jira.answer) as server:
        jira.server = server
        yield jira
