"""A real S3 server for tests: moto's, as a process on a free loopback port, with one bucket; killed at will."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import time

from mesh import platform
from mesh.setting_tree import ArtifactSettings

START_S = 30.0
BUCKET = "objects"


class S3Server:
    """One server. What it holds is lost when it stops."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> S3Server:
        """Start, wait until it answers, and make the bucket."""
        self._process = platform.spawn_group(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            die_with_parent=True,
        )
        give_up_at = time.monotonic() + START_S
        while not self._asked("PUT", f"/{BUCKET}"):
            assert time.monotonic() < give_up_at, "moto's server did not start"
            time.sleep(0.05)
        return self

    def stop(self) -> None:
        """Kill it; what is asked of it from now on gets no answer."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def chosen(self, *, bucket: str = BUCKET, key: str = "key") -> ArtifactSettings:
        """The settings with which it is reached."""
        return ArtifactSettings(
            backend="s3",
            s3_bucket=bucket,
            s3_prefix="some/where",
            s3_endpoint=f"http://127.0.0.1:{self.port}",
            s3_region="us-east-1",
            s3_access_key_id=key,
            s3_secret_access_key="secret",
        )

    def _asked(self, method: str, path: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request(method, path)
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()
