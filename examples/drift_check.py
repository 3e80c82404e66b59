"""Compare the assets of a maintenance system with the register, by their keys.

    export NOVANTRA_URL=http://127.0.0.1:8080 NOVANTRA_CLIENT_ID=svc_… NOVANTRA_CLIENT_SECRET=nvs_…
    python examples/drift_check.py cmms.csv [--custody]

The file is an export of the maintenance system (CMMS), in any form that `novantra-lite import`
reads, with the register's names: `assetKey`, and others to compare, such as `displayName` or
`status`. `--custody` also names every active asset that nobody has in custody. Exit status 0: both
agree; 1: they drifted apart, a line for each difference; 2: they could not be compared.
The service account needs the scope assets:read.
"""

import json
import os
import sys
import time
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from novantra_lite import Asset, Problem, RowFault, read_rows


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
                    raise Stop(f"{path}: {message_of(refusal)}") from None
                time.sleep(int(refusal.headers.get("Retry-After", 1)))


def message_of(refusal):
    """What the register says about a request that it refused."""
    try:
        return json.load(refusal)["message"]
    except (ValueError, KeyError, TypeError):
        return f"HTTP status {refusal.code}."


def get_token():
    """A bearer token of the service account; good for 15 minutes."""
    credentials = {
        "grant_type": "client_credentials",
        "client_id": os.environ["NOVANTRA_CLIENT_ID"],
        "client_secret": os.environ["NOVANTRA_CLIENT_SECRET"],
    }
    return call("/api/v1/auth/token", credentials)["access_token"]


def records(token, path, name, **query):
    """Every record of a list, page by page."""
    query = {"limit": 200} | query
    while True:
        page = call(f"{path}?{urlencode(query)}", token=token)
        yield from page[name]
        query["cursor"] = page["pagination"].get("nextCursor")
        if not query["cursor"]:
            return


def canonical(name, value):
    """A value of the file as the register holds it, so that 2013-01-05 is its first moment."""
    field = Asset.members().get(name)
    if field is None:
        raise Stop(f"Assets of the register have no {name}.")
    try:
        return field.read(field.parse(value) if isinstance(value, str) else value)
    except ValueError:
        return value


def read_assets(path):
    """The rows of the file by asset key, and a line for each key that comes twice."""
    rows, lines, twice = {}, {}, []
    for line, row in read_rows(Path(path)):
        if isinstance(row, RowFault):
            raise Stop(f"{path}, line {line}: {row.message}")
        row = {name: canonical(name, value) for name, value in row.items() if value is not None}
        key = row.get("assetKey")
        if not isinstance(key, str):
            raise Stop(f"{path}, line {line}: a row needs an assetKey.")
        if key in rows:
            twice.append(f"twice      {key}: in lines {lines[key]} and {line}")
        else:
            rows[key], lines[key] = row, line
    if not rows:
        raise Stop(f"{path} has no rows.")
    return rows, twice


def differences(rows, assets):
    """One line for each asset that is missing, extra or different."""
    missing, names = dict(rows), dict.fromkeys(name for row in rows.values() for name in row)
    for asset in assets:
        row = missing.pop(asset["assetKey"], None)
        if row is None:
            yield f"extra      {asset['assetKey']}: only in the register"
            continue
        for name in names:
            expected = row.get(name)
            if (asset[name] or "") != (expected or ""):
                yield f"different  {asset['assetKey']}: {name} is {asset[name]}, not {expected}"
    for key in missing:
        yield f"missing    {key}: not in the register"


def without_custodian(assets, assignments):
    """One line for each active asset without an active custody assignment."""
    held = {assignment["assetId"] for assignment in assignments}
    for asset in assets:
        if asset["status"] == "active" and asset["id"] not in held:
            yield f"custody    {asset['assetKey']}: active, and nobody has it in custody"


def main(arguments):
    files = [argument for argument in arguments if argument != "--custody"]
    if len(files) != 1 or files[0].startswith("--"):
        raise Stop("Expected: drift_check.py FILE [--custody]")
    rows, found = read_assets(files[0])
    token = get_token()
    assets = list(records(token, "/api/v1/assets", "assets"))
    found += differences(rows, assets)
    if "--custody" in arguments:
        path = "/api/v1/assets/custody-assignments"
        assignments = records(token, path, "custodyAssignments", status="active")
        found += without_custodian(assets, assignments)
    for line in found:
        print(line)
    print(f"{len(rows)} rows compared, {len(found)} differences.")
    return 1 if found else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyError as error:
        print(f"Not compared: {error.args[0]} is not set, or not answered.", file=sys.stderr)
    except (Stop, Problem, OSError, ValueError, TypeError, HTTPException) as error:
        print(f"Not compared: {error}", file=sys.stderr)
    sys.exit(2)
