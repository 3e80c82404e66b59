"""The reference page: what it prints, how it is served, and what a browser makes of it."""

import base64
import hashlib
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser

import pytest

from novantra_lite import (
    REFERENCE_CSP,
    REFERENCE_STYLE,
    RESOURCES,
    ReferencePage,
    Server,
    every_operation,
    openapi_document,
    reference_page,
)

VOID = {"meta", "input", "wbr"}
OPTIONAL_END = {"li", "td", "th", "tr", "thead", "tbody"}


class Outline(HTMLParser):
    """The tags, attributes, ids, links and headings of a page, and its faults in nesting."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.ids, self.links, self.headings = [], [], [], []
        self.attributes, self.faults, self.tags = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name == "href"]
        self.headings += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag):
        while self.open and self.open[-1] != tag and self.open[-1] in OPTIONAL_END:
            self.open.pop()
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)


@pytest.fixture
def document() -> dict:
    finding = {
        "allOf": [
            {"$ref": "#/components/schemas/Record"},
            {
                "type": "object",
                "required": ["title"],
                "properties": {
                    "title": {
                        "type": "string",
                        "maxLength": 200,
                        "description": "What was <found>.",
                    },
                    "status": {"type": ["string", "null"], "enum": ["open", "closed"]},
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                },
            },
        ]
    }
    tree = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "children": {"type": "array", "items": {"$ref": "#/components/schemas/Tree"}},
        },
    }
    record = {"type": "object", "properties": {"id": {"type": "string", "format": "uuid"}}}
    token = {
        "type": "object",
        "required": ["client_id"],
        "properties": {"client_id": {"type": "string", "examples": ["CLIENT_ID"]}},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Lite & small",
            "version": "1.2.3",
            "description": "Times are `UTC`.\n\nA page holds <50> records.",
        },
        "tags": [{"name": "Findings", "description": "What an assessment found."}],
        "paths": {
            "/api/v1/auth/token": {
                "post": {
                    "operationId": "createToken",
                    "tags": ["Authentication"],
                    "summary": "Create a token",
                    "security": [],
                    "requestBody": body("Token"),
                    "responses": {"200": {"description": "A token"}},
                }
            },
            "/api/v1/findings/{findingId}": {
                "get": {
                    "operationId": "getFinding",
                    "tags": ["Findings"],
                    "summary": "Get a finding",
                    "x-scope": "findings:read",
                    "parameters": [
                        {
                            "name": "findingId",
                            "in": "path",
                            "required": True,
                            "schema": {"type": "string", "format": "uuid"},
                        },
                        {
                            "name": "at",
                            "in": "query",
                            "required": True,
                            "schema": {"type": "string", "examples": ["a/b&c"]},
                        },
                    ],
                    "responses": {
                        "200": {"description": "Found", **body("Finding")},
                        "404": {"description": "No such <finding>"},
                    },
                },
                "patch": {
                    "operationId": "updateFinding",
                    "tags": ["Findings"],
                    "summary": "Change a finding",
                    "x-scope": "findings:write",
                    "x-setting": "finding_updates",
                    "requestBody": body("Finding"),
                    "responses": {"200": {"description": "Changed", **body("Tree")}},
                },
            },
        },
        "components": {
            "schemas": {"Finding": finding, "Record": record, "Tree": tree, "Token": token}
        },
    }


def body(name: str) -> dict:
    return {"content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}}


def test_the_page_is_well_formed_and_its_links_lead_somewhere(document):
    page = reference_page(document)

    outline = Outline(page)

    assert outline.faults == [] and outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert {link.removeprefix("#") for link in outline.links} <= set(outline.ids)
    assert outline.headings[0] == 1
    assert all(b - a <= 1 for a, b in zip(outline.headings, outline.headings[1:], strict=False))
    assert {"header", "nav", "main", "th", "label"} <= set(outline.tags)


def test_the_page_fetches_nothing_and_has_no_inline_handler(document):
    page = reference_page(document)

    outline = Outline(page)

    assert not {"link", "img", "iframe", "form", "base"} & set(outline.tags)
    assert not {"src", "style", "action"} & set(outline.attributes)
    assert [name for name in outline.attributes if name.startswith("on")] == []
    assert "url(" not in page and "@import" not in page


def test_the_policy_names_the_hash_of_the_one_script(document):
    page = reference_page(document)

    [script] = re.findall(r"<script>(.*?)</script>", page, re.S)

    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    ) == REFERENCE_CSP


def test_everything_from_the_document_is_escaped(document):
    document["info"]["title"] = "<script>alert(1)</script>"
    document["paths"]["/x/<b>"] = {"get": document["paths"]["/api/v1/auth/token"]["post"]}
    document["components"]["schemas"]["Record"]["properties"]["<i>"] = {"default": "</code>'\""}

    page = reference_page(document)

    assert page.count("<script>") == 1
    assert "/<wbr>x/<wbr>&lt;b&gt;" in page
    assert "<code>&lt;i&gt;</code>" in page and "default <code>&lt;/code&gt;" in page
    assert "What was &lt;found&gt;." in page and "No such &lt;finding&gt;" in page
    assert "<p>A page holds &lt;50&gt; records.</p>" in page


def test_references_and_all_of_are_folded_into_members(document):
    printer = ReferencePage(document)

    members = printer.members({"$ref": "#/components/schemas/Finding"})

    assert members.startswith("<ul><li><code>id</code> <span>uuid</span>")
    assert "<code>title</code> <span>string</span> <em>required</em>" in members
    assert "maxLength <code>200</code>" in members
    assert "<span>string or null</span>" in members
    assert "one of <code>open, closed</code>" in members
    assert "<code>labels</code> <span>map of string</span>" in members


def test_a_schema_that_contains_itself_ends(document):
    printer = ReferencePage(document)
    reference = {"$ref": "#/components/schemas/Tree"}

    members, sample = printer.members(reference), printer.sample(reference)

    assert members.count("<code>children</code> <span>array of object</span>") == 1
    assert members.count("and so on, as above") == 1
    assert sample["name"] == "name"


def test_an_example_can_be_pasted_into_a_shell(document):
    page = reference_page(document)

    examples = re.findall(r"<pre><code>(.*?)</code></pre>", page, re.S)

    assert (
        "curl &quot;$URL/api/v1/findings/00000000-0000-4000-8000-000000000000"
        "?at=a%2Fb%26c&quot; \\\n"
        "  -H &quot;Authorization: Bearer $TOKEN&quot;"
    ) in examples
    assert examples[0].startswith("export URL=http://127.0.0.1:8080\nexport TOKEN=$(curl -s ")
    assert "&quot;client_id&quot;: &quot;CLIENT_ID&quot;" in examples[0]
    assert "Bearer" not in examples[0]


def test_an_apostrophe_does_not_end_the_body_of_an_example(document):
    schema = {"type": "object", "properties": {"name": {"examples": ["it's"]}}}
    operation = {"requestBody": {"content": {"application/json": {"schema": schema}}}}

    command = ReferencePage(document).curl("put", "/x", operation)

    assert "it\\u0027s" in command and command.startswith("curl -X PUT ")


def test_an_operation_tells_scope_setting_parameters_and_statuses(document):
    page = reference_page(document)

    assert "scope <code>findings:write</code>, only with the setting <code>finding_updates" in page
    assert '<th scope="row"><code>at</code><td>query<td>string<td>required' in page
    assert "<code>404</code> No such" in page
    assert "Version 1.2.3, 3 operations" in page
    assert '<a href="#tag-findings">Findings <small>2</small></a>' in page
    assert "<p>What an assessment found.</p>" in page and "<code>UTC</code>" in page


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_text_colour_is_readable_on_both_backgrounds(scheme):
    palettes = re.findall(r":root \{(.*?)\}", REFERENCE_STYLE, re.S)
    colours = dict(re.findall(r"--(\w+): (#\w+)", palettes[scheme]))

    ratios = {
        (text, ground): contrast(colours[text], colours[ground])
        for text in ("text", "muted", "link", "good", "put", "bad")
        for ground in ("page", "panel")
    }

    assert {pair: ratio for pair, ratio in ratios.items() if ratio < 4.5} == {}


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours (WCAG 2.2)."""
    lights = []
    for colour in (one, other):
        digits = colour[1:] if len(colour) == 7 else "".join(d * 2 for d in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)


@pytest.fixture
def served(lite):
    return lite.client().get("/docs")


def test_the_page_is_served_under_the_policy_of_its_own_script(served):
    [script] = re.findall(rb"<script>(.*?)</script>", served.body, re.S)

    digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
    assert served.status == 200
    assert served.headers["content-type"] == "text/html; charset=utf-8"
    assert f"script-src 'sha256-{digest}'" in served.headers["content-security-policy"]
    assert served.headers["content-security-policy"].startswith("default-src 'none';")


def test_the_served_page_is_whole_without_a_script_and_without_a_network(served):
    page = served.body.decode()

    outline = Outline(re.sub("<script>.*?</script>", "", page, flags=re.S))

    assert outline.faults == [] and outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert {link.removeprefix("#") for link in outline.links} <= set(outline.ids)
    assert all(b - a <= 1 for a, b in zip(outline.headings, outline.headings[1:], strict=False))
    assert [name for name in outline.attributes if name in ("src", "action", "style")] == []
    # Only the filter is of no use without a script.
    assert re.findall(r"<(?!input)[^>]* hidden[^>]*>", page) == [
        '<div id="filter-box" role="search" hidden>'
    ]


def test_the_served_page_has_every_operation(served):
    page = served.body.decode()

    titles = re.findall(r"<h3>(.*?)</h3>", page, re.S)

    printed = [" ".join(unescape(re.sub("<.*?>", "", title)).split()) for title in titles]
    assert sorted(printed) == sorted(
        f"{operation.method} {operation.path} {operation.summary}"
        for operation in every_operation()
    )


def test_every_example_of_the_served_page_is_a_command_that_a_shell_reads(served):
    page = served.body.decode()

    examples = [unescape(text) for text in re.findall(r"<pre><code>(.*?)</code>", page, re.S)]

    checked = subprocess.run(["sh", "-n"], input="\n".join(examples), text=True)
    assert len(examples) == len(every_operation()) + 1
    assert checked.returncode == 0


def test_a_chapter_begins_with_the_guides_of_its_resources(lite):
    page, document = lite.client().get("/docs").body.decode(), openapi_document()

    guides = {tag["name"]: tag["description"] for tag in document["tags"] if "description" in tag}
    own = [guide for each in RESOURCES if (guide := vars(type(each)).get("guide"))]
    assert sum(guide in text for guide in own for text in guides.values()) == len(own) > 20
    for name in guides:
        assert re.search(f"<h2>{name}</h2><p>", page)
    # Code may be wrapped, and no backtick is left over.
    assert "`" not in re.sub("<(pre|script|style)>.*?</\\1>", "", page, flags=re.S)


def test_the_root_leads_to_the_page(lite):
    answer = lite.client().get("/")

    assert (answer.status, answer.headers["location"]) == (307, "/docs")


#: Where there is no browser, what follows is not collected; .ci/run installs one.
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


def in_a_browser(test):
    """A test that pytest collects only where a browser can be driven."""
    test.__test__ = CHROMIUM is not None
    return test


def browse(profile, url):
    """The page as Chromium has it once its script has run."""
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-component-update"
    flags += " disable-background-networking disable-sync disable-dev-shm-usage dump-dom"
    command = [CHROMIUM, *(f"--{flag}" for flag in flags.split()), f"--user-data-dir={profile}"]
    browser = subprocess.run([*command, url], capture_output=True, check=True, timeout=60)
    return browser.stdout.decode()


@in_a_browser
def test_a_browser_runs_the_script_of_the_page_under_its_policy(lite, tmp_path):
    with lite.listening() as url:
        page = browse(tmp_path, f"{url}/docs#createFinding")

    total = len(every_operation())
    assert '<div id="filter-box" role="search">' in page
    assert f">{total} of {total} operations</output>" in page
    assert re.findall(r"<h[12]>(.*?)</h[12]>", page)[:3] == [
        "novantra-lite",
        "Get a token",
        "Conventions",
    ]
    # The address names an operation, so that one is unfolded.
    [unfolded] = re.findall(r'<details class="operation" open="">(.*?)</details>', page, re.S)
    assert 'id="createFinding"' in unfolded


TYPING = b"""<script>{
const box = document.getElementById("filter-text");
box.value = "delete FLOW";
box.dispatchEvent(new Event("input"));
}</script>"""


@in_a_browser
def test_typing_in_the_filter_leaves_the_operations_that_match(lite, tmp_path):
    def typed(environ, start_response):
        def start(status, headers, *rest):
            own = {"content-security-policy", "content-length"}
            return start_response(status, [h for h in headers if h[0].lower() not in own], *rest)

        environ.pop("HTTP_ACCEPT_ENCODING", None)
        return [*lite(environ, start), TYPING]

    server = Server(typed, lite.settings, "127.0.0.1:0")
    server.start()
    try:
        page = browse(tmp_path, f"{server.url}/docs")
    finally:
        server.stop()

    shown = re.findall(r'<details class="operation">.*?<div class="body" id="(\w+)"', page, re.S)
    assert shown == ["deleteFlow", "deleteFlowV2"]
    assert f">2 of {len(every_operation())} operations</output>" in page
    assert re.findall(r'<section id="([\w-]+)">', page) == [
        "get-token",
        "conventions",
        "tag-flows",
        "tag-v2-flows",
        "settings",
    ]
