"""What runtime/rpc takes for granted of grpclib and h2: a new version that changes it fails here first.

The list is in `runtime/rpc/__init__.py`; raising a pin means reading what changed in these places.
"""

from __future__ import annotations

import inspect
from importlib.metadata import version

import grpclib
import pytest
from grpclib import client, events, protocol, server, utils
from h2.connection import ConnectionState, H2Connection
from h2.events import ConnectionTerminated
from hyperframe.frame import GoAwayFrame

import runtime.rpc

SIGNATURES = {
    protocol.Stream.__init__: "self connection h2_connection transport stream_id wrapper",
    protocol.Stream.init_stream: "self stream_id connection",
    protocol.Stream.send_request: "self headers end_stream _processor",
    protocol.Stream.send_headers: "self headers end_stream",
    protocol.Stream.send_data: "self data end_stream",
    protocol.Stream.reset_nowait: "self error_code",
    protocol.Stream.__ended__: "self",
    protocol.Stream.__terminated__: "self reason",
    protocol.Buffer.add: "self data ack_size",
    protocol.Buffer.eof: "self",
    protocol.Buffer.unacked_size: "self",
    protocol.Connection.__init__: "self connection transport config",
    protocol.Connection.feed: "self data",
    protocol.Connection.ack: "self stream_id size",
    protocol.Connection.flush: "self",
    protocol.Connection.create_stream: "self stream_id wrapper",
    protocol.Connection.ping_ack_process: "self",
    protocol.EventsProcessor.__init__: "self handler connection",
    protocol.EventsProcessor.register: "self stream",
    protocol.EventsProcessor.process: "self event",
    protocol.EventsProcessor.process_response_received: "self event",
    protocol.EventsProcessor.process_stream_reset: "self event",
    protocol.EventsProcessor.process_remote_settings_changed: "self event",
    protocol.EventsProcessor.process_connection_terminated: "self event",
    protocol.EventsProcessor.close: "self reason",
    protocol.AbstractHandler.accept: "self stream headers release_stream",
    protocol.AbstractHandler.cancel: "self stream",
    protocol.H2Protocol.data_received: "self data",
    protocol.H2Protocol.pause_writing: "self",
    protocol.H2Protocol.resume_writing: "self",
    utils.Wrapper.cancel: "self error",
    client.Channel.request: "self name cardinality request_type reply_type timeout deadline metadata",
    client.Channel.__connect__: "self",
    client.Stream.__init__: (
        "self channel method_name metadata cardinality send_type recv_type codec status_details_codec "
        "dispatch deadline"
    ),
    client.Stream.send_request: "self end",
    client.Stream.send_message: "self message end",
    client.Stream._process_grpc_status: "self headers_map",
    server.Stream.__init__: (
        "self stream method_name cardinality recv_type send_type codec status_details_codec dispatch "
        "deadline user_agent"
    ),
    server.Stream.send_trailing_metadata: "self status status_message status_details metadata",
    H2Connection._receive_goaway_frame: "self frame",
    H2Connection._prepare_for_sending: "self frames",
}
# Class -> attributes that its own source reads or sets, and ours too.
ATTRIBUTES = {
    protocol.Stream: "connection _h2_connection _transport wrapper window_updated headers headers_received "
    "trailers trailers_received buffer id created data_sent data_received closable",
    protocol.Connection: "_connection _transport _config write_ready stream_close_waiter streams_started "
    "streams_failed data_sent last_stream_created",
    protocol.EventsProcessor: "processors streams handler connection",
    protocol.H2Protocol: "handler processor connection h2_config",
    client.Stream: "_channel _stream _release_stream _wrapper _deadline _metadata _method_name _cardinality "
    "_codec _recv_type _send_request_done _send_message_done _end_done _recv_initial_metadata_done "
    "_recv_trailing_metadata_done _cancel_done _messages_received trailing_metadata",
    server.Stream: "_stream _codec _recv_type _send_type _cardinality _content_type "
    "_messages_received _messages_sent _send_message_done metadata "
    "_send_initial_metadata_done _send_trailing_metadata_done",
}


def test_grpclib_is_the_version_that_was_read() -> None:
    assert grpclib.__version__ == version("grpclib") == "0.4.9"
    assert version("h2").startswith("4.")


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__qualname__)
def test_signature_is_as_expected(function: object) -> None:
    assert list(inspect.signature(function).parameters) == SIGNATURES[function].split()  # type: ignore[arg-type, index]


@pytest.mark.parametrize("owner", ATTRIBUTES, ids=lambda owner: f"{owner.__module__}.{owner.__name__}")
def test_attributes_are_still_used_under_their_names(owner: type) -> None:
    source = inspect.getsource(owner)
    missing = [name for name in ATTRIBUTES[owner].split() if name not in source]
    assert not missing


def test_stubs_need_no_more_of_a_channel_than_request() -> None:
    assert "self.channel.request(" in inspect.getsource(client.ServiceMethod.open)
    assert issubclass(events._DispatchChannelEvents, object)
    assert issubclass(events._DispatchServerEvents, object)


def test_goaway_of_h2_ends_everything_and_nothing_more_than_that() -> None:
    """Our connection undoes these two effects, and only these."""
    plain = H2Connection()
    plain.initiate_connection()
    _, happened = plain._receive_goaway_frame(GoAwayFrame(0, last_stream_id=5, error_code=11))
    assert plain.state_machine.state is ConnectionState.CLOSED
    assert plain.data_to_send() == b""
    (event,) = happened
    assert isinstance(event, ConnectionTerminated)
    assert (event.last_stream_id, int(event.error_code or 0)) == (5, 11)
    assert isinstance(plain._data_to_send, bytearray)


def test_every_seam_is_listed_in_the_package() -> None:
    listed = runtime.rpc.__doc__ or ""
    for owner in ATTRIBUTES:
        assert f"`{owner.__module__}.{owner.__name__}`" in listed
