"""Is every agent of this container well? Asks /health of each that has left a note in the home folder; 1 if not."""

import glob
import http.client
import json
import os
import sys
import urllib.parse

TIMEOUT_S = 3.0


def unwell(note: dict) -> str:
    """Why this agent is not well; '' when it is, or when it has ended without removing its note."""
    try:
        os.kill(note["pid"], 0)
    except ProcessLookupError:
        return ""
    try:
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(note["url"]).netloc, timeout=TIMEOUT_S)
        connection.request("GET", "/health")
        status = connection.getresponse().status
        return "" if status == http.HTTPStatus.OK else f"{note['role']}: /health says {status}"
    except (OSError, http.client.HTTPException) as error:
        return f"{note['role']}: {error}"


def main() -> int:
    """0 when at least one agent runs and none is unwell."""
    folder = os.path.join(os.environ.get("RAMIFY_HOME", "/var/lib/ramify"), "run")
    notes = []
    for path in sorted(glob.glob(os.path.join(folder, "*.json"))):
        with open(path, encoding="utf-8") as file:
            note = json.load(file)
        if "url" in note:  # the gateway leaves a second note, about its API
            notes.append(note)
    if not notes:
        print(f"no agent has left a note in {folder}")
        return 1
    found = [why for why in map(unwell, notes) if why]
    print("; ".join(found) or f"{len(notes)} agents are well")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
