"""Rego: a corpus of policies in both syntaxes, what compilers refuse, and a child that is held."""

import gc
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

import novantra_lite
from factstore.rego_vectors import DATA, ERRORS, EXPRESSIONS, INPUT, UNSUPPORTED
from novantra_lite import RegoEngine, RegoFailure, RegoMissing, Settings, objections_in

DENIED = ["The policy denies this."]
NOT_ALLOWED = ["The policy does not allow this."]
UNDECIDED = ["The policy has no rule named allow, deny or violation."]
#: An input without any of what may be left out, as evaluation sends it.
BARE = {
    "artifactName": "svc",
    "artifactVersion": None,
    "environment": None,
    "attestations": [],
    "approvalStatus": None,
}
SCANNED = {"type": "SECURITY_SCAN", "status": "PASSED"}
REVIEWED = {"type": "CODE_REVIEW", "status": "FAILED"}


def begin(**settings):
    return RegoEngine(Settings(**{"rego_deadline": 60.0, **settings}))


@pytest.fixture(scope="module")
def shared():
    """One child for all policies that behave."""
    engine = begin()
    yield engine
    engine.close()


@pytest.fixture
def engine():
    engine = begin()
    yield engine
    engine.close()


def denials(engine, policy, **members):
    """Why a policy denies an input; nothing where it allows."""
    modules = policy if isinstance(policy, dict) else {"policy.rego": policy}
    return objections_in(engine.evaluate(modules, json.dumps(BARE | members)))


OLD_ALLOW = """package compliance
default allow = false
allow { input.environment == "qa" }
"""
NEW_ALLOW = """package compliance
default allow := false
allow if input.environment == "qa"
"""


#: Without a rule named allow nothing is allowed: these allow what they do not deny.
def old_deny(condition):
    return f'package p\nallow = true\ndeny[msg] {{\n  {condition}\n  msg := "no"\n}}\n'


def new_deny(condition):
    return f'package p\nimport rego.v1\nallow := true\ndeny contains "no" if {{ {condition} }}\n'


#: The table of vectors in the notes: each row, and what Rego makes of it.
VECTORS = {
    "no rules": ("package p\n", {}, UNDECIDED),
    "deny alone, quiet": ('package p\ndeny[msg] { false; msg := "no" }', {}, NOT_ALLOWED),
    "default = and a block, met": (OLD_ALLOW, {"environment": "qa"}, []),
    "default = and a block, null": (OLD_ALLOW, {}, NOT_ALLOWED),
    "default := and a block, null": (OLD_ALLOW.replace("=", ":=", 1), {}, NOT_ALLOWED),
    "default := and if, met": (NEW_ALLOW, {"environment": "qa"}, []),
    "allow { false }": ("package p\ndefault allow = false\nallow { false }", {}, NOT_ALLOWED),
    "deny beside allow": (
        'package p\ndefault allow = false\nallow { input.environment == "prod" }\n'
        'deny[msg] { input.artifactName == "svc"; msg := "frozen" }',
        {"environment": "prod"},
        ["frozen"],
    ),
    "deny != of null": (old_deny('input.environment != "qa"'), {}, ["no"]),
    "deny > of what never is there": (old_deny("input.criticalVulnerabilities > 0"), {}, []),
    "deny count of none": (old_deny("count(input.attestations) == 0"), {}, ["no"]),
    # The notes want this denied, too; but null is there and is not false, so `not` does not hold.
    "deny not of null": (old_deny("not input.environment"), {}, []),
    "deny any failed of none": (old_deny('input.attestations[_].status == "FAILED"'), {}, []),
    "deny any failed of one": (
        old_deny('input.attestations[_].status == "FAILED"'),
        {"attestations": [SCANNED, REVIEWED]},
        ["no"],
    ),
    "deny none passed of none": (
        old_deny('not input.attestations[_].status == "PASSED"'),
        {},
        ["no"],
    ),
    "deny none passed of one": (
        old_deny('not input.attestations[_].status == "PASSED"'),
        {"attestations": [SCANNED]},
        [],
    ),
    "deny on one line": (
        'package p\ndeny[msg] { input.environment == "production"; msg := "no" }',
        {"environment": "production"},
        ["no"],
    ),
    "deny contains": (
        'package p\ndeny contains msg if { input.environment == "qa"; msg := "no" }',
        {"environment": "qa"},
        ["no"],
    ),
    "allow >= of a text": (
        "package p\ndefault allow = false\nallow { input.artifactVersion >= 2 }",
        {"artifactVersion": "2.5"},
        [],
    ),
    "deny without a message": (
        'package p\ndeny { input.environment == "production" }',
        {"environment": "production"},
        DENIED,
    ),
}


@pytest.mark.parametrize(("policy", "members", "reasons"), VECTORS.values(), ids=VECTORS)
def test_a_vector_of_the_notes_is_answered_as_rego_does(shared, policy, members, reasons):
    assert denials(shared, policy, **members) == reasons


ATTESTED = """package supply

import rego.v1

required := {"CODE_REVIEW", "SECURITY_SCAN"}
passed := {one.type | some one in input.attestations; one.status == "PASSED"}
default allow := false
allow if count(required - passed) == 0
deny contains sprintf("%s has not passed", [type]) if some type in required - passed
"""
OLD_ATTESTED = """package supply

required = {"CODE_REVIEW", "SECURITY_SCAN"}
passed[type] { one := input.attestations[_]; one.status == "PASSED"; type := one.type }
default allow = false
allow { count(required - passed) == 0 }
deny[msg] { type := required[_]; not passed[type]; msg := sprintf("%s has not passed", [type]) }
"""
TIERS = """package tiers

tier := "gold" if input.environment == "prod"
else := "silver" if input.environment == "stage"
else := "none"

approved if input.approvalStatus == "APPROVED"

allow if tier == "none"
allow if { tier == "silver"; approved }
allow if { tier == "gold"; approved; semver.compare(input.artifactVersion, "1.0.0") >= 0 }
"""
OLD_TIERS = """package tiers

tier = "gold" { input.environment == "prod" } else = "none" { true }
is_release(version) { regex.match("^[0-9]+[.][0-9]+[.][0-9]+$", version) }

default allow = false
allow { tier == "none" }
allow { tier == "gold"; is_release(input.artifactVersion) }
"""
TWO = {
    "a.rego": 'package a\nallow if true\ndeny contains "a says no" if input.environment == "prod"',
    "b.rego": "package b\ndefault allow := false\nallow if data.lib.known(input.artifactName)",
    "lib.rego": 'package lib\nknown(name) if name in {"svc", "web"}',
}
PROD = {"environment": "prod"}
#: More of what people write: a policy, an input, and the reasons that come of it.
CORPUS = {
    "attested, new": (ATTESTED, {"attestations": [SCANNED]}, ["CODE_REVIEW has not passed"]),
    "attested, old": (OLD_ATTESTED, {"attestations": [SCANNED]}, ["CODE_REVIEW has not passed"]),
    "attested, both": (
        OLD_ATTESTED,
        {"attestations": [SCANNED, REVIEWED | {"status": "PASSED"}]},
        [],
    ),
    "attested, neither": (
        ATTESTED,
        {},
        ["CODE_REVIEW has not passed", "SECURITY_SCAN has not passed"],
    ),
    "tiers, none": (TIERS, {"environment": "dev"}, []),
    "tiers, silver without approval": (TIERS, {"environment": "stage"}, NOT_ALLOWED),
    "tiers, gold": (TIERS, PROD | {"approvalStatus": "APPROVED", "artifactVersion": "1.10.0"}, []),
    "tiers, gold too early": (
        TIERS,
        PROD | {"approvalStatus": "APPROVED", "artifactVersion": "0.9.0"},
        NOT_ALLOWED,
    ),
    "old tiers, a release": (OLD_TIERS, PROD | {"artifactVersion": "1.2.3"}, []),
    "old tiers, a snapshot": (OLD_TIERS, PROD | {"artifactVersion": "1.2.3-SNAP"}, NOT_ALLOWED),
    "two packages agree": (TWO, {"artifactName": "svc"}, []),
    "one package denies": (TWO, PROD, ["a says no"]),
    "one package does not allow": (TWO, {"artifactName": "x"}, NOT_ALLOWED),
    "packages in one module each deny": (
        {
            "a.rego": 'package a\ndeny contains "one"',
            "b.rego": 'package a.b\nviolation contains "two"',
        },
        {},
        ["one", "two"],
    ),
    "one reason from two rules": (
        'package p\ndeny contains "same"\nviolation contains "same"',
        {},
        ["same"],
    ),
    "violations with msg": (
        'package p\nviolation contains {"msg": "bad", "severity": "high"} if true',
        {},
        ["bad"],
    ),
    "violations with msg, old": (
        'package p\nviolation[{"msg": msg}] { msg := sprintf("%v is bad", [input.artifactName]) }',
        {},
        ["svc is bad"],
    ),
    "an object without msg": ('package p\ndeny contains {"why": "x"}', {}, ['{"why":"x"}']),
    "an array of reasons": ('package p\ndeny := ["b", "a", ""]', {}, ["b", "a", *DENIED]),
    "an empty array": ("package p\ndeny := []", {}, NOT_ALLOWED),
    "one text": ('package p\ndeny := "stop" if input.artifactName == "svc"', {}, ["stop"]),
    "one object": ('package p\ndeny := {"msg": "stop"}', {}, ["stop"]),
    "true": ("package p\ndeny if input.artifactName", {}, DENIED),
    "false": ("package p\ndefault deny := false", {}, NOT_ALLOWED),
    "a number": ("package p\ndeny contains 7", {}, ["7"]),
    "keys of an object": ('package p\ndeny[msg] if msg := "built"', {}, ["built"]),
    "an undefined allow": ('package p\nallow if input.environment == "qa"', {}, NOT_ALLOWED),
    "an allow that is no boolean": ('package p\nallow := "yes"', {}, NOT_ALLOWED),
    "an allow that is a set": ("package p\nallow contains 1", {}, NOT_ALLOWED),
    "other rules only": ("package p\npermit := true", {}, UNDECIDED),
    "a package with a hyphen": ('package p["a-b"].c\nallow := true', {}, []),
    "an import of input": (
        'package p\nimport input.environment as place\nallow if place == "qa"',
        {"environment": "qa"},
        [],
    ),
    "every, without braces of its own": (
        'package p\nallow if every n in {1, 2} { n > 0; input.artifactName == "svc" }',
        {},
        [],
    ),
    "future keywords": (
        "package p\nimport future.keywords\nallow if every a in input.attestations "
        '{ a.status == "PASSED" }',
        {"attestations": [SCANNED]},
        [],
    ),
    "every, of one that failed": (
        'package p\nallow if every a in input.attestations { a.status == "PASSED" }',
        {"attestations": [SCANNED, REVIEWED]},
        NOT_ALLOWED,
    ),
    "with": (
        "package p\nok if input.environment\nallow if ok with input.environment as true",
        {},
        [],
    ),
    "null is less than a number": (
        "package p\nallow if input.artifactVersion >= 2",
        {},
        NOT_ALLOWED,
    ),
    "null is less than a text": (
        'package p\nallow if input.artifactVersion >= "1.0"',
        {},
        NOT_ALLOWED,
    ),
    "numbers are compared as numbers": ("package p\nallow if 9 < input.count", {"count": 10}, []),
    "a null among a map": (
        "package p\ndeny contains a.type if { some a in input.attestations; a.status == null }",
        {"attestations": [{"type": "SCAN", "status": None}]},
        ["SCAN"],
    ),
    "texts come as they went": (
        "package p\ndeny contains input.artifactName",
        {"artifactName": 'é😀\u2028 \\ " / \n'},
        ['é😀\u2028 \\ " / \n'],
    ),
    "big numbers": (
        "package p\nallow if input.count == 9223372036854775807",
        {"count": 9223372036854775807},
        [],
    ),
    "braces in texts and comments": (
        "package p # deny[msg] {\ndefault allow = false\n"
        'allow { input.artifactName != "deny[msg] { \\" }" } # {',
        {},
        [],
    ),
    "partial set over several lines": (
        'package p\ndeny[{\n  "msg": msg,\n}] {\n  msg := `a "raw" }`\n}\n',
        {},
        ['a "raw" }'],
    ),
    "an old set that another rule asks": (
        'package p\nbad[x] { x := {"k": input.artifactName} }\n'
        'deny[msg] { bad[{"k": "svc"}]; msg := "found" }',
        {},
        ["found"],
    ),
    "an old object": (
        'package p\nlimit[name] = value { name := "svc"; value := 3 }\n'
        "allow { limit[input.artifactName] == 3 }",
        {},
        [],
    ),
    "windows lines": ("package p\r\n\r\nallow {\r\n  true\r\n}\r\n", {}, []),
    "what is printed is nothing": ('package p\nallow if print("{}")', {}, []),
}


@pytest.mark.parametrize(("policy", "members", "reasons"), CORPUS.values(), ids=CORPUS)
def test_a_policy_comes_to_its_reasons(shared, policy, members, reasons):
    assert denials(shared, policy, **members) == reasons


def allowing(name, *lines):
    """A policy that allows what its lines do not deny."""
    return "\n".join([f"package {name}", "import rego.v1", "default allow := false", *lines])


#: Idioms of published policies.
IDIOMS = {
    "a prefix of many": (
        'package p\nxs := ["web-", "sv"]\nallow if startswith(input.artifactName, xs[_])',
        {},
        [],
    ),
    "no prefix of many": (
        'package p\nxs := ["x", "svc"]\nallow if not startswith(input.artifactName, xs[_])',
        {},
        NOT_ALLOWED,
    ),
    "none of what is missing": ('package p\nallow if not input.labels[_] == "blocked"', {}, []),
    "one that is blocked among others": (
        'package p\nallow if not input.labels[_] == "blocked"',
        {"labels": ["ok", "blocked"]},
        NOT_ALLOWED,
    ),
    "a time in Z": (
        "package p\ndefault allow := true\n"
        'deny contains "x" if time.parse_rfc3339_ns("2024-01-01T00:00:00Z") > 0',
        {},
        ["x"],
    ),
    "a network": (
        "package p\ndefault allow := true\n"
        'deny contains "x" if net.cidr_contains("10.0.0.0/8", input.ip)',
        {"ip": "10.1.1.1"},
        ["x"],
    ),
    "a schema": (
        'package p\ndefault allow := true\ndeny contains "x" if {\n'
        '  [ok, _] := json.match_schema(input, {"properties": {"n": {"type": "string"}}})\n'
        "  not ok\n}",
        {"n": 1},
        ["x"],
    ),
    "a pattern with a flag": (
        "package p\ndefault allow := true\n"
        'deny contains "x" if regex.match("(?i)^prod", input.environment)',
        {"environment": "PRODUCTION"},
        ["x"],
    ),
    "a map of limits": (
        allowing(
            "limits",
            'most := {"prod": 0, "qa": 5}',
            "allow if input.critical <= most[input.environment]",
        ),
        {"environment": "qa", "critical": 4},
        [],
    ),
    "a map without the key": (
        allowing("limits", 'most := {"prod": 0}', "allow if 0 <= most[input.environment]"),
        {"environment": "qa"},
        NOT_ALLOWED,
    ),
    "object.get with a default": (
        'package p\nallow if object.get(input, "risk", "high") == "low"',
        {},
        NOT_ALLOWED,
    ),
    "some with a key and a value": (
        "package p\ndeny contains k if { some k, v in input.checks; v == false }",
        {"checks": {"lint": True, "sast": False}},
        ["sast"],
    ),
    "a count of a comprehension": (
        allowing(
            "p", 'allow if count([a | some a in input.attestations; a.status == "PASSED"]) > 1'
        ),
        {"attestations": [SCANNED, SCANNED | {"type": "SBOM"}]},
        [],
    ),
    "an object comprehension": (
        allowing(
            "p",
            "by_type := {a.type: a.status | some a in input.attestations}",
            'allow if by_type.SECURITY_SCAN == "PASSED"',
        ),
        {"attestations": [SCANNED]},
        [],
    ),
    "every that fails": (
        allowing("p", "allow if every n in input.numbers { n > 1 }"),
        {"numbers": [1, 2]},
        NOT_ALLOWED,
    ),
    "every of what is missing": (
        allowing("p", "allow if every n in input.numbers { n > 1 }"),
        {},
        NOT_ALLOWED,
    ),
    "not in a set": (
        allowing("p", 'deny contains "unknown" if not input.artifactName in {"web"}'),
        {},
        ["unknown"],
    ),
    "a helper with two arguments": (
        allowing(
            "p", "older(a, b) if semver.compare(a, b) < 0", 'allow if older("1.2.0", "1.10.0")'
        ),
        {},
        [],
    ),
    "a function of many values": (
        allowing(
            "p",
            'rank("high") := 3',
            'rank("low") := 1',
            "default rank(_) := 9",
            "allow if rank(input.risk) < 2",
        ),
        {"risk": "odd"},
        NOT_ALLOWED,
    ),
    "else chains": (
        allowing(
            "p", "tier := 1 if input.a\nelse := 2 if input.b\nelse := 3", "allow if tier == 2"
        ),
        {"b": True},
        [],
    ),
    "a rule with a path": (
        allowing("p", "checks.scan if input.scan", "allow if data.p.checks.scan"),
        {"scan": True},
        [],
    ),
    "with on a part of input": (
        allowing("p", "ok if input.n > 1", "allow if ok with input.n as 2"),
        {"n": 0},
        [],
    ),
    "with and not": (
        allowing("p", "ok if input.n > 1", "allow if not ok with input.n as 0"),
        {"n": 5},
        [],
    ),
    "unification": (
        allowing("p", 'allow if { [name, tag] = split(input.image, ":"); tag == "1.0" }'),
        {"image": "svc:1.0"},
        [],
    ),
    "destructuring": (allowing("p", 'allow if { {"a": x} := {"a": 1}; x == 1 }'), {}, []),
    "nested sets of objects": (
        allowing(
            "p",
            'bad contains {"id": s.id} if { some s in input.found; s.severity == "CRITICAL" }',
            'deny contains sprintf("%d critical: %v", [count(bad), bad]) if count(bad) > 0',
        ),
        {"found": [{"id": "CVE-1", "severity": "CRITICAL"}]},
        ['1 critical: {{"id": "CVE-1"}}'],
    ),
    "old: a set of names": (
        "package p\nnames[n] { n := input.attestations[_].type }\n"
        'deny[msg] { not names["SBOM"]; msg := "no SBOM" }',
        {"attestations": [SCANNED]},
        ["no SBOM"],
    ),
    "old: some and an index": (
        'package p\ndeny[msg] {\n  some i\n  input.attestations[i].status != "PASSED"\n'
        '  msg := sprintf("%d: %s", [i, input.attestations[i].type])\n}',
        {"attestations": [SCANNED, REVIEWED]},
        ["1: CODE_REVIEW"],
    ),
    "old: a function with else": (
        'package p\nlevel(x) = "high" { x > 7 } else = "low" { true }\n'
        'allow { level(input.score) == "low" }',
        {"score": 5},
        [],
    ),
    "old: keywords of the future": (
        'package p\nimport future.keywords.in\nallow { input.artifactName in ["svc"] }',
        {},
        [],
    ),
    "a text in single lines": (allowing("p", 'deny contains `a "b" \\c`'), {}, ['a "b" \\c']),
    "not with a text at the end": (
        allowing("p", 'deny contains "no" if not input.artifactName == "web"'),
        {},
        ["no"],
    ),
    "not before a comment": (
        allowing("p", 'deny contains "no" if not input.ok # == "web"'),
        {},
        ["no"],
    ),
    "a doubled not": (
        allowing("p", "quiet if not input.loud", 'deny contains "no" if not quiet'),
        {"loud": True},
        ["no"],
    ),
    "a not in a comprehension in a not": (
        allowing("p", 'allow if not count([a | some a in input.xs; not a == "x"]) > 0'),
        {"xs": ["x"]},
        [],
    ),
    "a helper called as a builtin is": (
        allowing("p", "count(x) := 7", "allow if count([]) == 7"),
        {},
        [],
    ),
    "a library under an alias": (
        {
            "a.rego": "package a\nimport data.lib.names as l\nallow if l.known(input.artifactName)",
            "lib.rego": 'package lib.names\nknown(x) if x == "svc"',
        },
        {},
        [],
    ),
    "a metadata comment": (
        "# METADATA\n# title: Gate\npackage p\n\n# METADATA\n# scope: rule\nallow := true",
        {},
        [],
    ),
}


@pytest.mark.parametrize(("policy", "members", "reasons"), IDIOMS.values(), ids=IDIOMS)
def test_an_idiom_is_decided_as_opa_does(shared, policy, members, reasons):
    assert denials(shared, policy, **members) == reasons


@pytest.mark.parametrize(
    ("policy", "version"),
    [
        (NEW_ALLOW, "v1"),
        (new_deny("true"), "v1"),
        (ATTESTED, "v1"),
        (TIERS, "v1"),
        ('package p\ndeny contains {"msg": "x"}', "v1"),
        ('package p\nroles := {"a": {1}}\nallow if input.artifactName in {"svc"}', "v1"),
        (OLD_ALLOW, "v0"),
        (old_deny("true"), "v0"),
        (OLD_TIERS, "v0"),
        ("package p\nf(x) = y { y := x }\nallow := true", "v0"),
    ],
)
def test_the_version_of_rego_is_told_by_its_bodies(shared, policy, version):
    assert shared.compile({"policy.rego": policy}) == version


REFUSED = {
    "an open brace": (
        "package p\nallow if {\n  x == 1\n",
        "policy.rego:4:1: expecting `}` while parsing query",
    ),
    "a body that is not there": ("package p\nallow if", "policy.rego:2:9: expecting expression"),
    "two operators": (
        "package p\nallow if {\n  x := := 1\n}\n",
        "policy.rego:3:8: expecting expression",
    ),
    "characters, not bytes": (
        'package p\n# é\nallow if { "é" == "é"; nofn(1) }',
        "policy.rego:3:24: undefined function nofn, or one that is not supported",
    ),
    "after an old set": (
        'package p\ndeny[msg] { msg := 1 }\nbad["é"] { nofn(1) }',
        "policy.rego:3:12: undefined function nofn, or one that is not supported",
    ),
    "in an old set": (
        "package p\ndeny[msg] { msg := := 1 }",
        "policy.rego:2:20: expecting expression",
    ),
    "two bodies of an old set": (
        'package p\ndeny[msg] { msg := "a" } { msg := "b" }',
        "policy.rego:2:26: else cannot be used with set rules",
    ),
    "no package": (
        "allow := true",
        "policy.rego:1:1: expecting `package` Missing package declaration",
    ),
    "nothing": ("", "policy.rego:1:1: expecting `package` Missing package declaration"),
    "a mistyped name": (
        "package p\nallow if not inptu.blocked",
        "policy.rego:2:14: the variable inptu never gets a value",
    ),
    "a loop over a mistyped name": (
        "package p\nallow if {\n  inptu[_] == 1\n}",
        "policy.rego:3:3: use of undefined variable `inptu` is unsafe",
    ),
    "both versions in one module": (
        "package p\nallow if { input.x }\ndeny[msg] { msg := input.y }",
        "policy.rego:2:1: a rule needs a value or a body\n"
        "policy.rego:2:7: a rule needs a value or a body",
    ),
    "both versions in one module, with a value": (
        "package p\nallow := true if { input.x }\ndeny[msg] { msg := input.y }",
        "policy.rego:2:15: a rule needs a value or a body",
    ),
    "a message without a value": (
        'package p\ndeny[msg] { input.environment == "production" }',
        "policy.rego:2:6: the variable msg never gets a value",
    ),
    "a result without a value": (
        "package p\nf(x) := y if x\nallow if f(1)",
        "policy.rego:2:9: the variable y never gets a value",
    ),
    "a package that is ours": (
        "package novantra_lite\nallow := true",
        "policy.rego:1:1: the package is not in the roots of the bundle",
    ),
}


@pytest.mark.parametrize(("policy", "result"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_compile_is_told_with_lines_and_columns(shared, policy, result):
    with pytest.raises(RegoFailure) as failure:
        shared.compile({"policy.rego": policy})

    assert str(failure.value) == result


def test_a_fault_names_the_module_that_it_is_in(shared):
    modules = {"good.rego": NEW_ALLOW, "lib/bad.rego": "package lib\nx := nofn(1)"}

    with pytest.raises(RegoFailure, match=r"^lib/bad\.rego:2:6: undefined function nofn"):
        shared.compile(modules)


@pytest.mark.parametrize(
    ("policy", "result"),
    [
        ("package p\nallow := true\nallow := false", "rule conflicts with rule"),
        ("package p\na := b\nb := a\nallow if a", "recursion detected"),
        ("package p\nf(x) := f(x)\nallow if f(1)", "crashed or ran out of memory"),
        (
            "package p\nnames contains name if name := input.artifactName\n"
            "allow := name if some name in names\nnames contains input.environment",
            "must not produce multiple outputs",
        ),
    ],
)
def test_what_only_fails_when_it_is_asked_is_a_failure(shared, policy, result):
    with pytest.raises(RegoFailure, match=result):
        denials(shared, policy)


ENDLESS = """package p
many := numbers.range(1, 100000)
allow if { some a in many; some b in many; a + b == -1 }
"""
HOG = """package p
deny contains text if {
  some n in numbers.range(1, 10000000)
  text := sprintf("%d is a text that takes memory", [n])
}
"""


def test_an_endless_policy_is_stopped_at_the_deadline_and_the_next_one_is_answered():
    engine = begin(rego_deadline=1.5)
    begun = time.monotonic()

    with pytest.raises(RegoFailure, match=r"^it took longer than 1\.5 s$"):
        denials(engine, ENDLESS)

    assert time.monotonic() - begun < 25
    engine.deadline = 60.0
    assert denials(engine, NEW_ALLOW, environment="qa") == []
    engine.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the memory of a process")
def test_a_policy_that_takes_too_much_memory_is_stopped_and_the_next_one_is_answered():
    engine = begin(rego_memory=64)

    with pytest.raises(RegoFailure, match=r"^the engine crashed or ran out of memory$"):
        denials(engine, HOG)

    assert denials(engine, NEW_ALLOW, environment="qa") == []
    engine.close()


def test_an_answer_beyond_the_limit_is_a_failure(engine):
    long = (
        f'package p\ndeny contains concat("", [text |\n'
        f'  some n in numbers.range(1, 30000); text := "{"x" * 40}"\n])'
    )

    with pytest.raises(RegoFailure, match=r"^the answer is too large$"):
        denials(engine, long)

    assert denials(engine, NEW_ALLOW, environment="qa") == []


def test_a_child_that_was_killed_is_followed_by_another(engine):
    assert denials(engine, NEW_ALLOW) == NOT_ALLOWED
    first = engine.pid

    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)

    assert denials(engine, NEW_ALLOW, environment="qa") == []
    assert engine.pid != first


def test_a_child_is_begun_when_it_is_needed_and_kept(engine):
    assert engine.pid is None

    assert denials(engine, NEW_ALLOW) == NOT_ALLOWED
    first = engine.pid
    assert denials(engine, OLD_ALLOW, environment="qa") == []

    assert engine.pid == first


def test_policies_that_the_child_forgot_are_compiled_again(engine):
    policies = [f'package p\ndeny contains "{number}"' for number in range(6)]

    rows = [denials(engine, policy) for policy in policies + policies]

    assert rows == [["0"], ["1"], ["2"], ["3"], ["4"], ["5"]] * 2


def test_several_threads_ask_one_child(engine):
    expected = {}

    def ask(number):
        policy = f'package p\ndeny contains sprintf("{number} %d", [input.n])'
        expected[number] = [denials(engine, policy, n=n) for n in range(5)]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert expected == {number: [[f"{number} {n}"] for n in range(5)] for number in range(6)}


# --- What OPA's documentation says ---------------------------------------------


def test_every_expression_has_the_value_that_the_documentation_gives(shared):
    rules = "".join(
        f"deny contains [{number}, {text}]\n" for number, text in enumerate(EXPRESSIONS)
    )
    modules = {"p.rego": f"package p\n{rules}", "data.json": json.dumps(DATA)}

    (answer,) = shared.evaluate(modules, json.dumps(INPUT))

    values = {list(EXPRESSIONS)[number]: value for number, value in answer["value"]}
    assert values == EXPRESSIONS


@pytest.mark.parametrize("expression", ERRORS)
def test_an_error_of_a_builtin_is_a_failure_wherever_it_stands(shared, expression):
    policy = f"package p\nallow := true\ndeny contains 1 if not {expression}"

    with pytest.raises(RegoFailure):
        shared.evaluate({"policy.rego": policy}, json.dumps(INPUT))


@pytest.mark.parametrize(("rule", "column"), UNSUPPORTED.items())
def test_what_the_engine_does_not_evaluate_as_opa_does_is_refused_at_its_place(
    shared, rule, column
):
    with pytest.raises(RegoFailure, match=f"^policy[.]rego:2:{column}: "):
        shared.compile({"policy.rego": f"package p\n{rule}"})


FILES = {"p.rego": "package p\ndefault allow := false\nallow if input.artifactName in data.names"}


@pytest.mark.parametrize(
    ("more", "reasons"),
    [
        ({"data.json": '{"names": ["svc"]}'}, []),
        ({"data.yaml": "names:\n- svc\n"}, []),
        ({"names/data.json": '["svc"]'}, []),
        ({"data.json": '{"names": ["x"]}'}, NOT_ALLOWED),
        ({"data.json": '{"names": ["svc"]}', "more/data.yml": "a: 1"}, []),
        ({".manifest": '{"roots": ["p", "names"]}', "names/data.json": '["svc"]'}, []),
        ({".manifest": '{"revision": "1", "rego_version": 1}'}, NOT_ALLOWED),
    ],
)
def test_files_of_data_are_the_document_data(shared, more, reasons):
    assert denials(shared, FILES | more) == reasons


@pytest.mark.parametrize(
    ("more", "result"),
    [
        ({"data.json": "{"}, "data.json:1:1: expected JSON"),
        ({"data.json": "[1]"}, "data.json:1:1: expected an object"),
        ({"data.json": '{"a": 18446744073709551616}'}, "data.json:1:1: a whole number"),
        ({"data.yaml": "a: 1\nb: ["}, "data.yaml:3:1: expected JSON, or YAML"),
        ({"data.yaml": "day: 2024-01-01"}, "dates in quotes"),
        ({"data.yaml": "1: 2"}, "texts as keys"),
        ({"data.json": '{"p": {"allow": true}}'}, "p.rego:2:9: data has allow, too"),
        ({"data.json": '{"p": 1}'}, "p.rego:2:9: data has allow, too"),
        ({"data.json": '{"a": {"b": 1}}', "a/data.json": '{"b": 2}'}, "in more than one file"),
        ({".manifest": '{"roots": ["q"]}'}, "p.rego:1:1: the package is not in the roots"),
        ({".manifest": '{"roots": ["p"]}', "data.json": '{"q": 1}'}, "data.q is not in the roots"),
        ({".manifest": '{"rego_version": 2}'}, ".manifest:1:1: expected roots"),
        ({".manifest": '{"rego_version": 0}'}, "p.rego:3:"),
        ({".manifest": '{"rego_version": 1}', "q.rego": OLD_ALLOW}, "q.rego:3:7: `if` keyword"),
        ({".manifest": '{"wasm": [{"entrypoint": "p/allow"}]}'}, "no wasm"),
        ({".manifest": "[]"}, ".manifest:1:1: expected roots"),
        ({".manifest": '{"file_rego_versions": {"/p*": 0}}'}, "p.rego:3:"),
    ],
)
def test_files_that_contradict_each_other_are_refused(shared, more, result):
    with pytest.raises(RegoFailure, match=re.escape(result)):
        shared.compile(FILES | more)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc lists the open files of a process")
def test_the_child_has_no_file_of_ours_open(engine, tmp_path):
    with open(tmp_path / "register.db", "w") as ours:
        os.set_inheritable(ours.fileno(), True)
        denials(engine, NEW_ALLOW)

    files = [
        os.readlink(f"/proc/{engine.pid}/fd/{n}") for n in os.listdir(f"/proc/{engine.pid}/fd")
    ]

    assert {file.partition(":")[0] for file in files} == {"pipe", "/dev/null"}


def test_a_closed_engine_leaves_no_process(engine):
    denials(engine, NEW_ALLOW)
    pid = engine.pid

    engine.close()

    assert engine.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_engine_that_nobody_closed_ends_its_child():
    engine = begin()
    denials(engine, NEW_ALLOW)
    pid = engine.pid

    del engine
    gc.collect()

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


FORGETFUL = """
import os, sys
from novantra_lite import RegoEngine, Settings

engine = RegoEngine(Settings(rego_deadline=60.0))
engine.compile({"policy.rego": "package p"})
print(engine.pid, flush=True)
"""


def is_gone(pid):
    """Whether a process ends soon; one that nobody has buried yet has ended."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        matches = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True)
        if matches.stdout.strip() in (b"", b"Z", b"Zs"):
            return True
    return False


@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), 9)"])
def test_the_child_ends_with_its_parent(end):
    command = [sys.executable, "-W", "error", "-c", FORGETFUL + end]
    environment = os.environ | {"PYTHONPATH": os.path.dirname(novantra_lite.__file__)}

    parent = subprocess.run(command, capture_output=True, env=environment, text=True)

    assert parent.stderr == ""
    assert is_gone(int(parent.stdout))


def test_the_child_ends_with_its_parent_while_it_is_busy():
    busy = (
        "import threading\n"
        f"ask = lambda: engine.evaluate({{'policy.rego': {ENDLESS!r}}}, '{{}}')\n"
        "threading.Thread(target=ask, daemon=True).start()\n"
        "threading.Event().wait(1)\nos.kill(os.getpid(), 9)\n"
    )
    command = [sys.executable, "-c", FORGETFUL + busy]
    environment = os.environ | {"PYTHONPATH": os.path.dirname(novantra_lite.__file__)}

    parent = subprocess.run(command, capture_output=True, env=environment, text=True)

    assert is_gone(int(parent.stdout))


def test_without_the_extra_a_sentence_says_what_is_missing(engine, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(RegoMissing, match=r"pip install 'novantra-lite\[rego\]'"):
        engine.compile({"policy.rego": NEW_ALLOW})


def test_a_child_that_cannot_begin_is_a_failure(engine, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")

    with pytest.raises(RegoFailure, match=r"^the engine crashed or ran out of memory$"):
        engine.compile({"policy.rego": NEW_ALLOW})

    assert engine.pid is None
