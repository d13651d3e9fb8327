"""URLs as users write them: told from paths, freed of what is secret, joined with names.

In: text of the command line. Out: a path, or a URL that may be shown and kept. Logins stay in the
environment, where worker processes find them. Taken apart by hand: `urllib.parse` puts a URL
without a host (`hdfs:///shards`) together as a path, and cuts folders' names at `#`.
"""

import json
import os
import re
import shlex
from pathlib import Path
from urllib.parse import unquote

from roikit.errors import UsageError

CREDENTIALS_HINT = (
    "give credentials as the store's own tools take them (for S3: AWS_PROFILE, ~/.aws, or the "
    "variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), and check what they may do"
)
#: Protocols of the web: files are read there, and a `#` ends a path.
WEB = ("http", "https")

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
#: Holds {"https://host": "user:password"}; secrets, so not on a disk.
_LOGINS = "ROIKIT_URL_LOGINS"
#: Protocols that mean this machine's own disk.
_LOCAL = ("file", "local")
#: What stands before `@` there is a container, and no secret: `abfs://container@account/shards`.
_WITH_CONTAINER = ("abfs", "abfss", "az")
_NOT_IN_LOGIN = re.compile(r"[\s@/?#'\"`\\]")


def is_url(place: Path | str) -> bool:
    """Tell whether a user's `place` is a URL; `file://` is one, too."""
    return isinstance(place, str) and _URL.match(place) is not None


def place(text: str) -> Path | str:
    """Read a folder or file as a user gives it: a path, or a URL, whose login is kept apart.

    Raises:
        UsageError: a URL that cannot be used so; the message repeats no secret.
    """
    if not is_url(text):
        return Path(text)
    protocol, rest = _split(text)
    if protocol not in _LOCAL:
        return keep_login(text)
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise UsageError(
            f"`{without_secrets(text)}`: expected a path of this machine behind `{protocol}://`,"
            " found a host",
            hint=f"write {protocol}:///data/vcr, or the path alone",
        )
    return Path(unquote(f"/{path}"))


def keep_login(url: str) -> str:
    """Return the URL without `user:password@`, which this process and its children remember.

    Raises:
        UsageError: it holds a query, such as a signature: that speaks of one file, not of those
            below a folder. Or it cannot be told where its login ends.
    """
    protocol, rest = _split(url)
    login, host, path = _login_host_path(protocol, rest)
    if _is_unclear(login, host, path):
        raise UsageError(
            f"`{protocol}://...`: cannot tell where the login before the host ends",
            hint="percent-encode it: in a password `@` is %40, `/` %2F, `#` %23, `?` %3F, a blank"
            " %20; an `@` in a folder's name behind host:port is %40, too",
        )
    shown = without_secrets(url)
    if "?" in host + path:
        raise UsageError(
            f"`{shown}`: expected the URL of a folder or file, found a query (`?...`) behind it",
            hint=CREDENTIALS_HINT,
        )
    if protocol in WEB and "#" in host + path:
        raise UsageError(
            f"`{shown.partition('#')[0]}`: expected the URL of a folder or file, found a fragment "
            "(`#...`) in it",
            hint="a `#` in a folder's name is written %23",
        )
    if login:
        logins = json.loads(os.environ.get(_LOGINS, "{}"))
        logins[f"{protocol}://{host}"] = login
        os.environ[_LOGINS] = json.dumps(logins)
    path = path.rstrip("/")
    kept = f"{protocol}://{host}{path}" if host or path else f"{protocol}:///"
    assert is_url(kept), kept
    return kept


def login_of(url: str) -> str | None:
    """Return the `user:password` that was kept for a URL's host, percent-encoded as given."""
    protocol, rest = _split(url)
    logins: dict[str, str] = json.loads(os.environ.get(_LOGINS, "{}"))
    return logins.get(f"{protocol}://{rest.partition('/')[0]}")


def with_login(url: str, login: str) -> str:
    """Put a login back into a URL; the result is for a store's own library alone."""
    protocol, rest = _split(url)
    return f"{protocol}://{login}@{rest}"


def without_secrets(word: str) -> str:
    """Take login and query out of a word that is a URL or ends with one: `--out=https://...`."""
    found = _URL.search(word)
    if found is None:
        return word
    before, (protocol, rest) = word[: found.start()], _split(word[found.start() :])
    login, host, path = _login_host_path(protocol, rest)
    if _is_unclear(login, host, path):
        host, path = rest.rpartition("@")[2], ""
    shown = f"{host}{path}".partition("?")[0]
    return f"{before}{protocol}://{shown}"


def clean_command(command: str) -> str:
    """Take logins and queries out of a command line, word by word."""
    try:
        words = shlex.split(command)
    except ValueError:  # a quote that is not closed: not from a shell
        return " ".join(map(without_secrets, command.split(" ")))
    return shlex.join(map(without_secrets, words))


def join(url: str, name: str) -> str:
    """Return the URL of `name` below the folder `url`, to be shown or used as a folder."""
    if not name:
        return url
    folder = url if url.endswith("://") else url.removesuffix("/")  # no host: keep all slashes
    return f"{folder}/{name}"


def _split(url: str) -> tuple[str, str]:
    protocol, _, rest = url.partition("://")
    return protocol.lower(), rest


def _login_host_path(protocol: str, rest: str) -> tuple[str, str, str]:
    """Take apart what follows `://`: the host with its port, the path with its first slash."""
    host, slash, path = rest.partition("/")
    login = ""
    if protocol not in _WITH_CONTAINER:
        login, _, host = host.rpartition("@")
    return login, host, slash + path


def _is_unclear(login: str, host: str, path: str) -> bool:
    """Tell whether a part of a password may have been taken for host or path."""
    # `bob:12/34@host`: the first half of such a password reads like a port.
    return bool(_NOT_IN_LOGIN.search(login)) or (not login and ":" in host and "@" in path)
