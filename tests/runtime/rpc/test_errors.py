"""Many causes, few meanings."""

from __future__ import annotations

import pytest
from grpclib.exceptions import GRPCError
from h2.errors import ErrorCodes

from runtime.rpc.errors import RpcError, Status, reset_error, status_within


@pytest.mark.parametrize(
    ("code", "late", "status"),
    [
        (ErrorCodes.NO_ERROR, False, Status.UNAVAILABLE),
        (ErrorCodes.REFUSED_STREAM, False, Status.UNAVAILABLE),
        (ErrorCodes.CANCEL, False, Status.CANCELLED),
        (ErrorCodes.CANCEL, True, Status.DEADLINE_EXCEEDED),
        (ErrorCodes.ENHANCE_YOUR_CALM, False, Status.RESOURCE_EXHAUSTED),
        (ErrorCodes.PROTOCOL_ERROR, True, Status.INTERNAL),
        (None, False, Status.UNAVAILABLE),
        (12345, False, Status.UNAVAILABLE),
    ],
)
def test_reset_means_what_its_code_says(code: int | None, status: Status, *, late: bool) -> None:
    assert reset_error(code, late=late).status is status


def test_status_is_found_in_the_groups_that_nurseries_make() -> None:
    error = RpcError(Status.ABORTED, "text")
    group = ExceptionGroup("outer", [ExceptionGroup("inner", [error])])
    assert status_within(group) is error
    plain = status_within(ExceptionGroup("", [GRPCError(Status.NOT_FOUND), GRPCError(Status.ABORTED)]))
    assert plain is not None
    assert (plain.status, plain.text) == (Status.NOT_FOUND, "")


def test_bug_beside_a_status_is_not_hidden() -> None:
    assert status_within(ExceptionGroup("", [RpcError(Status.ABORTED), ValueError()])) is None
    assert status_within(ValueError()) is None


def test_error_reads_well() -> None:
    assert str(RpcError(Status.ABORTED, "why")) == "ABORTED: why"
    assert str(RpcError(Status.ABORTED)) == "ABORTED"
