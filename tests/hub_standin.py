"""A stand-in for the Hugging Face hub on the loopback interface: answers who downloads a file as the hub does."""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef" * 2 + "01234567"
XET_CHUNK = 65536


@dataclass
class Published:
    """A file, and what goes wrong with it.

    Attributes:
        content: what was published; its hash is announced.
        storage: how the hub keeps it. `git`: a small file, sent by the hub itself, with git's own id as ETag.
            `lfs`: a redirect to a storage host, where ranges can be asked for. `xet`: the same, and word of chunked
            storage, which clients prefer (https://huggingface.co/docs/xet).
        sent: what the storage sends, if it is something else.
        breaks_at: the byte at which the line breaks.
        breaks: how often it will still do so.
        seconds: how long the storage takes to send it.
        lost: the storage does not find it.
        status: what the hub itself answers, if it is an error.
    """

    content: bytes
    storage: str = "lfs"
    sent: bytes | None = None
    breaks_at: int = 0
    breaks: float = 0
    seconds: float = 0.0
    lost: bool = False
    status: int = 200

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def etag(self) -> str:
        if self.storage != "git":
            return self.sha256
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    def xorb(self) -> bytes:
        """The content as Xet keeps it: chunks, each behind a header of version, size, compression (none) and size."""
        content = self.content if self.sent is None else self.sent
        chunks = [content[start : start + XET_CHUNK] for start in range(0, len(content), XET_CHUNK)]
        sizes = [len(chunk).to_bytes(3, "little") for chunk in chunks]
        return b"".join(b"\0" + size + b"\0" + size + chunk for size, chunk in zip(sizes, chunks, strict=True))


class HubStandin:
    """Serves what is published until closed.

    Attributes:
        url: for HF_ENDPOINT.
        files: the published files by `owner/repository/name`, or by name alone for those outside the hub.
        requests: each request as a line: method, path, and the range if one was asked for.
        with_token: those of them that held the user's secret.
    """

    def __init__(self) -> None:
        self.files: dict[str, Published] = {}
        self.requests: list[str] = []
        self.with_token: list[str] = []
        hub = self

        class Answer(_Answer):
            standin = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{port}"
        # Another host, as the hub's storage is: the client then leaves the redirect to itself.
        self.storage_url = f"http://localhost:{port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def publish(self, path: str, content: bytes, **how: object) -> Published:
        self.files[path] = Published(content, **how)  # type: ignore[arg-type]
        return self.files[path]

    def asked(self, part: str) -> list[str]:
        """The requests whose path holds a part."""
        return [request for request in self.requests if part in request]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Answer(BaseHTTPRequestHandler):
    standin: HubStandin
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        request = f"{self.command} {self.path} {self.headers.get('Range', '')}".rstrip()
        self.standin.requests.append(request)
        if "Authorization" in self.headers:
            self.standin.with_token.append(request)
        files = self.standin.files
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/main/(.+)", self.path):
            self._hub(found[1], files.get(f"{found[1]}/{found[2]}"))
        elif found := re.fullmatch(r"/xet-token/(.+)", self.path):
            cas = f"{self.standin.storage_url}/xet"
            token = {"X-Xet-Cas-Url": cas, "X-Xet-Access-Token": "token", "X-Xet-Token-Expiration": time.time() + 9999}
            self._send(200, token)
        elif found := re.fullmatch(r"/xet/v1/reconstructions/(.+)", self.path):
            self._xet_plan(next(file for file in files.values() if file.sha256 == found[1]))
        elif found := re.fullmatch(r"/xet/data/(.+)", self.path):
            self._storage(next(file for file in files.values() if file.sha256 == found[1]), "xorb")
        elif found := re.fullmatch(r"/storage/(.+)", self.path):
            self._storage(files[found[1]], found[1].rpartition("/")[2])
        elif self.path[1:] in files:
            # Outside the hub: a redirect to a storage host, as for a release on GitHub.
            self._send(302, {"Location": f"{self.standin.storage_url}/storage{self.path}"})
        else:
            self._send(404)

    do_HEAD = do_GET  # noqa: N815

    def _hub(self, repository: str, file: Published | None) -> None:
        if file is not None and file.status != 200:
            self._send(file.status)
        elif file is None and any(path.startswith(f"{repository}/") for path in self.standin.files):
            self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        elif file is None:
            self._send(404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif file.storage == "git":
            self._send(200, {"X-Repo-Commit": COMMIT, "ETag": f'"{file.etag}"'}, file.content)
        else:
            path = self.path.replace("/resolve/main", "")
            headers: dict[str, object] = {
                "X-Repo-Commit": COMMIT,
                "X-Linked-Etag": f'"{file.etag}"',
                "X-Linked-Size": len(file.content),
                "Location": f"{self.standin.storage_url}/storage{path}",
            }
            if file.storage == "xet":
                headers["X-Xet-Hash"] = file.sha256
                headers["X-Xet-Refresh-Route"] = f"{self.standin.url}/xet-token/{repository}"
            self._send(302, headers)

    def _xet_plan(self, file: Published) -> None:
        """Which chunks make up the file, and where they are."""
        if file.lost:
            self._send(404)
            return
        size, chunks = len(file.content), {"start": 0, "end": math.ceil(len(file.content) / XET_CHUNK)}
        term = {"hash": file.sha256, "unpacked_length": size, "range": chunks}
        url = f"{self.standin.storage_url}/xet/data/{file.sha256}"
        place = {"range": chunks, "url": url, "url_range": {"start": 0, "end": len(file.xorb()) - 1}}
        plan = {"offset_into_first_range": 0, "terms": [term], "fetch_info": {file.sha256: [place]}}
        self._send(200, {"Content-Type": "application/json"}, json.dumps(plan).encode())

    def _storage(self, file: Published, name: str) -> None:
        if file.lost:
            self._send(404)
            return
        content = file.content if file.sent is None else file.sent
        if name == "xorb":
            content = file.xorb()
        headers: dict[str, object] = {
            "Accept-Ranges": "bytes",
            "Content-Disposition": f"inline; filename*=UTF-8''{name}; filename=\"{name}\";",
        }
        status, start, stop = 200, 0, len(content)
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            status, start = 206, int(wanted[1])
            stop = min(stop, int(wanted[2]) + 1) if wanted[2] else stop
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        if self.command == "GET" and file.breaks > 0:
            file.breaks -= 1
            self._send(status, headers, content[start:stop], only=max(0, file.breaks_at - start))
        else:
            self._send(status, headers, content[start:stop], seconds=file.seconds)

    def _send(
        self,
        status: int,
        headers: dict[str, object] | None = None,
        body: bytes = b"",
        *,
        only: int | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Answers; `only` so many bytes of the body, after which the line breaks."""
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": len(body)}.items():
            self.send_header(name, str(int(value) if isinstance(value, float) else value))
        self.end_headers()
        if self.command == "HEAD":
            return
        part = max(1, len(body) // 10)
        sent = body if only is None else body[:only]
        for start in range(0, len(sent), part):
            self.wfile.write(sent[start : start + part])
            time.sleep(seconds / 10)
        if only is not None:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""
