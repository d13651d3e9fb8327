"""Stores for tests: buckets of an S3 server in this process, of memory, and a web server."""

import base64
import contextlib
import http
import http.server
import io
import re
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

SECRET = "hunter2"


class Bucket:
    """A bucket of the test's server, as its owner sees it."""

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.url = url
        self.fs, self.path = url_to_fs(url)

    def put_tree(self, folder: Path, name: str) -> str:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            self.fs.pipe_file(
                f"{self.path}/{name}/{path.relative_to(folder).as_posix()}", path.read_bytes()
            )
        return f"{self.url}/{name}"

    def objects(self, name: str) -> dict[str, bytes]:
        self.fs.invalidate_cache()
        base = f"{self.path}/{name}/"
        return {path.removeprefix(base): self.fs.cat_file(path) for path in self.fs.find(base[:-1])}

    def stamps(self, name: str) -> dict[str, Any]:
        self.fs.invalidate_cache()
        found = self.fs.find(f"{self.path}/{name}", detail=True)
        return {path: (info["LastModified"], info["ETag"]) for path, info in found.items()}


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    moto = pytest.importorskip("moto.server", reason="needs moto[server]")
    pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch, request: Any) -> Bucket:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    name = f"test-{abs(hash(request.node.nodeid)):x}"
    bucket = Bucket(f"s3://{name}")
    bucket.fs.mkdir(name)
    return bucket


@pytest.fixture
def memory() -> Iterator[Bucket]:
    bucket = Bucket("memory://bucket")
    bucket.fs.makedirs("/bucket", exist_ok=True)
    yield bucket
    bucket.fs.rm("/bucket", recursive=True)


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    login = ""  #: base64 of `user:password`; empty lets everybody in
    reads_ranges = True  #: false: sends whole files, as Python's own server does
    pause_s = 0.0  #: before each answer to a range

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def send_head(self) -> Any:
        if self.login and self.headers.get("Authorization") != f"Basic {self.login}":
            self.send_error(http.HTTPStatus.UNAUTHORIZED)
            return None
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if not asked or not self.reads_ranges or not path.is_file():
            return super().send_head()
        time.sleep(self.pause_s)
        start, end = int(asked[1]), int(asked[2]) + 1
        whole = path.read_bytes()
        if start >= len(whole):
            self.send_error(http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            return None
        self.send_response(http.HTTPStatus.PARTIAL_CONTENT)
        self.send_header("Content-Length", str(len(whole[start:end])))
        self.end_headers()
        return io.BytesIO(whole[start:end])


@contextlib.contextmanager
def web_server(folder: Path, login: str = "", **settings: Any) -> Iterator[str]:
    pytest.importorskip("aiohttp")
    name = base64.b64encode(login.encode()).decode()
    kind = type("Handler", (_QuietHandler,), {"login": name, **settings})
    handler = partial(kind, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
