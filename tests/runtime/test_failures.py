from __future__ import annotations

import errno
import socket

import pytest

from runtime.failures import SetupError, setting_up, setup_problems


def test_address_in_use_becomes_one_line_that_says_what_of() -> None:
    with (
        pytest.raises(SetupError, match=r"^client port :8081: Address already in use$"),
        setting_up("client port :8081"),
    ):
        raise OSError(errno.EADDRINUSE, "Address already in use")


def test_other_os_errors_are_left_alone() -> None:
    with pytest.raises(OSError, match="Too many open files"), setting_up("client port"):
        raise OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize("name", ["nosuch.invalid", "fe80::1%nosuch"])
def test_name_that_is_not_known_is_the_operators(name: str) -> None:
    with pytest.raises(SetupError, match=r"^gRPC port x:1: .+$"), setting_up("gRPC port x:1"):
        socket.getaddrinfo(name, 1)
    with pytest.raises(socket.gaierror) as caught:
        socket.getaddrinfo(name, 1)
    assert setup_problems(caught.value) == [caught.value.strerror]


def test_address_that_says_too_little_is_one_where_an_address_is_told() -> None:
    with (
        pytest.raises(SetupError, match=r"^admin port \[fe80::1\]:1: Invalid argument$"),
        setting_up("admin port [fe80::1]:1"),
    ):
        raise OSError(errno.EINVAL, "Invalid argument")
    assert setup_problems(OSError(errno.EINVAL, "Invalid argument")) is None


def test_problems_are_found_in_groups_of_groups_and_said_once() -> None:
    error = ExceptionGroup("", [SetupError("a"), ExceptionGroup("", [SetupError("b"), SetupError("a")])])
    assert setup_problems(error) == ["a", "b"]


def test_defect_among_the_problems_is_not_hidden() -> None:
    assert setup_problems(ExceptionGroup("", [SetupError("a"), ValueError("defect")])) is None


def test_file_that_cannot_be_opened_is_named() -> None:
    assert setup_problems(PermissionError(errno.EACCES, "Permission denied", "log/live.log")) == [
        "log/live.log: Permission denied"
    ]
