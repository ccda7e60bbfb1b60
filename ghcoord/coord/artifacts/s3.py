"""Contents in a bucket of S3, or of a service with its interface, through boto3.

Credentials come from boto3's own places (environment, its files, the machine's
role) and are nowhere else: not in the hub, not in settings, not in arguments.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ghcoord.clock import Runtime
from ghcoord.config import ArtifactSettings
from ghcoord.coord.files.sending import Stream
from ghcoord.errors import Denied, GhcoordError, NotFound, Throttled, TooLarge, Unavailable, UsageError
from ghcoord.ids import fan_out

T = TypeVar("T")

PART = 8 * 1024 * 1024
"""Bytes of a part of what is sent in several: S3 takes no smaller one than 5 MiB."""

PIECE = 1024 * 1024
"""Bytes that are read at once."""

ATTEMPTS = 4
"""How often a request is sent at most."""

PATIENCE = 30.0
"""Seconds to wait where a bucket asks for fewer requests and does not say for how long."""

_ABSENT = {"404", "NoSuchKey", "NotFound"}
_NO_BUCKET = {"NoSuchBucket"}
_DENIED = {
    "401",
    "403",
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "AllAccessDisabled",
}
_SLOWLY = {"429", "503", "SlowDown", "Throttling", "TooManyRequests", "RequestLimitExceeded"}


class S3:
    """Contents as objects below ``prefix`` of ``bucket``. The client is made when it is first needed."""

    def __init__(self, settings: ArtifactSettings, runtime: Runtime) -> None:
        self._settings = settings
        self._runtime = runtime
        self._made: tuple[Any, Any] | None = None

    def _key(self, artifact_id: str) -> str:
        return f"{self._settings.prefix}{'/'.join(fan_out(artifact_id))}/{artifact_id}"

    def _parts(self) -> tuple[Any, Any]:
        """The client, and how it sends what is large."""
        if self._made is None:
            try:
                session = importlib.import_module("boto3.session")
                transfer = importlib.import_module("boto3.s3.transfer")
                config = importlib.import_module("botocore.config")
            except ImportError:
                raise UsageError("artifacts in S3 need boto3: pip install 'ghcoord[s3]'") from None
            where = self._settings
            options = config.Config(
                connect_timeout=10,
                read_timeout=60,
                retries={"max_attempts": ATTEMPTS, "mode": "standard"},
                s3={"addressing_style": "path" if where.endpoint else "auto"},
                # Services with S3's interface know no other checksum than their own.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            )
            client = self._said(
                # Not boto3's own session, which keeps the first credentials that it finds.
                lambda: session.Session().client(
                    "s3", endpoint_url=where.endpoint, region_name=where.region, config=options
                )
            )
            # In the caller's thread: nothing more is in memory than a part.
            sending = transfer.TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, use_threads=False)
            self._made = client, sending
        return self._made

    def put(self, artifact_id: str, content: Stream) -> None:
        client, sending = self._parts()
        bucket, key = self._settings.bucket, self._key(artifact_id)
        self._said(lambda: client.upload_fileobj(_Unclosed(content), bucket, key, Config=sending))

    def read(self, artifact_id: str) -> Iterator[bytes]:
        client, _ = self._parts()
        key = self._key(artifact_id)
        answer = self._said(lambda: client.get_object(Bucket=self._settings.bucket, Key=key))
        return self._pieces(answer["Body"])

    def _pieces(self, body: Any) -> Iterator[bytes]:
        try:
            while piece := self._said(lambda: body.read(PIECE)):
                yield piece
        finally:
            body.close()

    def delete(self, artifact_id: str) -> None:
        client, _ = self._parts()
        key = self._key(artifact_id)
        self._said(lambda: client.delete_object(Bucket=self._settings.bucket, Key=key))

    def _said(self, run: Callable[[], T]) -> T:
        """What ``run`` returns; whatever boto3 raises becomes one of our errors."""
        try:
            return run()
        except (GhcoordError, MemoryError):
            raise
        except Exception as error:
            raise self._mapped(error) from error

    def _mapped(self, error: Exception) -> GhcoordError:
        if type(error).__name__ == "S3UploadFailedError" and isinstance(error.__context__, Exception):
            error = error.__context__
        answer = getattr(error, "response", None)
        said = answer.get("Error", {}) if isinstance(answer, dict) else {}
        code, status = str(said.get("Code", "")), _status(answer)
        bucket = f"the bucket {self._settings.bucket!r}"
        if code in _NO_BUCKET:
            return NotFound(f"{bucket} does not exist")
        if code in _ABSENT:
            return NotFound(f"{bucket} has no content of the artifact")
        if code in _DENIED or status in (401, 403):
            return Denied(
                f"{bucket} refuses: {code or status}. Check the credentials that boto3 finds, and their rights"
            )
        if code in _SLOWLY or status in (429, 503):
            return Throttled(f"{bucket} asks for fewer requests", self._runtime.now() + PATIENCE)
        if code == "EntityTooLarge":
            return TooLarge(f"{bucket} takes no object of this size")
        kind = type(error).__name__
        if kind in ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"):
            return Denied(f"no credentials for {bucket}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile")
        if kind in ("NoRegionError", "ParamValidationError", "InvalidRegionError") or isinstance(error, ValueError):
            return UsageError(f"{bucket} cannot be reached with these settings: {error}")
        return Unavailable(f"{bucket} cannot be reached: {code or kind}")


def _status(answer: object) -> int:
    found = answer.get("ResponseMetadata", {}) if isinstance(answer, dict) else {}
    status = found.get("HTTPStatusCode", 0) if isinstance(found, dict) else 0
    return status if isinstance(status, int) else 0


class _Unclosed:
    """A stream that is read and left open: it is the caller's."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        return self._stream.read(size)
