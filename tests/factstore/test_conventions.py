"""What every answer of the Factstore surface has in common."""

import random

import pytest

from novantra_lite import FACTSTORE_SCOPES, NovantraLite

FLOWS = "/api/v1/flows"
PAGE = "http://localhost:5173"


@pytest.fixture
def shared(clock):
    """A client of an install that pages of one origin may call."""
    with NovantraLite(clock=clock, random=random.Random(7), cors_origins=(PAGE,)) as lite:
        yield lite.client(*FACTSTORE_SCOPES)


def test_a_page_of_a_listed_origin_may_read_what_it_asked_for(shared):
    answer = shared.request("GET", FLOWS, headers={"Origin": PAGE})

    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert answer.headers["vary"] == "Origin"


def test_a_browser_that_asks_first_is_told_methods_and_headers(shared):
    values = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "authorization,content-type",
    }

    answer = shared.request("OPTIONS", FLOWS, headers=values)

    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["access-control-allow-methods"] == "GET, POST, PUT, DELETE"
    assert answer.headers["access-control-allow-headers"] == "authorization,content-type"


@pytest.mark.parametrize("origin", ["http://localhost:5174", "null", "http://localhost:5173.evil"])
def test_a_page_of_any_other_origin_gets_no_leave(shared, origin):
    answer = shared.request("GET", FLOWS, headers={"Origin": origin})

    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_refusals_may_be_read_by_a_page_too(shared):
    answer = shared.request("GET", f"{FLOWS}/x", headers={"Origin": PAGE})

    assert answer.status == 400
    assert answer.headers["access-control-allow-origin"] == PAGE


def test_the_other_surface_gives_no_leave(shared):
    answer = shared.request("GET", "/api/v1/assets", headers={"Origin": PAGE})

    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", [f"{FLOWS}/7", f"{FLOWS}/not-a-uuid/template"])
def test_an_id_that_is_no_uuid_is_refused_by_the_name_of_its_place(factstore, path):
    answer = factstore.get(path)

    assert answer.status == 400
    assert answer.json["message"] == "flowId: Expected a UUID"


def test_every_answer_says_which_region_it_comes_from(factstore, lite):
    answer = factstore.get(FLOWS)

    assert answer.headers["x-factstore-region"] == "us-east-1"
