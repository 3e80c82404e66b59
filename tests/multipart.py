"""Multipart forms, written out byte by byte as clients send them."""

BOUNDARY = "----boundary7MA4YWxk"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def part(content, disposition='form-data; name="file"; filename="report.xml"', kind="text/xml"):
    """One part of a form; `kind` may be empty for a part that names no type."""
    result = f"Content-Type: {kind}\r\n" if kind else ""
    head = f"Content-Disposition: {disposition}\r\n{result}\r\n".encode()
    return f"--{BOUNDARY}\r\n".encode() + head + content + b"\r\n"


def form(*parts):
    """A whole form."""
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def upload(client, path, content, *, name="report.xml", kind="text/xml", **headers):
    """Upload a file as the part named `file`."""
    body = form(part(content, f'form-data; name="file"; filename="{name}"', kind))
    headers = {header.replace("_", "-"): value for header, value in headers.items()}
    return client.request("POST", path, body=body, headers=FORM | headers)
