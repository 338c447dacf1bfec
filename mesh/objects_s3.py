"""Objects in an S3-compatible store: Amazon's, MinIO, Ceph, R2 and others.

    <bucket>/<prefix>/<mesh>/c/<digest>            whole objects
    <bucket>/<prefix>/<mesh>/d/<digest>.<base>     deltas
    <bucket>/<prefix>/<mesh>/m/<digest>            manifests
    <bucket>/<prefix>/<mesh>/identity              32 random digits, written once: the same for all who reach it

The client is obstore, the Rust crate object_store in one wheel without dependencies: it speaks to the store in threads
of its own, so that a transfer costs the event loop one callback. It is imported here only, and this file only when S3
was chosen. Put-if-absent is a conditional write (`If-None-Match: *`); where a store knows none, a question and a write
take its place, by which two writers of one object replace each other's equal bytes.

Credentials come from the settings, else from the AWS_… variables of the environment, else from the machine's role.

Not covered: profiles in ~/.aws; two who make an identity at the same moment in a store without conditional writes (who
reads it too early is refused once); and a collector that removes within one second of a writer who writes over: times
of S3 are whole seconds, and in doubt an object stays.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import secrets
from collections.abc import AsyncIterator, Collection, Iterator
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from mesh import limits
from mesh.errors import BusUnavailable, DiskFull, EnvironmentUnfit
from mesh.messages import object_names
from mesh.messages.object_names import DELTA, MANIFEST, WHOLE, ObjectName
from mesh.windows import in_window

if TYPE_CHECKING:
    from mesh.setting_tree import ArtifactSettings

TIMEOUT_S = 30.0
"""Longest wait for one object; a slow uplink needs 16 s for 512 KiB at 256 kbit/s."""

RETRIES, RETRY_S = 2, 10.0
"""Within one call, and for how long: the caller is patient too, and tells what it waits for."""

PAGE = 1_000
"""Names in one answer of a list: what S3 gives at most."""

LIST_FROM = 200
"""Above so many names all names of their kinds are listed, as long as there are not more pages than rounds of parallel
questions: a page takes about as long as a question."""

IDENTITY, IDENTITY_CHARS = "identity", 32
"""Key and length of what tells one bucket from another."""

NOT_FOUND = (FileNotFoundError, NotFoundError)

_FULL = ("QuotaExceeded", "StorageFull", "InsufficientStorage", "507 ", "EntityTooLarge")
_NO_CONDITIONS = ("NotImplemented", "501 ")


class S3Backend:
    """`mesh.objects.ObjectBackend` in a bucket."""

    def __init__(self, chosen: ArtifactSettings, prefix: str) -> None:
        """prefix: the mesh's, so that several may share a bucket."""
        self._chosen, self._conditional = chosen, True
        self._place = "/".join(part for part in (chosen.s3_prefix.strip("/"), prefix) if part)
        self._store = S3Store(chosen.s3_bucket, prefix=self._place, **_options(chosen))
        self._size_bytes = -1
        """Of all objects, when they were last listed; -1: not yet."""

    @property
    def where(self) -> str:
        """The bucket and the endpoint."""
        return f"the bucket {self._chosen.s3_bucket} at {self._chosen.s3_endpoint or 'Amazon S3'}"

    async def identity(self) -> str:
        """Tells this bucket from another one of the same name elsewhere; made by the first who asks."""
        found = await self._read(IDENTITY)
        if found is None:
            await self._write(IDENTITY, secrets.token_hex(16).encode(), over=False)
            found = await self._read(IDENTITY)
        return (found or b"").decode("ascii", "replace")[:IDENTITY_CHARS]

    async def put(self, name: ObjectName, data: bytes, *, over: bool = False) -> bool:
        """Store if absent, or over what is there."""
        return await self._write(_key(name), data, over=over)

    async def _write(self, key: str, data: bytes, *, over: bool) -> bool:
        if not over and not self._conditional and await self._written(key) is not None:
            return False
        with self._in_our_words():
            try:
                mode: Any = "overwrite" if over or not self._conditional else "create"
                await obstore.put_async(self._store, key, data, mode=mode, use_multipart=False)
            except AlreadyExistsError:
                return False
            except (BaseError, NotImplementedError) as error:
                if over or not self._conditional or not _knows_no_conditions(error):
                    raise
                self._conditional = False
            else:
                return True
        return await self._write(key, data, over=over)

    async def get(self, name: ObjectName) -> bytes | None:
        """The stored bytes, or None."""
        return await self._read(_key(name))

    async def _read(self, key: str) -> bytes | None:
        with self._in_our_words():
            try:
                found = await obstore.get_async(self._store, key)
                return bytes(await found.bytes_async())
            except NOT_FOUND as error:
                if "NoSuchBucket" in str(error):
                    raise self._no_bucket() from None
                return None

    async def has(self, name: ObjectName) -> bool:
        """Is it there?"""
        return await self._written(_key(name)) is not None

    async def absent(self, names: Collection[ObjectName]) -> set[ObjectName]:
        """Those that are not there."""
        absent = set(names)
        if len(names) > LIST_FROM and await self._strike_out(absent):
            return absent

        async def one(name: ObjectName) -> None:
            if await self.has(name):
                absent.discard(name)

        await in_window(sorted(absent), one)
        return absent

    async def _strike_out(self, absent: set[ObjectName]) -> bool:
        """Take out what is listed; False when that is more than questions for them would cost."""
        listed, most = 0, PAGE * len(absent) // limits.CHUNKS_IN_FLIGHT
        for kind in sorted({name.kind for name in absent}):
            async for name, _ in self._listed(kind):
                absent.discard(name)
                listed += 1
                if listed > most:
                    return False
        return True

    async def names(self) -> AsyncIterator[ObjectName]:
        """Everything that is stored now."""
        size = 0
        for kind in (WHOLE, DELTA, MANIFEST):
            async for name, bytes_ in self._listed(kind):
                size += bytes_
                yield name
        self._size_bytes = size

    async def use(self) -> tuple[int, int]:
        """What was there when all was last listed, and what was said that it should hold: buckets do not tell."""
        return self._size_bytes, self._chosen.bytes_max or -1

    async def mark(self) -> str:
        """The store's own time now, in whole seconds."""
        probe = f"tmp/{secrets.token_hex(8)}"
        with self._in_our_words():
            await obstore.put_async(self._store, probe, b"-", mode="overwrite", use_multipart=False)
            found = await obstore.head_async(self._store, probe)
            await obstore.delete_async(self._store, probe)
            return found["last_modified"].isoformat()

    async def remove(self, name: ObjectName, *, mark: str = "") -> bool:
        """Remove; with a mark only what was last written before it."""
        written = await self._written(_key(name))
        if written is None or (mark and written >= dt.datetime.fromisoformat(mark)):
            return False
        with self._in_our_words(), contextlib.suppress(*NOT_FOUND):
            await obstore.delete_async(self._store, _key(name))
        return True

    async def close(self) -> None:
        """The client closes its connections itself when they are idle."""

    async def _written(self, key: str) -> dt.datetime | None:
        """When it was last written; None when it is not there."""
        with self._in_our_words():
            try:
                return (await obstore.head_async(self._store, key))["last_modified"]
            except NOT_FOUND:
                return None

    async def _listed(self, kind: str) -> AsyncIterator[tuple[ObjectName, int]]:
        """(name, bytes) of everything of a kind."""
        with self._in_our_words():
            async for page in obstore.list(self._store, prefix=kind, chunk_size=PAGE):
                for found in page:
                    name = object_names.parse(found["path"].removeprefix(f"{self._place}/").replace("/", "."))
                    if name is not None:
                        yield name, found["size"]

    @contextlib.contextmanager
    def _in_our_words(self) -> Iterator[None]:
        try:
            yield
        except (PermissionDeniedError, UnauthenticatedError, PermissionError) as error:
            if any(word in str(error) for word in _FULL):
                raise self._full() from None
            raise EnvironmentUnfit(
                f"We are not let into {self.where}: check its rights, and the key in artifacts.s3_access_key_id and "
                "s3_secret_access_key, or in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            ) from None
        except NOT_FOUND:
            raise self._no_bucket() from None
        except (BaseError, OSError) as error:
            if any(word in str(error) for word in _FULL):
                raise self._full() from None
            raise BusUnavailable(
                f"{self.where} does not answer ({_first_line(error)}): check that it runs and artifacts.s3_endpoint."
            ) from None

    def _no_bucket(self) -> EnvironmentUnfit:
        return EnvironmentUnfit(
            f"The bucket {self._chosen.s3_bucket} is not there: make it, or name another one in artifacts.s3_bucket."
        )

    def _full(self) -> DiskFull:
        return DiskFull(f"There is no room left in {self.where}: raise its quota, or free some space.")


def _options(chosen: ArtifactSettings) -> dict[str, Any]:
    """What the client needs to know; what is left out it takes from the environment."""
    client: dict[str, Any] = {
        "timeout": dt.timedelta(seconds=TIMEOUT_S),
        "connect_timeout": dt.timedelta(seconds=5),
        "allow_http": chosen.s3_endpoint.startswith("http://"),
    }
    retry = {"max_retries": RETRIES, "retry_timeout": dt.timedelta(seconds=RETRY_S)}
    named = {
        "endpoint": chosen.s3_endpoint,
        "region": chosen.s3_region,
        "access_key_id": chosen.s3_access_key_id,
        "secret_access_key": chosen.s3_secret_access_key,
        "session_token": chosen.s3_session_token,
    }
    given = {name: value for name, value in named.items() if value}
    return {"client_options": client, "retry_config": retry, "virtual_hosted_style_request": False, **given}


def _key(name: ObjectName) -> str:
    return f"{name.kind}/{name.digest}" + (f".{name.base}" if name.base else "")


def _knows_no_conditions(error: Exception) -> bool:
    return isinstance(error, NotSupportedError | NotImplementedError) or any(
        word in str(error) for word in _NO_CONDITIONS
    )


def _first_line(error: Exception) -> str:
    """What went wrong, without the client's debugging output and without the answer's body."""
    return str(error).splitlines()[0].partition(": <?xml")[0][:300]
