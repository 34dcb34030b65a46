"""Which repository on which server a git remote is, and where that server's API is. Pure."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

# `user@host:path`; a host of one letter is a Windows drive.
_SCP = re.compile(r"(?:[^@/\\:]+@)?(?P<host>[A-Za-z0-9][A-Za-z0-9.-]+):(?P<path>[^\\]+)")
_NAME = re.compile(r"/*(?P<owner>[A-Za-z0-9._-]+)/(?P<name>[A-Za-z0-9._-]+?)(?:\.git)?/*")


def parse_origin(url: str) -> tuple[str, str] | None:
    """(`https://host`, `owner/name`) from the URL of a git remote (https, http, ssh, scp-like), else None.

    A name, password or token inside the URL is dropped.
    """
    url = url.strip()
    if "://" in url:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            return None
        path = parts.path
        if parts.scheme not in ("https", "http", "ssh", "git+ssh", "git"):
            return None
        web = parts.scheme in ("https", "http")
        server = f"{parts.scheme if web else 'https'}://{host}{f':{port}' if web and port else ''}"
    else:
        scp = _SCP.fullmatch(url)
        if scp is None:
            return None
        host, path = scp["host"], scp["path"]
        server = f"https://{host.lower()}"
    name = _NAME.fullmatch(path)
    if not host or name is None:
        return None
    # GitHub's ssh door for networks that close port 22; it has no pages.
    server = "https://github.com" if host.lower() == "ssh.github.com" else server
    return server, f"{name['owner']}/{name['name']}"


def api_url_of(server_url: str) -> str:
    """Where a server's REST API is: github.com, data residency (`*.ghe.com`), or an Enterprise server."""
    parts = urlsplit(server_url)
    host = parts.hostname or ""
    if host == "github.com" or host.endswith(".ghe.com"):
        return f"https://api.{host}"
    return f"{parts.scheme}://{parts.netloc}/api/v3"
