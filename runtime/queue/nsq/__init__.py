"""The queue on NSQ: Trio owns the sockets, ansq gives the codec.

    NsqQueue --> open_producer --> producer.py   backlog.py: batches     placing.py: which nsqd
             `-> open_consumer --> consumer.py   delivery.py: loans      lookup.py: nsqlookupd
                                        `--> link.py: connect again and again
                                               `--> handshake.py, connection.py --> codec.py (ansq)

nsqd should run with `--mem-queue-size=0` (otherwise an overflow mixes the order),
`--min-output-buffer-timeout=1ms --output-buffer-timeout=1ms --msg-timeout=10s`.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from runtime.queue.nsq.consumer import NsqConsumer, open_consumer
from runtime.queue.nsq.delivery import NsqDelivery
from runtime.queue.nsq.options import NsqOptions, options_from
from runtime.queue.nsq.producer import NsqProducer, open_producer
from runtime.queue.nsq.statistics import ConsumerStatistics, ProducerStatistics

__all__ = [
    "ConsumerStatistics",
    "NsqConsumer",
    "NsqDelivery",
    "NsqOptions",
    "NsqProducer",
    "NsqQueue",
    "ProducerStatistics",
    "open_consumer",
    "open_producer",
    "options_from",
]


class NsqQueue:
    """A `runtime.queue.Queue`.  It holds nothing but its options: what it opens owns everything."""

    def __init__(self, options: NsqOptions) -> None:
        self._options = options

    def open_producer(self) -> AbstractAsyncContextManager[NsqProducer]:
        """Open a producer; see `runtime.queue.nsq.producer.open_producer`."""
        return open_producer(self._options)

    def open_consumer(
        self, topic: str, channel: str, *, max_in_flight: int
    ) -> AbstractAsyncContextManager[NsqConsumer]:
        """Open a consumer; see `runtime.queue.nsq.consumer.open_consumer`."""
        return open_consumer(topic, channel, max_in_flight=max_in_flight, options=self._options)
