"""Notices that a machine goes away: what each cloud's page says, asked over loopback as the clouds want to be asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agents import worker_notice
from agents.worker_notice import CLOUDS, fetch, notice_in, watch_file, watch_url
from mesh import settings as mesh_settings
from mesh.errors import SettingsInvalid

AZURE = '{"DocumentIncarnation": 2, "Events": [{"EventId": "1", "EventType": "%s", "EventStatus": "Scheduled"}]}'


@pytest.mark.parametrize(
    ("cloud", "status", "body", "said"),
    [
        ("aws", 404, "", ""),
        ("aws", 200, '{"action": "terminate", "time": "2030-01-01T00:00:00Z"}', '"terminate"'),
        ("aws", 401, "no token", ""),
        ("gcp", 200, "FALSE\n", ""),
        ("gcp", 200, "TRUE\n", "preempts"),
        ("azure", 200, '{"DocumentIncarnation": 1, "Events": []}', ""),
        ("azure", 200, AZURE % "Freeze", ""),
        ("azure", 200, AZURE % "Preempt", "Preempt"),
        ("azure", 200, "<html>", ""),
        ("azure", 200, "[]", ""),
        ("azure", 200, '{"Events": [1]}', ""),
        ("azure", 200, '{"Events": 5}', ""),
    ],
)
def test_what_the_clouds_say(cloud: str, status: int, body: str, said: str) -> None:
    notice = notice_in(CLOUDS[cloud], status, body)
    assert bool(notice) == bool(said)
    assert said in notice


def test_any_page_with_a_text_is_a_notice() -> None:
    assert notice_in("http://127.0.0.1:1/leave", 200, "power goes\noff") == "the notice page says power goes off"
    assert notice_in("http://127.0.0.1:1/leave", 204, "") == ""
    assert notice_in("http://127.0.0.1:1/leave", 200, " \n") == ""


class Page(BaseHTTPRequestHandler):
    """The metadata pages of three clouds, strict about their headers."""

    leaving = False

    def do_PUT(self) -> None:
        right = self.path == "/latest/api/token" and "X-aws-ec2-metadata-token-ttl-seconds" in self.headers
        self._answer(200 if right else 400, "secret")

    def do_GET(self) -> None:
        wanted = {"/latest": ("X-aws-ec2-metadata-token", "secret"), "/compute": ("Metadata-Flavor", "Google"),
                  "/metadata": ("Metadata", "true")}  # fmt: skip
        header, value = next(pair for start, pair in wanted.items() if self.path.startswith(start))
        if self.headers.get(header) != value:
            self._answer(401, "who are you?")
        elif self.path.startswith("/latest"):
            self._answer(200 if self.leaving else 404, '{"action": "stop"}')
        elif self.path.startswith("/compute"):
            self._answer(200, "TRUE" if self.leaving else "FALSE")
        else:
            self._answer(200, AZURE % ("Preempt" if self.leaving else "Reboot"))

    def _answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody listens there: a proxy must not be asked
    monkeypatch.setattr(Page, "leaving", False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("name", sorted(CLOUDS))
def test_each_cloud_is_asked_as_it_wants(name: str, cloud: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = cloud + "/" + CLOUDS[name].split("/", 3)[3]
    assert notice_in(url, *fetch(url)) == ""
    monkeypatch.setattr(Page, "leaving", True)
    assert notice_in(url, *fetch(url)) != ""


def test_an_unreachable_page_is_no_notice_and_is_said_once(cloud: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_notice, "URL_S", 0.01)
    tries = 0
    said: list[str] = []
    left: list[str] = []

    def failing(url: str) -> tuple[int, str]:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise OSError("no route")
        return 200, "TRUE"

    monkeypatch.setattr(worker_notice, "fetch", failing)
    asyncio.run(watch_url("gcp", left.append, said.append))
    assert tries == 4
    assert len(said) == 1
    assert "no route" in said[0]
    assert left == ["the cloud preempts this machine"]


def test_a_file_that_appears_is_a_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_notice, "FILE_S", 0.01)
    path = tmp_path / "leave"
    left: list[str] = []

    async def case() -> None:
        watching = asyncio.create_task(watch_file(path, left.append))
        await asyncio.sleep(0.03)
        assert left == []
        path.touch()
        async with asyncio.timeout(5):
            await watching

    asyncio.run(case())
    assert left == [f"the notice file {path} is there"]


def test_the_settings_know_the_clouds(tmp_path: Path) -> None:
    assert set(mesh_settings.CLOUDS) == set(CLOUDS)
    for value in (*CLOUDS, "http://127.0.0.1:1/x"):
        assert mesh_settings.load({"worker.notice_url": value}, {}, tmp_path).worker.notice_url == value
    with pytest.raises(SettingsInvalid, match=r"worker\.notice_url must be aws, gcp, azure"):
        mesh_settings.load({"worker.notice_url": "ftp://x"}, {}, tmp_path)
