"""gRPC between services: grpclib's generated stubs, bases, codec and call state machines on Trio streams.

There is no asyncio loop.  What grpclib does with one is replaced by subclassing; nothing is patched.

Serving::

    server = await nursery.start(serve_rpc, [Logic(), Health(["logic.Logic"])], "127.0.0.1:6001")
    server.drain(grace_s=5)     # GOAWAY, calls in flight may end, then UNAVAILABLE; serve_rpc returns

Calling::

    async with open_channel("127.0.0.1:6001") as channel:
        reply = await LogicStub(channel).Auth(AuthReq(token="..."), timeout=2)

A handler raises `RpcError(Status.X, text)`; a caller catches it.  Importing this package costs nothing: take
what is needed from its modules.

==============  ===========================================================================
module          idea
==============  ===========================================================================
errors          one exception for everything that can go wrong
limits          bounds and deadlines, in one record
waiting         grpclib's event and deadline wrapper, on Trio
messages        messages as bytes and back
buffer          received bytes, taken out as messages
streams         one call's half of a connection: messages in, frames out
transport       coalesced, shielded writes
connection      one HTTP/2 connection as state; no tasks
link            the tasks around one connection
calls           a call from the caller's side
channel         one address: connect, keep, reconnect
handling        a call from the server's side
server          listeners, connections, drain
health, tls     grpc.health.v1; contexts
==============  ===========================================================================

Private seams
-------------
What follows is not the public interface of grpclib (==0.4.9) or h2, or is subclassed in a way that they do
not promise.  `tests/runtime/rpc/test_seams.py` fails when one of them changes.

- `grpclib.protocol.Stream`: constructor and `create_stream` signature; `init_stream`, `closable`,
  `_h2_connection`, `_transport`, `__ended__`, `__terminated__`, `window_updated`, `headers_received`,
  `trailers_received`, `wrapper`, `buffer`.
- `grpclib.protocol.Buffer`: `add`, `eof`, `unacked_size` are all that is called by others.
- `grpclib.protocol.Connection`: `feed`, `ack`, `flush`, `pause_writing`, `resume_writing`, `get_peer`,
  `stream_close_waiter`, `write_ready`, `_connection`, `_transport`, `_config`.
- `grpclib.protocol.EventsProcessor`: `processors`, `streams`, `register`, `process_*`; what it calls of a
  handler: `accept`, `cancel`, `close`.
- `grpclib.protocol.H2Protocol`: `connection_made` and `data_received` are replaced, `pause_writing`,
  `resume_writing` inherited.
- `grpclib.utils.Wrapper`: `with wrapper:` and `wrapper.cancel(error)`.
- `grpclib.client.Stream`: `_wrapper`, `_stream`, `_release_stream`, `_deadline`, `_metadata`, `_method_name`,
  `_cardinality`, `_codec`, `_recv_type`, `_send_type`, the `_*_done` flags, `_process_grpc_status`,
  `recv_initial_metadata`, `recv_trailing_metadata`.
- `grpclib.client.Channel`: `request`, `__connect__`, `__dispatch__`; `client.Handler`.
- `grpclib.server.Stream`: constructor; `_stream`, `_codec`, `_recv_type`, `_send_type`, `_cardinality`,
  `_content_type`, `_messages_received`, `_messages_sent`, `_send_message_done`,
  `_send_initial_metadata_done`, `_send_trailing_metadata_done`, `send_initial_metadata`,
  `send_trailing_metadata`, `__aexit__`.
- `grpclib.events._DispatchChannelEvents`, `_DispatchServerEvents`; `grpclib.health.v1`.
- `h2.connection.H2Connection`: `_receive_goaway_frame`, `_prepare_for_sending`, `_data_to_send`,
  `state_machine.state`.
"""
