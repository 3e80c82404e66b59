"""
A governance register and a supply-chain fact store: two REST APIs over one SQLite file.

    from novantra_lite import NovantraLite

    with NovantraLite("register.db") as lite:          # NovantraLite() is ephemeral, for tests
        lite.collection("assets").create(
            assetKey="torque-wrench-7", assetKind="calibrated-tool", displayName="Torque wrench 7",
            sourceKind="manual", status="active", reason="Bought for line maintenance.",
        )
        client = lite.client("assets:read")            # in process, with a token; no socket
        print(client.get("/api/v1/assets").json)
        lite.serve("127.0.0.1:8080")                   # or hand it to any WSGI server

Contents

    Part I    Kernel   Problems, Settings, Clock and ids, JSON and sessions, Fields,
        Compound fields, Statements, Models, Schemas, Keys and encryption, Search index,
        Connections, Workspaces, Tables and migrations, Tallies, Pages, Principals and tokens,
        Uploads, Contexts, Surfaces, Operations and resources
    Part II   Records of every write   Idempotency, Rate limits, Audit and ledger, Verification,
        Webhook signatures, Outbox, Writes, Checkpoints, Checkpoint verification, Answers,
        Outbound addresses, Outbound requests, Dispatcher, Webhooks
    Part III  Novantra   Novantra conventions, Workspace, Authentication, Frameworks, Controls,
        Risks, Evidence records, Attachments, Evidence, Assessments, Findings, Exceptions,
        Monitoring, Indicators, Submissions, Assets, Party engagements, Change management,
        Vulnerability management
    Part IV   Factstore   Factstore fields, API keys, Factstore conventions, Organisations,
        Source hosts, Patterns, Templates, Flows, Notifications, Notification channels, Notifying,
        Notification rules, Trail records, Trail status, Trails, Artifacts, Provenance signatures,
        Provenance, Attestations, Evidence files, Scan reports, Scanners, Evidence processors,
        Evidence collection, Pull request look-ups, Pull requests, Identity tokens, Approvals,
        Assertions, Environments, Snapshot records, Environment snapshots, Environment drift,
        Logical environments, Policies, Deployment policies, Gate, Users, Service accounts,
        API key management, Members, Identity providers, Single sign-on, Signing in, Rego,
        Rego evaluation, Rego engine, Policy archives, Policy bundles, Policy decisions,
        Security scans, Regulatory frameworks, Compliance assessments, Regulatory reports,
        Evidence documents, Evidence vault, Vault requests, HashiCorp Vault, Audit log, Search,
        Reports, Incoming webhooks, Incoming events, Slack, Slack commands, Slack requests,
        Atlassian, Jira, Jira tickets, Confluence, Chain, Ledger, Hub templates, Audit packages
    Part V    Application   Rows, OSCAL, Opening workspaces, Imports, Collections, Demo vocabulary,
        Demo plans, Demo records, Demo data, Demo delivery, WSGI application, Clients, Servers,
        Maintenance, Audit records, Installs, NovantraLite, Reference page, Documents, OpenAPI,
        Service, Commands, Commands: serve, Commands: records, Commands: accounts and webhooks,
        Commands: install, Commands: audit, Command line

Every section reads only from itself and from the sections above it.
"""

from __future__ import annotations

import gc

# Classes are made by the hundred below, and none of them is garbage: to look for it again and again
# would take its time and find nothing.
if _collecting := gc.isenabled():
    gc.disable()

import base64
import binascii
import contextlib
import contextvars
import functools
import hashlib
import hmac
import inspect
import io
import itertools
import json
import logging
import math
import os
import random as random_module
import re
import socket
import sqlite3
import sys
import threading
import time
import urllib.parse
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from html import escape
from http import HTTPStatus
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import product
from operator import itemgetter
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, ClassVar, NamedTuple
from urllib.parse import SplitResult, urlsplit

import peewee
from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from itsdangerous import BadData, URLSafeSerializer

if TYPE_CHECKING:
    import falcon

__all__ = [
    "NovantraLite",
    "Problem",
    "Settings",
    "Transport",
    "WebhookError",
    "verify_webhook",
]
__version__ = "0.1.0"

log = logging.getLogger("novantra_lite")


# === Part I: Kernel ===========================================================
# --- Problems -----------------------------------------------------------------
# A problem is what a caller may hear. Its class names the kind; how it is worded
# on the wire is the surface's business.


class Problem(Exception):
    """Something that a caller may hear of: a status, a stable code, and a sentence."""

    status, code = 500, "internal"
    sentence = "Something went wrong on this side; the request id finds it in the log."
    #: What a surface may call it instead of the status's own phrase.
    title = ""

    def __init__(
        self,
        message: str = "",
        issues: list[dict] | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message or self.sentence)
        self.issues = issues or []
        self.headers = headers or {}


class Invalid(Problem):
    """The request does not match what the operation takes."""

    status, code, sentence = 400, "validation", "Request failed validation."


class InvalidCursor(Problem):
    """The cursor was not made for this list and these filters, or is too old."""

    status, code = 400, "invalid_cursor"
    sentence = "The cursor is not valid for this list; start again without it."


class Unauthenticated(Problem):
    """No usable credentials were presented."""

    status, code = 401, "unauthenticated"
    sentence = "A valid bearer token is required."


class Forbidden(Problem):
    """The credentials do not permit this."""

    status, code, sentence = 403, "forbidden", "The credentials do not permit this."


class NotFound(Problem):
    """There is no such thing in this workspace."""

    status, code, sentence = 404, "not_found", "There is nothing here."


class NotAllowed(Problem):
    """The path is known, but not with this method."""

    status, code = 405, "method_not_allowed"
    sentence = "This path does not answer to that method."


class Conflict(Problem):
    """The request clashes with what is already there."""

    status, code, sentence = 409, "conflict", "This clashes with what is already there."


class Gone(Problem):
    """This was here and has been withdrawn."""

    status, code, sentence = 410, "gone", "This has been withdrawn."


class TooLarge(Problem):
    """The body is over the limit."""

    status, code, sentence = 413, "payload_too_large", "The body is too large."


class UnsupportedMediaType(Problem):
    """The body is of a kind that the operation does not read."""

    status, code = 415, "unsupported_media_type"
    sentence = "This operation reads application/json."


class Unprocessable(Problem):
    """The request is well formed, but the state of things does not allow it."""

    status, code = 422, "unprocessable"
    sentence = "The state of things does not allow this."


class RateLimited(Problem):
    """Too many requests in this minute."""

    status, code, sentence = 429, "rate_limited", "Too many requests; wait for Retry-After."


class BadGateway(Problem):
    """Another server, which the answer depends on, does not answer as it should."""

    status, code = 502, "bad_gateway"
    sentence = "A server that this depends on does not answer as it should; try again."


class Unavailable(Problem):
    """The workspace cannot answer just now."""

    status, code, sentence = 503, "internal", "The workspace cannot answer now; try again."


class Damaged(Problem):
    """What is stored is not what was recorded."""

    title = "Integrity Error"
    sentence = "What is stored does not match the hash that was recorded of it."


PROBLEMS = MappingProxyType(
    {
        kind.status: kind
        for kind in (
            Problem, Invalid, Unauthenticated, Forbidden, NotFound, NotAllowed, Conflict, Gone,
            TooLarge, UnsupportedMediaType, Unprocessable, RateLimited, BadGateway, Unavailable,
        )
    }
)  # fmt: skip


class Faults(ValueError):
    """What is wrong inside one value: a message for each path into it."""

    def __init__(self, issues: list[tuple[list, str]]):
        super().__init__(issues[0][1])
        self.issues = issues

    @staticmethod
    def of(error: ValueError, *path: Any) -> list[tuple[list, str]]:
        """An error's faults, seen from one level further out."""
        inner = error.issues if isinstance(error, Faults) else [([], str(error))]
        return [([*path, *rest], message) for rest, message in inner]


# --- Settings -----------------------------------------------------------------


class Setting:
    """One setting: its default, whose type is the setting's, and one sentence about it.

    `also` names a variable of the environment that is read where the setting's own is not set. A
    secret is told to nobody. A number is not below `at_least`.
    """

    def __init__(
        self,
        default: Any,
        explanation: str,
        also: str = "",
        is_secret: bool = False,
        at_least: float = 0,
    ):
        self.default, self.explanation = default, explanation
        self.also, self.is_secret, self.at_least = also, is_secret, at_least

    def __set_name__(self, owner: type[Settings], name: str):
        owner.KNOWN[name] = self


class Settings:
    """Everything that can be set: by keyword, or as NOVANTRA_LITE_<NAME> in the environment."""

    #: Every setting by its name, in the order of the reference.
    KNOWN: ClassVar[dict[str, Setting]] = {}

    database = Setting("", "The workspace's file; empty for one that ends with the process.")
    workspaces = Setting("", "A directory of workspaces, one file each, instead of `database`.")
    key = Setting("", "Wraps the key ring; empty: a key file beside the database.", is_secret=True)
    listen = Setting("127.0.0.1:8080", "Address and port to serve on; port 0 picks a free one.")
    threads = Setting(8, "Threads that answer requests.", at_least=1)
    one_processor = Setting(
        True, "Whether the threads that answer requests share one processor, which is quicker."
    )
    synchronous = Setting("FULL", "SQLite's synchronous: FULL (fsync at commit), NORMAL or OFF.")
    busy_timeout = Setting(10.0, "Seconds to wait for a lock on the file.")
    token_life = Setting(900, "Seconds that an access token stays good.")
    cursor_life = Setting(172_800, "Seconds that a cursor stays good.")
    idempotency_life = Setting(86_400, "Seconds that an Idempotency-Key is remembered.")
    event_life = Setting(2_592_000, "Seconds that delivered events and their log are kept.")
    rate_limits = Setting(True, "Whether rate limits are enforced; headers are always sent.")
    rate_reads = Setting(600, "Reads a minute for one service account.")
    rate_writes = Setting(60, "Writes a minute for one service account.")
    rate_organization = Setting(3000, "Requests a minute for the whole organization.")
    rate_address = Setting(60, "Requests a minute for one address without usable credentials.")
    rate_failures = Setting(10, "Failed token requests a minute for one client id.")
    json_limit = Setting(1_048_576, "Bytes that a JSON body may have.")
    claim_limit = Setting(20_971_520, "Bytes that an evidence claim with attachments may have.")
    attachment_limit = Setting(10_485_760, "Bytes that one attachment may have.")
    attachments_limit = Setting(15_728_640, "Bytes that a claim's attachments may have together.")
    upload_limit = Setting(52_428_800, "Bytes that any request may have.")
    finding_updates = Setting(False, "Whether PATCH may change the status of a finding.")
    webhook_private_targets = Setting(
        (), "Private networks that webhooks, notifications and integrations may reach."
    )
    webhook_timeout = Setting(10.0, "Seconds that a webhook receiver has to answer.")
    slack_url = Setting("https://slack.com/api", "Where Slack's Web API is.")
    factstore_auth = Setting("on", "`open` lets loopback callers without credentials through.")
    factstore_region = Setting("us-east-1", "Sent as X-Factstore-Region.")
    cors_origins = Setting(
        (), "Origins whose pages may call the Factstore surface, such as http://localhost:5173."
    )
    provenance_keys = Setting(
        (), "Files with public keys (PEM) that build provenance is verified with."
    )
    scm_hosts = Setting(
        (), "Base URLs of source hosts other than the public ones, such as GITLAB=https://git.lan."
    )
    scm_timeout = Setting(10.0, "Seconds that a source host has to answer.")
    vault_address = Setting(
        "", "The URL of HashiCorp Vault; empty: evidence stays in the file.", also="VAULT_ADDR"
    )
    vault_auth_method = Setting(
        "TOKEN", "How to log in to Vault: TOKEN or APPROLE.", also="VAULT_AUTH_METHOD"
    )
    vault_token = Setting("", "The token for Vault.", also="VAULT_TOKEN", is_secret=True)
    vault_role_id = Setting(
        "", "The id of the AppRole for Vault.", also="VAULT_ROLE_ID", is_secret=True
    )
    vault_secret_id = Setting(
        "", "The secret id of the AppRole for Vault.", also="VAULT_SECRET_ID", is_secret=True
    )
    vault_mount = Setting("secret", "Where in Vault the KV store of version 2 is mounted.")
    vault_timeout = Setting(10.0, "Seconds that Vault has to answer.")
    sso_private_issuers = Setting(
        (), "Base URLs of identity providers in private networks, such as http://localhost:9000."
    )
    sso_timeout = Setting(10.0, "Seconds that an identity provider has to answer.")
    sso_session_life = Setting(28_800, "Seconds that a session of single sign-on stays good.")
    ledger = Setting(
        True, "Whether the ledger's operations answer; entries are written in any case."
    )
    checkpoints = Setting(
        "", "A directory for signed checkpoints, best on other media; empty: beside the file."
    )
    checkpoint_interval = Setting(
        3600, "Seconds between signed checkpoints, written if there is something new."
    )
    rego_deadline = Setting(2.0, "Seconds that a policy has to compile, or to decide.")
    rego_memory = Setting(256, "MiB that policies may take while they are evaluated.")
    shutdown_grace = Setting(10.0, "Seconds that requests in flight have to finish at a stop.")

    WORDS: ClassVar = {
        "synchronous": ("FULL", "NORMAL", "OFF"),
        "factstore_auth": ("on", "open"),
        "vault_auth_method": ("TOKEN", "APPROLE"),
    }

    def __init__(self, **given: Any):
        if unknown := given.keys() - self.KNOWN.keys():
            raise TypeError(f"No such setting: {', '.join(sorted(unknown))}.")
        defaults = {name: known.default for name, known in self.KNOWN.items()}
        vars(self).update(defaults | given)

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ, **given: Any) -> Settings:
        """Take settings from keywords, then from the environment, then the defaults."""
        values, told = {}, dict(environment)
        for name, known in cls.KNOWN.items():
            text = told.get(f"NOVANTRA_LITE_{name.upper()}", told.get(known.also))
            if text is not None:
                values[name] = parse_setting(name, text, known.default)
        settings = cls(**values | given)
        for name, words in cls.WORDS.items():
            if getattr(settings, name) not in words:
                raise Invalid(f"The setting {name} is one of {', '.join(words)}.")
        for name, known in cls.KNOWN.items():
            is_number = type(known.default) in (int, float)
            if is_number and not known.at_least <= getattr(settings, name) < math.inf:
                raise Invalid(f"The setting {name} needs a number from {known.at_least} on.")
        return settings


def parse_setting(name: str, text: str, default: Any) -> Any:
    """Read a setting's text as the type of its default."""
    try:
        match default:
            case bool():
                return {
                    "on": True,
                    "true": True,
                    "1": True,
                    "off": False,
                    "false": False,
                    "0": False,
                }[text.strip().lower()]
            case int() | float():
                return type(default)(text)
            case tuple():
                return tuple(part for part in re.split(r"[,\s]+", text) if part)
    except ValueError:
        raise Invalid(f"The setting {name} needs a number, not {text!r}.") from None
    except KeyError:
        raise Invalid(f"The setting {name} is on or off, not {text!r}.") from None
    return text


# --- Clock and ids ------------------------------------------------------------

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
#: What Python reads for each byte of a ULID: a digit to the base 32, or "!", which is none.
_DIGITS = bytes(
    b"!0123456789abcdefghijklmnopqrstuv"[CROCKFORD.find(chr(byte)) + 1] for byte in range(256)
)
#: Two characters for every ten bits.
_PAIRS = [high + low for high in CROCKFORD for low in CROCKFORD]


class Source:
    """Where an instance takes time, ids and secrets from; a test hands in its own of each.

    `clock` gives seconds since 1970; `random` is a random.Random (random.SystemRandom unless told).
    """

    def __init__(self, clock: Callable[[], float], random: random_module.Random):
        self.clock, self.random = clock, random
        self._lock = threading.Lock()
        self._last = (0, 0)
        self._second = (-1, "")
        self._stamp = (-1, 0, "")

    def now(self, digits: int = 3) -> str:
        """The present as ISO 8601 in UTC, with so many digits after the second."""
        return self.timestamp(self.clock(), digits)

    def timestamp(self, at: float, digits: int = 3) -> str:
        """A time as ISO 8601 in UTC, fixed in width so that text sorts as time does."""
        whole = round(at * 10**digits)
        # Taken once, since another thread may set it anew.
        known_whole, known_digits, known_text = self._stamp
        if (known_whole, known_digits) == (whole, digits):
            return known_text
        second, fraction = divmod(whole, 10**digits)
        known, text = self._second
        if known != second:
            text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
            self._second = (second, text)
        text = f"{text}{fraction:0{digits}d}Z"
        self._stamp = whole, digits, text
        return text

    def ulid(self, prefix: str) -> str:
        """An id such as find_01HXY…: ids made later sort later, also within a millisecond."""
        with self._lock:
            moment = round(self.clock() * 1000)
            last, number = self._last
            number = number + 1 if moment <= last else self.random.getrandbits(79)
            self._last = moment, number = max(moment, last), number
        return prefix + "_" + encode_ulid(moment, number)

    def uuid(self) -> str:
        """A UUID of the time and 74 random bits (version 7), in lower case.

        Those made later sort later, so that an index of them grows at its end.
        """
        # RFC 9562, 5.7: four bits say the version, two the variant.
        moment, number = round(self.clock() * 1000), self.random.getrandbits(74)
        high, low = number >> 62, number & (1 << 62) - 1
        return encode_uuid(moment << 80 | 0x7 << 76 | high << 64 | 0x2 << 62 | low)

    def secret(self, prefix: str = "") -> str:
        """Thirty-two random bytes as URL-safe text behind a prefix."""
        text = base64.urlsafe_b64encode(self.random.randbytes(32)).rstrip(b"=").decode()
        return prefix + text


def encode_ulid(milliseconds: int, number: int) -> str:
    """Write a time and an 80-bit number as the 26 characters of a ULID."""
    moment = _encode_moment(milliseconds)
    return moment + "".join([_PAIRS[number >> shift & 1023] for shift in range(70, -1, -10)])


@functools.lru_cache(16)
def _encode_moment(milliseconds: int) -> str:
    """The first ten characters of a ULID, which many have in common."""
    return "".join([_PAIRS[milliseconds >> shift & 1023] for shift in range(40, -1, -10)])


def decode_ulid(text: str) -> int | None:
    """The 128 bits of a ULID; None for what is no ULID in upper case."""
    try:
        number = int(text.encode().translate(_DIGITS), 32)
    except ValueError:
        return None
    return number if len(text) == 26 and number < 1 << 128 else None


def encode_uuid(number: int) -> str:
    """Write 128 bits as a UUID, whatever version they say."""
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@functools.lru_cache(4096)
def parse_timestamp(text: str, digits: int = 3, dates: bool = False) -> str:
    """Read an ISO 8601 date-time with an offset as UTC text; `dates` takes a plain date too."""
    if dates and re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        text += "T00:00:00Z"
    if not re.fullmatch(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d[0-9:.,]*(?:[Zz]|[+-][0-9:]+)", text):
        raise ValueError("Expected a date-time such as 2026-07-30T23:59:59Z")
    try:
        moment = datetime.fromisoformat(text.upper())
        if moment.tzinfo is None:
            raise ValueError("no offset")
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("Expected a date-time such as 2026-07-30T23:59:59Z") from None
    return f"{moment.isoformat()[:19]}.{moment.microsecond // 10 ** (6 - digits):0{digits}d}Z"


def seconds_of(timestamp: str) -> float:
    """A stored timestamp as seconds since 1970."""
    return datetime.fromisoformat(timestamp).timestamp()


# --- JSON and sessions --------------------------------------------------------

DEPTH = 32
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False)
to_json = _ENCODER.encode
#: A string as JSON text.
quote = json.encoder.encode_basestring


def read_json(data: bytes) -> Any:
    """Parse a JSON body; refuse NUL, lone surrogates, NaN and a depth over 32."""
    try:
        value = json.loads(data.decode(), parse_constant=refuse_constant, parse_float=read_float)
    except (ValueError, RecursionError):
        raise Invalid("The body is not JSON in UTF-8.", [issue([], "Expected JSON")]) from None
    if data.count(b"[") + data.count(b"{") > DEPTH or b"\\u" in data:
        check_json(value, DEPTH)
    return value


def refuse_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python would read and JSON does not have."""
    raise ValueError(name)


def read_float(text: str) -> float:
    """Read a number that is no integer, unless it is beyond what a float may hold."""
    number = float(text)
    if math.isinf(number):
        raise ValueError(text)
    return number


def check_json(value: Any, depth: int) -> None:
    """Refuse a parsed value that is nested too deep or holds text that is no text."""
    if isinstance(value, str):
        if "\0" in value or (not value.isascii() and not is_text(value)):
            raise Invalid(issues=[issue([], "Expected text without NUL and lone surrogates")])
    elif isinstance(value, dict | list):
        if depth == 0:
            raise Invalid(issues=[issue([], f"Expected at most {DEPTH} levels of nesting")])
        for inner in value:
            check_json(inner, depth - 1)
        for inner in value.values() if isinstance(value, dict) else ():
            check_json(inner, depth - 1)


def is_text(value: str) -> bool:
    """Whether a string can be written as UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def issue(path: Sequence, message: str) -> dict:
    """One fault as both the envelope and the reports spell it."""
    return {"path": list(path), "message": message}


class Session:
    """Whose hands a workspace is in: the database to use, who acts, why, and what came of it.

    `facts` collects the records written and `events` the events raised; both are put down in the
    transaction of the write, before its commit. `afterwards` holds what is to be done after it.
    """

    __slots__ = (
        "actor", "afterwards", "database", "events", "facts", "reason", "region", "request_id",
        "ring", "source", "workspace",
    )  # fmt: skip

    def __init__(self, workspace, database, actor="", reason="", request_id=""):
        #: Where the request says that it comes from.
        self.region = ""
        self.workspace, self.database = workspace, database
        self.source, self.ring = workspace.source, workspace.ring
        self.actor, self.reason, self.request_id = actor, reason, request_id
        self.facts: list[tuple] = []
        self.events: list[tuple[str, dict]] = []
        self.afterwards: list[Callable[[], None]] = []


_session: contextvars.ContextVar[Session] = contextvars.ContextVar("session")
session = _session.get


class using:
    """Makes a session the current one, in this thread, for the length of a with statement."""

    __slots__ = ("before", "current")

    def __init__(self, current: Session):
        self.current = current

    def __enter__(self) -> Session:
        self.before = _session.set(self.current)
        return self.current

    def __exit__(self, *raised: object) -> None:
        _session.reset(self.before)


def now() -> str:
    """The present of the current session, written as every Timestamp is."""
    return session().source.now()


def emit(event: str, data: dict) -> None:
    """Raise an event; it leaves the outbox once the change is committed."""
    session().events.append((event, data))


# --- Fields -------------------------------------------------------------------
# A field is the column, its CHECK, the JSON member, its validation and its part of
# the OpenAPI document: one declaration for all of them.


def camel(name: str) -> str:
    """Spell a Python name the way that both APIs spell their members."""
    head, *tail = name.split("_")
    return head + "".join(word.capitalize() for word in tail)


class Member:
    """Mixed into every field: how its value crosses the border to JSON."""

    json_type, python_type = "string", str
    #: Never shown to a caller.
    hidden = False
    #: Kept encrypted in the file.
    sealed = False
    #: Opens something: not even the audit log keeps what it was.
    is_secret = False

    def __init__(self, *arguments: Any, since: int = 1, former_name: str = "", **options: Any):
        super().__init__(*arguments, **options)
        #: The layout of the file that brought the column, and what it was called until then.
        self.since, self.former_name = since, former_name

    def read(self, value: Any) -> Any:
        """Take a JSON value in, or raise ValueError with what is wrong."""
        if type(value) is not self.python_type:
            raise ValueError(f"Expected {self.json_type}")
        return value

    def parse(self, text: str) -> Any:
        """The JSON value that the text of a table's cell or of a query stands for."""
        return text

    def coerce(self, value: Any) -> Any:
        """The value that a lenient surface takes this one for."""
        return value

    def value(self, record: Any) -> Any:
        """This member's JSON value in a record."""
        return getattr(record, self.name)

    def stored(self, record: Any) -> Any:
        """This member's value in a record as the file holds it."""
        return record.__data__.get(self.name)

    def describe(self) -> dict:
        """This member's part of a JSON schema."""
        return {"type": self.json_type}

    def sql(self, value: str) -> str:
        """The SQL that gives json_object this member, from the SQL of what is stored."""
        return value


class Text(Member, peewee.TextField):
    """A string; lengths count characters."""

    def __init__(
        self,
        at_most: int = 10_000,
        at_least: int = 0,
        *,
        pattern: str = "",
        hint: str = "",
        hidden: bool = False,
        **options: Any,
    ):
        super().__init__(**options)
        self.at_most, self.at_least = at_most, at_least
        self.pattern, self.hint, self.hidden = pattern, hint, hidden

    def read(self, value):
        if type(value) is not str:
            raise ValueError("Expected string")
        size = len(value)
        if "\0" in value or not (value.isascii() or is_text(value)):
            raise ValueError("Expected text without NUL and lone surrogates")
        if not self.at_least <= size <= self.at_most:
            if self.at_least:
                raise ValueError(f"Expected {self.at_least} to {self.at_most} characters")
            raise ValueError(f"Expected at most {self.at_most} characters")
        if self.pattern and not re.fullmatch(self.pattern, value):
            raise ValueError(self.hint)
        return value

    def coerce(self, value):
        if type(value) in (int, float, bool):
            return json.dumps(value)
        return value

    def describe(self):
        schema: dict[str, Any] = {"type": "string", "maxLength": self.at_most}
        if self.at_least:
            schema["minLength"] = self.at_least
        if self.pattern:
            schema["pattern"] = f"^(?:{self.pattern})$"
        return schema


class Choice(Member, peewee.TextField):
    """One word out of a fixed few; the table holds it to them too."""

    def __init__(self, words: str, **options: Any):
        super().__init__(**options)
        self.words = tuple(words.split())

    def bind(self, model, name, set_attribute=True):
        listed = ", ".join(f"'{word}'" for word in self.words)
        self.constraints = [peewee.Check(f'"{self.column_name or name}" IN ({listed})')]
        super().bind(model, name, set_attribute)

    def read(self, value):
        if value not in self.words:
            raise ValueError(f"Expected one of: {', '.join(self.words)}")
        return value

    def describe(self):
        return {"type": "string", "enum": list(self.words)}


class Integer(Member, peewee.IntegerField):
    """A whole number between two bounds."""

    json_type, python_type = "integer", int

    def __init__(self, at_least: int = -(2**63), at_most: int = 2**63 - 1, **options: Any):
        super().__init__(**options)
        self.at_least, self.at_most = at_least, at_most

    def coerce(self, value):
        is_number = type(value) is str and re.fullmatch(r"-?[0-9]{1,19}", value)
        return int(value) if is_number else value

    def read(self, value):
        # JSON has one kind of number: 5.0 is the whole number 5.
        whole = int(value) if type(value) is float and value.is_integer() else value
        if not self.at_least <= super().read(whole) <= self.at_most:
            raise ValueError(f"Expected a number from {self.at_least} to {self.at_most}")
        return whole

    def parse(self, text):
        if not re.fullmatch(r"-?[0-9]{1,19}", text):
            raise ValueError("Expected integer")
        return int(text)

    def describe(self):
        return {"type": "integer", "minimum": self.at_least, "maximum": self.at_most}


class Number(Member, peewee.FloatField):
    """A number that need not be whole."""

    json_type, python_type = "number", float

    def read(self, value):
        return super().read(float(value) if type(value) is int and abs(value) < 2**53 else value)

    def parse(self, text):
        try:
            return read_float(text)
        except ValueError:
            raise ValueError("Expected number") from None

    def sql(self, value):
        # SQLite's own JSON writes 15 digits; a float may need 17 to come back as it was.
        short, middle, long = (f"printf('%!.{digits}g', {value})" for digits in (15, 16, 17))
        return (
            f"json(CASE WHEN {value} IS NULL THEN NULL "
            f"WHEN CAST({short} AS REAL) = {value} THEN {short} "
            f"WHEN CAST({middle} AS REAL) = {value} THEN {middle} ELSE {long} END)"
        )


class Boolean(Member, peewee.IntegerField):
    """True or false, kept as 1 or 0."""

    json_type, python_type = "boolean", bool

    def bind(self, model, name, set_attribute=True):
        self.constraints = [peewee.Check(f'"{self.column_name or name}" IN (0, 1)')]
        super().bind(model, name, set_attribute)

    def db_value(self, value):
        return None if value is None else int(value)

    def python_value(self, value):
        return None if value is None else bool(value)

    def stored(self, record):
        return self.db_value(super().stored(record))

    def parse(self, text):
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() not in words:
            raise ValueError("Expected true or false")
        return words[text.lower()]

    def sql(self, value):
        return f"json(CASE {value} WHEN 1 THEN 'true' WHEN 0 THEN 'false' END)"


class Timestamp(Member, peewee.TextField):
    """A point in time, stored as it is written: ISO 8601 in UTC, fixed in width.

    `dates` takes a plain date for its first moment.
    """

    def __init__(self, digits: int = 3, *, dates: bool = False, hidden: bool = False, **options):
        super().__init__(**options)
        self.digits, self.dates, self.hidden = digits, dates, hidden

    def read(self, value):
        return parse_timestamp(super().read(value), self.digits, self.dates)

    def parse(self, text):
        return parse_timestamp(text, self.digits, dates=True)

    def describe(self):
        if not self.dates:
            return {"type": "string", "format": "date-time"}
        return {"type": "string", "anyOf": [{"format": "date-time"}, {"format": "date"}]}


# --- Compound fields ----------------------------------------------------------


class Anything:
    """Any JSON value."""

    def coerce(self, value: Any) -> Any:
        """The value as it is."""
        return value

    def read(self, value: Any) -> Any:
        """The value as it is."""
        return value

    def describe(self) -> dict:
        """A schema that everything fits."""
        return {}


class ListOf:
    """A JSON array whose elements are all of one kind."""

    def __init__(self, element: Any, at_most: int = 1000):
        self.element, self.at_most = element, at_most

    def coerce(self, value: Any) -> Any:
        """The array with each element as a lenient surface takes it."""
        return list(map(self.element.coerce, value)) if isinstance(value, list) else value

    def read(self, value: Any) -> list:
        """Check every element; tell all faults with their positions."""
        if not isinstance(value, list):
            raise ValueError("Expected array")
        if len(value) > self.at_most:
            raise ValueError(f"Expected at most {self.at_most} elements")
        return read_each(enumerate(value), self.element)[1]

    def describe(self) -> dict:
        """This array's JSON schema."""
        return {"type": "array", "items": self.element.describe(), "maxItems": self.at_most}


class MapOf:
    """A JSON object of free names whose values are all of one kind."""

    def __init__(self, element: Any, at_most: int = 1000, name: Text | None = None):
        self.element, self.at_most, self.name = element, at_most, name or Text(255)

    def coerce(self, value: Any) -> Any:
        """The object with each value as a lenient surface takes it."""
        if not isinstance(value, dict):
            return value
        return {name: self.element.coerce(inner) for name, inner in value.items()}

    def read(self, value: Any) -> dict:
        """Check every name and value; tell all faults with their names."""
        if not isinstance(value, dict):
            raise ValueError("Expected object")
        if len(value) > self.at_most:
            raise ValueError(f"Expected at most {self.at_most} entries")
        read_each(((key, key) for key in value), self.name)
        return dict(zip(*read_each(value.items(), self.element), strict=True))

    def describe(self) -> dict:
        """This object's JSON schema."""
        return {
            "type": "object",
            "additionalProperties": self.element.describe(),
            "propertyNames": self.name.describe(),
            "maxProperties": self.at_most,
        }


def read_each(items: Iterable[tuple[Any, Any]], element: Any) -> tuple[list, list]:
    """Read every item's value with one reader; return the names and the values."""
    names, values, issues = [], [], []
    for name, value in items:
        try:
            values.append(element.read(value))
            names.append(name)
        except ValueError as error:
            issues += Faults.of(error, name)
    if issues:
        raise Faults(issues)
    return names, values


class Json(Member, peewee.TextField):
    """A JSON array or object, kept as text; `of` says what it must hold."""

    def __init__(self, of: Any, *, hidden: bool = False, **options: Any):
        super().__init__(**options)
        self.of, self.hidden = of, hidden

    def read(self, value):
        return self.of.read(value)

    def coerce(self, value):
        return self.of.coerce(value)

    def parse(self, text):
        # A list of words is written with commas by whoever fills a table in by hand.
        if isinstance(self.of, ListOf) and isinstance(self.of.element, Text) and text[:1] != "[":
            return [part.strip() for part in text.split(",") if part.strip()]
        try:
            return json.loads(text)
        except ValueError:
            raise ValueError("Expected JSON") from None

    def db_value(self, value):
        return None if value is None else to_json(value)

    def python_value(self, value):
        return None if value is None else json.loads(value)

    def stored(self, record):
        return self.db_value(super().stored(record))

    def describe(self):
        return self.of.describe()

    def sql(self, value):
        return f"json({value})"


class Related(peewee.ForeignKeyAccessor):
    """Reads the record that a foreign key names by the SQL that is kept for its model."""

    def get_rel_instance(self, instance):
        key = instance.__data__.get(self.name)
        if key is not None and self.name not in instance.__rel__:
            instance.__rel__[self.name] = self.rel_model.fetch(key)
        return super().get_rel_instance(instance)


class ForeignKey(Member, peewee.ForeignKeyField):
    """Points at another record by its id, which is its member; reads as that record."""

    accessor_class = Related

    def read(self, value):
        if not 0 < len(super().read(value)) <= 64:
            raise ValueError(f"Expected the id of a {self.rel_model.noun()}")
        return value

    def value(self, record):
        return record.__data__.get(self.name)

    def describe(self):
        return {"type": "string", "minLength": 1, "maxLength": 64}


class PrefixedId(Member, peewee.TextField):
    """A primary key such as find_01HXY…, in the order in which records are made."""

    def __init__(self, prefix: str):
        super().__init__(primary_key=True, default=lambda: session().source.ulid(prefix))
        self.prefix = prefix

    def read(self, value):
        if not re.fullmatch(self.prefix + "_[0-9A-Za-z]{1,40}", super().read(value)):
            raise ValueError(f"Expected an id that starts with {self.prefix}_")
        return value

    def describe(self):
        return {"type": "string", "pattern": f"^{self.prefix}_"}


UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def read_uuid(value: Any) -> str:
    """A UUID in lower case, from one in either letter case; ValueError when it is none."""
    if not isinstance(value, str) or not UUID.fullmatch(value.lower()):
        raise ValueError("Expected a UUID")
    return value.lower()


class Uuid(Member, peewee.TextField):
    """A random primary key."""

    def __init__(self, *, hidden: bool = False):
        super().__init__(primary_key=True, default=lambda: session().source.uuid())
        self.hidden = hidden

    def read(self, value):
        return read_uuid(value)

    def describe(self):
        return {"type": "string", "format": "uuid"}


class Sealed(str):
    """The text of an encrypted value, as it stands in the file."""


class SealedAccessor(peewee.FieldAccessor):
    """Opens a sealed value when somebody reads it, not before."""

    def __get__(self, instance, instance_type=None):
        value = super().__get__(instance, instance_type)
        if type(value) is Sealed:
            opened = session().ring.open(value, self.field.place(instance._pk))
            # As long as it is not replaced, the file keeps the bytes that the ledger knows.
            instance.__dict__.setdefault("sealed_values", {})[self.name] = opened, value
            instance.__data__[self.name] = value = opened
        return value


class Encrypted(Text):
    """A string that the file holds only encrypted, bound to its table, column and record."""

    accessor_class = SealedAccessor
    sealed = True

    @property
    def is_secret(self) -> bool:
        """Whether it opens something, as what is encrypted and never shown does."""
        return self.hidden

    def place(self, key: str) -> str:
        """What the encryption is bound to, so that a value cannot be moved elsewhere."""
        return f"{self.model._meta.table_name}/{self.column_name}/{key}"

    def python_value(self, value):
        return None if value is None else Sealed(value)

    def stored(self, record):
        value = record.__data__.get(self.name)
        if value is None or type(value) is Sealed:
            return value
        # A row is hashed as it is stored, so one value is sealed only once.
        sealed = record.__dict__.setdefault("sealed_values", {})
        if self.name not in sealed or sealed[self.name][0] != value:
            sealed[self.name] = value, session().ring.seal(value, self.place(record._pk))
        return sealed[self.name][1]


# --- Statements ---------------------------------------------------------------


class Derived(NamedTuple):
    """A member that is worked out at each read: `sql` gives its JSON text from the row `t1`.

    `present()` is the instance's time in that SQL; `(SELECT present())` asks for it only once.
    """

    member: Any
    sql: str


class Searched(NamedTuple):
    """What a search looks through in a model's records, and how it tells of one that it found.

    `names` are the columns by which people know a record: who gives the beginning of one, or all of
    it, finds that record first. `text` are the other columns that are looked through. `title` and
    `description` are templates over columns; `told` are the columns that go with them. `number` is
    the kind's own in the index of every file and never changes; where too much is found, higher
    numbers are looked at first.
    """

    number: int
    kind: str
    names: str
    description: str
    text: str = ""
    title: str = "{title}"
    told: str = "status created_at"


class Statements:
    """The SQL of one model that hot paths use again and again, made once from peewee's queries."""

    def __init__(self, model: type[Model]):
        self.model = model
        columns = model._meta.sorted_fields
        stored = {column: f'"{column.column_name}"' for column in columns}
        given = {column: f"?{number}" for number, column in enumerate(columns, 1)}
        names, values = list(stored.values()), list(given.values())
        self.json = self.json_text(stored)
        if model.fact:
            # What a read gives out is written once, instead of at every read.
            names, values = [*names, '"json"'], [*values, self.json_text(given)]
        table = f'"{model._meta.table_name}"'
        # One row comes or does not, so FAIL does what ABORT does; but for ABORT, where there is a
        # trigger, SQLite keeps a copy of every page that the row goes to.
        listed = f"({', '.join(names)}) VALUES ({', '.join(values)})"
        self.insert = f"INSERT OR FAIL INTO {table} {listed}"
        self.plain = '"json"' if model.fact else self.json
        self.text = peewee.SQL(self.with_derived(self.plain, model.derived))
        self._retrievals: dict[tuple[str, ...], str] = {}
        self._queries: dict[tuple[str, ...], str] = {}
        self.names = [column.name for column in columns]
        #: Which columns the file does not hold as a record does.
        self.converted = [
            (index, column)
            for index, column in enumerate(columns)
            if type(column).stored is not Member.stored
        ]
        key = stored[model._meta.primary_key]
        self.refresh = f'UPDATE {table} SET "json" = {self.json} WHERE {key} = ?'
        self.delete = f"DELETE FROM {table} WHERE {key} = ?"
        given = {column.name: column.default for column in columns if column.default is not None}
        self.constants = {name: one for name, one in given.items() if not callable(one)}
        self.makers = {name: one for name, one in given.items() if callable(one)}

    def query(
        self, key: Sequence, values: Mapping[str, Any], ending: str, columns: str = ""
    ) -> tuple[str, Sequence]:
        """SQL for the records with certain values, or with a key, and what it is given.

        It reads the columns that are told, or all; the ending says in which order, and how many.
        """
        told = columns, ending, bool(key), *values
        sql = self._queries.get(told) or self._queries.setdefault(told, self.make_query(*told))
        fields = self.model._meta.fields
        return sql, key or [fields[name].db_value(value) for name, value in values.items()]

    def make_query(self, columns: str, ending: str, by_key: bool, *names: str) -> str:
        """Write the SQL of the records with certain values, or with a key."""
        meta = self.model._meta
        sought = [meta.primary_key] if by_key else [meta.fields[name] for name in names]
        # Unlike =, IS finds what is null, too; an index serves both.
        where = " AND ".join(f'"{field.column_name}" IS ?' for field in sought) or "1"
        every = ", ".join(f'"{field.column_name}"' for field in meta.sorted_fields)
        return f'SELECT {columns or every} FROM "{meta.table_name}" WHERE {where} {ending}'

    def values(self, record: Model) -> list:
        """All columns of a record as the file holds them, in the order of the table."""
        row = list(map(record.__data__.get, self.names))
        for index, column in self.converted:
            row[index] = column.stored(record)
        return row

    def with_defaults(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a new record, with the defaults of those that are not told."""
        data = {**self.constants, **values}
        for name, make in self.makers.items():
            if name not in values:
                data[name] = make()
        return data

    def with_derived(self, text: str, derived: Mapping[str, Derived]) -> str:
        """SQL for a record's JSON text with members that are worked out at each read."""
        if not derived:
            return text
        told = [f"""',"{name}":' || {one.sql}""" for name, one in derived.items()]
        return " || ".join([f"substr({text}, -1, {-(1 << 30)})", *told, "'}'"])

    def update(self, names: Sequence[str]) -> str:
        """SQL that sets the named fields of one record."""
        meta = self.model._meta
        assignments = ", ".join(f'"{meta.fields[name].column_name}" = ?' for name in names)
        key = meta.primary_key.column_name
        return f'UPDATE "{meta.table_name}" SET {assignments} WHERE "{key}" = ?'

    def without(self, members: tuple[str, ...]) -> peewee.SQL:
        """SQL for a record's JSON text that lacks some members."""
        if not members:
            return self.text
        derived = {name: one for name, one in self.model.derived.items() if name not in members}
        paths = "".join(f", '$.{name}'" for name in members if name not in self.model.derived)
        text = f"json_remove({self.plain}{paths})" if paths else self.plain
        return peewee.SQL(self.with_derived(text, derived))

    def retrieval(self, members: tuple[str, ...] = ()) -> str:
        """SQL that reads the JSON text of one record, less some members."""
        if members not in self._retrievals:
            one = self.model._meta.primary_key == peewee.SQL("?")
            text = self.without(members).cast("BLOB")
            self._retrievals[members] = self.model.select(text).where(one).sql()[0]
        return self._retrievals[members]

    def json_text(self, stored: Mapping[Member, str]) -> str:
        """SQL for a record's JSON text, from the SQL of its fields, encrypted values still closed.

        A closed value stands between two raw unit separators, which JSON text never holds.
        """
        key, parts, plain = stored[self.model._meta.primary_key], [], []
        for member, column in self.model.members().items():
            if not column.sealed:
                plain.append(f"'{member}', {column.sql(stored[column])}")
                continue
            before = f"json_object({', '.join(plain)})"
            before = f"substr({before}, 2)" if parts else before
            # All that precedes the last character, so that the object is written only once.
            parts.append(f"substr({before}, -1, {-(1 << 30)})")
            closed = (
                f"char(31) || '{column.place('')}' || {key} || '/' || {stored[column]} || char(31)"
            )
            parts.append(f"""',"{member}":' || ifnull({closed}, 'null') || ','""")
            plain = []
        last = f"json_object({', '.join(plain)})"
        return " || ".join([*parts, f"substr({last}, 2)" if parts else last])


def unseal(text: bytes, ring: KeyRing) -> bytes:
    """Open the encrypted values in the JSON text of one record or of many."""
    pieces = text.split(b"\x1f")
    if len(pieces) > 1:
        ring.open_each(pieces)
    return b"".join(pieces)


# --- Models -------------------------------------------------------------------


class CurrentDatabase:
    """Stands in for the database of the session that is current in this thread.

    Without one, it knows the dialect and no file: enough to declare models and to write SQL.
    """

    dialect = peewee.SqliteDatabase(None)

    def __getattr__(self, name):
        current = _session.get(None)
        return getattr(current.database if current else self.dialect, name)


class Findable:
    """Mixed into what has a table: how its records are found, by SQL that is written once.

    Values are those of fields, by name; None is one, too.
    """

    @classmethod
    def noun(cls) -> str:
        """What one of these is called in a sentence."""
        return cls._meta.table_name.replace("_", " ")

    @classmethod
    @functools.cache
    def statements(cls) -> Statements:
        """The SQL kept for this model."""
        return Statements(cls)

    @classmethod
    def loaded(cls, row: Sequence) -> Model:
        """The record that a row of all columns holds."""
        record = cls(__no_default__=True)
        for field, value in zip(cls._meta.sorted_fields, row, strict=True):
            record.__data__[field.name] = field.python_value(value)
        record._dirty.clear()
        return record

    @classmethod
    def load(cls, sql: str, values: Sequence = ()) -> list[Model]:
        """The records whose rows a query of all columns finds."""
        found = session().database.connection().execute(sql, values).fetchall()
        return [cls.loaded(row) for row in found]

    @classmethod
    def every(cls, **values: Any) -> list[Model]:
        """The records with these values, in the order in which they were made."""
        return cls.load(*cls.statements().query((), values, "ORDER BY rowid"))

    @classmethod
    def last(cls, **values: Any) -> Model | None:
        """The record with these values that was made last, or None."""
        newest = cls.statements().query((), values, "ORDER BY rowid DESC LIMIT 1")
        return next(iter(cls.load(*newest)), None)

    @classmethod
    def seek(cls, *key: str, **values: Any) -> Model | None:
        """The record with this id, or the first one made with these values; None without."""
        oldest = cls.statements().query(key, values, "ORDER BY rowid LIMIT 1")
        return next(iter(cls.load(*oldest)), None)

    @classmethod
    def has(cls, *key: str, **values: Any) -> bool:
        """Whether there is a record with this id, or one with these values."""
        sql, given = cls.statements().query(key, values, "LIMIT 1", "1")
        return session().database.connection().execute(sql, given).fetchone() is not None

    @classmethod
    def fetch(cls, key: str) -> Model:
        """The record with this id, or NotFound."""
        record = cls.seek(key)
        if record is None:
            raise NotFound(f"There is no {cls.noun()} with the id {key}.")
        return record


class Model(Findable, peewee.Model):
    """The base of every table, and of the rules of its records.

    A model says with class attributes: `fact`, what the audit log calls it (empty: its writes are
    not facts); `key`, the field or fields (separated by spaces) that name a record among its kind;
    `lookup`, those of more indexes, parted by commas; `moves`, which status may follow which;
    `subject`, under which (module, type) other records point at it; `append_only`, that triggers
    refuse update and delete; `seeds`, what it holds at first; `searched`, how a search finds it.
    """

    fact: ClassVar[str] = ""
    made: ClassVar[str] = "created"
    key: ClassVar[str] = ""
    lookup: ClassVar[str] = ""
    moves: ClassVar[Mapping[str, str]] = {}
    subject: ClassVar[tuple[str, str] | None] = None
    append_only: ClassVar[bool] = False
    #: Whether a change moves `updated_at` even when it changes nothing else.
    touched: ClassVar[bool] = False
    #: What a read adds to the stored members, by member.
    derived: ClassVar[Mapping[str, Derived]] = {}
    searched: ClassVar[Searched | None] = None
    #: The layout of the file that brought the table.
    since: ClassVar[int] = 1
    seeds: ClassVar[Sequence[Mapping[str, Any]]] = ()
    schema_name: ClassVar[str] = ""

    class Meta:
        database = CurrentDatabase()
        legacy_table_names = False
        strict_tables = True
        # Every table names its own; without this, each would start from a copy of a counter.
        primary_key = False

    @classmethod
    @functools.cache
    def members(cls) -> dict[str, Member]:
        """The fields that callers see, by the names of their members."""
        named = {camel(f.column_name): f for f in cls._meta.sorted_fields if not f.hidden}
        # A derived member stands in for the stored one of its name.
        return {name: f for name, f in named.items() if name not in cls.derived}

    @classmethod
    def create(cls, **values) -> Model:
        """Make a record, and note it as a fact."""
        record = cls(__no_default__=True)
        statements = cls.statements()
        record.__data__ = statements.with_defaults(values)
        row = record.row()
        session().database.connection().execute(statements.insert, row)
        if cls.fact:
            session().facts.append((cls.made, cls, record._pk, row, None))
        return record

    def change(self, **values) -> set[str]:
        """Set these fields, keeping to the moves of the status, and note it as a fact.

        Returns the names of the fields that were another value before.
        """
        known = self._meta.fields
        before = {name: known[name].value(self) for name in values}
        changed = {name: value for name, value in values.items() if before[name] != value}
        if not changed and not self.touched:
            return set()
        if "status" in changed and self.moves:
            check_move(self, changed["status"])
        if "updated_at" in known:
            changed.setdefault("updated_at", session().source.now(known["updated_at"].digits))
        for name, value in changed.items():
            setattr(self, name, value)
        self.store(list(changed))
        if self.fact:
            told = [name for name in values if name in changed and not known[name].is_secret]
            was = {camel(known[name].column_name): before[name] for name in told}
            session().facts.append(("updated", type(self), self._pk, self.row(), was))
        return set(changed)

    def store(self, names: Sequence[str]) -> None:
        """Write the named fields, and no others, to the file."""
        statements, connection = self.statements(), session().database.connection()
        values = [self._meta.fields[name].stored(self) for name in names]
        connection.execute(statements.update(names), [*values, self._pk])
        if self.fact:
            connection.execute(statements.refresh, (self._pk,))

    def remove(self) -> None:
        """Take the record away, and note it as a fact."""
        take_along(self)
        row = self.row()
        session().database.connection().execute(self.statements().delete, (self._pk,))
        if self.fact:
            session().facts.append(("deleted", type(self), self._pk, row, None))

    @classmethod
    def overdue(cls, workspace: Workspace, at: float) -> Iterable[Model]:
        """The records whose validity has passed at a time, and that do not say so yet."""
        return ()

    @classmethod
    @functools.cache
    def key_fields(cls) -> list[Member]:
        """The fields that name a record among its kind."""
        return [cls._meta.fields[name] for name in cls.key.split()]

    def row(self) -> list:
        """All columns as the file holds them, in the order of the table."""
        return self.statements().values(self)

    def json(self) -> dict:
        """This record as both APIs give it out."""
        if self.derived:
            return json.loads(session().workspace.json_of(type(self), self._pk))
        return {member: field.value(self) for member, field in self.members().items()}


def take_along(record: Model) -> None:
    """Remove what goes with a record; Conflict names what still points at it and stays."""
    for key in record._meta.backrefs:
        sql = pointing_sql(key)
        pointing = session().database.connection().execute(sql, (record._pk,)).fetchall()
        if key.on_delete == "CASCADE":
            # Through the same door, so that the ledger knows of it.
            for (other,) in pointing:
                key.model.fetch(other).remove()
        elif pointing:
            user = key.model.noun()
            raise Conflict(f"This {record.noun()} is still in use by {user} records.")


@functools.cache
def pointing_sql(key: ForeignKey) -> str:
    """SQL for the ids of the records that point at one record by this field."""
    return key.model.select(key.model._meta.primary_key).where(key == "?").sql()[0]


def check_move(record: Model, status: str) -> None:
    """Refuse a status that may not follow the present one."""
    allowed = record.moves.get(record.status, "").split()
    if status not in allowed:
        choices = f"it can become {', '.join(allowed)}" if allowed else "it stays as it is"
        raise Unprocessable(
            f"This {record.noun()} is {record.status} and cannot become {status}; {choices}.",
            [issue(["status"], f"Cannot follow {record.status}")],
        )


def all_models() -> list[type[Model]]:
    """Every table's model, those that others point to first."""
    return sort_models(tuple(concrete(Model)))


def concrete(model: type[Model]) -> Iterator[type[Model]]:
    """The models below one that have a table."""
    for kind in model.__subclasses__():
        if not kind.__dict__.get("abstract"):
            yield kind
        yield from concrete(kind)


@functools.cache
def sort_models(models: tuple[type[Model], ...]) -> list[type[Model]]:
    """Models, those that others point to first."""
    return peewee.sort_models(models)


# --- Schemas ------------------------------------------------------------------


class Schema:
    """What a JSON object must hold: fields of models by attribute, others by name.

    `required` and `optional` name members whose field alone would say otherwise; `aliases` are
    further names under which a member is accepted.
    """

    def __init__(
        self,
        *columns: Member,
        required: str = "",
        optional: str = "",
        aliases: Mapping[str, str] = MappingProxyType({}),
        name: str = "",
        **own: Any,
    ):
        self.members = {camel(column.column_name): (column.name, column) for column in columns}
        self.members |= {camel(name): (name, member) for name, member in own.items()}
        self.aliases, self.name = aliases, name
        self.required = {
            member
            for member, (_, field) in self.members.items()
            if member in required.split()
            or not (field.null or field.default is not None or member in optional.split())
        }

    def read(
        self, data: Any, *, partial: bool = False, coerce: bool = False, parse: bool = False
    ) -> dict:
        """Check an object against this schema; its values, named as the fields are, or all faults.

        `partial` lets required members be absent; `coerce` takes numbers for strings; `parse` takes
        every value from text, as in a table's cell or a query.
        """
        if not isinstance(data, dict):
            raise Faults([([], "Expected object")])
        values, issues = {}, []
        for member, (name, field) in self.members.items():
            value = data.get(member)
            if value is None and self.aliases:
                value = self.by_alias(data, member)
            if value is None and member not in data and member not in self.required:
                continue
            try:
                if value is None:
                    self.read_absent(data, member, name, field, partial, values)
                    continue
                if parse and isinstance(value, str):
                    value = field.parse(value)
                values[name] = field.read(field.coerce(value) if coerce else value)
            except ValueError as error:
                issues += Faults.of(error, member)
        if issues:
            raise Faults(issues)
        return values

    def by_alias(self, data: dict, member: str) -> Any:
        """The value that stands under another name of a member."""
        for alias, meant in self.aliases.items():
            if meant == member and data.get(alias) is not None:
                return data[alias]
        return None

    def read_absent(self, data, member, name, field, partial, values) -> None:
        """What an absent or null member means: the default, a null, or a fault."""
        if member in self.required:
            if not partial:
                raise ValueError("Required")
        elif not partial and member in data and field.null and field.default is None:
            values[name] = None

    def describe(self, partial: bool = False) -> dict:
        """This schema as a JSON schema; where it is `partial`, what is absent stays as it is."""
        schema = {
            "type": "object",
            "properties": {
                member: describe_member(field, member not in self.required, not partial)
                for member, (_, field) in self.members.items()
            },
        }
        if self.required and not partial:
            schema["required"] = [member for member in self.members if member in self.required]
        return schema


def describe_member(field: Any, writing: bool = False, fills: bool = True) -> dict:
    """One member's JSON schema, with null where the field has it, and with the default that it
    fills in."""
    schema = field.describe()
    if getattr(field, "null", False) or (writing and getattr(field, "default", None) is not None):
        types = schema["type"]
        schema["type"] = [*(types if isinstance(types, list) else [types]), "null"]
        if "enum" in schema:
            schema["enum"] = [*schema["enum"], None]
    default = getattr(field, "default", None)
    if writing and fills and default is not None and not callable(default):
        schema["default"] = default
    return schema


def describe_model(model: type[Model], without: tuple[str, ...] = ()) -> dict:
    """A record, less some members, as a JSON schema: every member is always there."""
    told = model.members() | {name: one.member for name, one in model.derived.items()}
    properties = {name: describe_member(one) for name, one in told.items() if name not in without}
    return {"type": "object", "properties": properties, "required": list(properties)}


class Filters(Schema):
    """The query of a list: everything may be absent that `required` does not name."""

    def __init__(self, *columns: Member, required: str = "", **own: Any):
        super().__init__(*columns, **own)
        self.required = set(required.split())


class Shape(Schema):
    """An object inside a record; its values keep the names of their members."""

    def coerce(self, value: Any) -> Any:
        """The object with each member as a lenient surface takes it."""
        if not isinstance(value, dict):
            return value
        known = ((member, field) for member, (_, field) in self.members.items() if member in value)
        return value | {member: field.coerce(value[member]) for member, field in known}

    def read(self, data, **options):
        values = super().read(data, **options)
        return {
            member: values[name] if name in values else default_of(field)
            for member, (name, field) in self.members.items()
        }


def default_of(field: Any) -> Any:
    """What a member is that nobody gave."""
    return field.default() if callable(field.default) else field.default


NOTHING = Schema()


# --- Keys and encryption ------------------------------------------------------


class RingKey(Model):
    """A key of the workspace, wrapped by a key that is kept outside the file."""

    id = Integer(primary_key=True)
    wrapped = Text()
    created_at = Timestamp(default=now)


class KeyRing:
    """The keys of one workspace: the newest seals, every one opens.

    AES-256-GCM with 96-bit nonces; a sealed text is `<key id>.<base64 of nonce and ciphertext>`.
    Keys for other purposes (tokens, cursors, secrets) derive from the first key by HMAC-SHA-256.
    """

    def __init__(self, wrapping_key: bytes, source: Source):
        self._wrapping, self._source = AESGCM(wrapping_key), source
        self._keys: dict[str, AESGCM] = {}
        self._root = b""
        self._newest = ""

    @property
    def newest(self) -> int:
        """The number of the key that seals."""
        return int(self._newest)

    def wrap(self, key_id: int, key: bytes) -> str:
        """Encrypt a new key for the file."""
        nonce = self._source.random.randbytes(12)
        sealed = nonce + self._wrapping.encrypt(nonce, key, b"ring/%d" % key_id)
        return base64.b64encode(sealed).decode()

    def add(self, key_id: int, wrapped: str) -> None:
        """Take a key from the file into use; Unavailable if the wrapping key is not its own."""
        sealed = base64.b64decode(wrapped)
        try:
            key = self._wrapping.decrypt(sealed[:12], sealed[12:], b"ring/%d" % key_id)
        except InvalidTag:
            raise Unavailable(
                "The workspace's keys cannot be opened: NOVANTRA_LITE_KEY or the key file beside "
                "the database is not the one that this file was made with."
            ) from None
        self._root = self._root or key
        self._keys[str(key_id)] = AESGCM(key)
        self._newest = str(key_id)

    def derive(self, purpose: str) -> bytes:
        """A key of 32 bytes for one purpose."""
        return hmac.digest(self._root, purpose.encode(), "sha256")

    def seal(self, text: str, place: str) -> str:
        """Encrypt a text for one place in the file.

        What is encrypted is its JSON, so that an answer is put together without reading it.
        """
        sealed = self.seal_bytes(quote(text).encode(), place)
        return self._newest + "." + binascii.b2a_base64(sealed, newline=False).decode()

    def open(self, sealed: str, place: str) -> str:
        """Decrypt a text from one place in the file; Unavailable if it was tampered with."""
        key_id, _, text = sealed.partition(".")
        try:
            data = binascii.a2b_base64(text)
            bound = f"{place}/{key_id}".encode()
            return json.loads(self._keys[key_id].decrypt(data[:12], data[12:], bound))
        except (InvalidTag, KeyError, ValueError):
            log.error("An encrypted value in %s cannot be opened.", place)
            raise Unavailable("An encrypted value of this record cannot be opened.") from None

    def open_each(self, pieces: list[bytes]) -> None:
        """Put the JSON of what was sealed in the place of every second piece of an answer.

        Such a piece is what the value is bound to, a full stop, and its nonce and ciphertext.
        """
        decode, only = binascii.a2b_base64, len(self._keys) == 1
        decrypt = self._keys[self._newest].decrypt
        try:
            for index in range(1, len(pieces), 2):
                bound, _, text = pieces[index].rpartition(b".")
                data = decode(text)
                if not only:
                    decrypt = self.key_of(bound).decrypt
                pieces[index] = decrypt(data[:12], data[12:], bound)
        except (InvalidTag, KeyError, ValueError):
            log.error(
                "An encrypted value in %s cannot be opened.", pieces[index].partition(b".")[0]
            )
            raise Unavailable("An encrypted value of this record cannot be opened.") from None

    def key_of(self, bound: bytes) -> AESGCM:
        """The key that is named at the end of what a value is bound to."""
        return self._keys[bound.rpartition(b"/")[2].decode()]

    def seal_bytes(self, data: bytes, place: str) -> bytes:
        """Encrypt bytes for one place in the file: nonce, then ciphertext."""
        nonce = self._source.random.randbytes(12)
        bound = f"{place}/{self._newest}".encode()
        return nonce + self._keys[self._newest].encrypt(nonce, data, bound)

    def open_bytes(self, data: bytes, place: str) -> bytes:
        """Decrypt bytes from one place in the file, with whichever key sealed them."""
        for key_id, key in self._keys.items():
            with contextlib.suppress(InvalidTag, ValueError):
                return key.decrypt(data[:12], data[12:], f"{place}/{key_id}".encode())
        log.error("Encrypted bytes in %s cannot be opened.", place)
        raise Unavailable("The encrypted content of this record cannot be opened.")


def wrapping_key(setting: str, beside: Path | None, source: Source) -> bytes:
    """The key that wraps a ring: from the setting, from the key file, or made just now.

    The setting may be 32 bytes in base64 or a passphrase; the key file is made with mode 0600.
    """
    if setting:
        with contextlib.suppress(ValueError):
            raw = base64.b64decode(setting, validate=True)
            if len(raw) == 32:
                return raw
        return hashlib.scrypt(
            setting.encode(), salt=b"novantra-lite ring", n=2**14, r=8, p=1, dklen=32
        )
    if beside is None:
        return source.random.randbytes(32)
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        with contextlib.suppress(ValueError):
            key = base64.b64decode(beside.read_text().strip(), validate=True)
            if len(key) == 32:
                return key
        raise Unavailable(
            f"{beside.name} does not hold a key: put back the one that did."
        ) from None
    key = source.random.randbytes(32)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(base64.b64encode(key) + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    return key


# --- Search index -------------------------------------------------------------
# SQLite's FTS5 with its tokenizer of trigrams finds any three characters wherever they stand, in
# every script, and folds upper to lower case as Unicode 6.1 does.
#
# A trigger on the ledger notes each record that is made, changed or taken away. The writer takes
# the notes into the index once they are many, for one alone costs as much as a dozen, and before
# somebody searches. The trigger could not: with trusted_schema off, SQLite before 3.41 lets none
# write to a virtual table. One on each table would make every opening of the file slower, and every
# insert: SQLite keeps a copy of each page that one goes to if it may fail halfway.

#: How many notes wait for the index at most.
NOTES = 64

#: How many matches are counted and ranked at most.
MATCHES = 10_000
#: How many trigrams stand for a text that is shorter than one.
TRIGRAMS = 500
#: Before and after a name; between other texts: characters that Unicode sets aside for such use.
#: Two stand at the end, so that each character of the text begins a trigram: by these are found
#: texts that are shorter than one.
NAMED, PARTED = "\ufdd0", "\ufdd1"
#: How many places in the index each kind of record has.
PLACES = 1 << 40

SEARCH_INDEX = """CREATE VIRTUAL TABLE "search" USING fts5(
    "text", content = 'search_record', content_rowid = 'place', columnsize = 0, tokenize = 'trigram'
)"""


class SearchRecord(Model):
    """A record as the search index has it: the table, the id, the text, and the place of all that.

    Places are ordered as the records of a kind were made.
    """

    since, key = 4, "kind record"

    place = Integer(primary_key=True)
    kind = Text()
    record = Text()
    text = Text()


class SearchNote(Model):
    """A record that was touched since the index was brought up to date.

    What its searched text was and is stands here only while that is done.
    """

    since = 4

    id = Integer(primary_key=True)
    kind = Text()
    record = Text()
    place = Integer(null=True)
    was = Text(null=True)
    text = Text(null=True)


@functools.cache
def searched_models() -> dict[str, type[Model]]:
    """The models that are searched, by the names of their tables."""
    return {model._meta.table_name: model for model in all_models() if model.searched}


def search_tables() -> list[str]:
    """The statements that make the index, a look at its terms, and what notes changed records."""
    kinds = ", ".join(f"'{table}'" for table in searched_models())
    return [
        SEARCH_INDEX,
        """CREATE VIRTUAL TABLE "search_term" USING fts5vocab("search", 'row')""",
        f"""CREATE TRIGGER "ledger_entry_is_noted" AFTER INSERT ON "ledger_entry"
WHEN NEW."record_type" IN ({kinds}) BEGIN
    INSERT INTO "search_note" ("id", "kind", "record")
    VALUES (NEW."id", NEW."record_type", ifnull(NEW."record_key", NEW."record_id"));
END""",
    ]


def searched_sql(model: type[Model]) -> str:
    """SQL for the text of the row `t` that is searched."""
    known, text = model._meta.fields, []
    for names, mark in ((model.searched.names, NAMED), (model.searched.text, PARTED)):
        for field in (known[name] for name in names.split()):
            column = f't."{field.column_name}"'
            text += [f"'{mark}'", f"ifnull({column}, '')" if field.null else column]
        if mark == NAMED:
            text.append(f"'{mark}'")
    return " || ".join([*text, f"'{PARTED}{PARTED}'"])


def fill_search() -> Iterator[str]:
    """The statements that fill a new search index with the records of an older file.

    Its ledger has the records under their own ids.
    """
    for table, model in searched_models().items():
        yield (
            f"INSERT INTO search_record SELECT {model.searched.number * PLACES} + min(l.id), "
            f"'{table}', t.id, {searched_sql(model)} FROM \"{table}\" AS t JOIN ledger_entry AS l "
            f"ON l.record_id = t.id AND l.record_type = '{table}' GROUP BY t.id"
        )
    yield "INSERT INTO search(search) VALUES ('rebuild')"


@functools.cache
def note_sql(table: str) -> str:
    """SQL that puts into the notes on one table what was and what is to be in the index."""
    model = searched_models()[table]
    known = 'FROM "search_record" AS r WHERE r."kind" = n."kind" AND r."record" = n."record"'
    return f"""UPDATE "search_note" AS n SET
        "place" = ifnull((SELECT r."place" {known}), {model.searched.number * PLACES} + n."id"),
        "was" = (SELECT r."text" {known}),
        "text" = (SELECT {searched_sql(model)} FROM "{table}" AS t WHERE t."id" = n."record")
        WHERE n."kind" = '{table}'"""


#: What leaves one note on each record.
ONE_NOTE_EACH = """DELETE FROM "search_note" WHERE "id" NOT IN
    (SELECT min("id") FROM "search_note" GROUP BY "kind", "record")"""
#: What takes the notes into the index.
TAKING_UP = (
    """INSERT INTO "search" ("search", "rowid", "text") SELECT 'delete', "place", "was"
        FROM "search_note" WHERE "was" IS NOT "text" AND "was" IS NOT NULL ORDER BY "place" """,
    """INSERT INTO "search" ("rowid", "text") SELECT "place", "text"
        FROM "search_note" WHERE "was" IS NOT "text" AND "text" IS NOT NULL ORDER BY "place" """,
    """DELETE FROM "search_record" WHERE "place" IN
        (SELECT "place" FROM "search_note" WHERE "text" IS NULL)""",
    """INSERT INTO "search_record" SELECT "place", "kind", "record", "text"
        FROM "search_note" WHERE "was" IS NOT "text" AND "text" IS NOT NULL
        ON CONFLICT ("place") DO UPDATE SET "text" = excluded."text" """,
    'DELETE FROM "search_note"',
)


def take_up_notes(connection: sqlite3.Connection, beyond: int = 0) -> None:
    """Bring the index up to date in the transaction at hand, if more than so many notes wait."""
    (waiting,) = connection.execute('SELECT count(*) FROM "search_note"').fetchone()
    if waiting <= beyond:
        return
    if waiting > 1:
        connection.execute(ONE_NOTE_EACH)
    for (table,) in connection.execute('SELECT DISTINCT "kind" FROM "search_note"').fetchall():
        connection.execute(note_sql(table))
    for sql in TAKING_UP:
        connection.execute(sql)


def check_search() -> Iterator[str]:
    """Compare the search index with the records; tell each fault in a sentence.

    What is noted is not in it yet.
    """
    connection, file = session().database.connection(), session().workspace.file
    noted = """SELECT 1 FROM "search_note" AS n WHERE n."kind" = '{}' AND n."record" = {}"""
    for table, model in searched_models().items():
        missing = f"""SELECT t."id" FROM "{table}" AS t LEFT JOIN "search_record" AS r
            ON r."kind" = '{table}' AND r."record" = t."id"
            WHERE r."text" IS NOT {searched_sql(model)}
            AND NOT EXISTS ({noted.format(table, 't."id"')})"""
        gone = f"""SELECT r."record" FROM "search_record" AS r WHERE r."kind" = '{table}'
            AND NOT EXISTS (SELECT 1 FROM "{table}" AS t WHERE t."id" = r."record")
            AND NOT EXISTS ({noted.format(table, 'r."record"')})"""
        for (key,) in connection.execute(f"{missing} UNION ALL {gone}"):
            yield f"The search index does not have {model.noun()} {key} as it is."
    with contextlib.closing(sqlite3.connect("", uri=True, isolation_level=None)) as copy:
        # In a copy of it, for the comparison counts as a write.
        copy.execute("ATTACH ? AS file", (f"{file.absolute().as_uri()}?mode=ro",))
        copy.execute('CREATE TABLE "search_record" ("place" INTEGER PRIMARY KEY, "text" TEXT)')
        copy.execute(SEARCH_INDEX)
        copy.execute(
            'INSERT INTO main."search_record" SELECT "place", "text" FROM file."search_record"'
        )
        for part in ("search_data", "search_idx"):
            copy.execute(f'DELETE FROM main."{part}"')
            copy.execute(f'INSERT INTO main."{part}" SELECT * FROM file."{part}"')
        try:
            copy.execute(
                """INSERT INTO main."search" ("search", "rank") VALUES ('integrity-check', 1)"""
            )
        except sqlite3.DatabaseError:
            yield "The search index is not that of the texts of the records."


def find_places(text: str, numbers: Iterable[int]) -> list[int]:
    """The places of the texts of these kinds that hold this text; no more than `MATCHES`.

    What is noted and not in the index yet is not found: `Workspace.update_index` comes before.

    The highest places are found first.
    """
    connection, found = session().database.connection(), []
    asked = match_of(text, connection)
    sql = (
        'SELECT "rowid" FROM "search" WHERE "search" MATCH ? AND "rowid" BETWEEN ? AND ? '
        'ORDER BY "rowid" DESC LIMIT ?'
    )
    for first, last in place_ranges(numbers) if asked else ():
        rows = connection.execute(sql, (asked, first, last, MATCHES - len(found)))
        found += [place for (place,) in rows]
    return found


def place_ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """The first and the last place of kinds whose numbers follow each other, the highest first."""
    runs = itertools.groupby(enumerate(sorted(numbers)), lambda counted: counted[1] - counted[0])
    edges = [[number for _, number in run] for _, run in runs]
    return [(run[0] * PLACES, (run[-1] + 1) * PLACES - 1) for run in reversed(edges)]


def match_of(text: str, connection: sqlite3.Connection) -> str:
    """What FTS5 is asked for a text: nothing in quotes means anything but itself."""
    if len(text) > 2:
        return quoted_term(text)
    # The most frequent, in case they are too many.
    sql = """SELECT "term" FROM "search_term" WHERE "term" >= ? AND "term" < ?
        ORDER BY "doc" DESC LIMIT ?"""
    terms = []
    for start in {text, "".join(map(folded, text))}:
        rows = connection.execute(sql, (start, start + chr(sys.maxunicode), TRIGRAMS))
        terms += [term for (term,) in rows]
    return " OR ".join(map(quoted_term, terms))


def quoted_term(text: str) -> str:
    """A text as FTS5 writes it."""
    return '"' + text.replace('"', '""') + '"'


def folded(character: str) -> str:
    """A character as the index has it, whatever its case."""
    for lower in (character.casefold(), character.lower()):
        if len(lower) == 1:
            return lower
    return character


# --- Connections --------------------------------------------------------------
# What is SQLite's own (full text, pragmas, backup, locks, triggers) stays in the section before, in
# this one and in the next two.

APPLICATION_ID = 0x4E56_4C54
#: Without recursive_triggers, REPLACE would get past the triggers that refuse to delete.
PRAGMAS = {
    "foreign_keys": 1, "recursive_triggers": 1, "trusted_schema": 0, "temp_store": 2,
    "cache_size": -16_384,
}  # fmt: skip


class Database(peewee.SqliteDatabase):
    """A peewee database whose connections are all known, so that all can be closed."""

    def __init__(self, *arguments, **options):
        self.opened: list[tuple[threading.Thread, sqlite3.Connection]] = []
        super().__init__(*arguments, **options)

    def _connect(self):
        self.close_ended()
        connection = super()._connect()
        connection.create_function("present", 0, lambda: session().source.now(6))
        self.opened.append((threading.current_thread(), connection))
        return connection

    def close_ended(self) -> None:
        """Close the connections of threads that have ended; a host may make one per request."""
        for held in [held for held in self.opened if not held[0].is_alive()]:
            with contextlib.suppress(ValueError):
                self.opened.remove(held)
                held[1].close()

    def close_every(self) -> None:
        """Close the connections of all threads."""
        while self.opened:
            self.opened.pop()[1].close()


class FileLock:
    """Keeps a second process from opening a workspace; it names the one that has it."""

    def __init__(self, path: Path):
        self.path = path
        self.open()
        while not self.is_there():
            # Its holder gave it up between our opening and our locking it, and took it away.
            os.close(self.descriptor)
            self.open()
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, f"process {os.getpid()}\n".encode(), 0)

    def open(self) -> None:
        """Open the file and lock it, or raise Conflict."""
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self.take()
        except OSError:
            holder = os.pread(self.descriptor, 200, 0).decode(errors="replace").strip()
            os.close(self.descriptor)
            raise Conflict(
                f"{self.path.stem} is in use by {holder or 'another process'}; stop it first."
            ) from None

    def is_there(self) -> bool:
        """Whether the file that is locked is the one that others would find."""
        try:
            return os.path.samestat(os.fstat(self.descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False

    def take(self) -> None:
        """Lock the file for this process, or raise OSError."""
        import fcntl

        fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        """Give the workspace free; what is left of the lock is nothing."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        os.close(self.descriptor)


class Slot:
    """One piece of work that waits for the writer."""

    __slots__ = ("done", "error", "result", "work")

    def __init__(self, work: Callable[[], Any]):
        self.work, self.done = work, False
        self.result: Any = None
        self.error: BaseException | None = None


class Writer:
    """The one connection of a workspace that writes.

    Whoever waits for it shares a commit: each piece of work runs in a savepoint of its own, so that
    one that fails takes nothing with it, and nobody is answered before the commit.
    """

    def __init__(self, database: Database):
        self.database = database
        #: How many transactions were lost as a whole; the heads of the chains are stale after one.
        self.failures = 0
        self._lock = threading.Lock()
        self._waiting: deque[Slot] = deque()

    def run(self, work: Callable[[], Any]) -> Any:
        """Do the work in a transaction; return its result, or raise what it raised."""
        slot = Slot(work)
        self._waiting.append(slot)
        with self._lock:
            if not slot.done:
                self.drain()
        if slot.error is not None:
            raise slot.error
        return slot.result

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction, undone as a whole by whatever is raised in it."""
        connection = self.database.connection()
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            take_up_notes(connection, NOTES)
            connection.execute("COMMIT")
        except BaseException:
            self.failures += 1
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def drain(self) -> None:
        """Do everything that waits, in one transaction."""
        batch: list[Slot] = []
        try:
            with self.transaction() as connection:
                while self._waiting:
                    batch.append(self._waiting.popleft())
                    self.attempt(connection, batch[-1])
        except BaseException as error:
            # One by one: work that arrives just now shares the failure or waits for its turn.
            while self._waiting:
                batch.append(self._waiting.popleft())
            for slot in batch:
                slot.error = slot.error or translate(error)
            if not isinstance(error, Exception):
                raise
        finally:
            for slot in batch:
                slot.done = True

    @staticmethod
    def attempt(connection: sqlite3.Connection, slot: Slot) -> None:
        """Do one piece of work in a savepoint, and keep what it raises for whoever waits for it."""
        connection.execute("SAVEPOINT work")
        try:
            slot.result = slot.work()
        except Exception as error:
            connection.execute("ROLLBACK TO work")
            slot.error = translate(error)
        connection.execute("RELEASE work")

    def close(self) -> None:
        """Wait for the work at hand, then close the connection."""
        with self._lock:
            self.database.close_every()


def translate(error: BaseException) -> BaseException:
    """What an error of the file means to a caller; other errors stand as they are."""
    if isinstance(error, sqlite3.IntegrityError | peewee.IntegrityError):
        text = str(error)
        if "UNIQUE" in text:
            return Conflict("There is already a record with this key.")
        if "FOREIGN KEY" in text:
            return Conflict("Other records still point here, or a record pointed to is not there.")
        return Invalid("A value is outside of what the table may hold.")
    if isinstance(error, sqlite3.OperationalError | peewee.OperationalError):
        log.error("The database refused: %s", error)
        return Unavailable(headers={"Retry-After": "1"})
    return error


# --- Workspaces ---------------------------------------------------------------


class Workspace:
    """One organization: its file, its connections, its keys.

    `path` is None for a workspace that ends with the process; it is a temporary file then, since
    SQLite's shared memory mode refuses writers that meet.
    """

    def __init__(
        self, path: Path | None, settings: Settings, source: Source, read_only: bool = False
    ):
        self.settings, self.source, self.read_only = settings, source, read_only
        self.path, self.lock, self.folder = path, None, None
        if path is None:
            import tempfile

            self.folder = tempfile.TemporaryDirectory(prefix="novantra-lite-")
            self.file = Path(self.folder.name) / "workspace.db"
        else:
            self.file = path
            self.lock = self.take_lock(path.with_name(path.name + ".lock"))
            if not read_only:
                # SQLite gives the files beside it the mode of this one.
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        synchronous = settings.synchronous if path else "OFF"
        # Reading a mapped file copies nothing; how deep a page lies makes no difference then.
        self.reader = self.connect(query_only=1, mmap_size=1 << 30, read_only=read_only)
        # What a savepoint may have to take back is kept in a file: in memory, SQLite takes time
        # that grows with the square of the pages changed.
        # Four times the pages that SQLite lets gather in the log by default before they go to the
        # file: that is to be waited for less often, and one table of its index still knows them.
        self.writer = Writer(
            self.connect(
                synchronous=synchronous, temp_store=1, wal_autocheckpoint=4000, shared=True
            )
        )
        #: Keys of the writes with an Idempotency-Key that are running now.
        self.running: set[str] = set()
        self._reads: dict[tuple[str, int], int] = {}
        self._uses: dict[tuple[str, int], float] = {}
        self._counting, self.tidied = threading.Lock(), -1

    def take_lock(self, path: Path) -> FileLock | None:
        """Lock the file; who only reads may do so beside the one that has it."""
        try:
            return FileLock(path)
        except (Conflict, OSError):
            if self.read_only:
                return None
            raise

    def give_way(self) -> None:
        """Give the lock free and read on, so that whoever writes may open the file meanwhile."""
        if self.lock and self.read_only:
            self.lock.release()
            self.lock = None

    def connect(self, read_only: bool = False, shared: bool = False, **pragmas) -> Database:
        """A database on the file: one connection per thread, or one `shared` by all."""
        target, options = str(self.file), {"timeout": self.settings.busy_timeout}
        if read_only:
            target, options["uri"] = f"{self.file.absolute().as_uri()}?mode=ro", True
        return Database(
            target,
            pragmas={**PRAGMAS, **pragmas},
            thread_safe=not shared,
            check_same_thread=False,
            cached_statements=512,
            **options,
        )

    def fetch_row(self, sql: str, values: Sequence = ()) -> tuple | None:
        """The first row of a read, on this thread's reader or in the write at hand."""
        return session().database.connection().execute(sql, values).fetchone()

    def json_of(self, model: type[Model], key: str, without: tuple[str, ...] = ()) -> bytes:
        """The JSON text of one record, less some members, or NotFound."""
        statements = model.statements()
        row = self.fetch_row(statements.retrieval(without), (key,))
        if row is None:
            raise NotFound(f"There is no {model.noun()} with the id {key}.")
        return unseal(row[0], self.ring)

    def update_index(self) -> None:
        """Take into the search index what it lacks; a file open for reading stays as it is."""
        noted = 'SELECT 1 FROM "search_note" LIMIT 1'
        if not self.read_only and self.reader.connection().execute(noted).fetchone():
            self.writer.run(lambda: take_up_notes(self.writer.database.connection()))

    def read(self) -> contextlib.AbstractContextManager[Session]:
        """Look at the workspace, in this thread."""
        return using(self.reading)

    def count_read(self, account: str, minute: int | None = None, number: int = 1) -> None:
        """Count reads of an account for the audit log, one of this minute unless told."""
        key = account, int(self.source.clock()) // 60 if minute is None else minute
        with self._counting:
            self._reads[key] = self._reads.get(key, 0) + number

    def counted_reads(self, at: float) -> dict[tuple[str, int], int]:
        """The reads of the minutes that are over, taken out of the count."""
        with self._counting:
            return take_out(self._reads, int(at) // 60)

    def note_use(self, credential: str, at: float) -> None:
        """Remember that a credential was accepted, until `noted_uses` takes it up."""
        self._uses[credential, int(at) // 60] = at

    def noted_uses(self, at: float) -> dict[tuple[str, int], float]:
        """The last uses in each of the minutes that are over, taken out of what is remembered."""
        return take_out(self._uses, int(at) // 60)

    def recent_uses(self) -> dict[str, float]:
        """When credentials were accepted last, as far as it is not in the file yet."""
        return {credential: at for (credential, _), at in list(self._uses.items())}

    def backup(self, target: Path) -> None:
        """Copy the file as it stands at one moment to a new file, while it is in use."""
        if target.exists():
            raise Conflict(f"{target.name} exists already; name a new file for the backup.")
        part = target.with_name(target.name + ".part")
        # SQLite would let others read it, and would not say that the directory is missing.
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        copy = sqlite3.connect(part)
        with contextlib.closing(copy):
            self.reader.connection().backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
            sound = is_sound(copy)
        if not sound:
            part.unlink()
            raise Damaged(f"{self.file.name} is damaged, and no backup was made: restore one.")
        with open(part, "rb") as stream:
            os.fsync(stream.fileno())
        part.rename(target)

    def close(self) -> None:
        """Close readers, then the writer (which checkpoints), then give the lock free."""
        if self.path:
            # Whoever opens the file for reading then finds all of it. What fails here waits there.
            with contextlib.suppress(Problem, sqlite3.Error, peewee.DatabaseError):
                self.update_index()
        self.reader.close_every()
        if self.lock and self.read_only:
            # A reader may not take away the files that SQLite keeps beside the database.
            with contextlib.suppress(peewee.DatabaseError):
                self.writer.database.connection()
        self.writer.close()
        if self.folder:
            self.folder.cleanup()
        if self.lock:
            self.lock.release()


def is_sound(connection: sqlite3.Connection) -> bool:
    """Whether a database holds together."""
    with contextlib.suppress(sqlite3.DatabaseError):
        return connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    return False


def take_out(counts: dict[tuple[str, int], Any], minute: int) -> dict[tuple[str, int], Any]:
    """What was counted before a minute, taken out of the counts."""
    over = [key for key in list(counts) if key[1] < minute]
    return {key: counts.pop(key) for key in over}


# --- Tables and migrations ----------------------------------------------------


def tables_sql(models: Sequence[type[Model]]) -> list[str]:
    """The statements that make every table, index and trigger."""
    statements = []
    for model in models:
        statements.append(create_table(model))
        statements += create_indexes(model)
        if model.append_only:
            statements += refuse_changes(model._meta.table_name)
    kept = (model for model in models if issubclass(model, SelfKept))
    return [*statements, *(sql for model in kept for sql in model.triggers())]


class SelfKept:
    """Mixed into a model whose records the file itself keeps, by triggers on other tables."""

    @classmethod
    def triggers(cls) -> Iterable[str]:
        """The statements that make them, once all tables are there."""
        raise NotImplementedError


def create_table(model: type[Model]) -> str:
    """One table, a column a line, under the first sentence of its record's docstring."""
    sql = render(model._schema._create_table(safe=False))
    head, columns, tail = re.fullmatch(r"(.*?\()(.*)(\).*)", sql).groups()
    lines = ",\n    ".join(re.split(r", (?=\"[a-z_0-9]+\" [A-Z]|FOREIGN)", columns))
    if model.fact:
        head_of_keys = lines.find(",\n    FOREIGN")
        end = head_of_keys if head_of_keys >= 0 else len(lines)
        lines = f'{lines[:end]},\n    "json" TEXT NOT NULL{lines[end:]}'
    comment = inspect.getdoc(model).split("\n\n")[0].replace("\n", " ")
    return f"-- {comment}\n{head}\n    {lines}\n{tail}"


def render(context: peewee.Context) -> str:
    """The SQL of a statement that takes no values."""
    return context.query()[0]


def create_indexes(model: type[Model]) -> Iterator[str]:
    """The indexes that a model's fields and lists call for."""
    table = model._meta.table_name
    for name, columns in model_indexes(model).items():
        listed = ", ".join(f'"{column}"' for column in columns)
        unique = "UNIQUE " if name == "key" else ""
        yield f'CREATE {unique}INDEX "{table}_{name}" ON "{table}" ({listed})'


@functools.cache
def model_indexes(model: type[Model]) -> dict[str, list[str]]:
    """The columns of every index that is no constraint, by the name of the index."""
    known = model._meta.fields
    # The lists of what has a random key go by the rowid, which every index ends with anyway.
    is_random = isinstance(model._meta.primary_key, Uuid)
    order = ["created_at", "id"] if "created_at" in known and not is_random else []
    indexes = {"created": order} if order else {}
    if model.key:
        indexes["key"] = [column.column_name for column in model.key_fields()]
    for number, names in enumerate(filter(None, model.lookup.split(",")), 1):
        columns = [known[name].column_name for name in names.split()]
        indexes["lookup" if number == 1 else f"lookup_{number}"] = columns
    for field in model._meta.sorted_fields:
        if field.index and not field.unique and not field.primary_key:
            indexes[field.column_name] = [field.column_name, *order]
    return indexes


def refuse_changes(table: str) -> Iterator[str]:
    """Triggers that let a table only grow."""
    for change in ("update", "delete"):
        yield (
            f'CREATE TRIGGER "{table}_refuses_{change}" BEFORE {change.upper()} ON "{table}" '
            f"BEGIN SELECT RAISE(ABORT, '{table} only grows'); END"
        )


def seeds_sql(models: Sequence[type[Model]]) -> Iterator[str]:
    """The statements that put into new tables what they hold from the beginning."""
    for record in itertools.chain.from_iterable(map(seeded, models)):
        insert, values = record.statements().insert, list(map(literal, record.row()))
        yield re.sub(r"\?(\d+)", lambda found, values=values: values[int(found[1]) - 1], insert)


def seeded(model: type[Model]) -> Iterator[Model]:
    """The records that a table holds from the beginning; the ledger takes them as known."""
    for values in model.seeds:
        record = model(__no_default__=True)
        record.__data__ = dict(values)
        yield record


def literal(value: str | int | None) -> str:
    """A stored value as SQL writes it."""
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


class Migration(NamedTuple):
    """One numbered step from the layout of an older file to the next.

    It makes the tables whose models say that they came with it, then runs its statements.
    """

    version: int
    explanation: str
    statements: tuple[str, ...] = ()


#: The layout of a file, whose it is, and whether nothing is in it yet.
FILE_FACTS = """SELECT user_version, application_id, NOT EXISTS (SELECT 1 FROM sqlite_schema)
    FROM pragma_user_version, pragma_application_id"""


def open_file(
    workspace: Workspace,
    create: Callable[[int | None], Sequence[str]],
    steps: Sequence[Migration],
) -> None:
    """Make the tables of a new file, or bring an older file up to date.

    `create` gives the statements for the tables that came with a layout, or for all.
    """
    # Reading leaves the file alone; a connection that may write would checkpoint it at its end.
    database = workspace.reader if workspace.read_only else workspace.writer.database
    newest = max([1, *(step.version for step in steps)])
    if workspace.path is None:
        workspace.file.write_bytes(new_file(create, newest))
    try:
        connection = database.connection()
    except peewee.OperationalError as error:
        raise translate(error) from None
    except peewee.DatabaseError as error:
        raise not_ours(workspace, error) from None
    version, application, empty = connection.execute(FILE_FACTS).fetchone()
    if not empty and application != APPLICATION_ID:
        raise not_ours(workspace)
    if version > newest:
        raise Conflict(
            f"{workspace.file.name} was written by a newer novantra-lite (layout {version}, this "
            f"one knows {newest}); install that version or a later one."
        )
    if not workspace.read_only:
        connection.execute("PRAGMA journal_mode = WAL")
    if empty:
        # All of it arrives, or nothing.
        with contextlib.closing(sqlite3.connect(":memory:")) as made:
            made.deserialize(new_file(create, newest))
            made.backup(connection)
    elif version < newest:
        keep_before(workspace, newest)
        migrate(connection, create, [step for step in steps if step.version > version])


def migrate(
    connection: sqlite3.Connection,
    create: Callable[[int | None], Sequence[str]],
    steps: Sequence[Migration],
) -> None:
    """Take an older file through these steps, and give it the indexes that its models have now."""
    new = [sql for step in steps for sql in create(step.version)]
    own = (sql for step in steps for sql in step.statements)
    indexes = change_indexes(connection, create(None), new)
    reached = f"PRAGMA user_version = {steps[-1].version}"
    run_together(connection, [*new, *own, *indexes, reached])


@functools.cache
def new_file(create: Callable[[int | None], Sequence[str]], newest: int) -> bytes:
    """The bytes of a file with every table and nothing in it, made once for the process."""
    facts = (f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {newest}")
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        run_together(connection, [*create(None), *facts])
        return connection.serialize()


def change_indexes(
    connection: sqlite3.Connection, declared: Iterable[str], made: Iterable[str]
) -> list[str]:
    """The statements that give an older file the indexes that its models have now.

    `declared` makes all that there is in a new file, and `made` what this file is about to get.
    """
    indexes = "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"
    present = dict(connection.execute(indexes)) | named_indexes(made)
    wanted = named_indexes(declared)
    gone = (name for name, sql in present.items() if wanted.get(name) != sql)
    new = (sql for name, sql in wanted.items() if present.get(name) != sql)
    return [*(f'DROP INDEX "{name}"' for name in gone), *new]


def named_indexes(statements: Iterable[str]) -> dict[str, str]:
    """Those of some statements that make an index, by its name."""
    found = ((re.match(r'CREATE (?:UNIQUE )?INDEX "(\w+)"', sql), sql) for sql in statements)
    return {head[1]: sql for head, sql in found if head}


def not_ours(workspace: Workspace, error: Exception | None = None) -> Problem:
    """What is said of a file that is no workspace, or not one any more."""
    cause = getattr(error, "__context__", None)
    if getattr(cause, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT:
        return Damaged(f"{workspace.file.name} is damaged: restore a backup of it.")
    return Conflict(f"{workspace.file.name} is not a file of novantra-lite; name another one.")


def keep_before(workspace: Workspace, newest: int) -> None:
    """Take a backup before a migration; Conflict where the file is open for reading only."""
    if workspace.read_only:
        raise Conflict(
            f"{workspace.file.name} was written by an older novantra-lite; open it for writing "
            "once to bring it up to date."
        )
    before = workspace.file.with_name(f"{workspace.file.name}.before-{newest}")
    # One from an attempt that failed holds nothing that the file does not.
    before.unlink(missing_ok=True)
    workspace.backup(before)


def run_together(connection: sqlite3.Connection, statements: Iterable[str]) -> None:
    """Run statements in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for sql in statements:
            connection.execute(sql)
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


# --- Tallies ------------------------------------------------------------------


class Tallied(Model):
    """A record that is counted as it comes, changes and goes."""

    abstract: ClassVar[bool] = True
    #: SQL for the place and the state in which a row counts, and for how much it counts there.
    tallied: ClassVar[Sequence[tuple[str, str, str]]]


def tallied_models() -> list[type[Tallied]]:
    """The models whose records are counted."""
    return [model for model in all_models() if issubclass(model, Tallied)]


class Tally(SelfKept, Model):
    """How many records of a kind there are in a place and state, or what they add up to there.

    Triggers keep it in step with the tables, so that nobody has to count a million records. The
    place of all is `all`.
    """

    key, since = "kind place state", 4

    id = Integer(primary_key=True, null=True)
    kind = Text()
    place = Text()
    state = Text()
    number = Integer()

    @classmethod
    def of(cls, model: type[Tallied]) -> Counter[str]:
        """The numbers of all of a model's records, by state."""
        mine = (cls.kind == model._meta.table_name) & (cls.place == "all")
        return Counter(dict(cls.select(cls.state, cls.number).where(mine).tuples()))

    @classmethod
    def triggers(cls):
        return (sql for model in tallied_models() for sql in keep_tally(model))


def recount_sql(model: type[Tallied]) -> Iterator[str]:
    """Queries for the whole tally of a table: kind, place, state and number."""
    table = model._meta.table_name
    for place, state, number in model.tallied:
        yield f"SELECT '{table}', {place}, {state}, sum({number}) FROM \"{table}\" GROUP BY 2, 3"


def tally_steps(model: type[Tallied], row: str, sign: str = "") -> str:
    """The statements that put a row of a table into the tally, or with a minus take it out."""
    table, steps = model._meta.table_name, ""
    for line in model.tallied:
        place, state, number = (re.sub(r'"\w+"', rf"{row}.\g<0>", sql) for sql in line)
        steps += f"""
    INSERT INTO "tally" ("kind", "place", "state", "number")
        VALUES ('{table}', {place}, {state}, {sign}({number}))
        ON CONFLICT ("kind", "place", "state")
        DO UPDATE SET "number" = "number" + excluded."number";"""
    return steps


def keep_tally(model: type[Tallied]) -> Iterator[str]:
    """Triggers that keep the tally of a table in step with it."""
    table, told = model._meta.table_name, " ".join(map(" ".join, model.tallied))
    columns = [f'"{column.column_name}"' for column in model._meta.sorted_fields]
    changes = ", ".join(column for column in columns if column in told)
    comes, goes = tally_steps(model, "NEW"), tally_steps(model, "OLD", "-")
    for name, change, steps in (
        ("insert", "INSERT", comes),
        ("update", f"UPDATE OF {changes}", goes + comes),
        ("delete", "DELETE", goes),
    ):
        head = f'CREATE TRIGGER "{table}_tally_{name}" AFTER {change} ON "{table}"'
        yield f"{head} BEGIN{steps}\nEND"


def count_older_records() -> Iterator[str]:
    """The statements that put into the tally what an older file holds already."""
    for query in (sql for model in tallied_models() for sql in recount_sql(model)):
        yield f'INSERT INTO "tally" ("kind", "place", "state", "number") {query}'


def check_tallies(connection: sqlite3.Connection) -> Iterator[str]:
    """Count anew what the tally knows of each table."""
    for model in tallied_models():
        counted = {row[:3]: row[3] for sql in recount_sql(model) for row in connection.execute(sql)}
        columns = Tally.kind, Tally.place, Tally.state, Tally.number
        kept = Tally.select(*columns).where(Tally.kind == model._meta.table_name).tuples()
        if Counter(counted) != Counter({row[:3]: row[3] for row in kept}):
            yield f"The tally of {model.noun()} records does not add up."


# --- Pages --------------------------------------------------------------------


class Listing:
    """A list of one model: newest first by (created_at, id), or oldest first, cut by keyset.

    The SQL is made once for each set of filters in use, from peewee queries; SQLite writes the JSON
    of a page and gives it back as one row: text, number of records, and where the next page begins.
    """

    def __init__(
        self,
        model: type[Model],
        filters: Mapping[str, Any],
        newest_first: bool = True,
        without: tuple[str, ...] = (),
    ):
        self.model, self.filters = model, filters
        self.newest_first, self.without = newest_first, without
        self._kept: dict[tuple, tuple[str, str]] = {}

    def sql(self, names: tuple[str, ...], cursor: bool) -> str:
        """The SQL of a page under these filters."""
        kept = self._kept.get((names, cursor))
        if kept is None:
            kept = self._kept[names, cursor] = self.make_sql(names, cursor)
        return kept

    def make_sql(self, names: tuple[str, ...], cursor: bool) -> str:
        """Write the SQL of a page with peewee, and let SQLite join what it finds.

        What follows the page is looked up by itself: no row of the page has to carry its place.
        """
        model = self.model
        place = peewee.EnclosedNodeList([model.created_at, model.id])
        order = [model.created_at, model.id]
        order = [column.desc() for column in order] if self.newest_first else order
        query = model.select().order_by(*order)
        for name in names:
            query = query.where(self.filters[name]("?"))
        if cursor:
            mark = peewee.EnclosedNodeList([peewee.Value("?"), peewee.Value("?")])
            query = query.where(place <= mark if self.newest_first else place >= mark)
        begin = peewee.SQL('"t1"."created_at" || "t1"."id"')
        following = query.select(begin).limit(1).offset(1).sql()[0]
        text = model.statements().without(self.without)
        inner = query.select(text.alias("text")).limit(1).sql()[0]
        joined = "CAST(group_concat(text) AS BLOB)"
        return f"SELECT {joined}, count(*), ({following}) FROM ({inner})"

    def page(self, values: Mapping[str, Any], start: tuple[str, str] | None, limit: int) -> Page:
        """A page of at most `limit` records (-1: of all), from a place in the list on."""
        sql = self.sql(tuple(values), start is not None)
        asked = (*values.values(), *(start or ()))
        following = (1, limit) if limit >= 0 else (0, 0)
        given = (*asked, *following, *asked, limit)
        text, count, begin = session().database.connection().execute(sql, given).fetchone()
        width = len("2026-01-01T00:00:00.Z") + self.model.created_at.digits
        place = (begin[:width], begin[width:]) if begin else None
        return Page(unseal(text or b"", session().ring), count, place)


class Array:
    """A list of one model in the order in which its records were made, or against it.

    `without` names members that this list does not tell.
    """

    def __init__(
        self,
        model: type[Model],
        filters: Mapping[str, Any] = MappingProxyType({}),
        newest_first: bool = False,
        without: tuple[str, ...] = (),
    ):
        self.model, self.filters = model, filters
        self.newest_first, self.without = newest_first, without
        self._kept: dict[tuple, tuple[str, str]] = {}

    def sql(self, names: tuple[str, ...]) -> tuple[str, str]:
        """The SQL of a stretch of the list under these filters, and that which counts them."""
        kept = self._kept.get(names)
        if kept is None:
            kept = self._kept[names] = self.make_sql(names)
        return kept

    def make_sql(self, names: tuple[str, ...]) -> tuple[str, str]:
        """Write both with peewee, and let SQLite join what it finds."""
        model, rowid = self.model, peewee.SQL('"t1"."rowid"')
        query = model.select(peewee.SQL("1"))
        for name in names:
            query = query.where(self.filters[name]("?"))
        counting = query.select(peewee.fn.count(peewee.SQL("*"))).sql()[0]
        text = model.statements().without(self.without)
        order = rowid.desc() if self.newest_first else rowid
        inner = query.select(text.alias("text")).order_by(order).limit(1).offset(1).sql()[0]
        joined = "CAST(group_concat(text) AS BLOB)"
        return f"SELECT {joined}, count(*) FROM ({inner})", counting

    def slice(self, values: Mapping[str, Any], offset: int = 0, limit: int = -1) -> Page:
        """At most `limit` records (-1: all) from the offset on; the next place is an offset."""
        given = (*values.values(), limit, offset)
        reading = self.sql(tuple(values))[0]
        text, count = session().database.connection().execute(reading, given).fetchone()
        return Page(
            unseal(text or b"", session().ring),
            count,
            (offset + count,) if count == limit else None,
        )

    def page(self, values: Mapping[str, Any], start: tuple[int] | None, limit: int) -> Page:
        """A page of at most `limit` records, from a place in the list on."""
        return self.slice(values, start[0] if start else 0, limit)

    def count(self, values: Mapping[str, Any]) -> int:
        """How many records there are under these filters."""
        counting = self.sql(tuple(values))[1]
        return session().database.connection().execute(counting, (*values.values(),)).fetchone()[0]


class Page(NamedTuple):
    """A page of a list: its records as JSON text, their number, and where the next page begins."""

    text: bytes
    count: int
    place: tuple | None


def sign_place(key: bytes, binding: str, payload: bytes) -> bytes:
    """Sixteen bytes that only this workspace can make: BLAKE2b under its key (RFC 7693)."""
    return hashlib.blake2b(binding.encode() + b"|" + payload, key=key, digest_size=16).digest()


def write_cursor(key: bytes, binding: str, place: tuple[str, str], at: float) -> str:
    """Sign a place in a list, bound to the list and its filters, with the time of issue."""
    payload = f"{int(at)}|{place[0]}|{place[1]}".encode()
    signed = sign_place(key, binding, payload) + payload
    return base64.urlsafe_b64encode(signed).rstrip(b"=").decode()


def read_cursor(key: bytes, binding: str, cursor: str, at: float, life: int) -> tuple[str, str]:
    """The place that a cursor stands for, or InvalidCursor."""
    try:
        data = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except ValueError:
        raise InvalidCursor from None
    mac, payload = data[:16], data[16:]
    same = base64.urlsafe_b64encode(data).rstrip(b"=") == cursor.encode()
    if not (same and hmac.compare_digest(mac, sign_place(key, binding, payload))):
        raise InvalidCursor
    issued, created_at, key_id = payload.decode().split("|", 2)
    if not at - life <= int(issued) <= at + 60:
        raise InvalidCursor("The cursor is too old; start again without it.")
    return created_at, key_id


# --- Principals and tokens ----------------------------------------------------


class Principal(NamedTuple):
    """Who is calling, what they may do, and until when (seconds since 1970).

    `name` is what people call them; `account` is whose credentials these are, if not their own.
    """

    id: str
    scopes: frozenset[str] = frozenset()
    expires_at: float = float("inf")
    name: str = ""
    account: str = ""

    @property
    def party(self) -> str:
        """By whom requests are counted and remembered, whichever credentials they present."""
        return self.account or self.id

    def must_have(self, scope: str) -> None:
        """Refuse the request unless the credentials carry this scope."""
        if scope and scope not in self.scopes:
            raise Forbidden(
                f"This needs the scope {scope}.",
                headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'},
            )

    def may_give(self, scopes: Iterable[str]) -> None:
        """Refuse to give others a scope that the principal does not have."""
        for scope in sorted(set(scopes) - self.scopes):
            raise Forbidden(f"You cannot give the scope {scope}, which you do not have yourself.")


class ServiceAccount(Model):
    """An integration that may call the APIs: its scopes, and its secret as a keyed hash."""

    fact = "service_account"

    id = PrefixedId("svc")
    name = Text(200, 1)
    secret_hash = Text(hidden=True)
    scopes = Json(ListOf(Text(100, 1)))
    contact = Text(320, default="")
    expires_at = Timestamp(dates=True, null=True)
    disabled = Boolean(default=False)
    generation = Integer(default=1)
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)

    def is_usable(self, at: float) -> bool:
        """Whether the account may be used at this time."""
        return not self.disabled and (not self.expires_at or at < seconds_of(self.expires_at))


def hash_secret(ring: KeyRing, secret: str) -> str:
    """What is kept of a secret: HMAC-SHA-256 under a key that is not in the file."""
    return hmac.digest(ring.derive("secrets"), secret.encode(), "sha256").hex()


def token_signer(ring: KeyRing, kind: str) -> URLSafeSerializer:
    """What signs the tokens of one kind with HMAC-SHA-256; another kind's are refused."""
    return URLSafeSerializer(
        ring.derive("access tokens"),
        salt=kind,
        signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"},
    )


class Tokens:
    """The access tokens of one workspace: made, checked, and remembered once checked.

    A token is `<slug>.<itsdangerous payload and HMAC-SHA-256>`; it carries account, generation,
    scopes and expiry. A change of any account forgets what was remembered.
    """

    REMEMBERED = 10_000

    def __init__(self, workspace: Workspace, slug: str):
        self.workspace, self.slug = workspace, slug
        self._signer = token_signer(workspace.ring, "access-token")
        self._known: dict[str, Principal] = {}

    def issue(self, account: ServiceAccount, scopes: Iterable[str], life: int) -> str:
        """Make a token for an account, good for `life` seconds of the instance's clock."""
        expiry = int(self.workspace.source.clock()) + life
        claims = [account.id, account.generation, expiry, sorted(scopes)]
        return f"{self.slug}.{self._signer.dumps(claims)}"

    def check(self, token: str) -> Principal:
        """The principal that a token speaks for, or Unauthenticated."""
        # What is looked up while an account changes goes where nobody looks any more.
        known = self._known
        principal = known.get(token)
        at = self.workspace.source.clock()
        if principal is None:
            principal = self.verify(token, at)
            if len(known) >= self.REMEMBERED:
                known.clear()
            known[token] = principal
        if at >= principal.expires_at:
            raise Unauthenticated("The token has expired; get a new one.")
        return principal

    def verify(self, token: str, at: float) -> Principal:
        """Check a token's signature, and its account in the file."""
        try:
            account_id, generation, expiry, scopes = self._signer.loads(token.partition(".")[2])
        except (BadData, ValueError):
            raise Unauthenticated from None
        with self.workspace.read():
            account = ServiceAccount.seek(account_id)
        if account is None or account.generation != generation or not account.is_usable(at):
            raise Unauthenticated
        if account.expires_at:
            expiry = min(expiry, seconds_of(account.expires_at))
        allowed = frozenset(scopes) & frozenset(account.scopes)
        return Principal(account.id, allowed, expiry, account.name)

    def forget(self) -> None:
        """Have every token checked anew, since an account changed."""
        self._known = {}


# --- Uploads ------------------------------------------------------------------
# A file may be larger than what anybody wants in memory: it passes through in pieces, to a
# temporary file once it is large.

UPLOAD_MEDIA = "multipart/form-data"
FORM_MEDIA = "application/x-www-form-urlencoded"
PIECE = 262_144
#: Bytes that are kept of a text beside the file.
FIELD_SIZE = 65_536
BYTES_MEDIA = "application/octet-stream"
#: A media type that is fit for a header (RFC 9110, 8.3.1).
MEDIA_TYPE = r"(?a)[\w!#$&^.+-]{1,120}/[\w!#$&^.+-]{1,120}(?:; ?[ -~]{1,80})?"
#: What shows nothing, ends a line or turns the direction of what follows.
UNSEEN = "[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"


class File:
    """The member of a multipart form that holds a file, which the context takes in by itself."""

    default, null = None, False

    def coerce(self, value: Any) -> Any:
        """The value as it is."""
        return value

    def read(self, value: Any) -> Any:
        """The file that came in; refuse what stands in a body of another kind."""
        if not isinstance(value, Upload):
            raise ValueError(f"Expected a file in {UPLOAD_MEDIA}")
        return value

    def describe(self) -> dict:
        """Bytes, as OpenAPI 3.0 says it and as 3.1 does."""
        return {"type": "string", "format": "binary", "contentMediaType": BYTES_MEDIA}


class Upload:
    """A file that came in: its bytes, a name and a type fit to be told, its size and SHA-256."""

    def __init__(
        self, content: IO[bytes], file_name: str, content_type: str, size: int, sha256: str
    ):
        self.content, self.file_name, self.content_type = content, file_name, content_type
        self.size, self.sha256 = size, sha256
        #: SHA-256 of the whole body, which an Idempotency-Key is bound to.
        self.body_digest = b""
        #: The texts of the form's other parts, by name; empty ones count as absent.
        self.fields: dict[str, str] = {}

    def pieces(self) -> Iterator[bytes]:
        """The content from its beginning, in pieces of 256 KiB and a last one."""
        self.content.seek(0)
        while piece := self.content.read(PIECE):
            yield piece

    def members(self) -> dict[str, Any]:
        """The form as an object."""
        return {**self.fields, "file": self}

    def text(self) -> str:
        """The content as text in UTF-8, decoded from where it lies; ValueError if it is none."""
        import mmap

        if not self.size:
            return ""
        self.content.rollover()
        self.content.flush()
        with mmap.mmap(self.content.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return str(mapped, "utf-8").removeprefix("\ufeff")

    def close(self) -> None:
        """Let the temporary file go."""
        self.content.close()


class Metered:
    """A stream that is hashed as it is read, and refused beyond a limit."""

    def __init__(self, stream: Any, limit: int, noun: str = "body"):
        self.stream, self.limit, self.noun, self.size = stream, limit, noun, 0
        self.digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        """Read at most so many bytes."""
        data = self.stream.read(size)
        self.digest.update(data)
        self.size += len(data)
        if self.size > self.limit:
            raise TooLarge(f"The {self.noun} is over the limit of {self.limit} bytes.")
        return data


def read_upload(stream: Metered, content_type: str) -> Upload:
    """The part named `file` of a multipart body (RFC 7578); Invalid without one, or with two."""
    from falcon import HTTPError
    from falcon.media import MultipartFormHandler

    found, fields = None, {}
    with contextlib.ExitStack() as unless_done:
        content = unless_done.enter_context(temporary_file())
        try:
            # Falcon wants a length; one byte more than what is allowed lets the limit be noticed.
            form = MultipartFormHandler().deserialize(stream, content_type, stream.limit + 1)
            for part in form:
                if part.name != "file":
                    fields[part.name] = keep_field(part)
                elif found:
                    raise Invalid(issues=[issue(["file"], "Expected one file")])
                else:
                    found = keep_part(part, content)
            while stream.read(PIECE):
                pass
        except (HTTPError, ValueError):
            raise Invalid("The body is not a multipart form.") from None
        if found is None:
            raise Invalid(issues=[issue(["file"], "Required")])
        unless_done.pop_all()
    found.body_digest = stream.digest.digest()
    found.fields = {name: text for name, text in fields.items() if text}
    return found


def temporary_file() -> IO[bytes]:
    """A file without a name that stays in memory up to one MiB."""
    import tempfile

    return tempfile.SpooledTemporaryFile(1 << 20)


def keep_part(part: Any, content: IO[bytes]) -> Upload:
    """Take the content of one part in."""
    return keep(part.stream, content, part.filename or part.name, sent_type(part))


def keep(stream: Any, content: IO[bytes], name: str, kind: str) -> Upload:
    """Take all of a stream in, as a file of this name and media type."""
    digest, size = hashlib.sha256(), 0
    while piece := stream.read(PIECE):
        digest.update(piece)
        size += len(piece)
        content.write(piece)
    return Upload(content, safe_name(name), kind, size, digest.hexdigest())


def read_file(stream: IO[bytes], name: str, limit: int) -> Upload:
    """Take a JSON file in that came another way; TooLarge beyond a limit."""
    with contextlib.ExitStack() as unless_done:
        content = unless_done.enter_context(temporary_file())
        taken = keep(Metered(stream, limit, "file"), content, name, "application/json")
        unless_done.pop_all()
    return taken


def keep_field(part: Any) -> str:
    """The text of a part that is not the file, as far as a field of a form may go."""
    data = part.stream.read(FIELD_SIZE)
    part.stream.exhaust()
    # What is no UTF-8 becomes what no text may hold, and matters only where somebody reads it.
    return data.decode("utf-8", "surrogateescape")


def safe_name(name: str) -> str:
    """A file's name without the path before it, and without what cannot be seen (RFC 7578, 4.2)."""
    last = re.split(r"[/\\]", re.sub(UNSEEN, "", name))[-1].strip()
    return (last if last.strip(".") else "file")[:255]


def sent_type(part: Any) -> str:
    """The media type that a part came with; that of plain bytes where it is none or unfit."""
    # Only inside does Falcon tell a part without a type from one of text/plain.
    sent = getattr(part, "_headers", {}).get(b"content-type", b"").decode("latin-1").strip()
    return sent if re.fullmatch(MEDIA_TYPE, sent) else BYTES_MEDIA


def attachment_headers(name: str, kind: str, size: int | None = None) -> dict[str, str]:
    """Headers under which a file is kept, not shown, whatever it holds (RFC 6266)."""
    plain = re.sub(r"[^\w .()+-]", "_", name, flags=re.A)
    exact = urllib.parse.quote(name, safe="")
    return {
        "Content-Type": kind,
        **({} if size is None else {"Content-Length": str(size)}),
        "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{exact}",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }


# --- Contexts -----------------------------------------------------------------


class Context:
    """One request being answered: workspace, principal, query, body, and headers to send."""

    __slots__ = (
        "body", "headers", "lite", "operation", "prepared", "principal", "query", "raw", "reason",
        "request", "request_id", "upload", "workspace",
    )  # fmt: skip

    def __init__(self, lite: NovantraLite, operation: Operation, request: falcon.Request):
        self.lite, self.operation, self.request = lite, operation, request
        self.request_id = lite.source.ulid("req")
        self.workspace: Workspace | None = None
        self.principal: Principal | None = None
        self.query: dict = {}
        self.body: dict = {}
        self.raw, self.reason = b"", ""
        self.upload: Upload | None = None
        #: What the operation's `before` found out.
        self.prepared: Any = None
        self.headers: dict[str, str] = {}

    @property
    def settings(self) -> Settings:
        """What is set for the instance that answers."""
        return self.lite.settings

    def read_query(self) -> None:
        """Read the query as the operation wants it."""
        if self.operation.query is NOTHING:
            return
        given = {}
        for name, value in self.request.params.items():
            value = value[-1] if isinstance(value, list) else value
            if "\0" in value:
                raise Invalid(issues=[issue([name], "Expected text without NUL")])
            if value or not self.ignores_empty(name):
                given[name] = value
        try:
            self.query = self.operation.query.read(given, parse=True)
        except Faults as faults:
            raise Invalid(issues=[issue(*fault) for fault in faults.issues]) from None

    def ignores_empty(self, name: str) -> bool:
        """Whether a parameter of the query that is empty counts as absent."""
        _, field = self.operation.query.members.get(name, ("", None))
        return self.operation.surface.ignores_empty and not getattr(field, "may_be_empty", False)

    def read_body(self) -> None:
        """Read the body as the operation wants it, and take the reason out of it."""
        operation = self.operation
        if operation.body is NOTHING:
            return
        if self.request.content_length:
            # Before it is read: what nobody reads may be large.
            self.check_media()
        if UPLOAD_MEDIA in operation.media and self.media_type() == UPLOAD_MEDIA:
            self.upload = self.take_upload()
            schema, data = operation.form or operation.body, self.upload.members()
        else:
            data = self.load() if self.take_raw() else {}
            schema, data = operation.body, operation.resource.accept(self, data)
        try:
            self.body = schema.read(
                data,
                partial=operation.partial,
                coerce=operation.surface.coerces,
                parse=self.upload is not None,
            )
        except Faults as faults:
            raise Invalid(issues=[issue(*fault) for fault in faults.issues]) from None
        self.reason = self.body.pop("reason", "")

    def take_raw(self) -> bytes:
        """The bytes of the body, refused when they are over the operation's limit."""
        if self.raw:
            return self.raw
        limit = getattr(self.settings, self.operation.limit)
        length = self.request.content_length
        if length is None or length <= limit:
            self.raw = self.stream().read(limit + 1)
        if len(self.raw) > limit or (length or 0) > limit:
            raise TooLarge(f"The body is over the limit of {limit} bytes.")
        return self.raw

    def take_upload(self) -> Upload:
        """The file of a multipart body, taken in piece by piece."""
        limit = getattr(self.settings, self.operation.limit)
        if (self.request.content_length or 0) > limit:
            raise TooLarge(f"The body is over the limit of {limit} bytes.")
        return read_upload(Metered(self.stream(), limit), self.request.content_type)

    def stream(self) -> IO[bytes]:
        """The bytes of the body as they come in, up to its end."""
        # Without a length, only a server that says so ends a body by itself.
        if self.request.content_length is None and self.request.env.get("wsgi.input_terminated"):
            return self.request.stream
        return self.request.bounded_stream

    def body_digest(self) -> bytes:
        """SHA-256 of the bytes of the body."""
        return self.upload.body_digest if self.upload else hashlib.sha256(self.raw).digest()

    def media_type(self) -> str:
        """The media type of the body; one that names none is taken for JSON."""
        return (self.request.content_type or "application/json").partition(";")[0].strip().lower()

    def check_media(self) -> None:
        """Refuse a body of a kind that the operation does not read."""
        if self.media_type() not in self.operation.media:
            kinds = " or ".join(self.operation.media)
            raise UnsupportedMediaType(f"This operation reads {kinds}.")

    def load(self) -> Any:
        """Parse the body by its media type."""
        self.check_media()
        return self.operation.media[self.media_type()](self.raw)


# --- Surfaces -----------------------------------------------------------------


class Reply(NamedTuple):
    """What goes back: a status, a body (empty for none), and headers of its own."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = MappingProxyType({})
    #: Pieces of a body that is not held in memory, instead of `body`.
    stream: Iterable[bytes] | None = None


class Surface:
    """An API's conventions on the wire: all that the two APIs do differently."""

    #: Path prefixes whose unknown paths this surface words.
    claims: tuple[str, ...] = ()
    update_method = "PUT"
    #: Whether a number is taken where a string is expected.
    coerces = False
    #: Whether an empty query parameter counts as absent.
    ignores_empty = False
    #: Whether API keys are taken beside tokens.
    api_keys = False
    error_schema: ClassVar[dict] = {}

    def __init__(self) -> None:
        self.resources: list[Resource] = []

    @property
    def name(self) -> str:
        """What the API is called."""
        return type(self).__name__.removesuffix("Surface")

    @functools.cached_property
    def operations(self) -> list[Operation]:
        """All that the API offers, in the order of the chapters; put together at the first use."""
        return [operation for resource in self.resources for operation in resource.declare()]

    def credentials(self, request: falcon.Request) -> str:
        """The token that a request presents, or nothing."""
        scheme, _, token = (request.auth or "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""

    def identify(self, context: Context) -> None:
        """Find out who is calling, and in which workspace."""
        token = self.credentials(context.request)
        context.workspace = context.lite.workspace_of(token)
        context.principal = context.workspace.tokens.check(token)

    def complete(self, schema: Schema, method: str) -> Schema:
        """A body's schema with what this surface asks of every write."""
        return schema

    def list_query(self, resource: Resource) -> tuple[Schema, dict]:
        """The query of a list: its schema, and the conditions that its filters stand for."""
        return resource.filters, {}

    def listing(
        self,
        model: type[Model],
        conditions: Mapping,
        newest_first: bool = True,
        without: tuple[str, ...] = (),
    ) -> Listing | Array:
        """A list of records less some members, in this order where the surface has no other."""
        return Listing(model, conditions, newest_first, without)

    def list_page(self, context: Context, listing: Listing | Array) -> Any:
        """Answer a list."""
        raise NotImplementedError

    def read_path(self, operation: Operation, values: Mapping[str, str]) -> Sequence[str]:
        """The values in a path, checked."""
        return tuple(values.values())

    def rehearses(self, request: falcon.Request) -> bool:
        """Whether the request asks for a dry run."""
        asked = request.get_header("X-Dry-Run", default="false").lower()
        if asked not in ("true", "false"):
            raise Invalid(issues=[issue(["X-Dry-Run"], "Expected true or false")])
        return asked == "true"

    def present(self, operation: Operation, result: Any) -> bytes:
        """A handler's result as a body: JSON text stands as it is."""
        if isinstance(result, Model):
            result = to_json(result.json()).encode()
        elif not isinstance(result, bytes):
            return to_json(result).encode()
        return self.present_record(operation.resource, result)

    def present_record(self, resource: Resource, text: bytes) -> bytes:
        """One record's JSON text as a body."""
        return text

    def present_problem(self, problem: Problem, context: Any) -> dict:
        """A problem as a body."""
        raise NotImplementedError

    def region(self, context: Context) -> str:
        """Where a request says that it comes from."""
        return ""

    def headers(self, context: Context) -> dict[str, str]:
        """Headers that every answer of this surface carries."""
        return {}

    def record_schema(self, resource: Resource) -> dict:
        """The JSON schema of a body with one record."""
        return {"$ref": f"#/components/schemas/{resource.schema_name}"}

    def page_schema(self, resource: Resource) -> dict:
        """The JSON schema of a body with a list."""
        return {"type": "array", "items": {"$ref": f"#/components/schemas/{resource.schema_name}"}}


# --- Operations and resources -------------------------------------------------


def read_form(data: bytes) -> dict:
    """Parse a form-encoded body; the last of several values counts."""
    try:
        return dict(
            urllib.parse.parse_qsl(data.decode("ascii"), strict_parsing=True, errors="strict")
        )
    except ValueError:
        raise Invalid("The body is not form encoded.", [issue([], "Expected a form")]) from None


JSON_MEDIA = MappingProxyType({"application/json": read_json})


class Operation:
    """One line of an API: what it promises on the wire, and the handler that keeps it.

    Routing, validation, authorization, the OpenAPI document, `routes` and the reference page all
    derive from it.
    """

    resource: Resource
    name: str
    method: str
    path: str
    body: Schema = NOTHING
    query: Schema = NOTHING
    status: int = 200
    scope: str = ""
    answer: Any = None
    #: Names the setting without which the operation is refused.
    setting: str = ""
    #: Whether it answers without credentials.
    public: bool = False
    #: Names the method of the resource by which a public operation knows its caller: by a signature
    #: over the raw body. See `identify_signer`.
    signed: str = ""
    partial: bool = False
    #: What a multipart form holds, where that is not what another body holds.
    form: Schema | None = None
    media: Mapping[str, Callable] = JSON_MEDIA
    #: The media types of the answer, separated by spaces; all but the first are text.
    answers_with: str = "application/json"
    #: Names the setting that bounds the body.
    limit: str = "json_limit"
    #: Headers of its own that the operation reads.
    request_headers: tuple[str, ...] = ()
    #: Names the method of the resource that finds things out before the transaction begins, over
    #: the network for instance; `context.prepared` is what it returned.
    before: str = ""
    #: The member under which a dry run tells what would come of it, where that is not the rule.
    would: str = ""
    #: Makes what is answered out of the record that the handler returned; a dry run tells it all.
    brief: Callable[[Model], dict] | None = None
    #: Statuses of refusals that it has beyond those that all operations have.
    refuses: tuple[int, ...] = ()
    #: JSON schemas of what it answers with further statuses, in place of the surface's envelope.
    others: Mapping[int, dict] = MappingProxyType({})
    #: Whether it may send the caller elsewhere (302) instead.
    redirects: bool = False
    id: str = ""

    def __init__(self, resource: Resource, name: str, **options: Any):
        if unknown := options.keys() - Operation.__annotations__.keys():
            raise TypeError(f"An operation has no {', '.join(sorted(unknown))}.")
        vars(self).update(options, resource=resource, name=name)

    @property
    def surface(self) -> Surface:
        """The API that the operation is of."""
        return self.resource.surface

    @property
    def writes(self) -> bool:
        """Whether it is answered in a transaction that a dry run rolls back."""
        return self.method != "GET" and (bool(self.signed) or not self.public)

    @functools.cached_property
    def handler(self) -> Callable:
        """The method of the resource that answers."""
        return getattr(self.resource, self.name)

    @property
    def summary(self) -> str:
        """One sentence about the operation."""
        return (
            inspect.getdoc(self.handler)
            .split("\n\n")[0]
            .replace("\n", " ")
            .format(resource=self.resource)
        )


def route(line: str, **options: Any) -> Callable:
    """Mark a method of a resource as an operation, by the line that an API reference has for it."""

    def mark(function):
        method, path = line.split()
        function.options = {"method": method, "path": path, **options}
        return function

    return mark


class Resource:
    """The operations on one kind of record.

    It inherits the five verbs, serves those that it names, and overrides one that needs a second
    thought. `item` is the path parameter that names a record, `noun` and `plural` its names on the
    wire, `collection` its name for the Python API and the command line, `tag` its chapter.
    """

    surface: ClassVar[Surface]
    path: ClassVar[str] = ""
    model: ClassVar[type[Model] | None] = None
    scope: ClassVar[str] = ""
    #: What of the scope its operations take; nothing: `read` or `write`, as the method says.
    access: ClassVar[str] = ""
    tag: ClassVar[str] = ""
    noun: ClassVar[str] = ""
    plural: ClassVar[str] = ""
    item: ClassVar[str] = ""
    collection: ClassVar[str] = ""
    schema_name: ClassVar[str] = ""
    filters = creates = changes = NOTHING
    conditions: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    #: The members of its records that it does not tell.
    without: ClassVar[tuple[str, ...]] = ()
    #: What a verb promises otherwise than all resources do.
    options: ClassVar[Mapping[str, dict]] = MappingProxyType({})
    #: Those of the five verbs that it serves.
    verbs: ClassVar[str] = ""

    def __init_subclass__(cls, verbs: str = "", **traits: Any):
        cls.verbs = verbs
        for name, value in traits.items():
            setattr(cls, name, value)
        if cls.model and "noun" not in traits:
            cls.noun = camel(cls.model._meta.table_name)
        if cls.model and "schema_name" not in traits:
            cls.schema_name = cls.model.schema_name or cls.model.__name__
        cls.plural = cls.plural or cls.noun + "s"
        cls.item = traits.get("item", cls.noun + "Id")
        resource = cls()
        cls.surface.resources.append(resource)
        RESOURCES.append(resource)

    def declare(self) -> Iterator[Operation]:
        """The operations that this resource offers."""
        lines = self.standard_lines() if self.verbs else {}
        verbs = self.verbs.split()
        declared = {verb: {**lines[verb], **self.options.get(verb, {})} for verb in verbs}
        for name, function in vars(type(self)).items():
            if hasattr(function, "options"):
                declared[name] = {"id": camel(name), **function.options}
        for name, options in declared.items():
            access = self.access or ("read" if options["method"] == "GET" else "write")
            options = {"scope": f"{self.scope}:{access}" if self.scope else "", **options}
            if "body" in options and not options.get("public"):
                options["body"] = self.surface.complete(options["body"], options["method"])
            yield Operation(self, name, **options)

    def standard_lines(self) -> dict[str, dict]:
        """What each of the five verbs promises."""
        surface, record = self.surface, self.schema_name.removesuffix("Response")
        one = {"answer": surface.record_schema(self)}
        path = f"{self.path}/{{{self.item}}}"
        query, conditions = surface.list_query(self)
        named = {name: self.condition(name, column) for name, column in query.members.values()}
        conditions = named | conditions | dict(self.conditions)
        self.listing = surface.listing(self.model, conditions, without=self.without)
        create = {"method": "POST", "path": self.path, "body": self.creates}
        update = {"method": surface.update_method, "path": path, "body": self.changes}
        return {
            "list": {
                "method": "GET",
                "path": self.path,
                "query": query,
                "answer": surface.page_schema(self),
                "id": f"list{type(self).__name__}",
            },
            "create": {**create, "status": 201, "id": f"create{record}", **one},
            "retrieve": {"method": "GET", "path": path, "id": f"get{record}", **one},
            "update": {**update, "partial": True, "id": f"update{record}", **one},
            "delete": {"method": "DELETE", "path": path, "status": 204, "id": f"delete{record}"},
        }

    def condition(self, name: str, column: Member) -> Callable:
        """What a filter asks for: the field of its name to be equal."""
        own = self.model._meta.fields.get(name, column)
        return lambda value: own == value

    @property
    def noun_words(self) -> str:
        """The noun as people write it."""
        return re.sub(r"(?=[A-Z])", " ", self.noun).lower()

    @property
    def plural_words(self) -> str:
        """The plural as people write it."""
        return re.sub(r"(?=[A-Z])", " ", self.plural).lower()

    def accept(self, context: Context, data: Any) -> Any:
        """A parsed body as the resource's schemas expect it."""
        return data

    def enter(self, values: dict) -> Model:
        """Make a record as the console or an import does."""
        return self.model.create(**values)

    def find(self, key: str) -> Model:
        """The record that a path names, or NotFound."""
        return self.model.fetch(key)

    def list(self, context):
        """List {resource.plural_words}."""
        return self.surface.list_page(context, self.listing)

    def create(self, context):
        """Create one {resource.noun_words}."""
        return self.model.create(**context.body)

    def retrieve(self, context, key):
        """Get one {resource.noun_words}."""
        return context.workspace.json_of(self.model, key, self.without)

    def update(self, context, key):
        """Change selected members of one {resource.noun_words}."""
        record = self.find(key)
        record.change(**context.body)
        return record

    def delete(self, context, key):
        """Delete one {resource.noun_words}."""
        record = self.find(key)
        told = context.workspace.json_of(self.model, record._pk)
        record.remove()
        return told


RESOURCES: list[Resource] = []


class Named(NamedTuple):
    """Stands for a resource where only the names of its record matter."""

    noun: str
    schema_name: str


# === Part II: Records of every write ==========================================
# --- Idempotency --------------------------------------------------------------


class IdempotencyRecord(Model):
    """The answer that a write with an Idempotency-Key got, kept to be given again."""

    id = Text(primary_key=True)
    fingerprint = Text()
    status = Integer()
    body = Encrypted(null=True)
    created_at = Timestamp(default=now)


FINAL_REFUSALS = (409, 422)


class Idempotency:
    """One write's Idempotency-Key: bound to principal, method and path; the body's SHA-256 tells
    a repeat from another request (decision 8 of the contract)."""

    def __init__(self, context: Context):
        key = context.request.get_header("Idempotency-Key")
        if not re.fullmatch(r"[\x21-\x7e]{1,255}", key):
            raise Invalid(
                issues=[issue(["Idempotency-Key"], "Expected 1 to 255 visible ASCII characters")]
            )
        parts = [context.principal.party, context.request.method, context.request.path, key]
        self.id = hashlib.sha256(to_json(parts).encode()).hexdigest()
        self.fingerprint = context.body_digest().hex()
        self.workspace = context.workspace
        #: A record of this key that is out of its window.
        self.stale: IdempotencyRecord | None = None

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Let no second request with this key in while the first one runs."""
        running = self.workspace.running
        if self.id in running:
            raise Conflict(
                "A request with this Idempotency-Key is still running.",
                headers={"Retry-After": "1"},
            )
        running.add(self.id)
        try:
            yield
        finally:
            running.discard(self.id)

    def replay(self) -> Reply | None:
        """The answer that the first request got, if there was one in the window."""
        record = IdempotencyRecord.seek(self.id)
        if record is None:
            return None
        source, life = self.workspace.source, self.workspace.settings.idempotency_life
        if record.created_at < source.timestamp(source.clock() - life):
            self.stale = record
            return None
        if record.fingerprint != self.fingerprint:
            raise Conflict("This Idempotency-Key was used with another body.")
        headers = {"Idempotency-Replayed": "true"}
        if record.status in FINAL_REFUSALS:
            told = json.loads(record.body)
            raise PROBLEMS[record.status](told["message"], told["issues"], headers)
        return Reply(record.status, (record.body or "").encode(), headers)

    def remember(self, reply: Reply) -> None:
        """Keep an answer for the next request with this key."""
        if self.stale:
            self.stale.delete_instance()
        IdempotencyRecord.create(
            id=self.id,
            fingerprint=self.fingerprint,
            status=reply.status,
            body=reply.body.decode() or None,
        )

    def remember_refusal(self, problem: Problem) -> None:
        """Keep a refusal that a repeat would meet again."""
        told = to_json({"message": str(problem), "issues": problem.issues})
        self.remember(Reply(problem.status, told.encode()))


# --- Rate limits --------------------------------------------------------------


class RateLimits:
    """Fixed windows of 60 s, counted in memory: per account and kind, and per organization.

    Whoever cannot be identified counts by address. A refused request does not count. All four
    headers go out with every answer and speak of the bucket with the smallest share left.
    """

    WINDOW = 60

    def __init__(self, settings: Settings):
        self.settings = settings
        self._lock = threading.Lock()
        self._minute = 0
        self._counts: dict[tuple, int] = {}

    def take(self, context: Context, at: float) -> None:
        """Count one request of a principal, or raise RateLimited."""
        kind = "read" if context.request.method in ("GET", "HEAD") else "write"
        limit = self.settings.rate_reads if kind == "read" else self.settings.rate_writes
        organization = id(context.workspace)
        buckets = (
            ((organization, context.principal.party, kind), limit, f"token-{kind}"),
            ((organization,), self.settings.rate_organization, "org"),
        )
        self.count(context.headers, buckets, at)

    def take_address(self, context: Context, at: float, by: int = 1) -> None:
        """Count one request of an address that presented nothing usable."""
        kind = "token-read" if context.request.method in ("GET", "HEAD") else "token-write"
        bucket = (context.request.remote_addr,), self.settings.rate_address, kind
        self.count(context.headers, (bucket,), at, by)

    def take_failure(self, headers: dict, client_id: str, at: float) -> None:
        """Count one failed token request of a client id."""
        bucket = ("failures", client_id), self.settings.rate_failures, "token-write"
        self.count(headers, (bucket,), at)

    def check_failures(self, headers: dict, client_id: str, at: float) -> None:
        """Refuse a client id that has failed too often in this minute."""
        bucket = ("failures", client_id), self.settings.rate_failures, "token-write"
        self.count(headers, (bucket,), at, by=0)

    def count(
        self, headers: dict, buckets: Sequence[tuple[tuple, int, str]], at: float, by: int = 1
    ) -> None:
        """Count in every bucket, unless one of them is empty."""
        minute = int(at) // self.WINDOW
        with self._lock:
            if minute != self._minute:
                self._minute, self._counts = minute, {}
            counts = self._counts
            left = [(limit - counts.get(key, 0), limit, name) for key, limit, name in buckets]
            empty = self.settings.rate_limits and any(rest <= 0 for rest, _, _ in left)
            if not empty:
                for key, _, _ in buckets:
                    counts[key] = counts.get(key, 0) + by
                left = [(rest - by, limit, name) for rest, limit, name in left]
        rest, limit, name = min(left, key=lambda bucket: bucket[0] / bucket[1])
        reset = (minute + 1) * self.WINDOW
        if by or empty or "X-RateLimit-Limit" not in headers:
            headers["X-RateLimit-Limit"] = str(limit)
            headers["X-RateLimit-Remaining"] = str(max(rest, 0))
            headers["X-RateLimit-Reset"] = str(reset)
            headers["X-RateLimit-Bucket"] = name
        if empty:
            wait = max(1, int(reset - at + 0.999))
            raise RateLimited(headers={"Retry-After": str(wait)})


# --- Audit and ledger ---------------------------------------------------------
# The audit log says who did what, when and why; the ledger proves what was recorded.
# Both are chains of hashes: an edited, removed or moved row shows.

ZEROS = "0" * 64


class AuditEntry(Model):
    """One action in the workspace; entries are chained and never change."""

    append_only = True

    id = Integer(primary_key=True)
    at = Timestamp(index=True)
    actor = Text(index=True)
    action = Text(index=True)
    subject_type = Text()
    subject_id = Text(index=True)
    reason = Encrypted(1000)
    request_id = Text()
    detail = Encrypted(1_000_000, null=True)
    hash = Text()


class LedgerEntry(Model):
    """The proof that a fact was recorded: the hash of its row, chained to the entry before."""

    append_only = True

    id = Integer(primary_key=True)
    entry_id = Text(unique=True)
    record_type = Text()
    record_id = Text(index=True)
    event_type = Text()
    content_hash = Text()
    previous_hash = Text()
    timestamp = Timestamp()
    entry_hash = Text()
    #: The record's own id, where `record_id` is not that.
    record_key = Text(null=True)


def record_uuid(table: str, key: str) -> str:
    """The UUID by which the ledger tells a record: its id, if that is one.

    An id that ends with a ULID gives its 128 bits; any other one the UUID of version 5 (RFC 9562)
    of `<table>/<id>` among URLs.
    """
    if UUID.fullmatch(key):
        return key
    number = decode_ulid(key.rpartition("_")[2])
    if number is not None:
        return encode_uuid(number)
    import uuid

    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{table}/{key}"))


def hash_audit(previous: str, row: Sequence) -> str:
    """SHA-256 over the hash before and the entry as it is stored, encrypted values included."""
    return hashlib.sha256((previous + to_json(row)).encode()).hexdigest()


def hash_content(row: Sequence) -> str:
    """SHA-256 over a record's columns as they are stored."""
    return hashlib.sha256(to_json(row).encode()).hexdigest()


def hash_ledger(entry: Sequence[str]) -> str:
    """SHA-256 over entry id, record id, event type, content hash, previous hash and timestamp."""
    return hashlib.sha256("|".join(entry).encode()).hexdigest()


class ReadCount(Model):
    """How often a principal read in one minute; reads are not audited one by one."""

    id = Integer(primary_key=True, null=True)
    actor = Text(index=True)
    minute = Timestamp()
    count = Integer()


class CheckpointKey(Model):
    """A public key that signed checkpoints of the workspace can be verified with."""

    append_only, since = True, 4

    id = Text(primary_key=True)
    created_at = Timestamp(default=now)


#: Keys are no facts, since what wraps them lies outside; that they were made is audited.
NOTED_KEYS = MappingProxyType(
    {RingKey: "key_ring.key_added", CheckpointKey: "checkpoint_key.key_added"}
)


class LastUse(Model):
    """When a credential was accepted last; kept apart from its own record, which is proven."""

    since = 3

    id = Text(primary_key=True)
    at = Timestamp(6)


class Journal:
    """Writes a workspace's audit log and ledger; knows the heads of both chains."""

    def __init__(self, workspace: Workspace):
        self.workspace, self.failures = workspace, 0
        self.load()

    def load(self) -> None:
        """Take the heads of the chains from the file."""
        connection = self.workspace.writer.database.connection()
        newest = 'SELECT "id", {} FROM "{}" ORDER BY "id" DESC LIMIT 1'
        audit = connection.execute(newest.format('"hash"', "audit_entry")).fetchone()
        proof = newest.format('"entry_hash", "timestamp"', "ledger_entry")
        ledger = connection.execute(proof).fetchone()
        self.audit, self.ledger = audit or (0, ZEROS), ledger or (0, ZEROS, "")

    def heads(self) -> tuple:
        """Where both chains stand, to go back to when a piece of work fails."""
        if self.failures != self.workspace.writer.failures:
            self.failures = self.workspace.writer.failures
            self.load()
        return self.audit, self.ledger

    def go_back(self, heads: tuple) -> None:
        """Forget what was written since the heads stood there."""
        self.audit, self.ledger = heads

    def write(self, current: Session) -> None:
        """Put every fact of a session into the audit log and the ledger."""
        audited, proofs = [], []
        for verb, model, key, row, was in current.facts:
            detail = to_json({"before": was}) if was is not None else None
            table = model._meta.table_name
            audited.append(self.entry(current, f"{model.fact}.{verb}", table, key, detail))
            proofs.append(self.proof(current, table, key, verb, row))
        execute = current.database.connection().executemany
        execute(AuditEntry.statements().insert, audited)
        execute(LedgerEntry.statements().insert, proofs)

    def note(
        self, current: Session, action: str, kind: str, key: str, detail: str | None = None
    ) -> None:
        """Put one action into the audit log."""
        row = self.entry(current, action, kind, key, detail)
        current.database.connection().execute(AuditEntry.statements().insert, row)

    def entry(self, current: Session, action: str, kind: str, key: str, detail: str | None) -> list:
        """The next row of the audit log."""
        number, previous = self.audit
        number += 1
        seal = current.ring.seal
        row = [
            number,
            current.source.now(),
            current.actor,
            action,
            kind,
            key,
            seal(current.reason, AuditEntry.reason.place(str(number))),
            current.request_id,
            detail and seal(detail, AuditEntry.detail.place(str(number))),
        ]
        row.append(hash_audit(previous, row))
        self.audit = number, row[-1]
        return row

    def proof(self, current: Session, table: str, key: str, verb: str, row: list) -> tuple:
        """The next row of the ledger."""
        number, previous, last = self.ledger
        event = f"{table}_{verb}".upper()
        content = hash_content(row)
        # A clock that was set back does not take the ledger back: its times are found by halving.
        at = max(current.source.now(), last)
        entry_id, record = current.source.uuid(), record_uuid(table, key)
        proof = hash_ledger((entry_id, record, event, content, previous, at))
        self.ledger = number + 1, proof, at
        own = None if record == key else key
        return (number + 1, entry_id, table, record, event, content, previous, at, proof, own)


# --- Verification -------------------------------------------------------------


def check_chains() -> Iterator[str]:
    """Recompute both chains of the current session's file, and what is counted there; tell each
    fault in a sentence."""
    connection = session().database.connection()
    faults = [*check_audit(connection), *check_ledger(connection)]
    yield from faults or check_agreement(connection)
    yield from check_keys(connection)
    yield from check_tallies(connection)


def check_audit(connection: sqlite3.Connection) -> Iterator[str]:
    """Recompute the chain of the audit log."""
    previous = ZEROS
    columns = ", ".join(f'"{column.column_name}"' for column in AuditEntry._meta.sorted_fields)
    rows = connection.execute(f'SELECT {columns} FROM "audit_entry" ORDER BY "id"')
    for number, row in enumerate(rows, 1):
        if row[0] != number:
            yield f"Audit entry {number} is missing."
            return
        if hash_audit(previous, row[:-1]) != row[-1]:
            yield f"Audit entry {number} was changed, or the one before it was."
            return
        previous = row[-1]


def check_agreement(connection: sqlite3.Connection) -> Iterator[str]:
    """Compare the facts in the audit log with the proofs in the ledger, one by one."""
    facts = {table: f"{model.fact}." for table, model in fact_models().items()}
    audited = connection.execute(
        'SELECT "subject_type", "subject_id", "action", "id" FROM "audit_entry" ORDER BY "id"'
    )
    told = (row for row in audited if row[0] in facts and row[2].startswith(facts[row[0]]))
    for entry, proof in itertools.zip_longest(told, proofs(connection)):
        if entry is None:
            yield f"Ledger entry {proof.number} has no entry in the audit log."
        elif proof is None:
            yield f"Audit entry {entry[3]} has no proof in the ledger."
        elif entry[:2] != proof.subject:
            told_of = f"Audit entry {entry[3]} and ledger entry {proof.number}"
            yield f"{told_of} are of different records."
        else:
            continue
        return


class Proof(NamedTuple):
    """An entry of the ledger, as the file holds it."""

    number: int
    entry_id: str
    record_type: str
    record_id: str
    event_type: str
    content_hash: str
    previous_hash: str
    timestamp: str
    entry_hash: str
    record_key: str | None

    @property
    def subject(self) -> tuple[str, str]:
        """The table of the record that is proven, and its own id."""
        return self.record_type, self.record_key or self.record_id

    def follows(self, previous: str) -> bool:
        """Whether the entry is as it was written, after the one with this hash."""
        _, entry_id, table, record, event, content, before, at, proof, key = self
        return (
            before == previous
            and proof == hash_ledger((entry_id, record, event, content, before, at))
            # What the hash does not cover follows from what it does.
            and event.startswith(f"{table}_".upper())
            and (key is None or record == record_uuid(table, key))
        )


@functools.cache
def proofs_sql() -> str:
    """SQL for the entries of the ledger, to be followed by a condition or an order."""
    columns = ", ".join(f'"{column.column_name}"' for column in LedgerEntry._meta.sorted_fields)
    return f'SELECT {columns} FROM "ledger_entry" '


def proofs(
    connection: sqlite3.Connection, tail: str = 'ORDER BY "id"', values: Sequence = ()
) -> Iterator[Proof]:
    """The entries of the ledger, all of them unless `tail` is told."""
    return map(Proof._make, connection.execute(proofs_sql() + tail, values))


class Known(NamedTuple):
    """What the ledger says last of a record, and the entry that tells of its making."""

    event: str
    content: str
    made: int


UNKNOWN = Known("", "", 0)


def check_ledger(connection: sqlite3.Connection) -> Iterator[str]:
    """Recompute the ledger's chain, then compare every record with the last proof of it."""
    previous, known = ZEROS, known_of_seeds()
    for number, proof in enumerate(proofs(connection), 1):
        if proof.number != number:
            yield f"Ledger entry {number} is missing."
            return
        if not proof.follows(previous):
            yield f"Ledger entry {number} was changed, or the one before it was."
            return
        table, key = proof.subject
        last = known[table].get(key, UNKNOWN)
        is_new = not last.event or last.event.endswith("_DELETED")
        made = number if is_new else last.made
        known[table][key] = Known(proof.event_type, proof.content_hash, made)
        previous = proof.entry_hash
    yield from check_contents(connection, known)


def known_of_seeds() -> dict[str, dict[str, Known]]:
    """What is known, without any entry, of the records that tables hold from the beginning."""
    known: dict[str, dict[str, Known]] = defaultdict(dict)
    for table, model in fact_models().items():
        for record in seeded(model):
            known[table][record._pk] = Known("SEEDED", hash_content(record.row()), 0)
    return known


def check_contents(connection: sqlite3.Connection, known: dict) -> Iterator[str]:
    """Compare the records in the file, and their order, with what the ledger says of them."""
    for table, model in fact_models().items():
        told, newest = known.pop(table, {}), 0
        place = model._meta.sorted_fields.index(model._meta.primary_key)
        for row in connection.execute(f"{stored_sql(model)} ORDER BY rowid"):
            last = told.pop(row[place], UNKNOWN)
            if fault := content_fault(model, row[place], row, last.event, last.content):
                yield fault
            elif last.made < newest:
                yield f"{model.noun().capitalize()} {row[place]} does not stand where it was put."
            newest = max(newest, last.made)
        for key, last in told.items():
            if fault := content_fault(model, key, None, last.event, last.content):
                yield fault
    for table in known:
        yield f"The ledger tells of a kind of record that there is not: {table}."


@functools.cache
def stored_sql(model: type[Model]) -> str:
    """SQL for the records of a model as they are stored, and whether each is told like that."""
    fields = model._meta.sorted_fields
    columns = ", ".join(f'"{column.column_name}"' for column in fields)
    # SQLite would stop at a value that was made to be no JSON; it takes NULL for none, too.
    values = [f"coalesce(\"{one.column_name}\", '[]')" for one in fields if isinstance(one, Json)]
    is_told = f'"json" IS {model.statements().json}'
    if values:
        are_json = " AND ".join(f"json_valid({value})" for value in values)
        is_told = f"CASE WHEN {are_json} THEN {is_told} END"
    return f'SELECT {columns}, {is_told} FROM "{model._meta.table_name}"'


def content_fault(
    model: type[Model], key: str, row: Sequence | None, event: str, content: str
) -> str:
    """What is wrong with a record, by the last that the ledger says of it; empty: nothing."""
    name, is_deleted = f"{model.noun().capitalize()} {key}", event.endswith("_DELETED")
    if row is None:
        return "" if is_deleted else f"{name} is in the ledger but not in its table."
    *stored, is_told = row
    if not event:
        return f"The ledger knows nothing of {model.noun()} {key}."
    if is_deleted:
        return f"{name} is in its table, though the ledger says that it was deleted."
    if content != hash_content(stored):
        return f"{name} is not what the ledger recorded."
    return "" if is_told else f"{name} is not told as it is stored."


def fact_models() -> dict[str, type[Model]]:
    """The models whose records are proven, by the names of their tables."""
    return {model._meta.table_name: model for model in all_models() if model.fact}


def noted_subjects(connection: sqlite3.Connection, action: str) -> set[str]:
    """The ids that the audit log has with an action, for records that are no facts."""
    entries = 'SELECT "subject_id" FROM "audit_entry" WHERE "action" = ?'
    return {subject for (subject,) in connection.execute(entries, (action,))}


def check_keys(connection: sqlite3.Connection) -> Iterator[str]:
    """Compare the keys that the file holds with those whose making is in the audit log."""
    for model, action in NOTED_KEYS.items():
        noted = noted_subjects(connection, action)
        select = f'SELECT CAST("id" AS TEXT) FROM "{model._meta.table_name}"'
        present = {key for (key,) in connection.execute(select)}
        for key in sorted(present - noted):
            yield f"The audit log knows nothing of {model.noun()} {key}."
        for key in sorted(noted - present):
            yield f"{model.noun().capitalize()} {key} is in the audit log but not in its table."


# --- Webhook signatures -------------------------------------------------------
# Standard Webhooks 1.0, and beside it one header that holds time and signature together.


class WebhookError(ValueError):
    """A webhook that its receiver must not trust, or a secret that cannot be used."""


def new_webhook_secret(random_bytes: bytes) -> str:
    """Write 24 to 64 random bytes as the secret of an endpoint."""
    if not 24 <= len(random_bytes) <= 64:
        raise ValueError("A webhook secret takes 24 to 64 random bytes.")
    return "whsec_" + base64.b64encode(random_bytes).decode()


def webhook_headers(
    secrets: Sequence[str], message_id: str, timestamp: int, body: bytes
) -> dict[str, str]:
    """The headers that sign a body with each secret: two are valid during a rotation."""
    signed = webhook_digests(secrets, f"{message_id}.{timestamp}.", body)
    combined = webhook_digests(secrets, f"{timestamp}.", body)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(map(standard_signature, signed)),
        "X-Novantra-Signature": ",".join([f"t={timestamp}", *map(combined_signature, combined)]),
    }


def webhook_digests(secrets: Sequence[str], prefix: str, body: bytes) -> list[bytes]:
    """The HMAC-SHA256 of a prefix and a body under each secret."""
    content, digests = prefix.encode("utf-8", "replace") + body, []
    for secret in secrets:
        try:
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except ValueError:
            key = b""
        if not key:
            raise WebhookError("The secret is not a webhook secret: expected whsec_ and Base64.")
        digests.append(hmac.digest(key, content, "sha256"))
    return digests


def standard_signature(digest: bytes) -> str:
    """A digest as webhook-signature holds it."""
    return "v1," + base64.b64encode(digest).decode()


def combined_signature(digest: bytes) -> str:
    """A digest as X-Novantra-Signature holds it."""
    return "v1=" + digest.hex()


def verify_webhook(
    body: bytes,
    headers: Mapping[str, str],
    secret: str | Sequence[str],
    *,
    tolerance: int = 300,
    clock: Callable[[], float] = time.time,
) -> dict:
    """The event in a webhook whose signature and age (seconds) are good, else WebhookError.

    Pass the body's bytes as they came, and both secrets during a rotation. The headers may be
    those of Standard Webhooks, or X-Novantra-Signature alone.
    """
    values = {name.lower(): value for name, value in headers.items()}
    if "webhook-signature" in values:
        timestamp, write = values.get("webhook-timestamp", ""), standard_signature
        prefix = f"{values.get('webhook-id', '')}.{timestamp}."
        given = values["webhook-signature"].split()
    else:
        given = values.get("x-novantra-signature", "").replace(",", " ").split()
        timestamp = next((part[2:] for part in given if part.startswith("t=")), "")
        prefix, write = f"{timestamp}.", combined_signature
    if prefix.startswith(".") or not re.fullmatch(r"[0-9]{1,12}", timestamp):
        raise WebhookError("The webhook's signature headers are missing or incomplete.")
    secrets = [secret] if isinstance(secret, str) else secret
    expected = [write(digest).encode() for digest in webhook_digests(secrets, prefix, body)]
    # Every pair is compared, each in constant time: how long it takes tells nothing.
    pairs = [(one, other.encode("utf-8", "replace")) for one in expected for other in given]
    if not sum(hmac.compare_digest(*pair) for pair in pairs):
        raise WebhookError("No signature matches: the secret is another, or the body was changed.")
    if abs(clock() - int(timestamp)) > tolerance:
        raise WebhookError(f"The webhook was signed more than {tolerance} seconds from this time.")
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        raise WebhookError("The webhook's body is not a JSON object.")
    return event


# --- Outbox -------------------------------------------------------------------
# An event is written in the same transaction as the change that it tells of, so
# neither is ever there without the other.


class Endpoint(Model):
    """Where events are sent: a URL, the events it wants (none: all), and what signs them."""

    fact = "webhook_endpoint"

    id = PrefixedId("whep")
    url = Text(2000)
    events = Json(ListOf(Text(100)))
    secret = Encrypted(200, hidden=True)
    #: The secret before the last rotation, still good until `previous_until`.
    previous_secret = Encrypted(200, null=True, hidden=True)
    previous_until = Timestamp(null=True)
    status = Choice("enabled paused disabled", default="enabled")
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)


class Event(Model):
    """Something that happened, as it is told to every endpoint."""

    id = PrefixedId("evt")
    type = Text()
    data = Json(MapOf(Text()))
    created_at = Timestamp()


#: Seconds to wait before each further attempt (decision 16 of the contract).
RETRY_STEPS = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
JITTER = 0.2
GIVE_UP_AFTER = 120 * 3600
#: Errands of a kind taken up in one step, so that a long queue does not keep other work waiting.
BATCH = 100


class Letter(NamedTuple):
    """What an errand posts: these bytes, under these headers, to this URL."""

    url: str
    body: bytes
    headers: Mapping[str, str]


class Errand(Model):
    """Something on its way to another server, and what came of the last attempt.

    It is tried at once, and again after each of `steps` (seconds, more or less `jitter` of them)
    until the other side accepts it. `lane` names the field that says where it goes: when one fails,
    all that goes the same way is left alone until the dispatcher's next step.
    """

    #: It has no table, and gives others its columns.
    abstract: ClassVar[bool] = True
    lane: ClassVar[str]
    steps: ClassVar[Sequence[float]] = RETRY_STEPS
    jitter: ClassVar[float] = JITTER

    state = Choice("due done failed", default="due")
    attempts = Integer(default=0)
    due_at = Timestamp(null=True, index=True)
    status_code = Integer(null=True)
    note = Text(default="")
    #: When the first attempt failed.
    failed_at = Timestamp(null=True)
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)

    @classmethod
    def send(cls, **values) -> Errand:
        """Put one on its way, as soon as the current session is committed."""
        current = session()
        current.afterwards.append(current.workspace.bell.set)
        return cls.create(due_at=current.source.now(), **values)

    @classmethod
    def is_due(cls, moment: str) -> bool:
        """Whether any is due at a time; asked every second, of every workspace."""
        sql = f'SELECT EXISTS (SELECT 1 FROM "{cls._meta.table_name}" WHERE "due_at" <= ?)'
        return bool(session().database.connection().execute(sql, (moment,)).fetchone()[0])

    @classmethod
    def waiting(cls, moment: str, failing: Iterable[str]) -> Iterable[Errand]:
        """A batch of those that are due, the oldest first, without the lanes that are failing."""
        way = cls._meta.fields[cls.lane]
        due = cls.select().where(cls.due_at <= moment, way.not_in(list(failing)))
        return due.order_by(cls.due_at, cls._meta.primary_key).limit(BATCH)

    @property
    def way(self) -> str:
        """The lane that this one takes."""
        return self.__data__[self.lane]

    def is_wanted(self) -> bool:
        """Whether it is still to be sent; others may have had a say since it was taken up."""
        stored = type(self).seek(self.id)
        return stored is not None and (stored.state, stored.due_at) == (self.state, self.due_at)

    def letter(self, workspace: Workspace, at: float) -> Letter:
        """What is sent; Invalid where it must not be, which counts as an attempt that failed."""
        raise NotImplementedError

    def deliver(self, workspace: Workspace, transport: Any, at: float) -> Answer:
        """Make one attempt; Invalid where none can be made."""
        letter = self.letter(workspace, at)
        return transport.post(letter.url, letter.body, letter.headers)

    def accepts(self, sent: Answer) -> bool:
        """Whether the other side has taken it, by what it answered."""
        return 200 <= sent.status < 300

    def settle(self, sent: Answer, at: float) -> None:
        """Write down what came of an attempt, and when the next one is due."""
        attempts, stamp = self.attempts + 1, session().source.timestamp
        self.change(attempts=attempts, status_code=sent.status or None, note=sent.note)
        if self.accepts(sent):
            self.change(state="done", due_at=None)
            return
        wait = self.wait_before(attempts, sent)
        if wait is None:
            self.change(state="failed", due_at=None, failed_at=self.failed_at or stamp(at))
        else:
            self.change(due_at=stamp(at + wait), failed_at=self.failed_at or stamp(at))

    def wait_before(self, attempts: int, sent: Answer) -> float | None:
        """Seconds until the next attempt; None when there is none left."""
        if attempts > len(self.steps):
            return None
        step = self.steps[attempts - 1]
        wait = step * session().source.random.uniform(1 - self.jitter, 1 + self.jitter)
        if sent.status in (429, 503) and sent.retry_after is not None:
            return max(wait, min(sent.retry_after, 2 * step))
        return wait

    @classmethod
    def forget(cls, before: str) -> None:
        """Drop what came to its end and was made before a time."""
        cls.delete().where(cls.created_at < before, cls.state != "due").execute()


class Delivery(Errand):
    """One event on its way to one endpoint, and what came of the last attempt."""

    lane = "endpoint"

    id = PrefixedId("dlv")
    event = ForeignKey(Event, index=True)
    endpoint = ForeignKey(Endpoint, index=True)

    @classmethod
    def waiting(cls, moment, failing):
        due = super().waiting(moment, failing).where(Endpoint.status == "enabled")
        return due.select(cls, Event, Endpoint).join(Event).switch(cls).join(Endpoint)

    def is_wanted(self):
        endpoint = Endpoint.seek(self.endpoint_id)
        return endpoint is not None and endpoint.status == "enabled" and super().is_wanted()

    def letter(self, workspace, at):
        body = event_body(workspace, self.event)
        headers = {"Content-Type": "application/json"}
        headers |= webhook_headers(
            endpoint_secrets(self.endpoint, at), self.event.id, int(at), body
        )
        return Letter(self.endpoint.url, body, headers)

    def settle(self, sent, at):
        super().settle(sent, at)
        if self.state == "done":
            return
        if sent.status == 410 or failing_for(self.endpoint, at) >= GIVE_UP_AFTER:
            self.endpoint.change(status="disabled")
            self.change(state="failed", due_at=None)


def event_body(workspace: Workspace, event: Event) -> bytes:
    """An event as it goes out: the same bytes at every attempt and for every endpoint."""
    told = {
        "id": event.id,
        "type": event.type,
        "createdAt": event.created_at,
        "organization": {"id": workspace.id, "slug": workspace.slug},
        "data": event.data,
    }
    return to_json(told).encode()


def endpoint_secrets(endpoint: Endpoint, at: float) -> list[str]:
    """The secrets that sign now: two while a rotation lasts."""
    if endpoint.previous_until and at < seconds_of(endpoint.previous_until):
        return [endpoint.secret, endpoint.previous_secret]
    return [endpoint.secret]


def failing_for(endpoint: Endpoint, at: float) -> float:
    """For how many seconds nothing but failures came of an endpoint."""
    mine = Delivery.endpoint == endpoint
    success = Delivery.select(peewee.fn.max(Delivery.updated_at)).where(
        mine, Delivery.state == "done"
    )
    # Whoever enables an endpoint again, or gives it a new secret, gives it a new chance.
    since = max(success.scalar() or "", endpoint.updated_at)
    failed = Delivery.select(peewee.fn.min(Delivery.failed_at)).where(
        mine, Delivery.state != "done", Delivery.updated_at >= since
    )
    first = failed.scalar()
    return at - seconds_of(max(first, since)) if first else 0.0


WANTING = (
    "SELECT id FROM endpoint WHERE status <> 'disabled' AND (events = '[]' OR EXISTS "
    "(SELECT 1 FROM json_each(endpoint.events) WHERE value = ?))"
)


def post_events(current: Session) -> None:
    """Put a session's events into the outbox, addressed to every endpoint that wants them."""
    connection = current.database.connection()
    for name, data in current.events:
        event = Event.create(type=name, data=data, created_at=current.source.now())
        for (endpoint,) in connection.execute(WANTING, (name,)).fetchall():
            Delivery.send(event=event.id, endpoint=endpoint)


# --- Writes -------------------------------------------------------------------


class Rehearsed(Exception):
    """Carries the result of a dry run past the transaction that is rolled back."""

    def __init__(self, result: Any):
        self.result = result


def perform(
    workspace: Workspace,
    work: Callable[[Session], Any],
    *,
    actor: str,
    reason: str = "",
    request_id: str = "",
    rehearsal: bool = False,
) -> Any:
    """Do a piece of work that writes: effects, audit entries, ledger entries and events together.

    A rehearsal is the same, rolled back. Whatever is raised is rolled back, too.
    """

    def run():
        heads = workspace.journal.heads()
        current = Session(workspace, workspace.writer.database, actor, reason, request_id)
        try:
            with using(current):
                result = work(current)
                workspace.journal.write(current)
                post_events(current)
            if rehearsal:
                raise Rehearsed(result)
        except BaseException:
            workspace.journal.go_back(heads)
            raise
        return result, current.afterwards

    if workspace.read_only:
        raise Conflict("The workspace is open for reading only.")
    try:
        result, afterwards = workspace.writer.run(run)
    except Rehearsed as rehearsed:
        return rehearsed.result
    for follow in afterwards:
        follow()
    return result


# --- Checkpoints --------------------------------------------------------------
# Whoever has the file can cut the ends off both chains, or write them anew with hashes that fit. A
# checkpoint says, signed, what both were at one time; kept elsewhere, it shows that.

ED25519_NOTE = b"\x01"


class NoteKey(NamedTuple):
    """A public key under the name that signs: https://c2sp.org/signed-note, with Ed25519."""

    name: str
    key: bytes

    @property
    def id(self) -> bytes:
        """Four bytes by which a signature names its key."""
        named = self.name.encode() + b"\n" + ED25519_NOTE + self.key
        return hashlib.sha256(named).digest()[:4]

    def __str__(self) -> str:
        encoded = base64.b64encode(ED25519_NOTE + self.key).decode()
        return f"{self.name}+{self.id.hex()}+{encoded}"

    @classmethod
    def read(cls, text: str) -> NoteKey:
        """The key that a text such as `name+hex+base64` spells, or Invalid."""
        name, _, rest = text.strip().partition("+")
        number, _, encoded = rest.partition("+")
        with contextlib.suppress(ValueError):
            raw = base64.b64decode(encoded, validate=True)
            found = cls(name, raw[1:])
            if raw[:1] == ED25519_NOTE and len(raw) == 33 and found.id == bytes.fromhex(number):
                return found
        raise Invalid("A public key for checkpoints reads NAME+HEX+BASE64.")

    def has_signed(self, text: str, signature: bytes) -> bool:
        """Whether a signature is of this key over a text."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.key).verify(signature, text.encode())
        except (InvalidSignature, ValueError):
            return False
        return True


CHECKPOINT = (
    r"(.+)\n(0|[1-9][0-9]{0,17})\n([A-Za-z0-9+/]{43}=)\n"
    r"audit (0|[1-9][0-9]{0,17}) ([A-Za-z0-9+/]{43}=)\ntime (\S+)\n"
)
#: One statement, which sees both chains at one moment.
HEADS = """SELECT
    (SELECT max("id") FROM "ledger_entry"),
    (SELECT "entry_hash" FROM "ledger_entry" ORDER BY "id" DESC LIMIT 1),
    (SELECT max("id") FROM "audit_entry"),
    (SELECT "hash" FROM "audit_entry" ORDER BY "id" DESC LIMIT 1)"""


class Checkpoint(NamedTuple):
    """How long both chains of a workspace were at a time, and the hash at the end of each.

    It reads as https://c2sp.org/tlog-checkpoint says, but for one thing: what it tells is the head
    of a hash chain, not the root of a Merkle tree.
    """

    origin: str
    ledger: tuple[int, str]
    audit: tuple[int, str]
    time: str

    @classmethod
    def take(cls, connection: sqlite3.Connection, origin: str, time: str) -> Checkpoint:
        """What both chains in a file are now; Damaged if they end with no hash."""
        size, head, audits, audit = connection.execute(HEADS).fetchone()
        if not all(re.fullmatch("[0-9a-f]{64}", told or ZEROS) for told in (head, audit)):
            raise Damaged("The ledger or the audit log ends with an entry that has no hash.")
        return cls(origin, (size or 0, head or ZEROS), (audits or 0, audit or ZEROS), time)

    def __str__(self) -> str:
        (size, head), (audits, audit) = self.ledger, self.audit
        spelt = [base64.b64encode(bytes.fromhex(told)).decode() for told in (head, audit)]
        return f"{self.origin}\n{size}\n{spelt[0]}\naudit {audits} {spelt[1]}\ntime {self.time}\n"

    @classmethod
    def read(cls, text: str) -> Checkpoint | None:
        """The checkpoint that a note's text is, if it is one."""
        found = re.fullmatch(CHECKPOINT, text)
        if not found:
            return None
        origin, size, head, audits, audit, time = found.groups()
        heads = [base64.b64decode(told).hex() for told in (head, audit)]
        return cls(origin, (int(size), heads[0]), (int(audits), heads[1]), time)


class Checkpoints:
    """Signs what a workspace's chains are, and appends it to a file; without one, to none.

    The signing key derives from the first key of the ring, and is not made until it is needed.
    """

    def __init__(self, workspace: Workspace, path: Path | None):
        self.workspace, self.path = workspace, path
        self.tried = -math.inf
        #: How long the audit log, which grows whenever the ledger does, was at the last checkpoint.
        self.covered: int | None = None

    @property
    def origin(self) -> str:
        """The workspace's name in its checkpoints, and that of its key."""
        return checkpoint_origin(self.workspace.id)

    @cached_property
    def signer(self) -> Any:
        """The private key."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.workspace.ring.derive("checkpoints"))

    @cached_property
    def key(self) -> NoteKey:
        """The public key."""
        return NoteKey(self.origin, self.signer.public_key().public_bytes_raw())

    def sign(self, connection: sqlite3.Connection) -> str:
        """A signed checkpoint of the chains in a file of the workspace: its own, or a copy."""
        return self.sign_note(
            str(Checkpoint.take(connection, self.origin, self.workspace.source.now()))
        )

    def sign_note(self, text: str) -> str:
        """A signed note of a text whose lines all end; it must not read as a checkpoint does."""
        signature = base64.b64encode(self.key.id + self.signer.sign(text.encode())).decode()
        return f"{text}\n\N{EM DASH} {self.key.name} {signature}\n"

    def tell(self) -> dict[str, str]:
        """A signed checkpoint of now, and the public key to keep for verifying it."""
        note = self.sign(self.workspace.reader.connection())
        return {"checkpoint": note, "publicKey": str(self.key)}

    def publish(self) -> None:
        """Put the public key into the file, so that the file alone tells it to whoever verifies."""
        workspace, key = self.workspace, str(self.key)
        with workspace.read():
            if CheckpointKey.has(key):
                return
        perform(
            workspace,
            lambda current: [
                CheckpointKey.create(id=key),
                workspace.journal.note(current, NOTED_KEYS[CheckpointKey], "checkpoint_key", key),
            ],
            actor="system",
            reason="The first signed checkpoint needs a key.",
        )

    def write_due(self, at: float) -> None:
        """Write a checkpoint if the last one is long enough ago."""
        if at - self.tried >= self.workspace.settings.checkpoint_interval:
            self.tried = at
            self.write()

    def write(self) -> None:
        """Append a checkpoint if something was audited since the last one; a failure is logged."""
        if self.path is None:
            return
        try:
            if self.covered is None:
                self.covered = last_covered(self.path)
            if self.covered != self.workspace.journal.audit[0]:
                self.publish()
                append_note(self.path, self.sign(self.workspace.reader.connection()))
                self.covered = last_covered(self.path)
        except (OSError, Problem, sqlite3.Error) as error:
            log.error("No checkpoint was written to %s: %s", self.path, error)


def checkpoint_origin(organization: str) -> str:
    """What a workspace is called in its checkpoints, by the id of its organization."""
    return f"novantra-lite/{organization}"


def append_note(path: Path, note: str) -> None:
    """Append a note to a file, for its owner only, and keep nothing of one that does not fit."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "ab") as stream:
        before = stream.tell()
        try:
            stream.write(f"{note}\n".encode())
            stream.flush()
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, before)
            raise


def last_covered(path: Path) -> int:
    """How long the audit log was at the last checkpoint in a file; -1 where there is none."""
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - 4096))
            told = re.findall(rb"^audit (\d+) ", stream.read(), re.M)
    except FileNotFoundError:
        return -1
    return int(told[-1]) if told else -1


# --- Checkpoint verification --------------------------------------------------

#: A text, an empty line, and the lines of its signatures.
NOTE = "((?:[^\\n]+\\n)+)\\n((?:\N{EM DASH} [^ +\\n]+ [A-Za-z0-9+/]+=*\\n)+)\\n*"


def read_notes(data: bytes) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """The notes in a file: the text of each, with the names and the bytes of its signatures.

    Invalid tells the line from which on there is something else.
    """
    text, place = data.decode(errors="replace"), 0
    while place < len(text):
        found = re.compile(NOTE).match(text, place)
        try:
            if not found or re.search(r"[\x00-\x09\x0b-\x1f\ufffd]", found[0]):
                raise ValueError
            lines = (line.split(" ") for line in found[2].splitlines())
            signatures = [
                (name, base64.b64decode(signed, validate=True)) for _, name, signed in lines
            ]
        except ValueError:
            line = text.count("\n", 0, place) + 1
            raise Invalid(f"From line {line} on, this is no signed note.") from None
        yield found[1], signatures
        place = found.end()


def check_checkpoints(data: bytes, keys: Sequence[NoteKey], origin: str) -> Iterator[str]:
    """Hold the signed checkpoints in a file against the chains of the current session's file."""
    connection, number = session().database.connection(), 0
    try:
        for number, (text, signatures) in enumerate(read_notes(data), 1):
            name = f"checkpoint {number}"
            checkpoint = Checkpoint.read(text)
            if fault := signature_fault(name, text, signatures, keys):
                yield fault
            elif checkpoint is None:
                yield f"The note {number} is signed, but no checkpoint of novantra-lite."
            elif checkpoint.origin != origin:
                yield f"{name.capitalize()} is of another workspace, {checkpoint.origin}."
            else:
                name += f" of {checkpoint.time}"
                yield from check_heads(connection, name, checkpoint)
    except Invalid as problem:
        yield f"After {number} checkpoints: {problem}"
    if not number:
        yield "The file of checkpoints holds none."


def signature_fault(
    name: str, text: str, signatures: Sequence[tuple[str, bytes]], keys: Sequence[NoteKey]
) -> str:
    """What is wrong with a note's signatures; those of unknown keys do not count."""
    known = [
        key.has_signed(text, signed[4:])
        for signer, signed in signatures
        for key in keys
        if (signer, signed[:4]) == (key.name, key.id)
    ]
    if not known:
        return f"{name.capitalize()} is not signed by a key that is known."
    return "" if all(known) else f"The signature of {name} does not fit: it was changed."


def known_note_keys() -> list[NoteKey]:
    """The public keys that the current session's file tells; what is none does not count."""
    keys = []
    for record in CheckpointKey.select():
        with contextlib.suppress(Invalid):
            keys.append(NoteKey.read(record.id))
    return keys


def check_heads(connection: sqlite3.Connection, name: str, checkpoint: Checkpoint) -> Iterator[str]:
    """Compare both chains at the lengths that a checkpoint tells with the hashes that it tells."""
    chains = (
        ("Ledger", "ledger_entry", "entry_hash", checkpoint.ledger),
        ("Audit", "audit_entry", "hash", checkpoint.audit),
    )
    for noun, table, column, (size, head) in chains:
        (held,) = connection.execute(f'SELECT max("id") FROM "{table}"').fetchone()
        select = f'SELECT "{column}" FROM "{table}" WHERE "id" = ?'
        row = connection.execute(select, (size,)).fetchone() if size else (ZEROS,)
        if (held or 0) < size:
            yield (
                f"{noun} entries {(held or 0) + 1} to {size}, which {name} saw, are missing: the "
                "end was cut off."
            )
        elif row != (head,):
            yield f"{noun} entry {size} is not what {name} saw: the entries were written anew."


# --- Answers ------------------------------------------------------------------


def answer(context: Context, given: Mapping[str, str]) -> Reply:
    """Answer one request: who is it, how often, may they, what do they want, here it is."""
    operation, lite = context.operation, context.lite
    at = lite.source.clock()
    if operation.public and operation.method == "GET":
        # Whether the server is well is told whatever others of the address do. What has to be
        # limited, as signing in has, counts in its handler.
        with contextlib.suppress(RateLimited):
            lite.limits.take_address(context, at, by=0)
    elif operation.public:
        lite.limits.take_address(context, at)
    else:
        identify(context, at)
        lite.limits.take(context, at)
        context.principal.must_have(operation.scope)
    if operation.setting and not getattr(lite.settings, operation.setting):
        refuse_what_is_off(operation, lite.settings)
    path = operation.surface.read_path(operation, given)
    context.read_query()
    if operation.method == "GET":
        return operation.handler(context, *path) if operation.public else look(context, path)
    if operation.signed:
        identify_signer(context, path)
    context.read_body()
    return write(context, path) if operation.writes else operation.handler(context, *path)


def refuse_what_is_off(operation: Operation, settings: Settings) -> None:
    """Refuse an operation that a setting takes away: the method, or a path without any other."""
    told = f"This operation is off; the setting {operation.setting} turns it on."
    if methods := allowed_methods(operation, settings):
        raise NotAllowed(told, headers={"Allow": ", ".join(methods)})
    raise NotFound(told)


def allowed_methods(operation: Operation, settings: Settings) -> list[str]:
    """The methods that a path answers to, with these settings."""
    return [
        other.method
        for other in operation.surface.operations
        if other.path == operation.path and (not other.setting or getattr(settings, other.setting))
    ]


def identify(context: Context, at: float) -> None:
    """Find out who is calling; a refusal counts against the address, and is audited."""
    try:
        context.operation.surface.identify(context)
    except Unauthenticated as problem:
        request = context.request
        context.lite.limits.take_address(context, at)
        if context.operation.surface.credentials(request):
            note_refusal(context, f"{request.method} {context.operation.path}")
        problem.headers.setdefault("WWW-Authenticate", "Bearer")
        raise


def identify_signer(context: Context, path: Sequence[str]) -> None:
    """Find the workspace and the principal that a signature over the raw body speaks for.

    The operation's method is asked in every workspace, so that no answer comes sooner than another:
    it tells the principal, or None where nothing that the workspace keeps verifies. NotFound stands
    when all raise it. Two workspaces with the same secret are a refusal, as none is meant.
    """
    if context.request.content_length:
        context.check_media()
    context.take_raw()
    ask = getattr(context.operation.resource, context.operation.signed)
    found, absent = [], []
    for workspace in context.lite.workspaces.values():
        with workspace.read():
            try:
                found.append((workspace, ask(context, *path)))
            except NotFound as problem:
                absent.append(problem)
    verified = [(workspace, principal) for workspace, principal in found if principal]
    if len(verified) == 1:
        context.workspace, context.principal = verified[0]
        return
    if absent and not found:
        raise absent[0]
    if verified:
        log.warning("Several workspaces verify a signature at %s.", context.operation.path)
    note_refusal(context, f"{context.request.method} {context.operation.path}")
    raise Invalid("The signature is missing or does not verify.")


def note_refusal(context: Context, what: str, actor: str = "unknown") -> None:
    """Audit credentials that were refused, in the workspace that they name or in the only one."""
    every = list(context.lite.workspaces.values())
    workspace = context.workspace or (every[0] if len(every) == 1 else None)
    if workspace is None or workspace.read_only:
        return
    journal = workspace.journal
    perform(
        workspace,
        lambda current: journal.note(current, "api.authentication.refused", "request", what),
        actor=actor,
        request_id=context.request_id,
    )


def look(context: Context, path: Sequence[str]) -> Reply:
    """Answer a read, and count it."""
    operation, workspace = context.operation, context.workspace
    workspace.count_read(context.principal.id)
    with workspace.read():
        result = operation.handler(context, *path)
        if isinstance(result, Reply):
            return result
        # A record's derived members are read from the file.
        return Reply(operation.status, operation.surface.present(operation, result))


def write(context: Context, path: Sequence[str]) -> Reply:
    """Answer a write: once for each Idempotency-Key, or as a rehearsal."""
    rehearsal = context.operation.surface.rehearses(context.request)
    # What is signed brings an id of its own, if any, by which a repeat is known.
    signed = context.operation.signed
    asked = not signed and context.request.get_header("Idempotency-Key") is not None
    idempotency = Idempotency(context) if asked else None
    # A rehearsal refuses a key that is none, and neither replays nor remembers.
    idempotency = None if rehearsal else idempotency

    def work(current: Session) -> Reply:
        if idempotency and (reply := idempotency.replay()):
            return reply
        reply = carry_out(context, path, rehearsal)
        if idempotency:
            idempotency.remember(reply)
        return reply

    doing = functools.partial(
        perform,
        context.workspace,
        actor=context.principal.id,
        reason=context.reason,
        request_id=context.request_id,
    )
    if not idempotency:
        find_out(context, path)
        return doing(work, rehearsal=rehearsal)
    with idempotency.alone():
        try:
            return find_out(context, path, idempotency) or doing(work)
        except Problem as problem:
            if problem.status in FINAL_REFUSALS and "Idempotency-Replayed" not in problem.headers:
                doing(functools.partial(remember_refusal, idempotency, problem))
            raise


def find_out(
    context: Context, path: Sequence[str], idempotency: Idempotency | None = None
) -> Reply | None:
    """Let an operation find out what it needs while no transaction is open; a repeat needs nothing
    more than its answer."""
    operation = context.operation
    if not operation.before:
        return None
    with context.workspace.read():
        if idempotency and (reply := idempotency.replay()):
            return reply
        context.prepared = getattr(operation.resource, operation.before)(context, *path)
    return None


def remember_refusal(idempotency: Idempotency, problem: Problem, current: Session) -> None:
    """Keep a final refusal, unless it is about the key itself."""
    if idempotency.stale or not IdempotencyRecord.has(idempotency.id):
        idempotency.remember_refusal(problem)


def rehearsed_as(operation: Operation) -> str:
    """The member under which a dry run tells what would come of an operation."""
    would = {"PUT": "wouldUpdate", "PATCH": "wouldUpdate", "DELETE": "wouldDelete"}
    would["POST"] = "wouldCreate" if operation.status == 201 else "result"
    return operation.would or would[operation.method]


def carry_out(context: Context, path: Sequence[str], rehearsal: bool) -> Reply:
    """Call the handler and lay out what came of it."""
    operation = context.operation
    session().region = operation.surface.region(context)
    result = operation.handler(context, *path)
    if isinstance(result, Reply):
        return result
    if rehearsal:
        told = json.loads(operation.surface.present(operation, result))
        return Reply(200, to_json({"dryRun": True, rehearsed_as(operation): told}).encode())
    if operation.status == 204 or result is None:
        return Reply(operation.status)
    if operation.brief:
        result = operation.brief(result)
    return Reply(operation.status, operation.surface.present(operation, result))


# --- Outbound addresses -------------------------------------------------------
# Whoever may name a URL must not reach the operator's own network through it. A name is
# resolved once, all of its addresses are judged, and the connection goes to one of these.

Networks = Sequence[IPv4Network | IPv6Network]
#: IPv6 forms of an IPv4 address and how far to shift it out: mapped (RFC 4291), NAT64 (RFC 6052)
#: and 6to4 (RFC 3056). Such an address is as public as the one inside.
IPV4_INSIDE = {
    ip_network("::ffff:0:0/96"): 0,
    ip_network("64:ff9b::/96"): 0,
    ip_network("2002::/16"): 80,
}
#: Special by the IANA registries, though `ipaddress` of some Python calls them global.
NEVER_PUBLIC = tuple(
    ip_network(network) for network in ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20", "fec0::/10")
)
WEBHOOK_REMEDY = "list its network in webhook_private_targets to permit it"


def check_target(
    url: str,
    allowed: Networks = (),
    https_only: bool = False,
    *,
    resolve: Callable = socket.getaddrinfo,
    remedy: str = WEBHOOK_REMEDY,
) -> None:
    """Raise Invalid unless the URL may be sent to; a name that does not resolve (yet) may."""
    parts, port = split_target(url, https_only)
    with contextlib.suppress(OSError):
        call_within(5, public_addresses, parts.hostname, port, allowed, resolve, remedy)


def split_target(url: str, https_only: bool = False) -> tuple[SplitResult, int]:
    """The parts and the port of an http or https URL; Invalid when it is anything else."""
    if not url.lower().startswith(("https://",) if https_only else ("https://", "http://")):
        raise Invalid(f"The URL must start with https://{'' if https_only else ' or http://'}.")
    if not re.fullmatch(r"[!-~]+", url):
        raise Invalid("The URL must be ASCII without spaces: write all else percent-encoded.")
    try:
        parts = urlsplit(url)
        port = {"https": 443, "http": 80}[parts.scheme] if parts.port is None else parts.port
    except ValueError:
        parts, port = SplitResult("", "", "", "", ""), 0
    if "@" in parts.netloc:
        raise Invalid("The URL must not contain a user name or password.")
    if not (parts.hostname and port):
        raise Invalid("The URL must name a host, and a port from 1 to 65535 if any.")
    return parts, port


def public_addresses(
    host: str,
    port: int,
    allowed: Networks = (),
    resolve: Callable = socket.getaddrinfo,
    remedy: str = WEBHOOK_REMEDY,
) -> list[tuple[str, int]]:
    """Every (address, port) of a host: Invalid if one is forbidden, OSError if there is none."""
    try:
        found = resolve(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise Invalid(f"The host {host} of the URL is not a valid name.") from None
    addresses = list(dict.fromkeys(entry[4][:2] for entry in found))
    if not addresses:
        raise socket.gaierror(socket.EAI_NONAME, "no address")
    if not all(is_permitted(ip_address(address), allowed) for address, _ in addresses):
        raise Invalid(f"The host {host} has an address that is not public; {remedy}.")
    return addresses


def is_permitted(address: IPv4Address | IPv6Address, allowed: Networks = ()) -> bool:
    """Whether an address is public, or in a network that the operator allowed."""
    shift = next((IPV4_INSIDE[network] for network in IPV4_INSIDE if address in network), None)
    inner = address if shift is None else IPv4Address(int(address) >> shift & 0xFFFFFFFF)
    if any(address in network or inner in network for network in allowed):
        return True
    special = inner.is_multicast or inner.is_reserved or not inner.is_global
    return not special and not any(inner in network for network in NEVER_PUBLIC)


_leave: contextvars.ContextVar[Callable] = contextvars.ContextVar("leave", default=nullcontext)


def away() -> contextlib.AbstractContextManager:
    """Around a wait for something outside: a server lets another thread answer meanwhile."""
    return _leave.get()()


def call_within(seconds: float, function: Callable, *arguments: Any) -> Any:
    """What a call returns or raises, or TimeoutError: a look-up of a name takes no time limit."""
    from concurrent.futures import Future

    future: Future = Future()

    def run():
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    with away():
        return future.result(seconds)


# --- Outbound requests --------------------------------------------------------

#: At most so many bytes of an answer are read, its headers included.
ANSWER_LIMIT = 65_536


class Answer(NamedTuple):
    """What came of a request: status 0 when no answer came, retry_after in seconds.

    `body` is None where it was too long, or broke off.
    """

    status: int
    retry_after: int | None
    note: str
    body: bytes | None = None

    def __repr__(self) -> str:
        # What another server answers may be secret, such as a token.
        return f"<Answer {self.status}: {self.note}>"

    @property
    def json(self) -> Any:
        """What the body holds as JSON; None where it is none."""
        try:
            return read_json(self.body or b"")
        except Invalid:
            return None


def time_left(deadline: float) -> float:
    """Seconds until a time of the monotonic clock; TimeoutError when it has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class BoundedSocket(io.RawIOBase):
    """A socket with one deadline over all its calls, so that a peer gains nothing by dripping.

    It ends after `limit` bytes; closing it leaves the socket to whoever opened that.
    """

    def __init__(self, connection: socket.socket, deadline: float, limit: int = ANSWER_LIMIT):
        self.connection, self.deadline, self.unread = connection, deadline, limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        if not self.unread:
            return 0
        self.connection.settimeout(time_left(self.deadline))
        count = self.connection.recv_into(memoryview(buffer)[: self.unread])
        self.unread -= count
        return count

    def sendall(self, data: bytes) -> None:
        """Send everything; the socket's own method starts its time limit anew under TLS."""
        view = memoryview(data)
        while view:
            self.connection.settimeout(time_left(self.deadline))
            view = view[self.connection.send(view) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        """What http.client reads an answer from."""
        return io.BufferedReader(self)


class Transport:
    """Sends requests to checked addresses, past any proxy; safe to use from several threads.

    `timeout` (seconds) covers all from the look-up of the name to the last byte of the answer, and
    `limit` (bytes) all that is read of it; `agent` is the User-Agent, and `remedy` says what lets
    an address be that is not public. Certificates are verified against the system's authorities,
    or those of SSL_CERT_FILE.
    """

    def __init__(
        self,
        allowed: Networks = (),
        timeout: float = 10.0,
        resolve: Callable = socket.getaddrinfo,
        *,
        clock: Callable[[], float] = time.time,
        limit: int = ANSWER_LIMIT,
        agent: str = "Novantra-Lite-Webhooks/1",
        remedy: str = WEBHOOK_REMEDY,
    ):
        self.allowed, self.timeout, self.resolve, self.clock = allowed, timeout, resolve, clock
        self.limit, self.agent, self.remedy = limit, agent, remedy

    def get(self, url: str, headers: Mapping[str, str]) -> Answer:
        """Ask for what is at a URL; trouble is an Answer of status 0."""
        return self.send("GET", url, None, headers)

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send a body (JSON unless the headers say otherwise); trouble is an Answer of status 0."""
        return self.send("POST", url, body, {"Content-Type": "application/json", **headers})

    def send(self, method: str, url: str, body: bytes | None, headers: Mapping) -> Answer:
        """Connect to where a URL leads, if that is permitted, and make one request there."""
        from http.client import HTTPException

        deadline = time.monotonic() + self.timeout
        try:
            parts, port = split_target(url)
            where = parts.hostname, port, self.allowed, self.resolve, self.remedy
            addresses = call_within(time_left(deadline), public_addresses, *where)
            with away(), connect_first(addresses, deadline) as connection:
                # Headers and body are two packets; the second must not wait for an answer.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.settimeout(time_left(deadline))
                if parts.scheme == "https":
                    connection = self.tls.wrap_socket(connection, server_hostname=parts.hostname)
                with connection:
                    bounded = BoundedSocket(connection, deadline, self.limit)
                    return self.exchange(bounded, method, parts, body, headers)
        except Problem as problem:
            return Answer(0, None, str(problem))
        except (OSError, HTTPException) as error:
            return Answer(0, None, explain_failure(error))

    @cached_property
    def tls(self):
        """Verifies certificates and names; made once, as reading the authorities takes a while."""
        import ssl

        return ssl.create_default_context()

    def exchange(self, connection: BoundedSocket, method, parts, body, headers) -> Answer:
        """Send the request and read its answer; a redirect is one, and is not followed."""
        from http.client import HTTPConnection, HTTPException, HTTPResponse

        fixed = {"User-Agent": self.agent, "Connection": "close", "Host": parts.netloc}
        request = HTTPConnection(parts.netloc)
        request.sock = connection
        query = f"?{parts.query}" if parts.query else ""
        request.request(method, (parts.path or "/") + query, body, {**headers, **fixed})
        response = HTTPResponse(connection, method=method)
        response.begin()
        content = None
        # Also read where only the status matters, so that the peer sees no reset.
        with contextlib.suppress(OSError, HTTPException):
            content = response.read(self.limit)
        if response.length or not connection.unread:
            content = None
        ending = "; redirects are not followed." if 300 <= response.status < 400 else "."
        wait = read_retry_after(response.getheader("Retry-After", ""), self.clock())
        note = f"Answered with status {response.status}{ending}"
        return Answer(response.status, wait, note, content)


def connect_first(addresses: Sequence[tuple[str, int]], deadline: float) -> socket.socket:
    """Connect to the first address that lets us; each gets an equal share of the time left."""
    for untried in range(len(addresses), 1, -1):
        with contextlib.suppress(OSError):
            return socket.create_connection(addresses[-untried], time_left(deadline) / untried)
    return socket.create_connection(addresses[-1], time_left(deadline))


def read_retry_after(value: str, now: float) -> int | None:
    """Seconds to wait by a Retry-After header (RFC 9110, 10.2.3), which may also be a date."""
    from email.utils import parsedate_to_datetime

    if re.fullmatch(r"[0-9]{1,9}", value.strip()):
        return int(value)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        # The header allows no zone but GMT, and one of its forms leaves that out.
        date = parsedate_to_datetime(value).replace(tzinfo=UTC)
        return max(0, math.ceil(date.timestamp() - now))
    return None


def explain_failure(error: Exception) -> str:
    """A sentence for the delivery log, which never holds an exception's own text."""
    import ssl

    sentences = {
        TimeoutError: "No complete answer came in time.",
        socket.gaierror: "The name of the host could not be resolved.",
        ssl.SSLCertVerificationError: "The certificate of the host could not be verified.",
        ssl.SSLError: "The secure connection failed.",
        ConnectionRefusedError: "The host refused the connection.",
        OSError: "The connection failed, or broke off before an answer.",
        Exception: "The answer was not valid HTTP.",
    }
    return next(text for kind, text in sentences.items() if isinstance(error, kind))


# --- Dispatcher ---------------------------------------------------------------


class Dispatcher:
    """Carries events to their endpoints and does what time alone brings about.

    All that it does is in `step`, which takes the time and starts no thread. No transaction is open
    while it waits for the network.
    """

    def __init__(self, workspaces: Mapping[str, Workspace], transport: Any, source: Source, bell):
        self.workspaces, self.transport, self.source = workspaces, transport, source
        self.bell = bell
        self._thread: threading.Thread | None = None
        self._stopping = False

    def start(self) -> None:
        """Deliver in a thread of its own, until stopped."""
        if self._thread is None:
            self._stopping = False
            self._thread = threading.Thread(
                target=self.run, name="novantra-lite-dispatcher", daemon=True
            )
            self._thread.start()
            # What waited for this process to start is due now.
            self.bell.set()

    def stop(self) -> None:
        """Finish the delivery at hand, then end the thread."""
        if self._thread is not None:
            self._stopping = True
            self.bell.set()
            self._thread.join()
            self._thread, self._stopping = None, False

    def run(self) -> None:
        """Step whenever something was committed, and every second."""
        while not self._stopping:
            self.bell.wait(1.0)
            self.bell.clear()
            try:
                self.step(self.source.clock())
            except Exception:
                log.exception("The dispatcher stumbled; it goes on.")

    def step(self, at: float) -> int:
        """Do what is due at a time in every workspace; tell how many errands arrived.

        A workspace that fails keeps nothing from the others; its failure is raised at the end.
        """
        arrived, failures = 0, []
        for workspace in list(self.workspaces.values()):
            try:
                tidy(workspace, at)
                arrived += self.deliver(workspace, at - self.source.clock())
            except Exception as failure:
                failures.append(failure)
        if failures:
            raise ExceptionGroup("Workspaces failed.", failures) if failures[1:] else failures[0]
        return arrived

    def deliver(self, workspace: Workspace, ahead: float) -> int:
        """Attempt all that is due in a workspace; tell how many errands arrived.

        The time is the clock's and so many seconds `ahead`; it goes on while receivers answer.
        """
        arrived = 0
        for kind in errand_kinds():
            failing: set[str] = set()
            full = True
            while full and not self._stopping:
                count, full = self.deliver_due(workspace, kind, ahead, failing)
                arrived += count
        return arrived

    def deliver_due(
        self, workspace: Workspace, kind: type[Errand], ahead: float, failing: set[str]
    ) -> tuple[int, bool]:
        """Attempt a batch of what is due; tell how many arrived, and whether the batch was full.

        A lane that failed is left alone for the rest of the step.
        """
        arrived, moment = 0, self.source.timestamp(self.source.clock() + ahead)
        with workspace.read():
            due = list(kind.waiting(moment, failing)) if kind.is_due(moment) else []
            for errand in due:
                if self._stopping or errand.way in failing or not errand.is_wanted():
                    continue
                if self.attempt(workspace, errand, ahead):
                    arrived += 1
                else:
                    failing.add(errand.way)
        return arrived, len(due) == BATCH

    def attempt(self, workspace: Workspace, errand: Errand, ahead: float = 0.0) -> bool:
        """Send one errand, and write down what came of it."""
        try:
            sent = errand.deliver(workspace, self.transport, self.source.clock() + ahead)
        except Problem as problem:
            sent = Answer(0, None, str(problem))
        at = self.source.clock() + ahead

        def work(current):
            # It may be gone, together with what it was on its way to.
            stored = type(errand).seek(errand.id)
            if stored is not None:
                stored.settle(sent, at)

        noun = errand.noun()
        perform(workspace, work, actor="dispatcher", reason=f"Outcome of a {noun}.")
        return errand.accepts(sent)


@functools.cache
def errand_kinds() -> list[type[Errand]]:
    """Every kind of what leaves by itself."""
    return [model for model in all_models() if issubclass(model, Errand)]


def tidy(workspace: Workspace, at: float) -> None:
    """Do what time alone brings about: expiries, counted reads, and what is kept long enough."""
    if workspace.read_only:
        return
    write_counts(workspace, at)
    workspace.checkpoints.write_due(at)
    for model in all_models():
        for record in model.overdue(workspace, at):
            perform(
                workspace,
                functools.partial(expire, record),
                actor="system",
                reason="The time for which it was valid has passed.",
            )
    hour = int(at) // 3600
    if workspace.tidied != hour:
        workspace.tidied = hour
        perform(workspace, lambda current: forget_old(workspace, at), actor="system")


def write_counts(workspace: Workspace, at: float) -> None:
    """Write down the reads of the minutes that are over, and the last uses of credentials."""
    reads, uses = workspace.counted_reads(at), workspace.noted_uses(at)
    stamp = workspace.source.timestamp

    def work(current):
        for (actor, minute), count in reads.items():
            ReadCount.create(id=None, actor=actor, minute=stamp(minute * 60), count=count)
        for (credential, _), used in uses.items():
            LastUse.replace(id=credential, at=stamp(used, 6)).execute()

    try:
        if reads or uses:
            perform(workspace, work, actor="system")
    except BaseException:
        # They are written with those of the next minute.
        for (account, minute), number in reads.items():
            workspace.count_read(account, minute, number)
        for (credential, _), used in uses.items():
            workspace.note_use(credential, used)
        raise


def expire(record: Model, current: Session) -> None:
    """Take one record to the status that its end of validity brings, if it is as it was found."""
    stored = type(record).seek(record._pk)
    if stored is not None and stored.__data__ == record.__data__:
        stored.change(status="expired")


def forget_old(workspace: Workspace, at: float) -> None:
    """Drop idempotency records and delivered events that were kept long enough."""
    stamp, settings = workspace.source.timestamp, workspace.settings
    IdempotencyRecord.delete().where(
        IdempotencyRecord.created_at < stamp(at - settings.idempotency_life)
    ).execute()
    old = stamp(at - settings.event_life)
    for kind in errand_kinds():
        kind.forget(old)
    waiting = Delivery.select(Delivery.event)
    Event.delete().where(Event.created_at < old, Event.id.not_in(waiting)).execute()


# --- Webhooks -----------------------------------------------------------------

WEBHOOK_EVENTS = (
    "finding.created",
    "finding.updated",
    "finding.closed",
    "evidence.claim.created",
    "evidence.claim.approved",
    "evidence.claim.rejected",
    "submission.package.status_changed",
    "submission.package.event_recorded",
    "assessment.completed",
)
#: What the Factstore surface tells of.
FACTSTORE_EVENTS = (
    "factstore.artifact.reported",
    "factstore.artifact.deployed",
    "factstore.attestation.recorded",
    "factstore.trail.settled",
    "factstore.approval.requested",
    "factstore.approval.granted",
    "factstore.approval.rejected",
    "factstore.gate.evaluated",
    "factstore.drift.changed",
)
ROTATION = 24 * 3600


class Webhooks:
    """The endpoints of one workspace, as the Python API and the command line manage them."""

    def __init__(self, workspace: Workspace, dispatcher: Dispatcher):
        self.workspace, self.dispatcher = workspace, dispatcher

    def act(self, reason: str, work: Callable[[], Any]) -> Any:
        """Do one administrative write."""
        return perform(self.workspace, lambda current: work(), actor="console", reason=reason)

    def add(self, url: str, events: Iterable[str] = ()) -> dict:
        """Add an endpoint for the named events (none: all); the secret is told only now."""
        wanted = list(events)
        known = (*WEBHOOK_EVENTS, *FACTSTORE_EVENTS)
        if unknown := [event for event in wanted if event not in known]:
            raise Invalid(f"There is no event {unknown[0]}; there are {', '.join(known)}.")
        check_target(url, allowed_networks(self.workspace.settings))
        secret = new_webhook_secret(self.workspace.source.random.randbytes(32))
        endpoint = self.act(
            "Webhook endpoint added.",
            lambda: Endpoint.create(url=url, events=wanted, secret=secret),
        )
        return endpoint.json() | {"secret": secret}

    def list(self) -> list[dict]:
        """All endpoints, without their secrets."""
        with self.workspace.read():
            return [endpoint.json() for endpoint in Endpoint.select().order_by(Endpoint.id)]

    def remove(self, key: str) -> None:
        """Remove an endpoint, and what was on its way to it."""

        def work():
            Delivery.delete().where(Delivery.endpoint == key).execute()
            Endpoint.fetch(key).remove()

        self.act("Webhook endpoint removed.", work)

    def rotate(self, key: str) -> dict:
        """Give an endpoint a new secret; the old one signs too for 24 h."""
        source = self.workspace.source
        secret = new_webhook_secret(source.random.randbytes(32))

        def work():
            endpoint = Endpoint.fetch(key)
            until = source.timestamp(source.clock() + ROTATION)
            endpoint.change(secret=secret, previous_secret=endpoint.secret, previous_until=until)
            return endpoint

        return self.act("Webhook secret rotated.", work).json() | {"secret": secret}

    def set_status(self, key: str, status: str) -> None:
        """Set an endpoint's status."""
        self.act(f"Webhook endpoint {status}.", lambda: Endpoint.fetch(key).change(status=status))

    def pause(self, key: str) -> None:
        """Hold deliveries back; what happens meanwhile waits."""
        self.set_status(key, "paused")

    def resume(self, key: str) -> None:
        """Deliver again, after a pause or after the endpoint was disabled."""
        self.set_status(key, "enabled")
        self.workspace.bell.set()

    def test(self, key: str) -> dict:
        """Send an endpoint a test event at once, and tell what came of it."""
        source = self.workspace.source

        def work():
            endpoint = Endpoint.fetch(key)
            at = source.now()
            event = Event.create(type="webhook.test", data={"test": True}, created_at=at)
            return Delivery.create(event=event.id, endpoint=endpoint.id, due_at=None, created_at=at)

        delivery = self.act("Webhook endpoint tested.", work)
        with self.workspace.read():
            self.dispatcher.attempt(self.workspace, Delivery.fetch(delivery.id))
        # A test says how things stand now; it is not tried again.
        given_up = Delivery.update(state="failed", due_at=None)
        waits = given_up.where(Delivery.id == delivery.id, Delivery.state == "due")
        self.act("Webhook endpoint tested.", waits.execute)
        with self.workspace.read():
            return Delivery.fetch(delivery.id).json()

    def deliveries(self, endpoint: str | None = None, state: str | None = None) -> list[dict]:
        """The delivery log, newest first."""
        with self.workspace.read():
            query = Delivery.select().order_by(Delivery.created_at.desc(), Delivery.id.desc())
            if endpoint:
                query = query.where(Delivery.endpoint == endpoint)
            if state:
                query = query.where(Delivery.state == state)
            return [delivery.json() for delivery in query]

    def redeliver(self, key: str) -> None:
        """Put one delivery on its way again, from the first attempt on."""
        self.send_again(Delivery.id == key, lambda count: count or Delivery.fetch(key))

    def redeliver_failed(self, endpoint: str) -> int:
        """Put everything that failed for an endpoint on its way again; tell how many that are."""
        failed = (Delivery.endpoint == endpoint) & (Delivery.state == "failed")
        return self.send_again(failed, lambda count: count)

    def send_again(self, which: Any, check: Callable[[int], Any]) -> int:
        """Make deliveries due now."""
        at = self.workspace.source.now()

        def work():
            anew = Delivery.update(state="due", attempts=0, due_at=at, failed_at=None)
            count = anew.where(which).execute()
            check(count)
            return count

        count = self.act("Webhook deliveries sent again.", work)
        self.workspace.bell.set()
        return count


@functools.cache
def allowed_networks(settings: Settings) -> list:
    """The private networks that webhooks may be sent to."""
    try:
        return [ip_network(text) for text in settings.webhook_private_targets]
    except ValueError:
        raise Invalid(
            "The setting webhook_private_targets needs networks such as 10.1.0.0/16."
        ) from None


# === Part III: Novantra =======================================================
# --- Novantra conventions -----------------------------------------------------


class Reason(Text):
    """Why the caller acts: 10 to 1000 characters without the blanks around them."""

    def __init__(self):
        super().__init__(1000, 10)

    def read(self, value):
        return super().read(value.strip() if isinstance(value, str) else value)


class Key(Text):
    """A name that a record has among its kind: 1 to 200 characters."""

    def __init__(self, **options: Any):
        super().__init__(200, 1, **options)


class Reference(Text):
    """The optional name of something elsewhere: 1 to 200 characters."""

    def __init__(self, **options: Any):
        super().__init__(200, 1, **{"null": True, **options})


class Title(Text):
    """What a record is called: 1 to 300 characters."""

    def __init__(self):
        super().__init__(300, 1)


class Limit(Integer):
    """The size of a page: 50 unless told, and never more than 200."""

    def __init__(self):
        super().__init__(at_least=1, default=50)

    def parse(self, text):
        return min(int(text), 200) if re.fullmatch(r"[+-]?[0-9]{1,400}", text) else text

    def describe(self):
        return {"type": "integer", "minimum": 1}


class NovantraSurface(Surface):
    """Envelopes named after the resource, signed cursors, and a reason for every write."""

    claims = (
        "/",
        "/api/health",
        "/api/v1/openapi.json",
        "/api/v1/auth",
        "/api/v1/organization",
        "/api/v1/governance",
        "/api/v1/assets",
        "/api/v1/party-engagements",
        "/api/v1/change-management",
        "/api/v1/vulnerability-management",
    )
    update_method = "PATCH"
    error_schema: ClassVar[dict] = {
        "type": "object",
        "required": ["error", "message", "requestId"],
        "properties": {
            "error": {"type": "string"},
            "message": {"type": "string"},
            "issues": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["path", "message"],
                    "properties": {
                        "path": {"type": "array", "items": {"type": ["string", "integer"]}},
                        "message": {"type": "string"},
                    },
                },
            },
            "requestId": {"type": "string", "pattern": "^req_"},
        },
    }

    def complete(self, schema, method):
        whole = Schema(reason=Reason(), name=schema.name)
        whole.members = schema.members | whole.members
        whole.required = schema.required | whole.required
        return whole

    def list_query(self, resource):
        own = {"created_after": Timestamp(dates=True), "cursor": Text(100_000), "limit": Limit()}
        query = Filters(**own)
        query.members = resource.filters.members | query.members
        query.required = set(resource.filters.required)
        return query, {"created_after": lambda value: resource.model.created_at > value}

    def list_page(self, context, listing):
        query, workspace = dict(context.query), context.workspace
        limit, cursor = query.pop("limit", 50), query.pop("cursor", None)
        binding = f"{context.operation.path}|{to_json(query)}"
        key, at = workspace.cursor_key, workspace.source.clock()
        life = context.settings.cursor_life
        place = read_cursor(key, binding, cursor, at, life) if cursor is not None else None
        page = listing.page(query, place, limit)
        plural = context.operation.resource.plural
        following = write_cursor(key, binding, page.place, at) if page.place else None
        pagination = f'{{"nextCursor":"{following}"}}' if following else "{}"
        parts = f'{{"{plural}":['.encode(), page.text, f'],"pagination":{pagination}}}'.encode()
        return Reply(200, b"".join(parts))

    def present_record(self, resource, text):
        return b'{"%b":%b}' % (resource.noun.encode(), text)

    def present_problem(self, problem, context):
        told = {"error": problem.code, "message": str(problem)}
        if problem.issues and problem.code == "validation":
            told["issues"] = problem.issues
        return told | {"requestId": context.request_id}

    def record_schema(self, resource):
        one = super().record_schema(resource)
        return {"type": "object", "required": [resource.noun], "properties": {resource.noun: one}}

    def page_schema(self, resource):
        pagination = {"type": "object", "properties": {"nextCursor": {"type": ["string", "null"]}}}
        return {
            "type": "object",
            "required": [resource.plural, "pagination"],
            "properties": {
                resource.plural: super().page_schema(resource),
                "pagination": pagination,
            },
        }


NOVANTRA = NovantraSurface()

TRIPLE = ("subject_module_key", "subject_resource_type", "subject_resource_id")


def check_subject(values: Mapping[str, Any]) -> None:
    """Refuse half a subject triple, and one that names nothing in this workspace."""
    given = [values.get(name) for name in TRIPLE]
    if not any(given):
        return
    missing = [camel(name) for name, value in zip(TRIPLE, given, strict=True) if not value]
    if missing:
        raise Invalid(
            issues=[issue([member], "Required with the rest of the subject") for member in missing]
        )
    module, kind, key = given
    model = subjects().get((module, kind))
    if model is None or not model.has(key):
        raise Unprocessable(f"There is no {kind} {key} under {module} in this workspace.")


@functools.cache
def subjects() -> dict[tuple[str, str], type[Model]]:
    """The models that a subject triple may point at, by module and type."""
    return {model.subject: model for model in all_models() if model.subject}


def reduced(record: Model, members: str) -> dict:
    """The part of a record that an event tells."""
    return {member: record.members()[member].value(record) for member in members.split()}


# --- Workspace ----------------------------------------------------------------


class Organization(Model):
    """The organization whose register the file is."""

    fact = "organization"

    id = PrefixedId("org")
    slug = Text(63, 1, pattern="[a-z0-9](?:[a-z0-9-]*[a-z0-9])?", hint="Expected a-z, 0-9 and -")
    name = Text(200, 1)
    locale = Text(35, 2, default="en")
    timezone = Text(64, 1, default="UTC")
    created_at = Timestamp(default=now, hidden=True)


class Profile(
    Resource,
    surface=NOVANTRA,
    model=Organization,
    scope="organization",
    tag="Workspace",
):
    """What the workspace of the token is called."""

    @route(
        "GET /api/v1/organization",
        id="getOrganization",
        answer=NOVANTRA.record_schema(Named("organization", "Organization")),
    )
    def read(self, context):
        """Get the workspace profile of the token."""
        return Organization.get()


# --- Authentication -----------------------------------------------------------


class Credentials(NamedTuple):
    """What a new or rotated service account needs to get tokens; the secret is told only once."""

    client_id: str
    client_secret: str
    name: str
    scopes: list[str]
    expires: str | None

    def __repr__(self) -> str:
        return f"<Credentials of {self.name}, {self.client_id}>"


class Accounts:
    """The service accounts of one workspace, as the Python API and the command line manage them."""

    def __init__(self, workspace: Workspace, known_scopes: Callable[[], Sequence[str]]):
        self.workspace, self.known_scopes = workspace, known_scopes

    def act(self, reason: str, work: Callable[[], ServiceAccount]) -> ServiceAccount:
        """Do one administrative write, and have every token checked anew."""
        account = perform(self.workspace, lambda current: work(), actor="console", reason=reason)
        self.workspace.tokens.forget()
        return account

    def create(
        self, name: str, scopes: Iterable[str], expires: str | None = None, contact: str = ""
    ) -> Credentials:
        """Make an account with these scopes; `expires` is a date or date-time."""
        wanted = sorted(set(scopes))
        known = self.known_scopes()
        if not wanted:
            raise Invalid("A service account needs at least one scope.")
        if unknown := [scope for scope in wanted if scope not in known]:
            raise Invalid(f"There is no scope {unknown[0]}; there are {', '.join(known)}.")
        given = {"name": name, "expiresAt": expires, "contact": contact}
        values = read_members(NEW_ACCOUNT, given) | {"scopes": wanted}
        secret = self.workspace.source.secret("nvs_")
        values["secret_hash"] = hash_secret(self.workspace.ring, secret)
        account = self.act("Service account created.", lambda: ServiceAccount.create(**values))
        return Credentials(account.id, secret, account.name, wanted, account.expires_at)

    def rotate(self, client_id: str) -> Credentials:
        """Give an account a new secret; the old one and its tokens end at once."""
        secret = self.workspace.source.secret("nvs_")

        def work():
            account = ServiceAccount.fetch(client_id)
            account.change(
                secret_hash=hash_secret(self.workspace.ring, secret),
                generation=account.generation + 1,
            )
            return account

        account = self.act("Service account secret rotated.", work)
        return Credentials(account.id, secret, account.name, account.scopes, account.expires_at)

    def set_disabled(self, client_id: str, disabled: bool) -> None:
        """Shut an account out, or let it in again."""

        def work():
            account = ServiceAccount.fetch(client_id)
            # Tokens from before must not come back to life when the account is enabled again.
            account.change(disabled=disabled, generation=account.generation + disabled)
            return account

        self.act(f"Service account {'disabled' if disabled else 'enabled'}.", work)

    def disable(self, client_id: str) -> None:
        """Shut an account out; its tokens end at once."""
        self.set_disabled(client_id, True)

    def enable(self, client_id: str) -> None:
        """Let a disabled account in again; it needs new tokens."""
        self.set_disabled(client_id, False)

    def list(self) -> list[dict]:
        """All accounts, without their secrets."""
        with self.workspace.read():
            known = [one.json() for one in ServiceAccount.select().order_by(ServiceAccount.id)]
        return [{"clientId": account.pop("id"), **account} for account in known]


NEW_ACCOUNT = Schema(ServiceAccount.name, ServiceAccount.expires_at, ServiceAccount.contact)


def read_members(schema: Schema, given: dict, partial: bool = False) -> dict:
    """Read members that the Python API was given, or raise Invalid with every fault."""
    try:
        return schema.read(given, partial=partial)
    except Faults as faults:
        issues = [issue(*fault) for fault in faults.issues]
        told = "; ".join(
            f"{'.'.join(map(str, fault['path']))}: {fault['message']}" for fault in issues
        )
        raise Invalid(f"{told}.", issues) from None


TOKEN_ANSWER = {
    "type": "object",
    "required": ["access_token", "token_type", "expires_in", "scope"],
    "properties": {
        "access_token": {"type": "string"},
        "token_type": {"type": "string", "enum": ["Bearer"]},
        "expires_in": {"type": "integer"},
        "scope": {"type": "string"},
    },
}


class TokenRequest(Schema):
    """Client credentials, spelled as RFC 6749 spells them."""

    def __init__(self):
        super().__init__(name="TokenRequest")
        self.members = {
            "grant_type": ("grant_type", Choice("client_credentials")),
            "client_id": ("client_id", Text(100, 1)),
            "client_secret": ("client_secret", Text(200, 1)),
            "scope": ("scope", Text(4000, null=True)),
        }
        self.required = {"grant_type", "client_id", "client_secret"}


class Authentication(Resource, surface=NOVANTRA, tag="Authentication"):
    """Short-lived bearer tokens for service accounts (RFC 6749, section 4.4)."""

    def accept(self, context, data):
        """Take client id and secret from HTTP Basic where the request has them there."""
        scheme, _, text = (context.request.auth or "").partition(" ")
        if scheme.lower() != "basic" or not isinstance(data, dict):
            return data
        try:
            user, _, password = base64.b64decode(text, validate=True).decode().partition(":")
        except ValueError:
            raise Unauthenticated(
                "The Authorization header is not HTTP Basic.",
                headers={"WWW-Authenticate": "Basic"},
            ) from None
        return data | {
            "client_id": urllib.parse.unquote_plus(user),
            "client_secret": urllib.parse.unquote_plus(password),
        }

    @route(
        "POST /api/v1/auth/token",
        public=True,
        body=TokenRequest(),
        media=MappingProxyType({"application/json": read_json, FORM_MEDIA: read_form}),
        answer=TOKEN_ANSWER,
        id="createToken",
    )
    def create_token(self, context):
        """Exchange client credentials for a bearer token."""
        body, at = context.body, context.lite.source.clock()
        client_id = body["client_id"]
        context.lite.limits.check_failures(context.headers, client_id, at)
        try:
            account = self.authenticate(context, client_id, body["client_secret"], at)
        except Unauthenticated:
            context.lite.limits.take_failure(context.headers, client_id, at)
            raise
        scopes = (body.get("scope") or "").split() or account.scopes
        if foreign := set(scopes) - set(account.scopes):
            message = f"Not granted to this account: {' '.join(sorted(foreign))}"
            raise Invalid(issues=[issue(["scope"], message)])
        return self.grant(context, account, scopes, at)

    def authenticate(self, context, client_id, secret, at) -> ServiceAccount:
        """The account of a client id and secret; the same refusal for whatever is wrong."""
        found = context.lite.workspace_of_account(client_id)
        refused = Unauthenticated(
            "The client id or the client secret is wrong, or the account is not active.",
            headers={"WWW-Authenticate": "Basic"},
        )
        if found is None:
            note_refusal(context, "POST /api/v1/auth/token", client_id)
            raise refused
        context.workspace = found
        with found.read():
            account = ServiceAccount.fetch(client_id)
        expected = hash_secret(found.ring, secret)
        if not hmac.compare_digest(expected, account.secret_hash) or not account.is_usable(at):
            note_refusal(context, "POST /api/v1/auth/token", client_id)
            raise refused
        return account

    def grant(self, context, account, scopes, at) -> Reply:
        """Issue a token, and audit it."""
        workspace, life = context.workspace, context.settings.token_life
        if account.expires_at:
            life = min(life, int(seconds_of(account.expires_at) - at))
        token = workspace.tokens.issue(account, scopes, life)
        if not workspace.read_only:
            perform(
                workspace,
                lambda current: workspace.journal.note(
                    current, "api.token.issued", "service_account", account.id
                ),
                actor=account.id,
                request_id=context.request_id,
            )
        told = {
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": life,
            "scope": " ".join(scopes),
        }
        headers = {"Cache-Control": "no-store", "Pragma": "no-cache"}
        return Reply(200, to_json(told).encode(), headers)


# --- Frameworks ---------------------------------------------------------------


class Framework(Model):
    """A body of requirements: a standard, a law, a policy of the house."""

    fact, key, subject = "framework", "framework_key", ("frameworks", "framework")
    searched = Searched(24, "framework", "name framework_key", "{framework_key}", title="{name}")

    id = PrefixedId("frwk")
    framework_key = Key()
    name = Title()
    description = Encrypted(10_000, null=True)
    status = Choice("draft active retired", default="active", index=True)
    source_kind = Key(default="internal")
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)


class FrameworkVersion(Model):
    """One edition of a framework; older ones stay readable."""

    fact, key = "framework.version", "framework version_key"

    id = PrefixedId("fver")
    framework = ForeignKey(Framework, index=True)
    version_key = Key()
    version_label = Title()
    status = Key(default="active", index=True)
    source_kind = Key(default="internal")
    published_at = Timestamp(null=True)
    effective_from = Timestamp(null=True)
    effective_until = Timestamp(null=True)
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)


class FrameworkNode(Model):
    """One group or requirement in the hierarchy of a framework version."""

    fact, key = "framework.node", "framework_version node_key"
    searched = Searched(
        8, "framework-node", "title reference_code node_key", "{reference_code}",
        told="node_kind status created_at",
    )  # fmt: skip

    id = PrefixedId("fnode")
    framework_version = ForeignKey(FrameworkVersion, index=True)
    parent_node = ForeignKey("self", null=True, index=True)
    node_key = Key()
    reference_code = Key()
    title = Text(1000, 1)
    description = Encrypted(50_000, null=True)
    node_kind = Key()
    status = Key(default="active")
    sort_order = Integer(0, 2**31 - 1, default=0)
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)


class FrameworkCoverageLink(Model):
    """What a record of the register does for a requirement."""

    fact = "framework.coverage_link"
    key = "framework_node subject_module_key subject_resource_type subject_resource_id"

    id = PrefixedId("fcov")
    framework_version = ForeignKey(FrameworkVersion, index=True)
    framework_node = ForeignKey(FrameworkNode, index=True)
    subject_module_key = Key()
    subject_resource_type = Key()
    subject_resource_id = Key()
    coverage_kind = Key()
    status = Key(default="active")
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)


class Frameworks(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/governance/frameworks",
    model=Framework,
    scope="governance.frameworks",
    tag="Frameworks",
    collection="frameworks",
    verbs="list retrieve",
):
    """Bodies of requirements."""

    filters = Filters(Framework.status)


class FrameworkVersions(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/governance/frameworks/versions",
    model=FrameworkVersion,
    scope="governance.frameworks",
    tag="Frameworks",
    plural="versions",
    collection="framework-versions",
    verbs="list",
):
    """Editions of frameworks."""

    filters = Filters(FrameworkVersion.framework, FrameworkVersion.status)


class FrameworkNodes(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/governance/frameworks/nodes",
    model=FrameworkNode,
    scope="governance.frameworks",
    tag="Frameworks",
    plural="nodes",
    collection="framework-nodes",
    verbs="list",
):
    """Groups and requirements."""

    filters = Filters(FrameworkNode.framework_version, FrameworkNode.parent_node)


class FrameworkCoverageLinks(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/governance/frameworks/coverage-links",
    model=FrameworkCoverageLink,
    scope="governance.frameworks",
    tag="Frameworks",
    plural="coverageLinks",
    collection="coverage-links",
    verbs="list",
):
    """What covers which requirement."""

    filters = Filters(FrameworkCoverageLink.framework_version, FrameworkCoverageLink.framework_node)


# --- Controls -----------------------------------------------------------------


class Control(Model):
    """A measure that keeps a risk down or a requirement met."""

    fact, key, subject = "control", "control_key", ("controls", "control")
    searched = Searched(23, "control", "title control_key", "{control_key}")

    id = PrefixedId("ctrl")
    control_key = Key()
    title = Title()
    description = Encrypted(10_000, null=True)
    status = Choice("draft active retired", default="active", index=True)
    subject_module_key = Reference()
    subject_resource_type = Reference()
    subject_resource_id = Reference()
    subject_version_id = Reference()
    owner_responsibility_assignment_id = Reference()
    implementation_projection_id = Reference()
    compliance_projection_id = Reference()
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)


class Controls(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/governance/controls",
    model=Control,
    scope="governance.controls",
    tag="Controls",
    collection="controls",
    verbs="list retrieve",
):
    """Measures that the organization has taken."""

    filters = Filters(Control.status)


# --- Risks --------------------------------------------------------------------


class Risk(Model):
    """Something that may go wrong, and what is done about it."""

    fact, key, subject = "risk", "risk_key", ("risks", "risk")
    searched = Searched(22, "risk", "title risk_key", "{risk_key}")

    id = PrefixedId("risk")
    risk_key = Key()
    title = Title()
    description = Encrypted(10_000, null=True)
    #: Open by contract: candidate, identified, under-assessment, under-treatment, accepted, …
    status = Key(default="identified", index=True)
    subject_module_key = Reference()
    subject_resource_type = Reference()
    subject_resource_id = Reference()
    subject_version_id = Reference()
    owner_responsibility_assignment_id = Reference()
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)


class Risks(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/governance/risks",
    model=Risk,
    scope="governance.risks",
    tag="Risks",
    collection="risks",
    verbs="list retrieve",
):
    """What may go wrong."""

    filters = Filters(Risk.status)


# --- Evidence records ---------------------------------------------------------


class Blob(Member, peewee.BlobField):
    """Bytes, never shown as JSON."""

    hidden = True


class EvidenceRequirement(Model):
    """What has to be shown, again and again."""

    fact, key = "evidence.requirement", "requirement_key"
    subject = ("evidence", "evidence-requirement")
    searched = Searched(18, "evidence-requirement", "title requirement_key", "{requirement_key}")

    id = PrefixedId("evreq")
    requirement_key = Key()
    title = Title()
    description = Encrypted(10_000, null=True)
    status = Choice("draft active retired", default="active", index=True)
    subject_module_key = Reference()
    subject_resource_type = Reference()
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)


SHA256 = Text(64, 64, pattern="[0-9a-fA-F]{64}", hint="Expected 64 hexadecimal digits", null=True)
ADDRESS = Text(2000, 1, pattern=r"[A-Za-z][A-Za-z0-9+.-]*:\S+", hint="Expected a URI", null=True)

ATTACHMENT = Shape(
    id=Key(),
    file_name=Text(255, 1),
    content_type=Text(255, 1),
    size_bytes=Integer(0),
    sha256=Text(64),
    uri=ADDRESS,
    created_at=Timestamp(),
)

NEW_ATTACHMENT = Shape(
    file_name=Text(255, 1),
    content_type=Text(255, 1),
    content_base64=Text(100_000_000, null=True),
    uri=ADDRESS,
    sha256=SHA256,
)


class EvidenceClaim(Model):
    """A claim that a requirement is met, for a time, with files that show it."""

    fact, key, subject = "evidence.claim", "claim_key", ("evidence", "evidence-claim")
    lookup = "status valid_until"
    searched = Searched(7, "evidence-claim", "title claim_key", "{claim_key}")
    moves: ClassVar[dict] = {
        "pending": "approved rejected withdrawn",
        "approved": "expired superseded withdrawn",
        "rejected": "withdrawn",
        "expired": "superseded",
    }

    id = PrefixedId("evclm")
    evidence_requirement = ForeignKey(EvidenceRequirement, index=True)
    claim_key = Key()
    title = Title()
    description = Encrypted(10_000, null=True)
    status = Choice(
        "pending approved rejected expired superseded withdrawn", default="pending", index=True
    )
    subject_module_key = Reference()
    subject_resource_type = Reference()
    subject_resource_id = Reference()
    valid_from = Timestamp(null=True)
    valid_until = Timestamp(null=True)
    source_kind = Reference()
    collected_at = Timestamp(null=True)
    reviewed_at = Timestamp(null=True)
    attachments = Json(ListOf(ATTACHMENT, 10), default=list)
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)

    @classmethod
    def create(cls, **values):
        begin, end = values.get("valid_from"), values.get("valid_until")
        if begin and end and end <= begin:
            raise Invalid(issues=[issue(["validUntil"], "Expected a time after validFrom")])
        claim = super().create(**values)
        emit("evidence.claim.created", {"claim": claim.told()})
        return claim

    def change(self, **values):
        status = values.get("status", self.status)
        if self.status == "pending" and status in ("approved", "rejected"):
            values.setdefault("reviewed_at", now())
        changed = super().change(**values)
        if "status" in changed and status in ("approved", "rejected"):
            emit(f"evidence.claim.{status}", {"claim": self.told()})
        return changed

    @classmethod
    def overdue(cls, workspace, at):
        sql = """SELECT "id" FROM "evidence_claim"
            WHERE "status" = 'approved' AND "valid_until" <= ?"""
        with workspace.read() as current:
            passed = (workspace.source.timestamp(at),)
            found = current.database.connection().execute(sql, passed).fetchall()
            return [cls.fetch(key) for (key,) in found]

    def told(self) -> dict:
        """What events tell of a claim."""
        return reduced(
            self,
            "id evidenceRequirementId claimKey title status subjectModuleKey subjectResourceType "
            "subjectResourceId createdAt",
        )


# --- Attachments --------------------------------------------------------------

ATTACHMENT_KEPT = "evidence.attachment.kept"


class AttachmentContent(Model):
    """The bytes of an attachment, encrypted."""

    id = Text(primary_key=True)
    evidence_claim = ForeignKey(EvidenceClaim, index=True, on_delete="CASCADE")
    content = Blob()

    @classmethod
    def keep(cls, claim: EvidenceClaim, key: str, content: bytes) -> None:
        """Store the bytes of a claim's attachment, and note in the audit log that they are here."""
        current = session()
        sealed = current.ring.seal_bytes(content, cls.place(key))
        cls.create(id=key, evidence_claim=claim.id, content=sealed)
        current.workspace.journal.note(current, ATTACHMENT_KEPT, "attachment_content", key)

    @staticmethod
    def place(key: str) -> str:
        """What the encryption of an attachment is bound to."""
        return f"attachment_content/content/{key}"

    def opened(self) -> bytes:
        """The bytes; Unavailable if they are not those that were stored here."""
        return session().ring.open_bytes(bytes(self.content), self.place(self.id))

    @classmethod
    def read(cls, key: str) -> tuple[dict, bytes]:
        """What is known of an attachment, and its bytes, held against its digest."""
        content = cls.seek(key)
        if content is None:
            raise NotFound(f"There is no attachment {key} whose content is kept here.")
        (told,) = (one for one in content.evidence_claim.attachments if one["id"] == key)
        data = content.opened()
        if hashlib.sha256(data).hexdigest() != told["sha256"]:
            raise Unavailable(f"The content of attachment {key} does not match its digest.")
        return told, data


def check_attachments() -> Iterator[str]:
    """Hold the bytes of every attachment in the current session's file against its digest."""
    connection = session().database.connection()
    told = connection.execute(
        """SELECT json_extract(a."value", '$.id'), json_extract(a."value", '$.sha256')
        FROM "evidence_claim" AS c
        JOIN json_each(CASE WHEN json_valid(c."attachments") THEN c."attachments" END) AS a"""
    )
    digests, present = dict(told), set()
    for content in AttachmentContent.select().iterator():
        present.add(content.id)
        try:
            digest = hashlib.sha256(content.opened()).hexdigest()
        except Unavailable:
            digest = "closed"
        if digests.get(content.id) != digest:
            yield f"The content of attachment {content.id} is not what its claim says."
    kept = noted_subjects(connection, ATTACHMENT_KEPT)
    for key in sorted((kept & digests.keys()) - present):
        yield f"The content of attachment {key} is gone."


def read_attachments(given: list[dict], settings: Settings) -> list[tuple[dict, bytes | None]]:
    """Check attachments: what is told of each, and its bytes unless it lies elsewhere."""
    read, issues, total = [], [], 0
    for index, attachment in enumerate(given):
        try:
            content = read_content(attachment, settings)
        except ValueError as error:
            issues += Faults.of(error, "attachments", index)
            continue
        total += len(content or b"")
        digest = attachment["sha256"] or hashlib.sha256(content).hexdigest()
        told = {
            "fileName": attachment["fileName"],
            "contentType": attachment["contentType"],
            "sizeBytes": len(content or b""),
            "sha256": digest.lower(),
            "uri": attachment["uri"],
        }
        read.append((told, content))
    if issues:
        raise Invalid(issues=[issue(*fault) for fault in issues])
    if total > settings.attachments_limit:
        raise TooLarge(f"The attachments are over {settings.attachments_limit} bytes together.")
    return read


def read_content(attachment: dict, settings: Settings) -> bytes | None:
    """The bytes of one new attachment, held against its digest; None when only a URI is given."""
    text, digest = attachment["contentBase64"], attachment["sha256"]
    if text is None:
        if attachment["uri"] is None or digest is None:
            raise ValueError("Expected contentBase64, or uri with sha256")
        return None
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError:
        raise Faults([(["contentBase64"], "Expected base64")]) from None
    if len(content) > settings.attachment_limit:
        raise TooLarge(f"An attachment is over the limit of {settings.attachment_limit} bytes.")
    if digest and digest.lower() != hashlib.sha256(content).hexdigest():
        raise Faults([(["sha256"], "The content has another digest")])
    return content


# --- Evidence -----------------------------------------------------------------


class EvidenceRequirements(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/governance/evidence/requirements",
    model=EvidenceRequirement,
    scope="governance.evidence",
    tag="Evidence",
    noun="requirement",
    collection="evidence-requirements",
    verbs="list retrieve",
):
    """What has to be shown."""

    filters = Filters(EvidenceRequirement.status)


class EvidenceClaims(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/governance/evidence/claims",
    model=EvidenceClaim,
    scope="governance.evidence",
    tag="Evidence",
    noun="claim",
    collection="evidence-claims",
    verbs="list create retrieve",
    options={"create": {"limit": "claim_limit"}},
):
    """Claims with their attachments; the API makes claims, and never approves them."""

    filters = Filters(EvidenceClaim.evidence_requirement, EvidenceClaim.status)
    creates = Schema(
        EvidenceClaim.evidence_requirement,
        EvidenceClaim.claim_key,
        EvidenceClaim.title,
        EvidenceClaim.description,
        EvidenceClaim.subject_module_key,
        EvidenceClaim.subject_resource_type,
        EvidenceClaim.subject_resource_id,
        EvidenceClaim.valid_from,
        EvidenceClaim.valid_until,
        EvidenceClaim.source_kind,
        EvidenceClaim.collected_at,
        attachments=Json(ListOf(NEW_ATTACHMENT, 10), default=list),
        optional="claimKey",
        name="CreateEvidenceClaimRequest",
    )

    def create(self, context):
        body = context.body
        check_subject(body)
        key = body["evidence_requirement"]
        requirement = EvidenceRequirement.seek(key)
        if requirement is None:
            raise Unprocessable(f"There is no evidence requirement {key} in this workspace.")
        if requirement.status != "active":
            raise Unprocessable(
                f"The evidence requirement {key} is {requirement.status}, not active."
            )
        contents = read_attachments(body.pop("attachments", []), context.settings)
        source = context.workspace.source
        body["id"] = source.ulid("evclm")
        body.setdefault("claim_key", f"api-{body['id'][-12:].lower()}")
        stored = [
            {"id": source.ulid("evatt"), **told, "createdAt": source.now()} for told, _ in contents
        ]
        claim = EvidenceClaim.create(**body, attachments=stored)
        for told, (_, content) in zip(stored, contents, strict=True):
            if content is not None:
                AttachmentContent.keep(claim, told["id"], content)
        return claim


# --- Assessments --------------------------------------------------------------


class Assessment(Model):
    """A look at how well something is done, from plan to conclusion."""

    fact, key, subject = "assessment", "assessment_key", ("assessments", "assessment")
    searched = Searched(14, "assessment", "title assessment_key", "{assessment_key}")
    moves: ClassVar[dict] = {
        "planned": "in-progress archived",
        "in-progress": "completed planned archived",
        "completed": "superseded archived",
        "superseded": "archived",
    }

    id = PrefixedId("asmt")
    assessment_key = Key()
    title = Title()
    description = Encrypted(10_000, null=True)
    status = Choice(
        "planned in-progress completed superseded archived", default="planned", index=True
    )
    subject_module_key = Reference()
    subject_resource_type = Reference()
    subject_resource_id = Reference()
    subject_version_id = Reference()
    assessor_responsibility_assignment_id = Reference()
    reviewer_responsibility_assignment_id = Reference()
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)
    completed_at = Timestamp(null=True)

    def change(self, **values):
        completes = values.get("status") == "completed" != self.status
        if completes:
            values.setdefault("completed_at", now())
        changed = super().change(**values)
        if completes:
            told = "id assessmentKey title status subjectModuleKey subjectResourceType"
            told += " subjectResourceId createdAt completedAt"
            emit("assessment.completed", {"assessment": reduced(self, told)})
        return changed


class Assessments(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/governance/assessments",
    model=Assessment,
    scope="governance.assessments",
    tag="Assessments",
    collection="assessments",
    verbs="list retrieve",
):
    """Planned, running and completed assessments."""

    filters = Filters(Assessment.status)


# --- Findings -----------------------------------------------------------------


class Finding(Model):
    """A gap, from the day that a person or a scanner sees it to the day it is closed."""

    fact, key, subject = "finding", "finding_key", ("findings", "finding")
    searched = Searched(
        5, "finding", "title finding_key", "{finding_key}, {severity}",
        told="severity status created_at",
    )  # fmt: skip
    moves: ClassVar[dict] = {
        "open": "triaged accepted archived",
        "triaged": "remediation_planned accepted archived",
        "remediation_planned": "remediating accepted",
        "remediating": "verified remediation_planned",
        "verified": "closed remediating",
        "closed": "archived open",
        "accepted": "archived open",
    }
    CLOSED: ClassVar = ("closed", "accepted", "archived")
    TOLD: ClassVar = frozenset(
        ("severity", "status", "owner_responsibility_id", "owner_member_user_id", "due_at")
    )

    id = PrefixedId("find")
    finding_key = Key()
    source_kind = Choice(
        "assessment audit evidence_gap control_gap obligation_gap risk_review manual module_signal",
        default="module_signal",
        index=True,
    )
    source_module_key = Reference(default="external")
    source_resource_type = Reference()
    source_resource_id = Reference()
    subject_module_key = Reference()
    subject_resource_type = Reference()
    subject_resource_id = Reference()
    title = Title()
    description = Encrypted(10_000, null=True)
    severity = Choice("low medium high critical")
    status = Choice(
        "open triaged remediation_planned remediating verified closed accepted archived",
        default="open",
        index=True,
    )
    owner_responsibility_id = Reference()
    owner_member_user_id = Reference()
    due_at = Timestamp(null=True)
    closed_at = Timestamp(null=True)
    lifecycle_instance_id = Reference()
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)

    @classmethod
    def create(cls, **values):
        finding = super().create(**values)
        emit("finding.created", {"finding": finding.told()})
        return finding

    def change(self, **values):
        status = values.get("status", self.status)
        if status != self.status:
            closed_at = self.closed_at or now()
            values.setdefault("closed_at", closed_at if status in self.CLOSED else None)
        changed = super().change(**values)
        if changed & self.TOLD:
            emit("finding.updated", {"finding": self.told()})
        if "status" in changed and status in self.CLOSED:
            emit("finding.closed", {"finding": self.told()})
        return changed

    def told(self) -> dict:
        """What events tell of a finding."""
        return reduced(
            self,
            "id title severity status subjectModuleKey subjectResourceType subjectResourceId "
            "createdAt",
        )


class Findings(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/governance/findings",
    model=Finding,
    scope="governance.findings",
    tag="Findings",
    collection="findings",
    verbs="list create retrieve",
):
    """Gaps that somebody has to close."""

    filters = Filters(Finding.status, Finding.source_kind)
    creates = Schema(
        Finding.title,
        Finding.severity,
        Finding.subject_module_key,
        Finding.subject_resource_type,
        Finding.subject_resource_id,
        Finding.finding_key,
        Finding.description,
        Finding.source_kind,
        Finding.source_module_key,
        Finding.source_resource_type,
        Finding.source_resource_id,
        Finding.owner_responsibility_id,
        Finding.owner_member_user_id,
        Finding.due_at,
        optional="findingKey",
        name="CreateFindingRequest",
    )

    def create(self, context):
        body = context.body
        check_subject(body)
        body["id"] = context.workspace.source.ulid("find")
        body.setdefault("finding_key", f"api-{body['id'][-12:].lower()}")
        return super().create(context)

    @route(
        "PATCH /api/v1/governance/findings/{findingId}",
        body=Schema(
            status=Choice(" ".join(Finding.status.words)), name="UpdateFindingStatusRequest"
        ),
        answer=NOVANTRA.record_schema(Named("finding", "Finding")),
        setting="finding_updates",
        id="updateFindingStatus",
    )
    def update_status(self, context, key):
        """Change the status of a finding (off unless the setting finding_updates is on)."""
        finding = Finding.fetch(key)
        finding.change(**context.body)
        return finding


# --- Exceptions ---------------------------------------------------------------


class GovernanceException(Model):
    """A deviation that somebody has allowed, for a time."""

    fact, key, subject = "exception", "exception_key", ("exceptions", "exception")
    schema_name = "Exception"
    searched = Searched(
        13, "exception", "title exception_key", "{exception_key}, {exception_kind}",
        text="exception_kind", told="exception_kind status created_at",
    )  # fmt: skip

    id = PrefixedId("excp")
    exception_key = Key()
    title = Title()
    #: Open by contract: waiver, deviation, compensating-control, temporary-exception, …
    exception_kind = Key(index=True)
    status = Choice(
        "proposed approved active expired superseded revoked archived",
        default="proposed",
        index=True,
    )
    subject_module_key = Reference()
    subject_resource_type = Reference()
    subject_resource_id = Reference()
    subject_version_id = Reference()
    approver_responsibility_assignment_id = Reference()
    valid_from = Timestamp(null=True)
    valid_until = Timestamp(null=True)
    review_due_at = Timestamp(null=True)
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)


class Exceptions(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/governance/exceptions",
    model=GovernanceException,
    scope="governance.exceptions",
    tag="Exceptions",
    noun="exception",
    collection="exceptions",
    verbs="list retrieve",
):
    """Deviations that are allowed."""

    filters = Filters(GovernanceException.status, GovernanceException.exception_kind)


# --- Monitoring ---------------------------------------------------------------

OUTCOMES = "pass fail warning unknown"


class MonitorDefinition(Model):
    """What is watched, over and over."""

    fact, key, subject = "monitor", "monitor_key", ("monitoring", "monitor-definition")
    searched = Searched(21, "monitor", "title monitor_key", "{monitor_key}")

    id = PrefixedId("monit")
    monitor_key = Key()
    title = Title()
    description = Encrypted(10_000, null=True)
    status = Choice("draft active paused retired", default="active", index=True)
    subject_module_key = Reference()
    subject_resource_type = Reference()
    subject_resource_id = Reference()
    owner_responsibility_assignment_id = Reference()
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)
    last_run_at = Timestamp(null=True)


class MonitorRun(Model):
    """One look at everything that a monitor watches."""

    fact = "monitor.run"

    id = PrefixedId("monrun")
    monitor_definition = ForeignKey(MonitorDefinition, index=True)
    trigger_kind = Key(default="manual")
    aggregate_result = Choice(OUTCOMES, index=True)
    pass_count = Integer(0, default=0)
    fail_count = Integer(0, default=0)
    warning_count = Integer(0, default=0)
    unknown_count = Integer(0, default=0)
    started_at = Timestamp(default=now)
    completed_at = Timestamp(null=True)
    created_at = Timestamp(default=now)

    @classmethod
    def create(cls, **values):
        run = super().create(**values)
        definition = MonitorDefinition.fetch(run.monitor_definition_id)
        if run.started_at > (definition.last_run_at or ""):
            definition.change(last_run_at=run.started_at)
        return run


class MonitorResultItem(Model):
    """What a run found of one member of the population."""

    fact, key = "monitor.result_item", "monitor_run population_member_key"

    id = PrefixedId("monitem")
    monitor_run = ForeignKey(MonitorRun, index=True)
    monitor_definition = ForeignKey(MonitorDefinition)
    population_member_key = Key()
    subject_module_key = Reference()
    subject_resource_type = Reference()
    subject_resource_id = Reference()
    result = Choice(OUTCOMES, index=True)
    message = Text(4000, null=True)
    finding_id = Reference()
    evaluated_at = Timestamp(default=now)
    #: Where the item stands in lists; an item that is brought in stands where it was evaluated.
    created_at = Timestamp(default=now, hidden=True)

    @classmethod
    def create(cls, **values):
        if "evaluated_at" in values:
            values.setdefault("created_at", values["evaluated_at"])
        return super().create(**values)


class MonitorDefinitions(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/governance/monitoring/definitions",
    model=MonitorDefinition,
    scope="governance.monitoring",
    tag="Monitoring",
    item="monitorId",
    collection="monitor-definitions",
    verbs="list retrieve",
):
    """What is watched."""

    filters = Filters(MonitorDefinition.status)


class MonitorRuns(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/governance/monitoring/runs",
    model=MonitorRun,
    scope="governance.monitoring",
    tag="Monitoring",
    item="runId",
    collection="monitor-runs",
    verbs="list retrieve",
):
    """When it was looked at, and with which outcome."""

    filters = Filters(MonitorRun.monitor_definition, result=Choice(OUTCOMES))
    conditions: ClassVar[dict] = {"result": lambda value: MonitorRun.aggregate_result == value}


class MonitorResultItems(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/governance/monitoring/result-items",
    model=MonitorResultItem,
    scope="governance.monitoring",
    tag="Monitoring",
    collection="monitor-result-items",
    verbs="list",
):
    """The outcome for each member of the population."""

    filters = Filters(
        MonitorResultItem.monitor_run, MonitorResultItem.result, required="monitorRunId"
    )


# --- Indicators ---------------------------------------------------------------


class Indicator(Model):
    """A number that says how things stand."""

    fact, key, subject = "indicator", "indicator_key", ("indicators", "indicator")
    searched = Searched(
        20, "indicator", "title indicator_key", "{indicator_key}, {indicator_kind}",
        told="indicator_kind status created_at",
    )  # fmt: skip

    id = PrefixedId("ind")
    indicator_key = Key()
    title = Title()
    indicator_kind = Choice("kpi kri kci kqi maturity custom", index=True)
    status = Key(default="active", index=True)
    subject_module_key = Reference()
    subject_resource_type = Reference()
    subject_resource_id = Reference()
    owner_responsibility_assignment_id = Reference()
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)
    latest_measurement_value = Text(60, null=True)
    latest_measurement_at = Timestamp(null=True)


class IndicatorMeasurement(Model):
    """The value of an indicator at one time, as a decimal in text."""

    fact, key = "indicator.measurement", "indicator_definition measured_at"

    id = PrefixedId("indm")
    indicator_definition = ForeignKey(Indicator, index=True)
    measurement_value = Text(
        60, 1, pattern=r"-?[0-9]+(\.[0-9]+)?", hint="Expected a decimal such as 94.5"
    )
    measured_at = Timestamp(default=now)
    threshold_state = Reference()
    source_kind = Reference()
    created_at = Timestamp(default=now)

    @classmethod
    def create(cls, **values):
        measurement = super().create(**values)
        indicator = Indicator.fetch(measurement.indicator_definition_id)
        if measurement.measured_at > (indicator.latest_measurement_at or ""):
            indicator.change(
                latest_measurement_value=measurement.measurement_value,
                latest_measurement_at=measurement.measured_at,
            )
        return measurement


class Indicators(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/governance/indicators",
    model=Indicator,
    scope="governance.indicators",
    tag="Indicators",
    collection="indicators",
    verbs="list retrieve",
):
    """Numbers that say how things stand."""

    filters = Filters(Indicator.status, Indicator.indicator_kind)


class IndicatorMeasurements(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/governance/indicators/measurements",
    model=IndicatorMeasurement,
    scope="governance.indicators",
    tag="Indicators",
    plural="measurements",
    collection="indicator-measurements",
    verbs="list",
):
    """The values of one indicator."""

    filters = Filters(
        IndicatorMeasurement.indicator_definition,
        since=Timestamp(),
        required="indicatorDefinitionId",
    )
    conditions: ClassVar[dict] = {
        "since": lambda value: IndicatorMeasurement.measured_at >= value,
    }


# --- Submissions --------------------------------------------------------------


class SubmissionRequirement(Model):
    """What an authority or a customer wants to be sent."""

    fact, key = "submission.requirement", "requirement_key"
    subject = ("submissions", "submission-requirement")
    searched = Searched(
        17, "submission-requirement", "title requirement_key",
        "{requirement_key}, {submission_kind}", text="submission_kind",
        told="submission_kind status created_at",
    )  # fmt: skip

    id = PrefixedId("subreq")
    requirement_key = Key()
    title = Title()
    submission_kind = Key()
    status = Choice("draft active retired archived", default="active", index=True)
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)


class SubmissionPackage(Model):
    """What is sent, and how far it has come."""

    fact, key = "submission.package", "package_key"
    subject = ("submissions", "submission-package")
    searched = Searched(
        16, "submission-package", "title package_key external_reference", "{package_key}",
    )  # fmt: skip
    moves: ClassVar[dict] = {
        "draft": "in_review ready submitted",
        "in_review": "draft ready submitted",
        "ready": "in_review submitted",
        "submitted": "acknowledged accepted rejected withdrawn",
        "acknowledged": "accepted rejected withdrawn",
        "rejected": "submitted",
        "withdrawn": "submitted",
    }
    DATED: ClassVar[dict] = {
        "submitted": "submitted_at",
        "acknowledged": "acknowledged_at",
        "accepted": "accepted_at",
    }

    id = PrefixedId("subpkg")
    submission_requirement = ForeignKey(SubmissionRequirement, index=True)
    package_key = Key()
    title = Title()
    status = Key(default="draft", index=True)
    due_at = Timestamp(null=True)
    submitted_at = Timestamp(null=True)
    acknowledged_at = Timestamp(null=True)
    accepted_at = Timestamp(null=True)
    external_reference = Reference()
    owner_responsibility_assignment_id = Reference()
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)

    def change(self, **values):
        previous = self.status
        if values.get("status", previous) != previous and values["status"] in self.DATED:
            values.setdefault(self.DATED[values["status"]], now())
        changed = super().change(**values)
        if "status" in changed:
            told = {"submissionPackage": self.told(), "previousStatus": previous}
            emit("submission.package.status_changed", told)
        return changed

    def told(self) -> dict:
        """What events tell of a package."""
        return reduced(
            self,
            "id submissionRequirementId packageKey title status dueAt submittedAt acknowledgedAt "
            "acceptedAt externalReference createdAt",
        )


class SubmissionEvent(Model):
    """Something that happened to a package on its way."""

    fact, made = "submission.event", "recorded"
    #: Which status a kind of event takes a package to, and from which ones it may.
    KINDS: ClassVar[dict] = {
        "submission": ("submitted", ("draft", "in_review", "ready")),
        "receipt": ("acknowledged", ("submitted",)),
        "acceptance": ("accepted", ("submitted", "acknowledged")),
        "rejection": ("rejected", ("submitted", "acknowledged")),
        "withdrawal": ("withdrawn", ("submitted", "acknowledged")),
        "resubmission": ("submitted", ("rejected", "withdrawn")),
    }

    id = PrefixedId("subevt")
    submission_package = ForeignKey(SubmissionPackage, index=True)
    event_kind = Choice("submission receipt acceptance rejection withdrawal resubmission")
    occurred_at = Timestamp(default=now)
    external_reference = Reference()
    note = Text(4000, null=True)
    resulting_status = Reference()
    created_at = Timestamp(default=now)

    @classmethod
    def record(cls, **values) -> SubmissionEvent:
        """Write an event down, and move its package; Unprocessable if it cannot move so."""
        key = values["submission_package"]
        package = SubmissionPackage.seek(key)
        if package is None:
            raise Unprocessable(f"There is no submission package {key} in this workspace.")
        kind = values["event_kind"]
        result, sources = cls.KINDS[kind]
        if package.status not in sources:
            raise Unprocessable(
                f"The submission package {key} is {package.status}; a {kind} needs it to be "
                f"{' or '.join(sources)}."
            )
        event = cls.create(**values, resulting_status=result)
        # Told before what it does to its package, and with what came of that.
        told = {"submissionEvent": event.json()}
        emit("submission.package.event_recorded", told)
        dated = {package.DATED[result]: event.occurred_at} if result in package.DATED else {}
        reference = event.external_reference or package.external_reference
        package.change(status=result, external_reference=reference, **dated)
        told["submissionPackage"] = package.told()
        return event


class SubmissionRequirements(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/governance/submissions/requirements",
    model=SubmissionRequirement,
    scope="governance.submissions",
    tag="Submissions",
    item="requirementId",
    collection="submission-requirements",
    verbs="list retrieve",
):
    """What has to be sent."""

    filters = Filters(SubmissionRequirement.status)


class SubmissionPackages(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/governance/submissions/packages",
    model=SubmissionPackage,
    scope="governance.submissions",
    tag="Submissions",
    item="packageId",
    collection="submission-packages",
    verbs="list retrieve",
):
    """What is sent."""

    filters = Filters(SubmissionPackage.status, SubmissionPackage.submission_requirement)


class SubmissionEvents(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/governance/submissions/events",
    model=SubmissionEvent,
    scope="governance.submissions",
    tag="Submissions",
    collection="submission-events",
    verbs="list create",
):
    """What became of it; an event moves its package."""

    filters = Filters(SubmissionEvent.submission_package)
    creates = Schema(
        SubmissionEvent.submission_package,
        SubmissionEvent.event_kind,
        SubmissionEvent.occurred_at,
        SubmissionEvent.external_reference,
        SubmissionEvent.note,
        name="CreateSubmissionEventRequest",
    )

    def create(self, context):
        return SubmissionEvent.record(**context.body)

    @route(
        "POST /api/v1/governance/submissions/packages/{packageId}/events",
        body=Schema(
            SubmissionEvent.event_kind,
            SubmissionEvent.occurred_at,
            SubmissionEvent.external_reference,
            SubmissionEvent.note,
            name="CreatePackageEventRequest",
        ),
        status=201,
        answer=NOVANTRA.record_schema(Named("submissionEvent", "SubmissionEvent")),
        id="createPackageEvent",
    )
    def create_for_package(self, context, key):
        """Create one submission event of the package that the path names."""
        return SubmissionEvent.record(**context.body, submission_package=key)

    def enter(self, values):
        # With its outcome given, it is history, and the package has its status already.
        if values.get("resulting_status"):
            return super().enter(values)
        return SubmissionEvent.record(**values)


# --- Assets -------------------------------------------------------------------


class Asset(Model):
    """Something that the organization has and answers for."""

    fact, key, subject = "asset", "asset_key", ("assets", "asset")
    searched = Searched(
        6, "asset", "display_name asset_key", "{asset_key}, {asset_kind}", text="asset_kind",
        title="{display_name}", told="asset_kind status created_at",
    )  # fmt: skip

    id = PrefixedId("asset")
    asset_key = Key()
    #: Open by contract: calibrated-tool, medical-device, it-system, vehicle, cloud-service, …
    asset_kind = Key(index=True)
    display_name = Title()
    description = Encrypted(10_000, null=True)
    source_kind = Key(default="manual")
    status = Key(default="active", index=True)
    custodian_responsibility_id = Reference()
    commissioned_at = Timestamp(null=True)
    decommissioned_at = Timestamp(null=True)
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)


class AssetCustodyAssignment(Model):
    """Who has an asset in hand; the subject triple names the custodian."""

    fact, key = "asset.custody_assignment", "assignment_key"

    id = PrefixedId("ascust")
    asset = ForeignKey(Asset, index=True)
    assignment_key = Key()
    assignment_kind = Key(default="primary")
    subject_module_key = Key()
    subject_resource_type = Key()
    subject_resource_id = Key()
    status = Key(default="active", index=True)
    started_at = Timestamp(default=now)
    ended_at = Timestamp(null=True)
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)


class AssetReadinessAssessment(Model):
    """Whether an asset may be used: calibrated, inspected, released."""

    fact, key = "asset.readiness_assessment", "readiness_assessment_key"

    id = PrefixedId("asrdy")
    asset = ForeignKey(Asset, index=True)
    readiness_assessment_key = Key()
    assessment_kind = Key()
    readiness_state = Key(index=True)
    status = Key(default="completed")
    performed_at = Timestamp(null=True)
    performed_by_responsibility_id = Reference()
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)


class Assets(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/assets",
    model=Asset,
    scope="assets",
    tag="Assets",
    collection="assets",
    verbs="list retrieve",
):
    """The inventory; `assetKey` is what other systems are compared by."""

    filters = Filters(Asset.status, Asset.asset_kind)


class AssetCustodyAssignments(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/assets/custody-assignments",
    model=AssetCustodyAssignment,
    scope="assets",
    tag="Assets",
    plural="custodyAssignments",
    collection="custody-assignments",
    verbs="list",
):
    """Who has what in hand."""

    filters = Filters(AssetCustodyAssignment.asset, AssetCustodyAssignment.status)


class AssetReadinessAssessments(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/assets/readiness-assessments",
    model=AssetReadinessAssessment,
    scope="assets",
    tag="Assets",
    plural="readinessAssessments",
    collection="readiness-assessments",
    verbs="list",
):
    """What may be used."""

    filters = Filters(AssetReadinessAssessment.asset, AssetReadinessAssessment.readiness_state)


# --- Party engagements --------------------------------------------------------


class PartyEngagement(Model):
    """What the organization has going with a supplier or another party."""

    fact, key, subject = "engagement", "engagement_key", ("party-engagements", "engagement")
    searched = Searched(
        19, "engagement", "title engagement_key", "{engagement_key}, {engagement_kind}",
        text="engagement_kind provider_party_id", told="engagement_kind status created_at",
    )  # fmt: skip

    id = PrefixedId("peng")
    engagement_key = Key()
    engagement_kind = Key(index=True)
    title = Title()
    provider_party_id = Reference()
    status = Key(default="active", index=True)
    owner_responsibility_id = Reference()
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)


class DueDiligenceReview(Model):
    """A look at a party before or while engaging it."""

    fact, key = "engagement.due_diligence_review", "review_key"

    id = PrefixedId("pengdd")
    engagement = ForeignKey(PartyEngagement, index=True)
    review_key = Key()
    review_kind = Key()
    status = Key(default="planned")
    performed_at = Timestamp(null=True)
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)


class RightToAuditRecord(Model):
    """The right to audit a party, and when it was used."""

    fact, key = "engagement.right_to_audit", "record_key"

    id = PrefixedId("pengrta")
    engagement = ForeignKey(PartyEngagement, index=True)
    record_key = Key()
    status = Key(default="active")
    last_exercised_at = Timestamp(null=True)
    next_due_at = Timestamp(null=True)
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)


class SupplierAssuranceReview(Model):
    """A look at what a supplier shows of its own controls."""

    fact, key = "engagement.supplier_assurance_review", "review_key"

    id = PrefixedId("pengsa")
    engagement = ForeignKey(PartyEngagement, index=True)
    review_key = Key()
    review_kind = Key()
    status = Key(default="planned")
    performed_at = Timestamp(null=True)
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)


class ServiceReview(Model):
    """A look at how well a service was delivered."""

    fact, key = "engagement.service_review", "review_key"

    id = PrefixedId("pengsr")
    engagement = ForeignKey(PartyEngagement, index=True)
    review_key = Key()
    review_kind = Key()
    status = Key(default="planned")
    performed_at = Timestamp(null=True)
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)


class PartyEngagements(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/party-engagements",
    model=PartyEngagement,
    scope="party-engagements",
    tag="Party engagements",
    noun="engagement",
    collection="party-engagements",
    verbs="list retrieve",
):
    """Suppliers and other parties."""

    filters = Filters(PartyEngagement.status, PartyEngagement.engagement_kind)


class DueDiligenceReviews(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/party-engagements/due-diligence-reviews",
    model=DueDiligenceReview,
    scope="party-engagements",
    tag="Party engagements",
    collection="due-diligence-reviews",
    verbs="list",
):
    """Due diligence."""

    filters = Filters(DueDiligenceReview.engagement)


class RightToAuditRecords(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/party-engagements/right-to-audit-records",
    model=RightToAuditRecord,
    scope="party-engagements",
    tag="Party engagements",
    collection="right-to-audit-records",
    verbs="list",
):
    """Rights to audit."""

    filters = Filters(RightToAuditRecord.engagement)


class SupplierAssuranceReviews(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/party-engagements/supplier-assurance-reviews",
    model=SupplierAssuranceReview,
    scope="party-engagements",
    tag="Party engagements",
    collection="supplier-assurance-reviews",
    verbs="list",
):
    """Assurance by suppliers."""

    filters = Filters(SupplierAssuranceReview.engagement)


class ServiceReviews(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/party-engagements/service-reviews",
    model=ServiceReview,
    scope="party-engagements",
    tag="Party engagements",
    collection="service-reviews",
    verbs="list",
):
    """Reviews of services."""

    filters = Filters(ServiceReview.engagement)


# --- Change management --------------------------------------------------------


class ChangeRequest(Model):
    """A change that somebody asks for."""

    fact, key = "change_request", "change_request_key"
    subject = ("change-management", "change-request")
    searched = Searched(
        10, "change-request", "title change_request_key", "{change_request_key}, {change_kind}",
        text="change_kind", told="change_kind status created_at",
    )  # fmt: skip

    id = PrefixedId("chreq")
    change_request_key = Key()
    #: Open by contract: standard, normal, emergency, pre-approved, …
    change_kind = Key(index=True)
    title = Title()
    status = Key(default="requested", index=True)
    subject_module_key = Reference()
    subject_resource_type = Reference()
    subject_resource_id = Reference()
    owner_responsibility_id = Reference()
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)
    scheduled_at = Timestamp(null=True)


class ConfigurationBaseline(Model):
    """How something was set up at one moment."""

    fact, key = "configuration_baseline", "baseline_key"
    searched = Searched(12, "configuration-baseline", "title baseline_key", "{baseline_key}")

    id = PrefixedId("chbsl")
    baseline_key = Key()
    title = Title()
    status = Key(default="active", index=True)
    subject_module_key = Reference()
    subject_resource_type = Reference()
    subject_resource_id = Reference()
    owner_responsibility_id = Reference()
    captured_at = Timestamp(null=True)
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)


class Release(Model):
    """Changes that go out together."""

    fact, key = "release", "release_key"
    searched = Searched(11, "release", "title release_key", "{release_key}")

    id = PrefixedId("chrel")
    release_key = Key()
    title = Title()
    status = Key(default="planned", index=True)
    subject_module_key = Reference()
    subject_resource_type = Reference()
    subject_resource_id = Reference()
    owner_responsibility_id = Reference()
    change_request_ids = Json(ListOf(Key()), default=list)
    released_at = Timestamp(null=True)
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)


class SystemAcceptance(Model):
    """The act that takes a system into service."""

    fact, key = "system_acceptance", "acceptance_key"

    id = PrefixedId("chacc")
    acceptance_key = Key()
    title = Title()
    status = Key(default="planned", index=True)
    subject_module_key = Reference()
    subject_resource_type = Reference()
    subject_resource_id = Reference()
    owner_responsibility_id = Reference()
    accepted_at = Timestamp(null=True)
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)


class EnvironmentSeparationReview(Model):
    """A look at whether development, test and production are kept apart."""

    fact, key = "environment_separation_review", "review_key"

    id = PrefixedId("chenv")
    review_key = Key()
    title = Title()
    status = Key(default="planned", index=True)
    subject_module_key = Reference()
    subject_resource_type = Reference()
    subject_resource_id = Reference()
    owner_responsibility_id = Reference()
    performed_at = Timestamp(null=True)
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)


class ChangeRequests(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/change-management/change-requests",
    model=ChangeRequest,
    scope="change-management",
    tag="Change management",
    collection="change-requests",
    verbs="list retrieve",
):
    """Changes that are asked for."""

    filters = Filters(ChangeRequest.status, ChangeRequest.change_kind)


class ConfigurationBaselines(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/change-management/configuration-baselines",
    model=ConfigurationBaseline,
    scope="change-management",
    tag="Change management",
    collection="configuration-baselines",
    verbs="list",
):
    """How things were set up."""

    filters = Filters(ConfigurationBaseline.status)


class Releases(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/change-management/releases",
    model=Release,
    scope="change-management",
    tag="Change management",
    collection="releases",
    verbs="list",
):
    """What went out."""

    filters = Filters(Release.status)


class SystemAcceptances(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/change-management/system-acceptances",
    model=SystemAcceptance,
    scope="change-management",
    tag="Change management",
    collection="system-acceptances",
    verbs="list",
):
    """What was taken into service."""

    filters = Filters(SystemAcceptance.status)


class EnvironmentSeparationReviews(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/change-management/environment-separation-reviews",
    model=EnvironmentSeparationReview,
    scope="change-management",
    tag="Change management",
    collection="environment-separation-reviews",
    verbs="list",
):
    """What is kept apart."""

    filters = Filters(EnvironmentSeparationReview.status)


# --- Vulnerability management -------------------------------------------------


class Vulnerability(Model):
    """A weakness that somebody could use."""

    fact, key = "vulnerability", "vulnerability_key"
    subject = ("vulnerability-management", "vulnerability")
    searched = Searched(
        4, "vulnerability", "title vulnerability_key", "{vulnerability_key}, {severity}",
        text="vulnerability_kind", told="severity status created_at",
    )  # fmt: skip

    id = PrefixedId("vuln")
    vulnerability_key = Key()
    #: Open by contract: cve, internal-finding, disclosed-bug, configuration-weakness, …
    vulnerability_kind = Key(index=True)
    title = Title()
    severity = Key()
    status = Key(default="identified", index=True)
    subject_module_key = Reference()
    subject_resource_type = Reference()
    subject_resource_id = Reference()
    owner_responsibility_id = Reference()
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)


class VulnerabilityAssessment(Model):
    """How bad one or more vulnerabilities are here."""

    fact, key = "vulnerability.assessment", "assessment_key"
    searched = Searched(15, "vulnerability-assessment", "title assessment_key", "{assessment_key}")

    id = PrefixedId("vulnas")
    assessment_key = Key()
    title = Title()
    status = Key(default="planned", index=True)
    vulnerability_ids = Json(ListOf(Key()), default=list)
    exploitability = Reference()
    performed_at = Timestamp(null=True)
    owner_responsibility_id = Reference()
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)


class PatchRequirement(Model):
    """What has to be mended, how soon, and by whom."""

    fact, key = "vulnerability.patch_requirement", "patch_requirement_key"
    searched = Searched(
        9, "patch-requirement", "title patch_requirement_key",
        "{patch_requirement_key}, {urgency}", told="urgency status created_at",
    )  # fmt: skip

    id = PrefixedId("vulnpr")
    patch_requirement_key = Key()
    vulnerability = ForeignKey(Vulnerability, index=True)
    title = Title()
    urgency = Key()
    status = Key(default="open", index=True)
    owner_responsibility_id = Reference()
    due_at = Timestamp(null=True)
    created_at = Timestamp(default=now)
    updated_at = Timestamp(default=now)


class Vulnerabilities(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/vulnerability-management/vulnerabilities",
    model=Vulnerability,
    scope="vulnerability-management",
    tag="Vulnerability management",
    plural="vulnerabilities",
    collection="vulnerabilities",
    verbs="list retrieve",
):
    """Weaknesses."""

    filters = Filters(Vulnerability.status, Vulnerability.vulnerability_kind)


class VulnerabilityAssessments(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/vulnerability-management/vulnerability-assessments",
    model=VulnerabilityAssessment,
    scope="vulnerability-management",
    tag="Vulnerability management",
    collection="vulnerability-assessments",
    verbs="list",
):
    """How bad they are."""

    filters = Filters(VulnerabilityAssessment.status)


class PatchRequirements(
    Resource,
    surface=NOVANTRA,
    path="/api/v1/vulnerability-management/patch-requirements",
    model=PatchRequirement,
    scope="vulnerability-management",
    tag="Vulnerability management",
    collection="patch-requirements",
    verbs="list",
):
    """What has to be mended."""

    filters = Filters(PatchRequirement.status, PatchRequirement.vulnerability)


# === Part IV: Factstore =======================================================
# --- Factstore fields ---------------------------------------------------------

FACTSTORE_SCOPES = ("factstore:read", "factstore:write", "factstore:admin")


def now_exactly() -> str:
    """The present with microseconds, as every timestamp of this surface is written."""
    return session().source.now(6)


#: A text with a character that is no blank, neither to Python nor in JSON Schema (ECMA-262).
NOT_BLANK = r"(?s:.*[^\s\x1c-\x1f\x85\ufeff].*)"


class Name(Text):
    """A name of 1 to 255 characters that are not all blank."""

    def __init__(self, at_most: int = 255, **options: Any):
        super().__init__(
            at_most, 1, pattern=NOT_BLANK, hint="Expected text that is not blank", **options
        )


class Id(Text):
    """The id of a record that may be gone, or in a query: a UUID, in either letter case."""

    def __init__(self, **options: Any):
        super().__init__(36, 36, **options)

    def read(self, value):
        return read_uuid(value)

    def describe(self):
        return {"type": "string", "format": "uuid"}


class Owner(ForeignKey):
    """Points at a record with a UUID, which is taken in either letter case."""

    def read(self, value):
        return read_uuid(value)

    def describe(self):
        return {"type": "string", "format": "uuid"}


class AuditEvent(Model):
    """One of the happenings that the Factstore surface tells of in its audit log."""

    fact, made, append_only, since = "factstore.event", "recorded", True, 2
    lookup = (
        "trail_id occurred_at actor event_type, actor occurred_at, event_type occurred_at, "
        "actor event_type occurred_at"
    )
    schema_name = "AuditEventResponse"

    id = Uuid()
    event_type = Choice(
        "ARTIFACT_DEPLOYED ARTIFACT_REMOVED ARTIFACT_UPDATED ENVIRONMENT_CREATED "
        "ENVIRONMENT_DELETED POLICY_EVALUATED ATTESTATION_RECORDED APPROVAL_GRANTED "
        "APPROVAL_REJECTED GATE_BLOCKED GATE_ALLOWED"
    )
    environment_id = Id(null=True)
    trail_id = Id(null=True)
    artifact_sha256 = Text(255, null=True)
    actor = Text(320)
    payload = Text(2**31)
    occurred_at = Timestamp(6, default=now_exactly, index=True)
    region = Text(255, null=True)

    @classmethod
    def record(cls, event_type: str, actor: str, payload: dict, **subject: Any) -> AuditEvent:
        """Put a happening into the log; `subject` names trail, artifact or environment."""
        current = session()
        region = current.region or current.workspace.settings.factstore_region
        return cls.create(
            event_type=event_type, actor=actor, payload=to_json(payload), region=region, **subject
        )


# --- API keys -----------------------------------------------------------------


class MachineAccount(Model):
    """A service account of the Factstore surface: what the keys of machines belong to."""

    fact, key, touched, since = "machine_account", "name", True, 3
    schema_name = "ServiceAccountResponse"

    id = Uuid()
    name = Name()
    description = Text(10_000, null=True)
    created_at = Timestamp(6, default=now_exactly)
    updated_at = Timestamp(6, default=now_exactly)

    @classmethod
    def noun(cls):
        return "service account"

    @classmethod
    def named(cls, name: str) -> MachineAccount | None:
        """The account of this name."""
        return cls.seek(name=name)

    @classmethod
    def create(cls, **values):
        if cls.named(values["name"]):
            raise Conflict(f"Service account with name '{values['name']}' already exists")
        return super().create(**values)

    def change(self, **values):
        name = values.get("name", self.name)
        if name != self.name and self.named(name):
            raise Conflict(f"Service account with name '{name}' already exists")
        return super().change(**values)

    def remove(self):
        revoke_keys_of(self.id)
        super().remove()


class ApiKey(Model):
    """A key of a person (fsp_) or of a service (fss_): its prefix, and a keyed hash of it."""

    fact, lookup, since = "api_key", "key_prefix", 2
    schema_name = "ApiKeyResponse"
    derived: ClassVar[dict] = {
        "lastUsedAt": Derived(
            Timestamp(6, null=True),
            """ifnull((SELECT json_quote("at") FROM "last_use" WHERE "id" = "t1"."id"), 'null')""",
        )
    }

    id = Uuid()
    owner_id = Id(index=True)
    owner_type = Choice("USER SERVICE_ACCOUNT")
    label = Text(255)
    key_prefix = Text(12)
    key_hash = Text(64, hidden=True)
    scopes = Json(ListOf(Text(100, 1)))
    is_active = Boolean(default=True)
    created_at = Timestamp(6, default=now_exactly)
    ttl_days = Integer(-(2**31), 2**31 - 1, null=True)
    expires_at = Timestamp(6, null=True)

    def revoke(self) -> None:
        """End the key for good; whoever presents it once this is committed is refused."""
        self.change(is_active=False)
        current = session()
        current.afterwards.append(current.workspace.api_keys.forget)


def revoke_keys_of(owner_id: str) -> None:
    """End every key of an owner who goes; they stay in the lists."""
    for key in ApiKey.select().where(ApiKey.owner_id == owner_id, ApiKey.is_active):
        key.revoke()


KEYS = Array(ApiKey, {"owner_id": lambda owner: ApiKey.owner_id == owner})
KEY_SCOPES = ("factstore:read", "factstore:write")
#: The last second that a timestamp of four digits for the year can name.
END_OF_TIME = 253_402_300_799


class ApiKeys:
    """The API keys of one workspace: made, listed and revoked as the console does, and checked.

    A key is checked once and remembered; the end of any key forgets what was remembered.
    """

    REMEMBERED = 10_000
    PREFIXES: ClassVar[dict] = {"USER": "fsp_", "SERVICE_ACCOUNT": "fss_"}

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self._known: dict[str, Principal] = {}

    def hash(self, key: str) -> str:
        """What is kept of a key: HMAC-SHA-256 under a key that is not in the file."""
        return hmac.digest(self.workspace.ring.derive("api keys"), key.encode(), "sha256").hex()

    def issue(
        self, owner_id: str, owner_type: str, label: str, days: int | None, scopes: Iterable[str]
    ) -> tuple[dict, str]:
        """Make a key in the current session; the text is told only now.

        A key for no days or fewer has expired already.
        """
        source, expiry = self.workspace.source, None
        text = self.PREFIXES[owner_type] + source.random.randbytes(32).hex()
        if days is not None:
            end = source.clock() + days * 86_400
            expiry = source.timestamp(min(max(end, 0), END_OF_TIME), 6)
        record = ApiKey.create(
            owner_id=owner_id,
            owner_type=owner_type,
            label=label,
            key_prefix=text[:12],
            key_hash=self.hash(text),
            scopes=sorted(set(scopes)),
            ttl_days=days,
            expires_at=expiry,
        )
        return record.json(), text

    def create(
        self, label: str, scopes: Iterable[str] = KEY_SCOPES, days: int | None = None
    ) -> dict:
        """Make a key of the service account of this name, which is made where it is missing.

        The key is good for so many days or until revoked; `apiKey` is its text.
        """
        wanted = set(scopes)
        if unknown := wanted.difference(FACTSTORE_SCOPES):
            known = ", ".join(FACTSTORE_SCOPES)
            raise Invalid(f"There is no scope {min(unknown)} for API keys; there are {known}.")
        if not wanted:
            raise Invalid("An API key needs at least one scope.")
        asked = Schema(label=Name(), ttl_days=Integer(1, 36_500, null=True))
        label = read_members(asked, {"label": label, "ttlDays": days})["label"]

        def work(current):
            account = MachineAccount.named(label) or MachineAccount.create(name=label)
            return self.issue(account.id, "SERVICE_ACCOUNT", label, days, wanted)

        told, text = self.act("API key created.", work)
        return {**told, "apiKey": text}

    def list(self, **filters: str) -> list[dict]:
        """All keys, or those of one `owner_id`, without their texts, in the order of their making.

        A use counts at once, although it reaches the file only once its minute is over.
        """
        recent, stamp = self.workspace.recent_uses(), self.workspace.source.timestamp
        with self.workspace.read():
            keys = json.loads(b"[%b]" % KEYS.slice(filters).text)
        for key in keys:
            if used := recent.get(key["id"]):
                key["lastUsedAt"] = stamp(used, 6)
        return keys

    def revoke(self, key: str) -> None:
        """End a key, at once."""
        self.act("API key revoked.", lambda current: ApiKey.fetch(key).revoke())

    def act(self, reason: str, work: Callable[[Session], Any]) -> Any:
        """Do one administrative write."""
        return perform(self.workspace, work, actor="console", reason=reason)

    def check(self, text: str) -> Principal | None:
        """The principal that a key speaks for; None where this workspace does not know it."""
        # What is looked up while a key is revoked goes where nobody looks any more.
        known = self._known
        principal, at = known.get(text), self.workspace.source.clock()
        if principal is None:
            principal = self.look_up(text)
            if principal is None:
                return None
            if len(known) >= self.REMEMBERED:
                known.clear()
            known[text] = principal
        if at >= principal.expires_at:
            raise Unauthenticated("The API key has expired; make a new one.")
        self.workspace.note_use(principal.id, at)
        return principal

    def look_up(self, text: str) -> Principal | None:
        """Find a key in the file by its prefix, and compare its hash."""
        digest = self.hash(text)
        with self.workspace.read():
            candidates = list(ApiKey.select().where(ApiKey.key_prefix == text[:12]))
        for key in candidates:
            if hmac.compare_digest(key.key_hash, digest) and key.is_active:
                expiry = seconds_of(key.expires_at) if key.expires_at else float("inf")
                return Principal(key.id, frozenset(key.scopes), expiry, key.label, key.owner_id)
        return None

    def forget(self) -> None:
        """Have every key checked anew, since one has ended."""
        self._known = {}


def key_request(name: str, *columns: Member) -> Schema:
    """The body that asks for an API key: whose, where the path does not say it, and what for."""
    scopes = ListOf(Choice(" ".join(FACTSTORE_SCOPES)), 10)
    return Schema(
        *columns,
        ApiKey.label,
        ApiKey.ttl_days,
        scopes=Json(scopes, default=list(KEY_SCOPES)),
        aliases={"name": "label"},
        name=name,
    )


KEY_CREATED = describe_model(ApiKey)
KEY_CREATED["properties"]["plainTextKey"] = {"type": "string"}
KEY_CREATED["required"].append("plainTextKey")


def make_key(context: Context, owner_id: str, owner_type: str) -> dict:
    """Make the API key that a request asks for, with no scope beyond those of who asks."""
    body, keys = context.body, context.workspace.api_keys
    scopes = body.get("scopes", KEY_SCOPES)
    if not scopes:
        raise Invalid(issues=[issue(["scopes"], "Expected at least one scope")])
    context.principal.may_give(scopes)
    told, text = keys.issue(owner_id, owner_type, body["label"], body.get("ttl_days"), scopes)
    return {**told, "plainTextKey": text}


# --- Factstore conventions ----------------------------------------------------


class Paging(Filters):
    """The query of a list that is cut into numbered pages, from 0 on, when it is asked for."""

    def __init__(self, *columns: Member, **own: Any):
        page, size = Integer(0, 2**31 - 1), Integer(1, 2**31 - 1)
        super().__init__(*columns, **own, page=page, size=size)


class LenientRequest(Schema):
    """A body with members that are told as required, and not missed where they are absent."""

    def __init__(self, *columns: Member, demanded: str, **own: Any):
        super().__init__(*columns, optional=demanded, **own)
        self.demanded = demanded.split()

    def describe(self):
        described = super().describe()
        return described | {"required": [*described.get("required", ()), *self.demanded]}


#: What the token of a person who signed in starts with.
SESSION_PREFIX = "fsu_"


class FactstoreSurface(Surface):
    """Bare records and arrays in creation order, and the error body of its clients."""

    claims = ("/api", "/actuator", "/api-docs", "/swagger-ui.html")
    coerces = ignores_empty = api_keys = True
    error_schema: ClassVar[dict] = {
        "type": "object",
        "required": ["status", "error", "message", "timestamp"],
        "properties": {
            "status": {"type": "integer"},
            "error": {"type": "string"},
            "message": {"type": "string"},
            "timestamp": {"type": "string", "format": "date-time"},
        },
    }

    def credentials(self, request):
        """A bearer token, or what an ApiKey or X-Api-Key header holds."""
        scheme, _, token = (request.auth or "").partition(" ")
        if scheme.lower() in ("bearer", "apikey"):
            return token.strip()
        return request.get_header("X-Api-Key", default="").strip()

    def identify(self, context):
        """By API key, session or token; a loopback caller without one where that is open."""
        lite, request = context.lite, context.request
        credentials = self.credentials(request)
        if credentials.startswith(tuple(ApiKeys.PREFIXES.values())):
            for workspace in lite.workspaces.values():
                if principal := workspace.api_keys.check(credentials):
                    context.workspace, context.principal = workspace, principal
                    return
            raise Unauthenticated("The API key is not known here, or was revoked.")
        if credentials.startswith(SESSION_PREFIX):
            context.workspace = lite.workspace_of(credentials.removeprefix(SESSION_PREFIX))
            context.principal = context.workspace.sessions.check(credentials)
            return
        near = (request.remote_addr or "").startswith("127.") or request.remote_addr == "::1"
        is_open = lite.settings.factstore_auth == "open" and near and len(lite.workspaces) == 1
        if is_open and not credentials:
            context.workspace = lite.workspace
            context.principal = Principal("anonymous", frozenset(FACTSTORE_SCOPES))
            return
        super().identify(context)

    def read_path(self, operation, values):
        """Ids are UUIDs in either letter case; all other values stand as they are."""
        read, issues = [], []
        for name, value in values.items():
            if name == "id" or name.endswith("Id"):
                value = value.lower()
                if not UUID.fullmatch(value):
                    issues.append(issue([name], "Expected a UUID"))
            read.append(value)
        if issues:
            raise Invalid(issues=issues)
        return tuple(read)

    def listing(self, model, conditions, newest_first=False, without=()):
        return Array(model, conditions, without=without)

    def list_page(self, context, listing):
        return self.array(context, listing, context.query)

    def array(
        self, context: Context, array: Array, values: Mapping[str, Any], paged: bool = False
    ) -> Reply:
        """Answer a list: bare, or in pages where the query asks for one or that is the rule."""
        values = {name: value for name, value in values.items() if name not in ("page", "size")}
        number, size = context.query.get("page"), context.query.get("size")
        if not paged and number is None and size is None:
            return Reply(200, b"[%b]" % array.slice(values).text)
        number, size = number or 0, size or 20
        total = array.count(values)
        told = {"page": number, "size": size, "totalItems": total, "totalPages": -(-total // size)}
        text = array.slice(values, number * size, size).text
        return Reply(200, b'{"items":[%b],%b' % (text, to_json(told)[1:].encode()))

    def rehearses(self, request):
        header = request.get_header("X-Factstore-Dry-Run", default="")
        asked = {header.lower(), request.get_param("dryRun", default="").lower()}
        return super().rehearses(request) or "true" in asked

    def region(self, context):
        return context.request.get_header("X-Factstore-Region", default="")[:255]

    def headers(self, context):
        headers = {"X-Factstore-Region": context.settings.factstore_region}
        origin = context.request.get_header("Origin")
        if origin is None or origin not in context.settings.cors_origins:
            return headers
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Allow-Credentials"] = "true"
        headers["Access-Control-Expose-Headers"] = "X-Request-Id, X-Factstore-Region, Retry-After"
        headers["Vary"] = "Origin"
        if context.request.method == "OPTIONS":
            # A preflight (the Fetch standard, 4.8) asks for methods and headers by name.
            asked = context.request.get_header("Access-Control-Request-Headers", default="")
            headers["Access-Control-Allow-Methods"] = "GET, POST, PUT, DELETE"
            headers["Access-Control-Allow-Headers"] = asked or "Authorization, Content-Type"
        return headers

    def present_problem(self, problem, context):
        message = str(problem)
        if problem.issues:
            told = (f"{'.'.join(map(str, i['path']))}: {i['message']}" for i in problem.issues)
            message = "; ".join(told) if message == Invalid.sentence else message
        return {
            "status": problem.status,
            "error": problem.title or HTTPStatus(problem.status).phrase,
            "message": message,
            "timestamp": context.lite.source.now(6),
        }

    def paged_schema(self, schema_name: str, always: bool = False) -> dict:
        """The JSON schema of a list that is bare, or cut into pages when that is asked for."""
        bare = self.page_schema(Named("", schema_name))
        names = ("page", "size", "totalItems", "totalPages")
        numbers = {name: {"type": "integer"} for name in names}
        page = {
            "type": "object",
            "required": ["items", *numbers],
            "properties": {"items": bare, **numbers},
        }
        return page if always else {"anyOf": [bare, page]}

    def one_schema(self, schema_name: str) -> dict:
        """The JSON schema of one record, by the name of its schema."""
        return self.record_schema(Named("", schema_name))

    def array_schema(self, schema_name: str) -> dict:
        """The JSON schema of a bare array of records, by the name of their schema."""
        return self.page_schema(Named("", schema_name))


FACTSTORE = FactstoreSurface()

COMMAND_RESULT = {
    "type": "object",
    "required": ["id", "status", "timestamp"],
    "properties": {
        "id": {"type": "string", "format": "uuid"},
        "status": {"type": "string", "enum": ["created", "updated"]},
        "timestamp": {"type": "string", "format": "date-time"},
    },
}


def created(record: Model) -> dict:
    """The short answer of the second version's commands to what was made."""
    return {"id": record.id, "status": "created", "timestamp": now_exactly()}


def updated(record: Model) -> dict:
    """The short answer of the second version's commands to what was changed."""
    return {"id": record.id, "status": "updated", "timestamp": now_exactly()}


# --- Organisations ------------------------------------------------------------


class Belonging:
    """Mixed into a model some of whose records end with the organisation whose slug they carry."""

    @classmethod
    def end_with(cls, slug: str) -> None:
        """Take away what an organisation does not leave behind."""
        raise NotImplementedError


class Organisation(Model):
    """A label that flows, trails and artifacts may carry; a record, not a tenant."""

    fact, key, touched = "organisation", "slug", True
    searched = Searched(
        30, "organisation", "name slug", "{description}", text="description", title="{name}",
        told="slug type created_at",
    )  # fmt: skip

    id = Uuid()
    slug = Name()
    name = Name()
    description = Text(10_000, default="")
    type = Choice("PERSONAL SHARED", default="SHARED")
    created_at = Timestamp(6, default=now_exactly)
    updated_at = Timestamp(6, default=now_exactly)

    def remove(self):
        for model in labelled():
            if issubclass(model, Belonging):
                model.end_with(self.slug)
        users = [model.noun() for model in labelled() if self.is_carried_by(model)]
        if users:
            raise Conflict(
                f"Organisation '{self.slug}' is still in use by {' and '.join(users)} records; "
                "take them away first."
            )
        super().remove()

    def is_carried_by(self, model: type[Model]) -> bool:
        """Whether a record of a kind carries this organisation's slug."""
        return model.has(org_slug=self.slug)


def labelled() -> list[type[Model]]:
    """The models whose records may carry an organisation's slug."""
    return [model for model in all_models() if "org_slug" in model._meta.fields]


def check_organisation(slug: str | None) -> None:
    """Refuse the slug of an organisation that is not there."""
    if slug and not Organisation.has(slug=slug):
        raise NotFound(f"There is no organisation '{slug}'.")


class Organisations(
    Resource,
    surface=FACTSTORE,
    path="/api/v1/organisations",
    model=Organisation,
    scope="factstore",
    tag="Organisations",
    item="slug",
    schema_name="OrganisationResponse",
    verbs="list create retrieve update delete",
    options={"delete": {"scope": "factstore:admin"}},
):
    """Organisations, found by slug or by UUID."""

    creates = Schema(
        Organisation.slug,
        Organisation.name,
        Organisation.description,
        Organisation.type,
        name="CreateOrganisationRequest",
    )
    changes = Schema(Organisation.name, Organisation.description, name="UpdateOrganisationRequest")

    def find(self, key):
        record = Organisation.seek(slug=key) or Organisation.seek(key.lower())
        if record is None:
            raise NotFound(f"There is no organisation '{key}'.")
        return record

    def create(self, context):
        slug = context.body["slug"]
        if Organisation.has(slug=slug):
            raise Conflict(f"Organisation with slug '{slug}' already exists")
        return super().create(context)

    def retrieve(self, context, key):
        return self.find(key)


# --- Source hosts -------------------------------------------------------------
# Where the code of an organisation lies, and the tokens that open it.

PROVIDERS = "GITHUB GITLAB BITBUCKET AZURE_DEVOPS"
#: Where a host may be that the operator named; never link-local, where clouds keep credentials.
PRIVATE_NETWORKS = tuple(
    ip_network(network)
    for network in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "::1/128",
        "fc00::/7",
    )
)  # fmt: skip
#: Bytes of an answer: a page of thirty pull requests with long descriptions.
SOURCE_ANSWER_LIMIT = 4 * 1024 * 1024


class Provider(Choice):
    """Whose product a source host is; also taken in lower case."""

    def __init__(self, **options: Any):
        super().__init__(PROVIDERS, **options)

    def read(self, value):
        return super().read(value.upper() if isinstance(value, str) else value)


class ScmIntegration(Model):
    """The token with which an organisation's pull requests are looked up at one provider."""

    fact, key, since = "scm_integration", "org_slug provider", 2
    schema_name = "ScmIntegrationResponse"
    derived: ClassVar[dict] = {"isTokenEncrypted": Derived(Boolean(), "'true'")}

    id = Uuid()
    org_slug = Text(255)
    provider = Provider()
    token = Encrypted(
        4096, 1, pattern="[!-~]+", hint="Expected a token of visible ASCII characters", hidden=True
    )
    created_at = Timestamp(6, default=now_exactly)

    @classmethod
    def of(cls, slug: str, provider: str) -> ScmIntegration | None:
        """The integration of an organisation with a provider."""
        return cls.seek(org_slug=slug, provider=provider)


INTEGRATIONS = Array(ScmIntegration, {"org_slug": lambda slug: ScmIntegration.org_slug == slug})


class ScmIntegrations(
    Resource,
    surface=FACTSTORE,
    path="/api/v1/organisations/{slug}/scm-integrations",
    model=ScmIntegration,
    scope="factstore",
    tag="Organisations",
    item="provider",
    schema_name="ScmIntegrationResponse",
    verbs="list create delete",
    options={"create": {"scope": "factstore:admin"}, "delete": {"scope": "factstore:admin"}},
):
    """The tokens for the source hosts of an organisation: one for each provider, never shown."""

    creates = Schema(
        ScmIntegration.provider, ScmIntegration.token, name="CreateScmIntegrationRequest"
    )

    def list(self, context, slug):
        """List the source hosts that an organisation has a token for."""
        return FACTSTORE.array(context, INTEGRATIONS, {"org_slug": organisation_slug(slug)})

    def create(self, context, slug):
        """Store an organisation's token for a source host."""
        slug, provider = organisation_slug(slug), context.body["provider"]
        if ScmIntegration.of(slug, provider):
            raise Conflict(
                f"Organisation '{slug}' has a token for {provider} already; delete it first."
            )
        return ScmIntegration.create(org_slug=slug, **context.body)

    def delete(self, context, slug, provider):
        """Forget an organisation's token for a source host."""
        slug, provider = organisation_slug(slug), read_in_path(ScmIntegration.provider, provider)
        integration = ScmIntegration.of(slug, provider)
        if integration is None:
            raise NotFound(f"Organisation '{slug}' has no token for {provider}.")
        told = integration.json()
        integration.remove()
        return told


def read_in_path(field: Member, value: str) -> Any:
    """A value of a path, or of a header, as a field takes it."""
    try:
        return field.read(value)
    except ValueError as error:
        raise Invalid(issues=[issue([camel(field.name)], str(error))]) from None


def organisation_slug(key: str) -> str:
    """The slug that a path means, which may hold an organisation's UUID instead."""
    key = read_in_path(ScmIntegration.org_slug, key)
    named = None if Organisation.has(slug=key) else Organisation.seek(key.lower())
    return named.slug if named else key


@functools.cache
def source_bases(settings: Settings) -> Mapping[str, str]:
    """The base URLs of the source hosts that the operator named, by provider."""
    bases: dict[str, str] = {}
    for entry in settings.scm_hosts:
        name, _, url = entry.partition("=")
        provider = name.upper()
        if provider not in PROVIDERS.split() or provider in bases:
            raise Invalid(
                "The setting scm_hosts needs one entry for a provider, such as "
                f"GITLAB=https://git.lan; the providers are {', '.join(PROVIDERS.split())}."
            )
        try:
            split_target(url)
        except Invalid as problem:
            raise Invalid(
                f"The setting scm_hosts has no good URL for {provider}: {problem}"
            ) from None
        if "?" in url or "#" in url:
            raise Invalid(
                f"The URL for {provider} in the setting scm_hosts must end with its path."
            )
        bases[provider] = url.rstrip("/")
    return MappingProxyType(bases)


@functools.cache
def source_transport(settings: Settings, provider: str) -> Transport:
    """What carries requests to a provider: into private networks only where the operator named
    the host."""
    return Transport(
        PRIVATE_NETWORKS if provider in source_bases(settings) else (),
        settings.scm_timeout,
        limit=SOURCE_ANSWER_LIMIT,
        agent="Novantra-Lite/1",
        remedy="the setting scm_hosts permits private networks to hosts that it names",
    )


# --- Patterns -----------------------------------------------------------------
# Regular expressions that others write must not keep the server busy.

#: Characters of a pattern, and the steps of one.
PATTERN_SIZE, PATTERN_STEPS = 500, 600


class Words:
    """A text cut into words, which are taken one after the other; ValueError where it cannot be.

    The kind of a word is the group of the pattern that it matched, or itself for a `mark`.
    """

    def __init__(self, pattern: str, text: str):
        self.left: deque[tuple[str, str]] = deque()
        at, match = 0, re.compile(pattern).match
        while at < len(text):
            found = match(text, at)
            if found is None:
                raise ValueError(f"unexpected text at {at}")
            word = found[found.lastgroup]
            self.left.append((word if found.lastgroup == "mark" else found.lastgroup, word))
            at = found.end()

    def take(self, *kinds: str) -> str:
        """The next word if it is of such a kind, or nothing."""
        return self.left.popleft()[1] if self.left and self.left[0][0] in kinds else ""

    def need(self, kind: str) -> str:
        """The next word, which must be of this kind."""
        if not self.left or self.left[0][0] != kind:
            raise ValueError(f"expected {kind}")
        return self.left.popleft()[1]


class Pattern:
    """A regular expression that matches in time proportional to its size and to the text's.

    Python's own engine tries one way after the other, and (a+)+$ has more ways than time. This one
    goes all ways at once (K. Thompson, Communications of the ACM 11(6), 1968). A step is either the
    test of a character, or an edge (such as ^) or nothing with how far off the next steps are. What
    that cannot do (references, lookaround) is a ValueError, what is too large an OverflowError.
    """

    WORDS = r"""(?xs)(?P<edge>\^|\$|\\[bB])
        | (?P<mark>\((?:\?:)?|\)|\|)
        | (?P<repeat>[*+?]|\{[0-9]{1,4}(?:,[0-9]{0,4})?\})\??
        | (?P<one>\[\^?\]?(?:\\.|(?!&&|--|\|\||~~)[^][\\])*\]
            |\\[dDwWsStnrf]|\\[^a-zA-Z0-9]|[^[{\\])"""

    def __init__(self, text: str):
        if len(text) > PATTERN_SIZE:
            raise OverflowError("a long pattern")
        self.flags = re.ASCII
        if text.startswith("(?i)"):
            self.flags, text = re.ASCII | re.IGNORECASE, text[4:]
        self.words = Words(self.WORDS, text)
        self.edges: dict[str, Callable] = {}
        self.steps = self.alternatives(DEPTH)
        if self.words.left:
            raise ValueError("unbalanced")
        self.tests = [
            (number, 1 << number, one) for number, (one, go) in enumerate(self.steps) if not go
        ]
        self._reached: dict[tuple[int, frozenset], int] = {}

    def alternatives(self, depth: int) -> list[tuple]:
        """The steps of sequences between bars."""
        ways = [self.sequence(depth)]
        while self.words.take("|"):
            ways.append(self.sequence(depth))
        steps = ways.pop()
        while ways:
            way = ways.pop()
            over = (None, (len(steps) + 1,))
            steps = [(None, (1, len(way) + 2)), *way, over, *steps]
        return steps

    def sequence(self, depth: int) -> list[tuple]:
        """The steps of pieces that follow each other."""
        steps: list[tuple] = []
        while (piece := self.piece(depth)) is not None:
            steps += piece
            if len(steps) > PATTERN_STEPS:
                raise OverflowError("a large pattern")
        return steps

    def piece(self, depth: int) -> list[tuple] | None:
        """The steps of one character, edge or group with what repeats it; None at the end."""
        if text := self.words.take("one"):
            steps: list[tuple] = [(compile_test(text, self.flags), ())]
        elif text := self.words.take("edge"):
            self.edges[text] = compile_test(text, self.flags)
            steps = [(text, (1,))]
        elif self.words.take("(", "(?:"):
            if depth == 0:
                raise ValueError("nested too deep")
            steps = self.alternatives(depth - 1)
            self.words.need(")")
        else:
            return None
        times = self.words.take("repeat")
        return repeat_steps(steps, times) if times else steps

    def matches(self, text: str) -> bool:
        """Whether the whole of a text is what the pattern describes."""
        here = self.reach(0, self.edges_at(text, 0))
        for at in range(len(text)):
            there, edges = 0, self.edges_at(text, at + 1)
            for number, bit, test in self.tests:
                if here & bit and test(text, at):
                    there |= self.reach(number + 1, edges)
            here = there
            if not here:
                return False
        return bool(here >> len(self.steps))

    def edges_at(self, text: str, at: int) -> frozenset[str]:
        """The edges of this pattern that a place in a text is."""
        return frozenset(edge for edge, test in self.edges.items() if test(text, at))

    def reach(self, start: int, edges: frozenset[str]) -> int:
        """The steps, as bits, that can be reached from one without taking a character."""
        if (start, edges) in self._reached:
            return self._reached[start, edges]
        found, waiting = {start}, [start]
        while waiting:
            number = waiting.pop()
            edge, offsets = self.steps[number] if number < len(self.steps) else (None, ())
            if edge is None or edge in edges:
                news = {number + offset for offset in offsets} - found
                found |= news
                waiting += news
        bits = self._reached[start, edges] = sum(1 << number for number in found)
        return bits


def compile_test(text: str, flags: int) -> Callable:
    """Whether a piece of a pattern that has only one way matches at a place in a text."""
    try:
        return re.compile(text, flags).match
    except re.error as error:
        raise ValueError(str(error)) from None


def repeat_steps(steps: list[tuple], times: str) -> list[tuple]:
    """These steps as often as `times` has it: *, +, ?, {3}, {3,} or {3,5}."""
    bounds = {"*": "0,", "+": "1,", "?": "0,1"}.get(times, times.strip("{}"))
    least, comma, most = bounds.partition(",")
    low = int(least)
    high = (int(most) if most else None) if comma else low
    if high is not None and high < low:
        raise ValueError("a range that runs backwards")
    size = len(steps)
    if (size + 1) * max(low, high or 1) > PATTERN_STEPS:
        raise OverflowError("a large pattern")
    if high is None:
        return low * steps + [(None, (1, size + 2)), *steps, (None, (-size - 1,))]
    return low * steps + (high - low) * [(None, (1, size + 1)), *steps]


# --- Templates ----------------------------------------------------------------
# A template says in YAML which attestations a trail and its artifacts must have, and some of them
# only on a condition. Its text, what its aliases unfold to, its nesting and the steps of all its
# patterns are bounded.

#: Characters of a template; values in it once its aliases are unfolded; steps of its patterns.
TEMPLATE_SIZE, TEMPLATE_VALUES, TEMPLATE_STEPS = 100_000, 50_000, 2_000


def read_yaml(text: str) -> dict | None:
    """The mapping that a YAML text holds, as JSON has it; None where it holds no such thing."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        check_nesting(yaml.parse(text, loader), DEPTH)
        reader = loader(text)
        root = reader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            return None
        check_unfolded(root, DEPTH, iter(range(TEMPLATE_VALUES)))
        parsed = reader.construct_document(root)
        # JSON has neither dates nor infinities; both become text.
        document = json.loads(json.dumps(parsed, default=str, skipkeys=True), parse_constant=str)
        check_json(document, DEPTH)
    # A value that does not fit its tag makes PyYAML fail in whichever way Python does there.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError):
        return None
    except Invalid:
        return None
    return document


def check_nesting(events: Iterable, most: int) -> None:
    """Refuse YAML that is nested too deep, as soon as the parser comes to it."""
    depth = 0
    for event in events:
        kind = type(event).__name__
        depth += kind.endswith(("MappingStartEvent", "SequenceStartEvent"))
        depth -= kind.endswith(("MappingEndEvent", "SequenceEndEvent"))
        if depth > most:
            raise ValueError("nested too deep")


def check_unfolded(node: Any, depth: int, budget: Iterator) -> None:
    """Refuse YAML whose aliases, which share what they name, stand for too many values."""
    if depth < 0 or next(budget, None) is None:
        raise ValueError("too many values")
    if isinstance(node.value, list):
        for inner in node.value:
            for one in inner if isinstance(inner, tuple) else (inner,):
                check_unfolded(one, depth - 1, budget)


class Condition:
    """The `if` of an entry in a template, read once and judged for every artifact.

    Precedence rises from `or` over `and` to `not`; a field that is not known is unlike every text.
    """

    WORDS = r"""(?x)\s*(?:(?P<text>"[^"]*"|'[^']*')
        | (?P<call>exists|matches)(?=\s*\()
        | (?P<mark>==|!=|[][(),]|(?:and|or|not|in)(?![\w.-]))
        | (?P<field>flow\.tags\[\s*(?:"[^"]*"|'[^']*')\s*\]|[A-Za-z_][\w.-]*))"""

    def __init__(self, text: str):
        #: Steps of all patterns in it.
        self.weight = 0
        wrapped = re.fullmatch(r"\$\{\{(.*)\}\}", text.strip(), re.DOTALL)
        self.words = Words(self.WORDS, (wrapped[1] if wrapped else text).strip())
        self.holds = self.any_of(DEPTH)
        if self.words.left:
            raise ValueError("unexpected words at the end")

    def any_of(self, depth: int) -> Callable[[Mapping], bool]:
        """Parts of which one must hold."""
        parts = [self.all_of(depth)]
        while self.words.take("or"):
            parts.append(self.all_of(depth))
        return lambda fields: any(part(fields) for part in parts)

    def all_of(self, depth: int) -> Callable[[Mapping], bool]:
        """Parts that must all hold."""
        parts = [self.one(depth)]
        while self.words.take("and"):
            parts.append(self.one(depth))
        return lambda fields: all(part(fields) for part in parts)

    def one(self, depth: int) -> Callable[[Mapping], bool]:
        """A part that is denied, in parentheses, a call or a comparison."""
        if depth == 0:
            raise ValueError("nested too deep")
        if self.words.take("not"):
            denied = self.one(depth - 1)
            return lambda fields: not denied(fields)
        if self.words.take("("):
            inner = self.any_of(depth - 1)
            self.words.need(")")
            return inner
        name = self.words.take("call")
        return self.call(name) if name else self.compare()

    def call(self, name: str) -> Callable[[Mapping], bool]:
        """Either exists(field) or matches(field, "pattern")."""
        self.words.need("(")
        field = self.field()
        if name == "exists":
            self.words.need(")")
            return lambda fields: field in fields
        self.words.need(",")
        pattern = Pattern(self.text())
        self.words.need(")")
        self.weight += len(pattern.steps)
        return lambda fields: fields.get(field) is not None and pattern.matches(fields[field])

    def compare(self) -> Callable[[Mapping], bool]:
        """A field held against one text or a list of them."""
        field = self.field()
        if self.words.take("=="):
            equal = self.text()
            return lambda fields: fields.get(field) == equal
        if self.words.take("!="):
            unequal = self.text()
            return lambda fields: fields.get(field) != unequal
        self.words.need("in")
        self.words.need("[")
        listed = [] if self.words.take("]") else [self.text()]
        while listed and not self.words.take("]"):
            self.words.need(",")
            listed.append(self.text())
        return lambda fields: fields.get(field) in listed

    def field(self) -> str:
        """The name of a field; a tag's in brackets means the one after a full stop."""
        name, bracket, key = self.words.need("field").partition("[")
        return f"{name}.{key[:-1].strip()[1:-1]}" if bracket else name

    def text(self) -> str:
        """What stands between quotation marks."""
        return self.words.need("text")[1:-1]


def told_text(value: Any) -> str:
    """A value of a template where text is expected; nothing for null."""
    return value if isinstance(value, str) else "" if value is None else to_json(value)


def mappings(value: Any) -> list[dict]:
    """The mappings in what should be a list of them."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


class Template:
    """What a template asks for: attestations by name, of the trail and of artifacts by theirs.

    A text that is no YAML asks for nothing.
    """

    def __init__(self, text: str):
        self.document, self.weight = read_yaml(text), 0
        root = self.document or {}
        trail = root.get("trail") if isinstance(root.get("trail"), dict) else {}
        self.trail = list(self.entries(trail))
        artifacts = mappings(trail.get("artifacts")) or mappings(root.get("artifacts"))
        self.artifacts = [
            (told_text(one.get("name")), list(self.entries(one))) for one in artifacts
        ]

    def entries(self, holder: dict) -> Iterator[tuple[str, Callable[[Mapping], bool]]]:
        """The name of each attestation asked for, and when it is."""
        for entry in mappings(holder.get("attestations")):
            yield told_text(entry.get("name")), self.condition(entry.get("if"))

    def condition(self, given: Any) -> Callable[[Mapping], bool]:
        """When an entry counts: always without an `if`, never where that is malformed."""
        if given is None or given is True or given == "":
            return lambda fields: True
        try:
            condition = Condition(told_text(given))
        except ValueError:
            return lambda fields: False
        except OverflowError:
            self.weight += PATTERN_STEPS
        else:
            self.weight += condition.weight
            if self.weight <= TEMPLATE_STEPS:
                return condition.holds
        # What is too large to be judged does not get anybody around a requirement.
        return lambda fields: True

    def names(self, fields: Mapping[str, str | None]) -> list[str]:
        """The attestations asked for where the fields of conditions have these values."""
        name = fields.get("artifact.name")
        own = (entries for artifact, entries in self.artifacts if artifact == name)
        entries = itertools.chain(self.trail, *own)
        return list(dict.fromkeys(name for name, holds in entries if holds(fields)))


@functools.lru_cache(maxsize=64)
def read_template(text: str) -> Template:
    """A template, read once for as long as it is in use."""
    return Template(text)


def artifact_fields(name: str, digest: str) -> dict[str, str | None]:
    """What a condition may ask of an artifact."""
    return {"artifact": None, "artifact.name": name, "artifact.fingerprint": digest}


# --- Flows --------------------------------------------------------------------


class Flow(Model):
    """A path to production, and the attestations that it asks for."""

    fact, key, touched = "flow", "name", True
    searched = Searched(
        29, "flow", "name", "{description}", text="description", title="{name}",
        told="visibility org_slug created_at",
    )  # fmt: skip

    id = Uuid()
    name = Name()
    description = Text(2048, default="")
    required_attestation_types = Json(ListOf(Text(255)), default=list)
    tags = Json(
        MapOf(Text(256), 50, name=Text(64, 1, pattern=NOT_BLANK, hint="Expected a name")),
        default=dict,
    )
    org_slug = Text(255, null=True, index=True)
    template_yaml = Text(TEMPLATE_SIZE, null=True)
    created_at = Timestamp(6, default=now_exactly)
    updated_at = Timestamp(6, default=now_exactly)
    requires_approval = Boolean(default=False)
    required_approver_roles = Json(ListOf(Text(255)), default=list)
    visibility = Choice("PUBLIC PRIVATE", default="PRIVATE")

    @classmethod
    def create(cls, **values):
        check_flow_name(values["name"])
        check_organisation(values.get("org_slug"))
        return super().create(**split_lists(values))

    def change(self, **values):
        if values.get("name", self.name) != self.name:
            check_flow_name(values["name"])
        return super().change(**split_lists(values))

    def template(self) -> Any:
        """The template as JSON; None without one, and when the text is no YAML mapping."""
        return read_template(self.template_yaml).document if self.template_yaml else None

    def condition_fields(self) -> dict[str, str | None]:
        """What a condition in a template may ask of the flow."""
        tags = {f"flow.tags.{key}": value for key, value in self.tags.items()}
        return {"flow": None, "flow.name": self.name, "flow.tags": None, **tags}


def check_flow_name(name: str) -> None:
    """Refuse a name that another flow has."""
    if Flow.has(name=name):
        raise Conflict(f"Flow with name '{name}' already exists")


def split_lists(values: dict) -> dict:
    """Lists of names as they read back: split at commas, trimmed, without blanks."""
    for name, value in values.items():
        if isinstance(value, list):
            parts = (part.strip() for text in value for part in text.split(","))
            values[name] = [part for part in parts if part]
    return values


FLOWS_BY_SLUG = Array(Flow, {"org_slug": lambda slug: Flow.org_slug == slug})
FLOW_TEMPLATE = {
    "type": "object",
    "required": ["flowId", "templateYaml", "effectiveTemplate"],
    "properties": {
        "flowId": {"type": "string", "format": "uuid"},
        "templateYaml": {"type": ["string", "null"]},
        "effectiveTemplate": {"type": ["object", "null"]},
    },
}


class Flows(
    Resource,
    surface=FACTSTORE,
    path="/api/v1/flows",
    model=Flow,
    scope="factstore",
    tag="Flows",
    schema_name="FlowResponse",
    collection="flows",
    verbs="list create retrieve update delete",
):
    """Paths to production."""

    creates = Schema(
        Flow.name,
        Flow.description,
        Flow.required_attestation_types,
        Flow.tags,
        Flow.org_slug,
        Flow.template_yaml,
        Flow.requires_approval,
        Flow.required_approver_roles,
        Flow.visibility,
        aliases={"requiredAttestations": "requiredAttestationTypes"},
        name="CreateFlowRequest",
    )
    changes = Schema(
        Flow.name,
        Flow.description,
        Flow.required_attestation_types,
        Flow.tags,
        Flow.template_yaml,
        Flow.requires_approval,
        Flow.required_approver_roles,
        Flow.visibility,
        aliases={"requiredAttestations": "requiredAttestationTypes"},
        name="UpdateFlowRequest",
    )

    @route(
        "GET /api/v1/organisations/{slug}/flows",
        id="listOrganisationFlows",
        answer=FACTSTORE.page_schema(Named("", "FlowResponse")),
    )
    def of_organisation(self, context, key):
        """List the flows that carry an organisation's slug."""
        return FACTSTORE.array(context, FLOWS_BY_SLUG, {"org_slug": organisation_slug(key)})

    @route(
        "GET /api/v1/flows/{flowId}/template",
        id="getFlowTemplate",
        answer=FLOW_TEMPLATE,
    )
    def template(self, context, key):
        """Get the template of a flow: its text, and what it says as JSON."""
        flow = self.find(key)
        return {
            "flowId": flow.id,
            "templateYaml": flow.template_yaml,
            "effectiveTemplate": flow.template(),
        }


class FlowsV2(
    Flows,
    path="/api/v2/flows",
    tag="V2 Flows",
    collection="",
    schema_name="FlowResponse",
    verbs="list create retrieve update delete",
    options={
        "create": {"id": "createFlowV2", "answer": COMMAND_RESULT, "brief": created},
        "retrieve": {"id": "getFlowV2"},
        "update": {"id": "updateFlowV2", "answer": COMMAND_RESULT, "brief": updated},
        "delete": {"id": "deleteFlowV2"},
    },
):
    """The same flows, with short answers to what is written."""

    @route("GET /api/v2/flows/{flowId}/template", id="getFlowTemplateV2", answer=FLOW_TEMPLATE)
    def template(self, context, key):
        """Get the template of a flow: its text, and what it says as JSON."""
        return super().template(context, key)


class SecurityThreshold(Model):
    """How many weaknesses of each severity a flow puts up with; one more is a breach."""

    fact, key, touched = "security_threshold", "flow", True

    id = Uuid()
    flow = ForeignKey(Flow, on_delete="CASCADE")
    max_critical = Integer(-(2**31), 2**31 - 1, default=0)
    max_high = Integer(-(2**31), 2**31 - 1, default=0)
    max_medium = Integer(-(2**31), 2**31 - 1, default=10)
    max_low = Integer(-(2**31), 2**31 - 1, default=2**31 - 1)
    created_at = Timestamp(6, default=now_exactly)
    updated_at = Timestamp(6, default=now_exactly)


class SecurityThresholds(
    Resource,
    surface=FACTSTORE,
    model=SecurityThreshold,
    scope="factstore",
    tag="Flows",
    schema_name="SecurityThresholdResponse",
):
    """The limits that security scans of a flow are held against."""

    @route(
        "GET /api/v1/flows/{flowId}/security-thresholds",
        id="getSecurityThresholds",
        answer=FACTSTORE.record_schema(Named("", "SecurityThresholdResponse")),
    )
    def read(self, context, key):
        """Get the scan limits of a flow."""
        threshold = SecurityThreshold.seek(flow=key)
        if threshold is None:
            raise NotFound(f"The flow {key} has no security thresholds.")
        return threshold

    @route(
        "POST /api/v1/flows/{flowId}/security-thresholds",
        id="setSecurityThresholds",
        body=Schema(
            SecurityThreshold.max_critical,
            SecurityThreshold.max_high,
            SecurityThreshold.max_medium,
            SecurityThreshold.max_low,
            name="SetSecurityThresholdRequest",
        ),
        status=201,
        answer=FACTSTORE.record_schema(Named("", "SecurityThresholdResponse")),
    )
    def set(self, context, key):
        """Create or overwrite the scan limits of a flow; what is left out gets its default."""
        flow = Flow.fetch(key)
        limits = ("max_critical", "max_high", "max_medium", "max_low")
        defaults = {name: getattr(SecurityThreshold, name).default for name in limits}
        threshold = SecurityThreshold.seek(flow=flow.id)
        if threshold is None:
            return SecurityThreshold.create(flow=flow.id, **defaults | context.body)
        threshold.change(**defaults | context.body)
        return threshold


# --- Notifications ------------------------------------------------------------


class Notification(Model):
    """Something that happened, as people are told of it inside the product; it is never deleted."""

    since = 4
    schema_name = "NotificationResponse"

    id = Uuid()
    title = Text(1000)
    message = Text()
    severity = Choice("INFO WARNING CRITICAL", index=True)
    is_read = Boolean(default=False, index=True)
    entity_type = Text(255, null=True)
    entity_id = Id(null=True)
    created_at = Timestamp(6, default=now_exactly)


NOTIFICATIONS = Array(
    Notification,
    {
        "is_read": lambda value: Notification.is_read == peewee.SQL(value),
        "severity": lambda value: Notification.severity == value,
    },
    newest_first=True,
)


def note_reading(context: Context, key: str, detail: str | None = None) -> None:
    """Put into the audit log who marked a notification, or all, as read."""
    context.workspace.journal.note(session(), "notification.read", "notification", key, detail)


class Notifications(
    Resource,
    surface=FACTSTORE,
    path="/api/v1/notifications",
    model=Notification,
    scope="factstore",
    tag="Notifications",
    verbs="list",
    options={"list": {"answer": FACTSTORE.paged_schema("NotificationResponse")}},
):
    """What the rules for it had people told."""

    filters = Paging(Notification.is_read, Notification.severity)

    def list(self, context):
        """List the notifications, newest first, in pages where the query asks for one."""
        return FACTSTORE.array(context, NOTIFICATIONS, context.query)

    @route(
        "GET /api/v1/notifications/unread-count",
        id="countUnreadNotifications",
        answer=Shape(count=Integer(0)).describe(),
    )
    def unread(self, context):
        """Count the notifications that nobody has read."""
        return {"count": NOTIFICATIONS.count({"is_read": False})}

    @route(
        "POST /api/v1/notifications/{notificationId}/read",
        id="markNotificationRead",
        answer=FACTSTORE.one_schema("NotificationResponse"),
    )
    def mark(self, context, key):
        """Mark a notification as read."""
        notification = Notification.fetch(key)
        if notification.change(is_read=True):
            note_reading(context, key)
        return notification

    @route("POST /api/v1/notifications/read-all", id="markAllNotificationsRead", status=204)
    def mark_all(self, context):
        """Mark every notification as read."""
        unread = Notification.is_read == 0
        if count := Notification.update(is_read=True).where(unread).execute():
            note_reading(context, "all", to_json({"count": count}))


# --- Notification channels ----------------------------------------------------
# Where a notification goes, and how it is put there.


def read_receiver(config: str) -> str:
    """The URL in a channel's configuration; Invalid where there is none."""
    try:
        told = read_json(config.encode())
    except Invalid:
        told = None
    url = told.get("webhookUrl") if isinstance(told, dict) else None
    if not isinstance(url, str) or not url.strip():
        expected = 'Expected a JSON object as text, with a "webhookUrl" that is not blank'
        raise Invalid(issues=[issue(["channelConfig"], expected)])
    return url.strip()


def lies_within(url: str, networks: Networks) -> bool:
    """Whether a URL leads to nowhere but these networks; False where its name does not resolve."""
    parts, port = split_target(url)
    with contextlib.suppress(OSError, UnicodeError):
        found = call_within(5, socket.getaddrinfo, parts.hostname, port)
        addresses = {ip_address(entry[4][0]) for entry in found}
        return all(any(one in network for network in networks) for one in addresses)
    return False


def needs_tls(url: str, networks: Networks) -> bool:
    """Whether notifications go to a URL by https only, as to all but what the operator listed."""
    return url.lower().startswith("https://") or not (networks and lies_within(url, networks))


def check_channel(channel_type: str, config: str, settings: Settings) -> None:
    """Refuse a channel that leads nowhere, or where nothing may be sent; in-app needs no URL."""
    if channel_type != "IN_APP":
        url, networks = read_receiver(config), allowed_networks(settings)
        check_target(url, networks, needs_tls(url, networks))


def slack_text(lines: Iterable[str]) -> str:
    """Lines as Slack takes a text, in which no name can address people or draw a link."""
    # Slack asks for these three characters to be escaped, and for no others.
    return "\n".join(escape(" ".join(line.split())[:3000], quote=False) for line in lines)


def slack_message(told: Mapping[str, Any]) -> str:
    """A notification as Slack shows it."""
    facts = {
        "Severity": told["severity"],
        "Event": told["triggerEvent"],
        "Concerns": " ".join(filter(None, [told["entityType"], told["entityId"]])),
        "flowId": told["filterFlowId"],
        **told["extraPayload"],
    }
    lines = [f":rotating_light: *{told['title']}*", told["message"]]
    for name, value in facts.items():
        if value not in (None, "", []):
            lines.append(f"• {name}: {value if isinstance(value, str) else to_json(value)}")
    return slack_text(lines)


# --- Notifying ----------------------------------------------------------------
# Who is told of what, and what became of it.

#: Characters of a message; a gate may have thousands of reasons.
MESSAGE_SIZE = 2000
#: The rules that a happening meets, which may have no flow or environment.
MATCHING = """SELECT "id", "channel_type" FROM "notification_rule"
    WHERE "trigger_event" = ? AND "is_active" = 1
    AND ("filter_flow_id" IS NULL OR "filter_flow_id" = ?)
    AND ("filter_environment_id" IS NULL OR "filter_environment_id" = ?) ORDER BY "rowid\""""


class ChannelConfig(Encrypted):
    """A JSON object as text, whose URL lets whoever knows it post to the channel."""

    is_secret = True


class NotificationRule(Model):
    """What has people told of which happenings: in the product, by a webhook or in Slack."""

    fact, touched, lookup, since = "notification_rule", True, "trigger_event is_active", 4
    schema_name = "NotificationRuleResponse"

    id = Uuid()
    name = Name()
    is_active = Boolean(default=True)
    trigger_event = Choice(
        "ATTESTATION_FAILED GATE_BLOCKED DRIFT_DETECTED APPROVAL_REQUIRED TRAIL_NON_COMPLIANT "
        "APPROVAL_REJECTED"
    )
    channel_type = Choice("SLACK WEBHOOK IN_APP")
    channel_config = ChannelConfig(default="{}")
    filter_flow_id = Id(null=True)
    filter_environment_id = Id(null=True)
    created_at = Timestamp(6, default=now_exactly)
    updated_at = Timestamp(6, default=now_exactly)

    @property
    def sends(self) -> bool:
        """Whether it has anything sent to another server."""
        return self.is_active and self.channel_type != "IN_APP"

    def change(self, **values):
        changed = super().change(**values)
        if self.channel_type != "IN_APP":
            # Two changes at a time might each leave a good pair, and a bad one together.
            read_receiver(self.channel_config)
        if not self.sends:
            NotificationErrand.skip(self)
        return changed

    def remove(self):
        # All at once, since there may be many.
        for model in (NotificationErrand, NotificationDelivery):
            model.delete().where(model.rule == self).execute()
        super().remove()


class NotificationDelivery(Model):
    """What became of a notification by one rule, in the end."""

    since = 4
    schema_name = "NotificationDeliveryResponse"

    id = Uuid()
    rule = Owner(NotificationRule, index=True)
    event_type = Text(255)
    payload = Text(null=True)
    status = Choice("SENT FAILED SKIPPED")
    sent_at = Timestamp(6, default=now_exactly)
    error = Text(null=True)
    attempt_count = Integer(0, 2**31 - 1)

    @classmethod
    def record(cls, rule: str, payload: str, status: str, **values: Any) -> None:
        """Put down what became of a notification by a rule."""
        trigger = json.loads(payload)["triggerEvent"]
        cls.create(rule=rule, event_type=trigger, payload=payload, status=status, **values)


class NotificationErrand(Errand):
    """A notification on its way to the channel of a rule."""

    since, lane = 4, "rule"
    #: What the notes say of the waits before the second and the third attempt.
    steps, jitter = (2, 4), 0

    id = PrefixedId("ntf")
    rule = Owner(NotificationRule, index=True)
    #: What WEBHOOK posts, and SLACK puts in words.
    payload = Text()

    @classmethod
    def waiting(cls, moment, failing):
        due = super().waiting(moment, failing)
        return due.select(cls, NotificationRule).join(NotificationRule)

    def letter(self, workspace, at):
        url = read_receiver(self.rule.channel_config)
        split_target(url, needs_tls(url, allowed_networks(workspace.settings)))
        is_slack = self.rule.channel_type == "SLACK"
        body = (
            to_json({"text": slack_message(json.loads(self.payload))}) if is_slack else self.payload
        )
        return Letter(url, body.encode(), {"Content-Type": "application/json"})

    def settle(self, sent, at):
        if self.state != "due":
            # It was skipped while it was being sent.
            return
        super().settle(sent, at)
        if self.state == "done":
            self.conclude("SENT", self.attempts)
        elif self.state == "failed":
            self.conclude("FAILED", self.attempts, self.note)

    @classmethod
    def skip(cls, rule: NotificationRule) -> None:
        """End what is on its way by a rule that has nothing sent any more."""
        for errand in cls.select().where(cls.rule == rule, cls.state == "due"):
            errand.change(state="failed", due_at=None)
            errand.conclude("SKIPPED", 0, "The rule was switched off, or has another channel now.")

    def conclude(self, status: str, attempts: int, error: str | None = None) -> None:
        """Put down what became of it in the end."""
        told = {"attempt_count": attempts, "error": error}
        NotificationDelivery.record(self.rule_id, self.payload, status, **told)


def show(told: Mapping[str, Any], rule: str) -> None:
    """Tell of a happening inside the product, by a rule."""
    shown = {
        column: told[camel(column)]
        for column in ("title", "message", "severity", "entity_type", "entity_id")
    }
    Notification.create(**shown)
    NotificationDelivery.record(rule, to_json(told), "SENT", attempt_count=1)


def notify(
    trigger: str,
    *,
    title: str,
    message: str,
    severity: str,
    entity_type: str | None,
    entity_id: str | None,
    flow_id: str | None = None,
    environment_id: str | None = None,
    payload: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Have every active rule for a trigger tell of a happening, in the transaction at hand.

    CRITICAL is what stops a release: a trail that is no longer compliant, a gate that is shut.
    WARNING is what somebody should look into: a failed attestation, drift, a rejection. INFO is
    what only waits for somebody: a request for approval, a test.
    """
    place = trigger, flow_id, environment_id
    rules = session().database.connection().execute(MATCHING, place).fetchall()
    if not rules:
        return
    told = {
        "triggerEvent": trigger,
        "title": title,
        "message": message[:MESSAGE_SIZE],
        "severity": severity,
        "entityType": entity_type,
        "entityId": entity_id,
        "filterFlowId": flow_id,
        "extraPayload": {**payload, "environmentId": environment_id},
    }
    for rule, channel in rules:
        if channel == "IN_APP":
            show(told, rule)
        else:
            NotificationErrand.send(rule=rule, payload=to_json(told))


# --- Notification rules -------------------------------------------------------

RULE_DELIVERIES = Array(
    NotificationDelivery,
    {"rule": lambda rule: NotificationDelivery.rule == rule},
    newest_first=True,
)


class NotificationRules(
    Resource,
    surface=FACTSTORE,
    path="/api/v1/notification-rules",
    model=NotificationRule,
    scope="factstore",
    access="admin",
    tag="Notification rules",
    item="ruleId",
    verbs="list create retrieve update delete",
    options={
        "create": {"before": "check_new"},
        "update": {"before": "find_changes"},
    },
):
    """Who is told of what; for admins only, since a rule tells the secret URL of its channel."""

    creates = Schema(
        NotificationRule.name,
        NotificationRule.trigger_event,
        NotificationRule.channel_type,
        NotificationRule.channel_config,
        NotificationRule.filter_flow_id,
        NotificationRule.filter_environment_id,
        name="CreateNotificationRuleRequest",
    )
    changes = Schema(
        NotificationRule.name,
        NotificationRule.is_active,
        NotificationRule.trigger_event,
        NotificationRule.channel_type,
        NotificationRule.channel_config,
        NotificationRule.filter_flow_id,
        NotificationRule.filter_environment_id,
        clear_filter_flow_id=Boolean(default=False),
        clear_filter_environment_id=Boolean(default=False),
        name="UpdateNotificationRuleRequest",
    )

    def check_new(self, context: Context) -> None:
        """Refuse a channel that leads nowhere."""
        body = context.body
        config = body.get("channel_config", NotificationRule.channel_config.default)
        check_channel(body["channel_type"], config, context.settings)

    def find_changes(self, context: Context, key: str) -> dict:
        """What a body changes of a rule, whose channel must still lead somewhere."""
        rule, values = self.find(key), dict(context.body)
        for name in ("filter_flow_id", "filter_environment_id"):
            if values.pop(f"clear_{name}", False):
                values[name] = None
        channel = {"channel_type": rule.channel_type, "channel_config": rule.channel_config}
        if channel.keys() & values.keys():
            channel |= {name: values[name] for name in channel.keys() & values.keys()}
            check_channel(*channel.values(), context.settings)
        return values

    def update(self, context, key):
        """Change selected members of a notification rule, or clear its filters."""
        rule = self.find(key)
        rule.change(**context.prepared)
        return rule

    @route("POST /api/v1/notification-rules/{ruleId}/test", id="testNotificationRule", status=202)
    def test(self, context, key):
        """Send a test to all active rules that have the trigger and the filters of this one."""
        rule = self.find(key)
        notify(
            rule.trigger_event,
            title="Test notification",
            message=f"A test of the notification rule '{rule.name}'.",
            severity="INFO",
            entity_type="notification_rule",
            entity_id=rule.id,
            flow_id=rule.filter_flow_id,
            environment_id=rule.filter_environment_id,
        )
        # What would be named after the rule itself would be a fact about it.
        context.workspace.journal.note(session(), "notification.tested", "notification_rule", key)


class NotificationDeliveries(
    Resource,
    surface=FACTSTORE,
    model=NotificationDelivery,
    scope="factstore",
    access="admin",
    tag="Notification rules",
):
    """What came of what the rules had people told."""

    @route(
        "GET /api/v1/notification-rules/{ruleId}/deliveries",
        id="listNotificationDeliveries",
        query=Paging(),
        answer=FACTSTORE.paged_schema("NotificationDeliveryResponse"),
    )
    def list(self, context, key):
        """List what came of a rule's notifications, newest first."""
        NotificationRule.fetch(key)
        return FACTSTORE.array(context, RULE_DELIVERIES, {"rule": key})


# --- Trail records ------------------------------------------------------------
# What a trail gathers.


class Trail(Tallied):
    """One run of a pipeline for a commit, and all that was recorded about it."""

    fact, made, key, touched, since = "trail", "begun", "flow name", True, 2
    lookup = "flow git_commit_sha, flow status created_at"
    schema_name = "TrailResponse"
    searched = Searched(
        3, "trail", "git_commit_sha name", "{git_author} <{git_author_email}>",
        text="git_branch git_author git_author_email", title="{git_commit_sha:.8} — {git_branch}",
        told="status git_branch created_at",
    )  # fmt: skip
    #: In all, in all on one day, and of one flow on one day.
    tallied = tuple(
        (place, '"status"', "1")
        for place in (
            "'all'",
            """'all/' || date("created_at")""",
            """"flow_id" || '/' || date("created_at")""",
        )
    )
    derived: ClassVar[dict] = {
        "flowName": Derived(
            Text(255), 'json_quote((SELECT "name" FROM "flow" WHERE "id" = t1."flow_id"))'
        )
    }

    id = Uuid()
    flow = Owner(Flow, index=True, on_delete="CASCADE")
    git_commit_sha = Text(255)
    git_branch = Text(255)
    git_author = Name()
    git_author_email = Text(255)
    pull_request_id = Text(255, null=True)
    pull_request_reviewer = Text(255, null=True)
    deployment_actor = Text(255, null=True)
    status = Choice("PENDING COMPLIANT NON_COMPLIANT", default="PENDING")
    org_slug = Text(255, null=True, index=True)
    template_yaml = Text(TEMPLATE_SIZE, null=True)
    build_url = Text(2048, null=True)
    name = Text(255, null=True)
    created_at = Timestamp(6, default=now_exactly)
    updated_at = Timestamp(6, default=now_exactly)

    @property
    def words(self) -> str:
        """What it is called in a sentence for people."""
        commit = f"commit {self.git_commit_sha} on {self.git_branch} by {self.git_author}"
        return f"trail {self.name or self.id} ({commit})"


def compliance_sql(trail: str) -> str:
    """SQL for COMPLIANT, NON_COMPLIANT or UNKNOWN, from SQL for the id of a trail.

    UNKNOWN where the flow requires no types; NON_COMPLIANT where one has failed or has not passed.
    """
    recorded = """EXISTS (SELECT 1 FROM "attestation" AS a WHERE a."trail_id" = k."id"
        AND a."type" = r."value" AND a."status" = '{}')"""
    passed, failed = recorded.format("PASSED"), recorded.format("FAILED")
    return f"""ifnull((SELECT CASE WHEN f."required_attestation_types" = '[]' THEN 'UNKNOWN'
        WHEN EXISTS (SELECT 1 FROM json_each(f."required_attestation_types") AS r
            WHERE {failed} OR NOT {passed}) THEN 'NON_COMPLIANT' ELSE 'COMPLIANT' END
        FROM "trail" AS k JOIN "flow" AS f ON f."id" = k."flow_id"
        WHERE k."id" = {trail}), 'UNKNOWN')"""


#: SQL for the names of the environments whose newest snapshot holds the artifact `t1`: there, the
#: newest snapshot that holds its digest is the newest of all. Most artifacts run nowhere.
RUNNING_IN = """(SELECT json_group_array(n."name") FROM (
    SELECT e."name" FROM "environment" AS e
    WHERE EXISTS (SELECT 1 FROM "snapshot_artifact" AS s
            WHERE s."artifact_sha256" = t1."sha256_digest")
        AND (SELECT i."snapshot_id" FROM "snapshot_artifact" AS i
            WHERE i."artifact_sha256" = t1."sha256_digest" AND i."environment_id" = e."id"
            ORDER BY i."rowid" DESC LIMIT 1)
        = (SELECT l."id" FROM "environment_snapshot" AS l WHERE l."environment_id" = e."id"
            ORDER BY l."snapshot_index" DESC LIMIT 1)
    ORDER BY e."rowid") AS n)"""


class Artifact(Model):
    """Something that was built, known by its digest, as one trail reported it."""

    fact, made, since = "artifact", "reported", 2
    schema_name = "ArtifactResponse"
    searched = Searched(
        2, "artifact", "image_name sha256_digest", "{sha256_digest:.16}",
        text="image_tag reported_by", title="{image_name}:{image_tag}",
        told="sha256_digest registry reported_at",
    )  # fmt: skip
    derived: ClassVar[dict] = {
        "provenanceStatus": Derived(
            Choice("NO_PROVENANCE PROVENANCE_UNVERIFIED PROVENANCE_VERIFIED"),
            """json_quote(ifnull((SELECT p."provenance_status" FROM "build_provenance" AS p
                WHERE p."artifact_id" = t1."id"), 'NO_PROVENANCE'))""",
        ),
        "complianceState": Derived(
            Choice("COMPLIANT NON_COMPLIANT UNKNOWN"),
            f"json_quote({compliance_sql('t1.trail_id')})",
        ),
        "runningInEnvironments": Derived(Json(ListOf(Text(255))), RUNNING_IN),
    }

    id = Uuid()
    trail = Owner(Trail, index=True)
    image_name = Text(255)
    image_tag = Text(255)
    sha256_digest = Text(255, index=True)
    registry = Text(255, null=True)
    reported_at = Timestamp(6, default=now_exactly)
    reported_by = Text(255, default="")
    org_slug = Text(255, null=True, index=True)
    artifact_type = Choice("FILE DIR DOCKER OCI", null=True)
    build_url = Text(2048, null=True)
    commit_url = Text(2048, null=True)


class Attestation(Tallied):
    """What somebody says of a trail: that something was done, and how it ended."""

    fact, made, lookup, since = "attestation", "recorded", "trail type status", 2
    schema_name = "AttestationResponse"
    searched = Searched(
        1, "attestation", "name", "{name} {status}",
        text="type evidence_file_name evidence_url artifact_fingerprint", title="{type}",
        told="status trail created_at",
    )  # fmt: skip
    tallied = (("'all'", '"status"', "1"),)
    derived: ClassVar[dict] = {
        "compliant": Derived(
            Boolean(), """CASE t1."status" WHEN 'PASSED' THEN 'true' ELSE 'false' END"""
        )
    }

    id = Uuid()
    trail = Owner(Trail)
    type = Text(255)
    status = Choice("PASSED FAILED PENDING", default="PENDING")
    evidence_file_hash = Text(64, null=True)
    evidence_file_name = Text(255, null=True)
    evidence_file_size_bytes = Integer(0, null=True)
    details = Text(1_000_000, null=True)
    name = Text(255, null=True)
    evidence_url = Text(10_000, null=True)
    org_slug = Text(255, null=True, index=True)
    artifact_fingerprint = Text(255, null=True)
    created_at = Timestamp(6, default=now_exactly)
    metadata = Json(MapOf(Anything()), null=True)


class Records:
    """A JSON array of whole records, by the name of their schema."""

    def __init__(self, schema_name: str):
        self.schema_name = schema_name

    def describe(self) -> dict:
        """This array's JSON schema."""
        return FACTSTORE.array_schema(self.schema_name)


class Approval(Model):
    """A request to let a trail be released, and what became of it."""

    fact, made, since = "approval", "requested", 2
    lookup = "trail status"
    schema_name = "ApprovalResponse"
    moves: ClassVar[dict] = {"PENDING_APPROVAL": "APPROVED REJECTED"}

    id = Uuid()
    trail = Owner(Trail, index=True, on_delete="CASCADE")
    flow = Owner(Flow, on_delete="CASCADE")
    status = Choice(
        "PENDING_APPROVAL APPROVED REJECTED EXPIRED", default="PENDING_APPROVAL", index=True
    )
    required_approvers = Json(ListOf(Text(255)), default=list)
    comments = Text(10_000, null=True)
    requested_at = Timestamp(6, default=now_exactly)
    deadline = Timestamp(6, null=True)
    resolved_at = Timestamp(6, null=True)

    #: SQL for the status at the present: what nobody decided in time has expired.
    standing = (
        """CASE WHEN t1."status" = 'PENDING_APPROVAL' AND t1."deadline" < (SELECT present()) """
        """THEN 'EXPIRED' ELSE t1."status" END"""
    )
    derived: ClassVar[dict] = {
        "status": Derived(status, f"json_quote({standing})"),
        "decisions": Derived(
            Records("ApprovalDecisionResponse"),
            """'[' || ifnull((SELECT group_concat("json") FROM (SELECT "json"
                FROM "approval_decision" WHERE "approval_id" = t1."id"
                ORDER BY "rowid")), '') || ']'""",
        ),
    }

    @classmethod
    def releases(cls, trail: Trail | str) -> bool:
        """Whether an approval lets a trail be released."""
        return cls.has(trail=trail, status="APPROVED")


# --- Trail status -------------------------------------------------------------
# What follows for a trail from all that it has gathered.


def settle(trail: Trail, failed: bool = False) -> None:
    """Let a trail's status follow a fact that was just recorded (decision 24 of the contract).

    A failure makes it NON_COMPLIANT, until what failed has passed. Once everything has passed that
    its flow requires, and the trail is approved where the flow asks for it, it is COMPLIANT, until
    more is required.
    """
    if failed:
        status = "NON_COMPLIANT"
    elif meets_its_flow(trail):
        status = "COMPLIANT"
    else:
        status = "PENDING" if trail.status == "COMPLIANT" else trail.status
    if status == trail.status:
        return
    trail.change(status=status)
    emit("factstore.trail.settled", {"trail": trail.json()})
    if failed:
        notify(
            "TRAIL_NON_COMPLIANT",
            title="A trail is not compliant",
            message=f"Something failed on the {trail.words}.",
            severity="CRITICAL",
            entity_type="trail",
            entity_id=trail.id,
            flow_id=trail.flow_id,
            payload={"gitCommitSha": trail.git_commit_sha, "buildUrl": trail.build_url},
        )


def meets_its_flow(trail: Trail) -> bool:
    """Whether everything has passed that a trail's flow requires, and all that had failed; False
    where that is nothing.

    A template, the trail's or else the flow's, requires attestations by name instead of by type.
    """
    flow = trail.flow
    template = flow.template_yaml if trail.template_yaml is None else trail.template_yaml
    if template is None:
        member, required = Attestation.type, set(flow.required_attestation_types)
    else:
        member, required = Attestation.name, names_required(trail, read_template(template))
    if not required:
        return False
    passed, failed = outcomes(trail, member)
    if failed or not required <= passed:
        return False
    return not flow.requires_approval or Approval.releases(trail)


def outcomes(trail: Trail, member: Member) -> tuple[set[str], bool]:
    """What has passed on a trail, by the type or the name; and whether something failed that has
    not passed since. What has no name goes by its type.
    """
    newest = peewee.fn.max(peewee.SQL('"t1"."rowid"'))
    known_by = member, Attestation.type, Attestation.status
    decided = Attestation.select(*known_by, newest).where(
        Attestation.trail == trail, Attestation.status.in_(("PASSED", "FAILED"))
    )
    last: dict[str, dict[str, int]] = {"PASSED": {}, "FAILED": {}}
    passed = set()
    for own, type, status, row in decided.group_by(*known_by).tuples():
        key = own or type
        last[status][key] = max(row, last[status].get(key, 0))
        if status == "PASSED":
            passed.add(own)
    failed = any(last["PASSED"].get(key, 0) < row for key, row in last["FAILED"].items())
    return passed, failed


def names_required(trail: Trail, template: Template) -> set[str]:
    """The attestations that a template asks of all that a trail reported or still has to report."""
    fields = trail.flow.condition_fields()
    reported = Artifact.select(Artifact.image_name, Artifact.sha256_digest).where(
        Artifact.trail == trail
    )
    artifacts = [artifact_fields(*row) for row in reported.distinct().tuples()]
    known = {one["artifact.name"] for one in artifacts}
    missing = {name for name, _ in template.artifacts} - known
    artifacts += [{"artifact": None, "artifact.name": name} for name in missing]
    return {name for own in artifacts or [{}] for name in template.names(fields | own)}


# --- Trails -------------------------------------------------------------------

CI_CONTEXT = "X-Factstore-CI-Context"
CI_MEMBERS = ("gitCommitSha", "gitBranch", "buildUrl")
#: The names of each CI system, and what its environment says of a build, in the order of
#: CI_MEMBERS (section 3 of the delivery notes).
CI_SYSTEMS = {
    name: templates
    for names, *templates in (
        (
            "github-actions github_actions",
            "{GITHUB_SHA}",
            "{GITHUB_REF_NAME}",
            "{GITHUB_SERVER_URL}/{GITHUB_REPOSITORY}/actions/runs/{GITHUB_RUN_ID}",
        ),
        ("gitlab-ci gitlab_ci", "{CI_COMMIT_SHA}", "{CI_COMMIT_REF_NAME}", "{CI_JOB_URL}"),
        ("jenkins", "{GIT_COMMIT}", "{GIT_BRANCH}", "{BUILD_URL}"),
        ("circleci circle-ci", "{CIRCLE_SHA1}", "{CIRCLE_BRANCH}", "{CIRCLE_BUILD_URL}"),
        (
            "azure-devops azure_devops",
            "{BUILD_SOURCEVERSION}",
            "{BUILD_SOURCEBRANCH}",
            "{SYSTEM_TEAMFOUNDATIONCOLLECTIONURI}{SYSTEM_TEAMPROJECT}"
            "/_build/results?buildId={BUILD_BUILDID}",
        ),
    )
    for name in names.split()
}


def told_by_environment(template: str) -> str | None:
    """A text out of the environment of this process, or None where a part of it is not set."""
    # A variable that is set to nothing says nothing.
    variables = {name: value for name, value in os.environ.items() if value}
    try:
        return template.format_map(variables)
    except KeyError:
        return None


def fill_from_ci(data: dict, system: str) -> dict:
    """A body with its absent members as the environment of a CI system has them."""
    found = zip(CI_MEMBERS, map(told_by_environment, CI_SYSTEMS.get(system, ())), strict=False)
    return data | {member: value for member, value in found if data.get(member) is None}


def begin_trail(values: dict) -> Trail:
    """Begin a trail under a flow: a commit, a branch, and a name that no other of the flow has."""
    flow, name = Flow.fetch(values["flow"]), values.get("name")
    needed = {"git_commit_sha": "gitCommitSha", "git_branch": "gitBranch"}
    missing = [member for column, member in needed.items() if values.get(column) is None]
    if missing:
        raise Invalid(issues=[issue([member], "Required") for member in missing])
    check_organisation(values.get("org_slug"))
    if name is not None and Trail.has(flow=flow.id, name=name):
        raise Conflict(f"Trail with name '{name}' already exists in flow '{flow.name}'")
    return Trail.create(**values)


#: What a body may tell of a trail in both versions of the API.
TRAIL_COLUMNS = (
    Trail.flow,
    Trail.git_author,
    Trail.git_author_email,
    Trail.pull_request_id,
    Trail.pull_request_reviewer,
    Trail.deployment_actor,
    Trail.org_slug,
    Trail.template_yaml,
    Trail.build_url,
)
#: What a body may leave to the CI system.
TRAIL_COMMIT = {"git_commit_sha": Text(255, null=True), "git_branch": Text(255, null=True)}
TRAIL_ALIASES = {"pullRequestNumber": "pullRequestId"}


class Trails(
    Resource,
    surface=FACTSTORE,
    path="/api/v1/trails",
    model=Trail,
    scope="factstore",
    tag="Trails",
    verbs="list create retrieve",
    options={"create": {"request_headers": (CI_CONTEXT,)}},
):
    """Runs of pipelines."""

    filters = Filters(Trail.flow)
    creates = Schema(
        *TRAIL_COLUMNS,
        Trail.name,
        **TRAIL_COMMIT,
        aliases=TRAIL_ALIASES,
        name="CreateTrailRequest",
    )

    def accept(self, context, data):
        system = context.request.get_header(CI_CONTEXT, default="").strip().lower()
        return fill_from_ci(data, system) if isinstance(data, dict) else data

    def create(self, context):
        return begin_trail(context.body)

    @route(
        "GET /api/v1/flows/{flowId}/trails",
        id="listTrailsForFlow",
        query=Paging(),
        answer=FACTSTORE.paged_schema("TrailResponse", always=True),
    )
    def of_flow(self, context, flow):
        """List one page of the trails of a flow."""
        Flow.fetch(flow)
        return FACTSTORE.array(context, self.listing, {"flow": flow}, paged=True)


TRAIL_EVENTS = Array(
    AuditEvent, {"trail_id": lambda trail: AuditEvent.trail_id == trail}, newest_first=True
)


class TrailEvents(Resource, surface=FACTSTORE, model=AuditEvent, scope="factstore", tag="Trails"):
    """What the audit log tells of trails."""

    @route(
        "GET /api/v1/trails/{trailId}/audit",
        id="listTrailAuditEvents",
        answer=FACTSTORE.array_schema("AuditEventResponse"),
    )
    def of_trail(self, context, trail):
        """List the audit events of a trail, newest first."""
        return FACTSTORE.array(context, TRAIL_EVENTS, {"trail_id": trail})


class TrailsV2(
    Trails,
    path="/api/v2/trails",
    tag="V2 Trails",
    schema_name="TrailView",
    verbs="list create retrieve",
    options={
        "create": {
            "id": "createTrailV2",
            "answer": COMMAND_RESULT,
            "brief": created,
            "request_headers": (CI_CONTEXT,),
        },
        "retrieve": {"id": "getTrailV2"},
    },
):
    """The same trails without names, and with short answers to what is written."""

    without = ("name", "flowName")
    creates = Schema(
        *TRAIL_COLUMNS, **TRAIL_COMMIT, aliases=TRAIL_ALIASES, name="CreateTrailCommand"
    )

    @route(
        "GET /api/v2/flows/{flowId}/trails",
        id="listTrailsForFlowV2",
        answer=FACTSTORE.array_schema("TrailView"),
    )
    def of_flow(self, context, flow):
        """List all trails of a flow."""
        Flow.fetch(flow)
        return FACTSTORE.array(context, self.listing, {"flow": flow})

    @route(
        "GET /api/v2/trails/{trailId}/audit",
        id="listTrailAuditEventsV2",
        answer=FACTSTORE.array_schema("AuditEventResponse"),
    )
    def audit(self, context, key):
        """List the audit events of a trail, newest first."""
        return FACTSTORE.array(context, TRAIL_EVENTS, {"trail_id": key})


# --- Artifacts ----------------------------------------------------------------


def report_artifact(trail: Trail, **values: Any) -> Artifact:
    """Record what a trail has built; the same digest may be reported again and again."""
    check_organisation(values.get("org_slug"))
    if values.get("build_url") is None:
        values["build_url"] = trail.build_url
    artifact = Artifact.create(trail=trail.id, **values)
    payload = {
        "artifactId": artifact.id,
        "trailId": trail.id,
        "imageName": artifact.image_name,
        "imageTag": artifact.image_tag,
        "sha256Digest": artifact.sha256_digest,
        "registry": artifact.registry,
    }
    about = {"trail_id": trail.id, "artifact_sha256": artifact.sha256_digest}
    AuditEvent.record("ARTIFACT_DEPLOYED", artifact.reported_by, payload, **about)
    emit("factstore.artifact.reported", {"artifact": artifact.json()})
    # A template may require something of it.
    settle(trail)
    return artifact


def artifact_of(trail_id: str, artifact_id: str) -> Artifact:
    """An artifact of this trail, or NotFound."""
    Trail.fetch(trail_id)
    artifact = Artifact.fetch(artifact_id)
    if artifact.trail_id != trail_id:
        raise NotFound(f"The artifact {artifact_id} does not belong to the trail {trail_id}.")
    return artifact


def first_artifact(digest: str) -> Artifact:
    """The artifact that was the first to be reported with a digest, or NotFound."""
    artifact = Artifact.seek(sha256_digest=digest)
    if artifact is None:
        raise NotFound(f"There is no artifact with the digest '{digest}'.")
    return artifact


ARTIFACTS = Array(
    Artifact,
    {
        "trail": lambda trail: Artifact.trail == trail,
        "digest": lambda digest: Artifact.sha256_digest == digest,
    },
)


class Artifacts(Resource, surface=FACTSTORE, model=Artifact, scope="factstore", tag="Artifacts"):
    """What trails have built."""

    @route(
        "GET /api/v1/trails/{trailId}/artifacts",
        id="listTrailArtifacts",
        answer=FACTSTORE.array_schema("ArtifactResponse"),
    )
    def of_trail(self, context, key):
        """List the artifacts of a trail."""
        return FACTSTORE.array(context, ARTIFACTS, {"trail": Trail.fetch(key).id})

    @route(
        "POST /api/v1/trails/{trailId}/artifacts",
        id="reportArtifact",
        body=Schema(
            Artifact.registry,
            Artifact.reported_by,
            Artifact.org_slug,
            Artifact.artifact_type,
            Artifact.build_url,
            Artifact.commit_url,
            image_name=Name(),
            image_tag=Name(),
            sha256_digest=Text(
                pattern="sha256:[0-9a-fA-F]{64}",
                hint="Expected sha256: and 64 hexadecimal digits",
            ),
            aliases={"name": "imageName", "tag": "imageTag"},
            name="CreateArtifactRequest",
        ),
        status=201,
        answer=FACTSTORE.one_schema("ArtifactResponse"),
    )
    def report(self, context, key):
        """Record an artifact on a trail; unless it is said, whoever calls has reported it."""
        caller = context.principal.name or context.principal.id
        return report_artifact(Trail.fetch(key), **{"reported_by": caller} | context.body)

    @route(
        "GET /api/v1/artifacts",
        id="findArtifacts",
        query=Filters(sha256=Text(255, 1), required="sha256"),
        answer=FACTSTORE.array_schema("ArtifactResponse"),
    )
    def with_digest(self, context):
        """List every artifact with this digest, prefix and letter case included."""
        return FACTSTORE.array(context, ARTIFACTS, {"digest": context.query["sha256"]})


class ArtifactsV2(Artifacts, tag="V2 Artifacts"):
    """The same artifacts, with short answers to what is written."""

    @route(
        "GET /api/v2/trails/{trailId}/artifacts",
        id="listTrailArtifactsV2",
        answer=FACTSTORE.array_schema("ArtifactResponse"),
    )
    def of_trail_too(self, context, key):
        """List the artifacts of a trail."""
        return self.of_trail(context, key)

    @route(
        "POST /api/v2/trails/{trailId}/artifacts",
        id="reportArtifactV2",
        body=Schema(
            Artifact.image_name,
            Artifact.image_tag,
            Artifact.sha256_digest,
            Artifact.registry,
            Artifact.reported_by,
            Artifact.org_slug,
            Artifact.artifact_type,
            Artifact.build_url,
            Artifact.commit_url,
            required="reportedBy",
            name="ReportArtifactRequestV2",
        ),
        status=201,
        answer=COMMAND_RESULT,
        brief=created,
    )
    def report_briefly(self, context, key):
        """Record an artifact on a trail, and answer with its id."""
        return self.report(context, key)

    @route(
        "GET /api/v2/artifacts",
        id="findArtifactV2",
        query=Filters(sha256=Text(255, 1), required="sha256"),
        # The contract leaves room for an array; its clients read one object.
        answer={
            "anyOf": [
                FACTSTORE.one_schema("ArtifactResponse"),
                FACTSTORE.array_schema("ArtifactResponse"),
            ]
        },
    )
    def first_with_digest(self, context):
        """Get the first artifact with this digest, prefix and letter case included."""
        return first_artifact(context.query["sha256"])


# --- Provenance signatures ----------------------------------------------------
# A signature of provenance is a DSSE envelope around an in-toto statement about the
# artifact, or a detached one over the text of the artifact's digest.

#: Signatures of one envelope that are looked at; each is tried with every key.
SIGNATURES = 16
KEY_KINDS = "a public key in PEM, Ed25519 or ECDSA P-256"


def read_public_keys(pem: bytes) -> list:
    """The public keys in PEM text; ValueError where one is of a kind that nothing here checks."""
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    blocks = re.findall(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", pem, re.S)
    try:
        keys = [load_pem_public_key(block) for block in blocks]
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"Expected {KEY_KINDS}") from None
    for key in keys:
        is_p256 = isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)
        if not is_p256 and not isinstance(key, Ed25519PublicKey):
            raise ValueError(f"Expected {KEY_KINDS}")
    if not keys:
        raise ValueError(f"Expected {KEY_KINDS}")
    return keys


#: The keys in each set of files, as they were when an instance last started with them.
_trusted: dict[tuple[str, ...], list] = {}


def read_trusted_keys(settings: Settings) -> None:
    """Read the files that provenance_keys names, once, at the start; Invalid names a bad one."""
    keys = []
    for file in settings.provenance_keys:
        try:
            keys += read_public_keys(Path(file).read_bytes())
        except OSError as error:
            raise Invalid(f"The file {file} of provenance_keys: {error.strerror}.") from None
        except ValueError as fault:
            raise Invalid(f"The file {file} of provenance_keys: {fault}.") from None
    _trusted[settings.provenance_keys] = keys


def trusted_keys(settings: Settings) -> list:
    """The public keys that build provenance is verified with, whoever asks."""
    return _trusted[settings.provenance_keys]


def is_signed(key: Any, signature: bytes, data: bytes) -> bool:
    """Whether a key made a signature: Ed25519 (RFC 8032), or ECDSA with SHA-256, DER or r and s."""
    from cryptography.hazmat.primitives.asymmetric import ec, utils
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        if not isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data)
            return True
        if len(signature) == 64:
            r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
            signature = utils.encode_dss_signature(r, s)
        key.verify(signature, data, ec.ECDSA(SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


def decode_base64(text: Any) -> bytes:
    """Read base64 in either alphabet, padded or not, with line breaks or not; or ValueError."""
    if not isinstance(text, str):
        raise ValueError("not text")
    text = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


class Signed(NamedTuple):
    """What a provenance signature is over, the signatures, and what an envelope states."""

    data: bytes
    signatures: list[bytes]
    #: The payload of an envelope; None for a detached signature.
    statement: bytes | None = None

    @classmethod
    def read(cls, text: str, digest: str) -> Signed:
        """Read an envelope or a detached signature; ValueError says what is wrong with it."""
        if text.startswith("{"):
            return cls.read_envelope(text)
        try:
            return cls(digest.encode(), [decode_base64(text)])
        except ValueError:
            raise ValueError("The signature is neither a DSSE envelope nor base64.") from None

    @classmethod
    def read_envelope(cls, text: str) -> Signed:
        """Read a DSSE envelope (version 1.0.2 of its specification)."""
        try:
            envelope = read_json(text.encode())
            kind, payload = envelope["payloadType"], decode_base64(envelope["payload"])
            given = envelope["signatures"][:SIGNATURES]
            signatures = [decode_base64(one["sig"]) for one in given]
            named = kind.encode()
        except (Invalid, ValueError, LookupError, TypeError, AttributeError):
            raise ValueError("The signature is not a DSSE envelope.") from None
        # In-toto's envelope layer: the type is in-toto's own or that of one predicate.
        if not re.fullmatch(r"application/vnd\.in-toto(\.[\w.-]+)?\+json", kind):
            raise ValueError("The envelope does not hold an in-toto statement.")
        # What is signed is the pre-authentication encoding of type and payload.
        data = b"DSSEv1 %d %b %d %b" % (len(named), named, len(payload), payload)
        return cls(data, signatures, payload)

    def names(self, digest: str) -> bool:
        """Whether what is signed is about the artifact with this digest."""
        if self.statement is None:
            return True
        algorithm, _, value = digest.rpartition(":")
        try:
            statement = read_json(self.statement)
            if not statement["_type"].startswith("https://in-toto.io/Statement/"):
                return False
            known = [
                one["digest"].get(algorithm.lower() or "sha256") for one in statement["subject"]
            ]
            return any(one.lower() == value.lower() for one in known if one)
        except (Invalid, LookupError, TypeError, AttributeError):
            return False


def weigh_signature(digest: str, signature: str | None, keys: Sequence) -> tuple[str, str]:
    """VERIFIED, FAILED or UNVERIFIED, and a sentence why, for a signature about a digest."""
    text = (signature or "").strip()
    if not text:
        return "UNVERIFIED", "The provenance is recorded, but carries no signature."
    if not keys:
        return "UNVERIFIED", "The signature was not checked: there is no public key to check with."
    try:
        signed = Signed.read(text, digest)
    except ValueError as fault:
        return "FAILED", str(fault)
    if not any(is_signed(key, one, signed.data) for one in signed.signatures for key in keys):
        return "FAILED", "None of the keys to check with made this signature over this content."
    if not signed.names(digest):
        return "FAILED", f"The signed statement is not about the digest '{digest}'."
    return "VERIFIED", "The signature is good, and is about this artifact's digest."


# --- Provenance ---------------------------------------------------------------


class BuildProvenance(Model):
    """How an artifact was built, as its builder says; recorded once for each artifact."""

    fact, made, key, append_only, since = "build_provenance", "recorded", "artifact", True, 2
    schema_name = "BuildProvenanceResponse"

    id = Uuid()
    artifact = Owner(Artifact)
    builder_id = Text(255)
    builder_type = Choice("GITHUB_ACTIONS JENKINS CIRCLE_CI GENERIC")
    build_config_uri = Text(512, null=True)
    source_repository_uri = Text(512, null=True)
    source_commit_sha = Text(255, null=True)
    build_started_on = Timestamp(6, null=True)
    build_finished_on = Timestamp(6, null=True)
    provenance_signature = Text(65_536, null=True)
    slsa_level = Choice("L0 L1 L2 L3", default="L0")
    #: What the trusted keys said when it was recorded.
    provenance_status = Choice("PROVENANCE_UNVERIFIED PROVENANCE_VERIFIED")
    recorded_at = Timestamp(6, default=now_exactly)

    @classmethod
    def create(cls, **values):
        made = super().create(**values)
        artifact = made.artifact
        payload = {
            "artifactId": artifact.id,
            "provenanceId": made.id,
            "builderId": made.builder_id,
            "slsaLevel": made.slsa_level,
            "provenanceStatus": made.provenance_status,
        }
        about = {"trail_id": artifact.trail_id, "artifact_sha256": artifact.sha256_digest}
        AuditEvent.record("ARTIFACT_UPDATED", session().actor, payload, **about)
        return made

    @classmethod
    def of(cls, artifact: Artifact) -> BuildProvenance | None:
        """The provenance of an artifact, if any is recorded."""
        return cls.seek(artifact=artifact.id)


def examine_provenance(
    artifact: Artifact, provenance: BuildProvenance | None, keys: Sequence
) -> tuple[str, str]:
    """NONE, UNVERIFIED, FAILED or VERIFIED, and a sentence why, by these public keys."""
    if provenance is None:
        return "NONE", "No provenance is recorded for this artifact."
    return weigh_signature(artifact.sha256_digest, provenance.provenance_signature, keys)


def provenance_verdict(
    artifact: Artifact, provenance: BuildProvenance | None, keys: Sequence
) -> str:
    """NONE, UNVERIFIED, FAILED or VERIFIED, by these public keys."""
    return examine_provenance(artifact, provenance, keys)[0]


#: What the contract calls each verdict: only what was verified is ever called so.
PROVENANCE_STATUSES = MappingProxyType(
    {
        "NONE": "NO_PROVENANCE",
        "UNVERIFIED": "PROVENANCE_UNVERIFIED",
        "FAILED": "PROVENANCE_UNVERIFIED",
        "VERIFIED": "PROVENANCE_VERIFIED",
    }
)


class PublicKeys(Text):
    """Public keys in PEM, of the kinds that signatures are checked with."""

    def read(self, value):
        return read_public_keys(super().read(value).encode())


PROVENANCE = Schema(
    BuildProvenance.builder_id,
    BuildProvenance.builder_type,
    BuildProvenance.build_config_uri,
    BuildProvenance.source_repository_uri,
    BuildProvenance.source_commit_sha,
    BuildProvenance.build_started_on,
    BuildProvenance.build_finished_on,
    BuildProvenance.provenance_signature,
    BuildProvenance.slsa_level,
    name="RecordProvenanceRequest",
)
VERIFICATION = Schema(public_key=PublicKeys(null=True), name="VerifyProvenanceRequest")
VERIFIED = {
    "type": "object",
    "required": ["artifactId", "provenanceStatus", "verdict", "message"],
    "properties": {
        "artifactId": {"type": "string", "format": "uuid"},
        "provenanceStatus": {"type": "string", "enum": sorted({*PROVENANCE_STATUSES.values()})},
        "verdict": {"type": "string", "enum": [*PROVENANCE_STATUSES]},
        "message": {"type": "string"},
    },
}


class Provenance(
    Resource, surface=FACTSTORE, model=BuildProvenance, scope="factstore", tag="Provenance"
):
    """How artifacts were built."""

    @route(
        "GET /api/v1/trails/{trailId}/artifacts/{artifactId}/provenance",
        id="getProvenance",
        answer=FACTSTORE.one_schema("BuildProvenanceResponse"),
    )
    def read(self, context, trail, key):
        """Get the provenance of an artifact."""
        return self.known(artifact_of(trail, key))

    @route(
        "POST /api/v1/trails/{trailId}/artifacts/{artifactId}/provenance",
        id="recordProvenance",
        body=PROVENANCE,
        status=201,
        answer=FACTSTORE.one_schema("BuildProvenanceResponse"),
    )
    def record(self, context, trail, key):
        """Attach build provenance to an artifact, once."""
        artifact = artifact_of(trail, key)
        if BuildProvenance.of(artifact):
            raise Conflict(f"The artifact {artifact.id} has its provenance already.")
        signature = context.body.get("provenance_signature")
        keys = trusted_keys(context.settings)
        verdict, _ = weigh_signature(artifact.sha256_digest, signature, keys)
        status = PROVENANCE_STATUSES[verdict]
        return BuildProvenance.create(
            artifact=artifact.id, provenance_status=status, **context.body
        )

    @route(
        "POST /api/v1/trails/{trailId}/artifacts/{artifactId}/provenance/verify",
        id="verifyProvenance",
        body=VERIFICATION,
        answer=VERIFIED,
    )
    def verify(self, context, trail, key):
        """Check the signature of an artifact's provenance, with a key of the caller's or ours.

        A key that is given decides alone. Nothing is stored.
        """
        artifact = artifact_of(trail, key)
        keys = context.body.get("public_key") or trusted_keys(context.settings)
        verdict, message = examine_provenance(artifact, BuildProvenance.of(artifact), keys)
        return {
            "artifactId": artifact.id,
            "provenanceStatus": PROVENANCE_STATUSES[verdict],
            "verdict": verdict,
            "message": message,
        }

    @route(
        "GET /api/v1/artifacts/{artifactKey}/provenance",
        id="getProvenanceByDigest",
        answer=FACTSTORE.one_schema("BuildProvenanceResponse"),
    )
    def read_by_digest(self, context, digest):
        """Get the provenance of the first artifact with a digest."""
        return self.known(first_artifact(digest))

    def known(self, artifact: Artifact) -> BuildProvenance:
        """The provenance of an artifact, or NotFound."""
        provenance = BuildProvenance.of(artifact)
        if provenance is None:
            raise NotFound(f"There is no provenance of the artifact {artifact.id}.")
        return provenance


class ProvenanceV2(Provenance, tag="V2 Artifacts"):
    """The same provenance under the paths of the second version."""

    @route(
        "GET /api/v2/trails/{trailId}/artifacts/{artifactId}/provenance",
        id="getProvenanceV2",
        answer=FACTSTORE.one_schema("BuildProvenanceResponse"),
    )
    def read_too(self, context, trail, key):
        """Get the provenance of an artifact."""
        return self.read(context, trail, key)

    @route(
        "POST /api/v2/trails/{trailId}/artifacts/{artifactId}/provenance",
        id="recordProvenanceV2",
        body=PROVENANCE,
        status=201,
        answer=FACTSTORE.one_schema("BuildProvenanceResponse"),
    )
    def record_too(self, context, trail, key):
        """Attach build provenance to an artifact, once."""
        return self.record(context, trail, key)

    @route(
        "POST /api/v2/trails/{trailId}/artifacts/{artifactId}/provenance/verify",
        id="verifyProvenanceV2",
        body=VERIFICATION,
        answer=VERIFIED,
    )
    def verify_too(self, context, trail, key):
        """Check the signature of an artifact's provenance, with a key of the caller's or ours."""
        return self.verify(context, trail, key)

    @route(
        "GET /api/v2/artifacts/{artifactKey}/provenance",
        id="getProvenanceByDigestV2",
        answer=FACTSTORE.one_schema("BuildProvenanceResponse"),
    )
    def read_by_digest_too(self, context, digest):
        """Get the provenance of the first artifact with a digest."""
        return self.read_by_digest(context, digest)


# --- Attestations -------------------------------------------------------------


def tell_of_failure(trail: Trail, attestation: Attestation) -> None:
    """Notify of an attestation that came to be FAILED."""
    notify(
        "ATTESTATION_FAILED",
        title=f"The attestation '{attestation.type}' failed",
        message=f"It was recorded on the {trail.words}.",
        severity="WARNING",
        entity_type="attestation",
        entity_id=attestation.id,
        flow_id=trail.flow_id,
        payload={"trailId": trail.id, "type": attestation.type, "name": attestation.name},
    )


def record_attestation(trail: Trail, told: Mapping[str, Any] | None, **values: Any) -> Attestation:
    """Record an attestation on a trail, and let the trail's status follow.

    `told` is what the audit event says beyond the attestation; None: there is no audit event.
    """
    check_organisation(values.get("org_slug"))
    attestation = Attestation.create(trail=trail.id, **values)
    failed = attestation.status == "FAILED"
    if failed:
        tell_of_failure(trail, attestation)
    settle(trail, failed)
    if told is not None:
        payload = {
            "attestationId": attestation.id,
            "trailId": trail.id,
            "type": attestation.type,
            "status": attestation.status,
            **told,
        }
        AuditEvent.record("ATTESTATION_RECORDED", "system", payload, trail_id=trail.id)
    emit("factstore.attestation.recorded", {"attestation": attestation.json()})
    return attestation


TRAIL_ATTESTATIONS = Array(Attestation, {"trail": lambda trail: Attestation.trail == trail})

#: What may be said of an attestation, by whichever path it is recorded.
ATTESTED = (
    Attestation.type,
    Attestation.status,
    Attestation.details,
    Attestation.name,
    Attestation.evidence_url,
    Attestation.org_slug,
    Attestation.metadata,
)
ATTESTED_ALIASES = {"description": "details"}
NEW_ATTESTATION = Schema(*ATTESTED, aliases=ATTESTED_ALIASES, name="CreateAttestationRequest")


class Attestations(
    Resource,
    surface=FACTSTORE,
    model=Attestation,
    scope="factstore",
    tag="Attestations",
):
    """What was attested of trails; nothing of it is ever changed or taken away."""

    @route(
        "GET /api/v1/trails/{trailId}/attestations",
        id="listAttestations",
        query=Paging(),
        answer=FACTSTORE.paged_schema("AttestationResponse"),
    )
    def list(self, context, trail):
        """List the attestations of a trail, in pages where the query asks for one."""
        Trail.fetch(trail)
        return FACTSTORE.array(context, TRAIL_ATTESTATIONS, {"trail": trail})

    @route(
        "POST /api/v1/trails/{trailId}/attestations",
        id="recordAttestation",
        body=NEW_ATTESTATION,
        status=201,
        answer=FACTSTORE.one_schema("AttestationResponse"),
    )
    def create(self, context, trail):
        """Record an attestation on a trail."""
        return record_attestation(Trail.fetch(trail), {}, **context.body)

    @route(
        "POST /api/v1/attestations",
        id="recordAttestationByBody",
        body=Schema(
            Attestation.trail,
            *ATTESTED,
            aliases=ATTESTED_ALIASES,
            name="CreateAttestationByBodyRequest",
        ),
        status=201,
        answer=FACTSTORE.one_schema("AttestationResponse"),
    )
    def create_by_body(self, context):
        """Record an attestation on the trail that the body names."""
        return self.create(context, context.body.pop("trail"))


def check_flow_of(slug: str, name: str) -> None:
    """Refuse the name of a flow that an organisation does not have."""
    if not Flow.has(org_slug=slug, name=name):
        raise NotFound(f"The organisation '{slug}' has no flow '{name}'.")


class AttestationsV2(Attestations, tag="V2 Attestations"):
    """The second version's commands: organisation and flow are looked for before the trail is."""

    #: What a path says of an attestation.
    named = Schema(Attestation.trail, artifact_fingerprint=Text(255, 1))

    @route(
        "GET /api/v2/trails/{trailId}/attestations",
        id="listAttestationsV2",
        answer=FACTSTORE.array_schema("AttestationResponse"),
    )
    def list(self, context, trail):
        """List all attestations of a trail."""
        return super().list(context, trail)

    @route(
        "POST /api/v2/trails/{trailId}/attestations",
        id="recordAttestationV2",
        body=Schema(
            *ATTESTED,
            Attestation.artifact_fingerprint,
            flow_name=Text(255, null=True),
            aliases=ATTESTED_ALIASES,
            name="RecordAttestationRequestV2",
        ),
        status=201,
        answer=COMMAND_RESULT,
        brief=created,
    )
    def create(self, context, trail):
        """Record an attestation on a trail, and get the short result."""
        slug, flow = context.body.get("org_slug"), context.body.pop("flow_name", None)
        check_organisation(slug)
        if slug and flow:
            check_flow_of(slug, flow)
        return record_attestation(Trail.fetch(trail), {}, **context.body)

    @route(
        "POST /api/v2/attestations/{org}/{flow}/{trail}/{artifactFingerprint}",
        id="recordAttestationByPathV2",
        body=NEW_ATTESTATION,
        status=201,
        answer=FACTSTORE.one_schema("AttestationResponse"),
    )
    def create_by_path(self, context, slug, flow, trail, fingerprint):
        """Record an attestation of an artifact, by organisation, name of flow, and trail."""
        check_organisation(slug)
        check_flow_of(slug, flow)
        try:
            named = self.named.read({"trailId": trail, "artifactFingerprint": fingerprint})
        except Faults as faults:
            raise Invalid(issues=[issue(*fault) for fault in faults.issues]) from None
        values = context.body | {"org_slug": slug}
        fingerprint = named["artifact_fingerprint"]
        trail = Trail.fetch(named["trail"])
        return record_attestation(trail, {}, **values, artifact_fingerprint=fingerprint)


# --- Evidence files -----------------------------------------------------------


class EvidenceFile(Model):
    """A file that shows what an attestation says, known by the SHA-256 of its bytes."""

    fact, made, since = "evidence_file", "stored", 2
    schema_name = "EvidenceFileResponse"

    id = Uuid()
    attestation = Owner(Attestation, index=True)
    file_name = Text(255)
    sha256_hash = Text(64, index=True)
    file_size_bytes = Integer(0)
    content_type = Text(255)
    stored_at = Timestamp(6, default=now_exactly)
    #: Where a file lies whose bytes are not kept here.
    external_url = Text(2048, null=True)

    @classmethod
    def keep(cls, attestation: Attestation, upload: Upload) -> EvidenceFile:
        """Store a file that came in, piece by piece, each encrypted for its place."""
        kept = cls.create(
            attestation=attestation.id,
            file_name=upload.file_name,
            sha256_hash=upload.sha256,
            file_size_bytes=upload.size,
            content_type=upload.content_type,
        )
        seal = session().ring.seal_bytes
        for number, piece in enumerate(upload.pieces()):
            sealed = seal(piece, EvidencePiece.place(kept.id, number))
            EvidencePiece.create(evidence_file=kept.id, number=number, content=sealed)
        return kept

    def told(self) -> dict:
        """What an attestation says of the file that was stored last for it."""
        return {
            "evidence_file_hash": self.sha256_hash,
            "evidence_file_name": self.file_name,
            "evidence_file_size_bytes": self.file_size_bytes,
        }

    def is_intact(self) -> bool:
        """Whether the bytes kept here still are those whose hash was recorded."""
        digest, size = hashlib.sha256(), 0
        sealed = EvidencePiece.select(EvidencePiece.number, EvidencePiece.content)
        mine = sealed.where(EvidencePiece.evidence_file == self.id).order_by(EvidencePiece.number)
        try:
            for number, content in mine.tuples().iterator():
                piece = session().ring.open_bytes(content, EvidencePiece.place(self.id, number))
                digest.update(piece)
                size += len(piece)
        except Unavailable:
            # It tells of bytes that no key of the workspace made for this place.
            return False
        return (size, digest.hexdigest()) == (self.file_size_bytes, self.sha256_hash)

    def must_be_intact(self) -> None:
        """Refuse to give out bytes that are not those whose hash was recorded."""
        if not self.is_intact():
            log.error("Evidence file %s does not match its recorded hash.", self.id)
            raise Damaged(f"The stored bytes of evidence file {self.id} do not match its hash.")

    def content(self, workspace: Workspace) -> Iterator[bytes]:
        """The bytes of the file, read as they are asked for, long after the request's session."""
        sql = 'SELECT "content" FROM "evidence_piece" WHERE "evidence_file_id" = ? AND "number" = ?'
        for number in range(-(-self.file_size_bytes // PIECE)):
            with workspace.read():
                row = workspace.fetch_row(sql, (self.id, number))
            if row is None:
                raise Damaged
            yield workspace.ring.open_bytes(row[0], EvidencePiece.place(self.id, number))


class EvidencePiece(Model):
    """A piece of an evidence file, encrypted; the file's recorded hash is over all of them."""

    key, since = "evidence_file number", 2

    id = Integer(primary_key=True, null=True)
    evidence_file = Owner(EvidenceFile, on_delete="CASCADE")
    number = Integer(0)
    content = Blob()

    @staticmethod
    def place(file_id: str, number: int) -> str:
        """What the encryption of a piece is bound to."""
        return f"evidence_piece/content/{file_id}/{number}"


def check_evidence() -> Iterator[str]:
    """Hold every evidence file of the current session against its recorded hash."""
    for file in EvidenceFile.select().where(EvidenceFile.external_url.is_null()).iterator():
        if not file.is_intact():
            yield f"Evidence file {file.id} does not match the hash that was recorded of it."


EVIDENCE = Array(
    EvidenceFile,
    {
        "attestation": lambda key: EvidenceFile.attestation == key,
        "trail": lambda key: EvidenceFile.attestation.in_(
            Attestation.select(Attestation.id).where(Attestation.trail == key)
        ),
    },
)


class EvidenceFiles(
    Resource,
    surface=FACTSTORE,
    model=EvidenceFile,
    scope="factstore",
    tag="Evidence",
):
    """The files behind attestations."""

    @route(
        "GET /api/v1/trails/{trailId}/evidence",
        id="listTrailEvidence",
        answer=FACTSTORE.array_schema("EvidenceFileResponse"),
    )
    def of_trail(self, context, trail):
        """List the evidence files of a trail."""
        return FACTSTORE.array(context, EVIDENCE, {"trail": trail})

    @route(
        "GET /api/v1/attestations/{attestationId}/evidence",
        id="listAttestationEvidence",
        answer=FACTSTORE.array_schema("EvidenceFileResponse"),
    )
    def of_attestation(self, context, attestation):
        """List the evidence files of an attestation."""
        return FACTSTORE.array(context, EVIDENCE, {"attestation": attestation})

    @route(
        "GET /api/v1/evidence/{evidenceKey}",
        id="downloadEvidence",
        answers_with="*/*",
        answer=File().describe(),
        redirects=True,
    )
    def download(self, context, digest):
        """Download an evidence file by the SHA-256 of its bytes; the oldest one that has it."""
        is_hash = re.fullmatch("[0-9a-f]{64}", digest)
        known = is_hash and EvidenceFile.seek(sha256_hash=digest)
        if not known:
            raise NotFound("There is no evidence file with this hash.")
        if known.external_url:
            where = urllib.parse.quote(known.external_url, safe=":/?#[]@!$&'()*+,;=%~")
            return Reply(302, headers={"Location": where})
        known.must_be_intact()
        headers = attachment_headers(known.file_name, known.content_type, known.file_size_bytes)
        return Reply(200, headers=headers, stream=known.content(context.workspace))


# --- Scan reports -------------------------------------------------------------
# What scanners report, as they write it: how much they found, by severity.


class Unreadable(Exception):
    """A report that is not what it should be."""


def read_report(upload: Upload, kept: set[str]) -> Any:
    """The JSON of a report, of each object only members of these names; Unreadable if none."""
    if sum(piece.count(b",") for piece in upload.pieces()) > 3_000_000:
        raise Unreadable("The JSON holds more than 3,000,000 values.")
    try:
        return json.loads(
            upload.text(),
            object_hook=lambda found: {name: found[name] for name in found if name in kept},
            parse_constant=refuse_constant,
            parse_float=str,
            parse_int=str,
        )
    except (ValueError, RecursionError) as error:
        told = "The file is not JSON in UTF-8."
        if isinstance(error, json.JSONDecodeError):
            told += f" Line {error.lineno}, column {error.colno}: {error.msg}."
        raise Unreadable(told) from None


#: What is counted of a scan, the worst first, and the columns that hold it; what is only
#: informational, or of a severity that nobody knows, is never judged.
COUNTED = {
    "critical": "critical_vulnerabilities",
    "high": "high_vulnerabilities",
    "medium": "medium_vulnerabilities",
    "low": "low_vulnerabilities",
    "informational": "informational",
}
JUDGED = ("critical", "high", "medium", "low")
#: What the tools call a severity, in lower case, beside the words above; levels of SARIF
#: (2.1.0, 3.27.10) count as code scanning hosts have them.
SEVERITIES = {name: name for name in COUNTED} | {
    "error": "high",
    "warning": "medium",
    "note": "low",
    **dict.fromkeys(("negligible", "info", "none", "unknown"), "informational"),
}


class ReportPart:
    """A part of a report, which knows where it stands; Unreadable names the place of a fault."""

    __slots__ = ("name", "parent", "value")

    def __init__(self, value: Any, name: str | int, parent: ReportPart | None = None):
        self.value, self.name, self.parent = value, name, parent

    @property
    def where(self) -> str:
        """The way to this part from the whole."""
        if self.parent is None:
            return str(self.name)
        step = f"[{self.name}]" if isinstance(self.name, int) else f".{self.name}"
        return self.parent.where + step

    def object(self) -> dict:
        """This part, which must be an object."""
        if isinstance(self.value, dict):
            return self.value
        raise Unreadable(f"{self.where}: Expected an object.")

    def member(self, name: str) -> ReportPart:
        """What a member holds, which may be nothing."""
        return ReportPart(self.object().get(name), name, self)

    def inner(self, name: str) -> ReportPart:
        """The object that a member holds, an empty one where there is none."""
        value = self.object().get(name)
        return ReportPart({} if value is None else value, name, self)

    def each(self, name: str, needed: bool = False) -> list[ReportPart]:
        """The objects in the list that a member holds, which may be absent unless it is needed."""
        if not needed and self.object().get(name) is None:
            return []
        return self.member(name).parts()

    def parts(self) -> list[ReportPart]:
        """The objects in this part, which must be a list."""
        if not isinstance(self.value, list):
            raise Unreadable(f"{self.where}: Expected a list.")
        return [ReportPart(one, at, self) for at, one in enumerate(self.value)]

    def text(self, name: str) -> str:
        """The text or number that a member holds; nothing where there is none."""
        value = self.object().get(name)
        if value is None or isinstance(value, str):
            return value or ""
        raise Unreadable(f"{self.member(name).where}: Expected text.")

    def severity(self, name: str) -> str:
        """The severity that a word means; one that is not told counts as unknown."""
        word = self.text(name).strip().lower() or "unknown"
        if word in SEVERITIES:
            return SEVERITIES[word]
        raise Unreadable(f"{self.member(name).where}: {word[:40]!r} is no severity.")

    def rated(self, name: str) -> str:
        """The severity that a CVSS score means (CVSS 3.1, section 5)."""
        score = self.text(name).strip()
        if not re.fullmatch(r"10(\.0+)?|[0-9](\.[0-9]+)?", score, re.A):
            raise Unreadable(f"{self.member(name).where}: Expected a score from 0 to 10.")
        steps = ((9, "critical"), (7, "high"), (4, "medium"), (0.1, "low"), (0, "informational"))
        return next(severity for least, severity in steps if float(score) >= least)


class ScanReport(NamedTuple):
    """What one report says: by which tool, of what, and how much was found of each severity."""

    tool: str
    found: Mapping[str, int]
    tool_version: str = ""
    scan_type: str | None = None
    target: str = ""

    def values(self) -> dict:
        """What it says, by the columns of a scan; what is too long or unseen is left out."""
        tool, version, target = (
            re.sub(UNSEEN, "", text).strip()[:most]
            for text, most in ((self.tool, 100), (self.tool_version, 50), (self.target, 500))
        )
        told = {"tool": tool or "unknown", "tool_version": version or None}
        told |= {"scan_type": self.scan_type, "target": target or None}
        return told | {column: self.found[name] for name, column in COUNTED.items()}


def limits_of(trail: Trail) -> dict[str, int]:
    """The thresholds of a trail's flow that are in force, by severity; none where it has none."""
    threshold = SecurityThreshold.seek(flow=trail.flow_id)
    return {name: getattr(threshold, f"max_{name}") for name in JUDGED} if threshold else {}


def is_breached(values: Mapping[str, Any], limits: Mapping[str, int]) -> bool:
    """Whether a scan found more of a severity than its limit."""
    return any(values[COUNTED[name]] > limit for name, limit in limits.items())


def scan_details(values: Mapping[str, Any]) -> dict:
    """What an attestation tells of a scan, by the columns of the scan."""
    names = ("tool", "tool_version", "scan_type", "target", *COUNTED.values())
    names = (*names, "scan_duration_seconds", "report_url")
    return {camel(name): values.get(name) for name in names}


# --- Scanners -----------------------------------------------------------------
# Each format as its documentation has it; which one a file is in shows by what it holds.


def read_trivy(report: ReportPart) -> ScanReport:
    """Trivy's JSON: vulnerabilities, checks that failed, and secrets."""
    found = Counter(
        one.severity("Severity")
        for result in report.each("Results")
        for kind in ("Vulnerabilities", "Misconfigurations", "Secrets")
        for one in result.each(kind)
        if one.text("Status") not in ("PASS", "EXCEPTION")
    )
    is_image = report.text("ArtifactType") == "container_image"
    kind, version = "CONTAINER" if is_image else "SCA", report.inner("Trivy").text("Version")
    return ScanReport("Trivy", found, version, kind, report.text("ArtifactName"))


def read_grype(report: ReportPart) -> ScanReport:
    """Grype's JSON; matches that it ignored stand elsewhere in it."""
    matches = report.each("matches", needed=True)
    found = Counter(match.inner("vulnerability").severity("severity") for match in matches)
    tool, source = report.inner("descriptor"), report.inner("source")
    is_image = source.text("type") == "image"
    target = source.inner("target")
    name = target.text("userInput") if isinstance(target.value, dict) else source.text("target")
    kind = "CONTAINER" if is_image else "SCA"
    return ScanReport("Grype", found, tool.text("version"), kind, name)


def read_snyk(report: ReportPart) -> ScanReport:
    """Snyk's JSON of one project or of several; an issue on several paths counts once in each."""
    projects = report.parts() if isinstance(report.value, list) else [report]
    projects += [inner for project in projects for inner in project.each("applications")]
    if not projects:
        raise Unreadable(f"{report.where}: The report holds no project.")
    found, names = Counter(), {}
    for project in projects:
        issues = project.each("vulnerabilities", needed=True)
        known = {issue.text("id") or issue.where: issue.severity("severity") for issue in issues}
        found.update(known.values())
        names[project.text("projectName") or project.text("path")] = True
    is_image = any(project.member("docker").value is not None for project in projects)
    kind = "CONTAINER" if is_image else "SCA"
    return ScanReport("Snyk", found, "", kind, ", ".join(filter(None, names)))


def read_sarif(report: ReportPart) -> ScanReport:
    """SARIF 2.1.0 of whichever tool; results that are suppressed or gone do not count."""
    found, tools, versions = Counter(), {}, {}
    for run in report.each("runs", needed=True):
        tool = run.inner("tool")
        driver = tool.inner("driver")
        listed = driver.each("rules")
        rules = [*listed, *(rule for one in tool.each("extensions") for rule in one.each("rules"))]
        known = {rule.text("id"): rule for rule in rules}
        results = run.each("results", needed=True)
        rated = ((one, rule_of(one, known, listed)) for one in results if is_standing(one))
        found.update(itertools.starmap(sarif_severity, rated))
        tools[driver.text("name")] = True
        versions[driver.text("semanticVersion") or driver.text("version")] = True
    version = next(iter(versions)) if len(versions) == 1 else ""
    return ScanReport(", ".join(filter(None, tools)) or "SARIF", found, version)


def is_standing(result: ReportPart) -> bool:
    """Whether a result of SARIF is a finding, still there, whose suppression nobody accepted."""
    if result.text("kind") in ("pass", "notApplicable"):
        return False
    suppressed = any(one.text("status") in ("", "accepted") for one in result.each("suppressions"))
    return not suppressed and result.text("baselineState") != "absent"


def rule_of(
    result: ReportPart, known: Mapping[str, ReportPart], listed: Sequence[ReportPart]
) -> ReportPart:
    """The rule that a result of SARIF goes by, an empty one where it is not told (3.27.5)."""
    name = result.text("ruleId") or result.inner("rule").text("id")
    while name:
        if name in known:
            return known[name]
        # What stands behind a slash makes a part of a rule more exact.
        name = name.rpartition("/")[0]
    place = result.text("ruleIndex")
    at = int(place) if re.fullmatch("[0-9]{1,9}", place, re.A) else len(listed)
    return listed[at] if at < len(listed) else result.inner("rule")


def sarif_severity(result: ReportPart, rule: ReportPart) -> str:
    """By the score that code scanning hosts read, or else by the level."""
    for bag in (result.inner("properties"), rule.inner("properties")):
        if bag.text("security-severity"):
            return bag.rated("security-severity")
    if result.text("kind") == "informational":
        return "informational"
    for part in (result, rule.inner("defaultConfiguration")):
        if part.text("level"):
            return part.severity("level")
    return SEVERITIES["warning"]


#: The states of an analysis by which a vulnerability is none of the product's.
CLEARED = ("resolved", "resolved_with_pedigree", "false_positive", "not_affected")


def read_cyclonedx(report: ReportPart) -> ScanReport:
    """CycloneDX with vulnerabilities, each by its worst rating, less those that VEX clears."""
    if report.member("vulnerabilities").value is None:
        raise Unreadable("The CycloneDX document lists components, but no vulnerabilities.")
    found = Counter(
        min(ratings_of(one), key=[*COUNTED].index, default="informational")
        for one in report.each("vulnerabilities")
        if one.inner("analysis").text("state") not in CLEARED
    )
    metadata = report.inner("metadata")
    component, tools = metadata.inner("component"), metadata.member("tools")
    is_list = isinstance(tools.value, list)
    made_by = metadata.each("tools") if is_list else metadata.inner("tools").each("components")
    tool = made_by[0] if made_by else ReportPart({"name": "CycloneDX"}, "tool")
    kind = "CONTAINER" if component.text("type") == "container" else "SCA"
    name = tool.text("name")
    return ScanReport(name, found, tool.text("version"), kind, component.text("name"))


def ratings_of(vulnerability: ReportPart) -> list[str]:
    """The severities that its sources give a vulnerability, by word or else by CVSS score."""
    ratings = vulnerability.each("ratings")
    return [
        one.rated("score")
        if not one.text("severity") and one.text("score") and one.text("method")[:4] == "CVSS"
        else one.severity("severity")
        for one in ratings
    ]


SCANNERS = MappingProxyType(
    {
        "Trivy": read_trivy,
        "Grype": read_grype,
        "Snyk": read_snyk,
        "SARIF": read_sarif,
        "CycloneDX": read_cyclonedx,
    }
)
#: The members that tell a format from the others.
SIGNS = {
    "runs": "SARIF",
    "bomFormat": "CycloneDX",
    "matches": "Grype",
    "SchemaVersion": "Trivy",
    "Results": "Trivy",
    "vulnerabilities": "Snyk",
}
#: What is looked at in any of them.
SCANNED = {
    *SIGNS,
    *("ArtifactName", "ArtifactType", "Misconfigurations", "Secrets", "Severity", "Status"),
    *("Trivy", "Version", "Vulnerabilities"),
    *("descriptor", "name", "source", "target", "type", "userInput", "version", "vulnerability"),
    *("applications", "docker", "id", "path", "projectName", "severity"),
    *("baselineState", "defaultConfiguration", "driver", "extensions", "kind", "level"),
    *("properties", "results", "rule", "ruleId", "ruleIndex", "rules", "security-severity"),
    *("semanticVersion", "status", "suppressions", "tool"),
    *("analysis", "component", "components", "metadata", "method", "ratings", "score"),
    *("state", "tools"),
}


def read_scan(upload: Upload, formats: Mapping | Sequence = SCANNERS) -> ScanReport:
    """What a scanner's report says, in whichever of these formats it is; or Unreadable."""
    report = read_report(upload, SCANNED)
    holds = report if isinstance(report, dict) else {}
    listed = "Snyk" if isinstance(report, list) else None
    name = next((SIGNS[sign] for sign in SIGNS if sign in holds), listed)
    if name not in formats:
        raise Unreadable(f"The file is in none of these formats: {', '.join(formats)}.")
    return SCANNERS[name](ReportPart(report, "report"))


# --- Evidence processors ------------------------------------------------------
# A file may say by itself how its attestation ended, by the attestation's type.


class Outcome(NamedTuple):
    """What a report says of its attestation: whether it passed, and the details."""

    passed: bool
    details: dict

    def values(self) -> dict:
        """What it sets in the attestation."""
        # A report may spell halves of characters, which are no text.
        details = to_json(self.details).encode("utf-8", "replace").decode()
        return {"status": "PASSED" if self.passed else "FAILED", "details": details}


class JunitReader:
    """Adds up what the test suites of a JUnit report count, as the report streams by.

    A document type, which entities need, is refused; so is what only serves to exhaust.
    """

    DEPTH, ELEMENTS, TAG = 256, 2_000_000, 4 << 20
    COUNTED = ("tests", "failures", "errors", "skipped")

    def __init__(self) -> None:
        self.counts = dict.fromkeys(self.COUNTED, 0)
        self.depth = self.elements = 0

    def read(self, pieces: Iterable[bytes]) -> dict[str, int]:
        """The sums over every `testsuite` element, or Unreadable."""
        from xml.parsers import expat

        parser, fed = expat.ParserCreate(), 0
        parser.StartElementHandler, parser.EndElementHandler = self.begin, self.end
        parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = self.refuse
        parser.ExternalEntityRefHandler = self.refuse
        try:
            for piece in pieces:
                parser.Parse(piece)
                fed += len(piece)
                # A tag is read anew with every piece until it is complete.
                if fed - parser.CurrentByteIndex > self.TAG:
                    raise Unreadable("The XML holds a tag that is too long.")
            parser.Parse(b"", True)
        except (expat.ExpatError, LookupError, ValueError) as error:
            raise Unreadable(f"The file is not well-formed XML: {error}.") from None
        return self.counts

    def refuse(self, *declared: Any) -> None:
        """Refuse a declaration."""
        raise Unreadable("The XML declares a document type or entities, which is refused.")

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        """Count what a test suite says of itself."""
        if not self.depth and name not in ("testsuite", "testsuites"):
            raise Unreadable("The file is not a JUnit report: its root is no testsuite.")
        self.depth += 1
        self.elements += 1
        if self.depth > self.DEPTH or self.elements > self.ELEMENTS:
            raise Unreadable("The XML is nested too deep, or holds too many elements.")
        if name != "testsuite":
            return
        for counted in self.COUNTED:
            text = attributes.get(counted, "0").strip()
            if not re.fullmatch("[0-9]{1,9}", text):
                raise Unreadable(f"The attribute {counted} of a testsuite is not a number.")
            self.counts[counted] += int(text)

    def end(self, name: str) -> None:
        """Leave an element."""
        self.depth -= 1


#: What is looked at in a JSON report; nothing else of it is kept.
REPORTED = {"runs", "results", "vulnerabilities", "ok", "projectStatus", "status", "issueRef"}


def must_be_object(report: Any) -> dict:
    """A part of a report that has to be a JSON object, or Unreadable."""
    if not isinstance(report, dict):
        raise Unreadable("The report is not a JSON object.")
    return report


def process_junit(upload: Upload) -> Outcome:
    """Tests pass when none has failed or broken off."""
    counts = JunitReader().read(upload.pieces())
    return Outcome(counts["failures"] + counts["errors"] == 0, counts)


def process_snyk(upload: Upload) -> Outcome:
    """A scan passes when it found nothing: SARIF 2.1.0, or Snyk's own JSON of projects."""
    report = read_report(upload, REPORTED)
    number = sum(map(count_findings, report if isinstance(report, list) else [report]))
    return Outcome(number == 0, {"vulnerabilities": number})


def count_findings(report: Any) -> int:
    """How much a scan found, or Unreadable."""
    runs, name = must_be_object(report).get("runs"), "results"
    if not isinstance(runs, list):
        runs, name = [report], "vulnerabilities"
        if report.get("ok") is False and report.get(name) is None:
            raise Unreadable("The report says that something is wrong, and not what was found.")
    lists = [must_be_object(run).get(name) for run in runs]
    if not all(isinstance(found, list | None) for found in lists):
        raise Unreadable(f"The {name} of the report are not a list.")
    return sum(len(found or ()) for found in lists)


def process_sonar(upload: Upload) -> Outcome:
    """A quality gate passes when it says OK or PASSED."""
    report = must_be_object(read_report(upload, REPORTED))
    project = report.get("projectStatus")
    inner = project.get("status") if isinstance(project, dict) else None
    status = next((one for one in (inner, report.get("status")) if one), "")
    if not isinstance(status, str) or len(status) > 255:
        raise Unreadable("The status of the quality gate is not a word.")
    return Outcome(status.upper() in ("OK", "PASSED"), {"qualityGateStatus": status})


def process_jira(upload: Upload) -> Outcome:
    """A reference passes when it has the form of an issue's key, such as PAY-17."""
    try:
        text = upload.text().strip() if upload.size <= PIECE else ""
    except ValueError:
        text = ""
    if not text:
        raise Unreadable("The file does not hold the reference of an issue.")
    details = {"issueRef": text}
    if text.startswith("{"):
        report = must_be_object(read_report(upload, REPORTED))
        details = {name: report.get(name) or "" for name in ("issueRef", "status")}
    passed = re.fullmatch("[A-Z]+-[0-9]+", str(details["issueRef"]))
    return Outcome(passed is not None, details)


#: What both versions' uploads promise alike.
UPLOADING = {
    "body": Schema(file=File(), name="EvidenceUpload"),
    "media": {UPLOAD_MEDIA: None},
    "limit": "upload_limit",
    "before": "process",
    "status": 201,
}
PROCESSORS = MappingProxyType(
    {"junit": process_junit, "snyk": process_snyk, "sonar": process_sonar, "jira": process_jira}
)
#: The formats that attestations of a type take, which are judged by severity.
SCAN_TYPES = {
    "trivy": ("Trivy", "SARIF", "CycloneDX"),
    "grype": ("Grype", "SARIF", "CycloneDX"),
    "sarif": ("SARIF",),
    "cyclonedx": ("CycloneDX",),
    "vex": ("CycloneDX",),
}


def process_scan(upload: Upload, kind: str, limits: Mapping[str, int]) -> Outcome:
    """A scan passes within the limits of its flow, or without any, when nothing was found."""
    values = read_scan(upload, SCAN_TYPES[kind]).values()
    passed = not is_breached(values, limits or dict.fromkeys(JUDGED, 0))
    return Outcome(passed, scan_details(values))


class EvidenceUploads(
    Resource,
    surface=FACTSTORE,
    model=EvidenceFile,
    scope="factstore",
    tag="Attestations",
):
    """Files on their way to their attestations."""

    def process(self, context, trail, key):
        """What the file says of its attestation, for types that have a processor."""
        attestation = self.addressed(trail, key)
        type = attestation.type.lower()
        try:
            if type in SCAN_TYPES:
                return process_scan(context.upload, type, limits_of(attestation.trail))
            return PROCESSORS[type](context.upload) if type in PROCESSORS else None
        except Unreadable as error:
            return Outcome(False, {"error": str(error)})

    def addressed(self, trail: str, key: str) -> Attestation:
        """The attestation that a path names, which must be of the trail that it names."""
        Trail.fetch(trail)
        attestation = Attestation.fetch(key)
        if attestation.trail_id != trail:
            raise NotFound(f"The attestation {key} is not of the trail {trail}.")
        return attestation

    def store(self, context, trail: str, key: str) -> tuple[Attestation, EvidenceFile]:
        """Store the file, and let its attestation and its trail follow."""
        attestation, outcome = self.addressed(trail, key), context.prepared
        kept = EvidenceFile.keep(attestation, context.upload)
        changed = attestation.change(**kept.told(), **outcome.values() if outcome else {})
        if outcome:
            trail = Trail.fetch(trail)
            if "status" in changed and not outcome.passed:
                tell_of_failure(trail, attestation)
            settle(trail, failed=not outcome.passed)
        return attestation, kept

    @route(
        "POST /api/v1/trails/{trailId}/attestations/{attestationId}/evidence",
        id="uploadEvidence",
        **UPLOADING,
        answer=FACTSTORE.one_schema("EvidenceFileResponse"),
    )
    def upload(self, context, trail, key):
        """Upload an evidence file for an attestation; some types read their status out of it."""
        return self.store(context, trail, key)[1]


class EvidenceUploadsV2(EvidenceUploads, model=Attestation, tag="V2 Attestations"):
    """The same under the second version of the API, which answers briefly."""

    @route(
        "POST /api/v2/trails/{trailId}/attestations/{attestationId}/evidence",
        id="uploadEvidenceV2",
        **UPLOADING,
        answer=COMMAND_RESULT,
        brief=created,
    )
    def upload_briefly(self, context, trail, key):
        """Upload an evidence file for an attestation, and hear the attestation's id."""
        return self.store(context, trail, key)[0]


# --- Evidence collection ------------------------------------------------------


class CoverageReport(Model):
    """How much of the code the tests of a trail ran through, in percent."""

    fact, made, since = "coverage_report", "reported", 2
    schema_name = "CoverageReportResponse"

    id = Uuid()
    trail = Owner(Trail, index=True, on_delete="CASCADE")
    tool = Text(255)
    line_coverage = Number(null=True)
    branch_coverage = Number(null=True)
    min_coverage = Number(null=True)
    passed = Boolean()
    report_file_name = Text(255, null=True)
    report_file_hash = Text(64, 64, pattern="[0-9a-f]+", hint="Expected SHA-256 in hex", null=True)
    details = Text(1_000_000, null=True)
    created_at = Timestamp(6, default=now_exactly)


TRAIL_COVERAGE = Array(CoverageReport, {"trail": lambda trail: CoverageReport.trail == trail})


def is_covered(told: Mapping[str, Any]) -> bool:
    """Whether each figure that is told reaches the minimum; no figure reaches one."""
    figures = [told.get("line_coverage"), told.get("branch_coverage")]
    figures = [figure for figure in figures if figure is not None]
    least = told.get("min_coverage")
    return least is None or (bool(figures) and min(figures) >= least)


class CoverageReports(
    Resource,
    surface=FACTSTORE,
    model=CoverageReport,
    scope="factstore",
    tag="Evidence",
):
    """The coverage reports of trails."""

    @route(
        "GET /api/v1/trails/{trailId}/coverage",
        id="listCoverageReports",
        answer=FACTSTORE.array_schema("CoverageReportResponse"),
    )
    def list(self, context, trail):
        """List the coverage reports of a trail."""
        Trail.fetch(trail)
        return FACTSTORE.array(context, TRAIL_COVERAGE, {"trail": trail})

    @route(
        "POST /api/v1/trails/{trailId}/coverage",
        id="reportCoverage",
        body=Schema(
            CoverageReport.tool,
            CoverageReport.line_coverage,
            CoverageReport.branch_coverage,
            CoverageReport.min_coverage,
            CoverageReport.report_file_name,
            CoverageReport.report_file_hash,
            CoverageReport.details,
            name="ReportCoverageRequest",
        ),
        status=201,
        answer=FACTSTORE.one_schema("CoverageReportResponse"),
    )
    def create(self, context, trail):
        """Report the coverage of a trail, and attest whether it is enough."""
        trail, told = Trail.fetch(trail), context.body
        report = CoverageReport.create(trail=trail.id, passed=is_covered(told), **told)
        figures = {
            "tool": report.tool,
            "lineCoverage": report.line_coverage,
            "branchCoverage": report.branch_coverage,
            "minCoverage": report.min_coverage,
            "coverageReportId": report.id,
        }
        record_attestation(
            trail,
            None,
            type="test-coverage",
            status="PASSED" if report.passed else "FAILED",
            name=report.tool,
            details=to_json(figures),
        )
        return report


def summarise_evidence(trail: Trail) -> dict:
    """What a trail has and lacks; whatever was attested is collected, however it ended."""
    earliest = peewee.fn.min(peewee.SQL('"t1"."rowid"'))
    grouped = (
        Attestation.select(Attestation.type, Attestation.status, peewee.fn.count(Attestation.id))
        .where(Attestation.trail == trail)
        .group_by(Attestation.type, Attestation.status)
        .order_by(earliest)
        .tuples()
    )
    collected, counts = {}, dict.fromkeys(Attestation.status.words, 0)
    for kind, status, count in grouped:
        collected[kind] = True
        counts[status] += count
    missing = [kind for kind in trail.flow.required_attestation_types if kind not in collected]
    reports = TRAIL_COVERAGE.slice({"trail": trail.id})
    return {
        "trailId": trail.id,
        "collectedTypes": [*collected],
        "coverageReports": json.loads(b"[%b]" % reports.text),
        "totalAttestations": sum(counts.values()),
        "passedAttestations": counts["PASSED"],
        "failedAttestations": counts["FAILED"],
        "pendingAttestations": counts["PENDING"],
        "isComplete": not missing,
        "missingRequiredTypes": missing,
    }


def collect_item(trail: Trail, item: Mapping[str, Any]) -> dict:
    """Record one item of a collection, and tell what came of it."""
    status = "PASSED" if item["passed"] else "FAILED"
    kind, details = item["evidenceType"], item["details"]
    attestation = record_attestation(
        trail, None, type=kind, status=status, name=item["tool"], details=details
    )
    return {
        "trailId": trail.id,
        "evidenceType": kind,
        "attestationId": attestation.id,
        "passed": status == "PASSED",
    }


#: The trails that lack an attestation of a required type, as JSON text, and their number.
EVIDENCE_GAPS = """
    WITH lacking AS MATERIALIZED (
        SELECT t.rowid AS place, t.*, (
            SELECT json_group_array(r.value) FROM json_each(f.required_attestation_types) AS r
            WHERE NOT EXISTS (
                SELECT 1 FROM attestation AS a WHERE a.trail_id = t.id AND a.type = r.value)
        ) AS missing
        FROM trail AS t JOIN flow AS f ON f.id = t.flow_id
        WHERE f.required_attestation_types <> '[]'
    )
    SELECT CAST(ifnull(group_concat(text), '') AS BLOB), count(*) FROM (
        SELECT json_object('trailId', id, 'gitCommitSha', git_commit_sha, 'gitBranch', git_branch,
            'flowId', flow_id, 'missingTypes', json(missing), 'trailStatus', status) AS text
        FROM lacking WHERE missing <> '[]' ORDER BY place LIMIT -1)
"""


def closed_schema(**properties: dict) -> dict:
    """The JSON schema of an object that always has all of these members."""
    return {"type": "object", "required": [*properties], "properties": properties}


UUID_TEXT, TEXT, WHOLE = (
    {"type": "string", "format": "uuid"},
    {"type": "string"},
    {"type": "integer"},
)
TEXTS = {"type": "array", "items": TEXT}


class EvidenceCollection(Resource, surface=FACTSTORE, scope="factstore", tag="Evidence"):
    """What was collected on trails, and what is lacking."""

    @route(
        "GET /api/v1/trails/{trailId}/evidence-summary",
        id="getEvidenceSummary",
        answer=closed_schema(
            trailId=UUID_TEXT,
            collectedTypes=TEXTS,
            coverageReports=FACTSTORE.array_schema("CoverageReportResponse"),
            totalAttestations=WHOLE,
            passedAttestations=WHOLE,
            failedAttestations=WHOLE,
            pendingAttestations=WHOLE,
            isComplete={"type": "boolean"},
            missingRequiredTypes=TEXTS,
        ),
    )
    def summarise(self, context, trail):
        """Summarise what a trail has and lacks."""
        return summarise_evidence(Trail.fetch(trail))

    @route(
        "POST /api/v1/evidence/collect",
        id="collectBulkEvidence",
        body=Schema(
            items=Json(
                ListOf(
                    Shape(
                        trail_id=Id(),
                        evidence_type=Attestation.type,
                        tool=Text(255),
                        passed=Boolean(default=False),
                        details=Attestation.details,
                    )
                )
            ),
            name="BulkEvidenceRequest",
        ),
        status=201,
        answer=closed_schema(
            results={
                "type": "array",
                "items": closed_schema(
                    trailId=UUID_TEXT,
                    evidenceType=TEXT,
                    attestationId=UUID_TEXT,
                    passed={"type": "boolean"},
                ),
            },
            accepted=WHOLE,
            failed=WHOLE,
        ),
    )
    def collect(self, context):
        """Record up to 1000 attestations at once; items on unknown trails only count as failed."""
        items = context.body["items"]
        named = {item["trailId"] for item in items}
        trails = {trail.id: trail for trail in Trail.select().where(Trail.id.in_(named))}
        known = [item for item in items if item["trailId"] in trails]
        results = [collect_item(trails[item["trailId"]], item) for item in known]
        failed = len(items) - len(results)
        return {"results": results, "accepted": len(results), "failed": failed}

    @route(
        "GET /api/v1/evidence/gaps",
        id="getEvidenceGaps",
        answer=closed_schema(
            gaps={
                "type": "array",
                "items": closed_schema(
                    trailId=UUID_TEXT,
                    gitCommitSha=TEXT,
                    gitBranch=TEXT,
                    flowId=UUID_TEXT,
                    missingTypes=TEXTS,
                    trailStatus=Trail.status.describe(),
                ),
            },
            totalTrailsWithGaps=WHOLE,
        ),
    )
    def list_gaps(self, context):
        """List the trails that have no attestation of a type that their flow requires."""
        return b'{"gaps":[%b],"totalTrailsWithGaps":%d}' % context.workspace.fetch_row(
            EVIDENCE_GAPS
        )


# --- Pull request look-ups ----------------------------------------------------
# Each provider speaks of pull requests in its own way; what is told of them is the same.

TOLD = ("id", "title", "author", "reviewers", "mergedAt", "url")


class SourceHost:
    """The REST API of a provider, asked about one repository with an organisation's token."""

    title: ClassVar[str] = ""
    base: ClassVar[str] = ""
    #: How a repository is written: at least and at most so many names with slashes between them.
    names: ClassVar[tuple[int, int]] = (2, 2)
    #: The dotted paths in a pull request to what is told of it, in the order of TOLD.
    paths: ClassVar[str] = ""
    #: Statuses that say that there is no such thing, and that the token is not accepted.
    absent: ClassVar[tuple[int, ...]] = (404,)
    refusals: ClassVar[tuple[int, ...]] = (401, 403)
    #: Whether the list for a commit leaves out members that the pull request itself has.
    lists_briefly: ClassVar[bool] = False

    def __init__(self, base: str, token: str, transport: Transport, repository: Sequence[str]):
        self.base, self.token, self.transport = base or self.base, token, transport
        self.repository = repository

    def headers(self) -> dict[str, str]:
        """The headers of every request, the token among them."""
        return {"Accept": "application/json", "Authorization": f"Bearer {self.token}"}

    def place(self) -> str:
        """The path of the repository."""
        raise NotImplementedError

    def list_for(self, commit: str) -> Any:
        """What the host answers when it is asked for the pull requests of a commit."""
        raise NotImplementedError

    def pulls_in(self, found: Any) -> Any:
        """The list in that answer."""
        return found

    def pull_path(self, number: int | str) -> str:
        """The path of one pull request."""
        return f"{self.place()}/pullrequests/{number}"

    def ask(self, path: str, query: Any = None) -> Any:
        """The JSON that the host answers with, or None where it has no such thing.

        A query is posted as JSON.
        """
        if query is None:
            answer = self.transport.get(self.base + path, self.headers())
        else:
            answer = self.transport.post(self.base + path, to_json(query).encode(), self.headers())
        if answer.status in self.absent:
            return None
        # With a Retry-After, the token is fine, and has only been used too often.
        if answer.status in self.refusals and answer.retry_after is None:
            raise Unprocessable(
                f"{self.title} refused the organisation's token; store one that may read "
                f"pull requests of {'/'.join(self.repository)}."
            )
        if answer.status != 200:
            raise BadGateway(f"{self.title} gave no usable answer. {answer.note}")
        try:
            found = read_json(answer.body or b"")
        except Invalid:
            raise self.nonsense() from None
        if not isinstance(found, dict | list):
            raise self.nonsense()
        return found

    def nonsense(self) -> BadGateway:
        """What to raise where an answer cannot be understood."""
        return BadGateway(f"{self.title} gave an answer that cannot be understood, or is too long.")

    def of_commit(self, commit: str) -> dict | None:
        """What is told of the first pull request for a commit; None where there is none."""
        found = self.list_for(commit)
        if found is None:
            return None
        pulls = self.pulls_in(found)
        if not isinstance(pulls, list):
            raise self.nonsense()
        if not pulls:
            return None
        told = self.tell(pulls[0])
        return (self.lists_briefly and self.numbered(told["id"])) or told

    def numbered(self, number: int | str) -> dict | None:
        """What is told of the pull request with a number; None where there is none."""
        pull = self.ask(self.pull_path(number))
        return None if pull is None else self.tell(pull)

    def tell(self, pull: Any) -> dict:
        """What an attestation keeps of a pull request."""
        told = {name: dig(pull, path) for name, path in zip(TOLD, self.paths.split(), strict=True)}
        if type(told["id"]) is not int or not isinstance(told["title"], str):
            raise self.nonsense()
        for name in ("author", "mergedAt", "url"):
            told[name] = told[name] if isinstance(told[name], str) else None
        people = told["reviewers"] if isinstance(told["reviewers"], list) else []
        told["reviewers"] = [person for person in people if isinstance(person, str)]
        return {**told, "id": str(told["id"])}


def dig(value: Any, path: str) -> Any:
    """What parsed JSON holds at a dotted path, in every element of a list; None for nothing."""
    for name in path.split("."):
        if isinstance(value, list):
            value = [dig(element, name) for element in value]
        else:
            value = value.get(name) if isinstance(value, dict) else None
    return value


def segments(*names: str) -> str:
    """Names as segments of a path, percent-encoded so that none of them leads elsewhere."""
    return "/".join(urllib.parse.quote(name, safe="") for name in names)


class GitHub(SourceHost):
    """GitHub, REST API 2022-11-28; reviewers are those asked and those who have reviewed."""

    title, base = "GitHub", "https://api.github.com"
    # An unknown commit is 422 there ("No commit found for SHA").
    absent = (404, 422)
    paths = "number title user.login requested_reviewers.login merged_at html_url"

    def headers(self):
        version = {"X-GitHub-Api-Version": "2022-11-28"}
        return {**super().headers(), "Accept": "application/vnd.github+json", **version}

    def place(self):
        return f"/repos/{segments(*self.repository)}"

    def list_for(self, commit):
        return self.ask(f"{self.place()}/commits/{segments(commit)}/pulls")

    def pull_path(self, number):
        return f"{self.place()}/pulls/{number}"

    def tell(self, pull):
        told = super().tell(pull)
        # Whoever has reviewed is no longer among those asked.
        reviews = self.ask(f"{self.pull_path(told['id'])}/reviews?per_page=100")
        if not isinstance(reviews, list | None):
            raise self.nonsense()
        found = dig(reviews or [], "user.login")
        others = (one for one in found if isinstance(one, str) and one != told["author"])
        return told | {"reviewers": list(dict.fromkeys([*told["reviewers"], *others]))}


class GitLab(SourceHost):
    """GitLab, REST API 4; a project may lie in groups within groups."""

    title, base, names = "GitLab", "https://gitlab.com", (2, 20)
    paths = "iid title author.username reviewers.username merged_at web_url"

    def headers(self):
        return {"Accept": "application/json", "PRIVATE-TOKEN": self.token}

    def place(self):
        return f"/api/v4/projects/{segments('/'.join(self.repository))}"

    def list_for(self, commit):
        return self.ask(f"{self.place()}/repository/commits/{segments(commit)}/merge_requests")

    def pull_path(self, number):
        return f"{self.place()}/merge_requests/{number}"


class Bitbucket(SourceHost):
    """Bitbucket Cloud, REST API 2.0."""

    title, base, lists_briefly = "Bitbucket", "https://api.bitbucket.org", True
    paths = "id title author.display_name reviewers.display_name closed_on links.html.href"

    def place(self):
        return f"/2.0/repositories/{segments(*self.repository)}"

    def list_for(self, commit):
        return self.ask(f"{self.place()}/commit/{segments(commit)}/pullrequests")

    def pulls_in(self, found):
        return found.get("values") if isinstance(found, dict) else None

    def tell(self, pull):
        if dig(pull, "state") == "MERGED":
            # Those closed before there was `closed_on` lack it.
            return super().tell({"closed_on": dig(pull, "updated_on"), **pull})
        return {**super().tell(pull), "mergedAt": None}


class AzureDevOps(SourceHost):
    """Azure DevOps Services, REST API 7.1, in which a commit is looked up by a query."""

    title, base, names, lists_briefly = "Azure DevOps", "https://dev.azure.com", (3, 3), True
    # Without a good token, it shows the page on which people sign in.
    refusals = (203, 302, 401, 403)
    paths = "pullRequestId title createdBy.uniqueName reviewers.uniqueName closedDate url"

    def headers(self):
        credentials = base64.b64encode(f":{self.token}".encode()).decode()
        return {"Accept": "application/json", "Authorization": f"Basic {credentials}"}

    def place(self):
        organisation, project, repository = self.repository
        return f"/{segments(organisation, project)}/_apis/git/repositories/{segments(repository)}"

    def list_for(self, commit):
        kinds = ("lastMergeCommit", "commit")
        queries = [{"type": kind, "items": [commit]} for kind in kinds]
        return self.ask(f"{self.place()}/pullrequestquery?api-version=7.1", {"queries": queries})

    def pulls_in(self, found):
        results = found.get("results") if isinstance(found, dict) else None
        if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
            return None
        # Each result is an object with a list for every commit.
        lists = [pulls for one in results for pulls in one.values()]
        known = all(isinstance(pulls, list) for pulls in lists)
        return list(itertools.chain(*lists)) if known else None

    def pull_path(self, number):
        return f"{super().pull_path(number)}?api-version=7.1"

    def tell(self, pull):
        told = super().tell(pull)
        organisation, project, repository = self.repository
        path = f"{segments(organisation, project)}/_git/{segments(repository)}"
        merged = told["mergedAt"] if dig(pull, "status") == "completed" else None
        # Its own `url` is one of the API.
        return told | {"mergedAt": merged, "url": f"{self.base}/{path}/pullrequest/{told['id']}"}


SOURCE_HOSTS: Mapping[str, type[SourceHost]] = MappingProxyType(
    dict(zip(PROVIDERS.split(), (GitHub, GitLab, Bitbucket, AzureDevOps), strict=True))
)


# --- Pull requests ------------------------------------------------------------

PULL_REQUEST = MappingProxyType(
    {
        "body": Schema(
            provider=Provider(),
            repository=Text(1024, null=True),
            commit_sha=Text(255, null=True),
            assert_on_missing=Boolean(default=False),
            org_slug=Text(255, null=True),
            repository_owner=Text(1024, null=True),
            repository_name=Text(255, null=True),
            pr_number=Integer(1, 2**31 - 1, null=True),
            aliases={"organisationSlug": "orgSlug"},
            name="CreatePrAttestationRequest",
        ),
        "status": 201,
        "answer": FACTSTORE.one_schema("AttestationResponse"),
        "before": "look_up",
        "refuses": (502,),
    }
)


class PullRequests(
    Resource,
    surface=FACTSTORE,
    model=Attestation,
    scope="factstore",
    tag="Attestations",
    schema_name="AttestationResponse",
):
    """Attestations of the pull requests that commits came through."""

    def look_up(self, context: Context, trail_id: str) -> tuple[dict, dict | None]:
        """What is attested about, and the pull request that the source host has for it."""
        Trail.fetch(trail_id)
        body, slug = context.body, context.body.get("org_slug")
        if not slug:
            raise NotFound("There is no organisation to look it up for; name one in orgSlug.")
        check_organisation(slug)
        provider = body["provider"]
        integration = ScmIntegration.of(slug, provider)
        if integration is None:
            raise NotFound(f"Organisation '{slug}' has no token for {provider}.")
        kind = SOURCE_HOSTS[provider]
        repository, commit = read_repository(body, kind), read_commit(body)
        base = source_bases(context.settings).get(provider, "")
        transport = source_transport(context.settings, provider)
        host = kind(base, integration.token, transport, repository)
        told = {"provider": provider, "repository": "/".join(repository), "commitSha": commit}
        number = body.get("pr_number")
        return told, host.numbered(number) if number else host.of_commit(commit)

    @route(
        "POST /api/v1/trails/{trailId}/attestations/pull-request",
        id="attestPullRequest",
        **PULL_REQUEST,
    )
    def attest(self, context, trail_id):
        """Look a commit's pull request up at the source host, and record what was found.

        Without one, the attestation is FAILED, or refused where `assertOnMissing` says so.
        """
        trail, body = Trail.fetch(trail_id), context.body
        told, pull = context.prepared
        number = body.get("pr_number")
        wanted = f"pull request {number}" if number else f"pull request for {told['commitSha']}"
        message = f"There is no {wanted} in {told['repository']} at {told['provider']}."
        if pull is None and body.get("assert_on_missing"):
            raise Unprocessable(message)
        return record_attestation(
            trail,
            told,
            type="pull-request",
            name=told["provider"],
            status="PASSED" if pull else "FAILED",
            details=to_json(pull or {"message": message, **told}),
            org_slug=body["org_slug"],
        )


class PullRequestsV2(
    PullRequests,
    surface=FACTSTORE,
    model=Attestation,
    scope="factstore",
    tag="V2 Attestations",
    schema_name="AttestationResponse",
):
    """The same by the paths of the second version."""

    @route(
        "POST /api/v2/trails/{trailId}/attestations/pull-request",
        id="attestPullRequestV2",
        **PULL_REQUEST,
    )
    def attest(self, context, trail_id):
        """Look a commit's pull request up at the source host, and record what was found."""
        return super().attest(context, trail_id)


def read_repository(body: Mapping[str, Any], kind: type[SourceHost]) -> list[str]:
    """The names that lead to the repository, from either way of writing them."""
    owner, name = body.get("repository_owner"), body.get("repository_name")
    text = body.get("repository") or (f"{owner}/{name}" if owner and name else "")
    names, (least, most) = text.split("/"), kind.names
    # A dot is a name that percent-encoding leaves as it is.
    if not least <= len(names) <= most or any(not one.strip(" .") for one in names):
        form = "organisation/project/repository" if least == 3 else "owner/name"
        raise Invalid(issues=[issue(["repository"], f"Expected {form}")])
    return names


def read_commit(body: Mapping[str, Any]) -> str | None:
    """The commit to look up, which a pull request's number may stand for."""
    commit = body.get("commit_sha") or None
    if commit is None and not body.get("pr_number"):
        raise Invalid(issues=[issue(["commitSha"], "Required, unless prNumber is given")])
    if commit is not None and not commit.strip(" ."):
        raise Invalid(issues=[issue(["commitSha"], "Expected the hash of a commit")])
    return commit


# --- Identity tokens ----------------------------------------------------------

TOKEN_ISSUERS = ("https://token.actions.githubusercontent.com", "https://gitlab.com")

#: The members of an attestation's details, and the claims that they come from: GitHub Actions'
#: (OpenID Connect reference) before GitLab's (ID token authentication).
TOKEN_CLAIMS = {
    "issuer": ("iss",),
    "subject": ("sub",),
    "repository": ("repository", "project_path"),
    "workflow": ("workflow", "ci_config_ref_uri"),
    "ref": ("ref",),
    "sha": ("sha",),
    "actor": ("actor", "user_login"),
    "runId": ("run_id", "pipeline_id"),
}


class UsedToken(Model):
    """That an identity token was used: SHA-256 of its issuer and its id, never the token."""

    since = 2

    id = Text(64, primary_key=True)
    used_at = Timestamp(6, default=now_exactly)


#: The first second of the year 10000, which no date can tell.
TIME_IS_OVER = 253_402_300_800


def read_token_part(part: str) -> dict:
    """The JSON object in one part of a token (RFC 7515, section 3.1); empty where it is none."""
    try:
        read = read_json(base64.b64decode(part + "=" * (-len(part) % 4), b"-_", validate=True))
    except (ValueError, Invalid):
        return {}
    return read if isinstance(read, dict) else {}


def read_claims(token: str) -> dict:
    """The claims of a well-formed token of a known issuer that has not expired.

    Its signature is not verified: the issuer's keys are on the internet, an install need not be.
    """
    parts = token.split(".")
    header, claims = read_token_part(parts[0]), read_token_part(parts[1] if parts[1:] else "")
    # An unsecured token (RFC 7518, section 3.6) is not what an issuer hands out.
    unsecured = str(header.get("alg") or "none").lower() == "none" or not parts[-1]
    if len(parts) != 3 or not claims or unsecured:
        raise Invalid("The token is not well formed: expected a signed JWT.")
    if claims.get("iss") not in TOKEN_ISSUERS:
        raise Invalid(f"The token is not of an issuer known here: {' or '.join(TOKEN_ISSUERS)}.")
    for name in ("exp", "iat"):
        moment = claims.get(name, 0)
        if type(moment) not in (int, float) or not 0 <= moment < TIME_IS_OVER:
            raise Invalid(f"The token's {name} is not a time in seconds since 1970.")
    if claims.get("exp", TIME_IS_OVER) <= session().source.clock():
        raise Invalid("The token has expired; ask its issuer for a new one.")
    return claims


def claim_text(claims: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """The first of some claims that is text or a whole number, as text."""
    found = (claims[name] for name in names if type(claims.get(name)) in (str, int))
    return next(map(str, found), None)


def use_token(token: str, claims: Mapping[str, Any]) -> None:
    """Remember that a token was used; Conflict where it was used before."""
    # A token without an id is told by what it says.
    own = claim_text(claims, ("jti",)) or token.split(".")[1]
    key = hashlib.sha256(to_json([claims["iss"], own]).encode()).hexdigest()
    if UsedToken.has(key):
        raise Conflict("This identity token was used before; its jti is good for one attestation.")
    UsedToken.create(id=key)


class IdentityTokens(
    Resource,
    surface=FACTSTORE,
    model=Attestation,
    scope="factstore",
    tag="V2 Attestations",
):
    """Attestations of where a build ran, by the identity that its CI system gave it."""

    @route(
        "POST /api/v2/attestations/oidc",
        id="recordOidcAttestation",
        body=Schema(
            Attestation.trail,
            Attestation.org_slug,
            token=Text(100_000, 1),
            name="OidcAttestationRequest",
        ),
        status=201,
        answer=FACTSTORE.one_schema("AttestationResponse"),
    )
    def create(self, context):
        """Record what a CI system's identity token says, without verifying its signature."""
        trail, token = Trail.fetch(context.body["trail"]), context.body["token"].strip()
        slug = context.body.get("org_slug")
        check_organisation(slug)
        claims = read_claims(token)
        use_token(token, claims)
        details = {name: claim_text(claims, sources) for name, sources in TOKEN_CLAIMS.items()}
        issued = claims.get("iat")
        details["issuedAt"] = None if issued is None else session().source.timestamp(issued, 6)
        details["signatureVerified"] = False
        return record_attestation(
            trail,
            None,
            type="oidc-provenance",
            status="PASSED",
            details=to_json(details),
            org_slug=slug,
        )


# --- Approvals ----------------------------------------------------------------


class ApprovalDecision(Model):
    """What one person said to a request for approval."""

    fact, made, since = "approval_decision", "recorded", 2
    schema_name = "ApprovalDecisionResponse"

    id = Uuid()
    approval = Owner(Approval, index=True, on_delete="CASCADE")
    approver_identity = Text(255)
    decision = Choice("APPROVED REJECTED")
    comments = Text(10_000, null=True)
    decided_at = Timestamp(6, default=now_exactly)

    @classmethod
    def record(cls, approval: Approval, decision: str, said: Mapping[str, Any]) -> None:
        """Put a decision down; Conflict unless the approval is still pending."""
        status = approval.json()["status"]
        if status != "PENDING_APPROVAL":
            raise Conflict(f"Approval {approval.id} is {status} and cannot be decided any more.")
        made = cls.create(approval=approval.id, decision=decision, **said)
        AuditEvent.record(
            "APPROVAL_GRANTED" if decision == "APPROVED" else "APPROVAL_REJECTED",
            made.approver_identity,
            {"approvalId": approval.id},
            trail_id=approval.trail_id,
        )


def approve(approval: Approval, said: Mapping[str, Any]) -> None:
    """Take an approving decision; the last of those that are required makes it APPROVED."""
    ApprovalDecision.record(approval, "APPROVED", said)
    mine = ApprovalDecision.approval == approval
    heard = ApprovalDecision.select(ApprovalDecision.approver_identity).where(mine).tuples()
    if set(approval.required_approvers) <= {identity for (identity,) in heard}:
        approval.change(status="APPROVED", resolved_at=now_exactly())
        emit("factstore.approval.granted", {"approval": approval.json()})
        settle(approval.trail)


def reject(approval: Approval, said: Mapping[str, Any]) -> None:
    """Take a rejection; one by anybody ends it."""
    ApprovalDecision.record(approval, "REJECTED", said)
    approval.change(status="REJECTED", resolved_at=now_exactly())
    emit("factstore.approval.rejected", {"approval": approval.json()})
    who, comments = said["approver_identity"], said.get("comments")
    notify(
        "APPROVAL_REJECTED",
        title="A release was rejected",
        message=f"{who} rejected it: {comments}" if comments else f"{who} rejected it.",
        severity="WARNING",
        entity_type="approval",
        entity_id=approval.id,
        flow_id=approval.flow_id,
        payload={"trailId": approval.trail_id},
    )


APPROVALS_BY_TRAIL = Array(Approval, {"trail": lambda trail: Approval.trail == trail})


class Approvals(
    Resource,
    surface=FACTSTORE,
    path="/api/v1/approvals",
    model=Approval,
    scope="factstore",
    tag="Approvals",
    schema_name="ApprovalResponse",
    verbs="list retrieve",
):
    """Requests to let trails be released."""

    filters = Filters(Approval.status)
    conditions: ClassVar[dict] = {"status": lambda status: peewee.SQL(Approval.standing) == status}

    @route(
        "GET /api/v1/trails/{trailId}/approvals",
        id="listApprovalsByTrail",
        answer=FACTSTORE.array_schema("ApprovalResponse"),
    )
    def of_trail(self, context, trail):
        """List the approvals of a trail."""
        return FACTSTORE.array(context, APPROVALS_BY_TRAIL, {"trail": trail})

    @route(
        "POST /api/v1/trails/{trailId}/approvals",
        id="requestApproval",
        # The trail in the path wins over the one in the body.
        body=LenientRequest(
            Approval.required_approvers,
            Approval.comments,
            Approval.deadline,
            trail_id=Id(),
            demanded="trailId",
            name="CreateApprovalRequest",
        ),
        answer=FACTSTORE.one_schema("ApprovalResponse"),
        would="wouldCreate",
    )
    def ask(self, context, key):
        """Ask for approval of a trail."""
        trail = Trail.fetch(key)
        context.body.pop("trail_id", None)
        asked = split_lists(context.body)
        approval = Approval.create(trail=trail.id, flow=trail.flow_id, **asked)
        emit("factstore.approval.requested", {"approval": approval.json()})
        notify(
            "APPROVAL_REQUIRED",
            title="A release waits for approval",
            message=f"Approval is asked for the {trail.words}.",
            severity="INFO",
            entity_type="approval",
            entity_id=approval.id,
            flow_id=trail.flow_id,
            payload={"trailId": trail.id, "requiredApprovers": approval.required_approvers},
        )
        return approval


class ApprovalDecisions(
    Resource,
    surface=FACTSTORE,
    model=ApprovalDecision,
    scope="factstore",
    tag="Approvals",
    schema_name="ApprovalDecisionResponse",
):
    """What is said to requests for approval."""

    said = Schema(
        ApprovalDecision.approver_identity,
        ApprovalDecision.comments,
        name="ApprovalDecisionRequest",
    )

    @route(
        "POST /api/v1/approvals/{approvalId}/approve",
        id="approveApproval",
        body=said,
        answer=FACTSTORE.one_schema("ApprovalResponse"),
    )
    def approve(self, context, key):
        """Add an approving decision to an approval."""
        approval = Approval.fetch(key)
        approve(approval, context.body)
        return approval

    @route(
        "POST /api/v1/approvals/{approvalId}/reject",
        id="rejectApproval",
        body=said,
        answer=FACTSTORE.one_schema("ApprovalResponse"),
    )
    def reject(self, context, key):
        """Reject an approval, which ends it."""
        approval = Approval.fetch(key)
        reject(approval, context.body)
        return approval


# --- Assertions ---------------------------------------------------------------

#: What a digest was reported as, and where; what was said there. Each in the order of recording.
REPORTED_UNDER = """SELECT a."trail_id", a."image_name", k."template_yaml"
    FROM "artifact" AS a JOIN "trail" AS k ON k."id" = a."trail_id"
    WHERE a."sha256_digest" = ? ORDER BY a."rowid\""""
SAID = """SELECT "trail_id", "type", "status", "name" FROM "attestation" WHERE "trail_id" IN
    (SELECT "trail_id" FROM "artifact" WHERE "sha256_digest" = ?) ORDER BY "rowid\""""


class Verdict(NamedTuple):
    """What came of an assertion: whether it holds, in a sentence, and what it was decided on."""

    compliant: bool
    details: str
    missing: Sequence[str] = ()
    failed: Sequence[str] = ()
    #: Whether attestations are required by name, in a template, and not by type.
    named: bool = False
    trail_id: str | None = None
    attestations: Sequence[dict] = ()

    @property
    def status(self) -> str:
        """The verdict in a word."""
        return "COMPLIANT" if self.compliant else "NON_COMPLIANT"


def judge(flow: Flow, digest: str) -> Verdict:
    """Hold whatever was reported under a digest against a flow; the best of it decides.

    Which flow it was reported for makes no difference. The first artifact that lacks nothing
    decides, or else the first of those that lack least.
    """
    connection = session().database.connection()
    # The same image may be reported on a trail again and again.
    artifacts = list(dict.fromkeys(connection.execute(REPORTED_UNDER, (digest,))))
    types = flow.required_attestation_types
    if not artifacts:
        return Verdict(False, f"No artifact with the digest {digest} was reported.", types)
    first = flow.template_yaml if artifacts[0][2] is None else artifacts[0][2]
    if first is None and not types:
        return Verdict(True, f"The flow {flow.name} requires no attestations.")
    told, passed, failed = defaultdict(list), defaultdict(set), defaultdict(list)
    for trail, type, status, name in connection.execute(SAID, (digest,)):
        told[trail].append({"type": type, "status": status})
        said = type if first is None else name
        if status == "PASSED":
            passed[trail].add(said)
        elif status == "FAILED" and said is not None:
            failed[trail].append(said)
    required = requirement(flow, digest, first)
    lacking = [
        ([one for one in required(image, template) if one not in passed[trail]], trail)
        for trail, image, template in artifacts
    ]
    missing, trail = min(lacking, key=lambda one: len(one[0]))
    return conclude(flow, missing, failed[trail], first is not None, trail, told[trail])


def requirement(flow: Flow, digest: str, first: str | None) -> Callable:
    """What is required of an image name on a trail with this template or none."""
    if first is None:
        return lambda image, template: flow.required_attestation_types
    fields = flow.condition_fields()

    @functools.cache
    def names(image: str, template: str | None) -> list[str]:
        own = flow.template_yaml if template is None else template
        chosen = read_template(first if own is None else own)
        return chosen.names(fields | artifact_fields(image, digest))

    return names


def conclude(flow, missing, failed, named, trail, attestations) -> Verdict:
    """The verdict on the artifact that decides."""
    decided = {"named": named, "trail_id": trail, "attestations": attestations}
    if missing:
        sentence = f"Not passed for the flow {flow.name}: {', '.join(missing)}."
        return Verdict(False, sentence, missing, failed, **decided)
    if flow.requires_approval and not Approval.releases(trail):
        sentence = f"The flow {flow.name} requires an approval, and the trail {trail} has none."
        return Verdict(False, sentence, **decided)
    sentence = f"Everything that the flow {flow.name} requires has passed."
    return Verdict(True, sentence, failed=failed, **decided)


LISTED = {"type": "array", "items": {"type": "string"}}
VERDICT = {
    "sha256Digest": {"type": "string"},
    "flowId": {"type": "string", "format": "uuid"},
    "status": {"type": "string", "enum": ["COMPLIANT", "NON_COMPLIANT"]},
    "missingAttestationTypes": LISTED,
    "failedAttestationTypes": LISTED,
    "details": {"type": "string"},
    "missingAttestationNames": LISTED,
    "failedAttestationNames": LISTED,
    "compliant": {"type": "boolean"},
    "message": {"type": "string"},
    "flowName": {"type": "string"},
    "missingAttestations": LISTED,
    "failedAttestations": LISTED,
    "checkedAt": {"type": "string", "format": "date-time"},
    "attestations": {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["type", "status"],
            "properties": {
                "type": {"type": "string"},
                "status": Attestation.status.describe(),
            },
        },
    },
}


def note_verdict(flow: Flow, digest: str, verdict: Verdict, told: dict) -> None:
    """Put a verdict into the audit log; one against the artifact stops it as the gate does."""
    decided = "GATE_ALLOWED" if verdict.compliant else "GATE_BLOCKED"
    trail = verdict.trail_id
    AuditEvent.record(decided, "system", told, trail_id=trail, artifact_sha256=digest)
    if not verdict.compliant:
        notify(
            "GATE_BLOCKED",
            title=f"An artifact does not meet the flow '{flow.name}'",
            message=verdict.details,
            severity="CRITICAL",
            entity_type="trail" if trail else None,
            entity_id=trail,
            flow_id=flow.id,
            payload={"artifactSha256": digest},
        )


class Assertions(Resource, surface=FACTSTORE, scope="factstore", tag="Assert"):
    """Verdicts on artifacts."""

    @route(
        "POST /api/v1/assert",
        id="assertCompliance",
        body=Schema(sha256_digest=Text(255), flow_id=Id(), name="AssertRequest"),
        answer={"type": "object", "required": list(VERDICT), "properties": VERDICT},
        before="weigh",
        would="wouldCreate",
    )
    def decide(self, context):
        """Decide whether an artifact meets a flow."""
        flow, verdict = context.prepared
        digest = context.body["sha256_digest"]
        missing, failed = list(verdict.missing), list(verdict.failed)
        asked = {"sha256Digest": digest, "flowId": flow.id, "status": verdict.status}
        by_type = {
            "missingAttestationTypes": [] if verdict.named else missing,
            "failedAttestationTypes": [] if verdict.named else failed,
        }
        note_verdict(flow, digest, verdict, asked | by_type)
        return {
            **asked,
            **by_type,
            "details": verdict.details,
            "missingAttestationNames": missing if verdict.named else [],
            "failedAttestationNames": failed if verdict.named else [],
            "compliant": verdict.compliant,
            "message": verdict.details,
            "flowName": flow.name,
            "missingAttestations": missing,
            "failedAttestations": failed,
            "checkedAt": now_exactly(),
            "attestations": list(verdict.attestations),
        }

    def weigh(self, context: Context) -> tuple[Flow, Verdict]:
        """Come to the verdict before the transaction that records it, so that no writer waits."""
        flow = Flow.fetch(context.body["flow_id"])
        return flow, judge(flow, context.body["sha256_digest"])


# --- Environments -------------------------------------------------------------
# Where artifacts run. The state of an environment is read off its newest snapshot.


@functools.lru_cache(1000)
def compiled(pattern: str) -> Pattern:
    """A pattern ready for matching; ValueError when it is none, or more than names need."""
    try:
        return Pattern(pattern)
    except (ValueError, OverflowError):
        raise ValueError("Expected a regular expression without references, lookaround") from None


class NamePattern(Text):
    """A regular expression for names."""

    def read(self, value):
        compiled(super().read(value))
        return value


SCOPE_LIST = Shape(
    names=Json(ListOf(Text(255)), default=list),
    patterns=Json(ListOf(NamePattern(500)), default=list),
)
NO_SCOPE = partial(SCOPE_LIST.read, {})
SNAPSHOT_SCOPE = Shape(
    include=Json(SCOPE_LIST, default=NO_SCOPE), exclude=Json(SCOPE_LIST, default=NO_SCOPE)
)
COMPLIANCE = Choice("COMPLIANT NON_COMPLIANT UNKNOWN")


def digest_state(digest: str) -> str:
    """SQL for the compliance of a digest: that of the trail which reported it first."""
    first = f"""(SELECT b."trail_id" FROM "artifact" AS b WHERE b."sha256_digest" = {digest}
        ORDER BY b."rowid" LIMIT 1)"""
    return compliance_sql(first)


#: SQL for the state of the environment `t1`: the worst of what its newest snapshot holds. Unknown
#: while no policy is attached to it.
ENVIRONMENT_STATE = f"""(SELECT CASE max(CASE {digest_state('i."artifact_sha256"')}
        WHEN 'NON_COMPLIANT' THEN 2 WHEN 'COMPLIANT' THEN 0 ELSE 1 END)
        WHEN 2 THEN '"NON_COMPLIANT"' WHEN 0 THEN '"COMPLIANT"' ELSE '"UNKNOWN"' END
    FROM "snapshot_artifact" AS i WHERE i."snapshot_id" = (
        SELECT l."id" FROM "environment_snapshot" AS l WHERE l."environment_id" = t1."id"
        ORDER BY l."snapshot_index" DESC LIMIT 1)
    AND EXISTS (SELECT 1 FROM "policy_attachment" AS p WHERE p."environment_id" = t1."id"))"""


class Environment(Model):
    """A place where artifacts run."""

    fact, key, touched, since = "environment", "name", True, 2
    schema_name = "EnvironmentResponse"
    searched = Searched(
        28, "environment", "name", "{description}", text="description", title="{name}",
        told="type org_slug created_at",
    )  # fmt: skip
    derived: ClassVar[dict] = {"complianceState": Derived(COMPLIANCE, ENVIRONMENT_STATE)}

    id = Uuid()
    name = Name()
    type = Choice("K8S ECS LAMBDA S3 DOCKER GENERIC")
    description = Text(10_000, default="")
    org_slug = Text(255, null=True, index=True)
    drift_policy = Choice("WARN BLOCK IGNORE", default="WARN")
    scope = Json(SNAPSHOT_SCOPE, null=True)
    created_at = Timestamp(6, default=now_exactly)
    updated_at = Timestamp(6, default=now_exactly)

    @classmethod
    def create(cls, **values):
        check_environment_name(cls, values["name"])
        check_organisation(values.get("org_slug"))
        made = super().create(**values | {"scope": tidy_scope(values.get("scope"))})
        made.tell("ENVIRONMENT_CREATED")
        return made

    def change(self, **values):
        if values.get("name", self.name) != self.name:
            check_environment_name(type(self), values["name"])
        if "scope" in values:
            values["scope"] = tidy_scope(values["scope"])
        return super().change(**values)

    def remove(self):
        super().remove()
        self.tell("ENVIRONMENT_DELETED")

    def tell(self, event_type: str) -> None:
        """Put into the audit log what whoever acts has done with this environment."""
        payload = {"environmentId": self.id, "name": self.name, "type": self.type}
        AuditEvent.record(event_type, session().actor, payload, environment_id=self.id)

    def covers(self, name: str) -> bool:
        """Whether snapshots hold artifacts of this name: included if anything is, not excluded."""
        if self.scope is None or self.type in ("S3", "GENERIC"):
            return True
        names, patterns = self.scope["include"]["names"], self.patterns("include")
        included = not (names or patterns) or is_listed(name, names, patterns)
        excluded = is_listed(name, self.scope["exclude"]["names"], self.patterns("exclude"))
        return included and not excluded

    def patterns(self, half: str) -> list[str]:
        """The patterns that count in one half of the scope; none do for Docker."""
        return [] if self.type == "DOCKER" else self.scope[half]["patterns"]


def is_listed(name: str, names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether a name is among these, or one of the patterns matches it."""
    return name in names or any(compiled(pattern).matches(name) for pattern in patterns)


def check_environment_name(model: type[Model], name: str) -> None:
    """Refuse a name that another environment of a kind has."""
    if model.has(name=name):
        raise Conflict(f"{model.noun().capitalize()} with name '{name}' already exists")


def tidy_scope(scope: dict | None) -> dict | None:
    """A scope without blanks; None where nothing is left of it."""
    tidy = {
        half: {kind: [text for text in texts if text.strip()] for kind, texts in lists.items()}
        for half, lists in (scope or {}).items()
    }
    return tidy if any(texts for lists in tidy.values() for texts in lists.values()) else None


class Environments(
    Resource,
    surface=FACTSTORE,
    path="/api/v1/environments",
    model=Environment,
    scope="factstore",
    tag="Environments",
    verbs="list create retrieve update delete",
    options={"list": {"answer": FACTSTORE.paged_schema("EnvironmentResponse")}},
):
    """Places where artifacts run."""

    filters = Paging()
    creates = Schema(
        Environment.name,
        Environment.type,
        Environment.description,
        Environment.org_slug,
        Environment.drift_policy,
        Environment.scope,
        name="CreateEnvironmentRequest",
    )
    changes = Schema(
        Environment.name,
        Environment.type,
        Environment.description,
        Environment.drift_policy,
        Environment.scope,
        name="UpdateEnvironmentRequest",
    )


# --- Snapshot records ---------------------------------------------------------
# What ran in an environment at one time, the baseline that it should be, and how far they drifted.

SNAPSHOT_ARTIFACT = {
    "artifact_sha256": Text(255),
    "artifact_name": Text(255),
    "artifact_tag": Text(255),
    "instance_count": Integer(-(2**31), 2**31 - 1, default=1),
}
#: SQL for the artifacts of the snapshot `t1` as they were recorded, with what is known of each.
SNAPSHOT_ARTIFACTS = f"""(SELECT json_group_array(json_insert(o."value", '$.complianceState',
    {digest_state('''json_extract(o."value", '$.artifactSha256')''')}))
    FROM json_each(t1."artifacts") AS o)"""


class EnvironmentSnapshot(Model):
    """What ran in an environment at one time."""

    fact, made, since = "environment_snapshot", "recorded", 2
    key = "environment snapshot_index"
    schema_name = "EnvironmentSnapshotResponse"
    derived: ClassVar[dict] = {
        "artifacts": Derived(
            Json(ListOf(Shape(**SNAPSHOT_ARTIFACT, compliance_state=COMPLIANCE), 10_000)),
            SNAPSHOT_ARTIFACTS,
        )
    }

    id = Uuid()
    environment = Owner(Environment, on_delete="CASCADE")
    snapshot_index = Integer(0)
    recorded_at = Timestamp(6, default=now_exactly)
    recorded_by = Text(255)
    artifacts = Json(ListOf(Shape(**SNAPSHOT_ARTIFACT), 10_000), hidden=True, default=list)

    @classmethod
    def record(
        cls, environment: Environment, recorded_by: str, artifacts: list[dict]
    ) -> EnvironmentSnapshot:
        """Record what runs now, as far as the environment's scope covers it."""
        kept = [one for one in artifacts if environment.covers(one["artifactName"])]
        before = cls.last(environment=environment.id)
        last = before.snapshot_index if before else 0
        seen = SnapshotArtifact.seen(environment, kept)
        snapshot = cls.create(
            environment=environment.id,
            snapshot_index=last + 1,
            recorded_by=recorded_by,
            artifacts=kept,
        )
        SnapshotArtifact.keep(snapshot)
        place = {"environmentId": environment.id, "environmentName": environment.name}
        for one in kept:
            if one["artifactSha256"] not in seen:
                seen.add(one["artifactSha256"])
                emit("factstore.artifact.deployed", {**place, "snapshotIndex": last + 1, **one})
        # What the scope leaves out may run on.
        still = {one["artifactSha256"] for one in artifacts}
        gone = {one["artifactSha256"]: one for one in before.artifacts} if before else {}
        for digest, one in gone.items():
            if digest not in still:
                payload = {**place, "snapshotIndex": last + 1, **one}
                subject = {"environment_id": environment.id, "artifact_sha256": digest}
                AuditEvent.record("ARTIFACT_REMOVED", recorded_by, payload, **subject)
        return snapshot

    def remove(self):
        SnapshotArtifact.delete().where(SnapshotArtifact.snapshot == self).execute()
        super().remove()


class SnapshotArtifact(Model):
    """One artifact of a snapshot, to be found by its digest."""

    lookup, since = "artifact_sha256 environment_id", 2

    id = Integer(primary_key=True, null=True)
    snapshot = Owner(EnvironmentSnapshot, on_delete="CASCADE")
    environment_id = Id()
    artifact_sha256 = Text(255)
    artifact_name = Text(255)
    artifact_tag = Text(255)
    instance_count = Integer()

    @classmethod
    def keep(cls, snapshot: EnvironmentSnapshot) -> None:
        """Index the artifacts of a new snapshot."""
        place = None, snapshot.id, snapshot.environment_id
        names = [camel(name) for name in SNAPSHOT_ARTIFACT]
        rows = [(*place, *(one[name] for name in names)) for one in snapshot.artifacts]
        session().database.connection().executemany(cls.statements().insert, rows)

    @classmethod
    def seen(cls, environment: Environment, artifacts: list[dict]) -> set[str]:
        """Which digests of these artifacts the environment had before."""
        had = cls.select().where(
            cls.artifact_sha256 == peewee.SQL('o."value"'), cls.environment_id == environment.id
        )
        digests = to_json([one["artifactSha256"] for one in artifacts])
        told = peewee.fn.json_each(digests).alias("o")
        known = peewee.Select([told], [peewee.SQL('o."value"')]).where(peewee.fn.EXISTS(had))
        return {digest for (digest,) in known.tuples().execute(cls._meta.database)}


DIFF_ENTRIES = ListOf(
    Shape(
        artifact_name=Text(255),
        artifact_tag=Text(255),
        sha256_from=Text(255, null=True),
        sha256_to=Text(255, null=True),
    ),
    10_000,
)


def compare(before: list[dict], after: list[dict]) -> dict[str, list[dict]]:
    """What was added, removed, updated and left unchanged, by name; the last of a name counts."""
    earlier = {one["artifactName"]: one for one in before}
    later = {one["artifactName"]: one for one in after}
    told: dict[str, list] = {"added": [], "removed": [], "updated": [], "unchanged": []}
    # Sorted, so that another order of the same artifacts makes no difference.
    for name in sorted(earlier | later):
        old, new = earlier.get(name), later.get(name)
        entry = {
            "artifactName": name,
            "artifactTag": (new or old)["artifactTag"],
            "sha256From": old and old["artifactSha256"],
            "sha256To": new and new["artifactSha256"],
        }
        same = "unchanged" if entry["sha256From"] == entry["sha256To"] else "updated"
        told["added" if old is None else "removed" if new is None else same].append(entry)
    return told


class Baseline(Model):
    """What somebody approved an environment to run."""

    fact, made, lookup, since = "baseline", "approved", "environment is_active", 2
    schema_name = "BaselineResponse"

    id = Uuid()
    environment = Owner(Environment, on_delete="CASCADE")
    snapshot_id = Id(null=True)
    approved_by = Text(255)
    approved_at = Timestamp(6, default=now_exactly)
    description = Text(10_000, null=True)
    is_active = Boolean(default=True)
    #: What the snapshot held, which may go before this does; nothing where it was never there.
    artifacts = Json(ListOf(Shape(**SNAPSHOT_ARTIFACT), 10_000), hidden=True, default=list)

    @classmethod
    def active(cls, environment: str) -> Baseline | None:
        """The baseline that an environment is held against."""
        return cls.seek(environment=environment, is_active=True)

    @classmethod
    def approve(
        cls, environment: Environment, snapshot_id: str | None = None, **values: Any
    ) -> Baseline:
        """Make a snapshot, the newest unless told, what the environment should run."""
        if before := cls.active(environment.id):
            before.change(is_active=False)
        if snapshot_id:
            snapshot = EnvironmentSnapshot.seek(snapshot_id)
        elif snapshot := EnvironmentSnapshot.last(environment=environment.id):
            snapshot_id = snapshot.id
        return cls.create(
            environment=environment.id,
            snapshot_id=snapshot_id,
            artifacts=snapshot.artifacts if snapshot else [],
            **values,
        )


class DriftReport(Model):
    """How far an environment was from its baseline, kept whenever that changed."""

    fact, made, since = "drift_report", "recorded", 2
    schema_name = "DriftReportResponse"

    id = Uuid()
    environment = Owner(Environment, on_delete="CASCADE")
    baseline_id = Id(null=True)
    snapshot_id = Id()
    generated_at = Timestamp(6, default=now_exactly)
    has_drift = Boolean()
    added = Json(DIFF_ENTRIES, default=list)
    removed = Json(DIFF_ENTRIES, default=list)
    updated = Json(DIFF_ENTRIES, default=list)

    def drift(self) -> dict[str, list[dict]]:
        """The three lists of what differs."""
        return {"added": self.added, "removed": self.removed, "updated": self.updated}


def note_drift(environment: Environment, snapshot: EnvironmentSnapshot | None) -> None:
    """Report how the newest snapshot differs from the baseline, if the last report says otherwise.

    The event is raised where what differs is another, unless the environment ignores drift.
    """
    baseline = Baseline.active(environment.id)
    if snapshot is None or baseline is None or baseline.snapshot_id is None:
        return
    drift = compare(baseline.artifacts, snapshot.artifacts)
    del drift["unchanged"]
    last = DriftReport.last(environment=environment.id)
    before = last.drift() if last else {kind: [] for kind in drift}
    if last and last.baseline_id == baseline.id and before == drift:
        return
    report = DriftReport.create(
        environment=environment.id,
        baseline_id=baseline.id,
        snapshot_id=snapshot.id,
        has_drift=any(drift.values()),
        **drift,
    )
    if before != drift and environment.drift_policy != "IGNORE":
        told = {"environmentName": environment.name, "driftPolicy": environment.drift_policy}
        emit("factstore.drift.changed", {**told, "report": report.json()})
        if report.has_drift:
            counts = {kind: len(entries) for kind, entries in drift.items()}
            listed = ", ".join(f"{count} {kind}" for kind, count in counts.items())
            notify(
                "DRIFT_DETECTED",
                title=f"The environment '{environment.name}' has drifted",
                message=f"Against its baseline: {listed}.",
                severity="WARNING",
                entity_type="drift_report",
                entity_id=report.id,
                environment_id=environment.id,
                payload=told | counts,
            )


# --- Environment snapshots ----------------------------------------------------


def check_snapshots() -> Iterator[str]:
    """Hold the index of what ran where against the snapshots in the current session's file."""
    connection = session().database.connection()
    columns = ", ".join(f'"{name}"' for name in SNAPSHOT_ARTIFACT)
    indexed = connection.execute(
        f'SELECT "snapshot_id", "environment_id", {columns} FROM "snapshot_artifact" ORDER BY "id"'
    )
    snapshots = connection.execute(
        'SELECT "id", "environment_id", "artifacts" FROM "environment_snapshot" ORDER BY rowid'
    )
    recorded = (
        (key, environment, *(one[camel(name)] for name in SNAPSHOT_ARTIFACT))
        for key, environment, artifacts in snapshots
        for one in json.loads(artifacts)
    )
    for found, told in itertools.zip_longest(indexed, recorded):
        if found != told:
            snapshot = (told or found)[0]
            yield f"The artifacts of environment snapshot {snapshot} are not indexed as recorded."
            return


SNAPSHOTS = Array(
    EnvironmentSnapshot, {"environment": lambda key: EnvironmentSnapshot.environment == key}
)
SNAPSHOT_DIFF = Shape(
    environment_id=Id(),
    from_snapshot_index=Integer(),
    to_snapshot_index=Integer(),
    added=Json(DIFF_ENTRIES),
    removed=Json(DIFF_ENTRIES),
    updated=Json(DIFF_ENTRIES),
    unchanged=Json(DIFF_ENTRIES),
)


def of_environment(context: Context, array: Array, key: str) -> Reply:
    """Answer the list of what belongs to an environment, or NotFound."""
    reply = FACTSTORE.array(context, array, {"environment": key})
    if reply.body == b"[]":
        Environment.fetch(key)
    return reply


def newest_of(query: peewee.ModelSelect, key: str) -> bytes:
    """The JSON text of the newest snapshot under a query in an environment, or NotFound."""
    text = EnvironmentSnapshot.statements().text.cast("BLOB")
    query = query.where(EnvironmentSnapshot.environment == key).select(text)
    row = query.order_by(EnvironmentSnapshot.snapshot_index.desc()).limit(1).tuples().first()
    if row is None:
        environment = Environment.fetch(key)
        raise NotFound(f"Environment '{environment.name}' has no such snapshot.")
    return row[0]


class EnvironmentSnapshots(
    Resource,
    surface=FACTSTORE,
    model=EnvironmentSnapshot,
    scope="factstore",
    tag="Environments",
):
    """What ran in environments, from time to time."""

    @route(
        "GET /api/v1/environments/{environmentId}/snapshots",
        id="listSnapshots",
        answer=FACTSTORE.array_schema("EnvironmentSnapshotResponse"),
    )
    def list(self, context, key):
        """List the snapshots of an environment, lowest index first."""
        return of_environment(context, SNAPSHOTS, key)

    @route(
        "POST /api/v1/environments/{environmentId}/snapshots",
        id="recordSnapshot",
        body=Schema(
            EnvironmentSnapshot.recorded_by,
            EnvironmentSnapshot.artifacts,
            name="RecordSnapshotRequest",
        ),
        status=201,
        answer=FACTSTORE.one_schema("EnvironmentSnapshotResponse"),
    )
    def record(self, context, key):
        """Record what runs in an environment now."""
        environment = Environment.fetch(key)
        snapshot = EnvironmentSnapshot.record(environment, **{"artifacts": [], **context.body})
        note_drift(environment, snapshot)
        return snapshot

    @route(
        "GET /api/v1/environments/{environmentId}/snapshots/latest",
        id="getLatestSnapshot",
        answer=FACTSTORE.one_schema("EnvironmentSnapshotResponse"),
    )
    def latest(self, context, key):
        """Get the snapshot of an environment with the highest index."""
        return newest_of(EnvironmentSnapshot.select(), key)

    @route(
        "GET /api/v1/environments/{environmentId}/snapshots/{index}",
        id="getSnapshot",
        answer=FACTSTORE.one_schema("EnvironmentSnapshotResponse"),
    )
    def by_index(self, context, key, index):
        """Get one snapshot of an environment by its index."""
        column = EnvironmentSnapshot.snapshot_index
        try:
            number = column.read(column.parse(index))
        except ValueError as error:
            raise Invalid(issues=[issue(["index"], str(error))]) from None
        return newest_of(EnvironmentSnapshot.select().where(column == number), key)

    @route(
        "GET /api/v1/environments/{environmentId}/diff",
        id="diffSnapshots",
        query=Filters(required="from to", **{"from": Integer(), "to": Integer()}),
        answer=SNAPSHOT_DIFF.describe(),
    )
    def diff(self, context, key):
        """Compare two snapshots of an environment by their indexes, in any order."""
        first, second = context.query["from"], context.query["to"]
        index = EnvironmentSnapshot.snapshot_index
        both = EnvironmentSnapshot.select(index, EnvironmentSnapshot.artifacts).where(
            EnvironmentSnapshot.environment == key, index << [first, second]
        )
        found = {snapshot.snapshot_index: snapshot.artifacts for snapshot in both}
        for number in (first, second):
            if number not in found:
                raise NotFound(f"The environment {key} has no snapshot {number}.")
        told = {"environmentId": key, "fromSnapshotIndex": first, "toSnapshotIndex": second}
        return {**told, **compare(found[first], found[second])}


# --- Environment drift --------------------------------------------------------

DRIFT_REPORTS = Array(DriftReport, {"environment": lambda key: DriftReport.environment == key})


class Baselines(Resource, surface=FACTSTORE, model=Baseline, scope="factstore", tag="Environments"):
    """What environments should run."""

    @route(
        "POST /api/v1/environments/{environmentId}/baselines",
        id="createBaseline",
        body=Schema(
            Baseline.snapshot_id,
            Baseline.approved_by,
            Baseline.description,
            name="CreateBaselineRequest",
        ),
        status=201,
        answer=FACTSTORE.one_schema("BaselineResponse"),
    )
    def approve(self, context, key):
        """Make a snapshot the active baseline of an environment."""
        environment = Environment.fetch(key)
        baseline = Baseline.approve(environment, **context.body)
        note_drift(environment, EnvironmentSnapshot.last(environment=key))
        return baseline

    @route(
        "GET /api/v1/environments/{environmentId}/baselines/current",
        id="getCurrentBaseline",
        answer=FACTSTORE.one_schema("BaselineResponse"),
    )
    def current(self, context, key):
        """Get the active baseline of an environment."""
        return active_baseline(key)


def active_baseline(key: str) -> Baseline:
    """The active baseline of an environment, or NotFound."""
    baseline = Baseline.active(key)
    if baseline is None:
        raise NotFound(f"Environment '{Environment.fetch(key).name}' has no active baseline.")
    return baseline


class DriftReports(
    Resource, surface=FACTSTORE, model=DriftReport, scope="factstore", tag="Environments"
):
    """How far environments are from their baselines."""

    @route(
        "GET /api/v1/environments/{environmentId}/drift",
        id="checkDrift",
        answer=FACTSTORE.one_schema("DriftReportResponse"),
    )
    def check(self, context, key):
        """Tell how the latest snapshot of an environment differs from its baseline."""
        baseline = active_baseline(key)
        newest = EnvironmentSnapshot.last(environment=key)
        if newest is None or baseline.snapshot_id is None:
            what = "no snapshot" if newest is None else "a baseline without a snapshot"
            raise NotFound(f"The environment {key} has {what}.")
        # Whatever moves the drift writes a report, so the last one is true of this snapshot too.
        report = DriftReport.last(environment=key)
        if report is None:
            raise NotFound(f"The environment {key} was deleted just now.")
        return report.json() | {"snapshotId": newest.id}

    @route(
        "GET /api/v1/environments/{environmentId}/drift/history",
        id="listDriftHistory",
        answer=FACTSTORE.array_schema("DriftReportResponse"),
    )
    def history(self, context, key):
        """List the drift reports of an environment, each from when the drift changed."""
        return of_environment(context, DRIFT_REPORTS, key)


class AllowlistEntry(Model):
    """Lets an artifact into an environment whatever is known of it."""

    fact, made, since = "allowlist_entry", "added", 2
    lookup = "environment sha256"
    schema_name = "AllowlistEntryResponse"
    derived: ClassVar[dict] = {
        "isEffective": Derived(
            Boolean(),
            """CASE WHEN t1."status" = 'ACTIVE' AND ifnull(t1."expires_at" > present(), 1)
            THEN 'true' ELSE 'false' END""",
        )
    }

    id = Uuid()
    environment = Owner(Environment, on_delete="CASCADE")
    sha256 = Text(255, null=True)
    name_pattern = NamePattern(500, null=True)
    reason = Text(10_000)
    approved_by = Text(255)
    created_at = Timestamp(6, default=now_exactly)
    expires_at = Timestamp(6, null=True)
    status = Choice("ACTIVE REMOVED", default="ACTIVE")

    @classmethod
    def create(cls, **values):
        # An empty text names nothing, and as a pattern it would match everything.
        named = {name: values.get(name) or None for name in ("sha256", "name_pattern")}
        if not any(named.values()):
            raise Invalid(issues=[issue(["sha256"], "Expected a digest here or a namePattern")])
        return super().create(**values | named)


ALLOWLIST = Array(AllowlistEntry, {"environment": lambda key: AllowlistEntry.environment == key})


class Allowlist(
    Resource, surface=FACTSTORE, model=AllowlistEntry, scope="factstore", tag="Environments"
):
    """What is let into environments whatever is known of it."""

    @route(
        "GET /api/v1/environments/{environmentId}/allowlist",
        id="listAllowlistEntries",
        answer=FACTSTORE.array_schema("AllowlistEntryResponse"),
    )
    def list(self, context, key):
        """List the allow-list of an environment, removed and expired entries included."""
        return of_environment(context, ALLOWLIST, key)

    @route(
        "POST /api/v1/environments/{environmentId}/allowlist",
        id="addAllowlistEntry",
        body=Schema(
            AllowlistEntry.sha256,
            AllowlistEntry.name_pattern,
            AllowlistEntry.reason,
            AllowlistEntry.approved_by,
            AllowlistEntry.expires_at,
            name="CreateAllowlistEntryRequest",
        ),
        status=201,
        answer=FACTSTORE.one_schema("AllowlistEntryResponse"),
    )
    def add(self, context, key):
        """Add an entry to the allow-list of an environment."""
        environment = Environment.fetch(key)
        # The reason is the audit log's too, and was taken out of the body for it.
        return AllowlistEntry.create(
            environment=environment.id, reason=context.reason, **context.body
        )

    @route(
        "DELETE /api/v1/environments/{environmentId}/allowlist/{entryId}",
        id="removeAllowlistEntry",
        answer=FACTSTORE.one_schema("AllowlistEntryResponse"),
    )
    def take_off(self, context, key, entry_id):
        """Mark an entry of the allow-list of an environment as removed."""
        entry = AllowlistEntry.seek(entry_id)
        if entry is None or entry.environment_id != key:
            raise NotFound(f"The environment {key} has no allow-list entry {entry_id}.")
        if entry.status == "REMOVED":
            raise Conflict(f"Allow-list entry {entry_id} is removed already.")
        entry.change(status="REMOVED")
        return entry


# --- Logical environments -----------------------------------------------------

MEMBER_SHAPE = Shape(
    physical_env_id=Id(),
    physical_env_name=Text(255),
    physical_env_type=Choice("K8S ECS LAMBDA S3 DOCKER GENERIC"),
    added_at=Timestamp(6),
)
MEMBERS_SQL = """(SELECT json_group_array(json_object('physicalEnvId', o."id",
    'physicalEnvName', o."name", 'physicalEnvType', o."type", 'addedAt', o."added_at"))
    FROM (SELECT e."id", e."name", e."type", m."added_at" FROM "logical_member" AS m
        JOIN "environment" AS e ON e."id" = m."environment_id"
        WHERE m."logical_environment_id" = t1."id" ORDER BY m."rowid") AS o)"""


class LogicalEnvironment(Model):
    """Several environments that are looked at as one."""

    fact, key, touched, since = "logical_environment", "name", True, 2
    schema_name = "LogicalEnvironmentResponse"
    searched = Searched(
        27, "logical-environment", "name", "{description}", text="description", title="{name}",
        told="created_at",
    )  # fmt: skip
    derived: ClassVar[dict] = {"members": Derived(Json(ListOf(MEMBER_SHAPE)), MEMBERS_SQL)}

    id = Uuid()
    name = Name()
    description = Text(10_000, default="")
    created_at = Timestamp(6, default=now_exactly)
    updated_at = Timestamp(6, default=now_exactly)

    @classmethod
    def create(cls, **values):
        check_environment_name(cls, values["name"])
        return super().create(**values)

    def change(self, **values):
        if values.get("name", self.name) != self.name:
            check_environment_name(type(self), values["name"])
        return super().change(**values)


class LogicalMember(Model):
    """An environment as part of a logical one."""

    fact, made, key, since = "logical_member", "added", "logical_environment environment", 2

    id = Uuid()
    logical_environment = Owner(LogicalEnvironment, on_delete="CASCADE")
    environment = Owner(Environment, on_delete="CASCADE")
    added_at = Timestamp(6, default=now_exactly)

    @classmethod
    def of(cls, logical: str, physical: str) -> LogicalMember | None:
        """The membership of an environment in a logical one."""
        return cls.seek(logical_environment=logical, environment=physical)


MERGED_SNAPSHOT = Shape(
    logical_env_id=Id(),
    logical_env_name=Text(255),
    compliance_status=Choice("COMPLIANT NON_COMPLIANT"),
    member_snapshots=Json(
        ListOf(
            Shape(
                physical_env_id=Id(),
                physical_env_name=Text(255),
                snapshot_index=Integer(null=True),
                recorded_at=Timestamp(6, null=True),
                artifact_count=Integer(),
            )
        )
    ),
    merged_artifacts=Json(
        ListOf(Shape(**SNAPSHOT_ARTIFACT, physical_env_id=Id(), physical_env_name=Text(255)))
    ),
)


def newest_of_members(logical: str) -> Iterator[tuple[dict, dict | None, list[dict]]]:
    """Each member of a logical environment with the head and artifacts of its newest snapshot."""
    snapshot, other = EnvironmentSnapshot, EnvironmentSnapshot.alias()
    newest = other.select(peewee.fn.max(other.snapshot_index)).where(
        other.environment == Environment.id
    )
    is_newest = (snapshot.environment == Environment.id) & (snapshot.snapshot_index == newest)
    rows = (
        LogicalMember.select(
            Environment.id,
            Environment.name,
            snapshot.snapshot_index,
            snapshot.recorded_at,
            snapshot.artifacts,
        )
        .join(Environment)
        .join(snapshot, peewee.JOIN.LEFT_OUTER, on=is_newest)
        .where(LogicalMember.logical_environment == logical)
        .order_by(peewee.SQL('"t1"."rowid"'))
    )
    for key, name, index, recorded_at, artifacts in rows.tuples():
        member = {"physicalEnvId": key, "physicalEnvName": name}
        yield member, {"snapshotIndex": index, "recordedAt": recorded_at}, artifacts or []


class LogicalEnvironments(
    Resource,
    surface=FACTSTORE,
    path="/api/v1/logical-environments",
    model=LogicalEnvironment,
    scope="factstore",
    tag="Logical environments",
    verbs="list create retrieve update delete",
):
    """Groups of environments."""

    creates = Schema(
        LogicalEnvironment.name,
        LogicalEnvironment.description,
        name="CreateLogicalEnvironmentRequest",
    )
    changes = Schema(
        LogicalEnvironment.name,
        LogicalEnvironment.description,
        name="UpdateLogicalEnvironmentRequest",
    )

    @route(
        "POST /api/v1/logical-environments/{logicalEnvironmentId}/members/{physicalEnvironmentId}",
        id="addLogicalEnvironmentMember",
        answer=FACTSTORE.one_schema("LogicalEnvironmentResponse"),
    )
    def add_member(self, context, key, member):
        """Add an environment to a logical one."""
        logical, physical = self.find(key), Environment.fetch(member)
        if LogicalMember.of(key, member):
            raise Conflict(
                f"Environment '{physical.name}' is already a member of '{logical.name}'."
            )
        LogicalMember.create(logical_environment=key, environment=member)
        return logical

    @route(
        "DELETE /api/v1/logical-environments/{logicalEnvironmentId}"
        "/members/{physicalEnvironmentId}",
        id="removeLogicalEnvironmentMember",
        status=204,
    )
    def take_out(self, context, key, member):
        """Take an environment out of a logical one."""
        logical, membership = self.find(key), LogicalMember.of(key, member)
        if membership is None:
            raise NotFound(f"The environment {member} is not a member of '{logical.name}'.")
        membership.remove()
        return membership

    @route(
        "GET /api/v1/logical-environments/{logicalEnvironmentId}/snapshots/latest",
        id="getMergedSnapshot",
        answer=MERGED_SNAPSHOT.describe(),
    )
    def merged(self, context, key):
        """Get the union of the latest snapshots of the members."""
        logical = self.find(key)
        summaries, artifacts = [], []
        for member, head, held in newest_of_members(key):
            summaries.append({**member, **head, "artifactCount": len(held)})
            artifacts += [{**one, **member} for one in held]
        complete = all(summary["snapshotIndex"] for summary in summaries)
        return {
            "logicalEnvId": key,
            "logicalEnvName": logical.name,
            "complianceStatus": "COMPLIANT" if summaries and complete else "NON_COMPLIANT",
            "memberSnapshots": summaries,
            "mergedArtifacts": artifacts,
        }


# --- Policies -----------------------------------------------------------------


class Threshold:
    """A whole number, or the text of a form's field; blank text stands for none."""

    number, text = Integer(-(2**31), 2**31 - 1), Text(255)

    def coerce(self, value: Any) -> Any:
        """The value as it is: a number is no text here."""
        return value

    def read(self, value: Any) -> int | str | None:
        """The number or the text; None for blank text."""
        if isinstance(value, str):
            return self.text.read(value) if value.strip() else None
        return self.number.read(value)

    def describe(self) -> dict:
        """The JSON schema of both."""
        return {**self.number.describe(), **self.text.describe(), "type": ["integer", "string"]}


class Policy(Model):
    """What the environments that it is attached to ask of every artifact."""

    fact, key, touched, since = "policy", "name", True, 2
    schema_name = "PolicyResponse"
    searched = Searched(
        26, "policy", "name", "{policy_type}", text="policy_type", title="{name}",
        told="org_slug created_at",
    )  # fmt: skip
    #: The fields that turn a demand of the gate on.
    switches = ("enforce_provenance", "enforce_trail_compliance", "require_signature")

    id = Uuid()
    name = Name()
    enforce_provenance = Boolean(default=False)
    enforce_trail_compliance = Boolean(default=False)
    required_attestation_types = Json(ListOf(Text(255)), default=list)
    org_slug = Text(255, null=True, index=True)
    created_at = Timestamp(6, default=now_exactly)
    updated_at = Timestamp(6, default=now_exactly)
    policy_type = Text(255, null=True)
    threshold = Json(Threshold(), null=True)
    require_signature = Boolean(default=False)
    policy_evaluator = Text(255, default="opa")

    @classmethod
    def create(cls, **values):
        check_policy_name(values["name"])
        check_organisation(values.get("org_slug"))
        return super().create(**split_lists(values))

    def change(self, **values):
        if values.get("name", self.name) != self.name:
            check_policy_name(values["name"])
        return super().change(**split_lists(values))


def check_policy_name(name: str) -> None:
    """Refuse a name that another policy has."""
    if Policy.has(name=name):
        raise Conflict(f"Policy with name '{name}' already exists")


class PolicyModule(Model):
    """The text of a policy's WASM module; it is kept, and never told."""

    fact, made, key, since = "policy_module", "stored", "policy", 2

    id = Uuid()
    policy = Owner(Policy, on_delete="CASCADE")
    wasm_content = Text(1 << 20, hidden=True)


class Policies(
    Resource,
    surface=FACTSTORE,
    path="/api/v1/policies",
    model=Policy,
    scope="factstore",
    tag="Policies",
    plural="policies",
    verbs="list create retrieve update delete",
):
    """Policies, and the modules that belong to them."""

    creates = Schema(
        Policy.name,
        Policy.enforce_provenance,
        Policy.enforce_trail_compliance,
        Policy.required_attestation_types,
        Policy.org_slug,
        Policy.policy_type,
        Policy.threshold,
        Policy.require_signature,
        Policy.policy_evaluator,
        name="CreatePolicyRequest",
    )
    changes = Schema(
        Policy.name,
        Policy.enforce_provenance,
        Policy.enforce_trail_compliance,
        Policy.required_attestation_types,
        name="UpdatePolicyRequest",
    )

    @route(
        "PUT /api/v1/policies/{policyId}/wasm",
        id="uploadWasmModule",
        body=Schema(PolicyModule.wasm_content, name="WasmModuleUploadRequest"),
        status=204,
    )
    def upload(self, context, key):
        """Store the text of a WASM module with a policy, in place of the one before."""
        policy = self.find(key)
        module = PolicyModule.seek(policy=policy.id)
        if module is None:
            PolicyModule.create(policy=policy.id, **context.body)
        else:
            module.change(**context.body)
        return policy


class PolicyAttachment(Model):
    """That a policy holds in an environment."""

    fact, made, key, since = "policy_attachment", "attached", "policy environment", 2
    schema_name = "PolicyAttachmentResponse"

    id = Uuid()
    policy = Owner(Policy, on_delete="CASCADE")
    environment = Owner(Environment, index=True, on_delete="CASCADE")
    created_at = Timestamp(6, default=now_exactly)

    @classmethod
    def create(cls, **values):
        policy = Policy.fetch(values["policy"])
        environment = Environment.fetch(values["environment"])
        if cls.has(policy=policy.id, environment=environment.id):
            raise Conflict(
                f"Policy '{policy.name}' is already attached to environment '{environment.name}'"
            )
        return super().create(**values)


class PolicyAttachments(
    Resource,
    surface=FACTSTORE,
    path="/api/v1/policy-attachments",
    model=PolicyAttachment,
    scope="factstore",
    tag="Policies",
    verbs="list create retrieve delete",
):
    """Which policies hold in which environments."""

    creates = Schema(
        PolicyAttachment.policy,
        PolicyAttachment.environment,
        name="CreatePolicyAttachmentRequest",
    )


# --- Deployment policies ------------------------------------------------------


class MaybeId(Id):
    """The id of a record that need not be there; empty text stands for none."""

    def read(self, value):
        return None if value == "" else super().read(value)


class DeploymentPolicy(Model):
    """What the gate asks of every artifact, in one environment or in all."""

    fact, touched, since = "deployment_policy", True, 2
    schema_name = "DeploymentPolicyResponse"
    searched = Searched(
        25, "deployment-policy", "name", "{description}", text="description", title="{name}",
        told="flow created_at",
    )  # fmt: skip
    switches = ("enforce_provenance", "enforce_approvals", "require_signature")

    id = Uuid()
    name = Text(255)
    description = Text(10_000, default="")
    flow = Owner(Flow, index=True)
    environment_id = MaybeId(null=True)
    enforce_provenance = Boolean(default=False)
    enforce_approvals = Boolean(default=False)
    required_attestation_types = Json(ListOf(Text(255)), default=list)
    is_active = Boolean(default=True)
    created_at = Timestamp(6, default=now_exactly)
    updated_at = Timestamp(6, default=now_exactly)
    require_signature = Boolean(default=False)

    @classmethod
    def create(cls, **values):
        Flow.fetch(values["flow"])
        return super().create(**split_lists(values))

    def change(self, **values):
        return super().change(**split_lists(values))


class DeploymentPolicies(
    Resource,
    surface=FACTSTORE,
    path="/api/v1/deployment-policies",
    model=DeploymentPolicy,
    scope="factstore",
    tag="Gate",
    plural="deploymentPolicies",
    verbs="list create retrieve update delete",
    options={"create": {"status": 200, "would": "wouldCreate"}},
):
    """Deployment policies, inactive ones included."""

    creates = Schema(
        DeploymentPolicy.name,
        DeploymentPolicy.description,
        DeploymentPolicy.flow,
        DeploymentPolicy.environment_id,
        DeploymentPolicy.enforce_provenance,
        DeploymentPolicy.enforce_approvals,
        DeploymentPolicy.required_attestation_types,
        DeploymentPolicy.require_signature,
        name="CreateDeploymentPolicyRequest",
    )
    changes = Schema(
        DeploymentPolicy.name,
        DeploymentPolicy.description,
        DeploymentPolicy.enforce_provenance,
        DeploymentPolicy.enforce_approvals,
        DeploymentPolicy.required_attestation_types,
        DeploymentPolicy.is_active,
        DeploymentPolicy.require_signature,
        name="UpdateDeploymentPolicyRequest",
    )


# --- Gate ---------------------------------------------------------------------
# May this artifact run there? The policies of the place ask, what was recorded answers.


class GateResult(Model):
    """What the gate decided on an artifact, and why."""

    fact, made, append_only, since = "gate_result", "evaluated", True, 2
    schema_name = "GateEvaluateResponse"
    derived: ClassVar[dict] = {
        "allowed": Derived(
            Boolean(), """CASE t1."decision" WHEN 'ALLOWED' THEN 'true' ELSE 'false' END"""
        )
    }

    id = Uuid()
    decision = Choice("ALLOWED BLOCKED")
    artifact_sha256 = Text(255)
    environment_id = MaybeId(null=True, index=True)
    evaluated_at = Timestamp(6, default=now_exactly)
    # One for each demand and report, of which there may be thousands.
    block_reasons = Json(ListOf(Text(), 2**31), default=list)
    policies_evaluated = Integer(default=0)
    signature_verified = Boolean(null=True)
    reason = Text(2**31)
    policy_name = Text(255, default="")
    environment = Text(255, default="")
    requested_by = Text(255, null=True, hidden=True)


GATE_RESULTS = Array(GateResult, {"environment_id": lambda key: GateResult.environment_id == key})

#: What a policy's switches ask for, in words, in the order in which REPORTS tells of it.
DEMANDS = {
    "enforce_provenance": "a record of its provenance",
    "enforce_approvals": "an approval",
    "enforce_trail_compliance": "a compliant trail",
    "require_signature": "a provenance signature that verifies",
}
REPORTS = """
SELECT a."image_name" || ':' || a."image_tag" || ' of trail ' || t."id",
    (SELECT json_group_array(DISTINCT r."type") FROM "attestation" AS r
        WHERE r."trail_id" = t."id" AND r."status" = 'PASSED'),
    p."id" IS NOT NULL,
    EXISTS (SELECT 1 FROM "approval" AS v WHERE v."trail_id" = t."id" AND v."status" = 'APPROVED'),
    t."status" = 'COMPLIANT',
    p."provenance_status" IS 'PROVENANCE_VERIFIED'
FROM "artifact" AS a JOIN "trail" AS t ON t."id" = a."trail_id"
    LEFT JOIN "build_provenance" AS p ON p."artifact_id" = a."id"
WHERE a."sha256_digest" = ? ORDER BY a."rowid"
"""


class Reported(NamedTuple):
    """An artifact as one trail reported it, and which demands of policies it meets."""

    title: str
    met: frozenset[str]


def reports_of(digest: str) -> list[Reported]:
    """Every report of the artifact with this digest."""
    reports = []
    for title, types, *flags in session().database.connection().execute(REPORTS, (digest,)):
        met = {passing(type) for type in json.loads(types)}
        reports.append(Reported(title, frozenset(met.union(itertools.compress(DEMANDS, flags)))))
    return reports


def passing(type: str) -> str:
    """The demand for an attestation of a type, in words."""
    return f"a passed '{type}' attestation"


def objections(policy: DeploymentPolicy | Policy, reports: list[Reported]) -> Iterator[str]:
    """Why a policy stops an artifact: a sentence for each thing that a report of it lacks.

    An artifact that nobody reported meets no demand.
    """
    title = f"{policy.noun().capitalize()} '{policy.name}'"
    asked = {passing(type): passing(type) for type in policy.required_attestation_types}
    asked |= {name: DEMANDS[name] for name in policy.switches if getattr(policy, name)}
    for report in reports:
        for demand, words in asked.items():
            if demand not in report.met:
                yield f"{title} asks for {words}, which {report.title} lacks."
    for words in asked.values() if not reports else ():
        yield f"{title} asks for {words}, but nobody has reported this artifact."


def policies_for(key: str | None, environment: Environment | None) -> list:
    """The policies that hold in an environment: its active deployment policies, or else all.

    To these come the policies attached to it. Where no known environment is named, those attached
    to any: a name that is mistyped must not open the gate.
    """
    active = DeploymentPolicy.every(is_active=True)
    own = [policy for policy in active if key and policy.environment_id == key]
    attached = Policy.load(attached_sql(bool(environment)), [environment.id] if environment else [])
    return [*(own or active), *attached]


@functools.cache
def attached_sql(to_one: bool) -> str:
    """SQL for the policies that are attached to one environment, or to any."""
    attached = PolicyAttachment.select(PolicyAttachment.policy)
    if to_one:
        attached = attached.where(PolicyAttachment.environment == peewee.SQL("?"))
    query = Policy.select().where(Policy.id.in_(attached))
    return query.order_by(peewee.SQL('"t1"."rowid"')).sql()[0]


def is_on_allowlist(digest: str, environment: Environment) -> bool:
    """Whether an entry in force of an environment's allow-list has exactly this digest."""
    given = AllowlistEntry.every(environment=environment.id, sha256=digest, status="ACTIVE")
    return any(one.expires_at is None or one.expires_at > now_exactly() for one in given)


def decide(digest: str, key: str | None, environment: Environment | None) -> dict:
    """Decide on an artifact in an environment; the values of the result, by column."""
    if environment and is_on_allowlist(digest, environment):
        listed = f"The allow-list of environment '{environment.name}' has this artifact."
        return {"decision": "ALLOWED", "reason": listed}
    policies, reports = policies_for(key, environment), reports_of(digest)
    found = {policy: list(objections(policy, reports)) for policy in policies}
    reasons = list(itertools.chain.from_iterable(found.values()))
    blocking = [policy for policy in policies if found[policy]]
    met = "Every policy is met." if policies else "No policy holds here."
    is_signed = bool(reports) and all("require_signature" in report.met for report in reports)
    return {
        "decision": "BLOCKED" if reasons else "ALLOWED",
        "block_reasons": reasons,
        "reason": " ".join(reasons) or met,
        "policy_name": "".join(policy.name for policy in (blocking[:1] or policies[-1:])),
        "policies_evaluated": len(policies),
        "signature_verified": is_signed if any(p.require_signature for p in policies) else None,
    }


def flow_that_built(digest: str) -> str | None:
    """The flow whose trail was the first to report an artifact."""
    reported = Artifact.select(Trail.flow).join(Trail).where(Artifact.sha256_digest == digest)
    return reported.order_by(peewee.SQL('"t1"."rowid"')).limit(1).scalar()


def pass_gate(
    digest: str, key: str | None, environment: Environment | None, actor: str | None
) -> dict:
    """Decide on an artifact, and keep, audit and tell of the decision."""
    result = GateResult.create(
        artifact_sha256=digest,
        environment_id=key,
        environment=environment.name if environment else "",
        requested_by=actor,
        **decide(digest, key, environment),
    )
    payload = {
        "sha256Digest": digest,
        "decision": result.decision,
        "environmentId": key,
        "policiesEvaluated": result.policies_evaluated,
        "blockReasons": result.block_reasons,
    }
    subject = {"environment_id": key, "artifact_sha256": digest}
    AuditEvent.record(f"GATE_{result.decision}", actor or "system", payload, **subject)
    told = result.json()
    emit("factstore.gate.evaluated", {"gateResult": told})
    if result.decision == "BLOCKED":
        notify(
            "GATE_BLOCKED",
            title=f"The gate of {result.environment or 'an unnamed environment'} is shut",
            message=result.reason,
            severity="CRITICAL",
            entity_type="gate_result",
            entity_id=result.id,
            flow_id=flow_that_built(digest),
            environment_id=key,
            payload={"artifactSha256": digest, "requestedBy": actor},
        )
    return told


class Newest(Integer):
    """How many of a list's newest records are wanted."""

    def describe(self):
        return super().describe() | {"description": "Only the newest so many; all unless told."}


class Gate(
    Resource,
    surface=FACTSTORE,
    model=GateResult,
    scope="factstore",
    tag="Gate",
):
    """The gate, and what it decided."""

    @route(
        "POST /api/v1/gate/evaluate",
        id="evaluateGate",
        body=Schema(
            GateResult.artifact_sha256,
            GateResult.environment_id,
            GateResult.requested_by,
            environment=Text(null=True),
            flow_id=Text(null=True),
            name="GateEvaluateRequest",
        ),
        answer=FACTSTORE.one_schema("GateEvaluateResponse"),
    )
    def evaluate(self, context):
        """Decide whether an artifact may run in an environment, and keep the decision."""
        digest, actor = context.body["artifact_sha256"], context.body.get("requested_by")
        key, name = context.body.get("environment_id"), context.body.get("environment")
        environment = Environment.seek(key) if key else Environment.seek(name=name)
        return pass_gate(digest, environment.id if environment else key, environment, actor)

    @route(
        "GET /api/v1/gate/results",
        id="listGateResults",
        query=Filters(environment=Text(), limit=Newest(1, 2**31 - 1)),
        answer=FACTSTORE.array_schema("GateEvaluateResponse"),
    )
    def results(self, context):
        """List what the gate decided, of one environment (by name or id) where one is named."""
        values, offset, limit = {}, 0, context.query.get("limit") or -1
        if text := context.query.get("environment"):
            environment = Environment.seek(name=text)
            values["environment_id"] = environment.id if environment else text.lower()
        if limit > 0:
            offset = max(0, GATE_RESULTS.count(values) - limit)
        return Reply(200, b"[%b]" % GATE_RESULTS.slice(values, offset, limit).text)


# --- Users --------------------------------------------------------------------


class User(Model):
    """A person, known by the e-mail address."""

    fact, key, touched, since = "user", "email", True, 3
    schema_name = "UserResponse"

    id = Uuid()
    email = Name()
    name = Name()
    github_id = Text(255, null=True, index=True)
    created_at = Timestamp(6, default=now_exactly)
    updated_at = Timestamp(6, default=now_exactly)

    @classmethod
    def with_email(cls, email: str) -> User | None:
        """The user with exactly this address."""
        return cls.seek(email=email)

    @classmethod
    def create(cls, **values):
        if cls.with_email(values["email"]):
            raise Conflict(f"User with email '{values['email']}' already exists")
        check_github_id(values.get("github_id"))
        return super().create(**values)

    def change(self, **values):
        if values.get("github_id") != self.github_id:
            check_github_id(values.get("github_id"))
        return super().change(**values)

    def remove(self):
        revoke_keys_of(self.id)
        super().remove()


def check_github_id(github_id: str | None) -> None:
    """Refuse the GitHub id that another user has."""
    if github_id is not None and User.has(github_id=github_id):
        raise Conflict(f"User with GitHub id '{github_id}' already exists")


class Users(
    Resource,
    surface=FACTSTORE,
    path="/api/v1/users",
    model=User,
    scope="factstore",
    access="admin",
    tag="Users",
    item="userId",
    verbs="list create retrieve update delete",
):
    """People. One who goes leaves the organisations, and the keys of one who goes end."""

    creates = Schema(User.email, User.name, User.github_id, name="CreateUserRequest")
    changes = Schema(User.name, User.github_id, name="UpdateUserRequest")


# --- Service accounts ---------------------------------------------------------


class ServiceAccounts(
    Resource,
    surface=FACTSTORE,
    path="/api/v1/service-accounts",
    model=MachineAccount,
    scope="factstore",
    access="admin",
    tag="Service accounts",
    noun="serviceAccount",
    item="serviceAccountId",
    verbs="list create retrieve update delete",
):
    """Machines that call the API, and their keys, which end when their account goes."""

    creates = Schema(
        MachineAccount.name, MachineAccount.description, name="CreateServiceAccountRequest"
    )
    changes = Schema(
        MachineAccount.name, MachineAccount.description, name="UpdateServiceAccountRequest"
    )

    @route(
        "GET /api/v1/service-accounts/{serviceAccountId}/api-keys",
        id="listServiceAccountApiKeys",
        answer=FACTSTORE.array_schema("ApiKeyResponse"),
    )
    def keys(self, context, key):
        """List the API keys of a service account, ended ones too."""
        return context.workspace.api_keys.list(owner_id=self.find(key).id)

    @route(
        "POST /api/v1/service-accounts/{serviceAccountId}/api-keys",
        id="createServiceAccountApiKey",
        body=key_request("CreateServiceAccountApiKeyRequest"),
        status=201,
        answer=KEY_CREATED,
    )
    def create_key(self, context, key):
        """Make an API key for a service account; its text is told only in this answer."""
        return make_key(context, self.find(key).id, "SERVICE_ACCOUNT")

    @route(
        "DELETE /api/v1/service-accounts/{serviceAccountId}/api-keys/{keyId}",
        id="revokeServiceAccountApiKey",
        status=204,
    )
    def revoke_key(self, context, account_id, key_id):
        """End an API key of a service account, at once and for good."""
        key = ApiKey.seek(id=key_id, owner_id=self.find(account_id).id)
        if key is None:
            raise NotFound(f"The service account {account_id} has no API key {key_id}.")
        told = key.json()
        key.revoke()
        return told


# --- API key management -------------------------------------------------------

OWNERS = MappingProxyType({"USER": User, "SERVICE_ACCOUNT": MachineAccount})


class ApiKeyManagement(
    Resource,
    surface=FACTSTORE,
    model=ApiKey,
    scope="factstore",
    access="admin",
    tag="API keys",
):
    """The API keys of people and machines."""

    @route(
        "POST /api/v1/api-keys",
        id="createApiKey",
        body=key_request("CreateApiKeyRequest", ApiKey.owner_id, ApiKey.owner_type),
        status=201,
        answer=KEY_CREATED,
    )
    def make(self, context):
        """Make an API key for a user or a service account; its text is told only in this answer."""
        kind = context.body["owner_type"]
        return make_key(context, OWNERS[kind].fetch(context.body["owner_id"]).id, kind)

    @route(
        "GET /api/v1/api-keys/owners/{ownerId}",
        id="listApiKeysOfOwner",
        answer=FACTSTORE.array_schema("ApiKeyResponse"),
    )
    def of_owner(self, context, owner_id):
        """List the API keys of an owner, who may be gone, ended ones too."""
        return context.workspace.api_keys.list(owner_id=owner_id)

    @route("DELETE /api/v1/api-keys/{apiKeyId}/revoke", id="revokeApiKey", status=204)
    def revoke(self, context, key_id):
        """End an API key, at once and for good."""
        key = ApiKey.fetch(key_id)
        told = key.json()
        key.revoke()
        return told


# --- Members ------------------------------------------------------------------

#: What a member may do after signing in.
MEMBER_SCOPES = MappingProxyType(
    {
        "ADMIN": FACTSTORE_SCOPES,
        "MEMBER": ("factstore:read", "factstore:write"),
        "VIEWER": ("factstore:read",),
        "SERVICE_ACCOUNT": ("factstore:read", "factstore:write"),
    }
)


class Membership(Belonging, Model):
    """A user's place in an organisation, and the role there."""

    fact, key, since = "member", "org_slug user", 3
    schema_name = "MemberResponse"
    derived: ClassVar[dict] = {
        name: Derived(
            getattr(User, name),
            f"""(SELECT json_quote("{name}") FROM "user" WHERE "id" = "t1"."user_id")""",
        )
        for name in ("email", "name")
    }

    id = Uuid(hidden=True)
    org_slug = Text(255, hidden=True)
    user = Owner(User, on_delete="CASCADE", index=True)
    role = Choice(" ".join(MEMBER_SCOPES))
    joined_at = Timestamp(6, default=now_exactly)

    class Meta:
        table_name = "member"

    @classmethod
    def of(cls, slug: str, user_id: str) -> Membership | None:
        """The place of a user in an organisation."""
        return cls.seek(org_slug=slug, user=user_id)

    @classmethod
    def end_with(cls, slug):
        members = list(cls.select().where(cls.org_slug == slug).limit(2))
        # Nobody else could ever take the last admin away.
        if [member.role for member in members] == ["ADMIN"]:
            Model.remove(members[0])

    def change(self, **values):
        if values.get("role", "ADMIN") != "ADMIN":
            self.check_admin_remains()
        return super().change(**values)

    def remove(self):
        self.check_admin_remains()
        super().remove()

    def is_last_admin(self) -> bool:
        """Whether the organisation would be without an admin if it were without this one."""
        other = Membership.org_slug == self.org_slug, Membership.id != self.id
        others = Membership.select().where(*other, Membership.role == "ADMIN")
        return self.role == "ADMIN" and not others.exists()

    def check_admin_remains(self) -> None:
        """Refuse to take the last admin from an organisation."""
        if self.is_last_admin():
            raise Conflict(
                f"User {self.user_id} is the last admin of organisation '{self.org_slug}'; "
                "make somebody else an admin first."
            )


MEMBERS = Array(Membership, {"org_slug": lambda slug: Membership.org_slug == slug})


def add_member(slug: str, user: User, role: str) -> Membership:
    """Give a user a role in an organisation, or Conflict where the user has one already."""
    if Membership.of(slug, user.id):
        raise Conflict(f"Member '{user.email}' already exists in organisation '{slug}'")
    return Membership.create(org_slug=slug, user=user.id, role=role)


class Members(
    Resource,
    surface=FACTSTORE,
    path="/api/v1/organisations/{slug}/members",
    model=Membership,
    scope="factstore",
    access="admin",
    tag="Members",
    item="userId",
    verbs="list create retrieve update delete",
):
    """The members of an organisation, and their roles, which nobody gives beyond their own."""

    creates = Schema(User.email, Membership.role, name="InviteMemberRequest")
    changes = Schema(Membership.role, name="UpdateMemberRoleRequest")
    options: ClassVar[dict] = {"update": {"partial": False}}

    def slug(self, key: str) -> str:
        """The slug of the organisation that a path names, or NotFound."""
        slug = organisation_slug(key)
        check_organisation(slug)
        return slug

    def member(self, key: str, user_id: str) -> Membership:
        """The member that a path names, or NotFound."""
        slug = self.slug(key)
        member = Membership.of(slug, user_id)
        if member is None:
            raise NotFound(f"User {user_id} is no member of organisation '{slug}'.")
        return member

    def list(self, context, key):
        """List the members of an organisation."""
        return FACTSTORE.array(context, MEMBERS, {"org_slug": self.slug(key)})

    def create(self, context, key):
        """Make a user a member of an organisation, at once; the user is found by e-mail."""
        slug, role = self.slug(key), context.body["role"]
        user = User.with_email(context.body["email"])
        if user is None:
            raise NotFound(f"There is no user with the email '{context.body['email']}'.")
        context.principal.may_give(MEMBER_SCOPES[role])
        return add_member(slug, user, role)

    def retrieve(self, context, key, user_id):
        """Get one member of an organisation."""
        return self.member(key, user_id)

    def update(self, context, key, user_id):
        """Give a member another role; the last admin keeps it."""
        member = self.member(key, user_id)
        context.principal.may_give(MEMBER_SCOPES[context.body["role"]])
        member.change(**context.body)
        return member

    def delete(self, context, key, user_id):
        """Take a member out of an organisation; the last admin stays."""
        member = self.member(key, user_id)
        told = member.json()
        member.remove()
        return told


# --- Identity providers -------------------------------------------------------
# The other side of single sign-on: OpenID Connect Core 1.0 and Discovery 1.0, with the
# authorization code grant of RFC 6749 and the proof of possession of RFC 7636.

#: What an ID token may be signed with, and the kind of key that does it: nothing that takes a
#: shared secret, and not `none`.
TOKEN_SIGNATURES = MappingProxyType({"RS256": "RSA", "PS256": "RSA", "ES256": "EC", "EdDSA": "OKP"})
#: The members of a key that are public (RFC 7518, section 6; RFC 8037, section 2).
PUBLIC_MEMBERS = ("kty", "crv", "n", "e", "x", "y")
#: Seconds that the clocks of the provider and of the instance may be apart.
LEEWAY = 60
#: Bytes of an answer: large tenants publish many keys, and tell many groups.
PROVIDER_ANSWER_LIMIT = 1 << 20
ISSUER_REMEDY = "the setting sso_private_issuers permits issuers in private networks"


def load_pyjwt() -> Any:
    """The library that verifies ID tokens, or a sentence on where to get it."""
    try:
        import jwt
    except ImportError:
        raise Unavailable(
            "Single sign-on needs the library PyJWT; install novantra-lite[sso]."
        ) from None
    return jwt


def private_base(url: str, settings: Settings) -> str:
    """Which base URL of the setting sso_private_issuers a URL starts with; empty for none."""
    bases = (base.rstrip("/") for base in settings.sso_private_issuers)
    return next((base for base in bases if url == base or url.startswith(base + "/")), "")


def read_issuer(url: str, settings: Settings) -> str:
    """The URL of an issuer as it is kept, without slashes at its end; Invalid for what is none."""
    url = url.rstrip("/")
    try:
        split_target(url, https_only=not private_base(url, settings))
        if "?" in url or "#" in url:
            raise Invalid("The URL must end with its path.")
    except Invalid as problem:
        raise Invalid(issues=[issue(["issuerUrl"], str(problem))]) from None
    return url


@functools.cache
def provider_transport(settings: Settings, private: bool) -> Transport:
    """What carries requests to identity providers, into private networks where that is named."""
    return Transport(
        PRIVATE_NETWORKS if private else (),
        settings.sso_timeout,
        limit=PROVIDER_ANSWER_LIMIT,
        agent="Novantra-Lite/1",
        remedy=ISSUER_REMEDY,
    )


class IdentityProvider:
    """An OpenID provider, known by the URL of its issuer.

    All its URLs are https and public, but for those under the same base URL of the setting
    sso_private_issuers as the issuer's own. What it answers is used once and not kept.
    """

    def __init__(self, issuer: str, settings: Settings):
        self.issuer, self.settings = issuer, settings
        self.base = private_base(issuer, settings)

    def is_private(self, url: str) -> bool:
        """Whether a URL may lead into a private network, and do without TLS."""
        return bool(self.base) and private_base(url, self.settings) == self.base

    def ask(self, url: str, form: Mapping[str, str] | None = None, **headers: str) -> Answer:
        """Get what is at a URL, or post a form there; Invalid where the URL may not lead."""
        private = self.is_private(url)
        transport = provider_transport(self.settings, private)
        check_target(url, transport.allowed, not private, remedy=ISSUER_REMEDY)
        headers = {"Accept": "application/json", **headers}
        if form is None:
            return transport.get(url, headers)
        headers["Content-Type"] = FORM_MEDIA
        return transport.post(url, urllib.parse.urlencode(form).encode(), headers)

    def read(self, answer: Answer) -> dict:
        """The JSON object of an answer, or BadGateway."""
        found = None
        if answer.status == 200:
            with contextlib.suppress(Invalid):
                found = read_json(answer.body or b"")
        if not isinstance(found, dict):
            log.warning(
                "The identity provider %s gave no usable answer. %s", self.issuer, answer.note
            )
            raise BadGateway("The identity provider gave no usable answer; try again.")
        return found

    @cached_property
    def document(self) -> dict:
        """The discovery document, which must be of the issuer that it is asked for."""
        document = self.read(self.ask(f"{self.issuer}/.well-known/openid-configuration"))
        issuer = document.get("issuer")
        if not isinstance(issuer, str) or issuer.rstrip("/") != self.issuer:
            raise Invalid("The discovery document of the identity provider is of another issuer.")
        return document

    def endpoint(self, name: str) -> str:
        """A URL that the discovery document tells, or Invalid."""
        url = self.document.get(name)
        if not isinstance(url, str):
            raise Invalid(f"The discovery document of the identity provider has no {name}.")
        try:
            split_target(url, https_only=not self.is_private(url))
        except Invalid as problem:
            raise Invalid(f"The {name} of the identity provider is not usable. {problem}") from None
        return url.partition("#")[0]

    def redeem(self, client_id: str, client_secret: str | None, **grant: str) -> str:
        """Swap an authorization code for an ID token; Invalid where the provider refuses it."""
        form = {"grant_type": "authorization_code", "client_id": client_id, **grant}
        methods, headers = self.document.get("token_endpoint_auth_methods_supported"), {}
        if client_secret and isinstance(methods, list) and "client_secret_post" not in methods:
            # RFC 6749, section 2.3.1: both are form encoded first.
            pair = ":".join(map(urllib.parse.quote_plus, (client_id, client_secret)))
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        elif client_secret:
            form["client_secret"] = client_secret
        answer = self.ask(self.endpoint("token_endpoint"), form, **headers)
        if 400 <= answer.status < 500:
            log.warning("The identity provider %s refused a code. %s", self.issuer, answer.note)
            raise Invalid("The identity provider refused the authorization code or the client.")
        token = self.read(answer).get("id_token")
        if not isinstance(token, str):
            raise Invalid("The identity provider answered without an ID token.")
        return token

    def verify(self, token: str, client_id: str, nonce: str, at: float) -> dict:
        """The claims of an ID token that this provider made for a client and a login, or Invalid.

        `at` is the time to hold it against (OpenID Connect Core 1.0, section 3.1.3.7).
        """
        jwt = load_pyjwt()
        keys = self.read(self.ask(self.endpoint("jwks_uri"))).get("keys")
        try:
            header = jwt.get_unverified_header(token)
            key = find_key(header, keys if isinstance(keys, list) else [])
            # The key was chosen to fit, so that the token cannot talk it into another algorithm.
            claims = jwt.decode(
                token,
                key,
                algorithms=[header["alg"]],
                audience=client_id,
                issuer=self.document["issuer"],
                options=dict(CLAIMS_TO_CHECK),
            )
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            refused = explain_refusal(error)
            raise Invalid(f"The ID token was refused: {refused}.") from None
        check_claims(claims, client_id, nonce, at)
        return claims


#: PyJWT would hold the times against the machine's clock, not the instance's.
CLAIMS_TO_CHECK = MappingProxyType(
    {
        "verify_exp": False,
        "verify_iat": False,
        "verify_nbf": False,
        "enforce_minimum_key_length": True,
        "require": ["iss", "sub", "aud", "exp", "iat", "nonce"],
    }
)


def find_key(header: Mapping[str, Any], keys: Iterable[Any]) -> Any:
    """The published key that a token says it is signed with, or Invalid."""
    algorithm, name = header.get("alg"), header.get("kid")
    kind = TOKEN_SIGNATURES.get(algorithm) if isinstance(algorithm, str) else None
    if kind is None:
        raise Invalid(f"The ID token must be signed with one of {', '.join(TOKEN_SIGNATURES)}.")
    fitting = [
        key
        for key in keys
        if isinstance(key, dict)
        and key.get("kty") == kind
        and key.get("use", "sig") == "sig"
        and key.get("alg", algorithm) == algorithm
        and name in (None, key.get("kid"))
    ]
    # Only where there is no choice may a token leave out which key it is (section 10.1).
    if not fitting or (name is None and len(fitting) > 1):
        raise Invalid("The ID token is not signed with a key that the identity provider publishes.")
    public = {member: fitting[0][member] for member in PUBLIC_MEMBERS if member in fitting[0]}
    return load_pyjwt().PyJWK(public, algorithm=algorithm).key


def explain_refusal(error: Exception) -> str:
    """What is wrong with an ID token, in words of our own."""
    jwt = load_pyjwt()
    reasons = {
        jwt.InvalidSignatureError: "its signature is wrong",
        jwt.InvalidIssuerError: "it is of another issuer",
        jwt.InvalidAudienceError: "it is for another client",
        jwt.MissingRequiredClaimError: "it lacks a claim that it needs",
        Exception: "it, or the key for it, is not well formed",
    }
    return next(text for kind, text in reasons.items() if isinstance(error, kind))


def check_claims(claims: Mapping[str, Any], client_id: str, nonce: str, at: float) -> None:
    """Refuse an ID token that is not of this login, not for this client alone, or not of now."""
    times = [claims[name] for name in ("exp", "iat", "nbf") if name in claims]
    several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
    if claims["nonce"] != nonce:
        refused = "it is of another login"
    elif claims.get("azp", None if several else client_id) != client_id:
        refused = "it is for another client"
    elif not all(type(moment) in (int, float) for moment in times):
        refused = "its times are not numbers"
    elif not claims["exp"] > at - LEEWAY:
        refused = "it has expired"
    elif not all(moment <= at + LEEWAY for moment in times[1:]):
        refused = "it is not valid yet"
    else:
        return
    raise Invalid(f"The ID token was refused: {refused}.")


# --- Single sign-on -----------------------------------------------------------


class Mappings(Text):
    """JSON text of an object whose values are all text."""

    def read(self, value):
        text = super().read(value)
        try:
            MapOf(Text(255)).read(read_json(text.encode()))
        except (Invalid, ValueError):
            raise ValueError("Expected the JSON text of an object of texts") from None
        return text


class SsoConfig(Model):
    """How the members of an organisation sign in: at which provider, and what its claims mean."""

    fact, key, touched, since = "sso_config", "org_slug", True, 3
    schema_name = "SsoConfigResponse"

    id = Uuid()
    org_slug = Text(255)
    provider = Choice("ENTRA_ID OKTA")
    issuer_url = Text(2048)
    client_id = Name()
    client_secret = Encrypted(4096, null=True, hidden=True)
    attribute_mappings = Mappings(default='{"email":"email","name":"name"}')
    group_role_mappings = Mappings(default="{}")
    is_mandatory = Boolean(default=False)
    created_at = Timestamp(6, default=now_exactly)
    updated_at = Timestamp(6, default=now_exactly)

    @classmethod
    def noun(cls):
        return "single sign-on"

    @classmethod
    def of(cls, key: str) -> SsoConfig | None:
        """The set-up of an organisation, by its slug or its UUID."""
        return cls.seek(org_slug=organisation_slug(key))

    @classmethod
    def must_be_of(cls, key: str) -> SsoConfig:
        """The set-up of an organisation, or NotFound."""
        if config := cls.of(key):
            return config
        raise NotFound(f"Organisation '{key}' has no single sign-on.")

    def roles(self) -> list[str]:
        """The roles that a sign-in may give, the highest first: MEMBER is given without a group."""
        known = {"MEMBER", *json.loads(self.group_role_mappings).values()}
        return [role for role in MEMBER_SCOPES if role in known]

    def scopes(self) -> set[str]:
        """All that those who sign in may do."""
        return {scope for role in self.roles() for scope in MEMBER_SCOPES[role]}

    def person(self, claims: Mapping[str, Any]) -> tuple[str, str]:
        """The e-mail address and the name that claims tell; Invalid without an address."""
        names = json.loads(self.attribute_mappings)
        claim = names.get("email", "email")
        email, name = claims.get(claim), claims.get(names.get("name", "name"))
        if claim == "email" and claims.get("email_verified", True) is not True:
            raise Invalid("The identity provider has not verified the e-mail address.")
        try:
            email = User.email.read(email)
        except ValueError:
            raise Invalid(f"The ID token has no e-mail address in the claim {claim}.") from None
        with contextlib.suppress(ValueError):
            return email, User.name.read(name)
        return email, email

    def role(self, claims: Mapping[str, Any]) -> str:
        """The highest role that the groups in claims stand for; MEMBER where there is none."""
        groups = claims.get(json.loads(self.attribute_mappings).get("role", "groups"))
        meant = json.loads(self.group_role_mappings)
        listed = groups if isinstance(groups, list) else []
        given = {meant.get(group) for group in listed if isinstance(group, str)}
        return next((role for role in self.roles() if role in given), "MEMBER")


SSO_PATH = "/api/v1/organisations/{slug}/sso"
SSO_MEMBERS = (
    SsoConfig.provider,
    SsoConfig.issuer_url,
    SsoConfig.client_id,
    SsoConfig.client_secret,
    SsoConfig.attribute_mappings,
    SsoConfig.group_role_mappings,
    SsoConfig.is_mandatory,
)


class SsoConfigs(
    Resource,
    surface=FACTSTORE,
    path=SSO_PATH,
    model=SsoConfig,
    scope="factstore",
    access="admin",
    tag="SSO",
    verbs="create retrieve update delete",
    options={verb: {"path": SSO_PATH} for verb in ("retrieve", "update", "delete")},
):
    """The single sign-on of organisations: one set-up each.

    `isMandatory` is kept and shown, and enforces nothing: API keys and tokens stay good.
    """

    creates = Schema(*SSO_MEMBERS, name="CreateSsoConfigRequest")
    changes = Schema(*SSO_MEMBERS, name="UpdateSsoConfigRequest")

    def find(self, key):
        return SsoConfig.must_be_of(key)

    def retrieve(self, context, key):
        """Get the single sign-on of an organisation, without the client's secret."""
        return self.find(key)

    def create(self, context, key):
        """Set up the single sign-on of an organisation; it gives no scopes beyond your own."""
        if SsoConfig.of(key):
            raise Conflict(f"Single sign-on of organisation '{key}' already exists")
        issuer = read_issuer(context.body.pop("issuer_url"), context.settings)
        slug = organisation_slug(key)
        config = SsoConfig.create(org_slug=slug, issuer_url=issuer, **context.body)
        context.principal.may_give(config.scopes())
        return config

    def update(self, context, key):
        """Change the single sign-on of an organisation; it gives no scopes beyond your own."""
        if "issuer_url" in context.body:
            context.body["issuer_url"] = read_issuer(context.body["issuer_url"], context.settings)
        config = super().update(context, key)
        context.principal.may_give(config.scopes())
        return config

    def probe(self, context: Context, key: str) -> dict:
        """What came of reading the discovery document of an organisation's issuer."""
        provider = IdentityProvider(self.find(key).issuer_url, context.settings)
        try:
            document, message = provider.document, "The discovery document of the issuer was read."
        except (Invalid, BadGateway) as problem:
            log.info("The identity provider %s failed its test. %s", provider.issuer, problem)
            document, message = {}, "The discovery document of the issuer could not be read."
        found = [document.get(f"{kind}_endpoint") for kind in ("authorization", "token")]
        authorization, token = (url if isinstance(url, str) else None for url in found)
        return {
            "success": bool(document),
            "message": message,
            "authorizationEndpoint": authorization,
            "tokenEndpoint": token,
        }

    @route(
        "POST /api/v1/organisations/{slug}/sso/test",
        id="testSsoConnection",
        before="probe",
        answer=closed_schema(
            success=Boolean().describe(),
            message=TEXT,
            authorizationEndpoint=describe_member(Text(null=True)),
            tokenEndpoint=describe_member(Text(null=True)),
        ),
    )
    def test(self, context, key):
        """Try to read the discovery document of an organisation's issuer; failing is an answer."""
        return context.prepared


# --- Signing in ---------------------------------------------------------------


class SsoLogin(Model):
    """A sign-in that was begun, by a keyed hash of its state: good once, for ten minutes."""

    since = 3

    id = Text(64, primary_key=True)
    slug = Text(255)
    redirect_uri = Text(2048)
    nonce = Text(32)
    code_verifier = Encrypted(43)
    expires_at = Timestamp(6, index=True)

    LIFE: ClassVar[int] = 600

    @classmethod
    def begin(cls, slug: str, redirect_uri: str) -> tuple[SsoLogin, str]:
        """Begin a sign-in, and forget those that nobody finished; the state is told only now."""
        source = session().source
        cls.delete().where(cls.expires_at <= source.now(6)).execute()
        state = source.random.randbytes(16).hex()
        login = cls.create(
            id=hash_secret(session().ring, state),
            slug=slug,
            redirect_uri=redirect_uri,
            nonce=source.random.randbytes(16).hex(),
            code_verifier=source.secret(),
            expires_at=source.timestamp(source.clock() + cls.LIFE, 6),
        )
        return login, state

    @classmethod
    def use_up(cls, state: str) -> SsoLogin | None:
        """The sign-in that a state was told for; no second call finds it."""
        login = cls.seek(hash_secret(session().ring, state))
        if login:
            login.delete_instance()
        return login

    def challenge(self) -> str:
        """What the provider will hold the verifier against (RFC 7636, section 4.2)."""
        digest = hashlib.sha256(self.code_verifier.encode()).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


class Sessions:
    """The session tokens of one workspace's members: made when they sign in, and checked.

    A token is `fsu_<slug>.<itsdangerous payload and HMAC-SHA-256>`; it carries membership, role and
    expiry. The membership is looked up at each use: a session ends with it, and with the role.
    """

    def __init__(self, workspace: Workspace, slug: str):
        self.workspace, self.slug = workspace, slug
        self._signer = token_signer(workspace.ring, "session")
        # A signature stays what it is; only the membership may change.
        self._claims = functools.lru_cache(10_000)(self._signer.loads)

    def issue(self, member: Membership) -> str:
        """Make a token for a member, good for the setting sso_session_life."""
        life = self.workspace.settings.sso_session_life
        claims = [member.id, member.role, int(self.workspace.source.clock()) + life]
        return f"{SESSION_PREFIX}{self.slug}.{self._signer.dumps(claims)}"

    def check(self, token: str) -> Principal:
        """The principal that a token speaks for, or Unauthenticated."""
        try:
            key, role, expiry = self._claims(token.partition(".")[2])
        except (BadData, ValueError):
            raise Unauthenticated from None
        if self.workspace.source.clock() >= expiry:
            raise Unauthenticated("The session has expired; sign in again.")
        with self.workspace.read():
            member = Membership.seek(key)
        if member is None or member.role != role:
            raise Unauthenticated("The session has ended; sign in again.")
        return Principal(member.user_id, frozenset(MEMBER_SCOPES[role]), expiry)


class CallbackQuery(Filters):
    """What a provider sends the browser back with: a code, or else an error."""

    def __init__(self):
        word = Text(100, pattern="[A-Za-z0-9_.-]+", hint="Expected the code of an error")
        super().__init__(code=Text(8192), state=Text(255), error=word, required="code state")

    def read(self, data, **options):
        # Some providers leave out the state where they refuse.
        filled = {"code": "", "state": "", **data} if data.get("error") else data
        return super().read(filled, **options)


class SsoLogins(Resource, surface=FACTSTORE, tag="SSO"):
    """Signing in through the identity provider of an organisation."""

    @route(
        "GET /api/v1/organisations/{slug}/sso/login",
        id="startSsoLogin",
        public=True,
        query=Filters(redirect_uri=Text(2048, 1), required="redirectUri"),
        answer=closed_schema(loginUrl={"type": "string", "format": "uri"}, state=TEXT),
        refuses=(502,),
    )
    def login(self, context, key):
        """Begin a sign-in: the URL to send the browser to, and the state that will come back."""
        context.lite.limits.take_address(context, context.lite.source.clock())
        load_pyjwt()
        context.workspace, config = find_set_up(context.lite, key)
        provider = IdentityProvider(config.issuer_url, context.settings)
        endpoint = provider.endpoint("authorization_endpoint")

        def work(current):
            login, state = SsoLogin.begin(config.org_slug, context.query["redirect_uri"])
            parameters = {
                "response_type": "code",
                "client_id": config.client_id,
                "redirect_uri": login.redirect_uri,
                "scope": "openid profile email",
                "state": state,
                "nonce": login.nonce,
                "code_challenge": login.challenge(),
                "code_challenge_method": "S256",
            }
            return urllib.parse.urlencode(parameters), state

        query, state = perform(context.workspace, work, actor="sso", request_id=context.request_id)
        url = f"{endpoint}{'&' if '?' in endpoint else '?'}{query}"
        return Reply(200, to_json({"loginUrl": url, "state": state}).encode())

    @route(
        "GET /api/v1/organisations/{slug}/sso/callback",
        id="completeSsoLogin",
        public=True,
        query=CallbackQuery(),
        answer=closed_schema(token=TEXT, userId=UUID_TEXT, email=TEXT, name=TEXT),
        refuses=(502,),
    )
    def callback(self, context, key):
        """Finish a sign-in: swap the authorization code for a session token."""
        context.lite.limits.take_address(context, context.lite.source.clock())
        load_pyjwt()
        try:
            login = self.take_up(context, key)
            with context.workspace.read():
                config = SsoConfig.must_be_of(login.slug)
                claims = self.fetch_claims(context, config, login)
                told = *config.person(claims), config.role(claims)
        except Invalid:
            note_refusal(context, f"GET {context.operation.path}", "sso")
            raise
        work = functools.partial(admit, config.org_slug, *told)
        reason = f"Signed in to organisation '{config.org_slug}'."
        session_begun = perform(
            context.workspace, work, actor="sso", reason=reason, request_id=context.request_id
        )
        return Reply(200, to_json(session_begun).encode())

    def take_up(self, context: Context, key: str) -> SsoLogin:
        """The sign-in that a state was handed out for; it is used up, whatever comes of it."""
        state, login = context.query["state"], None
        for workspace in context.lite.workspaces.values():
            with workspace.read():
                known = SsoLogin.has(hash_secret(workspace.ring, state))
            if known:
                context.workspace = workspace
                login = perform(workspace, lambda current: SsoLogin.use_up(state), actor="sso")
                break
        if error := context.query.get("error"):
            raise Invalid(f"The identity provider refused the sign-in: {error}.")
        if login is None:
            raise Invalid("The state is unknown, or was used before; begin the sign-in anew.")
        with context.workspace.read():
            slug = organisation_slug(key)
        if login.slug != slug:
            raise Invalid("The state belongs to the sign-in of another organisation.")
        if login.expires_at <= context.lite.source.now(6):
            raise Invalid("The state has expired; begin the sign-in anew.")
        return login

    def fetch_claims(self, context: Context, config: SsoConfig, login: SsoLogin) -> dict:
        """What the provider says of the person who signed in, verified."""
        provider = IdentityProvider(config.issuer_url, context.settings)
        token = provider.redeem(
            config.client_id,
            config.client_secret,
            code=context.query["code"],
            redirect_uri=login.redirect_uri,
            code_verifier=login.code_verifier,
        )
        at = context.lite.source.clock()
        return provider.verify(token, config.client_id, login.nonce, at)


def find_set_up(lite: NovantraLite, key: str) -> tuple[Workspace, SsoConfig]:
    """The one workspace whose organisation of a slug has single sign-on, and how; or NotFound."""
    found = []
    for workspace in lite.workspaces.values():
        with workspace.read():
            if config := SsoConfig.of(key):
                found.append((workspace, config))
    if len(found) > 1:
        log.warning("Several workspaces have single sign-on for an organisation '%s'.", key)
    if len(found) != 1:
        raise NotFound(f"Organisation '{key}' has no single sign-on.")
    return found[0]


def admit(slug: str, email: str, name: str, role: str, current: Session) -> dict:
    """Make who signed in a user and a member with a role, and begin a session.

    The last admin of an organisation stays one; a known user's name stays as it is.
    """
    user = User.with_email(email) or User.create(email=email, name=name)
    member = Membership.of(slug, user.id)
    if member is None:
        member = add_member(slug, user, role)
    elif not member.is_last_admin():
        member.change(role=role)
    workspace = current.workspace
    workspace.journal.note(current, "api.session.issued", "user", user.id)
    token = workspace.sessions.issue(member)
    return {"token": token, "userId": user.id, "email": email, "name": name}


# --- Rego ---------------------------------------------------------------------
# What runs in a process of its own: regopy compiles policies and answers by them. Where it is laxer
# than the Rego of the Open Policy Agent, its plan (www.openpolicyagent.org/docs/ir) is held to the
# rules, and mended, before anything is decided by it.

#: The rules of a package that decide.
DECIDING = ("allow", "deny", "violation")
#: Compiled policies that the process keeps.
POLICIES_KEPT = 4
ORDERED = frozenset(("lt", "lte", "gt", "gte"))
ORDER = "novantra_lite_order"
#: Rego puts null before booleans, numbers, strings, arrays, objects and sets; regopy compares their
#: texts, by which null is more than 2.
ORDER_MODULE = f"package {ORDER}\n" + "".join(
    [f"rank(x) := {rank} if is_{kind}(x)\n" for rank, kind in enumerate(
        ("null", "boolean", "number", "string", "array", "object", "set"))]
    + [f"{name}(x, y) := x {sign} y if rank(x) == rank(y)\nelse := rank(x) {sign} rank(y)\n"
       for name, sign in (("lt", "<"), ("lte", "<="), ("gt", ">"), ("gte", ">="))]
)  # fmt: skip
REGO_WORD = r"""(?xs)(?P<skip>[ \t\r]+|\#[^\n]*) | (?P<text>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
    | (?P<name>[A-Za-z_]\w*) | (?P<mark>.)"""
PACKAGE = r'\s*package\s+([A-Za-z_]\w*(?:\.[A-Za-z_]\w*|\["[^"/\\]+"\])*)'
REGO_FAULT = r"\(error(?: \d+:m(\d+)\|(\d+)\|\d+)?\s+\(errormsg (\d+):"


class RegoFailure(Exception):
    """Rego gave no answer; the message says why, without a full stop."""


class RegoMissing(RegoFailure):
    """The package that Rego comes with is not installed."""


def statements_in(text: str) -> Iterator[list[tuple[int, int]]]:
    """Where the words of a module stand, one line of rules after the other.

    What is in brackets is one word, and the end of a line inside it ends nothing.
    """
    words, depth, opened = [], 0, 0
    for word in re.finditer(REGO_WORD, text):
        mark = word[0] if word.lastgroup == "mark" else ""
        if mark and mark in "([{":
            opened = word.start() if depth == 0 else opened
            depth += 1
        elif mark and mark in ")]}" and depth:
            depth -= 1
            if depth == 0:
                words.append((opened, word.end()))
        elif depth == 0 and mark == "\n":
            yield words
            words = []
        elif depth == 0 and word.lastgroup != "skip":
            words.append(word.span())
    yield words


def ends(word: str) -> bool:
    """Whether a word may end the head of a rule, so that a brace after it opens a body."""
    if word in ("if", "in", "as", "contains"):
        return False
    return word[0] in '"`([_' or word[0].isalnum()


class RegoModule:
    """A module as regopy reads it, which tells places as they were sent.

    `is_old`: it is of Rego v0, in which bodies come without `if`. What differs there in meaning is
    `deny[msg] {…}`: it becomes `deny contains msg if {…}`, as regopy would make it an object. And
    `if every x in xs {…}` gets the braces of a body, as regopy would not read it.
    """

    def __init__(self, path: str, text: str):
        self.path, self.is_old = path, False
        #: Without comments, at some of which regopy stumbles; lines and columns stay.
        self.text = re.sub(REGO_WORD, lambda word: "" if word[0][0] == "#" else word[0], text)
        found = re.match(PACKAGE, self.text)
        if found is None:
            raise RegoFailure(f"{path}:1:1: rego_parse_error: package expected")
        names = re.findall(r'\["([^"]+)"\]|(\w+)', found[1])
        self.package = tuple(map("".join, names))
        self.edits: list[tuple[int, int, str]] = []
        for places in statements_in(self.text):
            self.modernize(places, [self.text[start:end] for start, end in places])
        done, pieces = 0, []
        for start, end, new in self.edits:
            pieces += self.text[done:start], new
            done = end
        self.modern = "".join([*pieces, self.text[done:]])

    def modernize(self, places: list[tuple[int, int]], words: list[str]) -> None:
        """Note what has to be edited in a statement."""
        bodies = [n for n in range(1, len(words)) if words[n][0] == "{" and ends(words[n - 1])]
        every = words.index("every") if "every" in words else 0
        if every and words[every - 1] == "if" and words[-1][0] == "{":
            (start, _), (_, end) = places[every], places[-1]
            self.edits += (start, start, "{ "), (end, end, " }")
        elif bodies and "if" not in words:
            self.is_old = True
            if bodies[0] == 2 and words[1][0] == "[":
                (_, after), (start, end), (body, _) = places[:3]
                self.edits += (after, start + 1, " contains "), (end - 1, body, " if ")

    def place(self, offset: int) -> str:
        """Path, line and column of what regopy finds so many bytes after the beginning."""
        at, moved = len(self.modern.encode()[:offset].decode(errors="ignore")), 0
        for start, end, new in self.edits:
            if at - moved < start:
                break
            # What was put in stands where it was put.
            moved += min(len(new) - (end - start), at - moved - start)
        before = self.text[: at - moved]
        return f"{self.path}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"

    def place_in_row(self, row: int, column: int) -> str:
        """Path, line and column of a row and a column in bytes, both from 0."""
        return self.place(len(b"".join(self.modern.encode().splitlines(True)[:row])) + column)


def told_faults(error: str, modules: Sequence[RegoModule]) -> str:
    """What regopy says of modules, one fault a line: the path, the line, the column, why."""
    faults = []
    for fault in re.finditer(REGO_FAULT, error):
        number, offset, size = fault.groups()
        why = error[fault.end() :][: int(size)]
        known = number is not None and int(number) < len(modules)
        faults.append(f"{modules[int(number)].place(int(offset))}: {why}" if known else why)
    return "\n".join(dict.fromkeys(faults[:10])) or "the policy cannot be compiled"


def statements_of(plan: Any) -> Iterator[tuple[str, dict]]:
    """Every statement below a part of a plan: its type, and what it holds."""
    if isinstance(plan, dict):
        if isinstance(plan.get("stmt"), dict):
            yield plan["type"], plan["stmt"]
        plan = list(plan.values())
    for part in plan if isinstance(plan, list) else ():
        yield from statements_of(part)


def read_by(statement: dict) -> Iterator[int]:
    """The variables that a statement itself reads."""
    operands = [value for key, value in statement.items() if key not in ("block", "blocks")]
    while operands:
        operand = operands.pop()
        if isinstance(operand, list):
            operands += operand
        elif isinstance(operand, dict) and operand.get("type") == "local":
            yield operand["value"]


def set_by(kind: str, statement: dict) -> Iterator[int]:
    """The variables that a statement gives values to."""
    members = {"ScanStmt": ("key", "value"), "WithStmt": ("local",), "ResetLocalStmt": ()}
    for member in members.get(kind, ("target", "result")):
        if isinstance(statement.get(member), int):
            yield statement[member]


def faults_of(function: dict, sizes: Mapping[str, int]) -> Iterator[tuple[tuple, str]]:
    """What the reference compiler refuses in a function of a plan, and regopy does not: places
    (file, row and column, from 0) and words. `sizes`: how many arguments a function takes."""
    place, given, asked = (0, 0, 0), {0, 1, *function["params"]}, {}
    for kind, statement in statements_of(function):
        if "row" in statement:
            place = tuple(statement.get(part, 0) for part in ("file", "row", "col"))
        given.update(set_by(kind, statement))
        scanned = [statement["source"]] if kind == "ScanStmt" else []
        for variable in (*read_by(statement), *scanned):
            asked.setdefault(variable, place)
        if kind == "CallStmt" and statement["func"] not in sizes:
            yield place, f"rego_type_error: undefined function {statement['func']}"
        elif kind == "CallStmt" and len(statement["args"]) != sizes[statement["func"]]:
            yield place, f"rego_type_error: {statement['func']}: wrong number of arguments"
    for variable in asked.keys() - given:
        unsafe = "rego_unsafe_var_error: a variable in this expression never gets a value"
        yield asked[variable], unsafe


def check_plan(plan: dict, modules: Sequence[RegoModule]) -> None:
    """Refuse variables without a value, functions that are not there, and rules in a circle."""
    import graphlib

    functions = {one["name"]: one for one in plan["funcs"]["funcs"]}
    sizes = {one["name"]: len(one["decl"]["args"]) for one in plan["static"]["builtin_funcs"]}
    sizes |= {name: len(one["params"]) for name, one in functions.items()}
    numbers = [int(one["value"].removeprefix("m")) for one in plan["static"]["files"]]
    told = [
        f"{modules[numbers[file]].place_in_row(row, column)}: {why}"
        for (file, row, column), why in sorted(
            fault for function in functions.values() for fault in faults_of(function, sizes)
        )
        if numbers[file] < len(modules)
    ]
    calls = {
        name: {inner["func"] for kind, inner in statements_of(function) if kind == "CallStmt"}
        for name, function in functions.items()
    }
    try:
        graphlib.TopologicalSorter(calls).prepare()
    except graphlib.CycleError as circle:
        rules = " -> ".join(name.removeprefix("g0.") for name in circle.args[1])
        told.append(f"rego_recursion_error: rules are recursive: {rules}")
    if told:
        raise RegoFailure("\n".join(dict.fromkeys(told[:10])))


def mend_order(plan: dict) -> None:
    """Have values of different types compared in the order that Rego has for them."""
    for function in plan["funcs"]["funcs"]:
        if function["name"].startswith(f"g0.data.{ORDER}."):
            continue
        for kind, statement in statements_of(function):
            if kind == "CallStmt" and statement["func"] in ORDERED:
                statement["func"] = f"g0.data.{ORDER}.{statement['func']}"
                surroundings = [{"type": "local", "value": number} for number in (0, 1)]
                statement["args"] = surroundings + statement["args"]


# --- Rego evaluation ----------------------------------------------------------
# The child: it compiles, answers, and is allowed little.


class CompiledPolicy:
    """Modules that regopy has compiled, ready to be asked."""

    def __init__(self, texts: Mapping[str, str], folder: Path):
        from regopy import Interpreter
        from regopy.rego_shared import LogLevel, RegoError

        modules = [RegoModule(path, text) for path, text in texts.items()]
        packages = dict.fromkeys(module.package for module in modules)
        asked = [(package, rule) for package in packages for rule in DECIDING]
        self.version = "v0" if any(module.is_old for module in modules) else "v1"
        self.interpreter, compiler = Interpreter(), Interpreter()
        compiler.log_level = self.interpreter.log_level = LogLevel.NONE
        try:
            for number, text in enumerate([*(module.modern for module in modules), ORDER_MODULE]):
                compiler.add_module(f"m{number}", text)
            entries = ["/".join((*package, rule)) for package, rule in asked]
            bundle = compiler.build(None, [*entries, ORDER])
        except RegoError as error:
            raise RegoFailure(told_faults(str(error), modules)) from None
        if not bundle.ok():
            raise RegoFailure(told_node(bundle.node()))
        compiler.save_bundle(str(folder), bundle)
        file = folder / "plan.json"
        plan = json.loads(file.read_bytes())
        check_plan(plan, modules)
        mend_order(plan)
        file.write_text(json.dumps(plan))
        self.bundle = self.interpreter.load_bundle(str(folder))
        there = [tuple(one["path"][1:]) for one in plan["funcs"]["funcs"]]
        self.rules = [
            (package, rule)
            for package, rule in asked
            if any(path[: len(package) + 1] == (*package, rule) for path in there)
        ]

    def ask(self, text: str) -> list[dict]:
        """What every deciding rule makes of an input, as JSON text: nothing where undefined."""
        answers = []
        self.interpreter.set_input_term(text)
        for package, rule in self.rules:
            answer = {"package": ".".join(package), "rule": rule}
            try:
                entry = "/".join((*package, rule))
                output = self.interpreter.query_bundle_entrypoint(self.bundle, entry)
            except json.JSONDecodeError as error:
                raise RegoFailure(told_faults(error.doc, ())) from None
            if not output.ok():
                raise RegoFailure(told_node(output.node()))
            # One term in one result; none where the rule is undefined.
            terms = [term for result in output.results for term in result.expressions]
            answers.append({**answer, "value": terms[0]} if terms else answer)
        return answers


def told_node(node: Any) -> str:
    """What a tree of errors says, from its first message."""
    from regopy import rego_shared as rego

    waiting = [node._impl]
    while waiting:
        one = waiting.pop(0)
        if rego.rego_node_type(one) == rego.NodeKind.ErrorMessage:
            return rego.rego_node_value(one)
        waiting += [rego.rego_node_get(one, number) for number in range(rego.rego_node_size(one))]
    return "the engine reports an error that it does not name"


def serve_rego(folder: str, megabytes: str) -> None:
    """Be the child: answer requests, a line of JSON each, until the parent is gone."""
    import queue
    import tempfile

    import regopy.interpreter  # noqa: F401

    if hasattr(os, "sched_getaffinity"):
        # Begun by a thread that shares one processor with others, it need not stay there.
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, os.sched_getaffinity(os.getppid()))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # What a policy prints goes where nobody listens.
    os.dup2(2, 1)
    requests: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=listen_to_parent, args=(requests, folder), daemon=True).start()
    limit_memory(int(megabytes))
    policies: dict[str, CompiledPolicy] = {}
    told: dict[str, Any] = {"ready": True}
    while True:
        answers.write(json.dumps(told) + "\n")
        answers.flush()
        request = json.loads(requests.get())
        key = request["policy"]
        try:
            if "modules" in request:
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    policies[key] = CompiledPolicy(request["modules"], Path(place))
                while len(policies) > POLICIES_KEPT:
                    del policies[next(iter(policies))]
                told = {"version": policies[key].version}
            elif key not in policies:
                told = {"unknown": key}
            else:
                told = {"answers": policies[key].ask(request["input"])}
        except RegoFailure as failure:
            told = {"failure": str(failure)}


def listen_to_parent(requests: Any, folder: str) -> None:
    """Pass requests on, and end the child with its parent, whatever it is busy with."""
    import shutil

    for line in sys.stdin.buffer:
        requests.put(line)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def limit_memory(megabytes: int) -> None:
    """Let this process take so much more memory than it has now, and leave no core behind."""
    if sys.platform != "linux":
        return
    import resource

    # rego-cpp has set aside hundreds of gigabytes of addresses by now, which are not memory.
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


# --- Rego engine --------------------------------------------------------------


class RegoProcess:
    """A child that compiles and evaluates; it ends with this object, or with the interpreter."""

    #: Seconds that it may take to begin, and bytes that an answer may have.
    START, ANSWER = 30.0, 1_000_000
    #: Without which some do not begin.
    ENVIRONMENT = ("LD_LIBRARY_PATH", "SYSTEMROOT")

    def __init__(self, megabytes: int):
        import subprocess
        import tempfile
        import weakref

        folder = tempfile.TemporaryDirectory(prefix="novantra-lite-rego-")
        own = Path(__file__)
        program = (
            "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); "
            f"from {own.stem} import serve_rego; serve_rego(*sys.argv[1:])"
        )
        places = json.dumps([str(own.parent), *sys.path])
        # A policy can read the environment, and keys are in it.
        kept = {name: os.environ[name] for name in self.ENVIRONMENT if name in os.environ}
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", program, folder.name, str(megabytes), places],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder.name,
            env=kept,
            start_new_session=True,
        )
        self.end = weakref.finalize(self, end_process, self.process, folder)
        try:
            self.exchange(b"", self.START)
        except RegoFailure:
            self.end()
            raise

    def exchange(self, line: bytes, seconds: float) -> dict:
        """Send a request and take the answer; the child is ended if that takes too long."""
        late = threading.Event()

        def give_up():
            late.set()
            self.process.kill()

        timer = threading.Timer(seconds, give_up)
        timer.daemon = True
        timer.start()
        told = b""
        try:
            # A child that is gone by now answers nothing, which is told below.
            with contextlib.suppress(OSError):
                self.process.stdin.write(line)
                self.process.stdin.flush()
                told = self.process.stdout.readline(self.ANSWER)
        finally:
            timer.cancel()
            timer.join()
        if late.is_set():
            raise RegoFailure(f"it took longer than {seconds:g} s")
        if not told:
            raise RegoFailure("the engine crashed or ran out of memory")
        if not told.endswith(b"\n"):
            raise RegoFailure("the answer is too large")
        return json.loads(told)


def end_process(process: Any, folder: Any) -> None:
    """End a child and take its folder away."""
    process.kill()
    process.wait()
    with contextlib.suppress(OSError):
        process.stdin.close()
    process.stdout.close()
    folder.cleanup()


class RegoEngine:
    """Rego for an install: one child, begun when it is needed and anew after any failure.

    Calls take turns; each has the time of the setting `rego_deadline` from when its turn comes.
    """

    def __init__(self, settings: Settings):
        self.deadline, self.memory = settings.rego_deadline, settings.rego_memory
        self._turn = threading.Lock()
        self._child: RegoProcess | None = None

    @property
    def pid(self) -> int | None:
        """The number of the child's process, if there is one."""
        return self._child.process.pid if self._child else None

    def compile(self, modules: Mapping[str, str]) -> str:
        """Compile modules, by their paths; the version of Rego that they are written in."""
        with away(), self._turn:
            return self.load(modules)["version"]

    def ask(self, modules: Mapping[str, str], text: str) -> list[dict]:
        """What every deciding rule of modules makes of an input, as JSON text."""
        request = {"policy": policy_key(modules), "input": text}
        with away(), self._turn:
            told = self.exchange(request)
            if "unknown" in told:
                self.load(modules)
                told = self.exchange(request)
            return told["answers"]

    def load(self, modules: Mapping[str, str]) -> dict:
        """Have the child compile modules and keep them."""
        return self.exchange({"policy": policy_key(modules), "modules": modules})

    def exchange(self, request: dict) -> dict:
        """Send a request to a child that lives, and take its answer or its failure."""
        from importlib.util import find_spec

        if self._child is None or self._child.process.poll() is not None:
            self.end_child()
            if find_spec("regopy") is None:
                raise RegoMissing("Rego needs an extra: pip install 'novantra-lite[rego]'")
            self._child = RegoProcess(self.memory)
        try:
            told = self._child.exchange(json.dumps(request).encode() + b"\n", self.deadline)
        except RegoFailure:
            self.end_child()
            raise
        if "failure" in told:
            raise RegoFailure(told["failure"])
        return told

    def end_child(self) -> None:
        """End the child, if there is one."""
        if self._child:
            self._child.end()
            self._child = None

    def close(self) -> None:
        """End the child once nobody is using it."""
        with self._turn:
            self.end_child()


def policy_key(modules: Mapping[str, str]) -> str:
    """What modules are known by: the SHA-256 of their paths and texts."""
    return hashlib.sha256(to_json(modules).encode()).hexdigest()


# --- Policy archives ----------------------------------------------------------
# Modules may come in a zip or tar.gz. Nothing is written where an archive says; what is read of it
# is bounded while it is read.

#: Characters that the modules of a bundle may have together, and entries of an archive.
ARCHIVE_SIZE, ARCHIVE_ENTRIES = 1_000_000, 1000
#: What a module is called that came without a name.
MODULE = "policy.rego"


def refused_file(why: str) -> Invalid:
    """The refusal of an upload for what its file is."""
    return Invalid(issues=[issue(["file"], why)])


def unpack(upload: Upload) -> dict[str, str]:
    """The modules in an upload, by their paths: of a zip, of a tar.gz, or the one that it is."""
    import tarfile
    import zlib
    from zipfile import BadZipFile

    start = next(upload.pieces(), b"")[:4]
    upload.content.seek(0)
    archive = Archive()
    try:
        if start.startswith(b"PK"):
            archive.take_zip(upload.content)
        elif start.startswith(b"\x1f\x8b"):
            archive.take_tar(upload.content)
        else:
            name = upload.file_name if upload.file_name.endswith(".rego") else MODULE
            archive.take(name, upload.content)
    except (BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, ValueError):
        raise refused_file("Expected a Rego module, or a sound zip or tar.gz of some") from None
    if not archive.modules:
        raise refused_file("Expected at least one .rego file in the archive")
    return archive.modules


class Archive:
    """What has been taken out of an archive so far."""

    def __init__(self) -> None:
        self.modules: dict[str, str] = {}
        self.entries, self.left = 0, ARCHIVE_SIZE

    def take_zip(self, content: IO[bytes]) -> None:
        """Take the modules out of a zip."""
        import stat
        import zipfile

        with zipfile.ZipFile(content) as file:
            for entry in file.infolist():
                kind = stat.S_IFMT(entry.external_attr >> 16)
                path = self.enter(entry.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR))
                plain = entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
                if not plain or entry.flag_bits & 1:
                    raise refused_file(f"{path} is encrypted, or packed in a rare way")
                if not entry.is_dir() and is_module(path):
                    with file.open(entry) as stream:
                        self.take(path, stream)

    def take_tar(self, content: IO[bytes]) -> None:
        """Take the modules out of a tar.gz."""
        import gzip
        import tarfile

        # Headers and what is no module count as well, since all of it has to be unpacked.
        unpacked = Metered(gzip.GzipFile(fileobj=content, mode="rb"), 4 * ARCHIVE_SIZE)
        try:
            with tarfile.open(fileobj=unpacked, mode="r|") as file:
                for entry in file:
                    path = self.enter(entry.name, entry.isreg() or entry.isdir())
                    if entry.isreg() and is_module(path):
                        self.take(path, file.extractfile(entry))
        except TooLarge:
            raise refused_file(f"Expected at most {4 * ARCHIVE_SIZE} bytes when unpacked") from None

    def enter(self, name: str, is_plain: bool) -> str:
        """Look at an entry before it is read; its path, without what does not matter."""
        self.entries += 1
        if self.entries > ARCHIVE_ENTRIES:
            raise refused_file(f"Expected at most {ARCHIVE_ENTRIES} entries")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if (
            name.startswith("/")
            or ".." in parts
            or re.search(UNSEEN, name)
            or re.search(r"[\\:]", name)
        ):
            raise refused_file("Expected only paths that stay inside the archive")
        if not is_plain:
            raise refused_file("Expected only files and directories, no links or devices")
        path = "/".join(parts)
        if path in self.modules:
            raise refused_file(f"Expected {path} only once")
        return path

    def take(self, path: str, stream: IO[bytes]) -> None:
        """Read a module."""
        data = stream.read(self.left + 1)
        self.left -= len(data)
        if self.left < 0:
            raise refused_file(f"Expected modules of at most {ARCHIVE_SIZE} bytes together")
        try:
            text = data.decode().removeprefix("\ufeff")
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            raise refused_file(f"Expected text in UTF-8 without NUL in {path}")
        self.modules[path] = text


def is_module(path: str) -> bool:
    """Whether a file is a module by its name; those that a dot hides are none."""
    return path.endswith(".rego") and not path.rpartition("/")[2].startswith(".")


def text_of(modules: Mapping[str, str]) -> str:
    """All modules as one text: several each under a comment with its path."""
    if len(modules) == 1:
        return next(iter(modules.values()))
    return "\n".join(f"# {path}\n{text}" for path, text in modules.items())


# --- Policy bundles -----------------------------------------------------------


class PolicyBundle(Model):
    """Rego modules that were uploaded together; the one that is ACTIVE decides."""

    fact, made, touched, since = "policy_bundle", "uploaded", True, 3
    schema_name = "BundleResponse"

    id = Uuid()
    name = Name()
    version = Text(50)
    rego_content = Text(ARCHIVE_SIZE)
    status = Choice("INACTIVE ACTIVE", default="INACTIVE", index=True)
    org_slug = Text(255, null=True)
    created_at = Timestamp(6, default=now_exactly)
    updated_at = Timestamp(6, default=now_exactly)
    #: The texts of the modules by their paths, as JSON.
    modules = Text(hidden=True)
    #: The version of Rego that compiled: v1, or v0 where a module has bodies without `if`.
    syntax = Text(hidden=True)

    @classmethod
    def active(cls) -> PolicyBundle | None:
        """The bundle that decides, if there is one."""
        return cls.seek(status="ACTIVE")

    def activate(self) -> None:
        """Make this the one that decides."""
        others = PolicyBundle.status == "ACTIVE", PolicyBundle.id != self.id
        for other in list(PolicyBundle.select().where(*others)):
            other.change(status="INACTIVE")
        self.change(status="ACTIVE")


class PolicyBundles(
    Resource,
    surface=FACTSTORE,
    path="/api/v1/opa/bundles",
    model=PolicyBundle,
    scope="factstore",
    tag="OPA",
    item="bundleId",
    schema_name="BundleResponse",
    verbs="list create retrieve",
    options={
        "list": {"id": "listPolicyBundles"},
        "create": {
            "id": "uploadPolicyBundle",
            "media": {"application/json": read_json, UPLOAD_MEDIA: None},
            "form": Schema(
                PolicyBundle.name,
                PolicyBundle.org_slug,
                file=File(),
                version=Text(50, default="1.0.0"),
                name="UploadBundleMultipart",
            ),
            "before": "compile",
        },
        "retrieve": {"id": "getPolicyBundle"},
    },
):
    """Rego policies, of which one decides."""

    creates = Schema(
        PolicyBundle.name,
        PolicyBundle.version,
        PolicyBundle.rego_content,
        PolicyBundle.org_slug,
        name="UploadBundleRequest",
    )

    def compile(self, context):
        """Take the modules out of what came in, and compile them while no transaction is open."""
        upload = context.upload
        modules = unpack(upload) if upload else {MODULE: context.body["rego_content"]}
        try:
            return modules, context.lite.rego.compile(modules)
        except RegoMissing as missing:
            raise Unavailable(f"{missing}.") from None
        except RegoFailure as failure:
            raise Unprocessable(f"The policy does not compile: {failure}") from None

    def create(self, context):
        """Store a policy bundle, which decides nothing yet."""
        modules, syntax = context.prepared
        check_organisation(context.body.get("org_slug"))
        return PolicyBundle.create(
            name=context.body["name"],
            version=context.body.get("version", "1.0.0"),
            org_slug=context.body.get("org_slug"),
            rego_content=text_of(modules),
            modules=to_json(modules),
            syntax=syntax,
        )

    @route(
        "PUT /api/v1/opa/bundles/{bundleId}/activate",
        id="activatePolicyBundle",
        answer=FACTSTORE.one_schema("BundleResponse"),
    )
    def activate(self, context, key):
        """Make a policy bundle the one that decides."""
        bundle = self.find(key)
        bundle.activate()
        return bundle


# --- Policy decisions ---------------------------------------------------------


class PolicyDecision(Model):
    """What a policy bundle made of an input; inputJson is what it was given, letter by letter."""

    fact, made, append_only, since = "policy_decision", "made", True, 3
    schema_name = "PolicyDecisionResponse"

    id = Uuid()
    bundle = Owner(PolicyBundle, null=True)
    input_json = Text(2**31)
    result_allow = Boolean()
    deny_reasons = Json(ListOf(Text(2**31), 2**31))
    org_slug = Text(255, null=True)
    evaluated_at = Timestamp(6, default=now_exactly)


#: Said where a policy denies and gives no reason of its own.
DENIED = "The policy denies this."


def objections_in(answers: Sequence[dict]) -> list[str]:
    """Why the answers of the deciding rules come to a denial; nothing where they allow.

    Whatever denies wins. Every rule named `allow` must be true, and there must be one: where none
    is defined, nothing is allowed (decision 26 of the contract).
    """
    denying = [answer for answer in answers if answer["rule"] != "allow"]
    reasons = [reason for answer in denying for reason in reasons_of(answer.get("value"))]
    allowing = [answer for answer in answers if answer["rule"] == "allow"]
    if not reasons and not answers:
        reasons = ["The policy has no rule named allow, deny or violation."]
    allows = allowing and all(answer.get("value") is True for answer in allowing)
    if not reasons and not allows:
        reasons = ["The policy does not allow this."]
    return list(dict.fromkeys(reasons))


def reasons_of(value: Any) -> list[str]:
    """The reasons in the value of a rule that denies: of each element of a set or an array."""
    match value:
        case None | False:
            return []
        case list():
            return list(map(reason_of, value))
        case dict() if "msg" not in value:
            # A rule that builds an object: its keys are the reasons.
            return [reason_of(key) for key, holds in value.items() if holds is not False]
    return [reason_of(value)]


def reason_of(element: Any) -> str:
    """One reason: a text, the `msg` of an object, or whatever it is as JSON."""
    match element:
        case {"msg": str(text)} | str(text):
            return text or DENIED
        case True:
            return DENIED
    return to_json(element)


def scans_of(trail: str) -> list[dict]:
    """The security scans of a trail, for policies to see."""
    for model in all_models():
        if model._meta.table_name == "security_scan":
            column = model._meta.columns["trail_id"]
            scans = Array(model, {"trail": lambda key, column=column: column == key})
            return json.loads(b"[%b]" % scans.slice({"trail": trail}).text)
    return []


class MaybeText(Text):
    """A text inside a list or object that may be null."""

    def __init__(self, at_most: int):
        super().__init__(at_most, null=True)

    def read(self, value):
        return None if value is None else super().read(value)

    def describe(self):
        return super().describe() | {"type": ["string", "null"]}


def document_of(body: Mapping[str, Any]) -> dict:
    """What a policy is given as its input: the five members, then the records that ids name."""
    document = {
        "artifactName": body["artifact_name"],
        "artifactVersion": body.get("artifact_version"),
        "environment": body.get("environment"),
        "attestations": body.get("attestations") or [],
        "approvalStatus": body.get("approval_status"),
    }
    trail, artifact = body.get("trail_id"), None
    if trail:
        document["trail"] = Trail.fetch(trail).json()
    if body.get("artifact_id") or body.get("artifact_digest"):
        artifact = artifact_named(body)
        document["artifact"] = artifact.json()
    if trail or artifact:
        document["scans"] = scans_of(trail or artifact.trail_id)
    return document


def artifact_named(body: Mapping[str, Any]) -> Artifact:
    """The artifact that a body names, as it was first reported, or NotFound."""
    asked = {
        "id": body.get("artifact_id"),
        "sha256_digest": body.get("artifact_digest"),
        "trail": body.get("trail_id"),
    }
    artifact = Artifact.seek(**{name: value for name, value in asked.items() if value})
    if artifact is None:
        key = body.get("artifact_id") or body.get("artifact_digest")
        raise NotFound(f"There is no artifact {key} here.")
    return artifact


class PolicyDecisions(
    Resource,
    surface=FACTSTORE,
    path="/api/v1/opa/decisions",
    model=PolicyDecision,
    scope="factstore",
    tag="OPA",
    item="decisionId",
    schema_name="PolicyDecisionResponse",
    verbs="list retrieve",
):
    """What policies decided."""

    @route(
        "POST /api/v1/opa/evaluate",
        id="evaluatePolicy",
        body=Schema(
            artifact_name=Text(255),
            artifact_version=Text(255, null=True),
            environment=Text(255, null=True),
            attestations=Json(ListOf(MapOf(MaybeText(10_000))), default=list),
            approval_status=Text(255, null=True),
            trail_id=MaybeId(null=True),
            artifact_id=MaybeId(null=True),
            artifact_digest=Text(255, null=True),
            name="EvaluatePolicyRequest",
        ),
        answer=FACTSTORE.one_schema("PolicyDecisionResponse"),
        before="ask",
    )
    def evaluate(self, context):
        """Let the active policy bundle judge an artifact, and keep the decision."""
        bundle, text, reasons = context.prepared
        decision = PolicyDecision.create(
            bundle=bundle.id,
            input_json=text,
            result_allow=not reasons,
            deny_reasons=reasons,
            org_slug=bundle.org_slug,
        )
        payload = {
            "decisionId": decision.id,
            "bundleId": bundle.id,
            "artifactName": context.body["artifact_name"],
            "resultAllow": decision.result_allow,
            "denyReasons": reasons,
        }
        document = json.loads(text)
        subject = {
            "trail_id": document.get("trail", {}).get("id"),
            "artifact_sha256": document.get("artifact", {}).get("sha256Digest"),
        }
        AuditEvent.record("POLICY_EVALUATED", context.principal.id, payload, **subject)
        return decision

    def ask(self, context):
        """Put the input together, and ask the active bundle while no transaction is open."""
        bundle = PolicyBundle.active()
        if bundle is None:
            raise NotFound("There is no active policy bundle; activate one first.")
        text = to_json(document_of(context.body))
        try:
            reasons = objections_in(context.lite.rego.ask(json.loads(bundle.modules), text))
        except RegoFailure as failure:
            reasons = [f"The policy could not be evaluated: {failure}."]
        return bundle, text, reasons


# --- Security scans -----------------------------------------------------------

#: SQL for the limits that the scan `t1` is over: those that were in force when it was recorded.
BREACHES = f"""FROM (SELECT l."key" AS severity, l."value" AS allowed, CASE l."key" {
    " ".join(f"WHEN '{name}' THEN t1.{COUNTED[name]}" for name in JUDGED)
} END AS found FROM json_each(t1."thresholds") AS l) WHERE found > allowed"""


#: SQL for how a scan counts: as failed with anything critical or high (section 4 of the notes on
#: operations).
SCAN_STATE = """CASE WHEN "critical_vulnerabilities" + "high_vulnerabilities" > 0
    THEN 'FAILED' ELSE 'PASSED' END"""


class SecurityScan(Tallied):
    """What a scanner found on a trail, by severity, and the thresholds that were in force then."""

    fact, made, append_only, since = "security_scan", "recorded", True, 3
    schema_name = "SecurityScanResponse"
    tallied = (
        ("'all'", SCAN_STATE, "1"),
        ("'all'", "'withCritical'", '"critical_vulnerabilities" > 0'),
        *(("'all'", f"'{name}'", f'"{COUNTED[name]}"') for name in JUDGED),
    )
    derived: ClassVar[dict] = {
        "thresholdBreached": Derived(
            Boolean(), f"CASE WHEN EXISTS (SELECT 1 {BREACHES}) THEN 'true' ELSE 'false' END"
        ),
        "breachDetails": Derived(
            Json(ListOf(Text(255))),
            f"""(SELECT json_group_array(upper(substr(severity, 1, 1)) || substr(severity, 2)
                || ' vulnerabilities: ' || found || ' found, at most ' || allowed || ' allowed')
                {BREACHES})""",
        ),
    }

    id = Uuid()
    trail = Owner(Trail, index=True)
    attestation = Owner(Attestation)
    tool = Name(100)
    tool_version = Text(50, null=True)
    scan_type = Choice("DAST SAST SCA CONTAINER", null=True)
    target = Text(500, null=True)
    critical_vulnerabilities = Integer(0, 2**31 - 1, default=0)
    high_vulnerabilities = Integer(0, 2**31 - 1, default=0)
    medium_vulnerabilities = Integer(0, 2**31 - 1, default=0)
    low_vulnerabilities = Integer(0, 2**31 - 1, default=0)
    informational = Integer(0, 2**31 - 1, default=0)
    scan_duration_seconds = Integer(0, null=True)
    report_url = Text(500, null=True)
    org_slug = Text(255, null=True, index=True)
    created_at = Timestamp(6, default=now_exactly)
    #: Limits by severity; none where the flow had none.
    thresholds = Json(MapOf(Integer()), default=dict, hidden=True)


def record_scan(trail: Trail, values: Mapping[str, Any]) -> SecurityScan:
    """Record a scan, held against the thresholds of now, and an attestation that says how it went.

    A breach makes the trail NON_COMPLIANT.
    """
    limits = limits_of(trail)
    values = dict.fromkeys(COUNTED.values(), 0) | values
    attestation = record_attestation(
        trail,
        None,
        type="SECURITY_SCAN",
        name=f"security-scan-{values['tool']}",
        status="FAILED" if is_breached(values, limits) else "PASSED",
        details=to_json(scan_details(values)),
        org_slug=values.get("org_slug"),
    )
    return SecurityScan.create(
        trail=trail.id, attestation=attestation.id, thresholds=limits, **values
    )


def keep_report(scan: SecurityScan, upload: Upload) -> None:
    """Keep the report that a scan was read from as evidence of its attestation."""
    attestation = scan.attestation
    attestation.change(**EvidenceFile.keep(attestation, upload).told())


TRAIL_SCANS = Array(SecurityScan, {"trail": lambda trail: SecurityScan.trail == trail})
SCAN_TOTALS = ("totalScans", *(f"total{name.capitalize()}" for name in JUDGED))


def scan_totals(counted: Counter[str]) -> dict[str, int]:
    """How many scans there are, and how much they found, out of their tally."""
    scans = counted["PASSED"] + counted["FAILED"]
    return dict(zip(SCAN_TOTALS, (scans, *(counted[name] for name in JUDGED)), strict=True))


class SecurityScans(
    Resource,
    surface=FACTSTORE,
    path="/api/v1/security-scans",
    model=SecurityScan,
    scope="factstore",
    tag="Security scans",
    item="scanId",
    verbs="retrieve",
):
    """What scanners found."""

    @route(
        "GET /api/v1/trails/{trailId}/security-scans",
        id="listSecurityScans",
        answer=FACTSTORE.array_schema("SecurityScanResponse"),
    )
    def of_trail(self, context, trail):
        """List the security scans of a trail."""
        Trail.fetch(trail)
        return FACTSTORE.array(context, TRAIL_SCANS, {"trail": trail})

    @route(
        "POST /api/v1/trails/{trailId}/security-scans",
        id="recordSecurityScan",
        body=Schema(
            SecurityScan.tool,
            SecurityScan.tool_version,
            SecurityScan.scan_type,
            SecurityScan.target,
            SecurityScan.critical_vulnerabilities,
            SecurityScan.high_vulnerabilities,
            SecurityScan.medium_vulnerabilities,
            SecurityScan.low_vulnerabilities,
            SecurityScan.informational,
            SecurityScan.scan_duration_seconds,
            SecurityScan.report_url,
            SecurityScan.org_slug,
            summary=Json(
                Shape(**{name: Integer(0, 2**31 - 1, default=0) for name in COUNTED}), null=True
            ),
            aliases={"version": "toolVersion"},
            name="RecordSecurityScanRequest",
        ),
        status=201,
        answer=FACTSTORE.one_schema("SecurityScanResponse"),
    )
    def create(self, context, trail):
        """Record what a scanner found, by severity; the flow's thresholds say how that ends."""
        values, summary = context.body, context.body.pop("summary", None)
        if summary and not values.keys() & COUNTED.values():
            values |= {column: summary[name] for name, column in COUNTED.items()}
        return record_scan(Trail.fetch(trail), values)

    @route(
        "GET /api/v1/security-scans/summary",
        id="getSecurityScanSummary",
        answer=closed_schema(**dict.fromkeys(SCAN_TOTALS, WHOLE), scansWithCritical=WHOLE),
    )
    def summarise(self, context):
        """Add up all security scans."""
        counted = Tally.of(SecurityScan)
        return scan_totals(counted) | {"scansWithCritical": counted["withCritical"]}


# --- Regulatory frameworks ----------------------------------------------------
# What regulators ask of deliveries: controls, and the evidence that each of them wants to see.


#: The frameworks that every workspace knows (section 3 of the governance notes): name, version and
#: description, then the id, title and evidence types of each control.
KNOWN_FRAMEWORKS = (
    (
        ("PCI-DSS v4.0", "4.0", "Payment Card Industry Data Security Standard"),
        ("PCI-6.3.3", "Security patches are installed", "SECURITY_SCAN PATCH_ATTESTATION"),
        ("PCI-6.4.1", "Public web applications are protected", "DAST_SCAN SECURITY_SCAN"),
        ("PCI-11.3.1", "Internal vulnerability scans are run", "SECURITY_SCAN"),
        ("PCI-12.3.4", "Technologies in use are reviewed", "SECURITY_SCAN BUILD_ATTESTATION"),
    ),
    (
        ("SOX", "2002", "Sarbanes-Oxley Act: general controls of information technology"),
        ("SOX-ITGC-1", "Change management", "CHANGE_APPROVAL DEPLOYMENT_ATTESTATION"),
        ("SOX-ITGC-2", "Access and separation of duties", "ACCESS_REVIEW APPROVAL"),
        ("SOX-ITGC-3", "Software development life cycle", "CODE_REVIEW BUILD_ATTESTATION"),
        ("SOX-ITGC-4", "Audit logging", "AUDIT_LOG_ATTESTATION"),
    ),
    (
        ("GDPR", "2018", "General Data Protection Regulation (EU) 2016/679"),
        ("GDPR-25", "Data protection by design and by default", "PRIVACY_REVIEW SECURITY_SCAN"),
        ("GDPR-32", "Security of processing", "SECURITY_SCAN ENCRYPTION_ATTESTATION"),
        ("GDPR-35", "Data protection impact assessment", "DPIA_ATTESTATION"),
        ("GDPR-33", "Notification of a breach", "INCIDENT_RESPONSE_ATTESTATION"),
    ),
)
#: When the records were laid down that every workspace knows.
SEEDED_AT = "2026-01-01T00:00:00.000000Z"


def seed_id(framework: int, control: int = 0) -> str:
    """The id of a framework that every workspace knows (from 1 on), or of one of its controls."""
    return f"5eed{framework:04}-0000-4000-8000-{control:012}"


class RegulatoryFramework(Model):
    """A body of rules that trails are assessed against."""

    fact, since, schema_name = "regulatory_framework", 3, "FrameworkResponse"
    derived: ClassVar[dict] = {
        "controls": Derived(
            Records("ControlResponse"),
            """'[' || ifnull((SELECT group_concat("json") FROM (SELECT "json"
                FROM "regulatory_control" WHERE "framework_id" = t1."id"
                ORDER BY "rowid")), '') || ']'""",
        )
    }
    seeds: ClassVar[list] = [
        {
            "id": seed_id(number),
            "name": name,
            "version": version,
            "description": description,
            "is_active": True,
            "org_slug": None,
            "created_at": SEEDED_AT,
        }
        for number, ((name, version, description), *_) in enumerate(KNOWN_FRAMEWORKS, 1)
    ]

    id = Uuid()
    name = Text(255)
    version = Text(50)
    description = Text(10_000, null=True)
    is_active = Boolean(default=True)
    org_slug = Text(255, null=True)
    created_at = Timestamp(6, default=now_exactly)

    @classmethod
    def create(cls, **values):
        check_organisation(values.get("org_slug"))
        return super().create(**values)


class RegulatoryControl(Model):
    """One rule of a framework, and the types of attestations that show that it is kept."""

    fact, made, since, schema_name = "regulatory_control", "added", 3, "ControlResponse"
    seeds: ClassVar[list] = [
        {
            "id": seed_id(number, place),
            "framework": seed_id(number),
            "control_id": name,
            "title": title,
            "description": None,
            "required_evidence_types": types.split(),
            "created_at": SEEDED_AT,
        }
        for number, (_, *controls) in enumerate(KNOWN_FRAMEWORKS, 1)
        for place, (name, title, types) in enumerate(controls, 1)
    ]

    id = Uuid()
    framework = Owner(RegulatoryFramework, index=True)
    control_id = Text(100)
    title = Text(500)
    description = Text(10_000, null=True)
    required_evidence_types = Json(ListOf(Text(255)), default=list)
    created_at = Timestamp(6, default=now_exactly)


class ControlMapping(Model):
    """What ties a control to the attestations of a flow, and says whether it must be kept.

    The flow need not be there, and a mapping outlives it.
    """

    fact, since, schema_name = "control_mapping", 3, "MappingResponse"

    id = Uuid()
    regulatory_control = Owner(RegulatoryControl, index=True)
    flow_id = Id()
    attestation_type = Text(100)
    is_mandatory = Boolean(default=True)
    created_at = Timestamp(6, default=now_exactly)

    @classmethod
    def create(cls, **values):
        RegulatoryControl.fetch(values["regulatory_control"])
        return super().create(**values)


class RegulatoryFrameworks(
    Resource,
    surface=FACTSTORE,
    path="/api/v1/frameworks",
    model=RegulatoryFramework,
    scope="factstore",
    tag="Frameworks",
    item="frameworkId",
    verbs="list create retrieve",
    options={
        "create": {"id": "createRegulatoryFramework"},
        "retrieve": {"id": "getRegulatoryFramework"},
    },
):
    """What trails are assessed against."""

    creates = Schema(
        RegulatoryFramework.name,
        RegulatoryFramework.version,
        RegulatoryFramework.description,
        RegulatoryFramework.org_slug,
        name="CreateFrameworkRequest",
    )


class RegulatoryControls(
    Resource, surface=FACTSTORE, model=RegulatoryControl, scope="factstore", tag="Frameworks"
):
    """The rules of frameworks."""

    @route(
        "POST /api/v1/frameworks/{frameworkId}/controls",
        id="addRegulatoryControl",
        body=Schema(
            RegulatoryControl.control_id,
            RegulatoryControl.title,
            RegulatoryControl.description,
            RegulatoryControl.required_evidence_types,
            name="CreateControlRequest",
        ),
        status=201,
        answer=FACTSTORE.one_schema("ControlResponse"),
    )
    def add(self, context, framework):
        """Add a control to the end of a framework."""
        owner = RegulatoryFramework.fetch(framework)
        return RegulatoryControl.create(framework=owner.id, **context.body)


class ControlMappings(
    Resource,
    surface=FACTSTORE,
    path="/api/v1/compliance/mappings",
    model=ControlMapping,
    scope="factstore",
    tag="Compliance",
    item="mappingId",
    verbs="list create",
    options={"create": {"id": "createControlMapping"}},
):
    """What ties controls to flows."""

    creates = Schema(
        ControlMapping.regulatory_control,
        ControlMapping.flow_id,
        ControlMapping.attestation_type,
        ControlMapping.is_mandatory,
        name="CreateMappingRequest",
    )


# --- Compliance assessments ---------------------------------------------------

CONTROL_STATUSES = "SATISFIED PARTIAL NOT_SATISFIED"
EVIDENCE_TYPES = Json(ListOf(Text(255)))


class ComplianceAssessment(Model):
    """How a trail stood against a framework when it was assessed; it never changes.

    It outlives the trail.
    """

    fact, made, append_only, since = "compliance_assessment", "recorded", True, 3
    schema_name = "AssessmentResponse"

    id = Uuid()
    framework = Owner(RegulatoryFramework, index=True)
    trail_id = Id()
    overall_status = Choice("COMPLIANT PARTIAL NON_COMPLIANT")
    control_results = Json(
        ListOf(
            Shape(
                control_id=Text(100),
                title=Text(500),
                status=Choice(CONTROL_STATUSES),
                satisfied_by=EVIDENCE_TYPES,
                missing_evidence=EVIDENCE_TYPES,
            ),
            at_most=100_000,
        )
    )
    org_slug = Text(255, null=True)
    assessed_at = Timestamp(6, default=now_exactly)


def passed_types(trail_id: str) -> set[str]:
    """The types of the attestations of a trail that have passed."""
    passed = Attestation.select(Attestation.type).where(
        Attestation.trail == trail_id, Attestation.status == "PASSED"
    )
    return {one for (one,) in passed.distinct().tuples()}


def assess_control(control: RegulatoryControl, passed: set[str]) -> dict:
    """What of the evidence that a control asks for is among these types."""
    asked = control.required_evidence_types
    found = [one for one in asked if one in passed]
    missing = [one for one in asked if one not in passed]
    status = "SATISFIED" if not missing else "PARTIAL" if found else "NOT_SATISFIED"
    return {
        "controlId": control.control_id,
        "title": control.title,
        "status": status,
        "satisfiedBy": found,
        "missingEvidence": missing,
    }


def mandatory_controls(framework_id: str) -> set[str]:
    """The names of the controls of a framework that count: unmapped, or mandatory for some flow.

    Controls of one name count together.
    """
    strictest = peewee.fn.max(ControlMapping.is_mandatory)
    mapped = (
        RegulatoryControl.select(RegulatoryControl.control_id)
        .left_outer_join(ControlMapping)
        .where(RegulatoryControl.framework == framework_id)
        .group_by(RegulatoryControl.id)
        .having(peewee.fn.ifnull(strictest, 1) == 1)
    )
    return {name for (name,) in mapped.tuples()}


def overall_status(statuses: set[str]) -> str:
    """What follows from the statuses of the mandatory controls."""
    if statuses <= {"SATISFIED"}:
        return "COMPLIANT"
    return "NON_COMPLIANT" if statuses == {"NOT_SATISFIED"} else "PARTIAL"


def assess_trail(framework_id: str, trail_id: str, slug: str | None) -> ComplianceAssessment:
    """Score a trail against a framework, and keep the result."""
    framework, trail = RegulatoryFramework.fetch(framework_id), Trail.fetch(trail_id)
    check_organisation(slug)
    controls = RegulatoryControl.select().where(RegulatoryControl.framework == framework.id)
    passed, mandatory = passed_types(trail.id), mandatory_controls(framework.id)
    results = [
        assess_control(control, passed) for control in controls.order_by(peewee.SQL('"t1"."rowid"'))
    ]
    counted = {result["status"] for result in results if result["controlId"] in mandatory}
    return ComplianceAssessment.create(
        framework=framework.id,
        trail_id=trail.id,
        overall_status=overall_status(counted),
        control_results=results,
        org_slug=slug,
    )


class ComplianceAssessments(
    Resource,
    surface=FACTSTORE,
    path="/api/v1/compliance/assessments",
    model=ComplianceAssessment,
    scope="factstore",
    tag="Compliance",
    item="assessmentId",
    verbs="list retrieve",
    options={"retrieve": {"id": "getComplianceAssessment"}},
):
    """How trails stood against frameworks."""

    @route(
        "POST /api/v1/compliance/assess",
        id="assessTrail",
        body=Schema(
            ComplianceAssessment.framework,
            ComplianceAssessment.trail_id,
            ComplianceAssessment.org_slug,
            name="AssessTrailRequest",
        ),
        status=201,
        answer=FACTSTORE.one_schema("AssessmentResponse"),
    )
    def assess(self, context):
        """Score a trail against a framework, and keep the result."""
        given = context.body
        return assess_trail(given["framework"], given["trail_id"], given.get("org_slug"))


#: In the order of the attestations that they belong to.
CUSTODY_EVIDENCE = f"""SELECT CAST(group_concat(text) AS BLOB) FROM (
    SELECT {EvidenceFile.statements().text.sql} AS text FROM "evidence_file" AS t1
    WHERE "attestation_id" IN (SELECT "id" FROM "attestation" WHERE "trail_id" = ?)
    ORDER BY (SELECT a."rowid" FROM "attestation" AS a WHERE a."id" = t1."attestation_id"),
        t1."rowid")"""
CUSTODY = {
    "sha256Digest": {"type": "string"},
    "artifact": FACTSTORE.one_schema("ArtifactResponse"),
    "trail": FACTSTORE.one_schema("TrailResponse"),
    "flow": FACTSTORE.one_schema("FlowResponse"),
    "attestations": FACTSTORE.array_schema("AttestationResponse"),
    "evidenceFiles": FACTSTORE.array_schema("EvidenceFileResponse"),
    "complianceStatus": {"type": "string", "enum": ["COMPLIANT", "NON_COMPLIANT"]},
}


def join_members(told: Mapping[str, bytes]) -> bytes:
    """A JSON object out of its members, each of which is JSON text already."""
    return b"{%b}" % b",".join(b'"%b":%b' % (name.encode(), one) for name, one in told.items())


class ChainOfCustody(Resource, surface=FACTSTORE, scope="factstore", tag="Compliance"):
    """All that is known of where an artifact comes from."""

    @route(
        "GET /api/v1/compliance/artifact/{sha256}",
        id="getChainOfCustody",
        answer={"type": "object", "required": [*CUSTODY], "properties": CUSTODY},
    )
    def trace(self, context, digest):
        """Get the first artifact with a digest, its trail and flow, attestations and evidence."""
        workspace, artifact = context.workspace, first_artifact(digest)
        trail = Trail.fetch(artifact.trail_id)
        flow = Flow.fetch(trail.flow_id)
        required = set(flow.required_attestation_types)
        complies = required <= passed_types(trail.id)
        attestations = TRAIL_ATTESTATIONS.slice({"trail": trail.id}).text
        files = workspace.fetch_row(CUSTODY_EVIDENCE, (trail.id,))[0] or b""
        told = {
            "sha256Digest": to_json(artifact.sha256_digest).encode(),
            "artifact": workspace.json_of(Artifact, artifact.id),
            "trail": workspace.json_of(Trail, trail.id),
            "flow": workspace.json_of(Flow, flow.id),
            "attestations": b"[%b]" % attestations,
            "evidenceFiles": b"[%b]" % files,
            "complianceStatus": b'"COMPLIANT"' if complies else b'"NON_COMPLIANT"',
        }
        return join_members(told)


# --- Regulatory reports -------------------------------------------------------
# The report as JSON for machines, and as a page that a browser shows and prints by itself.

REPORT_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1c2027; --muted: #565e6b; --line: #dfe3e8;
  --panel: #f5f6f8; --full: #1f6b3a; --half: #e0a83c; --none: #ad1f2d }
@media screen and (prefers-color-scheme: dark) { :root { --page: #14161a; --text: #e3e6eb;
  --muted: #a3abb8; --line: #30353e; --panel: #1d2026; --full: #7fcf9a; --half: #b5791f;
  --none: #ff9a9f } }
* { box-sizing: border-box; print-color-adjust: exact; -webkit-print-color-adjust: exact }
body { margin: 0 auto; padding: 2rem 1.25rem; max-width: 68rem; background: var(--page);
  color: var(--text); overflow-wrap: anywhere;
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif }
h1 { margin: 0; font-size: 1.75rem } h2 { margin: 2.5rem 0 .75rem; font-size: 1.25rem }
p { margin: .4rem 0; max-width: 44rem } .muted, dt, thead { color: var(--muted); font-weight: 400 }
dl { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin: 1rem 0 } dd { margin: 0 }
code { font: .875em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace }
figure { margin: 1rem 0 } figcaption { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem }
.bar { display: block; width: 100%; height: .875rem }
figure .bar { height: 2rem; margin-bottom: .4rem }
.key { width: .75rem; height: .75rem; margin-right: .4rem } .rest { fill: var(--panel) }
.full { fill: var(--full) } .half { fill: var(--half) }
.none { fill: var(--page); stroke: var(--none); stroke-width: 2; vector-effect: non-scaling-stroke }
.scroll { overflow-x: auto } @media screen { table { min-width: 40rem } } table {
  width: 100%; border-collapse: collapse; font-size: .875rem }
th, td { padding: .4rem 0 .4rem 1rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top } th { font-weight: 600 } .number { text-align: right } .share { width: 30% }
tr > :first-child { padding-left: 0 } thead { overflow-wrap: normal }
.good { color: var(--full) } .bad { color: var(--none) } td ul { margin: 0; padding: 0 0 0 1rem }
@page { margin: 16mm } @media print { html { font-size: 9.5pt } .scroll { overflow: visible }
  body { padding: 0; max-width: none } tr, figure, dl { break-inside: avoid }
  h2, h2 + p { break-after: avoid } }
"""
STYLE_HASH = base64.b64encode(hashlib.sha256(REPORT_STYLE.encode()).digest()).decode()
REPORT_CSP = (
    f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
#: What the page calls each status of a control, and the class that draws it.
SHOWN = {
    "SATISFIED": ("satisfied", "full"),
    "PARTIAL": ("partly satisfied", "half"),
    "NOT_SATISFIED": ("not satisfied", "none"),
}
VERDICTS = {"COMPLIANT": "good", "PARTIAL": "", "NON_COMPLIANT": "bad"}


def draw_bar(counts: Mapping[str, int]) -> str:
    """A bar as SVG, with a stretch for each status, as long as its share."""
    total, start, stretches = sum(counts.values()), 0.0, ""
    for status, (_, look) in SHOWN.items():
        if count := counts.get(status, 0):
            length = 100 * count / total
            stretches += (
                f'<rect class="{look}" x="{start:.3f}" y="0" width="{length:.3f}" height="8"/>'
            )
            start += length
    told = ", ".join(f"{counts.get(status, 0)} {word}" for status, (word, _) in SHOWN.items())
    return (
        f'<svg class="bar" viewBox="-.2 -.5 100.4 9" preserveAspectRatio="none" role="img" '
        f'aria-label="{told if total else "not assessed yet"}">'
        f'<rect class="rest" x="0" y="0" width="100" height="8"/>{stretches}</svg>'
    )


def draw_coverage(counts: Mapping[str, int]) -> str:
    """The chart of all controls together, with its key."""
    total = sum(counts.values())
    keys = "".join(
        f'<span><svg class="key" viewBox="0 0 12 12" aria-hidden="true">'
        f'<rect class="{look}" x="1" y="1" width="10" height="10"/></svg>'
        f"{counts.get(status, 0)} {word}"
        f"{f' ({100 * counts.get(status, 0) / total:.0f} %)' if total else ''}</span>"
        for status, (word, look) in SHOWN.items()
    )
    return f"<figure>{draw_bar(counts)}<figcaption>{keys}</figcaption></figure>"


def print_control(control: dict, counts: Mapping[str, int]) -> str:
    """A control as a row: what it asks for, and how many trails keep it."""
    types = ", ".join(map(escape, control["requiredEvidenceTypes"])) or "nothing"
    numbers = "".join(f'<td class="number">{counts.get(status, 0)}</td>' for status in SHOWN)
    return (
        f'<tr><th scope="row">{escape(control["controlId"])}</th>'
        f'<td>{escape(control["title"])}<br><span class="muted">asks for {types}</span></td>'
        f'{numbers}<td class="share">{draw_bar(counts)}</td></tr>'
    )


def print_assessment(assessment: dict) -> str:
    """An assessment as a row: what was found of which trail, and what was missing."""
    results, status = assessment["controlResults"], assessment["overallStatus"]
    satisfied = sum(result["status"] == "SATISFIED" for result in results)
    missing = "".join(
        f"<li>{escape(result['controlId'])}: {escape(', '.join(result['missingEvidence']))}</li>"
        for result in results
        if result["missingEvidence"]
    )
    return (
        f"<tr><td>{print_moment(assessment['assessedAt'])}</td>"
        f"<td><code>{escape(assessment['trailId'])}</code></td>"
        f"<td>{escape(assessment['orgSlug'] or '')}</td>"
        f'<td class="{VERDICTS[status]}">{status.lower().replace("_", "-")}</td>'
        f'<td class="number">{satisfied} of {len(results)}</td>'
        f"<td>{f'<ul>{missing}</ul>' if missing else 'nothing'}</td></tr>"
    )


def print_moment(text: str) -> str:
    """A timestamp as people read it."""
    return f'<time datetime="{text}">{text[:10]} {text[11:19]} UTC</time>'


def print_table(label: str, heads: Mapping[str, str], rows: Iterable[str]) -> str:
    """A table under its heads, each of them with the class of its column."""
    columns = "".join(f'<th scope="col" class="{look}">{head}</th>' for head, look in heads.items())
    return (
        f'<div class="scroll" role="region" aria-label="{label}" tabindex="0"><table>'
        f"<thead><tr>{columns}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def count_statuses(framework: dict, assessments: Iterable[dict]) -> list[Counter]:
    """How often each status was found of each control, in the order of the controls.

    Controls are only ever added, at the end: the results stand in the same order.
    """
    results = [assessment["controlResults"] for assessment in assessments]
    return [
        Counter(one[place]["status"] for one in results if place < len(one))
        for place in range(len(framework["controls"]))
    ]


def regulatory_page(framework: dict, assessments: Sequence[dict], generated_at: str) -> str:
    """The report on a framework as one HTML page, to be served under REPORT_CSP.

    Coverage counts the newest assessment of each trail.
    """
    newest = {assessment["trailId"]: assessment for assessment in assessments}.values()
    counts = count_statuses(framework, newest)
    controls = print_table(
        "Coverage by control",
        {"Control": "", "What it asks for": ""}
        | {"Satisfied": "number", "Partly": "number", "Not": "number", "Share": "share"},
        map(print_control, framework["controls"], counts),
    )
    heads = ("Assessed at", "Trail", "Organisation", "Result", "Satisfied", "Missing evidence")
    looks = {head: "number" if head == "Satisfied" else "" for head in heads}
    rows = map(print_assessment, assessments)
    history = print_table("Assessments", looks, rows) if assessments else "<p>None so far.</p>"
    name, version = escape(framework["name"]), escape(framework["version"])
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{name} {version}: regulatory report</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{REPORT_STYLE}</style></head><body><main>
<p class="muted">Regulatory report</p><h1><bdi>{name}</bdi></h1>
<p>{escape(framework["description"] or "")}</p><dl>
<div><dt>Version</dt><dd>{version}</dd></div>
<div><dt>Generated</dt><dd>{print_moment(generated_at)}</dd></div>
<div><dt>Trails</dt><dd>{len(newest)}</dd></div>
<div><dt>Assessments</dt><dd>{len(assessments)}</dd></div>
<div><dt>Framework</dt><dd><code>{framework["id"]}</code></dd></div></dl>
<h2>Coverage</h2><p class="muted">Every control, held against the newest assessment of each
trail.</p>{draw_coverage(sum(counts, Counter()))}
{controls}<h2>Assessments</h2><p class="muted">All that are stored, oldest first.</p>
{history}</main></body></html>"""


FRAMEWORK_ASSESSMENTS = Array(
    ComplianceAssessment, {"framework": lambda key: ComplianceAssessment.framework == key}
)
REGULATORY_REPORT = {
    "frameworkId": {"type": "string", "format": "uuid"},
    "frameworkName": {"type": "string"},
    "frameworkVersion": {"type": "string"},
    "assessments": FACTSTORE.array_schema("AssessmentResponse"),
    "generatedAt": {"type": "string", "format": "date-time"},
}


class RegulatoryReports(Resource, surface=FACTSTORE, scope="factstore", tag="Compliance"):
    """Where all that was assessed stands against a framework."""

    @route(
        "GET /api/v1/reports/regulatory/{frameworkId}",
        id="getRegulatoryReport",
        answer={
            "type": "object",
            "required": [*REGULATORY_REPORT],
            "properties": REGULATORY_REPORT,
        },
        answers_with="application/json text/html",
    )
    def report(self, context, key):
        """Get every assessment against a framework: as JSON, or as a page to read and to print."""
        framework = json.loads(context.workspace.json_of(RegulatoryFramework, key))
        assessments = FRAMEWORK_ASSESSMENTS.slice({"framework": key}).text
        headers, generated_at = {"Vary": "Accept, Origin"}, now_exactly()
        kinds = ("application/json", "text/html")
        if context.request.client_prefers(kinds) == "text/html":
            page = regulatory_page(framework, json.loads(b"[%b]" % assessments), generated_at)
            headers |= {
                "Content-Type": "text/html; charset=utf-8",
                "Content-Security-Policy": REPORT_CSP,
            }
            return Reply(200, page.encode(), headers)
        told = {
            "frameworkId": framework["id"],
            "frameworkName": framework["name"],
            "frameworkVersion": framework["version"],
            "generatedAt": generated_at,
        }
        text = to_json(told)[1:].encode()
        return Reply(200, b'{"assessments":[%b],%b' % (assessments, text), headers)


# --- Evidence documents -------------------------------------------------------
# Documents of names and texts about anything: storing one again makes a new version of it.


class PathPiece(Text):
    """One piece of the path to a document, which cannot lead anywhere else in a Vault."""

    def __init__(self, **options: Any):
        super().__init__(
            255,
            1,
            pattern=r"(?!\.\.?$)[^/\\]*[^/\\\s][^/\\]*",
            hint="Expected printable text without slashes that is not . or ..",
            **options,
        )

    def read(self, value):
        if not super().read(value).isprintable():
            raise ValueError(self.hint)
        return value


class VaultDocument(Model):
    """One version of a document in the evidence vault; the newest may be marked as deleted."""

    fact, made, since = "vault_document", "stored", 3
    key = "entity_type entity_id evidence_type version"

    id = Uuid()
    entity_type = PathPiece()
    entity_id = PathPiece()
    evidence_type = PathPiece()
    version = Integer(1, 2**31 - 1)
    data = Encrypted(2_000_000, hidden=True)
    stored_at = Timestamp(6, default=now_exactly)
    deleted_at = Timestamp(6, null=True)


#: Type and id of what a document is about, and what kind of evidence it is.
Place = tuple[str, str, str]


class EvidenceStore:
    """Keeps documents encrypted in the workspace's own file; a Vault does all of it elsewhere.

    What a write does elsewhere, it does in `send` or `withdraw`, while no transaction is open;
    `keep` or `forget` then records what came of it. A rehearsal changes nothing elsewhere.
    """

    def __init__(self, settings: Settings):
        self.settings = settings

    def close(self) -> None:
        """Let go of what is held for the next request."""

    def path(self, *pieces: str) -> str:
        """Where documents lie below the mount; each of several workspaces has a part of its own."""
        own = (session().workspace.slug,) if self.settings.workspaces else ()
        return "/".join([*own, "evidence", *pieces])

    def newest(self, place: Place) -> Any:
        """What is known of a document: `version` and `stored_at`; None when there never was one."""
        entity_type, entity_id, evidence_type = place
        versions = VaultDocument.select().where(
            VaultDocument.entity_type == entity_type,
            VaultDocument.entity_id == entity_id,
            VaultDocument.evidence_type == evidence_type,
        )
        return versions.order_by(VaultDocument.version.desc()).first()

    def types(self, entity_type: str, entity_id: str) -> list[str]:
        """The types of evidence that there is about something, deleted ones too."""
        found = VaultDocument.select(VaultDocument.evidence_type).distinct()
        found = found.where(
            VaultDocument.entity_type == entity_type, VaultDocument.entity_id == entity_id
        )
        return [name for (name,) in found.order_by(VaultDocument.evidence_type).tuples()]

    def contents(self, place: Place) -> dict[str, str] | None:
        """A document; None when there is none, or its newest version is deleted."""
        document = self.newest(place)
        return json.loads(document.data) if document and not document.deleted_at else None

    def health(self) -> tuple[bool, str]:
        """Whether documents can be stored and read, and a sentence about it."""
        return True, "The built-in store answers: evidence is kept encrypted in the workspace."

    def send(self, place: Place, data: dict[str, str], rehearsal: bool) -> Any:
        """Store a document where that takes the network."""

    def keep(self, place: Place, data: dict[str, str], sent: Any) -> Any:
        """Record a new version of a document; what is known of it then."""
        entity_type, entity_id, evidence_type = place
        before = self.newest(place)
        return VaultDocument.create(
            entity_type=entity_type,
            entity_id=entity_id,
            evidence_type=evidence_type,
            version=before.version + 1 if before else 1,
            data=to_json(data),
        )

    def withdraw(self, place: Place, rehearsal: bool) -> Any:
        """Delete the newest version where that takes the network."""

    def forget(self, place: Place, sent: Any) -> Any:
        """Record that the newest version is deleted; what is known of it, if there is one."""
        document = self.newest(place)
        if document and not document.deleted_at:
            document.change(deleted_at=now_exactly())
        return document


# --- Evidence vault -----------------------------------------------------------

VAULT_DATA = MapOf(Text(100_000))
VAULT_EVIDENCE = Schema(
    VaultDocument.entity_type,
    VaultDocument.entity_id,
    VaultDocument.evidence_type,
    VaultDocument.version,
    VaultDocument.stored_at,
    vault_path=Text(2048),
    data=Json(VAULT_DATA, null=True),
    required="data storedAt",
).describe()


class VaultEvidence(Resource, surface=FACTSTORE, scope="factstore", tag="Vault evidence"):
    """Documents of evidence, in the store that the instance is set up with."""

    which = Filters(VaultDocument.evidence_type, required="evidenceType")

    def about(self, entity_type: str, entity_id: str) -> tuple[str, str]:
        """What a path is about, its pieces checked."""
        pieces = Schema(VaultDocument.entity_type, VaultDocument.entity_id)
        try:
            return tuple(pieces.read({"entityType": entity_type, "entityId": entity_id}).values())
        except Faults as faults:
            raise Invalid(issues=[issue(*fault) for fault in faults.issues]) from None

    def place(self, named: Mapping, *path: str) -> Place:
        """The document that a path and a query or body mean together."""
        return (*self.about(*path), named["evidence_type"])

    def tell(self, context: Context, place: Place, known: Any) -> dict:
        """A document as it is told, without its contents."""
        mount, path = context.settings.vault_mount, context.lite.vault.path(*place)
        return {
            **dict(zip(("entityType", "entityId", "evidenceType"), place, strict=True)),
            "vaultPath": f"{mount}/{path}",
            "version": known.version,
            "data": None,
            "storedAt": known.stored_at,
        }

    @route(
        "GET /api/v1/evidence/{evidenceKey}/{entityKey}",
        id="getVaultEvidence",
        query=which,
        answer=VAULT_EVIDENCE,
        refuses=(502,),
    )
    def read(self, context, *path):
        """Get the version and the time of a document, deleted or not, without its contents."""
        place = self.place(context.query, *path)
        known = context.lite.vault.newest(place)
        if known is None:
            raise NotFound(f"There is no evidence at {'/'.join(place)}.")
        return self.tell(context, place, known)

    @route(
        "POST /api/v1/evidence/{evidenceKey}/{entityKey}",
        id="storeVaultEvidence",
        body=Schema(
            VaultDocument.evidence_type, data=Json(VAULT_DATA), name="StoreEvidenceRequest"
        ),
        status=201,
        before="send",
        answer=VAULT_EVIDENCE,
        refuses=(502,),
    )
    def store(self, context, *path):
        """Store a document as a new version."""
        place, vault = self.place(context.body, *path), context.lite.vault
        return self.tell(context, place, vault.keep(place, context.body["data"], context.prepared))

    def send(self, context, *path):
        """Store a document in Vault, if that is where documents are kept; a dry run only asks."""
        rehearsal = context.operation.surface.rehearses(context.request)
        place, data = self.place(context.body, *path), context.body["data"]
        return context.lite.vault.send(place, data, rehearsal)

    @route(
        "DELETE /api/v1/evidence/{evidenceKey}/{entityKey}",
        id="deleteVaultEvidence",
        query=which,
        status=204,
        before="withdraw",
        refuses=(502,),
    )
    def discard(self, context, *path):
        """Delete the newest version of a document, if there is one; its metadata stays."""
        place = self.place(context.query, *path)
        known = context.lite.vault.forget(place, context.prepared)
        return self.tell(context, place, known) if known else None

    def withdraw(self, context, *path):
        """Delete a document in Vault, if that is where documents are kept; a dry run only asks."""
        rehearsal = context.operation.surface.rehearses(context.request)
        return context.lite.vault.withdraw(self.place(context.query, *path), rehearsal)

    @route(
        "GET /api/v1/evidence/{evidenceKey}/{entityKey}/list",
        id="listVaultEvidence",
        answer=Schema(
            VaultDocument.entity_type,
            VaultDocument.entity_id,
            evidence_types=Json(ListOf(Text(255), 2**31)),
        ).describe(),
        refuses=(502,),
    )
    def types(self, context, *path):
        """List the types of evidence that there is about something."""
        entity_type, entity_id = self.about(*path)
        return {
            "entityType": entity_type,
            "entityId": entity_id,
            "evidenceTypes": context.lite.vault.types(entity_type, entity_id),
        }

    @route(
        "GET /api/v1/evidence/{evidenceKey}/{entityKey}/download",
        id="downloadVaultEvidence",
        query=which,
        answer=VAULT_DATA.describe(),
        refuses=(502,),
    )
    def download(self, context, *path):
        """Download a document's contents; there are none while its newest version is deleted."""
        place = self.place(context.query, *path)
        contents = context.lite.vault.contents(place)
        if contents is None:
            raise NotFound(f"There is no evidence at {'/'.join(place)}, or it was deleted.")
        text = to_json(contents).encode()
        name = f"evidence-{'-'.join(place)}.json"
        return Reply(200, text, attachment_headers(name, "application/json", len(text)))

    @route(
        "GET /api/v1/evidence/health",
        id="getVaultHealth",
        answer=Schema(
            healthy=Boolean(),
            vault_uri=Text(2048),
            auth_method=Choice("TOKEN APPROLE KUBERNETES"),
            message=Text(1000),
            checked_at=Timestamp(6),
        ).describe(),
    )
    def health(self, context):
        """Tell whether the store of evidence can be used."""
        healthy, message = context.lite.vault.health()
        return {
            "healthy": healthy,
            "vaultUri": context.settings.vault_address,
            "authMethod": context.settings.vault_auth_method,
            "message": message,
            "checkedAt": now_exactly(),
        }


# --- Vault requests -----------------------------------------------------------
# https://developer.hashicorp.com/vault/api-docs

STRANGE_VAULT = "What answers as Vault does not speak as a key-value store of version 2 does."
UNWELCOME = "Vault refuses the credentials of this server, or permits them nothing of this kind."


def inside(told: Any, *names: str) -> Any:
    """What an answer holds under names within names; None where it lacks one."""
    for name in names:
        told = told.get(name) if isinstance(told, dict) else None
    return told


def read_vault(response: Any) -> dict:
    """The JSON object of an answer; empty when it is none."""
    try:
        told = response.json()
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def vault_problem(status: int) -> Problem:
    """What a refusal of Vault means to a caller; its own words stay with the operator."""
    log.warning("Vault answered with status %d.", status)
    if status == 403:
        return BadGateway(UNWELCOME)
    if status == 404:
        return BadGateway("Vault has no key-value store where the setting vault_mount says.")
    if status in (429, 501, 503):
        return Unavailable(
            "Vault is sealed, or cannot answer now; try again later.",
            headers={"Retry-After": "10"},
        )
    return BadGateway(STRANGE_VAULT)


class VaultRequests:
    """Asks the Vault of the settings, logged in by token or role; safe to use from many threads."""

    def __init__(self, settings: Settings):
        try:
            import hvac
        except ImportError:
            raise Invalid(
                "The setting vault_address needs hvac: pip install 'novantra-lite[vault]'."
            ) from None
        self.settings, self._login = settings, threading.Lock()
        #: Hands out every answer as it came.
        self.client = hvac.Client(
            settings.vault_address.rstrip("/"),
            token=settings.vault_token if settings.vault_auth_method == "TOKEN" else "",
            timeout=settings.vault_timeout,
            adapter=hvac.adapters.RawAdapter,
            ignore_exceptions=True,
        )

    def attempt(self, call: Callable, *arguments: Any, **options: Any) -> Any:
        """Vault's answer to a call of the client, whatever it says."""
        try:
            with away():
                return call(*arguments, **options)
        except OSError as error:
            # Its own text may tell too much; what requests raises is an OSError as well.
            log.warning("Vault does not answer (%s).", type(error).__name__)
            raise BadGateway("Vault cannot be reached, or did not answer in time.") from None

    def ask(self, call: Callable, *arguments: Any, **options: Any) -> dict | None:
        """What Vault says to a call of the client; None where it has nothing."""
        by_role = self.settings.vault_auth_method == "APPROLE"
        if by_role and not self.client.token:
            self.log_in("")
        token = self.client.token
        response = self.attempt(call, *arguments, **options)
        if response.status_code == 403 and by_role:
            # A role's token comes to its end, and nothing but this tells.
            self.log_in(token)
            response = self.attempt(call, *arguments, **options)
        told = read_vault(response)
        if response.status_code == 204 or (response.status_code == 200 and told):
            return told
        # A document that is not there is nothing to complain of; a mount that is not there is.
        if response.status_code == 404 and told and not told.get("errors"):
            return None
        raise vault_problem(response.status_code)

    def log_in(self, stale: str) -> None:
        """Get a token for the role, unless another thread did so since this one was found stale."""
        role, secret = self.settings.vault_role_id, self.settings.vault_secret_id
        with self._login:
            if self.client.token != stale:
                return
            login = self.client.auth.approle.login
            response = self.attempt(login, role, secret, use_token=False)
            if response.status_code in (400, 403):
                raise BadGateway("Vault refuses the role that this server logs in with.")
            if response.status_code != 200:
                raise vault_problem(response.status_code)
            token = inside(read_vault(response), "auth", "client_token")
            if not isinstance(token, str):
                raise BadGateway(STRANGE_VAULT)
            self.client.token = token

    def close(self) -> None:
        """Close the connections that are kept for the next request."""
        self.client.adapter.close()


# --- HashiCorp Vault ----------------------------------------------------------
# https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2


class VaultWrite(Model):
    """A version that Vault acknowledged, or its deletion; what it holds, Vault alone knows."""

    fact, made, append_only, since = "vault_write", "acknowledged", True, 3

    id = Uuid()
    action = Choice("STORED DELETED")
    vault_path = Text(2048, index=True)
    version = Integer(1, null=True)
    acknowledged_at = Timestamp(6, default=now_exactly)


class VaultVersion(NamedTuple):
    """The newest version of a document in Vault."""

    version: int
    stored_at: str

    @classmethod
    def read(cls, number: Any, created: Any) -> VaultVersion:
        """A version as Vault tells of it; one without a good time is from now."""
        if type(number) is not int or not 0 < number < 2**31:
            raise BadGateway(STRANGE_VAULT)
        try:
            return cls(number, parse_timestamp(str(created), 6))
        except ValueError:
            return cls(number, now_exactly())


class HashicorpVault(EvidenceStore):
    """Keeps documents in a key-value store of version 2 in HashiCorp Vault."""

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self.requests = VaultRequests(settings)
        self.store, self.system = self.requests.client.secrets.kv.v2, self.requests.client.sys
        self.mount = settings.vault_mount

    def close(self):
        self.requests.close()

    def ask(self, call: Callable, path: str, *arguments: Any, **options: Any) -> dict | None:
        """What the store says to a call about a path; None where it has nothing."""
        options["mount_point"] = self.mount
        return self.requests.ask(call, path, *arguments, **options)

    def newest(self, place):
        told = self.ask(self.store.read_secret_metadata, self.path(*place))
        number = inside(told, "data", "current_version")
        if told is None or number == 0:
            return None
        created = inside(told, "data", "versions", str(number), "created_time")
        return VaultVersion.read(number, created)

    def types(self, entity_type, entity_id):
        told = self.ask(self.store.list_secrets, self.path(entity_type, entity_id))
        keys = inside(told, "data", "keys") if told is not None else []
        if not isinstance(keys, list):
            raise BadGateway(STRANGE_VAULT)
        # What ends with a slash is a folder, which somebody else made.
        return sorted(key for key in keys if isinstance(key, str) and not key.endswith("/"))

    def contents(self, place):
        told = self.ask(
            self.store.read_secret_version, self.path(*place), raise_on_deleted_version=True
        )
        data = inside(told, "data", "data")
        if data is None:
            return None
        if not isinstance(data, dict):
            raise BadGateway(STRANGE_VAULT)
        texts = (value if isinstance(value, str) else to_json(value) for value in data.values())
        return dict(zip(data, texts, strict=True))

    def health(self):
        look = self.system.read_health_status
        try:
            told = read_vault(self.requests.attempt(look, standby_ok=True, method="GET"))
        except BadGateway as problem:
            return False, str(problem)
        state = told.get("initialized"), told.get("sealed")
        if state == (True, False):
            return True, "Vault is initialised and unsealed."
        if state == (True, True):
            return False, "Vault is sealed."
        return False, "Vault is not initialised." if state[0] is False else STRANGE_VAULT

    def send(self, place, data, rehearsal):
        if rehearsal:
            before = self.rehearse(place, "create", "update")
            return VaultVersion(before.version + 1 if before else 1, now_exactly())
        told = inside(self.ask(self.store.create_or_update_secret, self.path(*place), data), "data")
        return VaultVersion.read(inside(told, "version"), inside(told, "created_time"))

    def keep(self, place, data, sent):
        path = f"{self.mount}/{self.path(*place)}"
        VaultWrite.create(action="STORED", vault_path=path, version=sent.version)
        return sent

    def withdraw(self, place, rehearsal):
        if rehearsal:
            return self.rehearse(place, "delete")
        self.ask(self.store.delete_latest_version_of_secret, self.path(*place))
        return None

    def forget(self, place, sent):
        VaultWrite.create(action="DELETED", vault_path=f"{self.mount}/{self.path(*place)}")
        return sent

    def rehearse(self, place: Place, *needed: str) -> VaultVersion | None:
        """What Vault knows of a document, once it permits this server what a write would take."""
        paths = [f"{self.mount}/{part}/{self.path(*place)}" for part in ("data", "metadata")]
        told = self.requests.ask(self.system.get_capabilities, paths)
        writing, reading = (inside(told, "data", path) or () for path in paths)
        if not any(right in writing for right in (*needed, "root")):
            raise BadGateway(UNWELCOME)
        readable = any(right in reading for right in ("read", "root"))
        return self.newest(place) if readable else None


def evidence_store(settings: Settings) -> EvidenceStore:
    """The store of evidence that the settings ask for; Invalid where they cannot be meant."""
    if not settings.vault_address:
        return EvidenceStore(settings)
    try:
        split_target(settings.vault_address)
    except Invalid as problem:
        raise Invalid(f"The setting vault_address has no good URL: {problem}") from None
    needed = {"TOKEN": ("vault_token",), "APPROLE": ("vault_role_id", "vault_secret_id")}
    for name in needed[settings.vault_auth_method]:
        if not re.fullmatch(r"[!-~]+", getattr(settings, name)):
            raise Invalid(f"With a Vault, the setting {name} is needed, in visible ASCII.")
    if not re.fullmatch(r"\w[\w.-]*(?:/\w[\w.-]*)*", settings.vault_mount, re.ASCII):
        raise Invalid("The setting vault_mount needs a path in Vault such as secret.")
    return HashicorpVault(settings)


# --- Audit log ----------------------------------------------------------------
# The entries are in the order of their times; those of one moment, in the order of writing. A page
# and its total take as long in a long log as in a short one: about one entry in 256 is a mark,
# which knows its place in the order, and what lies beyond a mark is counted along an index.

#: The columns whose values entries may be asked to share, the most telling first.
AUDIT_COLUMNS = ("trail_id", "actor", "event_type")
#: The groups in which marks know their place, each with the index of its entries.
AUDIT_GROUPS = MappingProxyType(
    {
        (): "audit_event_occurred_at",
        ("trail_id",): "audit_event_lookup",
        ("actor",): "audit_event_lookup_2",
        ("event_type",): "audit_event_lookup_3",
        ("actor", "event_type"): "audit_event_lookup_4",
    }
)
#: Which events are marks, by their rowid: one in 256 (2^24 of 2^32), spread evenly over whatever is
#: regular in the order of writing (Knuth's multiplicative hash: The Art of Computer Programming,
#: 6.4).
MARKED = "({} * 2654435761 & 4294967295) < 16777216"


def entries_sql(group: tuple[str, ...], value: str) -> str:
    """SQL that takes the entries which share the values of these columns; without an index of their
    own, those with the most telling one are gone through."""
    index = AUDIT_GROUPS.get(group) or AUDIT_GROUPS[group[:1]]
    shared = "".join(f"e.{column} = {value}{column} AND " for column in group)
    return f"FROM audit_event AS e INDEXED BY {index} WHERE {shared}"


def marks_sql(group: tuple[str, ...], value: str) -> str:
    """SQL that only the marks which know their place among such entries fulfil."""
    shared = (f"{column} IS {value}{column} AND " for column in group)
    others = (f"{column} IS NULL AND " for column in AUDIT_COLUMNS if column not in group)
    return "".join([*shared, *others])


@functools.cache
def rank_sql(group: tuple[str, ...], value: str = ":", number: str = ":number") -> str:
    """SQL for how many such entries there are up to a time and, at that time, a number."""
    place = f"({value}occurred_at, {number})"
    return (
        f"SELECT m.ordinal + (SELECT count(*) {entries_sql(group, value)}"
        f"(e.occurred_at, e.rowid) > (m.occurred_at, m.number) "
        f"AND (e.occurred_at, e.rowid) <= {place}) "
        "FROM (SELECT '' AS occurred_at, 0 AS number, 0 AS ordinal UNION ALL "
        f"SELECT occurred_at, number, ordinal FROM audit_mark WHERE "
        f"{marks_sql(group, value)}(occurred_at, number) <= {place} "
        "ORDER BY 1 DESC, 2 DESC LIMIT 1) AS m"
    )


class AuditMark(SelfKept, Model):
    """The place of an audit event among all, or among those that share what is not null.

    The file keeps these itself, whoever writes an event and whatever its time. They prove nothing,
    so that the ledger does not know them.
    """

    key, since = "trail_id actor event_type occurred_at number", 4
    lookup = "trail_id actor event_type ordinal"

    id = Integer(primary_key=True, null=True)
    trail_id = Id(null=True)
    actor = Text(320, null=True)
    event_type = Text(null=True)
    occurred_at = Timestamp(6)
    #: The event's rowid.
    number = Integer()
    #: How many there are up to and including this event.
    ordinal = Integer()

    @classmethod
    def triggers(cls):
        makes, moves = [], []
        for group in AUDIT_GROUPS:
            shared = "".join(f"new.{column}, " for column in group)
            rank = rank_sql(group, "new.", "new.rowid")
            known = " AND ".join(["1", *(f"new.{column} IS NOT NULL" for column in group)])
            makes.append(
                f"INSERT INTO audit_mark ({place_columns(group)}) "
                f"SELECT {shared}new.occurred_at, new.rowid, ({rank}) WHERE {known}; "
            )
            moves.append(
                f"UPDATE audit_mark SET ordinal = ordinal + 1 WHERE {marks_sql(group, 'new.')}"
                f"{known} AND occurred_at > new.occurred_at; "
            )
        head = "CREATE TRIGGER audit_event_{} AFTER INSERT ON audit_event WHEN {} BEGIN {}END"
        yield head.format("makes_marks", MARKED.format("new.rowid"), "".join(makes))
        # A clock may be set back.
        later = f"SELECT 1 FROM audit_mark WHERE {marks_sql((), '')}occurred_at > new.occurred_at"
        yield head.format("moves_marks", f"EXISTS ({later})", "".join(moves))


def place_columns(group: tuple[str, ...]) -> str:
    """The columns of the marks which know their place among such entries."""
    return ", ".join([*group, "occurred_at", "number", "ordinal"])


def mark_older_events() -> Iterator[str]:
    """The statements that make the marks of a log which was written without them."""
    for group in AUDIT_GROUPS:
        columns, shared = place_columns(group), "".join(f"{column}, " for column in group)
        apart = f"PARTITION BY {', '.join(group)}" if group else ""
        known = " AND ".join(["1", *(f"{column} IS NOT NULL" for column in group)])
        yield (
            f"INSERT INTO audit_mark ({columns}) SELECT {columns} FROM (SELECT {shared}"
            f"occurred_at, rowid AS number, {MARKED.format('rowid')} AS is_mark, row_number() OVER "
            f"({apart} ORDER BY occurred_at, rowid) AS ordinal FROM audit_event WHERE {known}) "
            "WHERE is_mark"
        )


def check_marks() -> Iterator[str]:
    """Count anew, from each mark to the next, what the marks in the current session's file say."""
    for group in AUDIT_GROUPS:
        kind = (f"{column} IS {'NOT ' * (column in group)}NULL" for column in AUDIT_COLUMNS)
        wrong = (
            "SELECT 1 FROM (SELECT *, lag(occurred_at, 1, '') OVER each AS since, "
            "lag(number, 1, 0) OVER each AS after, lag(ordinal, 1, 0) OVER each AS before "
            f"FROM audit_mark WHERE {' AND '.join(kind)} WINDOW each AS (PARTITION BY "
            f"{', '.join(AUDIT_COLUMNS)} ORDER BY occurred_at, number)) AS m WHERE m.ordinal <> "
            f"m.before + (SELECT count(*) {entries_sql(group, 'm.')}(e.occurred_at, e.rowid) > "
            "(m.since, m.after) AND (e.occurred_at, e.rowid) <= (m.occurred_at, m.number)) LIMIT 1"
        )
        if session().workspace.fetch_row(wrong):
            by = f", by {' and '.join(group)}," if group else ""
            yield f"The marks of the audit log{by} do not count its entries."


class PageNumber(Integer):
    """Which page is wanted of a list that always comes in pages."""

    def describe(self):
        return super().describe() | {"description": "Number of a page, from 0 on; 0 unless told."}


class Instant(Timestamp):
    """A point in time in a query, for which a date does not stand."""

    def parse(self, text):
        return text


def audit_page(
    shared: Mapping[str, str], stretch: tuple[str, str], skip: int, limit: int, newest_first: bool
) -> tuple[int, bytes]:
    """How many entries share these values in a stretch of time, and some of them as JSON text."""
    group = tuple(column for column in AUDIT_COLUMNS if column in shared)
    fetch = session().workspace.fetch_row
    # Before the first entry at the start, and after the last one at the end.
    before, until = (
        fetch(rank_sql(group), {**shared, "occurred_at": at, "number": number})[0]
        for at, number in zip(stretch, (0, 1 << 62), strict=True)
    )
    limit = min(limit, until - before - skip)
    if limit <= 0:
        return max(0, until - before), b""
    first = until - skip - limit if newest_first else before + skip
    nearest = f"SELECT occurred_at, number, ordinal FROM audit_mark WHERE {marks_sql(group, ':')}"
    nearest += "ordinal <= :ordinal ORDER BY ordinal DESC LIMIT 1"
    at, number, ordinal = fetch(nearest, {**shared, "ordinal": first}) or ("", 0, 0)
    page = f"SELECT CAST(e.json AS BLOB) {entries_sql(group, ':')}"
    page += "(e.occurred_at, e.rowid) > (:occurred_at, :number) "
    page += "ORDER BY e.occurred_at, e.rowid LIMIT :limit OFFSET :offset"
    place = {"occurred_at": at, "number": number, "limit": limit, "offset": first - ordinal}
    found = session().database.connection().execute(page, {**shared, **place})
    texts = [text for (text,) in found]
    return until - before, b",".join(reversed(texts) if newest_first else texts)


AUDIT_NUMBERS = ("page", "size", "totalElements", "totalPages")


class Audit(
    Resource,
    surface=FACTSTORE,
    path="/api/v1/audit",
    model=AuditEvent,
    scope="factstore",
    tag="Audit",
    item="auditEventId",
    schema_name="AuditEventResponse",
    verbs="retrieve",
):
    """What happened, as the Factstore surface tells it."""

    @route(
        "GET /api/v1/audit",
        id="listAuditEvents",
        query=Filters(
            AuditEvent.event_type,
            trail_id=Id(),
            actor=Text(),
            page=PageNumber(0, 2**31 - 1),
            size=Integer(1, 100),
            sort_desc=Boolean(),
            **{"from": Instant(6), "to": Instant(6)},
        ),
        answer={
            "type": "object",
            "required": ["events", *AUDIT_NUMBERS],
            "properties": {
                "events": FACTSTORE.array_schema("AuditEventResponse"),
                **{name: {"type": "integer"} for name in AUDIT_NUMBERS},
            },
        },
    )
    def page(self, context):
        """List one page of the audit log, newest first unless told otherwise."""
        query = context.query
        number, size = query.get("page", 0), query.get("size", 20)
        total, text = 0, b""
        # Other filters count as absent when they are empty; of this one, nobody has such a name.
        if context.request.get_param("actor") != "":
            shared = {column: query[column] for column in AUDIT_COLUMNS if column in query}
            stretch = query.get("from", ""), query.get("to", "~")
            newest_first = query.get("sort_desc", True)
            total, text = audit_page(shared, stretch, number * size, size, newest_first)
        told = (number, size, total, -(-total // size))
        told = to_json(dict(zip(AUDIT_NUMBERS, told, strict=True)))
        return Reply(200, b'{"events":[%b],%b' % (text, told[1:].encode()))


# --- Search -------------------------------------------------------------------
# What is found is what holds all of the text that was asked for, in either case. First come the
# records of which it is a name, then those of which a name begins with it, then all others; among
# equals the newest is first.


class SearchedText(Text):
    """The text that is searched for; nothing is found by an empty one."""

    #: Empty, it is not absent.
    may_be_empty = True


class SearchedKind(Text):
    """The kind of records that a search is limited to, in either letter case."""

    def describe(self):
        return {"type": "string", "enum": list(searched_kinds())}


@functools.cache
def searched_kinds() -> dict[str, tuple[type[Model], str]]:
    """The kinds of records that are searched: the model of each, and the scope that reads it."""
    scopes = {resource.model: f"{resource.scope}:read" for resource in RESOURCES if resource.model}
    models = sorted(searched_models().values(), key=lambda model: model.searched.number)
    return {model.searched.kind: (model, scopes[model]) for model in models}


def find_records(text: str, models: Sequence[type[Model]], limit: int) -> tuple[list, int]:
    """What is told of the best matches among these models, and how many there are."""
    session().workspace.update_index()
    numbers = [model.searched.number for model in models]
    ranks: dict[int, int] = {}
    for rank, asked in enumerate((NAMED + text + NAMED, NAMED + text, text)):
        for place in find_places(asked, numbers):
            ranks.setdefault(place, rank)
    best = sorted(ranks, key=lambda place: (ranks[place], -(place % PLACES)))[:limit]
    told = {}
    for model in models:
        places = [place for place in best if place // PLACES == model.searched.number]
        rows = matched_rows(model, places) if places else ()
        told |= {row["place"]: tell_match(model, row) for row in rows}
    # One that was deleted meanwhile is told no more.
    return [told[place] for place in best if place in told], min(len(ranks), MATCHES)


def matched_rows(model: type[Model], places: Sequence[int]) -> Iterable[dict]:
    """What a search needs to tell of the records at these places, by the names of the fields."""
    searched = model.searched
    names = {*re.findall(r"{(\w+)", searched.title + searched.description)}
    names |= {"id", *searched.told.split()}
    fields = (model._meta.fields[name] for name in sorted(names))
    query = model.select(SearchRecord.place, *fields)
    query = query.join(SearchRecord, on=SearchRecord.record == model.id)
    return query.where(SearchRecord.place.in_(places)).dicts()


def tell_match(model: type[Model], row: Mapping[str, Any]) -> dict:
    """One match as an answer tells it."""
    searched, known = model.searched, model._meta.fields
    text = {name: "" if value is None else value for name, value in row.items()}
    return {
        "type": searched.kind,
        "id": row["id"],
        "title": searched.title.format_map(text).strip(),
        "description": searched.description.format_map(text).strip(),
        "metadata": {camel(known[name].column_name): row[name] for name in searched.told.split()},
    }


SEARCH_RESPONSE = {
    "type": "object",
    "required": ["results", "total", "query", "type"],
    "properties": {
        "results": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type", "id", "title", "description", "metadata"],
                "properties": {
                    "type": {"type": "string"},
                    "id": {"type": "string"},
                    "title": {"type": "string"},
                    "description": {"type": "string"},
                    "metadata": {
                        "type": "object",
                        "additionalProperties": {"type": ["string", "null"]},
                    },
                },
            },
        },
        "total": {"type": "integer", "maximum": MATCHES},
        "query": {"type": "string"},
        "type": {"type": ["string", "null"]},
    },
}


class Search(Resource, surface=FACTSTORE, scope="factstore", tag="Search"):
    """The texts of all records that the file does not encrypt."""

    @route(
        "GET /api/v1/search",
        id="search",
        query=Filters(
            q=SearchedText(1000),
            type=SearchedKind(),
            limit=Integer(1, 1000, default=100),
            required="q",
        ),
        answer=SEARCH_RESPONSE,
    )
    def search(self, context):
        """Search the records of both APIs that the token may read for a text.

        `total` counts the matches, up to 10,000.
        """
        text, kind = context.query["q"].strip(), context.query.get("type")
        told = {"results": [], "total": 0, "query": text, "type": kind}
        if not text:
            return told
        if kind and kind.lower() not in searched_kinds():
            raise Invalid(
                issues=[issue(["type"], f"Expected one of: {', '.join(searched_kinds())}")]
            )
        readable = [
            model
            for name, (model, scope) in searched_kinds().items()
            if scope in context.principal.scopes and (not kind or name == kind.lower())
        ]
        results, total = find_records(text, readable, context.query.get("limit", 100))
        return told | {"results": results, "total": total}


# --- Reports ------------------------------------------------------------------

RATE, MOMENT = {"type": "number", "minimum": 0, "maximum": 100}, Timestamp(6).describe()
STANDINGS = ("COMPLIANT", "NON_COMPLIANT", "PENDING")
TRAIL_TOTALS = {
    **dict.fromkeys(
        ("totalTrails", "compliantTrails", "nonCompliantTrails", "pendingTrails"), WHOLE
    ),
    "complianceRate": RATE,
}


def trail_totals(counted: Mapping[str, int]) -> dict[str, int | float]:
    """How many trails there are by status, and the percentage of all that complies.

    It is rounded half up to two decimals, and 0 where there are no trails.
    """
    numbers = [counted.get(status, 0) for status in STANDINGS]
    total = sum(numbers)
    rate = (20_000 * numbers[0] + total) // (2 * total) / 100 if total else 0.0
    return dict(zip(TRAIL_TOTALS, (total, *numbers, rate), strict=True))


#: What a report says of a trail that does not comply.
SUMMARY = {
    camel(column.column_name): column
    for column in (
        Trail.id,
        Trail.git_commit_sha,
        Trail.git_branch,
        Trail.git_author,
        Trail.status,
        Trail.created_at,
    )
}


def begun_sql(one_flow: bool, status: str, period: str) -> str:
    """SQL for the trails of the flow `?1`, or of all, with a status that began in a period."""
    flows = '(SELECT "id" FROM "flow" WHERE "id" = ?1)' if one_flow else '"flow"'
    # The index of trails begins with the flow: those of all flows are looked up flow by flow.
    return f"""FROM {flows} AS f CROSS JOIN "trail" AS t1 WHERE t1."flow_id" = f."id"
        AND t1."status" = '{status}' AND t1."created_at" BETWEEN {period}"""


def number_sql(one_flow: bool, status: str) -> str:
    """SQL for the number of trails with a status that began between `?2` and `?3`.

    Whole days are in the tally; only what began on the first and on the last day is counted.
    """
    first_day = begun_sql(one_flow, status, "?2 AND min(ifnull(?3, '~'), date(?2) || '~')")
    last_day = begun_sql(one_flow, status, "max(date(?3), ifnull(date(?2, '+1 day'), '')) AND ?3")
    return f"""(SELECT ifnull(sum("number"), 0) FROM "tally"
            WHERE "kind" = 'trail' AND "state" = '{status}'
            AND "place" > ifnull(?1, 'all') || '/' || ifnull(date(?2), '')
            AND "place" < ifnull(?1, 'all') || '/' || ifnull(date(?3), '~'))
        + (SELECT count(*) {first_day}) + (SELECT count(*) {last_day})"""


@functools.cache
def report_sql(one_flow: bool) -> str:
    """SQL for the numbers of trails by status, and for the JSON text of those that do not comply.

    It takes a flow's id, the first and the last moment. All comes from one statement, so that it is
    of one moment, too.
    """
    told = ", ".join(
        f"""'{name}', t1."{column.column_name}\"""" for name, column in SUMMARY.items()
    )
    failing = begun_sql(one_flow, "NON_COMPLIANT", "ifnull(?2, '') AND ifnull(?3, '~')")
    return f"""SELECT {", ".join(number_sql(one_flow, status) for status in STANDINGS)},
        (SELECT CAST(group_concat(text) AS BLOB)
            FROM (SELECT json_object({told}) AS text {failing} ORDER BY t1."rowid"))"""


#: The members of a trail's export: whose records they hold, and which of these, by the trail `?1`.
EXPORTED = {
    "trail": (Trail, '"id" = ?1'),
    "flow": (Flow, '"id" = (SELECT "flow_id" FROM "trail" WHERE "id" = ?1)'),
    "artifacts": (Artifact, '"trail_id" = ?1'),
    "attestations": (Attestation, '"trail_id" = ?1'),
    "evidenceFiles": (
        EvidenceFile,
        '"attestation_id" IN (SELECT "id" FROM "attestation" WHERE "trail_id" = ?1)',
    ),
}


@functools.cache
def export_sql() -> str:
    """SQL for the JSON text of the records in each member of an export, all of one moment."""
    columns = (
        f"""(SELECT CAST(group_concat(text) AS BLOB) FROM (
            SELECT {model.statements().text.sql} AS text FROM "{model._meta.table_name}" AS t1
            WHERE t1.{condition} ORDER BY t1."rowid"))"""
        for model, condition in EXPORTED.values()
    )
    return f"SELECT {', '.join(columns)}"


class Reports(Resource, surface=FACTSTORE, scope="factstore", tag="Reports"):
    """Where trails stand, and all that was recorded for one."""

    @route(
        "GET /api/v1/reports/compliance",
        id="getComplianceReport",
        query=Filters(flow_id=Id(), **{"from": Timestamp(6), "to": Timestamp(6)}),
        answer=closed_schema(
            flowId={"type": ["string", "null"], "format": "uuid"},
            flowName=TEXT,
            **dict.fromkeys(("from", "to"), describe_member(Timestamp(6, null=True))),
            **TRAIL_TOTALS,
            nonCompliantTrailList={
                "type": "array",
                "items": closed_schema(
                    **{name: describe_member(column) for name, column in SUMMARY.items()}
                ),
            },
        ),
    )
    def report(self, context):
        """Count the trails of one flow or of all, and list those that do not comply."""
        flow_id, first, last = (context.query.get(name) for name in ("flow_id", "from", "to"))
        named = {
            "flowId": flow_id,
            "flowName": Flow.fetch(flow_id).name if flow_id else "All Flows",
            "from": first,
            "to": last,
        }
        values = flow_id, first, last
        *numbers, listed = context.workspace.fetch_row(report_sql(flow_id is not None), values)
        totals = trail_totals(dict(zip(STANDINGS, numbers, strict=True)))
        text = to_json(named | totals)[:-1].encode()
        return b'%b,"nonCompliantTrailList":[%b]}' % (text, listed or b"")

    @route(
        "GET /api/v1/reports/audit-trail/{trailId}",
        id="exportAuditTrail",
        answer=closed_schema(
            trailId=UUID_TEXT,
            exportedAt=MOMENT,
            trail=FACTSTORE.one_schema("TrailResponse"),
            flow=FACTSTORE.one_schema("FlowResponse"),
            artifacts=FACTSTORE.array_schema("ArtifactResponse"),
            attestations=FACTSTORE.array_schema("AttestationResponse"),
            evidenceFiles=FACTSTORE.array_schema("EvidenceFileResponse"),
        ),
    )
    def export(self, context, key):
        """Get everything that was recorded for a trail in one document."""
        trail, flow, *lists = context.workspace.fetch_row(export_sql(), (key,))
        if trail is None:
            raise NotFound(f"There is no trail with the id {key}.")
        arrays = [b"[%b]" % (text or b"") for text in lists]
        told = dict(zip(EXPORTED, (trail, flow, *arrays), strict=True))
        named = {"trailId": key, "exportedAt": now_exactly()}
        return join_members({name: to_json(text).encode() for name, text in named.items()} | told)


def percentage(part: int, total: int) -> float:
    """A share of a total in percent, unrounded; 0 of nothing."""
    return 100 * part / total if total else 0.0


class Metrics(Resource, surface=FACTSTORE, scope="factstore", tag="Metrics"):
    """Numbers about everything that was recorded."""

    @route(
        "GET /api/v1/metrics/compliance",
        id="getComplianceMetrics",
        answer=closed_schema(
            totalTrails=WHOLE,
            compliantTrails=WHOLE,
            nonCompliantTrails=WHOLE,
            complianceRate=RATE,
            totalAttestations=WHOLE,
            passedAttestations=WHOLE,
            failedAttestations=WHOLE,
            generatedAt=MOMENT,
        ),
    )
    def of_compliance(self, context):
        """Count all trails and attestations by how they ended; the percentage is not rounded."""
        trails, attestations = Tally.of(Trail), Tally.of(Attestation)
        return {
            "totalTrails": trails.total(),
            "compliantTrails": trails["COMPLIANT"],
            "nonCompliantTrails": trails["NON_COMPLIANT"],
            "complianceRate": percentage(trails["COMPLIANT"], trails.total()),
            "totalAttestations": attestations.total(),
            "passedAttestations": attestations["PASSED"],
            "failedAttestations": attestations["FAILED"],
            "generatedAt": now_exactly(),
        }

    @route(
        "GET /api/v1/metrics/security",
        id="getSecurityMetrics",
        answer=closed_schema(
            **dict.fromkeys(("totalScans", "passedScans", "failedScans", *SCAN_TOTALS), WHOLE),
            generatedAt=MOMENT,
        ),
    )
    def of_security(self, context):
        """Add up all security scans; one passes that found nothing critical or high."""
        scans = Tally.of(SecurityScan)
        ended = {"passedScans": scans["PASSED"], "failedScans": scans["FAILED"]}
        return scan_totals(scans) | ended | {"generatedAt": now_exactly()}


class Dashboard(Resource, surface=FACTSTORE, scope="factstore", tag="Dashboard"):
    """What a dashboard shows first."""

    @route(
        "GET /api/v1/dashboard/stats",
        id="getDashboardStats",
        answer=closed_schema(totalFlows=WHOLE, **TRAIL_TOTALS),
    )
    def tell(self, context):
        """Count flows and trails."""
        return {"totalFlows": Flow.select().count()} | trail_totals(Tally.of(Trail))


#: The last report of an environment tells how things stand there.
DRIFTED = """SELECT count(*) FROM "environment" AS e WHERE (SELECT d."has_drift"
    FROM "drift_report" AS d WHERE d."environment_id" = e."id" ORDER BY d."rowid" DESC LIMIT 1)"""
UNDECIDED = f"""SELECT count(*) FROM "approval" AS t1
    WHERE t1."status" = 'PENDING_APPROVAL' AND {Approval.standing} = 'PENDING_APPROVAL'"""


def compliance_gauges(workspace: Workspace) -> Iterator[tuple[str, str, float]]:
    """Name, meaning and value of each gauge that the dashboards of Grafana ask for."""
    trails, attestations, scans = map(Tally.of, (Trail, Attestation, SecurityScan))
    rate = percentage(trails["COMPLIANT"], trails.total())
    yield "trails_total", "Trails.", trails.total()
    yield "trails_compliant", "Trails that comply.", trails["COMPLIANT"]
    yield "trails_non_compliant", "Trails that do not comply.", trails["NON_COMPLIANT"]
    yield "attestations_total", "Attestations.", attestations.total()
    yield "attestations_passed", "Attestations that passed.", attestations["PASSED"]
    yield "attestations_failed", "Attestations that failed.", attestations["FAILED"]
    yield "security_scans_total", "Security scans.", scans["PASSED"] + scans["FAILED"]
    yield "security_scans_passed", "Scans without anything critical or high.", scans["PASSED"]
    yield "security_scans_failed", "Scans with something critical or high.", scans["FAILED"]
    yield "compliance_rate", "Percentage of all trails that comply, from 0 to 100.", rate
    pending, drifted = (workspace.fetch_row(sql)[0] for sql in (UNDECIDED, DRIFTED))
    yield "approvals_pending", "Approvals that somebody still has to decide.", pending
    yield "drift_detected", "Environments that differ from their baseline.", drifted


# --- Incoming webhooks --------------------------------------------------------
# CI systems tell of what they did. A config says which of them may tell of which flow.


class WebhookSource(Choice):
    """A CI system that sends webhooks, in any letter case."""

    def read(self, value):
        return super().read(value.upper() if isinstance(value, str) else value)


class WebhookConfig(Model):
    """A CI system that may tell of a flow, and the secret that it signs with."""

    fact, since = "webhook_config", 4
    schema_name = "WebhookConfigResponse"

    id = Uuid()
    source = WebhookSource("GITHUB JENKINS CIRCLECI GITLAB GENERIC", index=True)
    secret = Encrypted(
        255, 1, pattern=NOT_BLANK, hint="Expected text that is not blank", hidden=True
    )
    flow = Owner(Flow, index=True)
    is_active = Boolean(default=True)
    created_at = Timestamp(6, default=now_exactly)

    def has_signed(self, body: bytes, signature: str) -> bool:
        """Whether a signature in hexadecimal is HMAC-SHA-256 of the body under the secret."""
        expected = hmac.digest(self.secret.encode(), body, "sha256").hex()
        return hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace"))


class WebhookDelivery(Model):
    """A webhook that was taken, by the id that its sender gave it, and what came of it."""

    fact, made, key, since = "webhook_delivery", "taken", "webhook_config delivery_id", 4
    schema_name = "WebhookDeliveryResponse"
    derived: ClassVar[dict] = {
        "source": Derived(
            WebhookConfig.source,
            """json_quote((SELECT "source" FROM "webhook_config"
                WHERE "id" = t1."webhook_config_id"))""",
        )
    }

    id = Uuid()
    webhook_config = Owner(WebhookConfig, index=True, on_delete="CASCADE")
    delivery_id = Text(255, 1)
    event_type = Text(255, null=True)
    status = Choice("SUCCESS FAILED DUPLICATE")
    status_message = Text(10_000, null=True)
    received_at = Timestamp(6, default=now_exactly)


DELIVERIES = Array(
    WebhookDelivery, {"config": lambda config: WebhookDelivery.webhook_config == config}
)


class WebhookConfigs(
    Resource,
    surface=FACTSTORE,
    path="/api/v1/webhook-configs",
    model=WebhookConfig,
    scope="factstore",
    access="admin",
    tag="Webhooks",
    verbs="list create delete",
):
    """The CI systems that may tell of flows; their secrets are told to nobody again."""

    creates = Schema(
        WebhookConfig.source,
        WebhookConfig.secret,
        WebhookConfig.flow,
        name="CreateWebhookConfigRequest",
    )

    def create(self, context):
        """Let a CI system tell of a flow, in webhooks that it signs with this secret."""
        Flow.fetch(context.body["flow"])
        return super().create(context)

    def delete(self, context, key):
        """Delete a webhook config, and what was delivered under it."""
        return super().delete(context, key)


class WebhookDeliveries(
    Resource, surface=FACTSTORE, model=WebhookDelivery, scope="factstore", tag="Webhooks"
):
    """The webhooks that were taken."""

    @route(
        "GET /api/v1/webhook-configs/{webhookConfigId}/deliveries",
        id="listWebhookDeliveries",
        query=Paging(),
        answer=FACTSTORE.paged_schema("WebhookDeliveryResponse"),
    )
    def of_config(self, context, key):
        """List the webhooks that were taken under a config."""
        WebhookConfig.fetch(key)
        return FACTSTORE.array(context, DELIVERIES, {"config": key})


# --- Incoming events ----------------------------------------------------------
# What a webhook tells, and what follows for a trail: the table in section 6 of the notes.

#: The principal of a webhook is this and the id of the config whose secret signed it.
WEBHOOK_ACTOR = "webhook:"
#: The type and the status of what an event attests of its trail.
ATTESTING = {
    "build.succeeded": ("BUILD", "PASSED"),
    "build.failed": ("BUILD", "FAILED"),
    "test.passed": ("TEST", "PASSED"),
    "test.failed": ("TEST", "FAILED"),
    "scan.passed": ("SECURITY_SCAN", "PASSED"),
    "scan.failed": ("SECURITY_SCAN", "FAILED"),
}
#: The field of its trail in which an event names its author.
NAMING = {"deployment.triggered": "deployment_actor", "approval.granted": "pull_request_reviewer"}
EVENTS_OF_TRAILS = ("build.started", *ATTESTING, *NAMING)

GENERIC_WEBHOOK = Schema(
    event_type=Text(255),
    trail_id=Id(null=True),
    git_commit_sha=Text(255, null=True),
    git_branch=Text(255, null=True),
    git_author=Text(255, null=True),
    git_author_email=Text(255, null=True),
    attestation_type=Text(255, null=True),
    attestation_status=Choice("PASSED FAILED PENDING", null=True),
    details=Text(1_000_000, null=True),
    name="GenericWebhookPayload",
)
TEXT_OR_NULL = {"type": ["string", "null"]}
LOGIN = {"type": "object", "properties": {"login": TEXT_OR_NULL}}
GITHUB_WEBHOOK = {
    "type": "object",
    "properties": {
        "action": TEXT_OR_NULL,
        "sender": LOGIN,
        "workflow_run": {
            "type": "object",
            "properties": {
                "head_sha": TEXT_OR_NULL,
                "head_branch": TEXT_OR_NULL,
                "conclusion": TEXT_OR_NULL,
                "actor": LOGIN,
            },
        },
    },
}


class WebhookBody(Schema):
    """A body in either shape; which one it must have shows by its source, and it is read then."""

    def read(self, data, **options):
        return {}

    def describe(self):
        return {"anyOf": [GITHUB_WEBHOOK, GENERIC_WEBHOOK.describe()]}


def read_webhook(source: str, data: bytes, media_type: str, event: str) -> dict:
    """What a webhook tells, from its bytes; Invalid where they are not what the source sends.

    `event` is GitHub's own name for it, where it was told.
    """
    if media_type == FORM_MEDIA:
        # GitHub's other content type: the same JSON, in a form.
        data = read_form(data).get("payload", "").encode()
    told = read_json(data)
    if not isinstance(told, dict):
        raise Invalid("The body is not a JSON object.")
    told = read_github(told, event) if source == "GITHUB" else told
    # What is blank counts as absent.
    present = {member: value for member, value in told.items() if str(value or "").strip()}
    try:
        return GENERIC_WEBHOOK.read(present, coerce=True)
    except Faults as faults:
        raise Invalid(issues=[issue(*fault) for fault in faults.issues]) from None


def read_github(told: dict, event: str) -> dict:
    """GitHub's event `workflow_run` in the generic shape; another one by name is unknown."""
    action, conclusion = told.get("action"), dig(told, "workflow_run.conclusion")
    if event not in ("", "workflow_run"):
        # Of a check suite, say, which is completed with each of its workflows.
        return {"eventType": "unknown"}
    if action in ("requested", "in_progress"):
        event = "build.started"
    elif action == "completed":
        event = "build.succeeded" if conclusion == "success" else "build.failed"
    else:
        return {"eventType": "unknown"}
    return {
        "eventType": event,
        "gitCommitSha": dig(told, "workflow_run.head_sha"),
        "gitBranch": dig(told, "workflow_run.head_branch"),
        "gitAuthor": dig(told, "sender.login") or dig(told, "workflow_run.actor.login"),
    }


def trail_of_webhook(config: WebhookConfig, told: Mapping[str, str]) -> Trail:
    """The trail that a webhook names, or else the first of its commit, or else a new one."""
    trail = "trail_id" in told and Trail.seek(told["trail_id"])
    if not trail and "git_commit_sha" in told:
        trail = Trail.seek(flow=config.flow_id, git_commit_sha=told["git_commit_sha"])
    return trail or begin_trail(
        {
            "flow": config.flow_id,
            "git_commit_sha": told.get("git_commit_sha", "unknown"),
            "git_branch": told.get("git_branch", "unknown"),
            "git_author": told.get("git_author", "webhook"),
            "git_author_email": told.get("git_author_email", "webhook@factstore"),
        }
    )


def act_on_webhook(config: WebhookConfig, delivery_id: str, told: Mapping[str, str]) -> str:
    """Do what a webhook is for; a sentence about it."""
    event = told["event_type"]
    if event not in EVENTS_OF_TRAILS:
        return f"The event {event} was recorded; nothing follows from it."
    trail = trail_of_webhook(config, told)
    if event in NAMING:
        trail.change(**{NAMING[event]: told.get("git_author")})
    if event not in ATTESTING:
        return f"The event {event} was recorded for the trail {trail.id}."
    given = told.get("attestation_type"), told.get("attestation_status")
    kind, status = given if all(given) else ATTESTING[event]
    sender = {"source": config.source, "deliveryId": delivery_id}
    record_attestation(trail, sender, type=kind, status=status, details=told.get("details"))
    return f"The attestation {kind} {status} was recorded on the trail {trail.id}."


class IncomingEvents(Resource, surface=FACTSTORE, tag="Webhooks"):
    """What CI systems tell; no delivery has its effect twice."""

    def signer(self, context: Context, source: str) -> Principal | None:
        """The first config of a source whose secret has signed the body, as the caller."""
        source, header = read_in_path(WebhookConfig.source, source), context.request.get_header
        told = header("X-Hub-Signature-256") or header("X-Webhook-Signature") or ""
        signature = told.strip().lower().removeprefix("sha256=")
        active = (WebhookConfig.source == source) & WebhookConfig.is_active
        configs = WebhookConfig.select().where(active).order_by(peewee.SQL('"t1"."rowid"'))
        # Each is tried, whichever fits, so that the time taken tells nothing.
        fitting = [config for config in configs if config.has_signed(context.raw, signature)]
        return Principal(WEBHOOK_ACTOR + fitting[0].id) if fitting else None

    @route(
        "POST /api/v1/webhooks/{source}",
        id="receiveWebhook",
        public=True,
        signed="signer",
        body=WebhookBody(),
        # The handler parses it, as what cannot be read is recorded, too.
        media=MappingProxyType({"application/json": bytes, FORM_MEDIA: bytes}),
        request_headers=(
            "X-Hub-Signature-256",
            "X-Webhook-Signature",
            "X-Delivery-Id",
            "X-GitHub-Delivery",
        ),
        answer=closed_schema(accepted=Boolean().describe(), deliveryId=TEXT, message=TEXT),
    )
    def take(self, context, source):
        """Take what a CI system tells, signed with the secret of a webhook config."""
        config = WebhookConfig.fetch(context.principal.id.removeprefix(WEBHOOK_ACTOR))
        key = self.delivery_id(context)
        if WebhookDelivery.has(webhook_config=config.id, delivery_id=key):
            message = "This delivery was taken before; nothing was done."
            return {"accepted": True, "deliveryId": key, "message": message}
        delivery = {"webhook_config": config.id, "delivery_id": key}
        try:
            event = context.request.get_header("X-GitHub-Event", default="")
            told = read_webhook(config.source, context.raw, context.media_type(), event)
        except Invalid as problem:
            refusal = FACTSTORE.present_problem(problem, context)
            WebhookDelivery.create(
                **delivery, status="FAILED", status_message=refusal["message"][:10_000]
            )
            return Reply(problem.status, to_json(refusal).encode())
        message = act_on_webhook(config, key, told)
        WebhookDelivery.create(
            **delivery, event_type=told["event_type"], status="SUCCESS", status_message=message
        )
        return {"accepted": True, "deliveryId": key, "message": message}

    def delivery_id(self, context: Context) -> str:
        """The id by which a repeat of a delivery is known, random where the sender tells none."""
        header = context.request.get_header
        told = header("X-Delivery-Id") or header("X-GitHub-Delivery") or context.lite.source.uuid()
        return read_in_path(WebhookDelivery.delivery_id, told)


# --- Slack --------------------------------------------------------------------
# Messages to the channel of an organisation, through Slack's Web API.

#: What Slack says of a message that may well be taken later (Web API, chat.postMessage).
SLACK_RETRIES = (
    "ratelimited", "rate_limited", "internal_error", "fatal_error", "service_unavailable",
    "request_timeout", "team_added_to_org",
)  # fmt: skip


class SlackConfig(Belonging, Model):
    """An organisation's place in Slack: a channel, the bot that posts there, and the secret that
    signs what comes from there."""

    fact, key, touched, since = "slack_config", "org_slug", True, 4
    schema_name = "SlackConfigResponse"

    id = Uuid()
    org_slug = Text(255)
    bot_token = Encrypted(
        255, 1, pattern="[!-~]+", hint="Expected a token of visible ASCII characters", hidden=True
    )
    signing_secret = Encrypted(
        255, 1, pattern="[!-~]+", hint="Expected a secret of visible ASCII characters", hidden=True
    )
    channel = Name()
    created_at = Timestamp(6, default=now_exactly)
    updated_at = Timestamp(6, default=now_exactly)

    @classmethod
    def of(cls, slug: str) -> SlackConfig:
        """The settings of an organisation, which need not be there itself; or NotFound."""
        found = cls.seek(org_slug=slug)
        if found is None:
            raise NotFound(f"Organisation '{slug}' has no Slack settings.")
        return found

    @classmethod
    def end_with(cls, slug):
        for config in cls.select().where(cls.org_slug == slug):
            config.remove()

    def remove(self):
        # What waits goes too, at once: there may be much, and none of it is a fact.
        SlackMessage.delete().where(SlackMessage.config == self).execute()
        super().remove()


class SlackMessage(Errand):
    """A text on its way to the channel of an organisation."""

    lane, since = "config", 4

    id = Uuid()
    config = ForeignKey(SlackConfig, index=True)
    text = Text(40_000)

    @classmethod
    def post(cls, config: SlackConfig, lines: Iterable[str]) -> SlackMessage:
        """Put a message on its way."""
        message, current = cls.send(config=config.id, text=slack_text(lines)), session()
        current.workspace.journal.note(current, "slack_message.posted", "slack_message", message.id)
        return message

    @classmethod
    def waiting(cls, moment, failing):
        return super().waiting(moment, failing).select(cls, SlackConfig).join(SlackConfig)

    def letter(self, workspace, at):
        url = f"{workspace.settings.slack_url.rstrip('/')}/chat.postMessage"
        body = to_json({"channel": self.config.channel, "text": self.text}).encode()
        headers = {"Content-Type": "application/json; charset=utf-8"}
        return Letter(url, body, headers | {"Authorization": f"Bearer {self.config.bot_token}"})

    def accepts(self, sent):
        return slack_verdict(sent) == "ok"

    def settle(self, sent, at):
        verdict = slack_verdict(sent)
        if verdict in ("ratelimited", "rate_limited"):
            # Said with status 200, it means what it means with 429.
            sent = sent._replace(status=429)
        super().settle(sent, at)
        if verdict in ("", "ok"):
            return
        self.change(note=f"Slack refused the message: {verdict}.")
        if verdict not in SLACK_RETRIES:
            self.change(state="failed", due_at=None)


def slack_verdict(sent: Answer) -> str:
    """What Slack says of a message: ok, the name of its error, or nothing where it says neither."""
    if sent.status != 200:
        return ""
    told = sent.json
    if dig(told, "ok") is True:
        return "ok"
    error = dig(told, "error")
    known = isinstance(error, str) and re.fullmatch("[a-z0-9_]{1,100}", error)
    return error if known else ""


def list_some(names: Sequence[str], at_most: int = 20) -> str:
    """Names in a sentence, and how many more there are."""
    rest = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" and {rest} more" if rest > 0 else "")


class SlackConfigs(
    Resource,
    surface=FACTSTORE,
    model=SlackConfig,
    scope="factstore",
    access="admin",
    tag="Slack",
    schema_name="SlackConfigResponse",
):
    """The places of organisations in Slack: one each, without the secrets."""

    @route(
        "GET /api/v1/organisations/{slug}/slack",
        id="getSlackConfig",
        answer=FACTSTORE.one_schema("SlackConfigResponse"),
    )
    def read(self, context, slug):
        """Get the Slack settings of an organisation."""
        return SlackConfig.of(organisation_slug(slug))

    @route(
        "POST /api/v1/organisations/{slug}/slack",
        id="configureSlack",
        body=Schema(
            SlackConfig.bot_token,
            SlackConfig.signing_secret,
            SlackConfig.channel,
            name="ConfigureSlackRequest",
        ),
        answer=FACTSTORE.one_schema("SlackConfigResponse"),
    )
    def configure(self, context, slug):
        """Store the Slack settings of an organisation, instead of those before."""
        slug = organisation_slug(slug)
        config = SlackConfig.seek(org_slug=slug)
        if config is None:
            return SlackConfig.create(org_slug=slug, **context.body)
        config.change(**context.body)
        return config

    @route("DELETE /api/v1/organisations/{slug}/slack", id="removeSlack", status=204)
    def forget(self, context, slug):
        """Forget the Slack settings of an organisation, and drop what was on its way there."""
        config = SlackConfig.of(organisation_slug(slug))
        told = config.json()
        config.remove()
        return told


class SlackNotices(Resource, surface=FACTSTORE, scope="factstore", tag="Slack"):
    """Messages to the channels of organisations; each is sent until Slack takes it."""

    @route(
        "POST /api/v1/organisations/{slug}/slack/notify/trail-non-compliant",
        id="notifySlackTrailNonCompliant",
        body=Schema(
            trail_id=Id(),
            flow_name=Text(255),
            missing_attestation_types=Json(ListOf(Text(255))),
            failed_attestation_types=Json(ListOf(Text(255))),
            trail_url=Text(2048, null=True),
            name="TrailNonCompliantNotificationRequest",
        ),
        status=202,
    )
    def trail_non_compliant(self, context, slug):
        """Tell the channel of an organisation that a trail is not compliant."""
        body = context.body
        told = {
            "Flow": body["flow_name"],
            "Missing": list_some(body["missing_attestation_types"]),
            "Failed": list_some(body["failed_attestation_types"]),
            "Details": body.get("trail_url"),
        }
        lines = [f"🚨 Trail {body['trail_id']} is not compliant."]
        lines += [f"{name}: {value}" for name, value in told.items() if value]
        SlackMessage.post(SlackConfig.of(organisation_slug(slug)), lines)

    @route(
        "POST /api/v1/organisations/{slug}/slack/notify/approval-requested",
        id="notifySlackApprovalRequested",
        body=Schema(
            approval_id=Text(255),
            artifact_sha=Text(255),
            target_environment=Text(255),
            required_approvers=Json(ListOf(Text(255))),
            name="ApprovalRequestedNotificationRequest",
        ),
        status=202,
    )
    def approval_requested(self, context, slug):
        """Tell the channel of an organisation that an approval is asked for."""
        body = context.body
        key = body["approval_id"]
        lines = [
            f"🔔 Approval {key} is asked for.",
            f"Artifact: {body['artifact_sha']}",
            f"Environment: {body['target_environment']}",
            f"Approvers: {list_some(body['required_approvers']) or 'anybody'}",
            f"Decide with `approve {key}` or `reject {key}`, and a comment if you like.",
        ]
        SlackMessage.post(SlackConfig.of(organisation_slug(slug)), lines)


# --- Slack commands -----------------------------------------------------------
# What people in Slack ask for and do. Slack shows nothing but answers of status 200.

SLACK_LISTED = 10
SLACK_HELP = (
    "What you can ask for:",
    "`search PREFIX`: artifacts whose digest starts so, such as sha256:4f2a",
    "`trail UUID`: a trail and its attestations",
    "`env NAME`: what runs in an environment, and whether it may",
    "`approve ID [comment]` and `reject ID [comment]`: decide on an approval",
    "`help`: this text",
)
SLACK_MARKS = MappingProxyType({"PASSED": "✅", "FAILED": "❌", "PENDING": "⏳"})
SLACK_BUTTONS = MappingProxyType({"approve_release": "approve", "reject_release": "reject"})


def find_in_slack(text: str) -> list[str]:
    """What a command asks to be shown, or help."""
    word, argument = (*text.split(None, 2), "", "")[:2]
    match word.lower():
        case "search" if argument:
            return show_artifacts(argument)
        case "trail" if UUID.fullmatch(argument.lower()):
            return show_trail(argument.lower())
        case "env" if argument:
            return show_environment(text.split(None, 1)[1].strip())
        case "" | "help" | "search" | "trail" | "env" | "approve" | "reject":
            return list(SLACK_HELP)
    return [f"There is no command `{text[:200]}`; `help` tells which there are."]


def show_artifacts(prefix: str) -> list[str]:
    """The artifacts whose digest starts with a prefix, the first few of them."""
    digest = Artifact.sha256_digest
    starting = Artifact.select(Artifact.image_name, Artifact.image_tag, digest).where(
        digest >= prefix, digest < prefix + chr(0x10FFFF)
    )
    found = list(starting.order_by(digest).limit(SLACK_LISTED + 1).tuples())
    if not found:
        return [f"There is no artifact whose digest starts with {prefix}."]
    lines = [f"{name}:{tag} {digest}" for name, tag, digest in found[:SLACK_LISTED]]
    return lines + ["… and more: a longer prefix finds fewer."] * (len(found) > SLACK_LISTED)


def show_trail(key: str) -> list[str]:
    """A trail, and what was attested on it."""
    trail = Trail.seek(key)
    if trail is None:
        return [f"There is no trail {key}."]
    said = Attestation.select(Attestation.status, Attestation.type).where(
        Attestation.trail == trail
    )
    rows = said.order_by(peewee.SQL('"t1"."rowid"')).limit(51).tuples()
    lines = [f"{SLACK_MARKS[status]} {kind}" for status, kind in rows]
    return [
        f"Trail {trail.id}",
        f"Flow: {trail.flow.name}",
        f"Commit: {trail.git_commit_sha}",
        f"Branch: {trail.git_branch}",
        f"Author: {trail.git_author}",
        f"Status: {trail.status}",
        *(lines[:50] or ["There are no attestations."]),
        *["… and more attestations."] * (len(lines) > 50),
    ]


def show_environment(name: str) -> list[str]:
    """What runs in an environment, whether it may, and whether it drifted."""
    environment = Environment.seek(name=name)
    if environment is None:
        return [f"There is no environment '{name}'."]
    snapshot = EnvironmentSnapshot.last(environment=environment.id)
    lines = [f"Environment {name} ({environment.type})"]
    lines += [f"Compliance: {environment.json()['complianceState']}"]
    if snapshot is None:
        return [*lines, "There is no snapshot of it yet."]
    lines += [f"Snapshot: {snapshot.snapshot_index} of {snapshot.recorded_at}"]
    lines += [f"Artifacts: {len(snapshot.artifacts)}"]
    report = DriftReport.last(environment=environment.id)
    if report:
        lines += ["It drifted from its baseline." if report.has_drift else "It did not drift."]
    return lines


def decide_in_slack(verb: str, key: str, speaker: str, comment: str) -> list[str]:
    """Approve or reject as somebody in Slack, and tell what came of it."""
    approval = Approval.seek(key.lower())
    if approval is None:
        return [f"There is no approval {key[:200]}."]
    approvers = approval.required_approvers
    # Approvers may be named as Slack knows them, or so that nobody outside of Slack is meant.
    known = (name for name in (speaker, speaker.removeprefix("slack:")) if name in approvers)
    identity = next(known, speaker)
    if approvers and identity not in approvers:
        names = list_some(approvers)
        return [f"Approval {approval.id} is for {names} to decide; here you are {speaker}."]
    # Whoever reads the audit log wants to know who it was, not which channel it came through.
    session().actor = speaker
    said = {"approver_identity": identity, "comments": comment or None}
    try:
        {"approve": approve, "reject": reject}[verb](approval, said)
    except Conflict as problem:
        return [str(problem)]
    told = approval.json()
    heard = {decision["approverIdentity"] for decision in told["decisions"]}
    missing = [name for name in approvers if name not in heard]
    sentence = {
        "APPROVED": f"✅ Approval {approval.id} is granted by {speaker}.",
        "REJECTED": f"❌ Approval {approval.id} is rejected by {speaker}.",
        "PENDING_APPROVAL": f"⏳ {speaker} approves {approval.id}, which still waits for "
        f"{list_some(missing)}.",
    }[told["status"]]
    return [sentence, *[f"Comment: {comment}"] * bool(comment)]


def speaker_in_slack(*names: Any) -> str:
    """Who acts, by the first usable name that Slack gives."""
    usable = (name for name in names if isinstance(name, str) and 0 < len(name.strip()) <= 200)
    return f"slack:{next(usable, 'unknown').strip()}"


# --- Slack requests -----------------------------------------------------------
# What comes from Slack: known by its signature, and answered once.

#: Seconds by which the time of a request may be off (Slack, Verifying requests).
SLACK_WINDOW = 300


class SlackRequest(Model):
    """A request from Slack that was answered, by its signature: a repeat does nothing."""

    since = 4

    id = Text(primary_key=True)
    expires_at = Timestamp(index=True)

    @classmethod
    def is_new(cls, signature: str, timestamp: str) -> bool:
        """Whether a request comes for the first time; from now on, it does not."""
        source = session().source
        cls.delete().where(cls.expires_at < source.now()).execute()
        key = signature.lower()
        if cls.has(key):
            return False
        cls.create(id=key, expires_at=source.timestamp(int(timestamp) + SLACK_WINDOW))
        return True


def slack_headers(context: Context) -> tuple[str, str]:
    """The signature of a request, and the time that it states."""
    names = ("X-Slack-Signature", "X-Slack-Request-Timestamp")
    return tuple(context.request.get_header(name, default="") for name in names)


def is_from_slack(secret: str, context: Context) -> bool:
    """Whether a request was signed with a secret, and just now."""
    signature, timestamp = slack_headers(context)
    signed = b"v0:%b:%b" % (timestamp.encode("utf-8", "replace"), context.raw)
    expected = b"v0=" + hmac.digest(secret.encode(), signed, "sha256").hex().encode()
    verified = hmac.compare_digest(expected, signature.lower().encode("utf-8", "replace"))
    if not re.fullmatch("[0-9]{1,12}", timestamp):
        return False
    return verified and abs(context.lite.source.clock() - int(timestamp)) <= SLACK_WINDOW


class SlackForm(Schema):
    """A form of Slack, which spells its members as Python does."""

    def __init__(self, name: str, **own: Member):
        super().__init__(name=name)
        self.members = {member: (member, field) for member, field in own.items()}


SLACK_ANSWER = {
    "type": "object",
    "required": ["responseType", "text"],
    "properties": {
        "responseType": {"type": "string"},
        # The name by which Slack itself knows it.
        "response_type": {"type": "string"},
        "text": {"type": "string"},
    },
}


def answer_slack(lines: Iterable[str]) -> dict:
    """Lines as Slack shows them in a channel."""
    text = slack_text(lines)
    return {"responseType": "in_channel", "response_type": "in_channel", "text": text}


FROM_SLACK = MappingProxyType(
    {
        "public": True,
        "signed": "signer",
        "media": MappingProxyType({"application/x-www-form-urlencoded": read_form}),
        "request_headers": ("X-Slack-Signature", "X-Slack-Request-Timestamp"),
        "answer": SLACK_ANSWER,
    }
)


class SlackCommands(Resource, surface=FACTSTORE, tag="Slack"):
    """What comes from Slack, known by its signature."""

    def signer(self, context: Context, slug: str) -> Principal | None:
        """Slack, where a request is signed with the secret of an organisation."""
        slug = organisation_slug(slug)
        if not is_from_slack(SlackConfig.of(slug).signing_secret, context):
            return None
        return Principal(f"slack:{slug}", name="Slack")

    @route(
        "POST /api/v1/organisations/{slug}/slack/commands",
        id="handleSlackCommand",
        body=SlackForm(
            "SlackSlashCommandForm",
            text=Text(default=""),
            user_id=Text(default=""),
            user_name=Text(default=""),
        ),
        **FROM_SLACK,
    )
    def command(self, context, slug):
        """Answer a slash command, once."""
        if not SlackRequest.is_new(*slack_headers(context)):
            return answer_slack(["This was answered before."])
        text = context.body.get("text", "")
        word, key, comment = (*text.split(None, 2), "", "", "")[:3]
        if word.lower() in SLACK_BUTTONS.values() and key:
            names = context.body.get("user_name"), context.body.get("user_id")
            speaker = speaker_in_slack(*names)
            return answer_slack(decide_in_slack(word.lower(), key, speaker, comment))
        return answer_slack(find_in_slack(text))

    @route(
        "POST /api/v1/organisations/{slug}/slack/actions",
        id="handleSlackAction",
        body=LenientRequest(payload=Text(1_000_000), demanded="payload", name="SlackActionForm"),
        # What is not signed is refused as everywhere, what has no payload in Slack's own way.
        others={400: {"anyOf": [{"$ref": "#/components/schemas/FactstoreError"}, SLACK_ANSWER]}},
        **FROM_SLACK,
    )
    def act(self, context, slug):
        """Do what a button says that was pressed, once."""
        if "payload" not in context.body:
            told = answer_slack(["The form has no payload."])
            return Reply(400, to_json(told).encode())
        if not SlackRequest.is_new(*slack_headers(context)):
            return answer_slack(["This was answered before."])
        try:
            told = read_json(context.body["payload"].encode())
        except Invalid:
            told = None
        pressed = dig(told, "actions")
        first = pressed[0] if isinstance(pressed, list) and pressed else None
        name, key = dig(first, "action_id"), dig(first, "value")
        if not (isinstance(name, str) and name in SLACK_BUTTONS and isinstance(key, str)):
            return answer_slack(["This button does nothing here."])
        speaker = speaker_in_slack(dig(told, "user.username"))
        return answer_slack(decide_in_slack(SLACK_BUTTONS[name], key, speaker, ""))


# --- Atlassian ----------------------------------------------------------------
# What Jira and Confluence have in common: where they are, and who calls there.


class SiteUrl(Text):
    """The base URL of a server, kept without slashes at its end."""

    def read(self, value):
        url = super().read(value).rstrip("/")
        try:
            parts, _ = split_target(url)
        except Invalid as problem:
            raise ValueError(str(problem)) from None
        if parts.query or parts.fragment or url.endswith(("?", "#")):
            raise ValueError("Expected a URL without query and fragment")
        return url


class UserName(Text):
    """A user name as HTTP Basic takes one (RFC 7617)."""

    def __init__(self, **options: Any):
        hint = "Expected a name without a colon"
        super().__init__(255, 1, pattern="[^:\\x00-\\x1f\\x7f]+", hint=hint, **options)


class AtlassianSite(Model):
    """The one connection of a workspace to a product of Atlassian."""

    abstract: ClassVar[bool] = True
    #: What people call the product.
    title: ClassVar[str]
    base_url: str
    username: str
    api_token: str

    @classmethod
    def only(cls) -> AtlassianSite | None:
        """The connection, if there is one."""
        return cls.seek()

    @classmethod
    def stored(cls) -> AtlassianSite:
        """The connection, or NotFound."""
        site = cls.only()
        if site is None:
            raise NotFound(f"{cls.title} is not configured.")
        return site

    @classmethod
    def keep(cls, values: Mapping[str, Any]) -> AtlassianSite:
        """Store the connection, instead of the one before."""
        site = cls.only()
        if site is None:
            return cls.create(**values)
        site.change(**values)
        return site

    def headers(self) -> dict[str, str]:
        """The headers of every request, the credentials among them."""
        credentials = base64.b64encode(f"{self.username}:{self.api_token}".encode()).decode()
        return {"Accept": "application/json", "Authorization": f"Basic {credentials}"}

    def ask(self, transport: Transport, path: str) -> Answer:
        """What is answered when a path is read."""
        return transport.get(self.base_url + path, self.headers())

    def explain(self, answer: Answer) -> str:
        """Why an answer is of no use."""
        reasons = {
            401: f"{self.title} refused the user name or the token.",
            403: f"{self.title} does not let this user do that.",
            200: f"{self.title} gave an answer that cannot be understood.",
        }
        return reasons.get(answer.status, f"{self.title} gave no usable answer. {answer.note}")

    def probe_path(self) -> str:
        """What is read to see whether the connection works."""
        raise NotImplementedError

    def probe(self, transport: Transport) -> dict:
        """Whether the connection works, and if not, why."""
        answer = self.ask(transport, self.probe_path())
        # Whoever is not known may be shown a page for people, with a good status.
        works = answer.status == 200 and isinstance(answer.json, dict)
        sentence = f"{self.title} knows {self.username}." if works else self.explain(answer)
        return {"success": works, "message": sentence}


CONNECTION_TEST = {
    "type": "object",
    "required": ["success", "message"],
    "properties": {"success": {"type": "boolean"}, "message": {"type": "string"}},
}


#: How a connection is stored: the name in its URL may take seconds to resolve.
KEPT = MappingProxyType({"before": "check"})
#: How a connection is tried.
TRIED = MappingProxyType({"answer": CONNECTION_TEST, "before": "probe"})


class SiteKeeper:
    """Mixed into the resource of a connection: what is found out before its handlers."""

    def check(self, context: Context) -> None:
        """Refuse a URL that nothing may be sent to."""
        check_target(context.body["base_url"], allowed_networks(context.settings))

    def probe(self, context: Context) -> dict:
        """What comes of a first request over the connection."""
        site = self.model.only()
        if site is None:
            return {"success": False, "message": f"{self.model.title} is not configured."}
        return site.probe(context.lite.transport)


# --- Jira ---------------------------------------------------------------------
# Tickets are put down here first; an errand carries each to Jira (REST API, version 2).

#: Seconds that one sync may wait for Jira, and how many tickets of a kind it takes up.
SYNC_TIME, SYNC_BATCH = 20, 100
#: How a server says that it does not have an operation.
NO_OPERATION = (404, 405, 410, 501)


class JiraConnection(AtlassianSite):
    """Where Jira is, and as whom tickets are made there."""

    fact, touched, since = "jira_connection", True, 4
    schema_name = "JiraConfigResponse"
    title = "Jira"

    id = Uuid()
    base_url = SiteUrl(255, 1, column_name="jira_base_url")
    username = UserName(column_name="jira_username")
    api_token = Encrypted(255, 1, column_name="jira_api_token", hidden=True)
    default_project_key = Name()
    created_at = Timestamp(6, default=now_exactly)
    updated_at = Timestamp(6, default=now_exactly)

    def probe_path(self):
        return "/rest/api/2/myself"

    def find_issue(self, transport: Transport, label: str) -> Answer | None:
        """The answer that tells the issue with a label, or why nobody knows; None for no issue."""
        query = urllib.parse.urlencode({"jql": f'labels = "{label}"', "fields": "status"})
        # Jira Cloud has moved the operation, which Data Center has under its old path only.
        for path in ("/rest/api/2/search", "/rest/api/2/search/jql"):
            answer = self.ask(transport, f"{path}?{query}")
            if answer.status not in NO_OPERATION:
                break
        else:
            return None
        found = dig(answer.json, "issues")
        if answer.status == 200 and isinstance(found, list):
            one = [answer._replace(body=to_json(issue).encode()) for issue in found[:1]]
            return one[0] if one else None
        # Not knowing is no refusal of the ticket: it is tried again.
        status = 0 if answer.status == 400 else answer.status
        return answer._replace(status=status, body=None)


class JiraTicket(Model):
    """An issue in Jira that somebody asked for here, or one that Jira is still to make."""

    fact, since, lookup = "jira_ticket", 4, "stage refreshed_at"
    key = "synced_for"
    schema_name = "JiraTicketResponse"

    id = Uuid()
    ticket_key = Text(255)
    summary = Name(512)
    #: Pending until Jira has made the issue, Failed if it will not; else as Jira calls it.
    status = Text(255, default="Pending")
    issue_type = Name(default="Task")
    project_key = Text(255)
    trail_id = Id(null=True, index=True)
    created_at = Timestamp(6, default=now_exactly)
    #: Why it is Pending or Failed.
    problem = Text(1000, null=True)
    #: The trail that a sync made it for: one ticket for each.
    synced_for = Id(null=True, hidden=True)
    #: Of pending, failed, open and closed: Jira may call a status whatever it likes.
    stage = Text(10, default="pending", hidden=True)
    refreshed_at = Timestamp(6, null=True, hidden=True)

    @property
    def label(self) -> str:
        """What the issue is found by, whether or not Jira's answer arrived."""
        return f"factstore-{self.id}"

    def fields(self) -> dict:
        """The issue as Jira takes it: a summary is one line of at most 255 characters."""
        return {
            "project": {"key": self.project_key},
            "summary": " ".join(self.summary.split())[:255],
            "issuetype": {"name": self.issue_type},
            "labels": [self.label],
        }

    def refresh(self, told: Any) -> bool:
        """Take over the status that Jira tells of the issue; say whether it told one."""
        name, kind = dig(told, "fields.status.name"), dig(told, "fields.status.statusCategory.key")
        known = isinstance(name, str) and 0 < len(name) <= 255
        status = {"status": name} if known else {}
        stage = "closed" if kind == "done" else "open"
        self.change(stage=stage, refreshed_at=now_exactly(), **status)
        return known


class JiraPosting(Errand):
    """A ticket on its way to Jira."""

    lane, since = "connection", 4

    id = Uuid()
    connection = ForeignKey(JiraConnection, index=True)
    ticket = ForeignKey(JiraTicket, index=True)

    @classmethod
    def begin(cls, connection: JiraConnection, ticket: JiraTicket) -> JiraPosting:
        """Put down that a request is about to send a ticket; the dispatcher does if that ends."""
        current = session()
        # All that the request may take: the time of a sync, and that of its last attempt.
        grace = SYNC_TIME + 4 * current.workspace.settings.webhook_timeout
        due = current.source.timestamp(current.source.clock() + grace)
        return cls.create(connection=connection.id, ticket=ticket.id, due_at=due)

    @classmethod
    def waiting(cls, moment, failing):
        due = super().waiting(moment, failing).select(cls, JiraConnection, JiraTicket)
        return due.join(JiraConnection).switch(cls).join(JiraTicket)

    def letter(self, workspace, at):
        body = to_json({"fields": self.ticket.fields()}).encode()
        headers = self.connection.headers()
        return Letter(f"{self.connection.base_url}/rest/api/2/issue", body, headers)

    def deliver(self, workspace, transport, at):
        # Of an attempt before, only the answer may have been lost.
        found = self.connection.find_issue(transport, self.ticket.label)
        return found or super().deliver(workspace, transport, at)

    def deliver_first(self, workspace: Workspace, transport: Transport, at: float) -> Answer:
        """Make the attempt before which there was none."""
        return super().deliver(workspace, transport, at)

    def accepts(self, sent):
        return super().accepts(sent) and issue_key(sent) is not None

    def settle(self, sent, at):
        if self.state != "due":
            # A request that took too long finds that the dispatcher came to an end before.
            return
        super().settle(sent, at)
        if self.state == "done":
            self.ticket.change(
                ticket_key=issue_key(sent), status="Open", stage="open", problem=None
            )
            return
        self.change(note=issue_complaint(sent) or self.connection.explain(sent))
        if sent.status == 400:
            self.change(state="failed", due_at=None)
        if self.state == "failed":
            self.ticket.change(status="Failed", stage="failed")
        self.ticket.change(problem=self.note)


def issue_key(sent: Answer) -> str | None:
    """The key of an issue in an answer."""
    key = dig(sent.json, "key")
    known = isinstance(key, str) and re.fullmatch("[A-Za-z0-9_]{1,200}-[0-9]{1,20}", key)
    return key if known else None


def issue_complaint(sent: Answer) -> str:
    """What Jira has against an issue, in its own words."""
    if sent.status != 400:
        return ""
    said, faults = dig(sent.json, "errorMessages"), dig(sent.json, "errors")
    words = [str(word) for word in said] if isinstance(said, list) else []
    if isinstance(faults, dict):
        words += [f"{name}: {word}" for name, word in faults.items()]
    return f"Jira refused the ticket. {' '.join(words)[:900]}".strip()


def make_ticket(connection: JiraConnection, **values: Any) -> JiraPosting:
    """Put a ticket down that Jira does not know of yet, and that it is about to be sent."""
    project = connection.default_project_key
    mark = session().source.random.randbytes(4).hex().upper()
    ticket = JiraTicket.create(
        ticket_key=f"{project}-PENDING-{mark}", project_key=project, **values
    )
    return JiraPosting.begin(connection, ticket)


class JiraConnections(
    SiteKeeper,
    Resource,
    surface=FACTSTORE,
    model=JiraConnection,
    scope="factstore",
    access="admin",
    tag="Atlassian",
    schema_name="JiraConfigResponse",
):
    """The connection to Jira, without its token."""

    @route(
        "GET /api/v1/integrations/jira/config",
        id="getJiraConfig",
        answer=FACTSTORE.one_schema("JiraConfigResponse"),
    )
    def read(self, context):
        """Get the connection to Jira."""
        return JiraConnection.stored()

    @route(
        "POST /api/v1/integrations/jira/config",
        id="saveJiraConfig",
        body=Schema(
            JiraConnection.base_url,
            JiraConnection.username,
            JiraConnection.api_token,
            JiraConnection.default_project_key,
            name="JiraConfigRequest",
        ),
        answer=FACTSTORE.one_schema("JiraConfigResponse"),
        **KEPT,
    )
    def keep(self, context):
        """Store the connection to Jira, instead of the one before."""
        return JiraConnection.keep(context.body)

    @route(
        "POST /api/v1/integrations/jira/test",
        id="testJira",
        **TRIED,
    )
    def test(self, context):
        """Try the connection to Jira."""
        return context.prepared


# --- Jira tickets -------------------------------------------------------------


class JiraSync:
    """One exchange with Jira over what is missing there and what may be news here.

    Tickets are put down in a transaction of its own before anything is sent, and `settle` writes
    down in another what came of it; while Jira is waited for, none is open.
    """

    def __init__(self, context: Context, connection: JiraConnection):
        self.context, self.connection = context, connection
        self.deadline = time.monotonic() + SYNC_TIME
        self.sent: list[tuple[JiraPosting, Answer]] = []
        self.read: list[tuple[JiraTicket, Answer]] = []
        self.waiting = 0

    def run(self) -> JiraSync:
        """Send what is missing, then read what may have changed, as far as time allows."""
        workspace, lite = self.context.workspace, self.context.lite
        trails, at = list(trails_without_ticket()), lite.source.clock()
        first, again = write_before(self.context, lambda current: self.begin(trails))
        self.waiting = len(first) + len(again)
        for postings, attempt in ((first, JiraPosting.deliver_first), (again, JiraPosting.deliver)):
            for key in postings:
                posting = JiraPosting.fetch(key)
                answer = attempt(posting, workspace, lite.transport, at)
                self.sent.append((posting, answer))
                if not self.goes_on(answer):
                    return self
        for ticket in open_tickets():
            path = f"/rest/api/2/issue/{segments(ticket.ticket_key)}?fields=status"
            answer = self.connection.ask(lite.transport, path)
            self.read.append((ticket, answer))
            if not self.goes_on(answer):
                break
        return self

    def begin(self, trails: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
        """Put down what is about to be sent: for the first time, and again after a refusal."""
        first = [
            make_ticket(self.connection, summary=summary, trail_id=key, synced_for=key).id
            for key, summary in trails
            # Another sync may have come first.
            if not JiraTicket.has(trail_id=key)
        ]
        refused = JiraTicket.select().where(JiraTicket.stage == "failed").limit(SYNC_BATCH)
        again = []
        for ticket in list(refused):
            ticket.change(status="Pending", stage="pending")
            again.append(JiraPosting.begin(self.connection, ticket).id)
        return first, again

    def goes_on(self, answer: Answer) -> bool:
        """Whether Jira may be asked more: it is there, knows us, and there is time left."""
        usable = 200 <= answer.status < 300 or answer.status in (400, 404)
        return usable and time.monotonic() < self.deadline

    def settle(self, at: float) -> dict:
        """Write down what came of it, and tell how much was exchanged."""
        made = read = 0
        for posting, answer in self.sent:
            JiraPosting.fetch(posting.id).settle(answer, at)
            made += posting.accepts(answer)
        for ticket, answer in self.read:
            if answer.status == 200:
                read += JiraTicket.fetch(ticket.id).refresh(answer.json)
            elif answer.status == 404:
                # Somebody took it away, or out of this user's sight.
                JiraTicket.fetch(ticket.id).refresh(None)
        sentence = f"Tickets made in Jira: {made}, read from there: {read}"
        waits = self.waiting - made
        sentence += f", waiting for Jira: {waits}." if waits else "."
        return {"syncedCount": made + read, "message": sentence}


def trails_without_ticket() -> Iterator[tuple[str, str]]:
    """Some of the trails that are not compliant and have no ticket: id, and a summary."""
    has = JiraTicket.select().where(JiraTicket.trail_id == Trail.id)
    found = Trail.select(Trail.id, Trail.name, Trail.git_commit_sha, Flow.name).join(Flow)
    found = found.where(Trail.status == "NON_COMPLIANT", ~peewee.fn.EXISTS(has))
    rows = found.order_by(peewee.SQL('"t1"."rowid"')).limit(SYNC_BATCH).tuples()
    for key, name, commit, flow in rows:
        yield key, f"Trail {name or commit} of flow {flow} is not compliant"[:512]


def open_tickets() -> list[JiraTicket]:
    """Some of the tickets whose status may change, those first that were not read for longest."""
    tickets = JiraTicket.select().where(JiraTicket.stage == "open")
    return list(tickets.order_by(JiraTicket.refreshed_at).limit(SYNC_BATCH))


def write_before(context: Context, work: Callable[[Session], Any]) -> Any:
    """Do a part of a write that must stand before its handler's transaction begins."""
    return perform(
        context.workspace,
        work,
        actor=context.principal.id,
        reason=context.reason,
        request_id=context.request_id,
    )


class JiraTickets(
    Resource,
    surface=FACTSTORE,
    path="/api/v1/integrations/jira/tickets",
    model=JiraTicket,
    scope="factstore",
    tag="Atlassian",
    schema_name="JiraTicketResponse",
    verbs="list create",
    options={"create": {"before": "send"}},
):
    """Tickets in Jira that are about trails."""

    creates = Schema(
        JiraTicket.summary,
        JiraTicket.issue_type,
        trail_id=Id(),
        name="CreateJiraTicketRequest",
    )

    def send(self, context: Context) -> tuple[str, Answer] | None:
        """Put a ticket down and try to send it; nothing for a dry run, which leaves no trace."""
        connection = JiraConnection.stored()
        Trail.fetch(context.body["trail_id"])
        if self.surface.rehearses(context.request):
            return None
        key = write_before(context, lambda current: make_ticket(connection, **context.body).id)
        lite = context.lite
        posting = JiraPosting.fetch(key)
        at = lite.source.clock()
        return key, posting.deliver_first(context.workspace, lite.transport, at)

    def create(self, context):
        """Make a ticket for a trail; one that Jira does not take now is sent until it does."""
        if context.prepared is None:
            return make_ticket(JiraConnection.stored(), **context.body).ticket
        key, sent = context.prepared
        posting = JiraPosting.fetch(key)
        posting.settle(sent, context.lite.source.clock())
        return posting.ticket

    def exchange(self, context: Context) -> JiraSync | None:
        """Have everything exchanged that a sync is for; nothing for a dry run."""
        connection = JiraConnection.only()
        if connection is None or self.surface.rehearses(context.request):
            return None
        return JiraSync(context, connection).run()

    @route(
        "POST /api/v1/integrations/jira/sync",
        id="syncJira",
        answer={
            "type": "object",
            "required": ["syncedCount", "message"],
            "properties": {"syncedCount": {"type": "integer"}, "message": {"type": "string"}},
        },
        before="exchange",
    )
    def sync(self, context):
        """Make the tickets that trails lack in Jira, and read the status of those that are open.

        A trail that is not compliant gets one ticket; what Jira refused before is sent again.
        """
        if context.prepared is not None:
            return context.prepared.settle(context.lite.source.clock())
        if JiraConnection.only() is None:
            return {"syncedCount": 0, "message": "Jira is not configured."}
        count = len(list(trails_without_ticket()))
        return {"syncedCount": 0, "message": f"Trails that would get a ticket: {count}."}


# --- Confluence ---------------------------------------------------------------


class ConfluenceConnection(AtlassianSite):
    """Where Confluence is, and as whom it is called."""

    fact, touched, since = "confluence_connection", True, 4
    schema_name = "ConfluenceConfigResponse"
    title = "Confluence"

    id = Uuid()
    base_url = SiteUrl(255, 1, column_name="confluence_base_url")
    username = UserName(column_name="confluence_username")
    api_token = Encrypted(255, 1, column_name="confluence_api_token", hidden=True)
    default_space_key = Name()
    created_at = Timestamp(6, default=now_exactly)
    updated_at = Timestamp(6, default=now_exactly)

    def probe_path(self):
        return f"/wiki/rest/api/space/{segments(self.default_space_key)}"

    def explain(self, answer):
        if answer.status == 404:
            return f"Confluence shows this user no space {self.default_space_key}."
        return super().explain(answer)


class ConfluenceConnections(
    SiteKeeper,
    Resource,
    surface=FACTSTORE,
    model=ConfluenceConnection,
    scope="factstore",
    access="admin",
    tag="Atlassian",
    schema_name="ConfluenceConfigResponse",
):
    """The connection to Confluence, without its token."""

    @route(
        "GET /api/v1/integrations/confluence/config",
        id="getConfluenceConfig",
        answer=FACTSTORE.one_schema("ConfluenceConfigResponse"),
    )
    def read(self, context):
        """Get the connection to Confluence."""
        return ConfluenceConnection.stored()

    @route(
        "POST /api/v1/integrations/confluence/config",
        id="saveConfluenceConfig",
        body=Schema(
            ConfluenceConnection.base_url,
            ConfluenceConnection.username,
            ConfluenceConnection.api_token,
            ConfluenceConnection.default_space_key,
            name="ConfluenceConfigRequest",
        ),
        answer=FACTSTORE.one_schema("ConfluenceConfigResponse"),
        **KEPT,
    )
    def keep(self, context):
        """Store the connection to Confluence, instead of the one before."""
        return ConfluenceConnection.keep(context.body)

    @route(
        "POST /api/v1/integrations/confluence/test",
        id="testConfluence",
        **TRIED,
    )
    def test(self, context):
        """Try the connection to Confluence."""
        return context.prepared


# --- Chain --------------------------------------------------------------------


class Chain:
    """The ledger in the file of the current session, read link by link.

    The numbers of its entries have no gaps, and their times never go back: any place in it, by
    number or by time, is found without counting.
    """

    def __init__(self):
        self.connection, self.models = session().database.connection(), fact_models()

    def __len__(self) -> int:
        (newest,) = self.connection.execute('SELECT max("id") FROM "ledger_entry"').fetchone()
        return newest or 0

    def span(self, first: int, last: int) -> Iterator[Proof]:
        """The entries from one number to another, both included."""
        return proofs(self.connection, 'WHERE "id" BETWEEN ? AND ? ORDER BY "id"', (first, last))

    def before(self, number: int) -> str:
        """The hash that the entry with a number has to be linked to."""
        tail = 'WHERE "id" < ? ORDER BY "id" DESC LIMIT 1'
        return next((p.entry_hash for p in proofs(self.connection, tail, (number,))), ZEROS)

    def between(self, begin: str, end: str) -> tuple[int, int]:
        """The numbers of the first and the last entry from one time to another, both included; the
        first is the higher one where there is none."""
        numbers = range(1, len(self) + 1)
        first = bisect_left(numbers, begin, key=self.time_of)
        return first + 1, bisect_right(numbers, end, key=self.time_of)

    def time_of(self, number: int) -> str:
        """When an entry was made, or the one before it if it is gone, with microseconds."""
        tail = 'WHERE "id" <= ? ORDER BY "id" DESC LIMIT 1'
        return next(
            (f"{p.timestamp[:-1]}000Z" for p in proofs(self.connection, tail, (number,))), ""
        )

    def of_record(self, record: str) -> list[Proof]:
        """The entries of a record, oldest first, by its UUID.

        A file of an earlier version has entries under the id itself, which may end with a ULID.
        """
        number = int(record.replace("-", ""), 16)
        ulid = encode_ulid(number >> 80, number & (1 << 80) - 1)
        keys = [
            f"{model._meta.primary_key.prefix}_{ulid}"
            for model in self.models.values()
            if isinstance(model._meta.primary_key, PrefixedId)
        ]
        marks = ", ".join("?" * (len(keys) + 1))
        tail = f'WHERE "record_id" IN ({marks}) ORDER BY "id"'
        return list(proofs(self.connection, tail, (record, *keys)))

    def fault_of(self, proof: Proof, previous: str) -> str:
        """What is wrong with an entry after the one with this hash, or with the record as the
        newest entry of it has it; empty: nothing."""
        if not proof.follows(previous):
            return f"Ledger entry {proof.number} was changed, or the one before it was."
        newer = 'SELECT 1 FROM "ledger_entry" WHERE "record_id" IN (?, ?) AND "id" > ? LIMIT 1'
        table, key = proof.subject
        ids = proof.record_id, record_uuid(table, key), proof.number
        if self.connection.execute(newer, ids).fetchone():
            return ""
        model = self.models.get(table)
        if model is None:
            return f"Ledger entry {proof.number} is of a kind that there is not: {table}."
        place = f'WHERE "{model._meta.primary_key.column_name}" = ?'
        row = self.connection.execute(f"{stored_sql(model)} {place}", (key,)).fetchone()
        return content_fault(model, key, row, proof.event_type, proof.content_hash)


def told_proof(proof: Proof) -> dict:
    """An entry of the ledger as it is told.

    What its hash is over is told as it is hashed, but for the record of an entry that an earlier
    version made: that was hashed by the id which the metadata tell.
    """
    table, key = proof.subject
    record = record_uuid(table, key)
    return {
        "entryId": proof.entry_id,
        "recordId": record,
        "factId": record,
        "eventType": proof.event_type,
        "contentHash": proof.content_hash,
        "previousHash": proof.previous_hash,
        "timestamp": proof.timestamp,
        "metadata": {
            "recordType": table,
            "recordKey": key,
            "position": str(proof.number - 1),
            "entryHash": proof.entry_hash,
        },
    }


# --- Ledger -------------------------------------------------------------------

LEDGER_ENTRY = Schema(
    LedgerEntry.entry_id,
    record_id=Id(),
    fact_id=Id(),
    event_type=Text(),
    content_hash=Text(64),
    previous_hash=Text(64),
    timestamp=Timestamp(),
    metadata=Json(MapOf(Text())),
)
LEDGER_ENTRIES = Schema(
    entries=Json(ListOf(LEDGER_ENTRY, 2**31)),
    page=Integer(0, 2**31 - 1),
    size=Integer(1, 2**31 - 1),
    total_elements=Integer(0),
    total_pages=Integer(0),
)
RECORD_VERDICT = Schema(
    record_id=Id(),
    fact_id=Id(),
    verified=Boolean(),
    content_hash=Text(64, null=True),
    chain_position=Integer(0, null=True),
    previous_hash=Text(64, null=True),
    ledger_timestamp=Timestamp(null=True),
    verified_at=Timestamp(),
    message=Text(),
    required="contentHash chainPosition previousHash ledgerTimestamp",
)
CHAIN_VERDICT = Schema(
    valid=Boolean(),
    entries_checked=Integer(0),
    first_entry_timestamp=Timestamp(null=True),
    last_entry_timestamp=Timestamp(null=True),
    broken_at=Text(null=True),
    message=Text(),
    required="firstEntryTimestamp lastEntryTimestamp brokenAt",
)
LEDGER_STATUS = Schema(
    enabled=Boolean(),
    type=Choice("local qldb"),
    total_entries=Integer(0),
    healthy=Boolean(),
    message=Text(),
)


class Ledger(Resource, surface=FACTSTORE, scope="factstore", access="read", tag="Ledger"):
    """The proofs of every fact recorded, and their verification."""

    @route(
        "GET /api/v1/ledger/entries",
        id="listLedgerEntries",
        query=Paging(),
        answer=LEDGER_ENTRIES.describe(),
        setting="ledger",
    )
    def entries(self, context):
        """Page through the chain, oldest first."""
        page, size = context.query.get("page") or 0, context.query.get("size") or 20
        chain = Chain()
        total, first = len(chain), page * size + 1
        return {
            "entries": [told_proof(proof) for proof in chain.span(first, first + size - 1)],
            "page": page,
            "size": size,
            "totalElements": total,
            "totalPages": -(-total // size),
        }

    @route(
        "GET /api/v1/ledger/entries/{recordId}",
        id="getLedgerEntry",
        answer=LEDGER_ENTRY.describe(),
        setting="ledger",
    )
    def newest(self, context, record):
        """Get the newest entry of a record."""
        own = Chain().of_record(record)
        if not own:
            raise NotFound(f"The ledger has no entry of a record {record}.")
        return told_proof(own[-1])

    @route(
        "POST /api/v1/ledger/verify/{recordId}",
        id="verifyLedgerRecord",
        answer=RECORD_VERDICT.describe(),
        before="examine_record",
        setting="ledger",
    )
    def verify_record(self, context, record):
        """Check a record against all its entries, and each of these against the one before."""
        return context.prepared

    def examine_record(self, context, record):
        """Find out whether a record is what the ledger says."""
        chain = Chain()
        own = chain.of_record(record)
        faults = (chain.fault_of(proof, chain.before(proof.number)) for proof in own)
        fault = next(filter(None, faults), "") if own else "The ledger has no entry of this record."
        first = own[0] if own else None
        return {
            "recordId": record,
            "factId": record,
            "verified": not fault,
            "contentHash": first and first.content_hash,
            "chainPosition": first and first.number - 1,
            "previousHash": first and first.previous_hash,
            "ledgerTimestamp": first and first.timestamp,
            "verifiedAt": now(),
            "message": fault or "The record and its entries are as they were recorded.",
        }

    @route(
        "POST /api/v1/ledger/verify-chain",
        id="verifyLedgerChain",
        body=Schema(**{"from": Timestamp(6), "to": Timestamp(6)}, name="VerifyChainRequest"),
        answer=CHAIN_VERDICT.describe(),
        before="examine_chain",
        setting="ledger",
    )
    def verify_chain(self, context):
        """Check every entry between two times, both included, and the records as they stand."""
        return context.prepared

    def examine_chain(self, context):
        """Find the first entry of a time that is not as it was written."""
        chain, asked = Chain(), context.body
        first, last = chain.between(asked["from"], asked["to"])
        previous, begin, newest, fault = chain.before(first), None, None, ""
        checked = 0
        for newest in chain.span(first, last):
            checked += 1
            begin = begin or newest.timestamp
            fault = chain.fault_of(newest, previous)
            if fault:
                break
            previous = newest.entry_hash
        return {
            "valid": not fault,
            "entriesChecked": checked,
            "firstEntryTimestamp": begin,
            "lastEntryTimestamp": newest and newest.timestamp,
            "brokenAt": newest.entry_id if fault else None,
            "message": fault or f"{checked} entries checked; every one is as it was written.",
        }

    @route(
        "GET /api/v1/ledger/status",
        id="getLedgerStatus",
        answer=LEDGER_STATUS.describe(),
        setting="ledger",
    )
    def status(self, context):
        """Tell how long the ledger is, and whether its newest entry is sound."""
        chain = Chain()
        total = len(chain)
        newest = next(chain.span(total, total), None)
        healthy = newest is None or newest.follows(chain.before(total))
        told = "The newest entry is sound." if healthy else "The newest entry is not sound."
        return {
            "enabled": context.settings.ledger,
            "type": "local",
            "totalEntries": total,
            "healthy": healthy,
            "message": told,
        }


# --- Hub templates ------------------------------------------------------------
# Templates of flows for well-known frameworks, which are part of the product.


class HubTemplate(NamedTuple):
    """What a framework asks of every delivery: attestations by name, each with its type."""

    id: str
    name: str
    description: str
    framework: str
    version: str
    attestations: Mapping[str, str]

    def yaml(self) -> str:
        """The template as a flow has it, in which every text is quoted as in JSON."""
        head = ("id", "name", "description", "framework", "version")
        lines = [f"{member}: {quote(getattr(self, member))}" for member in head]
        lines += ["trail:", "  attestations:"]
        for name, kind in self.attestations.items():
            lines += [f"    - name: {quote(name)}", f"      type: {quote(kind)}"]
        return "\n".join([*lines, ""])

    def json(self) -> dict:
        """The template as the API tells it."""
        head = ("id", "name", "description", "framework", "version")
        return {**{member: getattr(self, member) for member in head}, "yaml": self.yaml()}


def attested_by(names: str) -> dict[str, str]:
    """Attestations with their types, from words such as `name` or `name=type`."""
    pairs = (word.partition("=") for word in names.split())
    return {name: kind or name for name, _, kind in pairs}


HUB_TEMPLATES = {
    one.id: one
    for one in (
        HubTemplate(
            "slsa-level-2",
            "SLSA Level 2",
            "A hosted build tells where the artifact comes from, and its source is under control.",
            "SLSA",
            "1.0",
            attested_by("build-provenance source-control"),
        ),
        HubTemplate(
            "slsa-level-3",
            "SLSA Level 3",
            "Level 2 on a hardened builder: nothing gets in unseen, and a second build agrees.",
            "SLSA",
            "1.0",
            attested_by("build-provenance source-control hermetic-build reproducible-build"),
        ),
        HubTemplate(
            "pci-dss-v4",
            "PCI DSS v4.0",
            "Software that touches card data: reviewed, scanned, attacked and assessed.",
            "PCI-DSS",
            "4.0",
            attested_by(
                "code-review security-scan penetration-test "
                "vulnerability-assessment=vulnerability-scan"
            ),
        ),
        HubTemplate(
            "sox-itgc",
            "SOX IT General Controls",
            "Changes to systems of financial reporting: approved, reviewed and on record.",
            "SOX",
            "2024",
            attested_by("change-approval=approval access-review code-review audit-log=audit-trail"),
        ),
        HubTemplate(
            "gdpr-art32",
            "GDPR Article 32",
            "Security of processing: personal data reviewed, scanned for holes and encrypted.",
            "GDPR",
            "2018",
            attested_by(
                "data-protection-review security-scan encryption-verified=encryption-attestation"
            ),
        ),
    )
}
HUB_TEMPLATE = closed_schema(
    id=TEXT, name=TEXT, description=TEXT, framework=TEXT, version=TEXT, yaml=TEXT
)


class HubTemplates(Resource, surface=FACTSTORE, scope="factstore", tag="Hub"):
    """The templates that the product brings along."""

    def find(self, key):
        if key not in HUB_TEMPLATES:
            raise NotFound(f"There is no template '{key}'; there are {', '.join(HUB_TEMPLATES)}.")
        return HUB_TEMPLATES[key]

    @route(
        "GET /api/v1/hub/templates",
        id="listHubTemplates",
        answer={"type": "array", "items": HUB_TEMPLATE},
    )
    def list(self, context):
        """List the templates that the product brings along."""
        return [template.json() for template in HUB_TEMPLATES.values()]

    @route("GET /api/v1/hub/templates/{template}", id="getHubTemplate", answer=HUB_TEMPLATE)
    def retrieve(self, context, key):
        """Get one of the templates that the product brings along."""
        return self.find(key).json()

    @route(
        "POST /api/v1/hub/templates/{template}/import",
        id="importHubTemplate",
        status=201,
        answer=FACTSTORE.one_schema("FlowResponse"),
    )
    def take_over(self, context, key):
        """Create a flow with the name of a template, which asks for what the template does."""
        template = self.find(key)
        return Flow.create(
            name=template.name,
            description=template.description,
            required_attestation_types=[*template.attestations.values()],
            template_yaml=template.yaml(),
        )


# --- Audit packages -----------------------------------------------------------
# What was recorded of a delivery, in one archive for people without access here. The same facts
# give the same bytes, so nothing in it tells when it was put together, or by whom.

GZIP_MEDIA = "application/gzip"
PACKAGE_FORMAT = "factstore-audit-package/1"


class PackedFile(NamedTuple):
    """A file of an archive: its path, its size, its SHA-256, and where its bytes come from."""

    path: str
    size: int
    sha256: str
    pieces: Callable[[], Iterable[bytes]]

    @classmethod
    def holding(cls, path: str, data: bytes) -> PackedFile:
        """A file of bytes that are at hand."""
        return cls(path, len(data), hashlib.sha256(data).hexdigest(), lambda: [data])

    def tar(self) -> Iterator[bytes]:
        """The file as tar has it (POSIX ustar), of no time and no owner.

        Damaged, at its end, where the bytes are not those that were announced.
        """
        import tarfile

        head, digest = tarfile.TarInfo(self.path), hashlib.sha256()
        head.size = self.size
        yield head.tobuf(tarfile.USTAR_FORMAT)
        for piece in self.pieces():
            digest.update(piece)
            yield piece
        if digest.hexdigest() != self.sha256:
            raise Damaged
        yield bytes(-self.size % tarfile.BLOCKSIZE)


class AuditPackage:
    """Records and evidence, gathered now and sent later.

    Documents wait in a temporary file, since the manifest, which goes first, has the hashes of all;
    evidence is read when its turn comes.
    """

    def __init__(self, documents: IO[bytes]):
        self.documents = documents
        self.files: dict[str, PackedFile] = {}
        self.evidence: list[dict] = []

    def add(self, path: str, data: bytes) -> None:
        """Put a document in."""
        start = self.documents.seek(0, os.SEEK_END)
        self.documents.write(data)
        digest = hashlib.sha256(data).hexdigest()
        self.put(PackedFile(path, len(data), digest, lambda: [self.read(start, len(data))]))

    def read(self, start: int, size: int) -> bytes:
        """A stretch of the documents."""
        self.documents.seek(start)
        return self.documents.read(size)

    def put(self, file: PackedFile) -> None:
        """Put a file in; of several with one path, the first."""
        self.files.setdefault(file.path, file)

    def add_records(self, folder: str, model: type[Model], condition: peewee.Expression) -> None:
        """Put records in as the API tells them, in the order in which they were made."""
        told = model.select(model.id, model.statements().text).where(condition)
        for key, text in told.order_by(peewee.SQL('"t1"."rowid"')).tuples().iterator():
            self.add(f"{folder}/{key}.json", unseal(text.encode(), session().ring))

    def add_evidence(self, file: EvidenceFile, workspace: Workspace) -> None:
        """Put a file of evidence in by its hash, or where it lies; Damaged if it is another."""
        known = file.sha256_hash
        if not re.fullmatch("[0-9a-f]{64}", known):
            raise Damaged(f"Evidence file {file.id} has no hash that it could be held against.")
        if file.external_url is not None:
            path = f"evidence/{known}.ref.json"
            self.add(path, to_json(file.json()).encode())
        else:
            file.must_be_intact()
            path = f"evidence/{known}{plain_suffix(file.file_name)}"
            content = functools.partial(file.content, workspace)
            self.put(PackedFile(path, file.file_size_bytes, known, content))
        self.evidence.append({**file.json(), "path": path})

    def signed_manifest(self, subject: Model, checkpoints: Checkpoints) -> list[PackedFile]:
        """What the archive is about and what else is in it, and a signed note of that."""
        told = {
            "format": PACKAGE_FORMAT,
            "subject": {"type": subject.noun(), "id": subject.id},
            "signedBy": str(checkpoints.key),
            "files": [
                {"path": file.path, "size": file.size, "sha256": file.sha256}
                for file in self.files.values()
            ],
            "evidence": self.evidence,
        }
        text = json.dumps(told, indent=2, ensure_ascii=False).encode()
        manifest = PackedFile.holding("manifest.json", text)
        about = f"{subject.noun()} {subject.id}", f"sha256 {manifest.sha256}"
        lines = f"{checkpoints.origin}/audit-package", *about
        note = checkpoints.sign_note("".join(f"{line}\n" for line in lines))
        return [manifest, PackedFile.holding("manifest.sig", note.encode())]

    def archive(self, *first: PackedFile) -> Iterator[bytes]:
        """These files, then those of the package, as tar in gzip (RFC 1952) without a time."""
        import zlib

        squeeze = zlib.compressobj(wbits=31)
        with self.documents:
            for file in (*first, *self.files.values()):
                yield from filter(None, map(squeeze.compress, file.tar()))
        # Two empty blocks are the end of an archive.
        yield squeeze.compress(bytes(1024)) + squeeze.flush()


def plain_suffix(name: str) -> str:
    """The suffix of a file's name, where it is short and made of letters and digits."""
    suffix = re.search(r"\.[A-Za-z0-9]{1,10}\Z", name)
    return suffix[0].lower() if suffix else ""


def send_package(
    context: Context,
    subject: Model,
    trail: str,
    artifacts: peewee.Expression,
    attestations: peewee.Expression,
) -> Reply:
    """Answer with the records of a trail that fit, and the evidence of those attestations."""
    named = Attestation.select(Attestation.id).where(attestations)
    files = EvidenceFile.select().where(EvidenceFile.attestation.in_(named))
    with contextlib.ExitStack() as unless_done:
        package = AuditPackage(unless_done.enter_context(temporary_file()))
        # All at one moment, however much is written meanwhile.
        with session().database.atomic():
            flow = Trail.fetch(trail).flow_id
            package.add("trail.json", context.workspace.json_of(Trail, trail))
            package.add("flow.json", context.workspace.json_of(Flow, flow))
            package.add_records("artifacts", Artifact, artifacts)
            package.add_records("attestations", Attestation, attestations)
            found = list(files.order_by(peewee.SQL('"t1"."rowid"')))
        for file in found:
            package.add_evidence(file, context.workspace)
        signed = package.signed_manifest(subject, context.workspace.checkpoints)
        unless_done.pop_all()
    name = f"audit-package-{subject.noun()}-{subject.id}.tar.gz"
    headers = attachment_headers(name, GZIP_MEDIA)
    return Reply(200, headers=headers, stream=package.archive(*signed))


class AuditPackages(Resource, surface=FACTSTORE, scope="factstore", tag="Audit package"):
    """Archives of what was recorded: a signed manifest with the hash of every file, and the files.

    `manifest.sig` is a note with the manifest's SHA-256 (https://c2sp.org/signed-note), signed with
    the key that signs checkpoints of the ledger.
    """

    @route(
        "GET /api/v1/trails/{trailId}/audit-package",
        id="downloadTrailAuditPackage",
        answers_with=GZIP_MEDIA,
        answer=File().describe(),
    )
    def of_trail(self, context, key):
        """Download all that was recorded of a trail."""
        trail = Trail.fetch(key)
        own = Artifact.trail == key, Attestation.trail == key
        return send_package(context, trail, key, *own)

    @route(
        "GET /api/v1/artifacts/{artifactKey}/audit-package",
        id="downloadArtifactAuditPackage",
        answers_with=GZIP_MEDIA,
        answer=File().describe(),
    )
    def of_artifact(self, context, key):
        """Download what was recorded of an artifact, and all that its trail was attested."""
        artifact = Artifact.fetch(read_in_path(Artifact.id, key))
        trail = artifact.trail_id
        own = Artifact.id == artifact.id, Attestation.trail == trail
        return send_package(context, artifact, trail, *own)

    @route(
        "GET /api/v1/attestations/{attestationId}/audit-package",
        id="downloadAttestationAuditPackage",
        answers_with=GZIP_MEDIA,
        answer=File().describe(),
    )
    def of_attestation(self, context, key):
        """Download an attestation with its evidence, and the artifacts of its trail."""
        attestation = Attestation.fetch(key)
        trail = attestation.trail_id
        own = Artifact.trail == trail, Attestation.id == key
        return send_package(context, attestation, trail, *own)


# === Part V: Application ======================================================


# --- Rows ---------------------------------------------------------------------
# Records on their way from and to files. A row travels with the number of its line, so that
# whoever refuses it can say where it stands.


class RowFault(NamedTuple):
    """What is wrong with one row; an empty field means the row as a whole."""

    line: int
    field: str
    message: str


class Report:
    """What became of the rows of an import; only the first 1,000 faults are kept."""

    def __init__(self):
        self.created = self.updated = self.unchanged = self.refused = 0
        self.faults: list[RowFault] = []
        #: Members of rows that the records do not have.
        self.ignored: set[str] = set()
        #: Faults beyond those that are kept.
        self.omitted = 0

    @property
    def total(self) -> int:
        """How many rows there were."""
        return self.created + self.updated + self.unchanged + self.refused

    def refuse(self, *faults: RowFault) -> None:
        """Count one row as refused, for these faults."""
        room = max(0, 1_000 - len(self.faults))
        self.refused += 1
        self.faults += faults[:room]
        self.omitted += len(faults[room:])

    def json(self) -> dict:
        """The report as a JSON object."""
        faults = [fault._asdict() for fault in self.faults]
        ignored = sorted(self.ignored)
        return {**vars(self), "faults": faults, "ignored": ignored, "total": self.total}


def utf8_lines(stream: IO[bytes]) -> Iterator[str]:
    """The lines of a UTF-8 file, with or without a byte order mark; Invalid at one that is not."""
    encoding = "utf-8-sig"
    for number, line in enumerate(stream, 1):
        try:
            yield line.decode(encoding)
        except UnicodeDecodeError:
            raise Invalid(f"Line {number} is not UTF-8: save the file as CSV in UTF-8.") from None
        encoding = "utf-8"


def csv_rows(stream: IO[bytes], delimiter: str = "") -> Iterator[tuple[int, dict | RowFault]]:
    """The rows of a CSV (RFC 4180), delimited by whichever of , ; tab its header has most of."""
    import csv

    # This limit on a cell's length holds for the whole process: it is raised, never lowered.
    csv.field_size_limit(max(csv.field_size_limit(), 16 << 20))
    lines = utf8_lines(stream)
    line, header = next((pair for pair in enumerate(lines, 1) if pair[1].strip()), (1, ""))
    delimiter = delimiter or max(",;\t", key=re.sub(r'"[^"]*"', "", header).count)
    try:
        cells = next(csv.reader([header], delimiter=delimiter, strict=True))
        names = [cell.strip() for cell in cells]
        if not names or not all(names) or len(set(names)) < len(names):
            raise Invalid(f"Line {line} must be a header that names every column, each name once.")
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        line = first = line + 1
        for cells in reader:
            if len(cells) > len(names):
                found = f"{len(cells)} cells under a header of {len(names)}"
                yield line, RowFault(line, "", f"{found}: quote cells that hold the delimiter.")
            elif any(cells):
                yield line, {name: cell for name, cell in zip(names, cells, strict=False) if cell}
            line = first + reader.line_num
    except csv.Error:
        rule = "close quotes, double those in cells, end lines with LF, keep cells under 16 MiB"
        raise Invalid(f"The row in line {line} is not CSV: {rule}.") from None


# int refuses NaN and Infinity, which Python would read and RFC 8259 does not know.
json_decoder = json.JSONDecoder(parse_constant=int)
json_line = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def json_rows(stream: IO[bytes]) -> Iterator[tuple[int, dict | RowFault]]:
    """The elements of a JSON array, or of the one array in an object such as {"assets": […]}."""
    data = stream.read()
    try:
        text = data.decode("utf-8-sig")
        json_decoder.decode(text)
    except (ValueError, RecursionError) as error:
        before = data.count(b"\n", 0, getattr(error, "start", 0))
        line = getattr(error, "lineno", before + 1)
        raise Invalid(f"Line {line}: what starts here is not JSON in UTF-8.") from None
    top = len(text) - len(text.lstrip())
    arrays = [top] if text[top] == "[" else []
    if text[top] == "{":
        arrays = [where for where, value in json_items(text, top) if isinstance(value, list)]
    if len(arrays) != 1:
        expected = "an array of records, or an object with exactly one array among its members"
        raise Invalid(f"Line {text.count(chr(10), 0, top) + 1}: expected {expected}.")
    line, counted = 1, 0
    for where, element in json_items(text, arrays[0]):
        line += text.count("\n", counted, where)
        counted = where
        if not isinstance(element, dict):
            element = RowFault(line, "", "Expected a JSON object with the members of a record.")
        yield line, element


def json_items(text: str, where: int) -> Iterator[tuple[int, object]]:
    """Whatever the array or object at this place of a sound JSON text holds, with its place."""
    gap = re.compile(r"[\s,:]*")
    where = gap.match(text, where + 1).end()
    while text[where] not in "]}":
        item, end = json_decoder.raw_decode(text, where)
        yield where, item
        where = gap.match(text, end).end()


def ndjson_rows(stream: IO[bytes]) -> Iterator[tuple[int, dict | RowFault]]:
    """One JSON object a line; blank lines are skipped, and a broken line spoils only itself."""
    for number, line in enumerate(stream, 1):
        if line.strip():
            try:
                row = json_decoder.decode(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                row = RowFault(number, "", "This line is not a JSON object in UTF-8.")
            yield number, row


ROW_READERS = {
    "csv": csv_rows,
    "tsv": partial(csv_rows, delimiter="\t"),
    "json": json_rows,
    "ndjson": ndjson_rows,
    "jsonl": ndjson_rows,
}


def row_format(name: str) -> str:
    """The name of a format in lower case; Invalid where it is not known."""
    if name.lower() not in ROW_READERS:
        raise Invalid(f"Name the format of the rows: one of {', '.join(ROW_READERS)}.")
    return name.lower()


def read_rows(source: Path | IO[bytes], format: str = "") -> Iterator[tuple[int, dict | RowFault]]:
    """The records of a CSV, TSV, JSON or NDJSON file in UTF-8, each with its 1-based line.

    In every format that is the physical line on which the record starts. A CSV cell stays text; an
    empty one means that the member is absent, as does a cell missing at a row's end; rows of empty
    cells are skipped. A faulty row comes as a RowFault and the next one follows. What cannot be
    read on raises Invalid, possibly after good rows. Only JSON is held in memory whole.
    """
    is_path = isinstance(source, Path)
    reader = ROW_READERS[row_format(format or (source.suffix[1:] if is_path else ""))]
    try:
        opened = source.open("rb") if is_path else nullcontext(source)
    except OSError:
        raise Invalid(f"There is no file {source}, or it may not be read.") from None
    with opened as stream:
        yield from reader(stream)


def csv_line(values: Iterable[object], delimiter: str) -> str:
    """A record of a CSV: null is an empty cell, an empty text is "", anything but text is JSON."""
    # A cell that starts with = + - @ tab or CR may act as a formula in a spreadsheet. It is written
    # as it is all the same: importing this file must give the records that were exported.
    cells = []
    for value in values:
        cell = value if isinstance(value, str) else "" if value is None else json_line(value)
        if value == "" or re.search(r'[",;\t\r\n]', cell) or cell != cell.strip():
            cell = '"' + cell.replace('"', '""') + '"'
        cells.append(cell)
    return delimiter.join(cells) + "\r\n"


def write_rows(rows: Iterable[dict], stream: IO[str], format: str, columns: Sequence[str]) -> int:
    """Write these members of the records, and return how many records there were.

    JSON is an array with one record a line. CSV ends its lines with CRLF (open the file with
    newline=""); null and "", read back, both mean absent.
    """
    format, count = row_format(format), 0
    delimiter = {"csv": ",", "tsv": "\t"}.get(format)
    if delimiter:
        stream.write(csv_line(columns, delimiter))
    for count, row in enumerate(rows, 1):
        if delimiter:
            stream.write(csv_line(map(row.get, columns), delimiter))
        else:
            line = json_line({name: row[name] for name in columns if name in row})
            opening = "[\n" if count == 1 else ",\n"
            stream.write(opening + line if format == "json" else line + "\n")
    if format == "json":
        stream.write("\n]\n" if count else "[]\n")
    return count


class Progress:
    """A bar on a terminal, drawn at most ten times a second; the noun "bytes" counts in MB.

    A stream that is no terminal gets nothing, and a terminal keeps nothing.
    """

    def __init__(self, total: int | None, stream=None, clock=time.monotonic, noun: str = "rows"):
        self.total, self.clock, self.noun = total, clock, noun
        self.stream = stream or sys.stderr
        self.visible = self.stream is not None and self.stream.isatty()
        self.done, self.width = 0, 0
        self.started = self.drawn = clock()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *failure: object) -> None:
        if self.width:
            self.stream.write("\r" + " " * self.width + "\r")
            self.stream.flush()

    def advance(self, n: int = 1) -> None:
        """Count so many more as done."""
        self.done += n
        if self.visible and (now := self.clock()) - self.drawn >= 0.1:
            self.drawn = now
            line = self.line(now - self.started)
            # Spaces, unlike escape sequences, blank the rest of the last line on any terminal.
            self.stream.write("\r" + line.ljust(self.width))
            self.stream.flush()
            self.width = len(line)

    def line(self, seconds: float) -> str:
        """How far this is, how fast it goes, and how long it still takes."""
        rate = f"{self.amount(self.done / seconds)}/s"
        if not self.total:
            return f"{self.amount(self.done)}, {rate}"
        share = min(1.0, self.done / self.total)
        left = round(seconds * (1 - share) / share) if share else 0
        bar = ("#" * int(share * 20)).ljust(20, "-")
        return f"{share:4.0%} [{bar}] {rate}, {left // 60}:{left % 60:02} left"

    def amount(self, number: float) -> str:
        """A number with its unit."""
        return f"{number / 1e6:.1f} MB" if self.noun == "bytes" else f"{number:,.0f} {self.noun}"


# --- OSCAL --------------------------------------------------------------------
# NIST's Open Security Controls Assessment Language, 1.1: https://pages.nist.gov/OSCAL. A catalog's
# groups and controls become the nodes of one version of one framework.


class OscalCatalog(NamedTuple):
    """What a catalog holds: a framework, its one version, and the nodes, parents first."""

    framework: dict
    version: dict
    nodes: list[dict]


def oscal_rows(document: dict) -> OscalCatalog:
    """The rows in an OSCAL catalog; Invalid for a document that is none, or a broken one."""
    catalog = document.get("catalog") if isinstance(document, dict) else None
    metadata = catalog.get("metadata") if isinstance(catalog, dict) else None
    if not isinstance(metadata, dict):
        expected = "an OSCAL catalog: {“catalog”: {“metadata”: …, “groups”: …}}"
        raise Invalid(f"Expected {expected}; a profile must be resolved into a catalog first.")
    title, number = oscal_text(metadata, "title"), oscal_text(metadata, "version")
    key = oscal_slug(title) or oscal_text(catalog, "uuid")
    nodes = oscal_nodes(catalog)
    if not (key and number and nodes):
        expected = "a title and a version in “metadata”, and “groups” or “controls”"
        raise Invalid(f"Expected an OSCAL catalog with {expected}.")
    shared = {"status": "active", "sourceKind": "standard"}
    remarks = oscal_text(metadata, "remarks") or None
    since = dict.fromkeys(("publishedAt", "effectiveFrom"), oscal_time(metadata))
    return OscalCatalog(
        {"frameworkKey": key, "name": title, "description": remarks, **shared},
        {"versionKey": number, "versionLabel": f"Version {number}", **shared, **since},
        nodes,
    )


def oscal_nodes(catalog: dict) -> list[dict]:
    """The groups and controls in document order; sortOrder follows sort-id where there is one."""
    elements = list(oscal_elements(catalog))
    holders = [catalog, *(element for element, *_ in elements)]
    found = [param for holder in holders for param in oscal_list(holder, "params")]
    params = {oscal_text(param, "id"): param for param in found}
    nodes, places = {}, {}
    for element, kind, key, parent in elements:
        title = oscal_text(element, "title")
        if not key or not title or key in nodes:
            raise Invalid(f"The OSCAL {kind} “{key}” must have a title, and an id of its own.")
        withdrawn = oscal_property(element, "status").lower() == "withdrawn"
        places[key] = (*places.get(parent, ()), (oscal_property(element, "sort-id"), len(nodes)))
        nodes[key] = {
            "nodeKey": key,
            "parentKey": parent,
            "referenceCode": oscal_property(element, "label") or key.upper(),
            "title": oscal_filled(title, params),
            "description": oscal_filled(oscal_statement(element), params) or None,
            "nodeKind": kind,
            "status": "withdrawn" if withdrawn else "active",
        }
    for order, key in enumerate(sorted(nodes, key=places.__getitem__), 1):
        nodes[key]["sortOrder"] = order
    return list(nodes.values())


def oscal_elements(catalog: dict) -> Iterator[tuple[dict, str, str, str | None]]:
    """Every group and control with its kind, its key and its parent's key, parents first."""
    waiting = [(catalog, "catalog", None)]
    while waiting:
        element, kind, parent = waiting.pop()
        key = None
        if kind != "catalog":
            key = oscal_text(element, "id")
            if kind == "group" and not key:  # OSCAL lets a group go without an id.
                key = oscal_slug(f"{parent or ''} {oscal_text(element, 'title')}")
            yield element, kind, key, parent
        below = {"groups": "group", "controls": "control"}
        if kind.startswith("control"):
            below = {"controls": "control-enhancement"}
        names = [name for name in element if name in below]
        nested = [
            (child, below[name], key) for name in names for child in oscal_list(element, name)
        ]
        waiting += reversed(nested)


def oscal_statement(element: dict) -> str:
    """The prose of an element's statement: a line for each item, led by its label."""
    parts = oscal_list(element, "parts")
    waiting = [part for part in reversed(parts) if part.get("name") == "statement"]
    lines = []
    while waiting:
        part = waiting.pop()
        words = oscal_property(part, "label"), oscal_text(part, "title"), oscal_text(part, "prose")
        lines.append(" ".join(filter(None, words)))
        waiting += reversed(oscal_list(part, "parts"))
    return "\n".join(filter(None, lines))


def oscal_filled(text: str, params: dict[str, dict], depth: int = 0) -> str:
    """The text with the values of its parameters, or with [label] or [choices] in their place."""

    def fill(match: re.Match) -> str:
        name = match[1].rpartition(",")[2].strip()
        param = params.get(name, {})
        select = param.get("select") if isinstance(param.get("select"), dict) else {}
        many = "one or more of" if select.get("how-many") == "one-or-more" else "one of"
        choices = "; ".join(choice.strip() for choice in oscal_list(select, "choice", str))
        choices = f"{many}: {choices}" if choices else name
        values = ", ".join(oscal_list(param, "values", str))
        found = values or f"[{oscal_text(param, 'label') or choices}]"
        # Choices may hold parameters; the limit ends those that hold one another.
        return oscal_filled(found, params, depth + 1) if depth < 3 else f"[{name}]"

    return re.sub(r"\{\{([^{}]*)\}\}", fill, text)


def oscal_property(element: dict, name: str) -> str:
    """The value of one of OSCAL's own properties, best without a class, or nothing."""
    own = (None, "http://csrc.nist.gov/ns/oscal")
    named = [prop for prop in oscal_list(element, "props") if prop.get("name") == name]
    found = [prop for prop in named if prop.get("ns") in own]
    return oscal_text(min(found, key=lambda prop: "class" in prop, default={}), "value")


def oscal_list(element: dict, name: str, kind: type = dict) -> list:
    """The items of this member, all of one kind; Invalid where they are something else."""
    found = element.get(name, [])
    if not isinstance(found, list) or not all(isinstance(item, kind) for item in found):
        things = "objects" if kind is dict else "texts"
        raise Invalid(f"Expected “{name}” in the OSCAL catalog to be an array of {things}.")
    return found


def oscal_text(element: dict, name: str) -> str:
    """The text of this member, or nothing; Invalid where it is something else."""
    found = element.get(name, "")
    if not isinstance(found, str):
        raise Invalid(f"Expected “{name}” in the OSCAL catalog to be a text.")
    return found.strip()


def oscal_slug(title: str) -> str:
    """The title as a key of lower-case ASCII letters, digits and hyphens."""
    import unicodedata

    ascii_title = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_title.lower()).strip("-")


def oscal_time(metadata: dict) -> str:
    """When the catalog was published, or else last changed: UTC with milliseconds."""
    given = oscal_text(metadata, "published") or oscal_text(metadata, "last-modified")
    try:
        moment = datetime.fromisoformat(given)
        moment = moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        expected = "“published” or “last-modified” in the metadata to be an ISO 8601 time"
        raise Invalid(f"Expected {expected}.") from None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- Opening workspaces -------------------------------------------------------

MIGRATIONS = (
    Migration(2, "Factstore from trail to gate"),
    Migration(3, "Identity, policy and compliance"),
    Migration(
        4,
        "Search, notifications and integrations",
        (
            'ALTER TABLE "ledger_entry" ADD COLUMN "record_key" TEXT',
            *mark_older_events(),
            *count_older_records(),
        ),
    ),
    Migration(5, "Indexes for what is released, and for what has expired"),
    Migration(6, "Verdicts from findings: facts may gain columns"),
)


def prepare(workspace: Workspace, settings: Settings, bell: threading.Event) -> None:
    """Bring a workspace's file up to date, open its keys, and start its chains."""
    notes = None if workspace.read_only else checkpoint_file(workspace.path, settings)
    open_file(workspace, tables_since, MIGRATIONS)
    workspace.bell = bell
    workspace.ring = None
    is_new = not open_ring(workspace)
    workspace.reading = Session(workspace, workspace.reader)
    workspace.journal = None if workspace.read_only else Journal(workspace)
    workspace.checkpoints = Checkpoints(workspace, notes)
    if is_new:
        add_ring_key(workspace, 1)


def open_ring(workspace: Workspace) -> bool:
    """Open the keys that a workspace's file holds, with the one outside of it; whether it has any.

    A new file gets a key file beside it, unless the key is set.
    """
    # The writer has the file open already; a reader is opened by whoever reads first.
    opened = workspace.reader if workspace.read_only else workspace.writer.database
    found = opened.connection().execute('SELECT "id", "wrapped" FROM "ring_key" ORDER BY "id"')
    keys, beside = found.fetchall(), key_file(workspace)
    if keys and beside and not is_key_at_hand(workspace):
        raise Unavailable(
            f"The key file {beside.name} is missing: put it back beside the database, or set "
            "NOVANTRA_LITE_KEY."
        )
    wrapping = wrapping_key(workspace.settings.key, beside, workspace.source)
    workspace.ring = KeyRing(wrapping, workspace.source)
    for number, wrapped in keys:
        workspace.ring.add(number, wrapped)
    return bool(keys)


def key_file(workspace: Workspace) -> Path | None:
    """The file beside a workspace's own with the key that wraps its ring."""
    return workspace.path and workspace.path.with_name(workspace.path.name + ".key")


def is_key_at_hand(workspace: Workspace) -> bool:
    """Whether the keys of a workspace with a file can be opened without making a new one."""
    return bool(workspace.settings.key) or key_file(workspace).exists()


def checkpoint_file(path: Path | None, settings: Settings) -> Path | None:
    """Where the checkpoints of a workspace's file go: beside it, or where the setting says."""
    if path is None or not settings.checkpoints:
        return path and path.with_name(f"{path.name}.checkpoints")
    folder = Path(settings.checkpoints)
    if not folder.is_dir():
        raise Invalid(f"There is no directory {folder}, which the setting checkpoints names.")
    return folder / f"{path.name}.checkpoints"


def tables_since(version: int | None) -> list[str]:
    """The statements for the tables that came with a layout of the file, for what these hold from
    the beginning, and for the search index; None: for all."""
    models = [model for model in all_models() if version in (None, model.since)]
    statements = [*tables_sql(models), *seeds_sql(models)]
    if SearchNote in models:
        statements += [*search_tables(), *fill_search()]
    return statements


def add_ring_key(workspace: Workspace, number: int) -> None:
    """Make a key; from now on it is the one that seals."""
    wrapped = workspace.ring.wrap(number, workspace.source.random.randbytes(32))
    workspace.ring.add(number, wrapped)
    perform(
        workspace,
        lambda current: [
            RingKey.create(id=number, wrapped=wrapped),
            workspace.journal.note(current, "key_ring.key_added", "ring_key", str(number)),
        ],
        actor="system",
        reason="A new key for the key ring.",
    )


def identify_organization(workspace: Workspace, profile: Mapping[str, str]) -> None:
    """Take the organization from the file, or put it there when the file is new."""
    opened = workspace.reader if workspace.read_only else workspace.writer.database
    known = opened.connection().execute('SELECT "id" FROM "organization"').fetchone()
    with using(Session(workspace, opened)):
        organization = Organization.seek(known[0]) if known else None
    if organization is None:
        organization = perform(
            workspace,
            lambda current: Organization.create(**profile),
            actor="system",
            reason="The workspace was created.",
        )
    workspace.id, workspace.slug = organization.id, organization.slug
    workspace.name = organization.name
    workspace.tokens = Tokens(workspace, organization.slug)
    workspace.api_keys = ApiKeys(workspace)
    workspace.sessions = Sessions(workspace, organization.slug)
    workspace.cursor_key = workspace.ring.derive("cursors")


def slug_of(path: Path | None) -> str:
    """The slug that a file's name stands for."""
    text = re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-") if path else ""
    return text[:63].strip("-") or "workspace"


def title_of(slug: str) -> str:
    """A name for people, from a slug."""
    return slug.replace("-", " ").capitalize()


def restore(backup: Path, database: Path) -> None:
    """Put a backup in the place of a workspace's file; the file must not exist yet.

    The key file is not part of a backup: it has to lie beside the new file, or NOVANTRA_LITE_KEY
    has to be set.
    """
    import shutil

    # What SQLite left beside a file would be taken for part of the one that is restored.
    names = [database.name + ending for ending in ("", "-wal", "-shm", "-journal")]
    if present := [name for name in names if database.with_name(name).exists()]:
        words = "exist already; move them away together", "exists already; move it away"
        raise Conflict(f"{', '.join(present)} {words[len(present) == 1]} before you restore.")
    try:
        with contextlib.closing(
            sqlite3.connect(f"{backup.absolute().as_uri()}?mode=ro", uri=True)
        ) as file:
            sound = is_sound(file)
            ours = file.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
    except sqlite3.Error:
        sound = ours = False
    if not (sound and ours):
        raise Invalid(f"{backup.name} is not a sound backup of a workspace.")
    part = database.with_name(database.name + ".part")
    shutil.copyfile(backup, part)
    os.chmod(part, 0o600)
    with open(part, "rb") as stream:
        os.fsync(stream.fileno())
    part.rename(database)


# --- Imports ------------------------------------------------------------------


def resolve_references(model: type[Model], values: dict) -> None:
    """Take references by id or by key to ids; Invalid names those that are not there."""
    issues = []
    for name, field in foreign_keys(model):
        if values.get(name):
            found = find_reference(field.rel_model, values[name])
            if found is None:
                message = f"There is no {field.rel_model.noun()} {values[name]}"
                issues.append(issue([camel(field.column_name)], message))
            values[name] = found
    if issues:
        told = "; ".join(f"{fault['path'][0]}: {fault['message']}" for fault in issues)
        raise Invalid(f"{told}.", issues)


@functools.cache
def foreign_keys(model: type[Model]) -> list[tuple[str, ForeignKey]]:
    """The fields of a model that point at other records."""
    fields = model._meta.fields.items()
    return [(name, field) for name, field in fields if isinstance(field, ForeignKey)]


def find_reference(model: type[Model], value: str) -> str | None:
    """The id of a record that is named by its id, or by its key where that is one field."""
    table, connection = model._meta.table_name, session().database.connection()
    names = ["id", *([model.key_fields()[0].column_name] if len(model.key_fields()) == 1 else [])]
    for name in names:
        row = connection.execute(
            f'SELECT "id" FROM "{table}" WHERE "{name}" = ?', (value,)
        ).fetchone()
        if row:
            return row[0]
    return None


class Import:
    """One batch of rows on its way into a collection, in one session."""

    def __init__(self, collection: Collection, current: Session, report: Report):
        self.collection, self.current, self.report = collection, current, report
        self.model, self.size = collection.model, 0
        self.connection = current.database.connection()
        keys = self.model.key_fields()
        table = self.model._meta.table_name
        asked = " AND ".join(f'"{field.column_name}" = ?' for field in keys)
        self.by_key = f'SELECT "id" FROM "{table}" WHERE {asked}' if keys else ""
        self.by_id = f'SELECT "id" FROM "{table}" WHERE "id" = ?'
        #: Whether making a record is one statement, which undoes itself when it fails.
        self.simple = (
            type(collection.resource).enter is Resource.enter
            and self.model.create.__func__ is Model.create.__func__
        )

    def take(self, line: int, row: dict | RowFault) -> None:
        """Bring one row in, or report what is wrong with it."""
        self.size += 1
        if isinstance(row, RowFault):
            self.report.refuse(row)
            return
        facts, events = len(self.current.facts), len(self.current.events)
        try:
            outcome = self.bring_in(row)
            setattr(self.report, outcome, getattr(self.report, outcome) + 1)
        except (ValueError, Problem, peewee.IntegrityError, sqlite3.IntegrityError) as error:
            del self.current.facts[facts:], self.current.events[events:]
            self.report.refuse(*row_faults(line, translate(error)))

    def bring_in(self, row: dict) -> str:
        """Make or change the record of a row; tell which of the Report's counts it belongs to."""
        schema = self.collection.schema
        if not row.keys() <= schema.members.keys():
            self.report.ignored |= row.keys() - schema.members.keys()
        present = self.find(row)
        values = schema.read(row, partial=present is not None, parse=True)
        resolve_references(self.model, values)
        if present is None and not self.collection.key:
            present = self.find_by_key(values)
        record = self.model.fetch(present) if present else None
        self.collection.check_subject(values, record.__data__ if record else {})
        with nullcontext() if self.simple and record is None else self.undoing():
            if record is None:
                self.collection.resource.enter(values)
                return "created"
            return "updated" if self.change(record, values) else "unchanged"

    @staticmethod
    def change(record: Model, values: dict) -> bool:
        """Change what a row says otherwise; a row that says the same leaves the record alone."""
        fixed, known = ("id", "created_at", "updated_at"), record._meta.fields
        values = {
            name: value
            for name, value in values.items()
            if name not in fixed and known[name].value(record) != value
        }
        return bool(values and record.change(**values))

    @contextlib.contextmanager
    def undoing(self) -> Iterator[None]:
        """Take back what a row has written when it fails halfway."""
        self.connection.execute("SAVEPOINT row")
        try:
            yield
        except BaseException:
            self.connection.execute("ROLLBACK TO row")
            raise
        finally:
            self.connection.execute("RELEASE row")

    def find(self, row: dict) -> str | None:
        """The id of the record that a row names by its id or by its one key."""
        key = row.get("id")
        if isinstance(key, str) and (
            found := self.connection.execute(self.by_id, (key,)).fetchone()
        ):
            return found[0]
        value = row.get(self.collection.key)
        if isinstance(value, str):
            found = self.connection.execute(self.by_key, (value,)).fetchone()
            return found[0] if found else None
        return None

    def find_by_key(self, values: dict) -> str | None:
        """The id of the record that has the key of these values."""
        if not self.by_key:
            return None
        key = [values.get(field.name) for field in self.model.key_fields()]
        found = self.connection.execute(self.by_key, key).fetchone()
        return found[0] if found else None


def row_faults(line: int, error: Exception) -> list[RowFault]:
    """What is wrong with a row, a fault for each field."""
    if isinstance(error, Problem):
        told = [(fault["path"], fault["message"]) for fault in error.issues] or [([], str(error))]
    else:
        told = Faults.of(error)
    return [RowFault(line, ".".join(map(str, path)), message) for path, message in told]


def import_catalog(collections: Callable[[str], Collection], document: dict, reason: str) -> Report:
    """Bring an OSCAL catalog in: a framework, a version of it, and its nodes, parents first."""
    catalog = oscal_rows(document)
    report = Report()

    def work(current):
        frameworks = Import(collections("frameworks"), current, report)
        frameworks.take(1, catalog.framework)
        framework = Framework.get(Framework.framework_key == catalog.framework["frameworkKey"])
        versions = Import(collections("framework-versions"), current, report)
        versions.take(1, catalog.version | {"frameworkId": framework.id})
        version = FrameworkVersion.get(
            FrameworkVersion.framework == framework.id,
            FrameworkVersion.version_key == catalog.version["versionKey"],
        )
        nodes = Import(collections("framework-nodes"), current, report)
        for number, node in enumerate(catalog.nodes, 1):
            row = {name: value for name, value in node.items() if name != "parentKey"}
            parent = node["parentKey"] and nodes.find_by_key(
                {"framework_version": version.id, "node_key": node["parentKey"]}
            )
            nodes.take(number, row | {"frameworkVersionId": version.id, "parentNodeId": parent})
        if report.refused:
            raise Rehearsed(report)

    collections("frameworks").act(reason, work)
    return report


def import_scan(
    collection: Collection, trail: str, upload: Upload, reason: str, dry_run: bool
) -> dict:
    """Record a scan of a trail out of a scanner's report, which is kept as evidence of it."""
    try:
        values = read_scan(upload).values()
    except Unreadable as error:
        raise Invalid(f"{upload.file_name}: {error}") from None

    def work(current):
        known = Trail.fetch(trail.lower())
        scan = record_scan(known, values | {"org_slug": known.org_slug})
        keep_report(scan, upload)
        return scan.json()

    return collection.act(reason, work, rehearsal=dry_run)


# --- Collections --------------------------------------------------------------


class Collection:
    """The records of one kind, as the console of the product would handle them.

    Every write takes a reason and is audited, entered in the ledger and told to webhooks like a
    write through the API.
    """

    #: Rows of an import that share a transaction, and records that a list takes from the file.
    BATCH, PAGE = 2000, 500
    #: What makes a record itself.
    FIXED = ("id", "createdAt", "updatedAt")

    def __init__(self, workspace: Workspace, resource: Resource):
        self.workspace, self.resource, self.model = workspace, resource, resource.model
        self.name = resource.collection
        fields = self.model.members()
        self.schema = Schema(*fields.values())
        self.columns = list(fields)
        keys = [camel(column.column_name) for column in self.model.key_fields()]
        self.key = keys[0] if len(keys) == 1 else ""
        self.required = [member for member in self.columns if member in self.schema.required]

    def act(self, reason: str, work: Callable[[Session], Any], rehearsal: bool = False) -> Any:
        """Write as the console does, for a reason of 10 to 1000 characters."""
        told = read_members(Schema(reason=Reason()), {"reason": reason})["reason"]
        return perform(self.workspace, work, actor="console", reason=told, rehearsal=rehearsal)

    def create(self, *, reason: str, **members: Any) -> dict:
        """Make a record; Invalid names every member that is missing or wrong."""
        self.must_know(members)
        values = read_members(self.schema, members)

        def work(current):
            self.check(values, {})
            return self.resource.enter(values).json()

        return self.act(reason, work)

    def update(self, key: str, *, reason: str, **members: Any) -> dict:
        """Change members of a record; a status keeps to the moves that are allowed."""
        self.must_know(members)
        if fixed := [member for member in self.FIXED if member in members]:
            raise Invalid(f"{fixed[0]}: It cannot be changed.", [issue(fixed, "Cannot be changed")])
        values = read_members(self.schema, members, partial=True)
        for member, value in members.items():
            name, field = self.schema.members[member]
            if value is None:
                if not field.null:
                    raise Invalid(f"{member}: Expected a value, since it cannot be empty.")
                values[name] = None

        def work(current):
            record = self.model.fetch(key)
            self.check(values, record.__data__)
            record.change(**values)
            return record.json()

        return self.act(reason, work)

    def must_know(self, members: Mapping[str, Any]) -> None:
        """Refuse a member that records of this kind do not have."""
        if unknown := [member for member in members if member not in self.columns]:
            raise Invalid(f"{self.name} have no member {unknown[0]}.")

    def retrieve(self, key: str) -> dict:
        """One record, by its id."""
        with self.workspace.read():
            return json.loads(self.workspace.json_of(self.model, key))

    def list(self, limit: int | None = None, **filters: Any) -> Iterator[dict]:
        """The records in the order in which they were made, filtered by members being equal."""
        conditions, values = {}, {}
        for member, value in filters.items():
            if member not in self.columns or self.model.members()[member].sealed:
                raise Invalid(f"{self.name} cannot be filtered by {member}.")
            field = self.model.members()[member]
            conditions[member] = functools.partial(peewee.Expression, field, peewee.OP.EQ)
            values[member] = field.db_value(value)
        listing, place = (
            self.resource.surface.listing(self.model, conditions, newest_first=False),
            None,
        )
        while limit is None or limit > 0:
            size = self.PAGE if limit is None else min(limit, self.PAGE)
            with self.workspace.read():
                page = listing.page(values, place, size)
            yield from json.loads(b"[%b]" % page.text)
            limit = limit - page.count if limit is not None else None
            place = page.place
            if place is None:
                return

    def check(self, values: dict, present: Mapping[str, Any]) -> None:
        """Refuse references and subjects that are not there."""
        resolve_references(self.model, values)
        self.check_subject(values, present)

    def check_subject(self, values: Mapping[str, Any], present: Mapping[str, Any]) -> None:
        """Refuse half a subject, and one that is not there of a kind that the register holds."""
        if "subject_resource_id" not in self.model._meta.fields:
            return
        triple = {name: values.get(name, present.get(name)) for name in TRIPLE}
        known = (triple[TRIPLE[0]], triple[TRIPLE[1]]) in subjects()
        if known or not all(triple.values()):
            check_subject(triple)

    def import_rows(
        self,
        rows: Iterable[tuple[int, dict | RowFault]],
        *,
        reason: str,
        dry_run: bool = False,
        all_or_nothing: bool = False,
        progress: Callable[[int], Any] | None = None,
    ) -> Report:
        """Bring rows in: a row whose id or key is known updates that record, others make one.

        Faulty rows are reported and left out; with `all_or_nothing` one keeps all others out too.
        """
        report = Report()
        whole = dry_run or all_or_nothing

        def work(current):
            batch = Import(self, current, report)
            for count, (line, row) in enumerate(taken, 1):
                batch.take(line, row)
                if progress and count % 100 == 0:
                    progress(100)
            if progress and batch.size % 100:
                progress(batch.size % 100)
            if all_or_nothing and report.refused:
                raise Rehearsed(report)
            return batch.size

        rows = iter(rows)
        while True:
            taken = rows if whole else itertools.islice(rows, self.BATCH)
            size = self.act(reason, work, rehearsal=dry_run)
            if isinstance(size, Report) and not dry_run:
                report.created = report.updated = report.unchanged = 0
            if whole or not size:
                return report


# --- Demo vocabulary ----------------------------------------------------------

# Tables of cells; an indented line goes on with the one above.
DEMO_WORDS = """
[people]
tech-amari | tech-brandt | tech-castillo | tech-eriksen | tech-farouk | b1-iyer | b1-jansen
    | b1-kowalski | b2-mensah | b2-nakamura | store-petrov | it-rahman | qa-thomsen
[chapters]
24 (electrical power) | 27 (flight controls) | 28 (fuel) | 29 (hydraulic power) | 32 (landing gear)
    | 34 (navigation) | 49 (auxiliary power) | 72 (engine) | 73 (engine fuel and control)
[tasks] of the AMM, within a chapter
-11-00-400-801 | -13-01-710-802 | -21-00-220-801 | -22-11-000-802 | -35-00-720-801 | -51-04-400-803
[kinds] of asset: label | source | description
calibrated-tool | {name}, serial {n:03} | cmms-import | Calibrated every 12 months; used for {use}.
test-set | {name}, serial {n:03} | cmms-import | Avionics shop equipment; used for {use}.
ground-support-equipment | {name}, fleet {n:02} | cmms-import | Tested every year; used for {use}.
vehicle | {name}, fleet {n:02} | procurement-import | Holds an airside permit; used for {use}.
it-system | {name} {n:02} | discovery-scan | Within the scope of Part-IS; used for {use}.
cloud-service | {name} | external-system | Hosted by its vendor; used for {use}.
facility | {name} {n} | manual | Named on the approval certificate; used for {use}.
[stock] key | kind | how many | name | use
torque-wrench | calibrated-tool | 30 | Torque wrench, 20 to 150 in-lb, CDI 1501MRMH | tube fittings
torque-wrench-heavy | calibrated-tool | 20 | Torque wrench, 30 to 250 ft-lb, CDI 2503MFRMH | ATA 32
micrometer | calibrated-tool | 14 | Outside micrometer, 0 to 25 mm, Mitutoyo 293-340-30 | brake wear
tensiometer | calibrated-tool | 12 | Cable tensiometer, T5-2002 series | cable rigging, ATA 27
multimeter | calibrated-tool | 26 | Digital multimeter, Fluke 87V | trouble shooting, ATA 24
insulation-tester | calibrated-tool | 10 | Insulation tester, Fluke 1507 | wiring checks, ATA 20
crimp-tool | calibrated-tool | 20 | Crimp tool, DMC AF8, M22520/1-01 | wiring repairs, ATA 20
air-data-test-set | test-set | 5 | Air data test set, Druck ADTS542F | pitot-static tests, ATA 34
ramp-test-set | test-set | 5 | Transponder and TCAS test set, IFR-6000 | functional tests, ATA 34
videoscope | test-set | 5 | Videoscope, IPLEX NX | borescope inspections, ATA 72
ground-power-unit | ground-support-equipment | 8 | Ground power unit, 90 kVA | ATA 24 checks
tripod-jack | ground-support-equipment | 14 | Tripod jack, 35 t | jacking, ATA 7
axle-jack | ground-support-equipment | 12 | Axle jack, 60 t | wheel changes, ATA 32
towbar | ground-support-equipment | 10 | Towbar, A320 family | towing, ATA 9
tow-tractor | vehicle | 5 | Tow tractor, TLD TMX-150 | towing between stand and hangar
line-van | vehicle | 10 | Line van, Ford Transit | carrying tools and rotables to the stand
data-loader | it-system | 5 | Portable data loader, PMAT 2000 | loadable software parts, ATA 46
fortigate | it-system | 5 | Firewall, FortiGate 100F | the borders of the hangar networks
esxi-host | it-system | 4 | Virtualization host, ESXi 8 | servers of maintenance control
windows-server | it-system | 9 | Windows Server 2022 | identity, files and the records archive
linux-host | it-system | 8 | Application server, Ubuntu 22.04 | interfaces to CAMO systems
backup-server | it-system | 3 | Backup server, Veeam 12 | daily backups of maintenance records
toughbook | it-system | 12 | Line terminal, Toughbook FZ-55 | AMM access at the aircraft
amos | cloud-service | 1 | AMOS maintenance information system | work packages and releases
hangar-bay | facility | 5 | Hangar bay | base checks in docking
workshop | facility | 2 | Component workshop | wheels, brakes and batteries
[rules] framework | name | kind | version | in force from | references start with | domain
part-145 | EASA Part-145 | standard | 2021-1963 | 2022-12-02 | 145. | Organisation requirements
iso-27001 | ISO/IEC 27001 | standard | 2022 | 2022-10-25 | A. | Annex A controls
part-is | EASA Part-IS | standard | 2023-203 | 2024-02-22 | IS. | Organisation requirements
moe | Maintenance organisation exposition | internal | issue-7 | 2024-01-15 | MOE. | Procedures
[practices] reference | control | evidence
145.A.25(d) | Segregation of unserviceable components | store inspection sheets
145.A.30(e) | Recurrent human factors training | training attendance lists
145.A.35(g) | Certification authorisations | authorisation register extracts
145.A.40(b) | Calibration of tools and equipment | calibration certificates
145.A.42(a) | Acceptance of components | EASA Form 1 samples
145.A.45(g) | Current maintenance data | revision status reports
145.A.47(c) | Shift and task handover | signed handover logs
145.A.48(c) | Independent inspection of critical tasks | inspection stamp samples
145.A.50(a) | Certificate of release to service | sampled work packages
145.A.60 | Occurrence reporting within 72 hours | occurrence report logs
145.A.202 | Internal safety reporting | safety review board minutes
A.5.9 | Inventory of information assets | asset inventory exports
A.8.2 | Review of privileged access | privileged access reviews
A.8.8 | Technical vulnerability management | authenticated scan reports
A.8.13 | Backup of maintenance records | backup job reports
IS.I.OR.205 | Information security risk assessment | risk assessment records
IS.I.OR.220 | Detection of and response to incidents | incident exercise reports
MOE.2.6 | Tool control and foreign object prevention | tool crib reconciliations
[suppliers] kind of engagement | service
Gulf Metrology | supplier | calibration of torque and dimensional tools
Avionix Test Services | supplier | repair of avionics test sets
Nordwind Wheel and Brake | subcontractor | overhaul of wheels and brakes
Aeroscope Inspection | subcontractor | non-destructive testing
Halden Battery Works | subcontractor | capacity checks of aircraft batteries
Skyport Ground Equipment | supplier | servicing of ground support equipment
Crescent Aviation Spares | supplier | consumables and standard parts
Ostara Airlines | customer | line maintenance of the A320 fleet
Blue Dune Air Cargo | customer | weekend checks of the 737 fleet
Palisade Managed Security | service-provider | security monitoring
Cirrus Records Hosting | service-provider | hosting of scanned work packages
Tessera Training | service-provider | type and human factors training
[duties] of submission: kind | months between, 0 while drafted
Occurrence reporting summary | regulator_report | 1
Release to service statistics for operators | customer_assurance | 1
Safety performance report | regulator_report | 3
Information security incident summary, Part-IS | incident_notification | 3
Subcontractor list, MOE 5.2 | regulator_report | 3
Reliability input to the CAMO | customer_assurance | 3
Compliance monitoring statement | management_statement | 6
Certifying staff list, MOE 1.6 | regulator_report | 6
Hazardous waste discharge report | regulator_report | 6
ISO/IEC 27001 surveillance file | certification_attestation | 12
Approval continuation file, EASA Form 2 | certification_attestation | 12
Sustainability disclosure | disclosure | 0
[events] of packages: status that follows | note
submission | submitted | Filed through the portal by compliance monitoring.
receipt | acknowledged | Receipt confirmed by the recipient.
acceptance | accepted | Accepted without remarks.
rejection | rejected | Returned: figures do not agree with the previous period.
withdrawal | withdrawn | Withdrawn after an error was found in the list of releases.
resubmission | submitted | Filed again with corrected figures.
[histories] of packages
submission receipt acceptance | submission receipt acceptance | submission acceptance
    | submission receipt rejection resubmission receipt acceptance | submission receipt rejection
    | submission withdrawal resubmission receipt acceptance | submission withdrawal
[measures] indicator | kind | on target | breached
Calibrations done before expiry, percent | kci | 98.0 | 92.0
Overdue findings | kri | 3 | 8
Average days to close a finding | kpi | 30.0 | 60.0
Release certificates right first time, percent | kqi | 97.0 | 90.0
Safety reports per 1,000 man-hours | custom | 4.0 | 1.0
Maturity of the management system | maturity | 3.5 | 2.0
[watches] monitor | kind of asset | message of pass | of warning | of fail
Calibration due dates | calibrated-tool | Label valid | Label expires in 14 days | Label expired
Tool crib reconciliation | calibrated-tool | In its place | Issued over a shift | Not found
Test set certificates | test-set | Certificate on file | Certificate expires soon | No certificate
Annual load tests | ground-support-equipment | Tested | Test due in 30 days | Test overdue
Airside permits | vehicle | Permit valid | Permit expires this month | Permit expired
Nightly backups | it-system | Backup complete | Backup ended with warnings | Backup failed
Patch levels | it-system | Current | One update behind | Critical update missing
Privileged accounts | it-system | All reviewed | Review due | Unknown administrator
"""

# Collection, prefix of its ids, members; "subject" is three of them. createdAt and updatedAt follow
# where no member says when the record was made.
DEMO_SHAPES = """
frameworks frwk frameworkKey name description status sourceKind
framework-versions fver frameworkId versionKey versionLabel status sourceKind publishedAt
    effectiveFrom effectiveUntil
framework-nodes fnode frameworkVersionId parentNodeId nodeKey referenceCode title description
    nodeKind status sortOrder
coverage-links fcov frameworkVersionId frameworkNodeId subject coverageKind status
controls ctrl controlKey title description status subject subjectVersionId
    ownerResponsibilityAssignmentId implementationProjectionId complianceProjectionId
risks risk riskKey title description status subject subjectVersionId
    ownerResponsibilityAssignmentId
evidence-requirements evreq requirementKey title description status subjectModuleKey
    subjectResourceType
evidence-claims evclm evidenceRequirementId claimKey title description status subject validFrom
    validUntil sourceKind collectedAt reviewedAt
assessments asmt assessmentKey title description status subject subjectVersionId
    assessorResponsibilityAssignmentId reviewerResponsibilityAssignmentId completedAt
findings find findingKey sourceKind sourceModuleKey sourceResourceType sourceResourceId subject
    title description severity status ownerResponsibilityId ownerMemberUserId dueAt closedAt
    lifecycleInstanceId
exceptions excp exceptionKey title exceptionKind status subject subjectVersionId
    approverResponsibilityAssignmentId validFrom validUntil reviewDueAt
monitor-definitions monit monitorKey title description status subject
    ownerResponsibilityAssignmentId lastRunAt
monitor-runs monrun monitorDefinitionId triggerKind aggregateResult passCount failCount
    warningCount unknownCount startedAt completedAt createdAt
monitor-result-items monitem monitorRunId monitorDefinitionId populationMemberKey subject result
    message findingId evaluatedAt
indicators ind indicatorKey title indicatorKind status subject ownerResponsibilityAssignmentId
    latestMeasurementValue latestMeasurementAt
indicator-measurements indm indicatorDefinitionId measurementValue measuredAt thresholdState
    sourceKind createdAt
submission-requirements subreq requirementKey title submissionKind status
submission-packages subpkg submissionRequirementId packageKey title status dueAt submittedAt
    acknowledgedAt acceptedAt externalReference ownerResponsibilityAssignmentId
submission-events subevt submissionPackageId eventKind occurredAt externalReference note
    resultingStatus createdAt
assets asset assetKey assetKind displayName description sourceKind status custodianResponsibilityId
    commissionedAt decommissionedAt
custody-assignments ascust assetId assignmentKey assignmentKind subject status startedAt endedAt
readiness-assessments asrdy assetId readinessAssessmentKey assessmentKind readinessState status
    performedAt performedByResponsibilityId
party-engagements peng engagementKey engagementKind title providerPartyId status
    ownerResponsibilityId
due-diligence-reviews pengdd engagementId reviewKey reviewKind status performedAt
right-to-audit-records pengrta engagementId recordKey status lastExercisedAt nextDueAt
supplier-assurance-reviews pengsa engagementId reviewKey reviewKind status performedAt
service-reviews pengsr engagementId reviewKey reviewKind status performedAt
change-requests chreq changeRequestKey changeKind title status subject ownerResponsibilityId
    scheduledAt
configuration-baselines chbsl baselineKey title status subject ownerResponsibilityId capturedAt
releases chrel releaseKey title status subject ownerResponsibilityId changeRequestIds releasedAt
system-acceptances chacc acceptanceKey title status subject ownerResponsibilityId acceptedAt
environment-separation-reviews chenv reviewKey title status subject ownerResponsibilityId
    performedAt
vulnerabilities vuln vulnerabilityKey vulnerabilityKind title severity status subject
    ownerResponsibilityId
vulnerability-assessments vulnas assessmentKey title status vulnerabilityIds exploitability
    performedAt ownerResponsibilityId
patch-requirements vulnpr patchRequirementKey vulnerabilityId title urgency status
    ownerResponsibilityId dueAt
"""

# --- Demo plans ---------------------------------------------------------------

# Plans of collections: how many records, from how many days ago, statuses up to an age in days and
# beyond it. Lines: subject/filter | kinds, severity | title | description | status instead.
DEMO_PLANS = """
[due-diligence-reviews] 60 | 560 | planned 25 completed
party-engagements | onboarding,periodic,change-of-ownership | {name}
[supplier-assurance-reviews] 45 | 560 | planned 25 completed
party-engagements | assurance,on-site-audit,certificate-check | {name}
[service-reviews] 50 | 560 | planned 25 completed
party-engagements | periodic,turnaround-time | {name}
[right-to-audit-records] 30 | 560 | active
party-engagements | | Right to audit {name}
[readiness-assessments] 220 | 550 | planned,completed 25 completed
assets/calibrated-tool | calibration | {name}
assets/calibrated-tool | calibration | {name}
assets/calibrated-tool | calibration | {name}
assets/test-set | calibration | {name}
assets/ground-support-equipment | load-test | {name}
assets/vehicle | roadworthiness-inspection | {name}
assets/it-system | recovery-test | {name}
assets/facility | facility-inspection | {name}
[risks] 64 | 545 | candidate,identified 40 under-treatment,under-treatment,accepted,monitored,closed
assets/calibrated-tool | | Undetected drift: {name} | Wrong values on AMM {task} stay unnoticed.
assets/ground-support-equipment | | Failure beside an aircraft: {name} | Injury and hull damage.
assets/it-system | | Ransomware reaching {name} | Line stations would be down for {days} hours.
assets/facility | | Flooding or loss of power in {name} | Base checks stop for {days} hours.
controls | | Night shift pressure weakens: {name} | Seen in {days} reports to the safety board.
party-engagements | | Late delivery or insolvency: {name} | Stock lasts for {days} days.
[assessments] 60 | 540 | planned,in-progress 25 completed,completed,completed,superseded,archived
controls | | Compliance audit: {name} | {days} records sampled, product audit on AMM {task}.
assets/it-system | | Security assessment: {name} | Configuration and accounts, {days} checks.
party-engagements | | Supplier audit: {name} | On site, {days} records sampled.
frameworks | | Gap analysis: {name} | {days} requirements read against the exposition.
[vulnerabilities] 80 | 540 | identified,under-assessment,requires-patch 60 patched,patched,excepted
assets/fortigate | cve critical | CVE-2024-21762 on {name}: out-of-bounds write in the SSL VPN
assets/esxi-host | cve medium | CVE-2024-37085 on {name}: bypass through a domain group
assets/windows-server | cve critical | CVE-2024-38063 on {name}: code execution through IPv6
assets/windows-server | cve critical | CVE-2024-38077 on {name}: remote desktop licensing
assets/windows-server | configuration-weakness high | SMB 1.0 still enabled on {name}
assets/linux-host | cve high | CVE-2024-6387 on {name}: race in the OpenSSH signal handler
assets/linux-host | cve high | CVE-2024-1086 on {name}: privilege escalation in nf_tables
assets/linux-host | cve critical | CVE-2021-44228 on {name}: code execution through Log4j
assets/backup-server | cve critical | CVE-2024-40711 on {name}: deserialization of untrusted data
assets/toughbook | cve high | CVE-2023-38831 on {name}: code execution through archives
assets/toughbook | cve critical | CVE-2023-23397 on {name}: Outlook gives away password hashes
assets/toughbook | internal-finding medium | Shift accounts administer {name}
assets/data-loader | pen-test-finding high | Unsigned software parts accepted by {name}
assets/amos | architectural-weakness low | Sessions outlive their sign-out on {name}
[vulnerability-assessments] 40 | 520 | planned 10 completed
vulnerabilities | | Triage, {month}: {name}
[patch-requirements] 32 | 400 | planned
vulnerabilities/requires-patch | | Patch in the next window: {name} | | in-progress
vulnerabilities/patched | | Patch: {name} | | completed
[findings] 150 | 525
    | open,open,triaged,remediation_planned 45 remediation_planned,remediating,verified,closed 120
    closed,closed,closed,closed,closed,accepted,archived,remediating
assets/calibrated-tool | audit high | Calibration overdue: {name}
    | The label expired {days} days ago; releases resting on AMM {task} are being traced.
assets/calibrated-tool | assessment medium | Out of tolerance as received: {name}
    | Second set point beyond its limit; effect on AMM {task} (ATA {chapter}) to be assessed.
assets/ground-support-equipment | audit medium | Load test record missing: {name}
    | No record of the last annual test could be shown; used for AMM {task} since.
assets/vehicle | manual low | Foreign object check not signed: {name}
    | The daily sheet was blank on {days} days although the vehicle drove airside.
assets/it-system | module_signal critical | End-of-life software reachable: {name}
    | A version without vendor support has answered from the office network for {days} days.
controls | audit critical | Independent inspection not recorded on AMM {task}
    | ATA {chapter}: second signature missing on a released card; aircraft inspected again.
controls | assessment medium | Superseded revision of AMM {task} at the aircraft
    | ATA {chapter}: the print was {days} days old and gives another tightening sequence.
controls | control_gap medium | Not performed as described: {name}
    | Records of {days} days do not show the practice; last clear record: ATA {chapter}.
party-engagements | obligation_gap high | Approval certificate expired: {name}
    | The certificate on file ran out {days} days ago; orders are on hold.
risks | risk_review medium | Treatment behind plan: {name}
    | The safety review board noted {days} days of delay and asked for an interim measure.
evidence-requirements | evidence_gap low | Evidence missing: {name}
    | Nothing was filed for the last period; the first reminder went out {days} days ago.
[change-requests] 75 | 520 | draft,submitted 10 approved,scheduled 45
    implemented,closed,closed,rejected,cancelled
assets/it-system | normal,standard | Upgrade of {name}
assets/it-system | emergency | Emergency patch of {name}
assets/test-set | pre-approved | New software standard for {name}
controls | normal | Revised procedure: {name}
findings | normal | Corrective change: {name}
[configuration-baselines] 24 | 430 | active
assets/it-system | | Configuration baseline of {name}, {month}
[releases] 14 | 400 | released
assets/it-system | | Maintenance window release, {name}, {month}
[system-acceptances] 10 | 430 | accepted
assets/test-set | | Acceptance into service of {name}
[environment-separation-reviews] 10 | 430 | completed
assets/it-system | | Separation of test and production, {name}, {month}
[exceptions] 30 | 520 | proposed 12 active,active,active,revoked 365 expired,superseded,archived
assets/calibrated-tool | deviation | Calibration interval extended: {name}
assets/it-system | temporary-exception | Unsupported version kept in service: {name}
controls | compensating-control | Second inspector from another shift: {name}
vulnerabilities | risk-based-acceptance | Patch deferred: {name}
findings | waiver | Later closure agreed with the authority: {name}
[evidence-claims] 130 | 530 | pending 20 approved,approved,approved,approved,rejected 365 expired
evidence-requirements/active | manual,cmms-import,external-system | {name}, {month}
    | Collected by the station, sample of {days} records, ATA {chapter} among them.
"""

# --- Demo records -------------------------------------------------------------

# How many days after a record is made its deadlines lie, and at most its events, which one whose
# status says that it is not done yet has not seen.
DEMO_DEADLINES = {"dueAt": 60, "reviewDueAt": 120, "validUntil": 365, "nextDueAt": 365}
DEMO_EVENTS = {"reviewedAt": 15, "performedAt": 20, "completedAt": 40, "closedAt": 90}
DEMO_EVENTS["lastExercisedAt"] = 100
DEMO_NOT_DONE = {"draft", "proposed", "pending", "planned", "in-progress"}
DEMO_NOT_DONE |= {"open", "triaged", "remediation_planned", "remediating", "verified"}
DEMO_UNSCHEDULED = ("draft", "submitted", "rejected", "cancelled")
DEMO_GROUPED = ("vulnerabilities", "change-requests", "evidence-requirements")
DEMO_PARENTS = ("assetId", "engagementId", "evidenceRequirementId", "vulnerabilityId")
DEMO_SCOPES = ("main base", "northern stations", "southern stations", "component shop")
DEMO_MODULES = {  # where a subject is kept, where that is not its collection's own name
    "evidence-requirements": "evidence/evidence-requirement",
    "vulnerabilities": "vulnerability-management/vulnerability",
    "party-engagements": "party-engagements/engagement",
}


DemoRows = Iterator[tuple[str, dict]]


class DemoRegister:
    """The records made so far, and the chance and calendar that the next are drawn from."""

    def __init__(self, random: Random, start: datetime, new_id: Callable[[str, datetime], str]):
        self.random, self.new_id = random, new_id
        self.start = start.replace(microsecond=0, tzinfo=UTC)
        self.made: dict[str, list[dict]] = defaultdict(list)
        self.made_at: dict[str, list[datetime]] = defaultdict(list)
        self.times_taken, self.keys_taken = set(), set()
        self.words, self.plans = demo_tables(DEMO_WORDS), demo_tables(DEMO_PLANS)
        shapes = re.sub(r"\n +", " ", DEMO_SHAPES.strip()).splitlines()
        self.shapes = {name: shape for name, *shape in map(str.split, shapes)}
        self.owners = [new_id("ra", at) for at in self.times(12, 640, 630)]
        names = self.words["people"][1]
        self.people = dict(zip(names, self.times(len(names), 629, 620), strict=True))
        self.people = {name: new_id("user", at) for name, at in self.people.items()}
        self.tasks = list(product(self.words["chapters"][1], self.words["tasks"][1]))

    def add(self, collection: str, at: datetime, **given) -> tuple[str, dict]:
        """Make a record of what is given; a member that is not given follows from its name."""
        prefix, *members = self.shapes[collection]
        row, last = {"id": self.new_id(prefix, at)}, at
        for name in members:
            if name == "subject":
                row |= given["subject"]
                continue
            value = given[name] if name in given else self.member(name, at, given)
            if isinstance(value, datetime):
                if last < value <= self.start and name not in DEMO_DEADLINES:
                    last = value
                value = demo_text(value)
            row[name] = value
        if members[-1] not in ("createdAt", "evaluatedAt"):
            last = given.get("updatedAt") or (last if last > at else self.later(at, 60))
            row |= {"createdAt": demo_text(at), "updatedAt": demo_text(last)}
        groups = [collection]
        if collection == "assets" and not row["decommissionedAt"]:
            sort = row["assetKey"].rstrip("0123456789-")
            groups += [f"assets/{row['assetKind']}", f"assets/{sort}"]
        elif collection in DEMO_GROUPED:
            groups.append(f"{collection}/{row['status']}")
        for group in groups:
            self.made[group].append(row)
            self.made_at[group].append(at)
        return collection, row

    def member(self, name: str, at: datetime, given: dict):
        """The value that a member of this name has by custom."""
        done = given.get("status") not in DEMO_NOT_DONE
        if name.endswith("Key") and "title" in given:
            return self.key(given["title"])
        if "Responsibility" in name:
            return None if given.get("status") in ("open", "proposed") else self.choice(self.owners)
        if name in DEMO_EVENTS:
            return self.later(at, DEMO_EVENTS[name]) if done else None
        if name == "scheduledAt":
            return None if given["status"] in DEMO_UNSCHEDULED else at + timedelta(days=45)
        if name in DEMO_DEADLINES:
            return at + timedelta(days=DEMO_DEADLINES[name])
        return at if name.endswith(("At", "From")) else None

    def choice(self, options):
        """One of some options."""
        return options[int(self.random.random() * len(options))]

    def time(self, at: datetime) -> datetime:
        """The first millisecond from then on that no record has."""
        while at in self.times_taken:
            at += timedelta(milliseconds=1)
        self.times_taken.add(at)
        return at

    def times(self, count: int, since: float, until: float = 1) -> list[datetime]:
        """Working hours in order, spread evenly between two numbers of days before the start."""
        step, chance = (since - until) / count, self.random
        days = (since - step * (number + chance.random()) for number in range(count))
        at = (self.start - timedelta(milliseconds=int(day * 86_400_000)) for day in days)
        return sorted(self.time(day.replace(hour=6 + int(chance.random() * 14))) for day in at)

    def later(self, at: datetime, days: float, before: datetime | None = None) -> datetime:
        """A time at most so many days later, and before the start or the time given."""
        room = min(days * 86_400, ((before or self.start) - at).total_seconds())
        return self.time(at + timedelta(milliseconds=int(room * self.random.uniform(100, 900))))

    def pick(self, words: str) -> str:
        """One of some words; a word said twice is twice as likely."""
        return self.choice(words.replace(",", " ").split() or [""])

    def status(self, at: datetime, stages: str) -> str:
        """A status for a record's age, of lists of statuses with ages in days between them."""
        *young, last = re.findall(r"(\S+) ?(\d*)", stages)
        for words, days in young:
            if self.start - at < timedelta(days=int(days)):
                return self.pick(words)
        return self.pick(last[0])

    def key(self, *parts: str) -> str:
        """A key in kebab case that no record has yet."""
        key = stem = re.sub("[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-")
        number = 1
        while key in self.keys_taken:
            key = f"{stem}-{(number := number + 1)}"
        self.keys_taken.add(key)
        return key

    def known(self, group: str, at: datetime) -> list[dict]:
        """Records made before a time in a collection, collection/kind or collection/status."""
        return self.made[group][: bisect_left(self.made_at[group], at)]


def demo_tables(text: str) -> dict[str, list[list[str]]]:
    """Tables of cells by name; the first row is what follows the name."""
    tables = re.findall(r"\[(.+?)\] *([^\[]+)", re.sub(r"\n +", " ", text))
    return {
        name: [re.split(r" *\| *", line) for line in lines.rstrip("\n").split("\n")]
        for name, lines in tables
    }


def demo_text(at: datetime) -> str:
    """A time as records write it: ISO 8601, UTC, milliseconds."""
    return at.isoformat(timespec="milliseconds")[:23] + "Z"


def demo_subject(collection: str, id: str) -> dict:
    """The three members that name a record as subject."""
    module, kind = DEMO_MODULES.get(collection, f"{collection}/{collection[:-1]}").split("/")
    return {"subjectModuleKey": module, "subjectResourceType": kind, "subjectResourceId": id}


def demo_draw(demo: DemoRegister, lines: list, at: datetime, titles: set) -> tuple:
    """A line of a plan filled in with an earlier record, and with a title that is not taken."""
    from calendar import month_name

    for _ in range(40):
        source, kinds, title, about, status = (*demo.choice(lines), "", "")[:5]
        if not (known := demo.known(source, at)):
            continue
        parent, (chapter, task) = demo.choice(known), demo.choice(demo.tasks)
        words = {"days": demo.choice(range(3, 60)), "chapter": chapter, "task": chapter[:2] + task}
        words["name"] = parent.get("displayName") or parent.get("title") or parent["name"]
        words["month"] = f"{month_name[at.month]} {at.year}"
        title = title.format(**words)
        drawn = source, kinds, title, about.format(**words) or None, status, parent
        if title not in titles:
            break
    return drawn


def demo_planned(demo: DemoRegister, collection: str) -> DemoRows:
    """The records of a collection as its plan says."""
    (count, since, stages), *lines = demo.plans[collection]
    members, titles = demo.shapes[collection], set()
    kinds_of = [name for name in members if name.endswith("Kind")]
    parents_of = [name for name in members if name in DEMO_PARENTS]
    for number, at in enumerate(demo.times(int(count), int(since)), 1):
        source, kinds, title, about, status, parent = demo_draw(demo, lines, at, titles)
        kind, severity = [*map(demo.pick, kinds.split()), "", "medium"][:2]
        given = dict.fromkeys(kinds_of, kind) | dict.fromkeys(parents_of, parent["id"])
        if "title" in members:
            titles.add(title)
        else:
            title = f"{title} {kind} {at:%Y-%m}"
        given |= {"title": title, "description": about, "severity": severity}
        given |= {"status": status or demo.status(at, stages)}
        given |= {"subject": demo_subject(source.partition("/")[0], parent["id"])}
        given |= demo_extras(demo, collection, at, number, parent, given)
        yield demo.add(collection, at, **given)


def demo_extras(demo: DemoRegister, collection: str, at, number: int, parent, given) -> dict:
    """The members that records of this collection alone have."""
    if collection == "readiness-assessments":
        state = "not-ready" if parent["status"] == "in-maintenance" else "ready"
        state = demo.pick(f"{state} " * 9 + "conditionally-ready")
        return {"readinessState": state if given["status"] == "completed" else "unknown"}
    if collection == "vulnerability-assessments":
        newest, exploit = demo.known("vulnerabilities", at)[-1], "none-known proof-of-concept"
        ids = list(dict.fromkeys([parent["id"], newest["id"]]))
        return {"vulnerabilityIds": ids, "exploitability": demo.pick(exploit)}
    if collection == "patch-requirements":
        return {"urgency": parent["severity"]}
    if collection == "releases":
        closed, before = demo.known("change-requests/closed", at), demo_text(at)
        done = [change["id"] for change in closed if change["updatedAt"] < before]
        return {"changeRequestIds": done[-3:]}
    return demo_source(demo, at, number, given) if collection == "findings" else {}


def demo_source(demo: DemoRegister, at: datetime, number: int, given: dict) -> dict:
    """Where a finding comes from, its key, and who works on it."""
    kind, origin = given["sourceKind"], list(given["subject"].values())
    if kind == "assessment":
        origin = demo_subject("assessments", demo.known("assessments", at)[-1]["id"]).values()
    elif kind == "audit":
        origin = "external", "audit-report", f"CAA-{at:%Y}-{number:03}"
    elif kind == "module_signal":
        origin = "external", "scanner-finding", f"SCAN-{number:05}"
    elif kind == "manual":
        origin = None, None, None
    held = demo.choice([None, *demo.people.values()]) if given["status"] != "open" else None
    key = {"findingKey": f"nc-{at:%Y}-{number:03}", "ownerMemberUserId": held}
    names = "sourceModuleKey", "sourceResourceType", "sourceResourceId"
    return key | dict(zip(names, origin, strict=True))


# --- Demo data ----------------------------------------------------------------


def demo_frameworks(demo: DemoRegister) -> DemoRows:
    """Frameworks, each with its version and a node for every reference that a control meets."""
    lines, controls = demo.words["rules"][1:], demo.words["practices"][1:]
    times = iter(demo.times(3 * len(lines) + len(controls), 615, 600))
    for key, name, source, version, since, prefix, domain in lines:
        about = f"Requirements of {name} that Meridian Line Maintenance answers for."
        shared = {"name": name, "description": about, "status": "active", "sourceKind": source}
        yield (made := demo.add("frameworks", next(times), frameworkKey=key, **shared))
        shared |= {"frameworkId": made[1]["id"], "versionLabel": f"{name}, {version}"}
        shared |= dict.fromkeys(("publishedAt", "effectiveFrom"), f"{since}T00:00:00.000Z")
        shared |= {"versionKey": version, "effectiveUntil": None}
        yield (made := demo.add("framework-versions", next(times), **shared))
        shared |= {"frameworkVersionId": made[1]["id"], "nodeKind": "domain", "parentNodeId": None}
        children = [row[:2] for row in controls if row[0].startswith(prefix)]
        for order, (code, title) in enumerate([(prefix.rstrip("."), domain), *children]):
            shared |= {"nodeKey": demo.key(key, code), "referenceCode": code, "title": title}
            shared |= {"sortOrder": order, "description": f"{title}, {name} {code}."}
            yield (made := demo.add("framework-nodes", next(times), **shared))
            if not order:
                shared |= {"parentNodeId": made[1]["id"], "nodeKind": "requirement"}


def demo_assets(demo: DemoRegister) -> DemoRows:
    """What the organization works with, the first of each sort at once, and who holds it."""
    lines, kinds = demo.words["stock"][1:], {row[0]: row[1:] for row in demo.words["kinds"][1:]}
    units = [(number / int(row[2]), number, row) for row in lines for number in range(int(row[2]))]
    times = demo.times(len(lines), 598, 570) + demo.times(len(units) - len(lines), 569, 25)
    units, custody = sorted(units, key=itemgetter(0)), []
    for at, (_, number, (key, kind, count, name, use)) in zip(times, units, strict=True):
        label, source, about = kinds[kind]
        status = demo.status(at, "active 200 " + "active," * 18 + "in-maintenance,decommissioned")
        end = demo.later(at, 400) if status == "decommissioned" else None
        given = {"assetKey": demo.key(key if count == "1" else f"{key}-{number + 1:03}")}
        given |= {"assetKind": kind, "sourceKind": source, "status": status}
        given |= {"displayName": label.format(name=name, n=number + 1), "decommissionedAt": end}
        given |= {"description": about.format(use=use)}
        given |= {"commissionedAt": at - timedelta(days=demo.random.randrange(1, 2500))}
        yield (made := demo.add("assets", at, **given))
        marks = [demo.later(at, 15, end), end]
        if demo.random.random() < 0.17:
            marks.insert(1, demo.later(marks[0], 250, end))
        holders = demo.random.sample(list(demo.people), 2)
        custody += [(*row, made[1]) for row in zip(marks, marks[1:], holders, strict=False)]
    member = {"subjectModuleKey": "membership", "subjectResourceType": "member-user"}
    for at, end, who, asset in sorted(custody, key=itemgetter(0)):
        given = {"assignmentKey": demo.key(asset["assetKey"], who, f"{at:%Y-%m}"), "endedAt": end}
        given |= {"assignmentKind": "primary", "status": "ended" if end else "active"}
        given |= {"subject": member | {"subjectResourceId": demo.people[who]}}
        given |= {"assetId": asset["id"]}
        yield demo.add("custody-assignments", at, **given)


def demo_engagements(demo: DemoRegister) -> DemoRows:
    """Five agreements with each supplier and customer."""
    forms = ("master agreement", "quality agreement", "price schedule", "work order", "amendment 1")
    pairs, parties = product(forms, demo.words["suppliers"][1:]), {}
    for at, (form, (name, kind, service)) in zip(demo.times(60, 598, 120), pairs, strict=True):
        party = parties.setdefault(name, demo.new_id("party", demo.time(at)))
        given = {"engagementKind": kind, "title": f"{name}: {service}, {form}"}
        given |= {"providerPartyId": party, "status": demo.status(at, "active,active,active,ended")}
        yield demo.add("party-engagements", at, engagementKey=demo.key(name, form), **given)


def demo_controls(demo: DemoRegister) -> DemoRows:
    """Controls, the evidence that is asked for them, and the nodes that both cover."""
    nodes = {node["referenceCode"]: node for node in demo.made["framework-nodes"]}
    links, lines = [], list(product(DEMO_SCOPES, demo.words["practices"][1:]))
    names = ["controls"] * len(lines) + ["evidence-requirements"] * 40
    plans = zip(names, demo.times(len(names), 598, 550), lines + lines[:40], strict=True)
    for collection, at, (scope, (code, title, proof)) in plans:
        given = {"title": f"{title}, {scope}", "status": demo.pick("active " * 12 + "draft")}
        given["description"] = f"Meets {code} at the {scope}; shown by {proof}, sampled quarterly."
        kind = "satisfies"
        if collection == "controls":
            for posture in ("implementationProjectionId", "complianceProjectionId"):
                given[posture] = demo.new_id("geprj", demo.time(at))
            given["subject"] = dict.fromkeys(demo_subject("controls", ""))
        else:
            kind, given["title"] = "evidences", f"{proof[0].upper()}{proof[1:]}, {scope}"
            given |= {"subjectModuleKey": "controls", "subjectResourceType": "control"}
        yield (made := demo.add(collection, at, **given))
        node, subject = nodes[code], demo_subject(collection, made[1]["id"])
        given = {"frameworkVersionId": node["frameworkVersionId"], "frameworkNodeId": node["id"]}
        links.append(given | {"subject": subject, "coverageKind": kind, "status": "active"})
    for at, given in zip(demo.times(len(links), 549, 500), links, strict=True):
        yield demo.add("coverage-links", at, **given)


def demo_submissions(demo: DemoRegister) -> DemoRows:
    """What is filed with whom, a package for each period, and what became of each package."""
    packages, events, lines = [], [], demo.words["duties"][1:]
    for at, (title, kind, months) in zip(demo.times(len(lines), 598, 580), lines, strict=True):
        status = "active" if int(months) else "draft"
        given = {"title": title, "submissionKind": kind, "status": status}
        yield (made := demo.add("submission-requirements", at, **given))
        packages += demo_periods(demo, made[1], int(months)) if int(months) else []
    for at, given in sorted(packages, key=itemgetter(0)):
        given, steps = demo_history(demo, at, given)
        yield (made := demo.add("submission-packages", at, **given))
        events += [(when, step | {"submissionPackageId": made[1]["id"]}) for when, step in steps]
    for at, given in sorted(events, key=itemgetter(0)):
        yield demo.add("submission-events", at, **given)


def demo_history(demo: DemoRegister, at: datetime, given: dict) -> tuple[dict, list]:
    """A package as its events left it, and the events with their times."""
    young = demo.start - at < timedelta(days=35)
    histories = ["", "submission receipt"] if young else demo.words["histories"][1]
    outcomes = {kind: outcome for kind, *outcome in demo.words["events"][1:]}
    steps, reference = [], f"MLM-{at:%y}-{demo.random.randrange(10000):04}"
    given |= dict.fromkeys(("submittedAt", "acknowledgedAt", "acceptedAt", "externalReference"))
    given |= {"status": demo.pick("draft in_review ready")}
    for kind in demo.choice(histories).split():
        (status, note), at = outcomes[kind], demo.later(at, 14)
        named = None if status == "submitted" else reference
        step = {"eventKind": kind, "note": note, "resultingStatus": status}
        steps.append((at, step | {"externalReference": named}))
        given |= {"status": status, f"{status}At": at, "updatedAt": at}
        given["externalReference"] = given["externalReference"] or named
    return given, steps


def demo_periods(demo: DemoRegister, requirement: dict, months: int) -> Iterator[tuple]:
    """When the package of each period was begun, and what is known of it then."""
    latest = (demo.start.year * 12 + demo.start.month - 1) // months * months
    for following in range(latest, latest - 19, -months):
        due = datetime(following // 12, following % 12 + 1, 28, 23, 59, 59, tzinfo=UTC)
        at = due - timedelta(minutes=demo.random.randrange(43_200, 64_800))
        year, month = divmod(following - 1, 12)
        names = {1: f"{year}-{month + 1:02}", 3: f"{year} Q{month // 3 + 1}"}
        names |= {6: f"{year} H{month // 6 + 1}", 12: f"{year}"}
        if timedelta(days=1) < demo.start - at < timedelta(days=545):
            title = f"{requirement['title']}, {names[months]}"
            given = {"submissionRequirementId": requirement["id"], "title": title, "dueAt": due}
            yield demo.time(at), given


def demo_indicators(demo: DemoRegister) -> DemoRows:
    """Indicators and their measurements."""
    series, lines = [], product(DEMO_SCOPES, demo.words["measures"][1:])
    lines = zip(demo.times(24, 545, 300), lines, strict=True)
    for at, (scope, (title, kind, target, limit)) in lines:
        status, values = demo.pick("active " * 12 + "draft"), [(None, None, None)]
        for when in demo.times(8, (demo.start - at).days - 1) if status == "active" else ():
            best, worst = float(target), float(limit)
            value = max(0, best + (worst - best) * demo.random.gauss(0.1, 0.5))
            value = min(value, 100) if "percent" in title else value
            value = f"{value:.{len(target.partition('.')[2])}f}"
            share = (float(value) - best) / (worst - best)
            state = "on-target" if share <= 0 else "warning" if share < 1 else "breach"
            values.append((when, value, state))
        given = {"title": f"{title}, {scope}", "indicatorKind": kind, "status": status}
        given |= {"latestMeasurementAt": values[-1][0], "latestMeasurementValue": values[-1][1]}
        control = demo.choice(demo.made["controls"])
        given |= {"subject": demo_subject("controls", control["id"])}
        yield (made := demo.add("indicators", at, **given))
        series += [(*row, made[1]["id"]) for row in values[1:]]
    for at, value, state, id in sorted(series):
        given = {"measurementValue": value, "thresholdState": state, "sourceKind": "calculated"}
        yield demo.add("indicator-measurements", at, indicatorDefinitionId=id, **given)


def demo_monitors(demo: DemoRegister) -> DemoRows:
    """Monitors and their runs; the items of each monitor's newest run are kept."""
    plans, lines = [], product(DEMO_SCOPES, demo.words["watches"][1:])
    for at, (scope, (title, kind, *messages)) in zip(demo.times(30, 545, 300), lines, strict=False):
        status = demo.pick("active " * 12 + "draft paused retired")
        until = {"paused": 60, "retired": 100}.get(status, 1)
        runs = demo.times(4, (demo.start - at).days - 1, until) if status != "draft" else [None]
        given = {"title": f"{title}, {scope}", "status": status, "lastRunAt": runs[-1]}
        given |= {"description": f"Checks every {kind.replace('-', ' ')} at the {scope}."}
        control = demo.choice(demo.made["controls"])
        given |= {"subject": demo_subject("controls", control["id"])}
        yield (made := demo.add("monitor-definitions", at, **given))
        plans += [(run, made[1], kind, messages, run == runs[-1]) for run in runs if run]
    for plan in sorted(plans, key=itemgetter(0)):
        yield from demo_run(demo, *plan)


def demo_run(
    demo: DemoRegister, at: datetime, monitor: dict, kind: str, messages: list, newest: bool
) -> DemoRows:
    """A run of a monitor over some assets of a kind and, of the newest run, its items."""
    assets = demo.known(f"assets/{kind}", at)
    assets = demo.random.sample(assets, min(9, len(assets)))
    results = [demo.pick("pass " * 40 + "warning warning fail") for _ in assets]
    counts = Counter(results)
    worst = next(word for word in ("fail", "warning", "pass") if counts[word])
    given = {f"{word}Count": counts[word] for word in ("pass", "fail", "warning", "unknown")}
    given |= {"aggregateResult": worst, "completedAt": at + timedelta(minutes=3)}
    given |= {"triggerKind": demo.pick("scheduled scheduled manual")}
    yield (made := demo.add("monitor-runs", at, monitorDefinitionId=monitor["id"], **given))
    run = {"monitorRunId": made[1]["id"], "monitorDefinitionId": monitor["id"]}
    texts = dict(zip(("pass", "warning", "fail"), messages, strict=True))
    findings = {row["subjectResourceId"]: row["id"] for row in demo.known("findings", at)}
    for asset, result in zip(assets, results, strict=True) if newest else ():
        item = {"populationMemberKey": asset["assetKey"], "result": result}
        item |= {"message": texts[result], "subject": demo_subject("assets", asset["id"])}
        item |= {"findingId": findings.get(asset["id"]) if result == "fail" else None}
        at = demo.time(at + timedelta(seconds=1))
        yield demo.add("monitor-result-items", at, **run, **item)


def demo_rows(random: Random, start: datetime, new_id: Callable[[str, datetime], str]) -> DemoRows:
    """Every record of the demo workspace with its collection's name, parents before children."""
    demo = DemoRegister(random, start, new_id)
    for build in (demo_frameworks, demo_assets, demo_engagements, demo_controls, demo_submissions):
        yield from build(demo)
    for collection in demo.plans:
        yield from demo_planned(demo, collection)
    yield from demo_indicators(demo)
    yield from demo_monitors(demo)


# --- Demo delivery ------------------------------------------------------------

#: What the organization builds itself: name, description, what each build has to show, and who
#: releases it.
DEMO_FLOWS = (
    ("work-package-sync", "Work packages from AMOS to the line.", ["junit", "snyk"], "qa-thomsen"),
    ("release-certificates", "EASA Form 1 from signed records.", ["junit", "sonar"], "qa-thomsen"),
    ("line-terminal-image", "The image of the terminals on the line.", ["junit"], ""),
)
DEMO_BUILDS = 16
DEMO_AUTHORS = ("B. Amari", "L. Brandt", "S. Iyer", "M. Rahman")
DEMO_DETAILS = {
    "junit": ({"tests": 412, "failures": 0}, {"tests": 412, "failures": 3}),
    "snyk": ({"vulnerabilities": 0}, {"vulnerabilities": 2}),
    "sonar": ({"qualityGateStatus": "OK"}, {"qualityGateStatus": "ERROR"}),
}


class DemoDelivery:
    """Builds on their way to two environments, a step every seven minutes, by the API's rules."""

    def __init__(self, random: Random, start: datetime):
        self.random, self.at = random, start.timestamp() - 30 * 86_400
        self.source = Source(self.now, random)
        self.running: dict[str, dict] = {}

    def now(self) -> float:
        """The time of the demo, which moves whenever somebody looks."""
        self.at += 0.137
        return self.at

    def make(self) -> None:
        """Make everything, in the current session."""
        flows = [
            Flow.create(
                name=name,
                description=description,
                required_attestation_types=types,
                requires_approval=bool(approver),
                required_approver_roles=["quality"] if approver else [],
                tags={"team": "maintenance-it"},
            )
            for name, description, types, approver in DEMO_FLOWS
        ]
        self.environments = [
            Environment.create(
                name="hangar-test", type="K8S", description="Where builds are tried."
            ),
            Environment.create(
                name="hangar-production", type="K8S", description="What the line uses."
            ),
        ]
        self.make_policies(flows)
        told = {"trigger_event": "TRAIL_NON_COMPLIANT", "channel_type": "IN_APP"}
        NotificationRule.create(name="Builds that nobody may release", **told)
        for number in range(DEMO_BUILDS):
            for flow, (*_, approver) in zip(flows, DEMO_FLOWS, strict=True):
                self.build(flow, number, approver)
                self.at += 14.5 * 3600

    def make_policies(self, flows: list[Flow]) -> None:
        """What the gate asks in front of production."""
        production = self.environments[1]
        policy = Policy.create(name="tested", required_attestation_types=["junit"])
        PolicyAttachment.create(policy=policy.id, environment=production.id)
        DeploymentPolicy.create(
            name="released",
            description="What changes maintenance records is released by quality.",
            flow=flows[0].id,
            environment_id=production.id,
            enforce_approvals=True,
        )

    def build(self, flow: Flow, number: int, approver: str) -> None:
        """One build: its trail, artifact, attestations, approval, and the gate."""
        author = self.random.choice(DEMO_AUTHORS)
        trail = begin_trail(
            {
                "flow": flow.id,
                "git_commit_sha": f"{self.random.getrandbits(160):040x}",
                "git_branch": "main",
                "git_author": author,
                "git_author_email": f"{author[3:].lower()}@maintenance.example",
                "build_url": f"https://ci.maintenance.example/{flow.name}/{number + 1}",
            }
        )
        digest = f"sha256:{self.random.getrandbits(256):064x}"
        named = {"image_name": flow.name, "image_tag": f"1.{number}.0"}
        report_artifact(trail, sha256_digest=digest, reported_by="ci", **named)
        for kind in flow.required_attestation_types:
            failed = self.random.random() < 0.08
            details = to_json(DEMO_DETAILS[kind][failed])
            status = "FAILED" if failed else "PASSED"
            record_attestation(trail, {}, type=kind, name=kind, status=status, details=details)
        self.deploy(self.environments[0], flow, digest, named["image_tag"])
        if approver and trail.status != "NON_COMPLIANT":
            wanted = {"required_approvers": [approver], "comments": "For the next night shift."}
            approval = Approval.create(trail=trail.id, flow=flow.id, **wanted)
            if number < DEMO_BUILDS - 1:
                approve(approval, {"approver_identity": approver, "comments": None})
        production = self.environments[1]
        if pass_gate(digest, production.id, production, "ci")["allowed"]:
            self.deploy(production, flow, digest, named["image_tag"])

    def deploy(self, environment: Environment, flow: Flow, digest: str, tag: str) -> None:
        """Run a build in an environment, and record what runs there now."""
        running = self.running.setdefault(environment.id, {})
        running[flow.name] = {
            "artifactSha256": digest,
            "artifactName": flow.name,
            "artifactTag": tag,
            "instanceCount": 2,
        }
        snapshot = EnvironmentSnapshot.record(environment, "agent", list(running.values()))
        if snapshot.snapshot_index % 10 == 3:
            values = {"approved_by": "qa-thomsen", "description": "Agreed with the CAMO."}
            Baseline.approve(environment, **values)
        note_drift(environment, snapshot)


def demo_delivery(current: Session, random: Random, start: datetime) -> None:
    """Make the demo's flows and all that hangs on them, by a clock and chance of their own."""
    delivery, source = DemoDelivery(random, start), current.source
    current.source = delivery.source
    try:
        delivery.make()
    finally:
        current.source = source


# --- WSGI application ---------------------------------------------------------

INSTANCE = "novantra_lite.instance"
SURFACES = (NOVANTRA, FACTSTORE)
FIXED_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


@functools.cache
def wsgi_application() -> falcon.App:
    """The Falcon application that all instances share; the instance travels with the request."""
    # Here, since a command that answers no requests starts in half the time without it.
    import falcon

    application = falcon.App()
    application.add_error_handler(falcon.HTTPError, refuse_early)
    application.add_error_handler(Exception, refuse_late)
    paths = by_path()
    last = next(reversed(paths))
    for path, operations in paths.items():
        responders = type("Responders", (), {})()
        for operation in operations:
            name = f"on_{operation.method.lower()}"
            setattr(responders, name, functools.partial(respond, operation))
        responders.on_options = functools.partial(offer, operations[0])
        # The router is compiled with the last of them, rather than in the way of a first request.
        application.add_route(path, responders, compile=path == last)
    return application


def every_operation() -> list[Operation]:
    """The operations of both surfaces, in the order of the chapters."""
    return [operation for surface in SURFACES for operation in surface.operations]


def by_path() -> dict[str, list[Operation]]:
    """Every operation, by its path."""
    paths: dict[str, list[Operation]] = {}
    for operation in every_operation():
        paths.setdefault(operation.path, []).append(operation)
    return paths


def respond(operation: Operation, request, response, **path: str) -> None:
    """Answer a request to an operation, whatever happens."""
    context = Context(request.env[INSTANCE], operation, request)
    try:
        reply = answer(context, path)
    except Problem as problem:
        reply = refuse(context, operation.surface, problem)
    except Exception:
        log.exception("Request %s failed.", context.request_id)
        reply = refuse(context, operation.surface, Problem())
    finally:
        if context.upload:
            context.upload.close()
    send(response, context, operation.surface, reply)


def offer(operation: Operation, request, response, **path: str) -> None:
    """Answer OPTIONS: the methods that a path answers to."""
    context = Context(request.env[INSTANCE], operation, request)
    allowed = ", ".join(allowed_methods(operation, context.settings))
    try:
        context.lite.limits.take_address(context, context.lite.source.clock())
        reply = Reply(204, headers={"Allow": allowed})
    except RateLimited as problem:
        reply = refuse(context, operation.surface, problem)
    send(response, context, operation.surface, reply)


def refuse(context: Context, surface: Surface, problem: Problem) -> Reply:
    """Word a problem the way of a surface."""
    body = to_json(surface.present_problem(problem, context)).encode("utf-8", "replace")
    return Reply(problem.status, body, problem.headers)


def send(response, context: Context, surface: Surface, reply: Reply) -> None:
    """Hand a reply to Falcon, with the headers that every answer carries."""
    response.status = reply.status
    if reply.stream is None:
        response.data = reply.body
    else:
        response.stream = reply.stream
    response.content_type = "application/json"
    response.set_headers(
        {
            **FIXED_HEADERS,
            "X-Request-Id": context.request_id,
            **context.headers,
            **surface.headers(context),
            **reply.headers,
        }
    )


def refuse_early(request, response, error: falcon.HTTPError, path: dict) -> None:
    """Word what Falcon refused before any operation was reached: unknown paths and methods."""
    lite, surface = request.env[INSTANCE], surface_at(request.path)
    context = Context(lite, None, request)
    kind = PROBLEMS.get(error.status_code, Invalid)
    headers = {name: value for name, value in dict(error.headers or {}).items() if name == "Allow"}
    try:
        lite.limits.take_address(context, lite.source.clock())
        problem = kind(headers=headers)
    except RateLimited as limited:
        problem = limited
    send(response, context, surface, refuse(context, surface, problem))


def refuse_late(request, response, error: Exception, path: dict) -> None:
    """Word a failure outside of any operation, and log it."""
    context = Context(request.env[INSTANCE], None, request)
    log.error("Request %s failed.", context.request_id, exc_info=error)
    surface = surface_at(request.path)
    send(response, context, surface, refuse(context, surface, Problem()))


def surface_at(path: str) -> Surface:
    """The surface that words what is wrong with a path: the one that claims most of it."""
    claims = [
        (len(claim), surface)
        for surface in SURFACES
        for claim in surface.claims
        if path == claim or path.startswith(claim.rstrip("/") + "/")
    ]
    # What is no path at all, such as the * of OPTIONS, is claimed by neither.
    return max(claims, key=lambda claim: claim[0], default=(0, NOVANTRA))[1]


def all_scopes() -> list[str]:
    """Every scope that some operation asks for, and those of the Factstore surface."""
    asked = {operation.scope for surface in SURFACES for operation in surface.operations}
    return sorted(asked - {""} | set(FACTSTORE_SCOPES))


def novantra_scopes() -> list[str]:
    """Every scope that an operation of the Novantra surface asks for."""
    return sorted({operation.scope for operation in NOVANTRA.operations} - {""})


def collection_names() -> list[str]:
    """The names of all collections, in the order of the chapters."""
    return [resource.collection for resource in RESOURCES if resource.collection]


# --- Clients ------------------------------------------------------------------


class ClientAnswer(NamedTuple):
    """What an in-process request was answered with."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON; None when it is empty."""
        return json.loads(self.body) if self.body else None


def wsgi_environment(method: str, path: str, query: str, body: bytes) -> dict:
    """What a WSGI server would hand over for a request (PEP 3333)."""
    path, _, own = path.partition("?")
    return {
        "REQUEST_METHOD": method,
        "PATH_INFO": urllib.parse.unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query or own,
        "SCRIPT_NAME": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_LENGTH": str(len(body)),
        "CONTENT_TYPE": "application/json" if body else "",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }


class Client:
    """Calls an application in this process, as a server would: no socket, no thread."""

    def __init__(self, application: Callable, headers: Mapping[str, str] = MappingProxyType({})):
        self.application, self.headers = application, dict(headers)

    def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        body: bytes | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        **query: Any,
    ) -> ClientAnswer:
        """Make a request; `json` is sent as the body, keywords as the query."""
        sent = to_json(json).encode() if body is None and json is not None else body or b""
        environ = wsgi_environment(method, path, urllib.parse.urlencode(query, doseq=True), sent)
        for name, value in (self.headers | dict(headers)).items():
            variable = name.upper().replace("-", "_")
            environ[variable if variable == "CONTENT_TYPE" else f"HTTP_{variable}"] = value
        started: list = []
        chunks = self.application(environ, lambda *answer: started.append(answer[:2]))
        data = b"".join(chunks)
        status, pairs = started[0]
        return ClientAnswer(int(status[:3]), {name.lower(): value for name, value in pairs}, data)

    def get(self, path: str, **query: Any) -> ClientAnswer:
        """GET a path."""
        return self.request("GET", path, **query)

    def post(self, path: str, json: Any = None, **options: Any) -> ClientAnswer:
        """POST a JSON body to a path."""
        return self.request("POST", path, json=json, **options)

    def patch(self, path: str, json: Any = None, **options: Any) -> ClientAnswer:
        """PATCH a path with a JSON body."""
        return self.request("PATCH", path, json=json, **options)

    def put(self, path: str, json: Any = None, **options: Any) -> ClientAnswer:
        """PUT a JSON body at a path."""
        return self.request("PUT", path, json=json, **options)

    def delete(self, path: str, **options: Any) -> ClientAnswer:
        """DELETE a path."""
        return self.request("DELETE", path, **options)


# --- Servers ------------------------------------------------------------------


@contextlib.contextmanager
def on_one_processor() -> Iterator[None]:
    """Have the threads that are started meanwhile share one processor, where the system can.

    Python runs one of them at a time. To hand a request over, and the interpreter with it, is many
    times quicker within a processor than between two. All servers of a process share the same one.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if len(allowed) < 2:
        yield
        return
    # A container may forbid it, which costs speed and nothing else.
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {sorted(allowed)[os.getpid() % len(allowed)]})
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, allowed)


#: Threads that a server adds at most while others wait for something outside.
REPLACEMENTS = 64


class Server:
    """waitress in a thread, stopped so that requests in flight are answered and nothing is left."""

    def __init__(self, application: Install, settings: Settings, listen: str):
        from waitress.server import create_server

        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        self.application, self.grace = application, settings.shutdown_grace
        self.threads, self.absent, self.lock = settings.threads, 0, threading.Lock()
        self.together = on_one_processor if settings.one_processor else contextlib.nullcontext
        with self.together():
            self.waitress = create_server(
                self.answer,
                map={},
                sockets=[listener(listen)],
                threads=self.threads,
                max_request_body_size=settings.upload_limit,
                asyncore_use_poll=True,
                # Nothing here believes, or looks at, what a proxy may say in its headers.
                clear_untrusted_proxy_headers=False,
                ident="novantra-lite",
            )
        # Answers up to this size leave whole, sent by the thread that has the sockets. As an option
        # it is deprecated; a waitress that has it no more takes no notice.
        self.waitress.adj.send_bytes = 65_536
        run = self.waitress.run
        self.thread = threading.Thread(target=run, name="novantra-lite-server", daemon=True)

    def answer(self, environ: dict, start_response: Callable) -> Iterable[bytes]:
        """Have the application answer; while that waits for something outside, others may, too."""
        _leave.set(self.leave)
        return self.application(environ, start_response)

    @contextlib.contextmanager
    def leave(self) -> Iterator[None]:
        """Let another thread answer in the place of this one."""
        self.replace(1)
        try:
            yield
        finally:
            self.replace(-1)

    def replace(self, more: int) -> None:
        """Keep half of the threads for requests that wait for nothing outside."""
        with self.lock:
            self.absent += more
            spare = min(max(0, self.absent - self.threads // 2), REPLACEMENTS)
            # None as soon as the server ends.
            if self.threads:
                self.waitress.task_dispatcher.set_thread_count(self.threads + spare)

    @property
    def url(self) -> str:
        """The address that the server answers on."""
        host, port = self.waitress.effective_host, self.waitress.effective_port
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def start(self) -> None:
        """Answer requests from now on."""
        wsgi_application()
        with self.together():
            self.thread.start()

    def stop(self) -> None:
        """Take no more connections, answer what is in flight, then end.

        waitress alone drops what is in flight, and its threads outlive its close. What touches its
        sockets runs in its own loop, which the trigger wakes.
        """
        server, deadline = self.waitress, time.monotonic() + self.grace
        self.in_loop(self.refuse_connections)
        while self.in_loop(self.close_idle) and time.monotonic() < deadline:
            time.sleep(0.002)
        with self.lock:
            self.threads = 0
        server.task_dispatcher.shutdown(cancel_pending=False, timeout=self.grace)
        self.in_loop(self.close_connections)
        self.thread.join(self.grace)

    def in_loop(self, function: Callable) -> Any:
        """What a function returns that runs in the loop, between two of its turns."""
        from concurrent.futures import Future

        future: Future = Future()
        self.waitress.trigger.pull_trigger(lambda: future.set_result(function()))
        return future.result(self.grace)

    def refuse_connections(self) -> None:
        """Take in who has connected already, then stop listening; runs in the loop."""
        known = -1
        while known != len(self.waitress.active_channels):
            known = len(self.waitress.active_channels)
            self.waitress.handle_accept()
        self.waitress.accepting = False
        self.waitress.del_channel()
        self.waitress.socket.close()

    def close_idle(self) -> bool:
        """Close the connections on which nothing is asked; whether others are left. In the loop."""
        for channel in list(self.waitress.active_channels.values()):
            # In the order in which a request passes through, so that none slips by.
            if not (
                has_input(channel.socket)
                or channel.request
                or channel.requests
                or channel.total_outbufs_len
            ):
                channel.handle_close()
        return bool(self.waitress.active_channels)

    def close_connections(self) -> None:
        """Close what is left, which ends the loop; runs in the loop."""
        for channel in list(self.waitress.active_channels.values()):
            channel.handle_close()
        self.waitress.close()


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], None]]:
    """Outlive what asks to stop; yields what waits for the first such signal, in the main thread.

    That is SIGTERM, SIGINT, and SIGHUP unless it is ignored, as under nohup.

    A handler in Python runs at the main thread's next step, so one that is due just as that thread
    lies down to wait would wait along with it. What wakes it here is a byte that the interpreter
    writes in the signal itself (`signal.set_wakeup_fd`), whichever thread it strikes.
    """
    import signal

    waiting, woken = socket.socketpair()
    woken.setblocking(False)
    stopping = {signal.SIGTERM, signal.SIGINT}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        stopping.add(signal.SIGHUP)

    def wait() -> None:
        while waiting.recv(1)[0] not in stopping:
            pass  # A signal that someone else handles.

    with waiting, woken:
        before = signal.set_wakeup_fd(woken.fileno())
        handlers = {number: signal.signal(number, lambda *_: None) for number in stopping}
        try:
            yield wait
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before)


def has_input(connection: socket.socket) -> bool:
    """Whether something was sent over a connection that nobody has read yet."""
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except OSError:
        return False


def listener(listen: str) -> socket.socket:
    """A socket on the first address that a host and port stand for; Conflict when it is taken."""
    host, _, port = listen.rpartition(":")
    if not port.isdigit() or int(port) > 65_535:
        raise Invalid(f"Expected HOST:PORT such as 127.0.0.1:8080, not {listen}.")
    try:
        known = socket.getaddrinfo(host.strip("[]") or "127.0.0.1", port, type=socket.SOCK_STREAM)
        return socket.create_server(known[0][4], family=known[0][0], backlog=1024)
    except OSError:
        raise Conflict(
            f"Nothing can listen on {listen}: it is taken, or not of this machine; port 0 picks a "
            "free one."
        ) from None


# --- Maintenance --------------------------------------------------------------


def check_everything() -> Iterator[str]:
    """Verify the current session's file as a whole, and what is encrypted if its keys are open."""
    connection = session().database.connection()
    yield from check_file(connection)
    faults = list(check_chains())
    # An index is held against records that are what they were.
    yield from faults or itertools.chain(check_snapshots(), check_search())
    yield from check_marks()
    yield from check_layout(connection)
    if session().ring:
        yield from check_attachments()
        yield from check_evidence()


def check_file(connection: sqlite3.Connection) -> Iterator[str]:
    """What SQLite itself finds wrong with a file."""
    for (told,) in connection.execute("PRAGMA integrity_check"):
        if told != "ok":
            yield f"The file is damaged: {told}."
    for table, row, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        yield f"Row {row} of {table} points at a {parent} that is not there."


def check_layout(connection: sqlite3.Connection) -> Iterator[str]:
    """Compare the tables, indexes and triggers of a file with those that a fresh one has."""
    expected, found = fresh_layout(), layout_of(connection)
    for kind, name in sorted(expected.keys() | found.keys()):
        if (kind, name) not in found:
            yield f"The {kind} {name} is missing."
        elif (kind, name) not in expected:
            yield f"The {kind} {name} is not of novantra-lite."
        elif expected[kind, name] != found[kind, name]:
            yield f"The {kind} {name} is not as novantra-lite makes it."


@functools.cache
def fresh_layout() -> dict[tuple[str, str], Any]:
    """What a file holds that was made just now."""
    with contextlib.closing(sqlite3.connect(":memory:")) as fresh:
        fresh.deserialize(new_file(tables_since, MIGRATIONS[-1].version))
        return layout_of(fresh)


def layout_of(connection: sqlite3.Connection) -> dict[tuple[str, str], Any]:
    """What a file holds of each kind: a table by its columns, all else by its SQL.

    A column that a migration added stands in another place of a table's SQL.
    """
    listed = 'SELECT "type", "name", "sql" FROM "sqlite_schema" WHERE "name" NOT LIKE \'sqlite_%\''
    layout: dict[tuple[str, str], Any] = {}
    for kind, name, sql in connection.execute(listed).fetchall():
        columns = connection.execute(f'PRAGMA table_xinfo("{name}")') if kind == "table" else ()
        layout[kind, name] = sorted(row[1:] for row in columns) or sql
    return layout


def verify_beside(path: Path, settings: Settings, notes: bytes, key: str = "") -> list[str]:
    """Verify a workspace's file together with signed checkpoints, without any secret.

    What is encrypted is verified too where the keys are at hand. `key` is the public key that must
    have signed; without one, those count that the file itself tells.
    """
    trusted = [NoteKey.read(key)] if key else []
    workspace = Workspace(path, settings, Source(time.time, random_module.SystemRandom()), True)
    with contextlib.closing(workspace):
        open_file(workspace, tables_since, MIGRATIONS)
        workspace.ring = None
        if is_key_at_hand(workspace):
            open_ring(workspace)
        workspace.reading = Session(workspace, workspace.reader)
        with workspace.read():
            (organization,) = workspace.fetch_row('SELECT max("id") FROM "organization"')
            origin = checkpoint_origin(organization)
            told = check_checkpoints(notes, trusted or known_note_keys(), origin)
            return [*check_everything(), *told]


def back_up(workspace: Workspace, target: Path) -> None:
    """Copy a workspace to a new file, and put a signed checkpoint of the copy beside it.

    One that ends with the process has none, as its key ends with it.
    """
    workspace.backup(target)
    if workspace.path:
        with contextlib.closing(sqlite3.connect(target)) as copy:
            with copy:
                # Whoever opens it only for reading finds all of it, too.
                take_up_notes(copy)
            note = workspace.checkpoints.sign(copy)
        append_note(target.with_name(f"{target.name}.checkpoints"), note)


def file_bytes(workspace: Workspace) -> int:
    """The size of a workspace's file, without what still waits beside it to be taken over."""
    connection = workspace.reader.connection()
    pages, each = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size")
    )
    return pages * each


def examine(lite: NovantraLite) -> dict:
    """What a person who helps would ask first."""
    import platform
    import shutil
    from importlib.metadata import version

    secret = {name for name, known in Settings.KNOWN.items() if known.is_secret}
    workspaces = []
    for workspace in lite.workspaces.values():
        connection = workspace.reader.connection()
        workspaces.append(
            {
                "slug": workspace.slug,
                "file": str(workspace.path or "temporary"),
                "bytes": file_bytes(workspace),
                "layout": connection.execute("PRAGMA user_version").fetchone()[0],
                "freeDiskBytes": shutil.disk_usage(workspace.file.parent).free,
            }
        )
    packages = (
        "cryptography", "falcon", "itsdangerous", "peewee", "prometheus-client", "PyYAML",
        "waitress",
    )  # fmt: skip
    return {
        "version": __version__,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "packages": {name: version(name) for name in packages},
        "settings": {
            name: value for name, value in vars(lite.settings).items() if name not in secret
        },
        "workspaces": workspaces,
    }


def load_demo(lite: NovantraLite) -> None:
    """Fill an empty workspace with the records of the demo, in one transaction."""
    workspace = lite.workspace
    with workspace.read():
        if any(Collection(workspace, resource).model.select().exists() for resource in governed()):
            raise Conflict("The workspace holds records already; the demo goes into an empty one.")
    chance = random_module.Random("novantra-lite demo")

    def new_id(prefix: str, at: datetime) -> str:
        return f"{prefix}_" + encode_ulid(int(at.timestamp() * 1000), chance.getrandbits(79))

    report = Report()

    def work(current):
        imports: dict[str, Import] = {}
        for line, (name, row) in enumerate(demo_rows(chance, DEMO_START, new_id), 1):
            if name not in imports:
                imports[name] = Import(lite.collection(name), current, report)
            imports[name].take(line, row)
        if report.refused:
            raise Problem(f"The demo does not fit: {report.faults[0]}.")
        demo_delivery(current, chance, DEMO_START)
        current.events.clear()

    perform(workspace, work, actor="console", reason="Demonstration data was loaded.")


def governed() -> list[Resource]:
    """The resources whose records make a collection."""
    return [resource for resource in RESOURCES if resource.collection]


DEMO_START = datetime(2026, 6, 1, 8, 0, tzinfo=UTC)


# --- Audit records ------------------------------------------------------------
# The whole audit log, of both surfaces, for whoever watches over it elsewhere.

#: Stands for what was there before where that is kept encrypted, or is never shown.
WITHHELD = "(withheld)"


class AuditRecords:
    """The entries of a workspace's audit log as JSON members, in the order of writing.

    It goes through those that there are when it is begun, in little memory. `since` and `until` are
    times, and belong to what they bound; a date stands for the whole day. `actor` and `action` are
    exact; `after` is the id of an entry that was seen already.
    """

    BATCH = 500

    def __init__(
        self,
        workspace: Workspace,
        *,
        since: str = "",
        until: str = "",
        actor: str = "",
        action: str = "",
        after: int = 0,
    ):
        self.workspace, self.after = workspace, after
        self.since = self.read_time("since", since, "T00:00:00Z") if since else ""
        self.until = self.read_time("until", until, "T23:59:59.999Z") if until else "~"
        self.exact = {"actor": actor, "action": action}

    @staticmethod
    def read_time(name: str, text: str, of_day: str) -> str:
        """A time as the log writes it, from an ISO 8601 date-time with an offset or a date."""
        try:
            return parse_timestamp(text + of_day * (len(text) == len("2026-01-31")))
        except ValueError as error:
            raise Invalid(
                f"'{text}' is no time; write a date, or a date-time with an offset such as "
                "2026-07-30T23:59:59Z.",
                [issue([name], str(error))],
            ) from None

    def __iter__(self) -> Iterator[dict]:
        first, last = self.bounds()
        while batch := self.batch(first, last):
            yield from batch
            first = batch[-1]["id"] + 1

    def newest(self) -> int:
        """The id of the last entry that there is."""
        with self.workspace.read():
            return self.workspace.fetch_row("SELECT max(id) FROM audit_entry")[0]

    def bounds(self) -> tuple[int, int]:
        """The first and the last id between which all entries of the time lie."""
        if not self.since and self.until == "~":
            return self.after + 1, self.newest()
        spanned = "SELECT min(id), max(id) FROM audit_entry WHERE at >= ? AND at <= ?"
        with self.workspace.read():
            first, last = self.workspace.fetch_row(spanned, (self.since, self.until))
        return max(first or 1, self.after + 1), last or 0

    def batch(self, first: int, last: int) -> list[dict]:
        """The next few entries from an id on."""
        exact = {name: value for name, value in self.exact.items() if value}
        columns = ", ".join(column.column_name for column in AuditEntry.members().values())
        # The plus keeps SQLite from sorting what it finds by time.
        sql = f"SELECT {columns} FROM audit_entry WHERE id >= ? AND id <= ? AND +at BETWEEN ? AND ?"
        sql += "".join(f" AND {name} = ?" for name in exact) + " ORDER BY id LIMIT ?"
        values = [first, last, self.since, self.until, *exact.values(), self.BATCH]
        with self.workspace.read() as current:
            rows = current.database.connection().execute(sql, values).fetchall()
            self.take_new_keys()
            entries = [
                self.entry(dict(zip(AuditEntry.members(), row, strict=True))) for row in rows
            ]
            self.add_events(
                {one["subjectId"]: one for one in entries if one["subjectType"] == "audit_event"}
            )
            return entries

    def take_new_keys(self) -> None:
        """Know the keys, too, that somebody else has added to the ring in the meantime."""
        ring = self.workspace.ring
        newer = "SELECT id, wrapped FROM ring_key WHERE id > ? ORDER BY id"
        for number, wrapped in session().database.connection().execute(newer, (ring.newest,)):
            ring.add(number, wrapped)

    def entry(self, told: dict) -> dict:
        """An entry with what is encrypted in it opened, as far as it may be seen."""
        for member in (AuditEntry.reason, AuditEntry.detail):
            if sealed := told[member.name]:
                told[member.name] = self.workspace.ring.open(sealed, member.place(str(told["id"])))
        if told["detail"] is not None:
            detail = told["detail"] = json.loads(told["detail"])
            if "before" in detail:
                detail["before"] = withhold(told["subjectType"], detail["before"])
        return told

    def add_events(self, entries: Mapping[str, dict]) -> None:
        """Add to entries of Factstore's happenings what its own audit log tells of them."""
        wanted = f"SELECT id, json FROM audit_event WHERE id IN ({', '.join('?' * len(entries))})"
        for key, text in session().database.connection().execute(wanted, [*entries]):
            entries[key]["event"] = json.loads(text)


def audit_records(lite: Install, **filters: Any) -> AuditRecords:
    """The audit log of an instance's workspace; `filters` are those of AuditRecords."""
    return AuditRecords(lite.workspace, **filters)


def withhold(table: str, before: dict) -> dict:
    """What a record's members were before, without what is encrypted or never shown."""
    open_members = {
        camel(column.column_name)
        for model in all_models()
        if model._meta.table_name == table
        for column in model._meta.sorted_fields
        if not (column.sealed or column.hidden)
    }
    return {name: value if name in open_members else WITHHELD for name, value in before.items()}


# --- Installs -----------------------------------------------------------------


class Install:
    """The workspaces of a process, with the clock, the limits and the dispatcher that they share.

    `database` is the file of its one workspace, or empty for one that ends with the instance;
    `workspaces` is a directory with several, of which `workspace` names the one that this instance
    speaks of by default. `clock`, `random` and `transport` replace time, chance and the network.
    The keywords that follow are those of Settings.
    """

    def __init__(
        self,
        database: str | os.PathLike = "",
        *,
        workspace: str = "",
        read_only: bool = False,
        clock: Callable[[], float] = time.time,
        random: random_module.Random | None = None,
        transport: Any = None,
        **settings: Any,
    ):
        settings = {"workspaces": "", **settings, "database": os.fspath(database)}
        settings["workspaces"] = os.fspath(settings["workspaces"])
        self.settings = Settings.read(**settings)
        self.read_only, self._chosen = read_only, workspace
        self.source = Source(clock, random or random_module.SystemRandom())
        self.limits = RateLimits(self.settings)
        self.bell = threading.Event()
        self._collections: dict[str, Collection] = {}
        self.workspaces: dict[str, Workspace] = {}
        read_trusted_keys(self.settings)
        networks = allowed_networks(self.settings)
        self.transport = transport or Transport(
            networks, self.settings.webhook_timeout, clock=self.source.clock
        )
        # A setting that cannot be meant is refused now, not at the first pull request.
        source_bases(self.settings)
        self.vault = evidence_store(self.settings)
        self.dispatcher = Dispatcher(self.workspaces, self.transport, self.source, self.bell)
        self.rego = RegoEngine(self.settings)
        try:
            self.open_all()
        except BaseException:
            self.close()
            raise

    def open_all(self) -> None:
        """Open the one workspace, or every one in the directory."""
        if not self.settings.workspaces:
            path = Path(self.settings.database) if self.settings.database else None
            self.open_workspace(path, {})
            return
        folder = Path(self.settings.workspaces)
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*.db")):
            self.open_workspace(path, {})

    def open_workspace(self, path: Path | None, profile: Mapping[str, str]) -> Workspace:
        """Open a workspace's file; a new file gets the profile for its organization."""
        if self.read_only and path and not path.exists():
            raise NotFound(f"There is no workspace at {path}.")
        workspace = Workspace(path, self.settings, self.source, self.read_only and path is not None)
        slug = slug_of(path)
        try:
            prepare(workspace, self.settings, self.bell)
            identify_organization(workspace, {"slug": slug, "name": title_of(slug), **profile})
        except BaseException:
            workspace.close()
            raise
        self.workspaces[workspace.slug] = workspace
        return workspace

    def create_workspace(
        self, slug: str, name: str = "", locale: str = "en", timezone: str = "UTC"
    ) -> Workspace:
        """Make a workspace of its own file in the directory of workspaces."""
        if not self.settings.workspaces:
            raise Conflict("Only an install with a directory of workspaces can have several.")
        given = {
            "slug": slug,
            "name": name or title_of(slug),
            "locale": locale,
            "timezone": timezone,
        }
        own = Organization.slug, Organization.name, Organization.locale, Organization.timezone
        profile = read_members(Schema(*own), given)
        path = Path(self.settings.workspaces) / f"{slug}.db"
        if slug in self.workspaces or path.exists():
            raise Conflict(f"There is already a workspace {slug}.")
        return self.open_workspace(path, profile)

    @property
    def workspace(self) -> Workspace:
        """The one workspace that is meant; Invalid when there are several and none was named."""
        if self._chosen:
            if self._chosen not in self.workspaces:
                raise NotFound(f"There is no workspace {self._chosen}.")
            return self.workspaces[self._chosen]
        if len(self.workspaces) != 1:
            raise Invalid(
                f"Name one of the workspaces: {', '.join(self.workspaces) or 'there is none'}."
            )
        return next(iter(self.workspaces.values()))

    def workspace_of(self, token: str) -> Workspace:
        """The workspace that a token names; Unauthenticated when there is none of that name."""
        workspace = self.workspaces.get(token.partition(".")[0])
        if workspace is None:
            raise Unauthenticated
        return workspace

    def workspace_of_account(self, client_id: str) -> Workspace | None:
        """The workspace that has a service account."""
        for workspace in self.workspaces.values():
            with workspace.read():
                if ServiceAccount.has(client_id):
                    return workspace
        return None

    def start(self) -> None:
        """Deliver webhooks from a thread; whoever mounts the application elsewhere calls this."""
        if not self.read_only:
            self.dispatcher.start()

    def close(self) -> None:
        """Stop delivering, and close every workspace."""
        self.dispatcher.stop()
        self.vault.close()
        self.rego.close()
        while self.workspaces:
            with contextlib.closing(self.workspaces.popitem()[1]) as workspace:
                if workspace.path and not workspace.read_only:
                    # The minute at hand ends here; a full disk is no reason not to close.
                    with contextlib.suppress(Problem):
                        write_counts(workspace, self.source.clock() + 60)
                    workspace.checkpoints.write()

    def __enter__(self) -> Install:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


# --- NovantraLite -------------------------------------------------------------


class NovantraLite(Install):
    """An install as a WSGI application, and the door to everything: records, accounts, webhooks.

    It takes what Install takes, and is a context manager that closes its files.
    """

    audit = audit_records

    @functools.cached_property
    def accounts(self) -> Accounts:
        """The service accounts of the workspace."""
        return Accounts(self.workspace, all_scopes)

    @functools.cached_property
    def webhooks(self) -> Webhooks:
        """The webhook endpoints of the workspace."""
        return Webhooks(self.workspace, self.dispatcher)

    @property
    def api_keys(self) -> ApiKeys:
        """The keys of the workspace that its Factstore surface is called with."""
        return self.workspace.api_keys

    def collection(self, name: str) -> Collection:
        """The records of one kind, by the name of their collection or of their list on the wire."""
        if name not in self._collections:
            for resource in RESOURCES:
                if resource.collection and name in (resource.collection, resource.plural):
                    self._collections[name] = Collection(self.workspace, resource)
                    break
            else:
                names = ", ".join(collection_names())
                raise NotFound(f"There is no collection {name}; there are {names}.")
        return self._collections[name]

    def import_oscal(self, document: dict, *, reason: str) -> Report:
        """Bring an OSCAL 1.1 catalog in as a framework; a second time changes nothing."""
        return import_catalog(self.collection, document, reason)

    def import_scan(
        self, stream: IO[bytes], name: str, *, trail: str, reason: str, dry_run: bool = False
    ) -> dict:
        """Record a scan of a trail out of a scanner's report, which is kept as its evidence."""
        with contextlib.closing(read_file(stream, name, self.settings.upload_limit)) as upload:
            return import_scan(self.collection("flows"), trail, upload, reason, dry_run)

    def attachment(self, key: str) -> tuple[dict, bytes]:
        """What is known of an attachment, and its bytes."""
        with self.workspace.read():
            return AttachmentContent.read(key)

    def token(self, *scopes: str, life: int | None = None) -> str:
        """A bearer token with these scopes, from an account made for it."""
        name, wanted = "In-process client", sorted(set(scopes))
        with self.workspace.read():
            known = ServiceAccount.every(name=name)
            usable = (one for one in known if one.scopes == wanted and not one.disabled)
            account = next(usable, None)
        if account is None:
            made = self.accounts.create(name, wanted)
            with self.workspace.read():
                account = ServiceAccount.fetch(made.client_id)
        return self.workspace.tokens.issue(account, wanted, life or self.settings.token_life)

    def client(self, *scopes: str) -> Client:
        """A client in this process that presents a token with these scopes; no socket."""
        return Client(self, {"Authorization": f"Bearer {self.token(*scopes)}"} if scopes else {})

    def step(self, at: float | None = None) -> int:
        """Do what is due now, or at a time: deliveries, expiries; tell how many events arrived."""
        return self.dispatcher.step(self.source.clock() if at is None else at)

    def __call__(self, environ: dict, start_response: Callable) -> Iterable[bytes]:
        environ[INSTANCE] = self
        return wsgi_application()(environ, start_response)

    @contextlib.contextmanager
    def listening(self, listen: str = "127.0.0.1:0") -> Iterator[str]:
        """Answer on a real port, a free one unless told, and deliver webhooks; yields the URL."""
        server = Server(self, self.settings, listen)
        server.start()
        try:
            self.start()
            yield server.url
        finally:
            server.stop()
            self.dispatcher.stop()
            for workspace in self.workspaces.values():
                workspace.reader.close_ended()

    def serve(self, listen: str = "", *, ready: Callable[[str], Any] = lambda url: None) -> None:
        """Answer until SIGTERM or SIGINT; `ready` is told the URL once requests are answered."""
        with stop_signals() as wait, self.listening(listen or self.settings.listen) as url:
            ready(url)
            wait()

    def load_demo(self) -> None:
        """Fill an empty workspace with a believable one; the same records on every machine."""
        load_demo(self)

    def verify(self) -> list[str]:
        """Recompute the chains and check the file; a sentence for each fault."""
        with self.workspace.read():
            return list(check_everything())

    def backup(self, target: str | os.PathLike) -> None:
        """Copy the workspace to a new file, as it stands at one moment, while it is in use."""
        back_up(self.workspace, Path(target))

    def checkpoint(self) -> dict[str, str]:
        """A signed checkpoint of now, and the public key to keep for verifying it."""
        return self.workspace.checkpoints.tell()

    def rotate_keys(self) -> int:
        """Add a key to the ring, which seals from now on; the older ones still open. Its number."""
        number = self.workspace.ring.newest + 1
        add_ring_key(self.workspace, number)
        return number

    def doctor(self) -> dict:
        """Facts about versions, settings and the file, without secrets."""
        return examine(self)

    def reset(self) -> None:
        """Empty a workspace that ends with the process, as between two tests."""
        if self.settings.database or self.settings.workspaces:
            raise Conflict("Only a workspace without a file can be reset.")
        self.workspaces.popitem()[1].close()
        for name in ("accounts", "webhooks"):
            self.__dict__.pop(name, None)
        self._collections.clear()
        self.limits = RateLimits(self.settings)
        self.open_workspace(None, {})


def create_app() -> NovantraLite:
    """The application as the environment says, for a WSGI server that is given a factory."""
    settings = Settings.read()
    lite = NovantraLite(settings.database, workspaces=settings.workspaces)
    lite.start()
    return lite


# --- Reference page -----------------------------------------------------------

REFERENCE_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1c2027; --muted: #565e6b; --line: #dfe3e8;
  --panel: #f5f6f8; --link: #1d4fa3; --get: #1f6b3a; --put: #8a4b08; --delete: #ad1f2d }
@media screen and (prefers-color-scheme: dark) { :root { --page: #14161a; --text: #e3e6eb;
  --muted: #a3abb8; --line: #30353e; --panel: #1d2026; --link: #94b8ff; --get: #7fcf9a;
  --put: #e5b46c; --delete: #ff9a9f } }
* { box-sizing: border-box; border: 0 solid var(--line) } [hidden] { display: none !important }
body { margin: 0; background: var(--page); color: var(--text); overflow-wrap: break-word;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px } main:focus { outline: 0 }
.skip { position: absolute; left: -99rem; padding: .5rem } .skip:focus { left: 0; z-index: 1 }
header, nav, main { padding: 0 1.25rem; max-width: 68rem } header { padding-top: 2rem }
h1 { margin: 0; font-size: 1.75rem } h2 { margin: 2.75rem 0 .75rem; font-size: 1.25rem }
h4 { margin: 1.5rem 0 .4rem; font-size: .875rem } section > p, .about p { max-width: 44rem }
header p, output, thead, small, h3 span, li > span, .facts { color: var(--muted); font-weight: 400 }
code, pre, h3 b { font: .9em/1.55 ui-monospace, "SF Mono", Menlo, Consolas, monospace }
pre { padding: .75rem 1rem; overflow-x: auto; background: var(--panel); border-width: 1px;
  border-radius: 6px; font-size: .8125rem } pre code { font-size: 1em } summary { cursor: pointer }
nav, h3 { font-size: .9375rem } nav ul, .members ul { list-style: none; margin: 0; padding: 0 }
nav a { display: flex; justify-content: space-between; padding: .2rem 0; text-decoration: none }
nav summary, nav label { padding: .75rem 0 .25rem; font-weight: 600 } a { color: var(--link) }
nav a:not(:hover), .facts a { color: inherit } label, output { display: block }
input { width: 100%; padding: .45rem .6rem; font: inherit; color: inherit; border-radius: 6px;
  background: var(--page); border: 1px solid var(--muted) } output, small { font-size: .8125rem }
main details { border-top-width: 1px } main summary { display: block; padding: .6rem }
main summary:hover, main [open] > summary { background: var(--panel) } .answer em { display: none }
h3 { display: grid; grid-template-columns: 4.25rem minmax(0, 3fr) minmax(0, 2fr); gap: 0 .75rem;
  align-items: baseline; margin: 0; font-weight: 400 } h3 b { font-size: .75rem; font-weight: 600;
  text-align: center; border: 1px solid; border-radius: 4px } h3 i, em { font-style: normal }
.get { color: var(--get) } h3 i, .post { color: var(--link) } .delete { color: var(--delete) }
.body { padding: 1rem .6rem 1rem 5.6rem; scroll-margin-top: 4rem } th:first-child { width: 12rem }
table { width: 100%; border-collapse: collapse } table, .members, .facts { font-size: .875rem }
th, td { padding: .35rem 1rem .35rem 0; text-align: left; vertical-align: top; font-weight: 400;
  border-bottom-width: 1px } td p, .members p, .about .facts { margin: 0 }
.members li { padding: .3rem 0; border-top-width: 1px } .put, .patch { color: var(--put) }
.members li ul { margin-top: .3rem; padding-left: 1rem; border-left-width: 2px }
@media (width >= 60rem) { body { display: grid; grid: auto 1fr / 16.5rem minmax(0, 1fr) }
  nav { grid-row: 1 / 3; position: sticky; top: 0; height: 100vh; overflow-y: auto;
    border-right-width: 1px } nav summary { pointer-events: none; list-style: none }
  header, main { grid-column: 2; padding-left: 2.5rem } }
@media (width < 44rem) { h3 { grid-template-columns: 4.25rem 1fr } .body { padding: .75rem 0 }
  h3 code { grid-area: 2 / 1 / 3 / 3 } thead { position: absolute; left: -99rem }
  tr { display: flex; flex-wrap: wrap; padding: .3rem 0; border-bottom-width: 1px }
  td, tr th { border: 0; padding: 0 1rem 0 0 } tr :is(th, :last-child) { flex-basis: 100% } }
@media print { nav, .skip { display: none } body { display: block } pre { white-space: pre-wrap }
  .operation::details-content { content-visibility: visible } li, tr, pre { break-inside: avoid } }
"""
REFERENCE_SCRIPT = """"use strict";
const byId = id => document.getElementById(decodeURIComponent(id)), input = byId("filter-text");
const all = selector => document.querySelectorAll(selector), wide = matchMedia("(width >= 60rem)");
const operations = all(".operation"), isMethod = /^(get|put|post|patch|delete)$/;
function filter() {
  const words = input.value.toLowerCase().split(/\\s+/).filter(Boolean); let count = 0;
  for (const box of operations) {
    const text = box.querySelector("h3").textContent + box.querySelector(".about").textContent;
    box.hidden = !words.every(word => isMethod.test(word)
      ? box.querySelector("b." + word) : text.toLowerCase().includes(word));
  }
  for (const link of all("nav a[href^='#tag-']")) {
    const section = byId(link.hash.slice(1));
    const shown = section.querySelectorAll(".operation:not([hidden])").length;
    link.hidden = section.hidden = !shown;
    link.lastElementChild.textContent = shown; count += shown;
  }
  byId("filter-count").textContent = `${count} of ${operations.length} operations`;
}
function reveal() {
  const target = byId(location.hash.slice(1)), box = target?.closest(".operation");
  if (box?.hidden) { input.value = ""; filter(); }
  if (box) { box.open = true; target.scrollIntoView(); }
}
const fold = () => { byId("tag-list").open = wide.matches; }; byId("filter-box").hidden = false;
input.addEventListener("input", filter); wide.addEventListener("change", fold);
addEventListener("hashchange", reveal); fold(); filter(); reveal();
"""
SCRIPT_HASH = base64.b64encode(hashlib.sha256(REFERENCE_SCRIPT.encode()).digest()).decode()
REFERENCE_CSP = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{SCRIPT_HASH}'"
FACTS = ("const", "default", "minLength", "maxLength", "minimum", "maximum", "maxItems", "pattern")
SAMPLES = {"integer": 1, "number": 1, "boolean": True, "object": {}, "map": {}, "array": []}
SAMPLES |= {"uuid": "00000000-0000-4000-8000-000000000000", "date-time": "2026-01-31T09:00:00Z"}


def prose(text: str) -> str:
    """Plain text as paragraphs, with code in backticks."""
    text = re.sub(r"`([^`\n]+)`", r"<code>\1</code>", escape(text.strip()))
    return "".join(f"<p>{block}</p>" for block in re.split(r"\n\s*\n", text) if block)


class ReferencePage:
    """Prints the operations of an OpenAPI 3.1 document with all that their schemas refer to."""

    def __init__(self, document: dict):
        components, self.folded = document.get("components", {}), {}
        self.schemas, self.shared = components.get("schemas", {}), components.get("responses", {})

    def fold(self, node: object, seen: tuple = ()) -> dict:
        """The schema without `$ref` and `allOf`; `parts` are its alternatives, items and values."""
        if id(node) in self.folded:
            return self.folded[id(node)][1]
        own = dict(node) if isinstance(node, dict) else {}
        bases, name = own.pop("allOf", []), own.pop("$ref", "").rpartition("/")[2]
        if name and name not in seen:
            bases, seen = [self.schemas[name], *bases], (*seen, name)
        schema: dict = {"properties": {}, "required": []}
        for each in (*(self.fold(base, seen) for base in bases), own):
            properties = schema["properties"] | each.get("properties", {})
            required = [*schema["required"], *each.get("required", [])]
            schema |= each | {"properties": properties, "required": required}
        parts = [*schema.get("oneOf", []), *schema.get("anyOf", [])]
        parts += [schema.get("items"), schema.get("additionalProperties")]
        parts = [part for part in parts if isinstance(part, dict) and part.keys() - {"required"}]
        return self.folded.setdefault(id(node), (node, schema | {"parts": parts}))[1]

    def kind(self, node: object, depth: int = 0) -> str:
        """A schema's type in words, such as `array of string or null`."""
        schema = self.fold(node)
        kinds = [self.kind(part, depth + 1) for part in schema["parts"] if depth < 5]
        inner = "" if schema["properties"] else " or ".join(dict.fromkeys(kinds))
        types = schema.get("type") or ("object" if schema["properties"] else inner or "value")
        names = {"string": schema.get("format", "string")}
        names |= {"array": f"array of {inner}", "object": f"map of {inner}"} if inner else {}
        return " or ".join(names.get(t, t) for t in ([types] if isinstance(types, str) else types))

    def note(self, node: object, description: str = "") -> str:
        """What is said of a value besides its type: its description, choices and limits."""
        schema = self.fold(node)
        choices = [c for s in (node, *schema["parts"]) for c in self.fold(s).get("enum", [])]
        told = {"one of": choices} | {key: [schema[key]] for key in FACTS if key in schema}
        facts = ""
        for key, values in told.items():
            texts = [v if isinstance(v, str) else json.dumps(v) for v in values if v is not None]
            facts += f"; {key} <code>{escape(', '.join(texts))}</code>" * bool(texts)
        text = prose(description or schema.get("description", ""))
        return text + f'<p class="facts">{facts[2:]}</p>' * bool(facts)

    def members(self, node: object, above: tuple = ()) -> str:
        """A schema's members as nested lists; empty for a plain value."""
        schema, key = self.fold(node), node.get("$ref", id(node))
        if key in above:
            return "<ul><li>and so on, as above</ul>"
        rows = [
            f"<li><code>{escape(name)}</code> <span>{escape(self.kind(member))}</span>"
            f"{' <em>required</em>' * (name in schema['required'])}{self.note(member)}"
            f"{self.members(member, (*above, key))}"
            for name, member in schema["properties"].items()
        ]
        lists = [f"<ul>{''.join(rows)}</ul>"] * bool(rows)
        lists += [self.members(part, (*above, key)) for part in schema["parts"]]
        return "<p>or</p>".join(dict.fromkeys(filter(None, lists)))

    def sample(self, node: object, name: str = "text", depth: int = 0) -> object:
        """A value that fits the schema, with the members that it requires."""
        schema, kind = self.fold(node), self.kind(node)
        given = [*schema.get("examples", []), schema.get("const"), *schema.get("enum", [])]
        if any(given) or depth > 5:
            return next(filter(None, given), {})
        if members := schema["properties"]:
            names = dict.fromkeys(schema["required"] or [*members][:3])
            return {each: self.sample(members.get(each), each, depth + 1) for each in names}
        if schema["parts"] and not kind.startswith("map"):
            value = self.sample(schema["parts"][0], name, depth + 1)
            return [value] if kind.startswith("array") else value
        return "@file" if "contentMediaType" in schema else SAMPLES.get(kind.split()[0], name)

    def curl(self, method: str, path: str, operation: dict) -> str:
        """A shell command that performs the operation, given $URL and $TOKEN."""
        lines = ['-H "Authorization: Bearer $TOKEN"'] * (operation.get("security") != [])
        for each in operation.get("parameters", []):
            value = urllib.parse.quote(str(self.sample(each.get("schema"), each["name"])), safe="")
            path = path.replace(f"{{{each['name']}}}", value)
            if each.get("required") and each["in"] == "query":
                path += f"{'&' if '?' in path else '?'}{each['name']}={value}"
        for media, body in list(operation.get("requestBody", {}).get("content", {}).items())[:1]:
            sample = self.sample(body.get("schema"))
            if "json" in media:
                text = json.dumps(sample, indent=2, ensure_ascii=False).replace("'", "\\u0027")
                lines += [f'-H "Content-Type: {media}"', f"-d '{text}'"]
            elif isinstance(sample, dict):
                flag = "-F" if media.startswith("multipart") else "--data-urlencode"
                lines += [f"{flag} '{name}={value}'" for name, value in sample.items()]
        verb = f"-X {method.upper()} " * (method != "get")
        return escape(" \\\n".join([f'curl {verb}"$URL{path}"', *lines]).replace("\n", "\n  "))

    def operation(self, method: str, path: str, operation: dict) -> str:
        """One operation, folded away under its method, path and summary."""
        name, answers = escape(operation["operationId"]), dict(operation["responses"])
        for status, answer in answers.items():
            answers[status] = self.shared.get(answer.get("$ref", "").rpartition("/")[2], answer)
        steps = re.sub(r"({.*?})", r"<i>\1</i>", escape(path).replace("/", "/<wbr>"))
        scope, setting = escape(operation.get("x-scope", "none")), operation.get("x-setting")
        setting = f", only with the setting <code>{escape(setting)}</code>" if setting else ""
        rows = [
            f'<tr><th scope="row"><code>{escape(each["name"])}</code><td>{escape(each["in"])}'
            f"<td>{escape(self.kind(each.get('schema')))}"
            f"<td>{'required' if each.get('required') else 'optional'}"
            f"<td>{self.note(each.get('schema'), each.get('description', ''))}"
            for each in operation.get("parameters", [])
        ]
        heads = '<th scope="col">'.join(("", "Name", "In", "Type", "Required", "Description"))
        table = f"<h4>Parameters</h4><table><thead><tr>{heads}<tbody>{''.join(rows)}</table>"
        success = max((status for status in answers if status[0] == "2"), default="")
        request, answer, blocks = operation.get("requestBody", {}), answers.get(success, {}), ""
        for title, message in (("Request body", request), (f"Answer {success}", answer)):
            for media, body in list(message.get("content", {}).items())[:1]:
                kind, members = self.kind(body["schema"]), self.members(body["schema"])
                blocks += f"<h4>{title} <small>{escape(kind)}, {escape(media)}</small></h4>"
                blocks += f'<div class="members {title.split()[0].lower()}">{members}</div>'
        return f"""<details class="operation"><summary><h3><b class="{method}">{method.upper()}</b>
<code>{steps}</code> <span>{escape(operation.get("summary", ""))}</span></h3></summary>
<div class="body" id="{name}"><div class="about">{prose(operation.get("description", ""))}
<p class="facts"><a href="#{name}">{name}</a>, scope <code>{scope}</code>{setting}</p></div>
{table * bool(rows)}{blocks}<h4>Statuses</h4><div class="members"><ul>
{"".join(f"<li><code>{escape(s)}</code> {escape(answers[s]['description'])}" for s in answers)}
</ul></div><h4>Example</h4><pre><code>{self.curl(method, path, operation)}</code></pre>
</div></details>"""


def reference_page(document: dict) -> str:
    """The whole reference as one HTML page, to be served under REFERENCE_CSP."""
    page, info = ReferencePage(document), document["info"]
    token = links = sections = ""
    tags = {tag["name"]: [prose(tag.get("description", ""))] for tag in document.get("tags", [])}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            printed = tags.setdefault(operation["tags"][0], [""])
            printed.append(page.operation(escape(method), path, operation))
            if operation["operationId"] == "createToken":
                token = page.curl(method, path, operation).replace("curl", "curl -s", 1)
    for tag, texts in tags.items():
        id, name = "tag-" + re.sub(r"\W+", "-", tag.lower()), escape(tag)
        links += f'<li><a href="#{id}">{name} <small>{len(texts) - 1}</small></a>'
        sections += f'<section id="{id}"><h2>{name}</h2>{"".join(texts)}</section>'
    title, count = escape(info["title"]), sum(map(len, tags.values())) - len(tags)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}: API reference</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{REFERENCE_STYLE}</style></head><body>
<a class="skip" href="#main-content">Skip to content</a>
<header><h1>{title}</h1><p>Version {escape(info["version"])}, {count} operations</p></header>
<nav aria-label="Reference"><div id="filter-box" role="search" hidden>
<label for="filter-text">Filter by path, method, scope, words</label>
<input id="filter-text" type="search"><output id="filter-count" for="filter-text"></output></div>
<details id="tag-list" open><summary>Contents</summary><ul><li><a href="#get-token">Get a token</a>
<li><a href="#conventions">Conventions</a>{links}</ul></details></nav>
<main id="main-content" tabindex="-1"><section id="get-token"><h2>Get a token</h2>
<p>The id and secret of a service account give the bearer token that other requests carry.</p>
<pre><code>export URL=http://127.0.0.1:8080
export TOKEN=$({token} | sed -E 's/.*"access_token": *"([^"]+)".*/\\1/')</code></pre></section>
<section id="conventions"><h2>Conventions</h2>{prose(info.get("description", ""))}</section>
{sections}</main><script>{REFERENCE_SCRIPT}</script></body></html>"""


# --- Documents ----------------------------------------------------------------
# The code is ordered by chapter; these show it by table, by path, and as OpenAPI.


def schema_sql() -> str:
    """Every table, index and trigger as SQL: the text of schema.sql."""
    statements = [*tables_sql(all_models()), *search_tables()]
    return "\n".join(["-- Printed by: novantra-lite schema", *(f"\n{sql};" for sql in statements)])


def routes_text() -> str:
    """Every operation, a line each: method, path, scope, id."""
    return "\n".join(
        f"{operation.method:<6} {operation.path:<64} {operation.scope or '-':<32} {operation.id}"
        for operation in every_operation()
    )


def settings_table() -> str:
    """Every setting as a row of a Markdown table."""
    rows = ["| Setting | Default | What it does |", "|---|---|---|"]
    for name, known in Settings.KNOWN.items():
        default = " ".join(known.default) if isinstance(known.default, tuple) else known.default
        default = {True: "on", False: "off"}[default] if isinstance(default, bool) else default
        shown = f"`{default}`" if default != "" else ""
        also = f" Also `{known.also}`." if known.also else ""
        rows.append(f"| `{name}` | {shown} | {known.explanation}{also} |")
    return "\n".join(rows)


def operations_table() -> str:
    """Every operation as a row of a Markdown table."""
    rows = ["| Operation | Scope | What it does |", "|---|---|---|"]
    for operation in every_operation():
        scope = f"`{operation.scope}`" if operation.scope else "none"
        rows.append(f"| `{operation.method} {operation.path}` | {scope} | {operation.summary} |")
    return "\n".join(rows)


# --- OpenAPI ------------------------------------------------------------------


API_DESCRIPTION = """\
Requests and answers are JSON in UTF-8. Get a token with `POST /api/v1/auth/token` and send it as \
`Authorization: Bearer …`; it is good for 15 minutes.

Every write of the Novantra surface needs a `reason` of 10 to 1000 characters, which the audit log \
keeps. A write with an `Idempotency-Key` can be sent again: the first answer comes back. \
`X-Dry-Run: true` gives the answer that a write would get, and stores nothing.

Lists of the Novantra surface are cut into pages, newest first: pass `nextCursor` back as \
`cursor`, with the same filters. Lists of the Factstore surface are bare arrays in creation order.

Every answer carries `X-Request-Id` and the four `X-RateLimit-…` headers."""


REFUSALS = (400, 401, 403, 404, 405, 429, 500, 503)
WRITE_REFUSALS = (409, 413, 415, 422)
ANSWER_HEADERS = {
    "X-Request-Id": {"type": "string", "pattern": "^req_"},
    "X-RateLimit-Limit": {"type": "integer"},
    "X-RateLimit-Remaining": {"type": "integer", "minimum": 0},
    "X-RateLimit-Reset": {"type": "integer"},
    "X-RateLimit-Bucket": {"type": "string", "enum": ["token-read", "token-write", "org"]},
}


def openapi_document() -> dict:
    """Every operation of both surfaces as an OpenAPI 3.1 document."""
    paths: dict[str, dict] = {}
    schemas: dict[str, dict] = {}
    for resource in RESOURCES:
        if resource.model:
            schemas[resource.schema_name] = describe_model(resource.model, resource.without)
    for operation in every_operation():
        schemas |= named_bodies(operation)
        paths.setdefault(operation.path, {})[operation.method.lower()] = describe_operation(
            operation
        )
    refusals: dict[str, dict] = {}
    for surface in SURFACES:
        schemas[f"{surface.name}Error"] = surface.error_schema
        refusals |= describe_refusals(surface)
    components = {
        "schemas": schemas,
        "responses": refusals,
        "headers": {
            name: {"required": True, "schema": one} for name, one in ANSWER_HEADERS.items()
        },
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer"},
            "apiKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
        },
    }
    tags = dict.fromkeys(operation.resource.tag for operation in every_operation())
    return {
        "openapi": "3.1.0",
        "info": {"title": "novantra-lite", "version": __version__, "description": API_DESCRIPTION},
        "tags": [{"name": tag} for tag in tags],
        "security": [{"bearer": []}],
        "paths": paths,
        "webhooks": {
            event: describe_event(event) for event in (*WEBHOOK_EVENTS, *FACTSTORE_EVENTS)
        },
        "components": components,
    }


def describe_event(event: str) -> dict:
    """One event as it is posted to an endpoint (Standard Webhooks 1.0)."""
    text = {"type": "string"}
    organization = {
        "type": "object",
        "required": ["id", "slug"],
        "properties": {"id": text, "slug": text},
    }
    properties = {
        "id": {"type": "string", "pattern": "^evt_"},
        "type": {"const": event},
        "createdAt": {"type": "string", "format": "date-time"},
        "organization": organization,
        "data": {"type": "object"},
    }
    schema = {"type": "object", "required": list(properties), "properties": properties}
    names = ("webhook-id", "webhook-timestamp", "webhook-signature", "X-Novantra-Signature")
    return {
        "post": {
            "summary": f"Tells of {event}.",
            "parameters": [
                {"name": name, "in": "header", "required": True, "schema": text} for name in names
            ],
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
            "responses": {"2XX": {"description": "Received; anything else is tried again."}},
            "security": [],
        }
    }


def openapi_json() -> str:
    """The OpenAPI document as text."""
    return json.dumps(openapi_document(), indent=2, ensure_ascii=False)


def describe_operation(operation: Operation) -> dict:
    """One operation as OpenAPI has it."""
    described: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [operation.resource.tag],
        "summary": operation.summary,
        "parameters": describe_parameters(operation),
        "responses": describe_answers(operation),
    }
    if operation.scope:
        described["x-scope"] = operation.scope
    if operation.setting:
        described["x-setting"] = operation.setting
    if operation.public:
        described["security"] = []
    elif operation.surface.api_keys:
        described["security"] = [{"bearer": []}, {"apiKey": []}]
    if operation.body is not NOTHING:
        whole = describe_body(operation)
        content = dict.fromkeys(operation.media, named_or_whole(operation.body, whole))
        if operation.form:
            content[UPLOAD_MEDIA] = named_or_whole(operation.form, operation.form.describe())
        # An absent body is an empty object, which is fine where nothing is required; where there
        # are several shapes, it is none of them.
        required = "required" in whole or "anyOf" in whole
        described["requestBody"] = {"required": required, "content": content}
    return described


def named_or_whole(schema: Schema, whole: dict) -> dict:
    """A body as OpenAPI has it: by the name of its schema, or the schema itself."""
    named = {"$ref": f"#/components/schemas/{schema.name}"}
    return {"schema": named if schema.name else whole}


def named_bodies(operation: Operation) -> dict[str, dict]:
    """The JSON schemas of the bodies of an operation that have a name, by that name."""
    bodies = {operation.body.name: describe_body(operation)}
    if operation.form:
        bodies[operation.form.name] = operation.form.describe()
    return {name: schema for name, schema in bodies.items() if name}


def describe_body(operation: Operation) -> dict:
    """The JSON schema of an operation's body; a partial one requires nothing."""
    return operation.body.describe(partial=True) if operation.partial else operation.body.describe()


#: What is said of parameters that many operations have, unless their schema says it.
PARAMETERS = {
    "cursor": "nextCursor of the page before; good for 48 hours, with the same filters.",
    "limit": "Records on a page: 50 unless told, 200 at the most; a larger number means 200.",
    "createdAfter": "Only records made after this date or date-time.",
    "Idempotency-Key": "A repeat with the same key and body gets the first answer, for 24 hours.",
    "X-Dry-Run": "With true, tells what the write would do, and stores nothing.",
    "page": "Number of a page, from 0 on; without page and size, a list comes whole.",
    "size": "Records on a page: 20 unless told.",
}


def describe_parameters(operation: Operation) -> list[dict]:
    """The parameters in path, query and headers."""
    query = operation.query
    places = [("path", name, True, PATH_TEXT) for name in re.findall(r"{(\w+)}", operation.path)]
    places += [
        ("query", member, member in query.required, field.describe())
        for member, (_, field) in query.members.items()
    ]
    places += [("header", name, False, {"type": "string"}) for name in operation.request_headers]
    if operation.writes and not operation.signed:
        places.append(("header", "Idempotency-Key", False, IDEMPOTENCY_TEXT))
    if operation.writes:
        places.append(("header", "X-Dry-Run", False, FLAG_TEXT))
    parameters = []
    for place, name, required, schema in places:
        parameter = {"name": name, "in": place, "required": required, "schema": schema}
        told = schema.get("description") or PARAMETERS.get(name)
        described = {"description": told} if told else {}
        parameters.append(parameter | described)
    return parameters


PATH_TEXT = {"type": "string", "minLength": 1}
IDEMPOTENCY_TEXT = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"}
FLAG_TEXT = {"type": "string", "enum": ["true", "false"]}


def describe_answers(operation: Operation) -> dict:
    """The answers that an operation may give, refusals included."""
    done = describe_answer("Done.", operation.answer, operation.answers_with)
    answers = {str(operation.status): done}
    if operation.writes:
        would = rehearsed_as(operation)
        rehearsal = {
            "type": "object",
            "required": ["dryRun", would],
            "properties": {"dryRun": {"const": True}, would: describe_rehearsed(operation)},
        }
        both = [operation.answer, rehearsal] if operation.status == 200 else [rehearsal]
        answers["200"] = describe_answer("Done, or what a dry run would do.", {"anyOf": both})
    if operation.redirects:
        answers["302"] = describe_answer("It lies elsewhere; Location says where.", None)
    writing = WRITE_REFUSALS if operation.method != "GET" else ()
    statuses = [*REFUSALS, *writing, *operation.refuses]
    for status in sorted(statuses):
        answers[str(status)] = {"$ref": f"#/components/responses/{operation.surface.name}{status}"}
    for status, schema in operation.others.items():
        answers[str(status)] = describe_answer(HTTPStatus(status).phrase, schema)
    return answers


def describe_rehearsed(operation: Operation) -> dict:
    """What a dry run tells: the answer, or the whole record where the answer is brief."""
    if not operation.brief:
        return operation.answer or {}
    resource = operation.resource
    whole = resource.model.schema_name or resource.schema_name
    return operation.surface.record_schema(Named("", whole))


def describe_answer(meaning: str, schema: dict | None, media: str = "application/json") -> dict:
    """One answer: what it means, the headers that all have, and its body if it has one."""
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in ANSWER_HEADERS}
    first, *others = media.split()
    content = {first: {"schema": schema}} | {one: {"schema": {"type": "string"}} for one in others}
    return {"description": meaning, "headers": headers, **({"content": content} if schema else {})}


def describe_refusals(surface: Surface) -> dict[str, dict]:
    """The refusals of a surface's operations, by name."""
    schema = {"$ref": f"#/components/schemas/{surface.name}Error"}
    own = {status for operation in surface.operations for status in operation.refuses}
    return {
        f"{surface.name}{status}": describe_answer(HTTPStatus(status).phrase, schema)
        for status in (*REFUSALS, *WRITE_REFUSALS, *sorted(own))
    }


# --- Service ------------------------------------------------------------------


def is_readable(workspace: Workspace) -> bool:
    """Whether something can be read from a workspace."""
    try:
        workspace.reader.connection().execute("SELECT id FROM organization").fetchone()
    except (sqlite3.Error, peewee.PeeweeException):
        return False
    return True


HEALTH = closed_schema(status={"type": "string", "enum": ["UP", "DOWN"]})


class Service(Resource, surface=NOVANTRA, tag="Service"):
    """What answers without credentials: health, the OpenAPI document, the reference page."""

    @route(
        "GET /api/health/live",
        public=True,
        answer={"type": "object", "properties": {"status": {"type": "string"}}},
    )
    def get_liveness(self, context):
        """Tell that the process answers."""
        return Reply(200, b'{"status":"ok"}')

    @route(
        "GET /api/health/ready",
        public=True,
        answer={"type": "object", "properties": {"status": {"type": "string"}}},
    )
    def get_readiness(self, context):
        """Tell whether every workspace can be read."""
        if not all(map(is_readable, context.lite.workspaces.values())):
            raise Unavailable
        return Reply(200, b'{"status":"ok"}')

    @route("GET /api/v1/openapi.json", public=True, answer={"type": "object"})
    def get_openapi(self, context):
        """Get this document."""
        return Reply(200, openapi_bytes())

    @route("GET /docs", public=True, answer={"type": "string"}, answers_with="text/html")
    def get_reference(self, context):
        """Read the reference page."""
        headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": REFERENCE_CSP,
        }
        return Reply(200, reference_bytes(), headers)

    @route("GET /", public=True, status=307)
    def get_root(self, context):
        """Go to the reference page."""
        return Reply(307, b"", {"Location": f"{context.request.root_path}/docs"})


class WorkspaceMetrics:
    """Tells Prometheus of one workspace, by its name where the install has several."""

    def __init__(self, lite: NovantraLite, workspace: Workspace):
        self.workspace = workspace
        self.labels = {"workspace": workspace.slug} if len(lite.workspaces) > 1 else {}

    def collect(self) -> Iterator[Any]:
        """What holds at this moment, as a collector of prometheus-client gives it."""
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            InfoMetricFamily,
        )

        yield InfoMetricFamily(
            "novantra_lite", "The version that answers.", {"version": __version__}
        )
        for prefix, family, measured in (
            ("factstore", GaugeMetricFamily, compliance_gauges(self.workspace)),
            ("novantra_lite", GaugeMetricFamily, self.gauges()),
            ("novantra_lite", CounterMetricFamily, self.counters()),
        ):
            for name, meaning, value in measured:
                metric = family(f"{prefix}_{name}", meaning, labels=self.labels)
                metric.add_metric(self.labels.values(), value)
                yield metric

    def gauges(self) -> Iterator[tuple[str, str, float]]:
        """How much there is to do, and to store."""
        waiting = sum(kind.select().where(kind.due_at > "").count() for kind in errand_kinds())
        yield "deliveries_waiting", "What has still to be sent to other servers.", waiting
        yield "file_bytes", "Size of the workspace's file.", file_bytes(self.workspace)

    def counters(self) -> Iterator[tuple[str, str, float]]:
        """How much was written."""
        for name, model, meaning in (
            ("audit_entries", AuditEntry, "Entries in the audit log."),
            ("ledger_entries", LedgerEntry, "Entries in the ledger, one for each fact."),
        ):
            # They are numbered without gaps.
            yield name, meaning, model.select(peewee.fn.max(model.id)).scalar() or 0


class Operations(Resource, surface=FACTSTORE, scope="factstore", tag="Operations"):
    """What operators and their monitoring ask for, under the paths of the reference server."""

    @route(
        "GET /actuator/health",
        id="getActuatorHealth",
        public=True,
        scope="",
        answer=HEALTH,
        others={503: HEALTH},
    )
    def tell_health(self, context):
        """Tell whether every workspace can be read."""
        if all(map(is_readable, context.lite.workspaces.values())):
            return Reply(200, b'{"status":"UP"}')
        return Reply(503, b'{"status":"DOWN"}', {"Retry-After": "1"})

    @route(
        "GET /actuator/prometheus",
        id="getPrometheusMetrics",
        answer=TEXT,
        answers_with="text/plain",
    )
    def expose_metrics(self, context):
        """Get the gauges of the workspace and of the process, in the text format of Prometheus."""
        from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

        registry = CollectorRegistry()
        registry.register(WorkspaceMetrics(context.lite, context.workspace))
        ProcessCollector(registry=registry)
        media = "text/plain; version=0.0.4; charset=utf-8"
        return Reply(200, generate_latest(registry), {"Content-Type": media})

    @route("GET /api-docs", id="getApiDocs", public=True, scope="", answer={"type": "object"})
    def get_document(self, context):
        """Get the OpenAPI document."""
        return Reply(200, openapi_bytes())

    @route("GET /swagger-ui.html", id="getSwaggerUi", public=True, scope="", status=302)
    def go_to_reference(self, context):
        """Go to the reference page."""
        return Reply(302, b"", {"Location": f"{context.request.root_path}/docs"})


@functools.cache
def openapi_bytes() -> bytes:
    """The OpenAPI document as it is served."""
    return to_json(openapi_document()).encode()


@functools.cache
def reference_bytes() -> bytes:
    """The reference page as it is served."""
    return reference_page(openapi_document()).encode()


# --- Commands -----------------------------------------------------------------
# A command is declared once: its words and arguments by the decorator, its help by the docstring.
# It answers with an Output, so that no command knows how it is printed.

PROGRAM = "novantra-lite"


class Output(NamedTuple):
    """What a command has to say: data to machines, text to people, an exit status to both."""

    data: Any
    text: str
    status: int = 0


class Command(NamedTuple):
    """One command of the command line.

    `opens` says which workspace it is handed, in words: `existing` (must be there), `new` (made
    where there is none), `temporary` (may go unnamed), `directory` (one of several), `reader`
    (read-only, beside a server); empty, it is handed none. `settings` names the arguments that
    are settings of the instance. One that says `itself` opens what it needs. `help` stands in place
    of the function's docstring.
    """

    path: str
    function: Callable
    arguments: tuple[tuple[tuple, dict], ...]
    help: str
    opens: str
    settings: str


COMMANDS: dict[str, Command] = {}


def command(path: str, *arguments, help="", opens="existing", settings="") -> Callable:
    """Register a function as the command with these words; its docstring is its help by default."""

    def register(function: Callable) -> Callable:
        COMMANDS[path] = Command(path, function, arguments, help, opens, settings)
        return function

    return register


def argument(*names: str, **options) -> tuple[tuple, dict]:
    """One argument of a command, as `ArgumentParser.add_argument` takes it."""
    return names, options


def setting_argument(flag: str, name: str, **options) -> tuple[tuple, dict]:
    """An argument that is a setting, and has its type and its explanation."""
    known = Settings.KNOWN[name]
    text = known.explanation.rstrip(".").replace("%", "%%")
    options = {"type": type(known.default), "help": text[:1].lower() + text[1:], **options}
    return argument(flag, dest=name, **options)


def location(chosen) -> tuple[str, str]:
    """The file or else the directory that the command line names, or the environment."""
    file, directory = getattr(chosen, "register", None) or chosen.database, chosen.workspaces
    if not file and not directory:
        file = os.environ.get("NOVANTRA_LITE_DATABASE")
        directory = not file and os.environ.get("NOVANTRA_LITE_WORKSPACES")
    if file and directory:
        chosen.parser.error("give a database file or --workspaces, not both")
    if chosen.workspace and not directory:
        chosen.parser.error("--workspace SLUG goes with --workspaces DIR")
    return file or "", directory or ""


def file_of(chosen) -> Path:
    """The database file that the command line names, also as one of a directory."""
    file, directory = location(chosen)
    if directory and not chosen.workspace:
        chosen.parser.error("name the workspace: --workspace SLUG")
    if not file and not directory:
        chosen.parser.error("name the workspace: --database FILE, or set NOVANTRA_LITE_DATABASE")
    path = Path(file) if file else Path(directory, f"{chosen.workspace}.db")
    if not path.exists():
        raise NotFound(f"There is no workspace at {path}.")
    return path


def open_lite(chosen) -> NovantraLite:
    """The instance that a command works on, opened the way that the command declares."""
    file, directory = location(chosen)
    opens, place = chosen.command.opens.split(), file or directory
    if not place and "temporary" not in opens and "directory" not in opens:
        chosen.parser.error("name the workspace: --database FILE, or set NOVANTRA_LITE_DATABASE")
    if "directory" in opens and not directory:
        chosen.parser.error("name the directory: --workspaces DIR, or set NOVANTRA_LITE_WORKSPACES")
    if place and "new" not in opens and not os.path.exists(place):
        raise NotFound(f"There is no workspace at {place}.")
    names = [*chosen.command.settings.split(), "workspace"]
    given = {name: getattr(chosen, name) for name in names if getattr(chosen, name) is not None}
    if place and "reader" in opens:
        given["read_only"] = True
    return NovantraLite(file, workspaces=directory, **given)


def spoken(member: str) -> str:
    """The name of a JSON member as people read it: clientId is `Client id`."""
    if not re.fullmatch(r"[a-z]+(?:[A-Z][a-z]+)*", member):
        return member
    words = re.sub(r"(?=[A-Z])", " ", member).lower()
    return words[:1].upper() + words[1:]


def shown(value: Any) -> str:
    """A JSON value in a few words, on one line."""
    match value:
        case None | "" | [] | ():
            return "-"
        case dict():
            return ", ".join(f"{name} {shown(one)}" for name, one in value.items()) or "-"
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            more = f" and {len(value) - 3} more" if len(value) > 3 else ""
            return ", ".join(map(shown, value[:3])) + more
    return " ".join(str(value).split())


def details(data: dict) -> str:
    """Names and values, aligned, one a line; an object inside is set in by two spaces."""
    width = max(len(spoken(name)) for name in data) + 2 if data else 0
    lines = []
    for name, value in data.items():
        if isinstance(value, dict) and value:
            lines += [spoken(name), *(f"  {line}" for line in details(value).splitlines())]
        else:
            lines.append(f"{spoken(name):<{width}}{shown(value)}")
    return "\n".join(lines)


def listing(rows: Iterable[dict], none: str) -> Output:
    """An array to machines, an aligned table to people; without rows, the sentence for that."""
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[spoken(name) for name in names]]
    cells += [[shown(row.get(name)) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)
    return Output(rows, "\n".join(lines) if rows else none)


def secret_output(data: dict) -> Output:
    """An object that holds a secret, with the word that it is shown this once."""
    return Output(data, f"{details(data)}\n\nKeep the secret now: it is not shown again.")


def words_of(values: Iterable[str] | None) -> list[str]:
    """The words of an option that is repeated, or holds several words, or both; each once."""
    return list(dict.fromkeys(word for value in values or () for word in value.split()))


def scopes_of(values: Iterable[str]) -> list[str]:
    """The scopes that --scope names; `all` stands for every scope of Novantra."""
    every = {"all": novantra_scopes()}
    return words_of(scope for word in words_of(values) for scope in every.get(word, [word]))


def show_output(output: Output, as_json: bool) -> None:
    """Print an output at once; JSON takes exactly one line."""
    print(json.dumps(output.data, default=str) if as_json else output.text, flush=True)


# --- Commands: serve ----------------------------------------------------------

DEMO_ACCOUNT = "Demo account"


def listen_address(text: str) -> str:
    """Check that a text reads HOST:PORT, with a port of 0 (any free one) to 65535."""
    import argparse

    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"expected HOST:PORT such as 127.0.0.1:8080, not {text!r}")
    return text


@command(
    "serve",
    argument("register", nargs="?", metavar="FILE", help="the database file, made if not there"),
    argument("--demo", action="store_true", help="fill an empty workspace with demo data"),
    setting_argument("--listen", "listen", type=listen_address, metavar="HOST:PORT"),
    setting_argument("--threads", "threads", metavar="N"),
    argument(
        "--open-factstore",
        action="store_const",
        const="open",
        dest="factstore_auth",
        help="let Factstore clients on this machine in without credentials",
    ),
    opens="temporary new",
    settings="listen threads factstore_auth",
)
def serve_command(lite, chosen) -> None:
    """Answer requests over HTTP until stopped.

    Without FILE the workspace ends with the server. A workspace that has no
    account yet gets one with every Novantra scope, shown once. --demo shows an
    account for trying things out, with a new secret at every start. With --json
    the first line on standard output is one JSON object, printed as soon as
    requests are answered.

    Examples:
      novantra-lite serve --demo
      novantra-lite serve register.db --listen 0.0.0.0:8080
      novantra-lite serve --demo --listen 127.0.0.1:0 --json
      novantra-lite serve --workspaces /var/lib/novantra
    """
    passing = not any(location(chosen))

    def announce(url: str) -> None:
        # Only now, since a start that fails must not use up a secret that is shown once.
        data = {"url": url, "docs": f"{url}/docs", **prepare_to_serve(lite, chosen)}
        show_output(Output(data, welcome(data, passing)), chosen.json)

    lite.serve(lite.settings.listen, ready=announce)


def prepare_to_serve(lite, chosen) -> dict:
    """Load demo data and make accounts as asked; what to announce of them."""
    if chosen.demo and not lite.workspaces:
        lite.create_workspace("demo", name="Demo")
    if not lite.workspaces:
        make = f"{PROGRAM} workspace create SLUG --name NAME"
        raise NotFound(f"There is no workspace to serve; make one with `{make}`.")
    if len(lite.workspaces) > 1 and not chosen.workspace:
        if chosen.demo:
            raise Conflict("Demo data goes into one workspace: add --workspace SLUG.")
        return {"workspaces": sorted(lite.workspaces)}
    facts = {"workspace": lite.workspace.slug}
    if chosen.demo:
        return facts | demo_credentials(lite)
    return facts if lite.accounts.list() else facts | new_credentials(lite, "First account")


def demo_credentials(lite) -> dict:
    """Fill the workspace unless it holds records; the demo account, with a new secret."""
    try:
        lite.load_demo()
    except Conflict:
        log.info("The workspace holds records already; no demo data was added.")
    for account in lite.accounts.list():
        if account["name"] == DEMO_ACCOUNT:
            credentials = credentials_data(lite.accounts.rotate(account["clientId"]))
            return credentials | first_key(lite, DEMO_ACCOUNT)
    return new_credentials(lite, DEMO_ACCOUNT)


def new_credentials(lite, name: str) -> dict:
    """The credentials of a new account that has every Novantra scope, and a first API key."""
    credentials = credentials_data(lite.accounts.create(name, novantra_scopes()))
    return credentials | first_key(lite, name)


def first_key(lite, label: str) -> dict:
    """A new API key with every Factstore scope; one of this label from before is revoked."""
    for key in lite.api_keys.list():
        if key["label"] == label and key["isActive"]:
            lite.api_keys.revoke(key["id"])
    return {"apiKey": lite.api_keys.create(label, FACTSTORE_SCOPES)["apiKey"]}


def credentials_data(credentials) -> dict:
    """Credentials as JSON members."""
    return {camel(name): value for name, value in credentials._asdict().items()}


def welcome(data: dict, passing: bool) -> str:
    """The block that greets whoever started the server; its curl lines can be pasted."""
    url, id, secret = data["url"], data.get("clientId"), data.get("clientSecret")
    lines = [f"Novantra Lite answers at {url}", ""]
    lines.append(f"  Workspace      {data.get('workspace') or ', '.join(data['workspaces'])}")
    lines.append(f"  Reference      {data['docs']}")
    if secret:
        often = "new at every start" if passing else "shown this once"
        lines += [f"  Client id      {id}", f"  Client secret  {secret}  ({often})"]
        lines.append(f"  API key        {data['apiKey']}  (Factstore, {often})")
    if passing:
        lines += ["", "The workspace ends with the server; `serve FILE` keeps it."]
    if secret:
        lines += ["", f"  export NOVANTRA_URL={url} NOVANTRA_CLIENT_ID={id} \\"]
        lines.append(f"         NOVANTRA_CLIENT_SECRET={secret}")
        form = f"grant_type=client_credentials&client_id={id}&client_secret={secret}"
        reading = r"""sed -E 's/.*"access_token": *"([^"]+)".*/\1/'"""
        lines += ["", "Get a token and list assets:", ""]
        lines.append(f"  TOKEN=$(curl -s {url}/api/v1/auth/token -d '{form}' | {reading})")
        lines.append(f"  curl -s '{url}/api/v1/assets?limit=3' -H \"Authorization: Bearer $TOKEN\"")
    return "\n".join([*lines, "", "Stop with Ctrl-C."])


# --- Commands: records --------------------------------------------------------

COLLECTION = argument("collection", metavar="COLLECTION", help="such as assets or findings")
FORMATS = tuple(ROW_READERS)
REASON = "for the audit log, 10 to 1000 characters"


@command(
    "import",
    COLLECTION,
    argument("file", metavar="FILE", help="the file to read; - for standard input"),
    argument("--format", choices=(*FORMATS, "oscal"), help="default: what FILE's suffix says"),
    argument("--reason", metavar="TEXT", help=REASON),
    argument("--dry-run", action="store_true", help="check every row, store nothing"),
    argument("--all-or-nothing", action="store_true", help="store nothing if a row is refused"),
    argument("--trail", metavar="ID", help="for scans: the trail that was scanned"),
    opens="new",
)
def import_command(lite, chosen) -> Output:
    """Import records, a framework from an OSCAL catalog, or a scanner's report.

    A row whose key is known updates that record; any other creates one. Good
    rows are stored even if others are refused, unless --all-or-nothing. Exit
    status 1: rows were refused.

    Examples:
      novantra-lite import assets assets.csv --database register.db
      novantra-lite import findings - --format ndjson --dry-run < scan.ndjson
      novantra-lite import frameworks NIST_SP-800-53.json --format oscal
      trivy image -f json app:7 | novantra-lite import scans - --trail ID
    """
    source = sys.stdin.buffer if chosen.file == "-" else Path(chosen.file)
    name = "standard input" if chosen.file == "-" else source.name
    modes = {"dry_run": chosen.dry_run, "all_or_nothing": chosen.all_or_nothing}
    modes["reason"] = chosen.reason or f"Imported from {name} on the command line."
    if chosen.collection == "scans" or chosen.trail:
        return scan_output(lite, chosen, source, name, modes["reason"])
    if chosen.format != "oscal":
        return report_output(import_rows_of(lite, chosen, source, modes), chosen)
    if chosen.collection != "frameworks" or chosen.dry_run or chosen.all_or_nothing:
        chosen.parser.error("--format oscal is for frameworks, and is all or nothing anyway")
    data = source.read() if chosen.file == "-" else source.read_bytes()
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        place = f" from line {error.lineno} on" if isinstance(error, json.JSONDecodeError) else ""
        raise Invalid(f"The catalog in {name} is not JSON in UTF-8{place}.") from None
    return report_output(lite.import_oscal(document, reason=modes["reason"]), chosen)


def scan_output(lite, chosen, source, name: str, reason: str) -> Output:
    """Import a scanner's report; what it found, and which thresholds that is over."""
    if chosen.collection != "scans" or not chosen.trail or chosen.format or chosen.all_or_nothing:
        chosen.parser.error("a scan is imported by: import scans FILE --trail ID")
    with nullcontext(source) if chosen.file == "-" else source.open("rb") as stream:
        told = {"trail": chosen.trail, "reason": reason, "dry_run": chosen.dry_run}
        scan = lite.import_scan(stream, name, **told)
    found = ", ".join(f"{scan[camel(column)]:,} {severity}" for severity, column in COUNTED.items())
    lines = [f"{scan['tool']}: {found}.", *(f"{told}." for told in scan["breachDetails"])]
    if chosen.dry_run:
        lines[0] += " Nothing is stored."
    return Output(scan, "\n".join(lines))


def import_rows_of(lite, chosen, source, modes: dict) -> Report:
    """Import the rows of a file, with a progress bar on a terminal."""
    collection = lite.collection(chosen.collection)
    rows = read_rows(source, chosen.format or "")
    total = None
    if isinstance(source, Path) and source.is_file() and sys.stderr.isatty():
        with source.open("rb") as file:
            total = sum(1 for _ in file)
    with Progress(total, noun="rows") as progress:
        return collection.import_rows(rows, progress=progress.advance, **modes)


def report_output(report, chosen) -> Output:
    """The counts of an import, then a line for each fault."""
    counts = f"{report.created:,} created, {report.updated:,} updated"
    counts += f", {report.unchanged:,} unchanged, {report.refused:,} refused"
    lines = [f"{chosen.collection}: {counts}."]
    if chosen.dry_run or (chosen.all_or_nothing and report.refused):
        lines[0] += " Nothing is stored."
    for fault in report.faults:
        place = f"line {fault.line}, {fault.field}" if fault.field else f"line {fault.line}"
        lines.append(f"{place}: {fault.message}")
    if report.omitted:
        lines.append(f"{report.omitted:,} more faults are not shown.")
    if report.ignored:
        names = ", ".join(sorted(report.ignored))
        lines.append(f"Left out, since {chosen.collection} have no such member: {names}.")
    data = {"collection": chosen.collection, "dryRun": chosen.dry_run, **report.json()}
    return Output(data, "\n".join(lines), 1 if report.refused else 0)


@contextlib.contextmanager
def replacing(file: str) -> Iterator[IO[str]]:
    """A text file to write, which takes the place of that of its name once all of it is there.

    What is no regular file, such as a pipe, is written to as it stands.
    """
    target = Path(file).resolve()
    stays = target.exists() and not target.is_file()
    path = Path(file) if stays else target.with_name(target.name + ".unfinished")
    try:
        with open(path, "w", encoding="utf-8", newline="") as stream:
            yield stream
        if not stays:
            os.replace(path, target)
    except BaseException:
        if not stays:
            path.unlink(missing_ok=True)
        raise


@command(
    "export",
    COLLECTION,
    argument("file", nargs="?", default="-", metavar="FILE", help="default: standard output"),
    argument("--format", choices=FORMATS, help="default: what FILE's suffix says, else csv"),
    opens="reader",
)
def export_command(lite, chosen) -> Output | None:
    """Write every record of a collection.

    On standard output, --json means --format json. A file is replaced once all
    of it is written.

    Examples:
      novantra-lite export assets assets.csv --database register.db
      novantra-lite export findings --format ndjson | grep critical
    """
    suffix = Path(chosen.file).suffix[1:].lower()
    kind = chosen.format or suffix or ("json" if chosen.json else "csv")
    if kind not in FORMATS:
        chosen.parser.error(f"say the format of {chosen.file} with --format")
    collection = lite.collection(chosen.collection)
    if chosen.file == "-":
        if chosen.json and kind != "json":
            chosen.parser.error(f"--json and --format {kind} cannot share standard output")
        write_rows(collection.list(), sys.stdout, kind, collection.columns)
        return None
    with replacing(chosen.file) as stream:
        count = write_rows(collection.list(), stream, kind, collection.columns)
    data = {"collection": chosen.collection, "file": chosen.file, "records": count}
    return Output(data, f"{chosen.collection}: {count:,} records written to {chosen.file}.")


@command(
    "set",
    COLLECTION,
    argument("id", metavar="ID", help="the record's id"),
    argument("changes", nargs="+", metavar="field=value", help="a member and its new value"),
    argument("--reason", required=True, metavar="TEXT", help=REASON),
)
def set_command(lite, chosen) -> Output:
    """Change members of one record.

    A value is read as JSON where it is JSON and the member does not hold text
    now; an empty value clears the member.

    Examples:
      novantra-lite set findings find_01HXY status=closed --reason "Patched in release 12."
    """
    changes = dict(change.partition("=")[::2] for change in chosen.changes)
    if not all("=" in change for change in chosen.changes) or changes.keys() & {"", "id", "reason"}:
        chosen.parser.error("expected field=value; the id is fixed, the reason goes in --reason")
    collection = lite.collection(chosen.collection)
    record = collection.retrieve(chosen.id)
    members = {name: value_of(text, record.get(name)) for name, text in changes.items()}
    record = collection.update(chosen.id, reason=chosen.reason, **members)
    return Output(record, details(record))


def value_of(text: str, present: Any) -> Any:
    """The value that a text on the command line stands for, in place of the present one."""
    try:
        return text or None if isinstance(present, str) or not text else json.loads(text)
    except (ValueError, RecursionError):
        return text


@command(
    "attachment",
    argument("id", metavar="ID", help="the attachment's id"),
    argument("file", nargs="?", metavar="FILE", help="default: its own name; - for output"),
    opens="reader",
)
def attachment_command(lite, chosen) -> Output | None:
    """Save an attachment of an evidence claim, decrypted."""
    facts, content = lite.attachment(chosen.id)
    if chosen.file == "-":
        if chosen.json:
            chosen.parser.error("--json and the attachment cannot share standard output")
        sys.stdout.buffer.write(content)
        return None
    # The name came with an upload: only its last part counts, and it never replaces a file.
    name = re.split(r"[/\\]", facts.get("fileName") or "")[-1].lstrip(".")
    path = chosen.file or name or chosen.id
    with open(path, "wb" if chosen.file else "xb") as stream:
        stream.write(content)
    return Output({**facts, "file": path}, f"{len(content):,} bytes written to {path}.")


# --- Commands: accounts and webhooks ------------------------------------------

ACCOUNT = argument("id", metavar="ID", help="the account's client id")
ENDPOINT = argument("id", metavar="ID", help="the endpoint's id")
SEVERAL = {"action": "extend", "nargs": "+"}
SCOPE_HELP = "such as governance.findings:write; `all` for every Novantra scope"
SCOPE = argument("--scope", **SEVERAL, required=True, metavar="S", help=SCOPE_HELP)


def do_command(manager, chosen) -> Output:
    """Do to an id what the last word of the command says."""
    verb = chosen.command.path.split()[-1]
    getattr(manager, verb)(chosen.id)
    return Output({"id": chosen.id, f"{verb}d": True}, f"{chosen.id} is {verb}d.")


@command(
    "account create",
    argument("name", metavar="NAME", help="who this is, as the audit log shows it"),
    SCOPE,
    argument("--expires", metavar="DATE", help="when it stops working, such as 2027-01-31"),
    argument("--contact", default="", metavar="MAIL", help="who answers for it"),
    opens="new",
)
def account_create_command(lite, chosen) -> Output:
    """Make a service account and show its client id and secret, once.

    Examples:
      novantra-lite account create scanner --scope governance.findings:write assets:read
      novantra-lite account create console --scope all --expires 2027-01-31 --json
    """
    scopes, optional = scopes_of(chosen.scope), {"expires": chosen.expires}
    made = lite.accounts.create(chosen.name, scopes, contact=chosen.contact, **optional)
    return secret_output(credentials_data(made))


@command("account list", opens="reader")
def account_list_command(lite, chosen) -> Output:
    """List the service accounts."""
    return listing(lite.accounts.list(), f"No account yet: see `{PROGRAM} account create --help`.")


@command("account rotate", ACCOUNT)
def account_rotate_command(lite, chosen) -> Output:
    """Give an account a new secret; the old one ends at once."""
    return secret_output(credentials_data(lite.accounts.rotate(chosen.id)))


@command("account enable", ACCOUNT, help="Let a disabled account in again.")
@command("account disable", ACCOUNT, help="Shut an account out, at once.")
def account_state_command(lite, chosen) -> Output:
    """Change whether an account is let in."""
    return do_command(lite.accounts, chosen)


@command(
    "token",
    SCOPE,
    setting_argument("--life", "token_life", metavar="SECONDS"),
    opens="new",
    settings="token_life",
)
def token_command(lite, chosen) -> Output:
    """Print a bearer token, for tests."""
    scopes = scopes_of(chosen.scope)
    token = lite.token(*scopes)
    return Output({"token": token, "scopes": scopes, "expiresIn": lite.settings.token_life}, token)


@command(
    "webhook add",
    argument("url", metavar="URL", help="where deliveries are posted"),
    argument("--event", **SEVERAL, metavar="E", help="such as finding.created; default: all"),
    opens="new",
)
def webhook_add_command(lite, chosen) -> Output:
    """Send events to an address, and show the signing secret, once.

    Examples:
      novantra-lite webhook add https://example.org/hook --event finding.created finding.closed
    """
    return secret_output(lite.webhooks.add(chosen.url, events=words_of(chosen.event)))


@command("webhook list", opens="reader")
def webhook_list_command(lite, chosen) -> Output:
    """List the endpoints that events are sent to."""
    return listing(lite.webhooks.list(), f"No endpoint yet: see `{PROGRAM} webhook add --help`.")


@command("webhook resume", ENDPOINT, help="Deliver to a paused or disabled endpoint again.")
@command("webhook pause", ENDPOINT, help="Hold back what is due to an endpoint.")
@command("webhook remove", ENDPOINT, help="Remove an endpoint; nothing is sent to it any more.")
def webhook_state_command(lite, chosen) -> Output:
    """Change whether an endpoint is delivered to."""
    return do_command(lite.webhooks, chosen)


@command("webhook rotate", ENDPOINT)
def webhook_rotate_command(lite, chosen) -> Output:
    """Give an endpoint a new secret; for 24 hours both sign."""
    return secret_output(lite.webhooks.rotate(chosen.id))


@command("webhook test", ENDPOINT)
def webhook_test_command(lite, chosen) -> Output:
    """Send a test event to an endpoint; exit status 1 if that failed."""
    delivery = lite.webhooks.test(chosen.id)
    return Output(delivery, details(delivery), 0 if delivery["state"] == "done" else 1)


@command(
    "webhook deliveries",
    argument("--endpoint", metavar="ID", help="to this endpoint only"),
    argument("--state", choices=("due", "done", "failed"), help="in this state only"),
    opens="reader",
)
def webhook_deliveries_command(lite, chosen) -> Output:
    """List deliveries and how they went."""
    filters = {"endpoint": chosen.endpoint, "state": chosen.state}
    return listing(lite.webhooks.deliveries(**filters), "No deliveries.")


@command(
    "webhook redeliver",
    argument("id", nargs="?", metavar="ID", help="one delivery"),
    argument("--failed", metavar="ENDPOINT", help="all that failed to reach this endpoint"),
)
def webhook_redeliver_command(lite, chosen) -> Output:
    """Send a delivery again, or all that failed for an endpoint."""
    if bool(chosen.id) == bool(chosen.failed):
        chosen.parser.error("give the ID of one delivery, or --failed ENDPOINT")
    if chosen.id:
        lite.webhooks.redeliver(chosen.id)
    count = 1 if chosen.id else lite.webhooks.redeliver_failed(chosen.failed)
    return Output({"redelivered": count}, f"To be sent again: {count:,}.")


# --- Commands: install --------------------------------------------------------

REGISTER = argument("register", nargs="?", metavar="FILE", help="the database file")


@command(
    "workspace create",
    argument("slug", metavar="SLUG", help="its name in files: lower case, digits, hyphens"),
    argument("--name", default="", metavar="NAME", help="its name for people"),
    opens="new directory",
)
def workspace_create_command(lite, chosen) -> Output:
    """Make a workspace: one organization, one file in a directory of several.

    Examples:
      novantra-lite workspace create hangar-7 --name "Hangar 7" --workspaces /var/lib/novantra
    """
    lite.create_workspace(chosen.slug, name=chosen.name)
    data = workspace_data(lite.workspaces[chosen.slug])
    return Output(data, details(data))


@command("workspace list", opens="reader")
def workspace_list_command(lite, chosen) -> Output:
    """List the workspaces and their files."""
    none = f"No workspace yet: see `{PROGRAM} workspace create --help`."
    return listing(map(workspace_data, lite.workspaces.values()), none)


def workspace_data(workspace) -> dict:
    """A workspace as JSON members."""
    return {name: str(getattr(workspace, name)) for name in ("slug", "name", "id", "path")}


@command("backup", argument("file", metavar="FILE", help="the file to write"), opens="reader")
def backup_command(lite, chosen) -> Output:
    """Copy the workspace to a file, while it is in use.

    What is encrypted stays encrypted in the copy: keep the key file too, apart
    from it. A signed checkpoint of the copy goes to FILE.checkpoints.
    """
    lite.backup(chosen.file)
    size = os.path.getsize(chosen.file)
    return Output({"file": chosen.file, "bytes": size}, f"{size:,} bytes written to {chosen.file}.")


@command(
    "restore",
    argument("backup", metavar="BACKUP", help="a file that the command backup wrote"),
    argument("register", metavar="FILE", help="the database file that it becomes"),
    opens="",
)
def restore_command(chosen) -> Output:
    """Put a backup in place of a database file that is not in use."""
    restore(Path(chosen.backup), Path(chosen.register))
    text = f"{chosen.register} is restored; put its key file beside it: {chosen.register}.key."
    return Output({"file": chosen.register, "restored": True}, text)


@command(
    "checkpoint",
    argument("--public-key", action="store_true", help="print the key to verify with instead"),
    opens="reader",
)
def checkpoint_command(lite, chosen) -> Output:
    """Print a signed checkpoint of the ledger and the audit log.

    Kept where whoever writes the file cannot write, it shows later whether the
    end was cut off or written anew. Keep the public key there too.

    Examples:
      novantra-lite checkpoint --database register.db >> /mnt/other/register.checkpoints
      novantra-lite checkpoint --public-key --database register.db
    """
    told = lite.checkpoint()
    return Output(told, told["publicKey" if chosen.public_key else "checkpoint"].rstrip("\n"))


@command(
    "verify",
    REGISTER,
    argument("--checkpoint", metavar="FILE", help="hold the chains against these checkpoints too"),
    argument("--public-key", default="", metavar="KEY", help="the key that must have signed them"),
    opens="reader itself",
)
def verify_command(chosen) -> Output:
    """Check the file, the ledger and the audit chain.

    With --checkpoint, no secret is needed: without the key file, only the bytes
    of evidence stay unread. The file tells which key signs its checkpoints, but
    whoever wrote it anew may have put in a key of his own: only a public key
    that was kept elsewhere, given by --public-key, proves that yours signed.

    Exit status 1: there are faults, one a line.

    Examples:
      novantra-lite verify register.db
      novantra-lite verify register.db --checkpoint /mnt/other/register.checkpoints
    """
    told = "Sound: the file, the ledger and the audit chain."
    if chosen.checkpoint:
        notes = Path(chosen.checkpoint).read_bytes()
        faults = verify_beside(file_of(chosen), Settings.read(), notes, chosen.public_key)
        told = "Sound: the file, the ledger, the audit chain and the checkpoints."
    elif chosen.public_key:
        chosen.parser.error("--public-key KEY goes with --checkpoint FILE")
    else:
        with open_lite(chosen) as lite:
            faults = lite.verify()
    text = "\n".join(faults) or told
    return Output({"sound": not faults, "faults": faults}, text, 1 if faults else 0)


@command("doctor", REGISTER, opens="temporary reader")
def doctor_command(lite, chosen) -> Output:
    """Tell versions, settings in force and the state of the file."""
    facts = lite.doctor()
    return Output(facts, details(facts))


@command(
    "key create",
    argument("label", metavar="LABEL", help="what it is for, as lists show it"),
    argument("--scope", **SEVERAL, metavar="S", help="default: factstore:read factstore:write"),
    argument("--days", type=int, metavar="N", help="how long it works; default: until revoked"),
    opens="new",
)
def key_create_command(lite, chosen) -> Output:
    """Make an API key for the Factstore surface and show it, once.

    Examples:
      novantra-lite key create pipeline --database register.db
      novantra-lite key create auditor --scope factstore:read --days 90 --json
    """
    scopes = words_of(chosen.scope) or ["factstore:read", "factstore:write"]
    return secret_output(lite.api_keys.create(chosen.label, scopes, chosen.days))


@command("key list", opens="reader")
def key_list_command(lite, chosen) -> Output:
    """List the API keys."""
    return listing(lite.api_keys.list(), f"No key yet: see `{PROGRAM} key create --help`.")


@command("key revoke", argument("id", metavar="ID", help="the key's id"))
def key_revoke_command(lite, chosen) -> Output:
    """End an API key, at once."""
    return do_command(lite.api_keys, chosen)


@command("key rotate")
def key_rotate_command(lite, chosen) -> Output:
    """Start a new encryption key; what older ones encrypted stays readable."""
    lite.rotate_keys()
    return Output({"rotated": True}, "A new key encrypts from now on.")


@command("openapi", opens="", help="Print the OpenAPI document of both APIs.")
@command("routes", opens="", help="Print every operation, a line each.")
@command("schema", opens="", help="Print the tables as SQL.")
def document_command(chosen) -> Output:
    """Print what is derived from the declarations."""
    name = chosen.command.path
    text = {"schema": schema_sql, "routes": routes_text, "openapi": openapi_json}[name]()
    data = json.loads(text) if name == "openapi" else {name: text}
    return Output(data, text.rstrip("\n"))


# --- Commands: audit ----------------------------------------------------------


def print_records(records: Iterable[dict]) -> int:
    """Print entries of the audit log, a JSON object a line; the id of the last one, or 0."""
    last = 0
    for record in records:
        print(to_json(record))
        last = record["id"]
    sys.stdout.flush()
    return last


@command(
    "audit tail",
    argument("-n", "--lines", type=int, default=10, metavar="N", help="how many; default: 10"),
    argument("--after", type=int, metavar="ID", help="instead, all that follow this entry"),
    argument("-f", "--follow", action="store_true", help="go on, until interrupted"),
    opens="reader",
)
def audit_tail_command(lite, chosen) -> None:
    """Print the last entries of the audit log, a JSON object a line.

    With --follow, new entries are printed within a second, also while a server
    writes them. Whoever starts again passes the id of the last entry as --after,
    and misses none.

    Examples:
      novantra-lite audit tail -n 3 --database register.db
      novantra-lite audit tail --after 1200 --follow | logger -t novantra
    """
    if chosen.follow:
        lite.workspace.give_way()
    last = lite.audit().newest() - chosen.lines if chosen.after is None else chosen.after
    last = print_records(lite.audit(after=max(0, last))) or last
    while chosen.follow:
        time.sleep(0.5)
        last = print_records(lite.audit(after=last)) or last


@command(
    "audit export",
    argument("--from", dest="since", default="", metavar="TIME", help="at this time or later"),
    argument("--to", dest="until", default="", metavar="TIME", help="at this time or earlier"),
    argument("--actor", default="", metavar="ID", help="by this account, key or person"),
    argument("--action", default="", metavar="A", help="such as finding.created"),
    opens="reader",
)
def audit_export_command(lite, chosen) -> None:
    """Print the audit log, a JSON object a line, oldest entry first.

    Reasons and details are decrypted; what was there before a change is withheld
    where it is kept encrypted. A TIME is a date-time with an offset, or a date,
    which stands for the whole day.

    Examples:
      novantra-lite audit export --database register.db > audit.ndjson
      novantra-lite audit export --from 2026-06-01 --to 2026-06-30 --action finding.created
    """
    filters = {name: getattr(chosen, name) for name in ("since", "until", "actor", "action")}
    print_records(lite.audit(**filters))


# --- Command line -------------------------------------------------------------

GROUPS = {
    "audit": "The audit log: who did what, when and why, for machines that watch over it.",
    "workspace": "Make and list the workspaces of an install.",
    "account": "Service accounts: who may call, and with which scopes.",
    "webhook": "Where events are sent, and how their deliveries went.",
    "key": "API keys of the Factstore surface, and the keys that encrypt at rest.",
}
LOCATION = (
    argument("--database", metavar="FILE", help="its file; default: NOVANTRA_LITE_DATABASE"),
    argument("--workspaces", metavar="DIR", help="a directory of several workspaces"),
    argument("--workspace", metavar="SLUG", help="which of the several"),
)


def build_parser():
    """The parser of every command, each under the words of its path."""
    import argparse

    layout = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    about = "A governance register that speaks the APIs of Novantra and Factstore."
    first = f"Start with `{PROGRAM} serve --demo`; `{PROGRAM} COMMAND --help` explains a command."
    parser = argparse.ArgumentParser(prog=PROGRAM, description=about, epilog=first, **layout)
    parser.add_argument("-V", "--version", action="version", version=f"{PROGRAM} {__version__}")
    branching = {"title": "commands", "metavar": "COMMAND", "required": True}
    branches = {"": parser.add_subparsers(**branching)}
    for each in COMMANDS.values():
        group, _, name = each.path.rpartition(" ")
        if group not in branches:
            texts = {"help": GROUPS[group], "description": GROUPS[group]}
            branch = branches[""].add_parser(group, **texts, **layout)
            branches[group] = branch.add_subparsers(**branching)
        help = each.help or inspect.getdoc(each.function)
        description, mark, examples = help.partition("Examples:")
        texts = {"help": help.partition("\n")[0], "description": description.rstrip()}
        leaf = branches[group].add_parser(name, **texts, epilog=mark.lower() + examples, **layout)
        add_arguments(leaf, each)
    return parser


def add_arguments(parser, of: Command) -> None:
    """Give a command's parser its own arguments, and those that all commands share."""
    parser.set_defaults(command=of, parser=parser)
    for names, options in of.arguments:
        parser.add_argument(*names, **options)
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")
    group = parser.add_argument_group("which workspace") if of.opens else None
    for names, options in LOCATION if group else ():
        group.add_argument(*names, **options)


def run_command(chosen) -> int:
    """Run the command that was chosen and print what it says; its exit status."""
    if chosen.command.opens and "itself" not in chosen.command.opens:
        with open_lite(chosen) as lite:
            output = chosen.command.function(lite, chosen)
    else:
        output = chosen.command.function(chosen)
    if output:
        show_output(output, chosen.json)
    sys.stdout.flush()
    return output.status if output else 0


def refuse_command(error: Exception, as_json: bool) -> int:
    """Say in one sentence what went wrong, to people and on request to machines; status 1."""
    message, issues = "The database file is damaged, in use, or of another kind.", []
    if isinstance(error, Problem):
        message, issues = str(error), error.issues
    elif isinstance(error, OSError):
        reason = (error.strerror or "the operating system refused").lower()
        message = f"{error.filename}: {reason}." if error.filename else f"{reason}.".capitalize()
    log.debug("The command failed.", exc_info=error)
    print(f"{PROGRAM}: {message}", file=sys.stderr)
    if as_json:
        data = {"error": message} | ({"issues": issues} if issues else {})
        show_output(Output(data, ""), as_json)
    return 1


def answer_arguments(arguments: list[str] | None) -> int:
    """Read the command line and run what it asks for, wording what people can act on."""
    try:
        chosen = build_parser().parse_args(arguments)
    except SystemExit as stopped:
        sys.stdout.flush()
        return int(stopped.code or 0)
    try:
        return run_command(chosen)
    except BrokenPipeError:
        raise
    except (Problem, OSError, sqlite3.Error, peewee.PeeweeException) as error:
        return refuse_command(error, chosen.json)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 if it went well, 1 if not, 2 if misused, 130 at Ctrl-C."""
    try:
        return answer_arguments(arguments)
    except SystemExit as misused:
        return int(misused.code or 0)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # What is left in the buffer goes nowhere, or leaving would trip over the pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


if _collecting:
    gc.enable()

if __name__ == "__main__":
    raise SystemExit(main())
