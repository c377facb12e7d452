"""Options are checked when they are made."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.failures import SetupError
from runtime.queue.nsq.options import NsqOptions, options_from
from runtime.secret import Secret
from runtime.sections import Nsqd


@pytest.mark.parametrize(
    "wrong",
    [
        {"nsqd": ("nowhere",)},
        {"nsqd": ("nsqd:0",)},
        {"nsqd": (":4150",)},
        {"nsqd": ()},
        {"max_message_bytes": 0},
        {"max_batch_bytes": 100},
        {"max_waiting_bytes": 100},
        {"max_unsent_bytes": 100},
        {"msg_timeout_s": 0.5},
        {"heartbeat_s": 0.5},
        {"output_buffering_ms": ()},
    ],
)
def test_what_could_never_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        NsqOptions(**wrong)


def test_secret_is_in_no_repr() -> None:
    assert "hunter2" not in repr(NsqOptions(auth_secret="hunter2"))


def test_options_say_of_the_settings_whom_to_reach_and_of_the_service_how_to_treat_it() -> None:
    nsq = Nsqd(addresses=("a:1",), auth_secret=Secret(b"hush"), tls=True, server_name="nsqd.example")
    options = options_from(nsq, lookupd=("b:2",), publish_deadline_s=3.0)
    assert (options.nsqd, options.lookupd, options.publish_deadline_s) == (("a:1",), ("b:2",), 3.0)
    assert (options.auth_secret, options.tls_name) == ("hush", "nsqd.example")
    assert options.tls is not None
    clear = options_from(Nsqd())
    assert (clear.auth_secret, clear.tls, clear.tls_name) == (None, None, None)


def test_authority_that_cannot_be_read_is_named() -> None:
    with pytest.raises(SetupError, match=r"\[nsq\]"):
        options_from(Nsqd(tls=True, ca_file="/nowhere.pem"))
