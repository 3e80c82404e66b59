"""Regulatory reports: as JSON, and as a page to read and to print."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser

import pytest

from novantra_lite import REPORT_CSP, REPORT_STYLE, regulatory_page

from .trails import make_attestation, make_trail

FRAMEWORKS = "/api/v1/frameworks"
ASSESS = "/api/v1/compliance/assess"
REPORTS = "/api/v1/reports/regulatory"
NOON = "2026-06-01T12:00:00.000000Z"
NOBODY = "00000000-0000-4000-8000-000000000000"
GDPR = "5eed0003-0000-4000-8000-000000000000"
HOSTILE = """</title></style><script>alert("x")</script><img src=x onerror='y'>&amp;"""


def assess(factstore, trail, framework=GDPR):
    return factstore.post(ASSESS, {"frameworkId": framework, "trailId": trail}).json


@pytest.fixture
def assessed(lite, factstore, clock):
    """Two trails, the first assessed again after its scan has passed."""
    first, second = make_trail(lite), make_trail(lite, "other")
    before = assess(factstore, first)
    make_attestation(lite, first, "SECURITY_SCAN", status="PASSED")
    make_attestation(lite, first, "DPIA_ATTESTATION", status="PASSED")
    clock.advance(60)
    return [before, assess(factstore, second), assess(factstore, first)]


# --- As JSON ------------------------------------------------------------------


def test_a_report_has_every_assessment_of_its_framework(factstore, assessed, clock):
    assess(factstore, assessed[0]["trailId"], GDPR.replace("3", "2", 1))
    clock.advance(60)

    report = factstore.get(f"{REPORTS}/{GDPR}")

    assert report.status == 200
    assert report.headers["content-type"] == "application/json"
    assert report.headers["vary"] == "Accept, Origin"
    assert report.json == {
        "frameworkId": GDPR,
        "frameworkName": "GDPR",
        "frameworkVersion": "2018",
        "assessments": assessed,
        "generatedAt": "2026-06-01T12:02:00.000000Z",
    }


def test_a_report_is_empty_until_something_was_assessed(factstore):
    report = factstore.get(f"{REPORTS}/{GDPR.upper()}")

    assert (report.status, report.json["assessments"]) == (200, [])


@pytest.mark.parametrize("accept", ["application/json", "text/html"])
@pytest.mark.parametrize(("key", "status"), [(NOBODY, 404), ("GDPR", 400)])
def test_a_report_on_a_framework_that_is_not_there_is_not_found(factstore, accept, key, status):
    refused = factstore.get(f"{REPORTS}/{key}", headers={"Accept": accept})

    assert (refused.status, refused.json["status"]) == (status, status)


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        ("*/*", "application/json"),
        ("application/json, text/html", "application/json"),
        ("text/html;q=0.5, application/json", "application/json"),
        ("image/png", "application/json"),
        ("garbage", "application/json"),
        ("text/html", "text/html; charset=utf-8"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8"),
    ],
)
def test_the_caller_s_preference_decides_between_json_and_page(factstore, accept, media):
    report = factstore.get(f"{REPORTS}/{GDPR}", headers={"Accept": accept})

    assert (report.status, report.headers["content-type"]) == (200, media)
    assert report.headers["vary"] == "Accept, Origin"


# --- As a page ----------------------------------------------------------------

VOID = {"meta", "br"}


class Outline(HTMLParser):
    """The elements of a page with their attributes and text, and its faults in nesting."""

    def __init__(self, page):
        super().__init__()
        self.open, self.faults, self.elements, self.headings = [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.headings += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        self.open += [] if tag in VOID else [tag]

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def found(self, tag, **attributes):
        return [
            own for name, own in self.elements if name == tag and attributes.items() <= own.items()
        ]


def read_page(factstore, framework=GDPR):
    return factstore.get(f"{REPORTS}/{framework}", headers={"Accept": "text/html"})


def texts(page):
    """What a page says, without its tags."""
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_the_page_is_well_formed_and_fetches_nothing(factstore, assessed):
    page = read_page(factstore).body.decode()

    outline = Outline(page)

    tags = {tag for tag, _ in outline.elements}
    names = {name for _, attributes in outline.elements for name in attributes}
    assert (outline.faults, outline.open) == ([], [])
    assert outline.headings == [1, 2, 2]
    assert not {"script", "link", "img", "iframe", "form", "base", "a", "object"} & tags
    assert not {"style", "src", "href", "action"} & names
    assert [name for name in names if name.startswith("on")] == []
    assert "url(" not in page and "@import" not in page


def test_the_page_is_served_under_a_policy_that_allows_its_one_style_alone(factstore, assessed):
    served = read_page(factstore)

    [style] = re.findall(rb"<style>(.*?)</style>", served.body, re.S)

    digest = base64.b64encode(hashlib.sha256(style).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    assert served.headers["content-security-policy"] == policy == REPORT_CSP
    assert served.headers["x-content-type-options"] == "nosniff"
    assert served.headers["cache-control"] == "no-store"


def test_the_chart_draws_the_newest_assessment_of_each_trail(factstore, assessed):
    outline = Outline(read_page(factstore).body.decode())

    bars = [own["aria-label"] for own in outline.found("svg", role="img")]
    widths = [(own["class"], own["x"], own["width"]) for own in outline.found("rect", y="0")]
    assert bars == [
        "1 satisfied, 2 partly satisfied, 5 not satisfied",
        "0 satisfied, 1 partly satisfied, 1 not satisfied",
        "0 satisfied, 1 partly satisfied, 1 not satisfied",
        "1 satisfied, 0 partly satisfied, 1 not satisfied",
        "0 satisfied, 0 partly satisfied, 2 not satisfied",
    ]
    assert widths[:4] == [
        ("rest", "0", "100"),
        ("full", "0.000", "12.500"),
        ("half", "12.500", "25.000"),
        ("none", "37.500", "62.500"),
    ]


def test_the_page_tells_the_numbers_of_the_chart_and_every_assessment(factstore, assessed):
    result = texts(read_page(factstore).body.decode())

    assert "1 satisfied (12 %) 2 partly satisfied (25 %) 5 not satisfied (62 %)" in result
    assert "GDPR-35 Data protection impact assessment requires DPIA_ATTESTATION 1 0 1" in result
    assert "Trails 2 Assessments 3" in result and "Generated 2026-06-01 12:01:00 UTC" in result
    rows = result.partition("Missing evidence ")[2]
    assert [rows.index(assessment["trailId"]) for assessment in assessed[:2]] == sorted(
        rows.index(assessment["trailId"]) for assessment in assessed[:2]
    )
    assert "2026-06-01 12:00:00 UTC" in rows and "non-compliant 0 of 4" in rows
    assert "partial 1 of 4 GDPR-25: PRIVACY_REVIEW GDPR-32: ENCRYPTION_ATTESTATION" in rows


def test_a_framework_that_nobody_assessed_has_a_page_too(factstore):
    page = read_page(factstore).body.decode()

    outline = Outline(page)

    assert (outline.faults, outline.open) == ([], [])
    assert [own["aria-label"] for own in outline.found("svg", role="img")] == [
        "not assessed yet"
    ] * 5
    assert "None yet." in texts(page)


def test_a_control_that_was_added_later_is_not_assessed_yet(factstore, assessed):
    control = {"controlId": "GDPR-7", "title": "Consent"}
    factstore.post(f"{FRAMEWORKS}/{GDPR}/controls", control)

    outline = Outline(read_page(factstore).body.decode())

    assert outline.found("svg", role="img")[-1]["aria-label"] == "not assessed yet"


@pytest.fixture
def hostile(lite, factstore):
    """A framework whose every text is out to break the page, assessed once."""
    factstore.post("/api/v1/organisations", {"slug": HOSTILE, "name": "x"})
    body = {"name": HOSTILE, "version": "<b>1</b>", "description": HOSTILE, "orgSlug": HOSTILE}
    framework = factstore.post(FRAMEWORKS, body).json["id"]
    control = {"controlId": HOSTILE, "title": HOSTILE, "requiredEvidenceTypes": [HOSTILE]}
    factstore.post(f"{FRAMEWORKS}/{framework}/controls", control)
    body = {"frameworkId": framework, "trailId": make_trail(lite), "orgSlug": HOSTILE}
    factstore.post(ASSESS, body)
    return framework


def test_every_text_is_escaped(factstore, hostile):
    page = read_page(factstore, hostile).body.decode()

    outline = Outline(page)

    assert (outline.faults, outline.open) == ([], [])
    assert not {"script", "img", "b"} & {tag for tag, _ in outline.elements}
    assert page.count("</title>") == page.count("</style>") == 1
    # Title and heading, description, control, its title and evidence, organisation, what is missing
    assert texts(page).count('<script>alert("x")</script>') == 9


def test_a_text_without_end_does_not_leave_its_cell():
    framework = {"id": NOBODY, "name": "x" * 255, "version": "y" * 50, "description": None}

    page = regulatory_page(framework | {"controls": []}, [], NOON)

    assert "overflow-wrap: anywhere" in REPORT_STYLE
    assert Outline(page).faults == []


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_text_colour_is_readable(scheme):
    palettes = re.findall(r":root \{(.*?)\}", REPORT_STYLE, re.S)
    colours = dict(re.findall(r"--(\w+): (#\w+)", palettes[scheme]))

    ratios = {
        name: contrast(colours[name], colours["page"]) for name in ("text", "muted", "good", "bad")
    }

    assert {name: ratio for name, ratio in ratios.items() if ratio < 4.5} == {}
    assert contrast(colours["good"], colours["half"]) >= 1.5


def contrast(one, other):
    """The contrast ratio of two colours (WCAG 2.2)."""
    lights = []
    for colour in (one, other):
        digits = colour[1:] if len(colour) == 7 else "".join(d * 2 for d in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)


#: Where there is no browser, what follows is not collected; .ci/run installs one.
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


def in_a_browser(test):
    """A test that pytest collects only where a browser can be driven."""
    test.__test__ = CHROMIUM is not None
    return test


def browse(tmp_path, page, *options):
    """What Chromium prints about a page, or makes of it."""
    (tmp_path / "report.html").write_bytes(page)
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-component-update"
    flags += " disable-background-networking disable-sync disable-dev-shm-usage"
    command = [CHROMIUM, *(f"--{flag}" for flag in flags.split())]
    command += [f"--user-data-dir={tmp_path / 'profile'}", *options]
    address = (tmp_path / "report.html").as_uri()
    browser = subprocess.run([*command, address], capture_output=True, check=True, timeout=60)
    return browser.stdout.decode()


PROBE = b"""<script>
const sheet = getComputedStyle(document.querySelector("rect.none")), found = [
  sheet.stroke, document.querySelector(".bar").getBoundingClientRect().width > 300,
  document.documentElement.scrollWidth <= innerWidth, typeof alert_was_called];
document.querySelector("h1").textContent = JSON.stringify(found);
</script></body>"""


@in_a_browser
def test_a_browser_draws_the_chart_and_runs_nothing_of_what_the_texts_say(
    factstore, hostile, tmp_path
):
    page = read_page(factstore, hostile).body
    probed = page.replace(b"<head>", b"<head><script>alert = () => alert_was_called = 1</script>")
    probed = probed.replace(b"</body>", PROBE)

    drawn = browse(tmp_path, probed, "--dump-dom")

    [heading] = re.findall(r"<h1>(.*?)</h1>", drawn)
    stroke, is_wide, fits, called = json.loads(unescape(heading))
    assert stroke in ("rgb(173, 31, 45)", "rgb(255, 154, 159)")
    assert (is_wide, fits, called) == (True, True, "undefined")


@in_a_browser
def test_a_browser_prints_the_page(factstore, assessed, tmp_path):
    page = read_page(factstore).body

    browse(tmp_path, page, f"--print-to-pdf={tmp_path / 'report.pdf'}", "--no-pdf-header-footer")

    printed = (tmp_path / "report.pdf").read_bytes()
    assert printed.startswith(b"%PDF-")
    # How much fits on a sheet depends on its size and on the fonts that there are.
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) <= 2
