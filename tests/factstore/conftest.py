"""The records that many chapters of Factstore start from."""

import pytest

from .trails import make_trail


@pytest.fixture
def acme(factstore):
    """An organisation."""
    return factstore.post("/api/v1/organisations", {"slug": "acme", "name": "Acme"}).json


@pytest.fixture
def flow(factstore):
    """A flow."""
    return factstore.post("/api/v1/flows", {"name": "payments"}).json


@pytest.fixture
def flow_id(flow):
    return flow["id"]


@pytest.fixture
def production(factstore):
    """A cluster."""
    return factstore.post("/api/v1/environments", {"name": "production", "type": "K8S"}).json


@pytest.fixture
def trail(lite):
    """The id of a trail of the flow `payments`, made without the operations of its chapter."""
    return make_trail(lite)
