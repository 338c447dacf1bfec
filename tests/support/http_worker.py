"""A worker that speaks only HTTP: the standard library and nothing of this project, as any language could have it.

    python http_worker.py URL TOKEN [--tear]     works until its claims bring `--idle-s` seconds of nothing

It runs two kinds: `noop`, in its plain form, and `nearest-mean`, which learns a table of numbers by its own code: the
mean of every label, and each row of the table gets the label whose mean is nearest. With --tear the connection of each
upload is cut once in the middle of the body, as a network does, and the upload gone on with.
"""

from __future__ import annotations

import argparse
import csv
import http.client
import io
import json
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

KINDS = {"noop": 1, "nearest-mean": 1}


class Refused(Exception):
    """The gateway answered with a problem."""

    def __init__(self, status: int, problem: dict[str, Any], headers: dict[str, str]) -> None:
        super().__init__(f"{status}: {problem.get('detail')}")
        self.status, self.problem, self.headers = status, problem, headers


class Gateway:
    """Requests with one token."""

    def __init__(self, url: str, token: str) -> None:
        self.url, self.token = url.rstrip("/"), token

    def ask(
        self, method: str, path: str, body: bytes | dict[str, Any] | None = None, **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        """(status, body, headers) of an answer; Refused for a problem."""
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        wanted = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        wanted |= {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, data, wanted, method=method)  # http alone
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            text = error.read()
            raise Refused(error.code, json.loads(text) if text else {}, dict(error.headers)) from None

    def post(self, path: str, **body: Any) -> Any:
        """What came back."""
        return json.loads(self.ask("POST", f"/api/v1/network/{path}", body)[1])

    # -- artifacts ----------------------------------------------------------------------------------------------------

    def upload(self, media: str, name: str, data: bytes, *, tear: bool = False, **facts: Any) -> str:
        """The digest of an artifact with one file; goes on after a cut."""
        started = {"media": media, "files": [{"path": name, "size_bytes": len(data)}], "facts": facts}
        at = self.ask("POST", "/api/v1/uploads", started)[2]["Location"]
        if tear:
            self._torn(at, data)
        for _ in range(5):
            offset = int(self.ask("HEAD", at)[2]["Upload-Offset"])
            if offset == len(data):
                break
            try:
                self.ask(
                    "PATCH", at, data[offset:], Upload_Offset=str(offset), Content_Type="application/partial-upload"
                )
            except Refused as refused:
                if refused.status != 409:  # else bytes from before the cut have arrived meanwhile
                    raise
        return str(json.loads(self.ask("POST", f"{at}/complete")[1])["digest"])

    def _torn(self, at: str, data: bytes) -> None:
        """Announce the whole body, send a part of it, and hang up."""
        line = http.client.HTTPConnection(urllib.parse.urlsplit(self.url).netloc, timeout=60)
        line.putrequest("PATCH", at)
        for name, value in {
            "Authorization": f"Bearer {self.token}",
            "Content-Type": "application/partial-upload",
            "Content-Length": str(len(data)),
            "Upload-Offset": "0",
        }.items():
            line.putheader(name, value)
        line.endheaders(data[: len(data) // 2])
        line.close()

    def download(self, digest: str, part_bytes: int = 1 << 16) -> bytes:
        """The one file of an artifact, in ranges."""
        (entry,) = json.loads(self.ask("GET", f"/api/v1/artifacts/{digest}")[1])["files"]
        at, found = f"/api/v1/artifacts/{digest}/files/{urllib.parse.quote(entry['path'])}", b""
        while len(found) < entry["size_bytes"]:
            wanted = f"bytes={len(found)}-{len(found) + part_bytes - 1}"
            status, part, _ = self.ask("GET", at, Range=wanted, If_Range=f'"{digest}"')
            assert status == 206, status
            found += part
        return found


class Hands:
    """A worker at its work."""

    def __init__(self, gateway: Gateway, *, tear: bool = False) -> None:
        self.gateway, self._tear = gateway, tear
        self._held: dict[tuple[str, str], int] = {}
        """Leases in hand, and the step of each."""
        self._over = threading.Event()

    def run(self, idle_s: float) -> None:
        """Work until no lease came for so long."""
        seat = self.gateway.post("workers/register", kinds=KINDS)
        beating = threading.Thread(target=self._beat, args=(seat["heartbeat_s"],), daemon=True)
        beating.start()
        try:
            while leases := self.gateway.post("training/claim", wait_s=min(30.0, idle_s))["leases"]:
                for lease in leases:
                    self._do(lease)
        finally:
            self._over.set()
            beating.join()
        self.gateway.post("workers/heartbeat", held=[], leaving=True)

    def _beat(self, every_s: float) -> None:
        while not self._over.wait(every_s):
            held = [{"task": task, "epoch": epoch, "step": step} for (task, epoch), step in dict(self._held).items()]
            self.gateway.post("workers/heartbeat", held=held)

    def _do(self, lease: dict[str, Any]) -> None:
        name = {"task": lease["task"]["id"], "epoch": lease["epoch"]}
        self._held[(name["task"], name["epoch"])] = 0
        try:
            ending = {"outcome": self._work(lease, name)}
        except (ValueError, KeyError) as error:
            ending = {"failure": {"failure": "reject", "reason": f"{type(error).__name__}: {error}"}}
        del self._held[(name["task"], name["epoch"])]
        while True:
            status, _, _ = self.gateway.ask("POST", "/api/v1/network/training/complete", {**name, **ending})
            if status == 200:  # else it is written down, and the ledger has not spoken yet
                return
            time.sleep(0.5)

    def _work(self, lease: dict[str, Any], name: dict[str, Any]) -> dict[str, Any]:
        began = time.monotonic()
        settings = lease["task"]["settings"]
        if lease["task"]["executor"] == "noop":
            time.sleep(min(5.0, float(settings.get("seconds", 0.0))))
            found: dict[str, Any] = {"kpis": {"attempts": float(lease["attempt"])}}
        else:
            table = self.gateway.download(lease["task"]["inputs"]["table"])
            model, accuracy = learned(table.decode(), settings["label"])
            self.gateway.post("training/progress", **name, step=1, done=0.5, metrics={"accuracy": accuracy})
            data = json.dumps(model, sort_keys=True).encode().ljust(int(settings.get("model_bytes", 0)))
            digest = self.gateway.upload("document", "model.json", data, tear=self._tear)
            found = {"kpis": {"accuracy": accuracy}, "outputs": {"model": digest}}
        return {**found, "seconds": round(time.monotonic() - began, 3)}


def learned(table: str, label: str) -> tuple[dict[str, list[float]], float]:
    """The mean of each label's rows, and the share of rows whose nearest mean is their own label's."""
    rows = [(row.pop(label), [float(value) for value in row.values()]) for row in csv.DictReader(io.StringIO(table))]
    members: dict[str, list[list[float]]] = {}
    for name, values in rows:
        members.setdefault(name, []).append(values)
    means = {
        name: [sum(column) / len(column) for column in zip(*values, strict=True)] for name, values in members.items()
    }

    def nearest(values: list[float]) -> str:
        return min(means, key=lambda name: sum((a - b) ** 2 for a, b in zip(means[name], values, strict=True)))

    return means, sum(nearest(values) == name for name, values in rows) / len(rows)


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("token")
    parser.add_argument("--tear", action="store_true")
    parser.add_argument("--idle-s", type=float, default=5.0)
    given = parser.parse_args()
    Hands(Gateway(given.url, given.token), tear=given.tear).run(given.idle_s)
    return 0


if __name__ == "__main__":
    sys.exit(main())
