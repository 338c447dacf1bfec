"""Notices that this machine will be taken away: a file that appears, or a cloud's metadata page that says so.

    worker.notice_file    looked at every FILE_S; whatever writes it (a hook, a cron job, a batch system) says "leave"
    worker.notice_url     asked every URL_S with a deadline; off by default, because only its owner knows the cloud

A notice is answered with the ordered stop: checkpoint, give back, flush, leave, within `worker.stop_grace_s`. A page
that can not be reached is no notice. Signals need nothing here: SIGTERM, SIGINT, SIGHUP and SIGUSR1 stop in order.

    aws      …/latest/meta-data/spot/instance-action        404: none; 200: the action and its time (a session token is
                                                            asked for first)
    gcp      …/computeMetadata/v1/instance/preempted        FALSE: none; TRUE
    azure    …/metadata/scheduledevents?api-version=…       an event of the type Preempt or Terminate in `Events`
    others   any http address                               404, 204 or an empty body: none; 200 with a body: its text
"""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

FILE_S = 0.5
"""How often the file is looked for: one stat."""

URL_S = 5.0
"""How often the page is asked: what the clouds advise; the shortest notice is 30 s."""

ANSWER_S = 2.0
"""Patience with the page: it is on this very machine's link, or it is not there."""

BODY_BYTES_MAX = 16 * 1024

CLOUDS: dict[str, str] = {
    "aws": "http://169.254.169.254/latest/meta-data/spot/instance-action",
    "gcp": "http://metadata.google.internal/computeMetadata/v1/instance/preempted",
    "azure": "http://169.254.169.254/metadata/scheduledevents?api-version=2020-07-01",
}
"""Short names of the pages that the clouds document."""

AWS_PATH, GCP_PATH, AZURE_PATH = "/latest/meta-data/spot/", "/computeMetadata/", "/metadata/scheduledevents"
AWS_TOKEN_PATH = "/latest/api/token"  # noqa: S105 - the path of a page, no secret

ENDINGS = ("preempt", "terminate")
"""Types of Azure's events that end the machine."""


async def watch_file(path: Path, leave: Callable[[str], None]) -> None:
    """Until the file is there; then `leave` with the reason."""
    while not path.exists():  # noqa: ASYNC110 - nobody tells us of it; one stat
        await asyncio.sleep(FILE_S)
    leave(f"the notice file {path} is there")


async def watch_url(url: str, leave: Callable[[str], None], say: Callable[[str], None]) -> None:
    """Until the page says that the machine goes away; then `leave` with the reason. An unreachable page is said once.

    url: http address, or a name in CLOUDS.
    """
    page, reached = CLOUDS.get(url, url), True
    while True:
        try:
            status, body = await asyncio.to_thread(fetch, page)
            reached, notice = True, notice_in(page, status, body)
        except OSError as error:
            if reached:
                say(f"the notice page {page} can not be read ({error}) and is asked again every {URL_S:.0f} s")
            reached, notice = False, ""
        if notice:
            return leave(notice)
        await asyncio.sleep(URL_S)


def notice_in(url: str, status: int, body: str) -> str:
    """What the page's answer says: '' for no notice, else the reason to leave."""
    path, text = urlsplit(url).path, body.strip()
    if status != 200 or not text:
        return ""
    if path.startswith(GCP_PATH):
        return "the cloud preempts this machine" if text.upper() == "TRUE" else ""
    if path.startswith(AZURE_PATH):
        return _azure(text)
    return f"the notice page says {' '.join(text.split())[:200]}"


def _azure(text: str) -> str:
    try:
        events = json.loads(text).get("Events", [])
        types = [str(event.get("EventType", "")) for event in events]
    except (ValueError, AttributeError, TypeError):
        return ""
    found = [one for one in types if one.lower() in ENDINGS]
    return f"the cloud announces {found[0]} for this machine" if found else ""


def fetch(url: str) -> tuple[int, str]:
    """(status, body) of the page. OSError when it does not answer. Blocks for at most some ANSWER_S: for a thread."""
    parts = urlsplit(url)
    headers = {}
    if parts.path.startswith(AWS_PATH):
        token_url = f"{parts.scheme}://{parts.netloc}{AWS_TOKEN_PATH}"
        ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        status, token = _ask(token_url, ttl, "PUT")
        headers = {"X-aws-ec2-metadata-token": token.strip()} if status == 200 else {}
    elif parts.path.startswith(GCP_PATH):
        headers = {"Metadata-Flavor": "Google"}
    elif parts.path.startswith(AZURE_PATH):
        headers = {"Metadata": "true"}
    return _ask(url, headers, "GET")


def _ask(url: str, headers: Mapping[str, str], method: str) -> tuple[int, str]:
    """One request, never through a proxy: the page belongs to this machine."""
    request = urllib.request.Request(url, headers=dict(headers), method=method)  # noqa: S310 - http, says the setting
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=ANSWER_S) as answer:
            return answer.status, answer.read(BODY_BYTES_MAX).decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        return error.code, ""
