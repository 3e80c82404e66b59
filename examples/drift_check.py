"""Compare the assets of a maintenance system with the register, by their keys.

    export NOVANTRA_URL=http://127.0.0.1:8080 NOVANTRA_CLIENT_ID=svc_… NOVANTRA_CLIENT_SECRET=nvs_…
    python examples/drift_check.py cmms.csv

The CSV file is an export of the maintenance system (CMMS) with the register's names as its header:
`assetKey`, and others to compare, such as `displayName`, `assetKind` or `status`. Exit status 0:
both agree; 1: they drifted apart, a line for each difference; 2: they could not be compared.
The service account needs the scope assets:read.
"""

import csv
import json
import os
import sys
import time
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen


class Stop(Exception):
    """Why both cannot be compared."""


def call(path, body=None, token=None):
    """Call the API, and wait as long as it says when it is busy."""
    request = Request(os.environ["NOVANTRA_URL"] + path)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    if body:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    while True:
        try:
            with urlopen(request, timeout=30) as response:
                return json.load(response)
        except HTTPError as refusal:
            with refusal:
                if refusal.code not in (429, 503):
                    raise Stop(f"{path}: {json.load(refusal)['message']}") from None
                time.sleep(int(refusal.headers.get("Retry-After", 1)))


def get_token():
    """A bearer token of the service account; good for 15 minutes."""
    credentials = {
        "grant_type": "client_credentials",
        "client_id": os.environ["NOVANTRA_CLIENT_ID"],
        "client_secret": os.environ["NOVANTRA_CLIENT_SECRET"],
    }
    return call("/api/v1/auth/token", credentials)["access_token"]


def registered_assets(token):
    """Every asset of the register, page by page."""
    query = {"limit": 200}
    while True:
        page = call(f"/api/v1/assets?{urlencode(query)}", token=token)
        yield from page["assets"]
        query["cursor"] = page["pagination"].get("nextCursor")
        if not query["cursor"]:
            return


def read_rows(path):
    """The rows of the CSV file by asset key."""
    with open(path, newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    if not rows or "assetKey" not in rows[0]:
        raise Stop(f"{path} needs a header with assetKey, and rows.")
    return {row["assetKey"]: row for row in rows}


def differences(rows, assets):
    """One line for each asset that is missing, extra or different."""
    missing = dict(rows)
    for asset in assets:
        row = missing.pop(asset["assetKey"], None)
        if row is None:
            yield f"extra      {asset['assetKey']}: only in the register"
            continue
        for name, expected in row.items():
            if name not in asset:
                raise Stop(f"Assets of the register have no {name}.")
            if (asset[name] or "") != (expected or ""):
                yield f"different  {asset['assetKey']}: {name} is {asset[name]}, not {expected}"
    for key in missing:
        yield f"missing    {key}: not in the register"


def main(path):
    rows = read_rows(path)
    count = 0
    for line in differences(rows, registered_assets(get_token())):
        print(line)
        count += 1
    print(f"{len(rows)} rows compared, {count} differences.")
    return 1 if count else 0


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except (Stop, OSError, KeyError, TypeError) as error:
        print(f"Not compared: {error}", file=sys.stderr)
        sys.exit(2)
