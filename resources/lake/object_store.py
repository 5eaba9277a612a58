"""A lake in an S3-compatible object store.

Part files are objects written whole and never changed. A manifest is swapped by a conditional put (If-Match with the ETag
that was read, If-None-Match for the first): of two writers that read the same version one wins, the other is told
(WriteRaced) and repeats on top of the winner's, so a committed manifest is never lost. A lease object keeps the
writers of a period apart in the ordinary case; when a lease runs out under a stalled writer, the conditional put decides.

Parquet is read through pyarrow's S3 file system, everything else through boto3. Both find credentials the usual way
(AWS_ACCESS_KEY_ID, AWS_PROFILE, instance role ...) unless they are given. Errors name the operation, the store's code and
the object, never a header or a credential.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa

from resources.lake.errors import LakeError, LakeWriteFailed, StorageFailed, WriteRaced
from resources.lake.files import LOCK_SECONDS
from resources.lake.steps import step
from resources.lake.storage import MANIFEST, Entry, Token

LEASE_SECONDS = 60.0
_OPTIONS = ("endpoint_override", "region", "scheme")
_RACED = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_GONE = {"NoSuchKey", "404", "NotFound"}


@dataclass(frozen=True, slots=True)
class Credentials:
    """Keys of an object store; never shown."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)


class ObjectStorage:
    """A prefix of a bucket."""

    attempts = 8
    durable_delete = False

    def __init__(
        self,
        bucket: str,
        prefix: str,
        endpoint: str | None = None,
        region: str | None = None,
        scheme: str | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        """endpoint: host:port or http(s)://host:port of a store that is not Amazon's; region, scheme: its own."""
        if endpoint and "://" in endpoint:
            scheme, _, endpoint = endpoint.partition("://")
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._endpoint = endpoint
        self._scheme = scheme or "https"
        self._region = region
        self._credentials = credentials
        self._clients: tuple[int, Any, Any] | None = None
        self.url = f"s3://{bucket}/{self._prefix}".rstrip("/")

    @classmethod
    def at(cls, url: str, credentials: Credentials | None = None) -> ObjectStorage:
        """The storage of ``s3://bucket/prefix?endpoint_override=host:port&scheme=http&region=name``. Raises LakeError."""
        parts = urlsplit(url)
        options = parse_qs(parts.query, keep_blank_values=True)
        if "@" in parts.netloc:
            raise LakeError("the lake's URL holds credentials: take them out, give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        unknown = sorted(set(options) - set(_OPTIONS))
        if unknown or not parts.netloc:
            raise LakeError(
                f"the lake's URL has {'options ' + ', '.join(unknown) if unknown else 'no bucket'}; expected "
                f"s3://bucket/prefix with any of {', '.join(_OPTIONS)} (credentials come from the environment)"
            )
        one = {name: values[-1] for name, values in options.items()}
        return cls(parts.netloc, parts.path, one.get("endpoint_override"), one.get("region"), one.get("scheme"), credentials)

    # ---- looking -----------------------------------------------------------------------------------------------------

    def where(self, path: str) -> str:
        return f"{self.url}/{path}"

    def folders(self, path: str) -> list[str]:
        found: list[str] = []
        for page in self._pages(path):
            found += [p["Prefix"].rstrip("/").rpartition("/")[2] for p in page.get("CommonPrefixes", ())]
        return sorted(found)

    def files(self, path: str) -> list[Entry]:
        found: list[Entry] = []
        for page in self._pages(path):
            for o in page.get("Contents", ()):
                name = o["Key"].rpartition("/")[2]
                if name:
                    found.append(Entry(name, int(o["Size"]), int(o["LastModified"].timestamp() * 1e6)))
        return sorted(found, key=lambda e: e.name)

    def _pages(self, path: str) -> Iterator[dict[str, Any]]:
        prefix = f"{self._prefix}{path.strip('/')}/" if path.strip("/") else self._prefix
        more: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", path, Prefix=prefix, Delimiter="/", **more)
            yield page
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    # ---- manifests ---------------------------------------------------------------------------------------------------

    def load(self, folder: str, known: Token | None) -> tuple[Token, bytes | None] | None:
        path = f"{folder}/{MANIFEST}"
        condition = {"IfNoneMatch": known[0]} if known else {}
        got = self._get(path, **condition)
        if got is None:
            return None
        etag, data = got
        return ((etag,), data) if etag else (known or (), None)

    def _get(self, path: str, **condition: str) -> tuple[str, bytes] | None:
        """(ETag, bytes); an empty ETag when the condition says that nothing changed; None: there is none."""
        try:
            answer = self._call("get_object", path, Key=self._prefix + path, **condition)
            return str(answer["ETag"]), answer["Body"].read()
        except StorageFailed as error:
            if error.code in _GONE:
                return None
            if error.code in ("304", "NotModified"):
                return "", b""
            raise

    def swap(self, folder: str, data: bytes, base: Token | None) -> None:
        path = f"{folder}/{MANIFEST}"
        step("manifest_drafted")
        try:
            self._put_if(path, data, base[0] if base else None)
        except WriteRaced:
            # A put that was answered by a broken connection is repeated by the client and then meets itself.
            now = self._get(path)
            if now is None or now[1] != data:
                raise
        step("manifest_swapped")

    def drop(self, folder: str, base: Token) -> None:
        """An empty manifest stands for none: deleting has no condition everywhere, so another's commit could be lost."""
        self.swap(folder, b"", base)

    def _put_if(self, path: str, data: bytes, etag: str | None) -> str:
        condition = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}
        try:
            answer = self._call("put_object", path, Key=self._prefix + path, Body=data, **condition)
        except StorageFailed as error:
            if error.code in _RACED or (etag and error.code in _GONE):
                raise WriteRaced(f"{self.where(path)}: another writer was first; repeat this write") from None
            raise
        return str(answer["ETag"])

    @contextmanager
    def lock(self, path: str) -> Iterator[None]:
        owner, wait = uuid.uuid4().hex, 0.01
        deadline = time.monotonic() + LOCK_SECONDS
        while (etag := self._lease(path, owner)) is None:
            if time.monotonic() > deadline:
                raise LakeWriteFailed(f"{self.where(path)}: held by another writer for {LOCK_SECONDS:g} s; try again")
            time.sleep(wait)
            wait = min(0.5, wait * 1.5)
        step("lock_taken")
        try:
            yield
        finally:
            with suppress(WriteRaced, OSError):  # it runs out by itself
                self._put_if(path, _lease_text("", 0.0), etag)

    def _lease(self, path: str, owner: str) -> str | None:
        """Take the lease if it is free; its ETag, or None."""
        text = _lease_text(owner, time.time() + LEASE_SECONDS)
        held = self._get(path)
        try:
            if held is None:
                return self._put_if(path, text, None)
            if float(json.loads(held[1])["until"]) < time.time():
                return self._put_if(path, text, held[0])
        except WriteRaced:
            pass
        return None

    # ---- files -------------------------------------------------------------------------------------------------------

    def make_folder(self, path: str) -> None:
        """Object stores have none."""

    def sync_folder(self, path: str) -> None:
        """An object is durable when its put is answered."""

    @contextmanager
    def create(self, path: str) -> Iterator[pa.NativeFile]:
        sink = pa.BufferOutputStream()
        yield sink
        self._call("put_object", path, Key=self._prefix + path, Body=memoryview(sink.getvalue()).tobytes())

    def open(self, path: str) -> tuple[pa.NativeFile, int, Token]:
        full = f"{self._bucket}/{self._prefix}{path}"
        try:
            file = self._open_clients()[1].open_input_file(full)
            return file, file.size(), ()
        except FileNotFoundError as error:
            raise FileNotFoundError(2, "no such object", self.where(path)) from error

    def delete(self, path: str) -> None:
        self._call("delete_object", path, Key=self._prefix + path)

    def remove_folder(self, path: str) -> None:
        for file in self.files(path):
            if file.name != MANIFEST:
                self.delete(f"{path}/{file.name}")

    # ---- clients -----------------------------------------------------------------------------------------------------

    def _call(self, operation: str, path: str, **arguments: Any) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer: dict[str, Any] = getattr(self._open_clients()[0], operation)(Bucket=self._bucket, **arguments)
            return answer
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", "unknown"))
            raise StorageFailed(f"{operation} of {self.where(path)}: the object store said {code}", code) from None
        except BotoCoreError as error:
            why = f"the object store cannot be reached ({type(error).__name__})"
            raise StorageFailed(f"{operation} of {self.where(path)}: {why}") from None

    def _open_clients(self) -> tuple[Any, Any]:
        """(boto3 client, pyarrow file system) of this process: neither survives a fork."""
        if self._clients is None or self._clients[0] != os.getpid():
            self._clients = (os.getpid(), *self._connect())
        return self._clients[1], self._clients[2]

    def _connect(self) -> tuple[Any, Any]:
        try:
            import boto3
            from botocore.config import Config
        except ImportError:
            raise LakeError("a lake in an object store needs the package boto3: pip install boto3") from None
        from pyarrow import fs

        keys = self._credentials
        session = boto3.session.Session(
            aws_access_key_id=keys.access_key if keys else None, aws_secret_access_key=keys.secret_key if keys else None
        )
        region = self._region or session.region_name or "us-east-1"
        own = {"s3": {"addressing_style": "path"}} if self._endpoint else {}
        client = session.client(
            "s3",
            region_name=region,
            endpoint_url=f"{self._scheme}://{self._endpoint}" if self._endpoint else None,
            config=Config(
                connect_timeout=10, read_timeout=60, retries={"mode": "standard", "max_attempts": 5},
                request_checksum_calculation="when_required", response_checksum_validation="when_required", **own,
            ),
        )  # fmt: skip
        found = session.get_credentials()
        fixed: dict[str, Any] = {}
        if found is not None and getattr(found, "refresh_needed", None) is None:  # those that expire are left to pyarrow
            fixed = {"access_key": found.access_key, "secret_key": found.secret_key, "session_token": found.token}
        files = fs.S3FileSystem(
            region=region, scheme=self._scheme, endpoint_override=self._endpoint, connect_timeout=10, request_timeout=60, **fixed
        )
        return client, files


def _lease_text(owner: str, until: float) -> bytes:
    return json.dumps({"owner": owner, "until": until}).encode()
