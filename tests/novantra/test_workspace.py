"""The workspace profile."""

import pytest

PROFILE = "/api/v1/organization"


@pytest.fixture
def client(lite):
    return lite.client("organization:read")


def test_the_profile_says_what_the_workspace_of_the_token_is_called(lite, client):
    response = client.get(PROFILE)

    assert response.status == 200
    assert list(response.json) == ["organization"]
    assert list(response.json["organization"].items()) == [
        ("id", lite.workspace.id),
        ("slug", "workspace"),
        ("name", "Workspace"),
        ("locale", "en"),
        ("timezone", "UTC"),
    ]
    assert lite.workspace.id.startswith("org_")


@pytest.mark.parametrize("name", ["orgId", "organizationId"])
def test_no_parameter_names_another_organization(client, name):
    response = client.get(PROFILE, **{name: "org_01HXY000000000000000000000"})

    assert response.json["organization"]["slug"] == "workspace"


def test_there_is_no_other_path_to_the_profile(client):
    refused = client.get("/api/v1/workspace")

    assert refused.status == 404
