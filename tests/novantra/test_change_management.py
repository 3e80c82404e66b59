"""Change management."""

from typing import ClassVar

from novantra.retrieval import Listed, Retrieved

CHANGES = "/api/v1/change-management"
SCOPE = "change-management:read"
SUBJECT = {
    "subjectModuleKey": "scope",
    "subjectResourceType": "system",
    "subjectResourceId": "sys_1",
}
NO_SUBJECT = "subjectModuleKey subjectResourceType subjectResourceId ownerResponsibilityId"


class TestChangeRequests(Retrieved):
    path, scope = f"{CHANGES}/change-requests", SCOPE
    collection, key = "change-requests", "changeRequests"
    noun = "changeRequest"
    members = (
        "id changeRequestKey changeKind title status subjectModuleKey subjectResourceType "
        "subjectResourceId ownerResponsibilityId createdAt updatedAt scheduledAt"
    )
    nulls = f"{NO_SUBJECT} scheduledAt"
    filters = "status changeKind"
    first: ClassVar = {
        "changeRequestKey": "new-firewall",
        "changeKind": "normal",
        "title": "A new firewall",
        "status": "approved",
        **SUBJECT,
        "ownerResponsibilityId": "ra_1",
        "scheduledAt": "2026-07-01T00:00:00.000Z",
    }
    second: ClassVar = {
        "changeRequestKey": "hot-fix",
        "changeKind": "emergency",
        "title": "Fix it now",
        "status": "requested",
    }


class OfSubject(Listed):
    """Records of one shape: a key, a title, a status, a subject, an owner and one date."""

    scope, filters = SCOPE, "status"
    key_member = date = ""
    own: ClassVar = {}

    @property
    def members(self):
        between = " ".join(self.own)
        return " ".join(
            f"id {self.key_member} title status subjectModuleKey subjectResourceType "
            f"subjectResourceId ownerResponsibilityId {between} {self.date} createdAt "
            "updatedAt".split()
        )

    @property
    def nulls(self):
        return f"{NO_SUBJECT} {self.date}"

    def rows(self, lite):
        return {
            self.key_member: "one",
            "title": "The one",
            "status": "done",
            **SUBJECT,
            "ownerResponsibilityId": "ra_1",
            **self.own,
            self.date: "2026-05-01T00:00:00.000Z",
        }, {self.key_member: "other", "title": "The other", "status": "open"}


class TestConfigurationBaselines(OfSubject):
    path = f"{CHANGES}/configuration-baselines"
    collection, key = "configuration-baselines", "configurationBaselines"
    key_member, date = "baselineKey", "capturedAt"


class TestReleases(OfSubject):
    path = f"{CHANGES}/releases"
    collection = key = "releases"
    key_member, date = "releaseKey", "releasedAt"
    own: ClassVar = {"changeRequestIds": ["chreq_1", "chreq_2"]}


class TestSystemAcceptances(OfSubject):
    path = f"{CHANGES}/system-acceptances"
    collection, key = "system-acceptances", "systemAcceptances"
    key_member, date = "acceptanceKey", "acceptedAt"


class TestEnvironmentSeparationReviews(OfSubject):
    path = f"{CHANGES}/environment-separation-reviews"
    collection, key = "environment-separation-reviews", "environmentSeparationReviews"
    key_member, date = "reviewKey", "performedAt"
