"""ansq's own writer and reader, as a program: publishes numbers, or prints what it consumes.

ansq_peer.py publish ADDRESS TOPIC COUNT
ansq_peer.py consume ADDRESS TOPIC CHANNEL COUNT
"""

import asyncio
import sys

import ansq


async def publish(address: str, topic: str, count: str) -> None:
    writer = await ansq.create_writer(nsqd_tcp_addresses=[address])
    for number in range(0, int(count), 10):
        await writer.mpub(topic, *(b"%d" % n for n in range(number, number + 10)))
    await writer.close()


async def consume(address: str, topic: str, channel: str, count: str) -> None:
    reader = await ansq.create_reader(topic=topic, channel=channel, nsqd_tcp_addresses=[address])
    left = int(count)
    async for message in reader.messages():
        print(message.body.decode())
        await message.fin()
        left -= 1
        if not left:
            break
    await reader.close()


if __name__ == "__main__":
    asyncio.run(publish(*sys.argv[2:]) if sys.argv[1] == "publish" else consume(*sys.argv[2:]))
