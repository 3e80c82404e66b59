"""Party engagements."""

from typing import ClassVar

import pytest

from novantra.retrieval import Listed, Retrieved, make

ENGAGEMENTS = "/api/v1/party-engagements"
SCOPE = "party-engagements:read"


class TestEngagements(Retrieved):
    path, scope = ENGAGEMENTS, SCOPE
    collection, key = "party-engagements", "engagements"
    noun = "engagement"
    members = (
        "id engagementKey engagementKind title providerPartyId status ownerResponsibilityId "
        "createdAt updatedAt"
    )
    nulls = "providerPartyId ownerResponsibilityId"
    filters = "status engagementKind"
    first: ClassVar = {
        "engagementKey": "engine-shop",
        "engagementKind": "supplier",
        "title": "The engine shop",
        "providerPartyId": "party_1",
        "status": "active",
        "ownerResponsibilityId": "ra_1",
    }
    second: ClassVar = {
        "engagementKey": "cleaning",
        "engagementKind": "service",
        "title": "Cleaning",
        "status": "ended",
    }


class OfEngagement(Listed):
    """Records that belong to an engagement; `own` are the members that only they have."""

    scope, filters = SCOPE, "engagementId"
    own: ClassVar = {}
    little: ClassVar = {}

    def rows(self, lite):
        ids = [
            make(lite, "party-engagements", engagementKey=key, engagementKind="x", title="X")["id"]
            for key in ("one", "other")
        ]
        return {"engagementId": ids[0], **self.own}, {"engagementId": ids[1], **self.little}


class OfReview(OfEngagement):
    """Three kinds of review share one shape."""

    members = "id engagementId reviewKey reviewKind status performedAt createdAt updatedAt"
    nulls = "performedAt"
    own: ClassVar = {
        "reviewKey": "engine-shop-2026",
        "reviewKind": "onboarding",
        "status": "completed",
        "performedAt": "2026-05-01T00:00:00.000Z",
    }
    little: ClassVar = {"reviewKey": "cleaning-2026", "reviewKind": "yearly"}


class TestDueDiligenceReviews(OfReview):
    path = f"{ENGAGEMENTS}/due-diligence-reviews"
    collection, key = "due-diligence-reviews", "dueDiligenceReviews"


class TestSupplierAssuranceReviews(OfReview):
    path = f"{ENGAGEMENTS}/supplier-assurance-reviews"
    collection, key = "supplier-assurance-reviews", "supplierAssuranceReviews"


class TestServiceReviews(OfReview):
    path = f"{ENGAGEMENTS}/service-reviews"
    collection, key = "service-reviews", "serviceReviews"


class TestRightToAuditRecords(OfEngagement):
    path = f"{ENGAGEMENTS}/right-to-audit-records"
    collection, key = "right-to-audit-records", "rightToAuditRecords"
    members = "id engagementId recordKey status lastExercisedAt nextDueAt createdAt updatedAt"
    nulls = "lastExercisedAt nextDueAt"
    own: ClassVar = {
        "recordKey": "audit-the-engine-shop",
        "status": "active",
        "lastExercisedAt": "2025-05-01T00:00:00.000Z",
        "nextDueAt": "2027-05-01T00:00:00.000Z",
    }
    little: ClassVar = {"recordKey": "audit-the-cleaner"}


@pytest.mark.parametrize("literal", ["due-diligence-reviews", "service-reviews"])
def test_a_literal_segment_is_not_taken_for_an_id(novantra, literal):
    response = novantra.get(f"{ENGAGEMENTS}/{literal}")

    assert (response.status, response.json["pagination"]) == (200, {})
