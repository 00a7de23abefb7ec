"""What an object store answers when it does not do what it was asked, in one line each."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import (
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)

CONFLICTS = {"PreconditionFailed", "ConditionalRequestConflict", "412"}
OTHER_REGION = {
    "PermanentRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "301",
    "307",
    "Redirect",
    "TemporaryRedirect",
}
CREDENTIALS = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "InvalidClientTokenId",
}
BUSY = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "OperationAborted", "Throttling"}
DENIED = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "MethodNotAllowed", "403", "405"}
WITHOUT_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, ProfileNotFound)


class StoreError(Exception):
    """The store did not do what it was asked; later it may."""


class Busy(StoreError):
    """The server cannot just now (5xx, SlowDown): in a moment it may."""


class Missing(StoreError):
    """No object of that name."""


class Conflict(StoreError):
    """A conditional write found another state than it asked for."""


def explained(error: Exception, operation: str, bucket: str, endpoint: str) -> StoreError:
    """Any exception of s3fs, botocore or the network -> StoreError."""
    cause = error.__cause__ if isinstance(error.__cause__, ClientError) else error
    if isinstance(cause, ClientError):
        return _answered(cause, operation, bucket, endpoint)
    if isinstance(error, FileNotFoundError):  # s3fs's own, for an object that it did not find
        return Missing(f"{error} is not there")
    if isinstance(error, WITHOUT_CREDENTIALS):
        return StoreError(
            f"no usable credentials in the environment ({_one_line(error)}); allowed AWS_ACCESS_KEY_ID with "
            "AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the rights of the machine"
        )
    return StoreError(f"{endpoint or 'Amazon S3'} cannot be reached ({_one_line(error)})")


def _answered(error: ClientError, operation: str, bucket: str, endpoint: str) -> StoreError:
    said, headers = error.response.get("Error", {}), _headers(error)
    code = str(said.get("Code", ""))
    if code in CONFLICTS:
        return Conflict(f"{operation}: {code}")
    if code == "NoSuchBucket" or (code == "404" and operation in ("list_objects_v2", "head_bucket")):
        return StoreError(f"bucket {bucket!r} does not exist at {endpoint or 'Amazon S3'}")
    if code in ("NoSuchKey", "404"):
        return Missing(f"{operation}: {code}")
    if code == "RequestTimeTooSkewed":
        return StoreError(
            f"the clocks of this machine and of the server differ{_skew(headers)} ({code}): set the clock"
        )
    if code in OTHER_REGION:
        region = headers.get("x-amz-bucket-region") or said.get("Region") or "another region"
        own = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "no region"
        return StoreError(f"bucket {bucket!r} is in {region}, but AWS_REGION says {own} ({code})")
    if code in CREDENTIALS:
        return StoreError(f"the credentials of the environment are refused ({code})")
    if code in DENIED:
        return StoreError(f"bucket {bucket!r} denies {operation} ({code})")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    kind = Busy if status >= 500 or code in BUSY else StoreError
    return kind(f"{endpoint or 'Amazon S3'} answers {operation} with {code}: {_one_line(said.get('Message', ''))}")


def _headers(error: ClientError) -> dict[str, str]:
    metadata: Any = error.response.get("ResponseMetadata", {})
    return dict(metadata.get("HTTPHeaders", {}))


def _skew(headers: dict[str, str]) -> str:
    """ " by 1234 s", from the server's own date."""
    try:
        ahead_s = (datetime.now(UTC) - parsedate_to_datetime(headers["date"])).total_seconds()
    except (KeyError, ValueError, TypeError):
        return ""
    return f" by {abs(ahead_s):.0f} s"


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
