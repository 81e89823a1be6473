"""Amazon S3 as a store of objects. boto3 is imported here alone: AWS's runtimes bring it, and only uploads and results need it.

AWS_ENDPOINT_URL_S3 names another server of the same protocol. A role without s3:ListBucket is told 403 of an object that is not
there, so `has` takes that for no, and the conditional write decides.
"""

from __future__ import annotations

import contextlib
from typing import Any, NoReturn

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from jobs.online.protocol import refuse
from jobs.serverless.objects import Gone

__all__ = ["S3Objects"]

_CONFIG = {"connect_timeout": 3, "read_timeout": 20, "retries": {"mode": "standard", "max_attempts": 3}}
_FORBIDDEN, _NOT_FOUND, _PRECONDITION = 403, 404, 412


class S3Objects:
    """See `objects.ObjectStore`."""

    def __init__(self) -> None:
        self._client: Any = boto3.client("s3", config=Config(**_CONFIG))

    def fetch(self, bucket: str, key: str, *, version: str, etag: str, max_bytes: int) -> bytes:
        """See ObjectStore."""
        which = {"VersionId": version} if version else ({"IfMatch": etag} if etag else {})
        try:
            found = self._client.get_object(Bucket=bucket, Key=key, **which)
            with contextlib.closing(found["Body"]) as body:
                if found["ContentLength"] > max_bytes:
                    refuse(413, "OBJECT_TOO_LARGE", f"the object has more than {max_bytes} bytes")
                content: bytes = body.read()
        except ClientError as exc:
            if _status(exc) in (_NOT_FOUND, _PRECONDITION):
                raise Gone from exc
            _refuse(exc)
        except BotoCoreError as exc:
            _refuse(exc)
        return content

    def has(self, bucket: str, key: str) -> bool:
        """See ObjectStore."""
        try:
            self._client.head_object(Bucket=bucket, Key=key)
        except ClientError as exc:
            if _status(exc) in (_NOT_FOUND, _FORBIDDEN):
                return False
            _refuse(exc)
        except BotoCoreError as exc:
            _refuse(exc)
        return True

    def put_once(self, bucket: str, key: str, content: bytes) -> bool:
        """See ObjectStore; a write that races with another (409) is tried again with the event."""
        try:
            self._client.put_object(
                Bucket=bucket, Key=key, Body=content, IfNoneMatch="*", ContentType="application/json"
            )
        except ClientError as exc:
            if _status(exc) == _PRECONDITION:
                return False
            _refuse(exc)
        except BotoCoreError as exc:
            _refuse(exc)
        return True


def _status(exc: ClientError) -> int:
    return int(exc.response["ResponseMetadata"]["HTTPStatusCode"])


def _refuse(exc: Exception) -> NoReturn:
    """Refuse with the class of the failure: its message names keys."""
    code = str(exc.response["Error"]["Code"]) if isinstance(exc, ClientError) else type(exc).__name__
    refuse(503, "OBJECTS_UNAVAILABLE", f"S3 did not do what it was asked: {code[:60]}")
