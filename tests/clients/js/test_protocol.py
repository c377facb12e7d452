"""protocol.js and closing.js in Chromium, against the vectors that the Python client is held to."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from schema.closing import CLOSINGS, draining_reason
from tests.chromium import Browser, Tab
from tests.clients.fake_server import FakeServer, open_fake_server
from tests.clients.vectors import VECTORS

FILES = Path(__file__).resolve().parents[3] / "clients" / "js"

# Run in the page: every vector through the module; returns what differs.
CHECK = """
(async (vectors) => {
  const protocol = await import("/protocol.js");
  const bytes = (hex) => Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16));
  const snake = (told) => told && {
    members: told.members, heartbeat_timeout_s: told.heartbeatTimeoutS, server_time_ms: told.serverTimeMs,
  };
  const wrong = [];
  const same = (what, got, wanted) => {
    if (JSON.stringify(got) !== JSON.stringify(wanted)) wrong.push([what, got, wanted]);
  };
  for (const { type, data, id, hex } of vectors.requests) {
    same("request", protocol.toHex(protocol.encodeRequest(type, bytes(data), id)), hex);
  }
  for (const { token, room, version, hex } of vectors.sign_ins) {
    same("sign-in", protocol.toHex(protocol.encodeSignIn({ token, room, version })), hex);
  }
  for (const { room, level, data, hex } of vectors.publishes) {
    same("publish", protocol.toHex(protocol.encodePublish({ room, level, data: bytes(data) })), hex);
  }
  for (const { hex, type, data, id } of vectors.replies) {
    const reply = protocol.decodeReply(bytes(hex));
    same("reply", { ...reply, data: protocol.toHex(reply.data) }, { type, data, id });
  }
  for (const { hex, code, text, signed_in } of vectors.verdicts) {
    const verdict = protocol.decodeVerdict(bytes(hex));
    same("verdict", [verdict.code, verdict.text, snake(verdict.signedIn)], [code, text, signed_in]);
  }
  for (const { hex, room, level, messages } of vectors.pushes) {
    // At an odd place of a larger buffer: views must not forget where they begin.
    const shifted = new Uint8Array(hex.length / 2 + 3);
    shifted.set(bytes(hex), 3);
    const push = protocol.decodePush(shifted.subarray(3));
    same("push", [push.room, push.level], [room, level]);
    same("messages", push.messages.map(({ data, sender, sentAtMs, id }) =>
      ({ data: protocol.toHex(data), sender, sent_at_ms: sentAtMs, id })), messages);
  }
  for (const { hex, text } of vectors.texts) same("text", protocol.readableText(bytes(hex)), text);
  const decoders = {
    reply: protocol.decodeReply, verdict: protocol.decodeVerdict, push: protocol.decodePush,
  };
  for (const [kind, decode] of Object.entries(decoders)) {
    for (const { why, hex } of vectors.malformed[kind]) {
      try {
        wrong.push([kind, why, decode(bytes(hex))]);
      } catch (error) {
        same(`${kind}: ${why}`, error.name, "Malformed");
      }
    }
    // Whatever comes is read or refused, and nothing else is thrown.
    for (const { hex } of [...vectors.replies, ...vectors.verdicts, ...vectors.pushes.slice(0, 4)]) {
      const whole = bytes(hex);
      for (let end = 0; end < whole.length; end += 1) {
        for (const flip of [0, 1, 128]) {
          const broken = whole.slice(0, end + 1);
          broken[end] ^= flip;
          try {
            decode(broken);
          } catch (error) {
            same(`${kind} of broken bytes`, error.name, "Malformed");
          }
        }
      }
    }
  }
  return wrong;
})
"""


@pytest.fixture
async def tab(chromium: Browser) -> AsyncIterator[Tab]:
    async with open_fake_server(FakeServer(files=FILES)) as server:
        yield await chromium.new_tab(server.url)


async def test_bytes_are_those_of_the_vectors(tab: Tab) -> None:
    assert await tab.evaluate(f"{CHECK}({json.dumps(VECTORS)})") == []


async def test_reconnect_table_is_that_of_the_schema_and_delays_are_jittered(tab: Tab) -> None:
    codes = json.dumps([int(code) for code in CLOSINGS])
    may = await tab.evaluate(f"import('/closing.js').then((m) => {codes}.map(m.mayReconnect))")
    assert may == [closing.reconnect for closing in CLOSINGS.values()]

    async def delay(code: int, attempt: int, random: float, reason: str = "") -> float:
        closed = json.dumps({"code": code, "reason": reason})
        return float(
            await tab.evaluate(
                f"import('/closing.js').then((m) => m.reconnectDelayMs({closed}, {attempt}, {random}))"
            )
        )

    assert await delay(1006, 0, 0.0) == 100
    assert [await delay(1006, attempt, 0.5) for attempt in (0, 1, 2)] == [250, 500, 1000]
    assert await delay(1006, 1000, 0.999) == pytest.approx(29_970)
    assert await delay(1001, 0, 0.5, draining_reason(700)) == 950
    assert await delay(1001, 0, 0.5, "draining") == 250
    assert await delay(1001, 0, 0.5, draining_reason(10**12)) == 30_250
    assert await delay(4029, 0, 0.5) == 5_250
