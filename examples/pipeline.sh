#!/usr/bin/env bash
# Take a build from commit to gate with curl and jq; pipeline.py does the same in Python.
#
#   export FACTSTORE_URL=http://127.0.0.1:8080 FACTSTORE_API_KEY=fss_… FACTSTORE_MANAGER_KEY=fss_…
#   bash examples/pipeline.sh payments.tar.gz junit.xml scan.sarif
#
# The key of the release manager has the scope factstore:govern; it writes the policy and decides.
# Exit status 0: the gate lets the build through; 1: it does not; more: something went wrong.
set -euo pipefail
[ $# -eq 3 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
built=$1 junit=$2 sarif=$3

call() { # METHOD PATH [curl options]: the answer's body; a refusal's message ends the script
  local method=$1 path=$2 status body; shift 2
  body=$(curl -sS -w '\n%{http_code}' -X "$method" "$FACTSTORE_URL$path" \
    -H "X-Api-Key: $FACTSTORE_API_KEY" "$@")
  status=${body##*$'\n'} body=${body%$'\n'*}
  if [ "$status" -ge 400 ]; then
    echo "$method $path: $(jq -r .message <<< "$body")" >&2
    return 22
  fi
  printf '%s' "$body"
}
manage() { # FUNCTION ARGUMENTS: the same with the key of the release manager
  FACTSTORE_API_KEY=$FACTSTORE_MANAGER_KEY "$@"
}
post() { # PATH JSON
  call POST "$1" -H 'Content-Type: application/json' -d "$2"
}
ensure() { # PATH JSON: the id of the record of this name, made when it is not there
  local id
  id=$(call GET "$1" | jq -r --argjson w "$2" 'map(select(.name == $w.name))[0].id // empty')
  [ -n "$id" ] || id=$(post "$1" "$2" | jq -r .id)
  printf '%s' "$id"
}

flow=$(ensure /api/v1/flows '{"name": "payments", "requiresApproval": true,
  "requiredAttestationTypes": ["junit", "sarif"]}')
production=$(ensure /api/v1/environments '{"name": "production", "type": "K8S"}')
manage ensure /api/v1/deployment-policies "$(jq -n --arg flow "$flow" --arg environment "$production" \
  '{name: "payments to production", flowId: $flow, environmentId: $environment,
    enforceApprovals: true, requiredAttestationTypes: ["junit", "sarif"]}')" > /dev/null

trail=$(post /api/v1/trails "$(jq -n --arg flow "$flow" \
  --arg sha "$(git rev-parse HEAD 2> /dev/null || printf '%040d' 0)" \
  '{flowId: $flow, gitCommitSha: $sha, gitBranch: "main", gitAuthor: "Pipeline",
    gitAuthorEmail: "pipeline@example.org"}')" | jq -r .id)
digest=sha256:$(sha256sum "$built" | cut -d' ' -f1)
post "/api/v1/trails/$trail/artifacts" "$(jq -n --arg digest "$digest" \
  '{imageName: "payments", imageTag: "1.0.0", sha256Digest: $digest,
    reportedBy: "pipeline.sh"}')" > /dev/null

for pair in "junit $junit" "sarif $sarif"; do
  kind=${pair%% *} file=${pair#* }
  attestation=$(post "/api/v1/trails/$trail/attestations" "{\"type\": \"$kind\"}" | jq -r .id)
  call POST "/api/v1/trails/$trail/attestations/$attestation/evidence" -F "file=@$file" > /dev/null
done
call GET "/api/v1/trails/$trail/attestations" | jq -r '.[] | "\(.type): \(.status) \(.details)"'

asked=$(jq -n --arg digest "$digest" --arg flow "$flow" '{sha256Digest: $digest, flowId: $flow}')
echo "Before the approval: $(post /api/v1/assert "$asked" | jq -r .message)"
approval=$(post "/api/v1/trails/$trail/approvals" '{"requiredApprovers": ["lead"]}' | jq -r .id)
decided=$(manage post "/api/v1/approvals/$approval/approve" '{"approverIdentity": "lead"}')
echo "Approval: $(jq -r .status <<< "$decided")"
echo "After it: $(post /api/v1/assert "$asked" | jq -r .message)"

verdict=$(post /api/v1/gate/evaluate "$(jq -n --arg digest "$digest" \
  '{artifactSha256: $digest, environment: "production", requestedBy: "pipeline.sh"}')")
echo "Gate: $(jq -r '"\(.decision). \(.reason)"' <<< "$verdict")"
[ "$(jq .allowed <<< "$verdict")" = true ] || exit 1

place=/api/v1/environments/$production
known=$(call GET "$place/snapshots" | jq length)
post "$place/snapshots" "$(jq -n --arg digest "$digest" '{recordedBy: "pipeline.sh", artifacts:
  [{artifactSha256: $digest, artifactName: "payments", artifactTag: "1.0.0"}]}')" > /dev/null
[ "$known" -gt 0 ] || post "$place/baselines" '{"approvedBy": "lead"}' > /dev/null
echo "Drift from the baseline: $(call GET "$place/drift" | jq .hasDrift)"
