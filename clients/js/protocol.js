/**
 * The bytes between a browser and a conn server: docs/wire.md, schema/proto/conn.proto.  Pure.
 *
 * Protobuf for exactly these messages; fields that are not known are skipped, as proto3 wants it.
 * 64-bit numbers are read exactly up to 2^53 - 1, which the wire contract promises not to exceed.
 */

export const PackageType = Object.freeze({
  UNKNOWN: 0, SIGN_IN: 1, HEARTBEAT: 2, MESSAGE: 3, MEMBERS: 4, ACK: 5,
});

export const Level = Object.freeze({ NORMAL: 0, IMPORTANT: 1 });

/** Bytes that are not the message they should be. */
export class Malformed extends Error {
  name = "Malformed";
}

const VARINT = 0;
const FIXED64 = 1;
const LENGTH_DELIMITED = 2;
const FIXED32 = 5;

const encoder = new TextEncoder();
const strictDecoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Writes protobuf fields; proto3 leaves out what is zero or empty. */
class Writer {
  #bytes = [];

  #varint(value) {
    if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`${value} is not a uint53`);
    while (value > 127) {
      this.#bytes.push((value % 128) | 128);
      value = Math.floor(value / 128);
    }
    this.#bytes.push(value);
  }

  number(field, value) {
    if (value === 0) return this;
    this.#varint(field * 8 + VARINT);
    this.#varint(value);
    return this;
  }

  bytes(field, value) {
    if (value.length === 0) return this;
    this.#varint(field * 8 + LENGTH_DELIMITED);
    this.#varint(value.length);
    for (const byte of value) this.#bytes.push(byte);
    return this;
  }

  string(field, value) {
    return this.bytes(field, encoder.encode(value));
  }

  finish() {
    return Uint8Array.from(this.#bytes);
  }
}

/** Reads protobuf fields, one after the other; every length is checked before it is used. */
class Reader {
  #bytes;
  #view;
  #at = 0;

  constructor(bytes) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** Yield [field number, value]: a Uint8Array, or a Word of 64 bits. */
  *fields() {
    while (this.#at < this.#bytes.length) {
      const key = this.#varint().toNumber();
      const field = Math.floor(key / 8);
      if (field === 0) throw new Malformed("field number 0");
      yield [field, this.#value(key % 8)];
    }
  }

  #value(wireType) {
    switch (wireType) {
      case VARINT: return this.#varint();
      case LENGTH_DELIMITED: return this.#take(this.#varint().toNumber());
      case FIXED64: {
        const start = this.#at;
        this.#take(8);
        return new Word(this.#view.getUint32(start, true), this.#view.getUint32(start + 4, true));
      }
      case FIXED32: {
        const start = this.#at;
        this.#take(4);
        return new Word(this.#view.getUint32(start, true), 0);
      }
      default: throw new Malformed(`wire type ${wireType}`);
    }
  }

  #take(length) {
    const start = this.#at;
    if (length > this.#bytes.length - start) throw new Malformed("cut off");
    this.#at = start + length;
    return this.#bytes.subarray(start, this.#at);
  }

  #varint() {
    let low = 0;
    let high = 0;
    for (let place = 0; place < 10; place += 1) {
      const [byte] = this.#take(1);
      const seven = byte & 127;
      if (place < 4) {
        low |= seven << (7 * place);
      } else if (place === 4) { // four bits here, three there
        low |= seven << 28;
        high |= seven >>> 4;
      } else {
        high |= seven << (7 * place - 32);
      }
      if (byte < 128) return new Word(low >>> 0, high >>> 0);
    }
    throw new Malformed("number of more than 10 bytes");
  }
}

/** 64 bits as two unsigned halves: what they mean depends on the field. */
class Word {
  constructor(low, high) {
    this.low = low;
    this.high = high;
  }

  toNumber() {
    const value = this.high * 2 ** 32 + this.low;
    if (!Number.isSafeInteger(value)) throw new Malformed("number above 2^53");
    return value;
  }

  toInt32() {
    return this.low | 0;
  }
}

function number(value) {
  if (!(value instanceof Word)) throw new Malformed("bytes where a number should be");
  return value.toNumber();
}

function int32(value) {
  if (!(value instanceof Word)) throw new Malformed("bytes where a number should be");
  return value.toInt32();
}

function bytes(value) {
  if (!(value instanceof Uint8Array)) throw new Malformed("a number where bytes should be");
  return value;
}

function string(value) {
  try {
    return strictDecoder.decode(bytes(value));
  } catch (error) {
    throw error instanceof Malformed ? error : new Malformed("text that is not UTF-8");
  }
}

/** Return a `Req`; an id of 0 is left out. */
export function encodeRequest(type, data = new Uint8Array(), id = 0) {
  return new Writer().number(1, type).bytes(2, data).number(10, id).finish();
}

/** Return the data of a SIGN_IN request. */
export function encodeSignIn({ token, room, version = 1 }) {
  return new Writer().string(1, token).string(2, room).number(10, version).finish();
}

/** Return the data of a MESSAGE request. */
export function encodePublish({ room, level = Level.NORMAL, data }) {
  return new Writer().string(1, room).number(2, level).bytes(3, data).finish();
}

/** Read a server's frame: {type, data, id}. */
export function decodeReply(frame) {
  const reply = { type: 0, data: new Uint8Array(), id: 0 };
  for (const [field, value] of new Reader(frame).fields()) {
    if (field === 1) reply.type = int32(value);
    else if (field === 2) reply.data = bytes(value);
    else if (field === 10) reply.id = number(value);
  }
  return reply;
}

/** Read the data of a reply of type 0 or ACK: {code, text, signedIn}; code 0 is success. */
export function decodeVerdict(data) {
  const verdict = { code: 0, text: "", signedIn: null };
  for (const [field, value] of new Reader(data).fields()) {
    if (field === 1) verdict.code = int32(value);
    else if (field === 2) verdict.text = string(value);
    else if (field === 10) verdict.signedIn = decodeSignedIn(bytes(value));
  }
  return verdict;
}

function decodeSignedIn(data) {
  const signedIn = { members: 0, heartbeatTimeoutS: 0, serverTimeMs: 0 };
  for (const [field, value] of new Reader(data).fields()) {
    if (field === 3) signedIn.members = number(value);
    else if (field === 4) signedIn.heartbeatTimeoutS = number(value);
    else if (field === 5) signedIn.serverTimeMs = number(value);
  }
  return signedIn;
}

/** Read the data of a push: {room, level, messages: [{data, sender, sentAtMs, id}]}. */
export function decodePush(data) {
  const push = { room: "", level: Level.NORMAL, body: new Uint8Array(), items: [] };
  for (const [field, value] of new Reader(data).fields()) {
    if (field === 1) push.room = string(value);
    else if (field === 2) push.level = int32(value) === Level.IMPORTANT ? Level.IMPORTANT : Level.NORMAL;
    else if (field === 3) push.body = bytes(value);
    else if (field === 12) push.items.push(decodeItem(bytes(value)));
  }
  if (!push.room || push.body.length === 0) throw new Malformed("a push needs a room and data");
  const records = [...unpack(push.body)];
  // A Go job worker names no items at all; anything else is one per record.
  if (push.items.length !== 0 && push.items.length !== records.length) {
    throw new Malformed(`${push.items.length} items for ${records.length} records`);
  }
  const messages = records.map((record, place) => (
    { ...(push.items[place] ?? unknownItem()), data: record }
  ));
  return { room: push.room, level: push.level, messages };
}

function unknownItem() {
  return { sender: "", sentAtMs: 0, id: "" };
}

function decodeItem(data) {
  const item = unknownItem();
  for (const [field, value] of new Reader(data).fields()) {
    if (field === 1) item.sender = string(value);
    else if (field === 2) item.sentAtMs = number(value);
    else if (field === 3) item.id = toHex(bytes(value));
  }
  return item;
}

/**
 * Iterate over the records of a merged body:
 *
 *     | length: uint32, little-endian | bytes | length | bytes | ...
 *
 * All four bytes of the length count.
 */
export function* unpack(body) {
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  let at = 0;
  while (at < body.length) {
    if (at + 4 > body.length) throw new Malformed(`length cut off at byte ${at} of ${body.length}`);
    const start = at + 4;
    const length = view.getUint32(at, true);
    if (length > body.length - start) {
      throw new Malformed(`record of ${length} bytes at byte ${start} is cut off`);
    }
    at = start + length;
    yield body.subarray(start, at);
  }
}

/** Return bytes as hexadecimal digits. */
export function toHex(data) {
  return Array.from(data, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Return the bytes of `{"type":1,"content":text}`, which is how this page writes a message. */
export function encodeText(text) {
  return encoder.encode(JSON.stringify({ type: 1, content: text }));
}

/**
 * Return what to show of a message's bytes: the content of `{"type":1,"content":...}`, a JSON string
 * (what `POST /msg` pushes), any other text as it is, and bytes that are no text as hexadecimal digits.
 */
export function readableText(data) {
  let text;
  try {
    text = strictDecoder.decode(data);
  } catch {
    return toHex(data);
  }
  try {
    const value = JSON.parse(text);
    if (typeof value === "string") return value;
    if (typeof value?.content === "string") return value.content;
  } catch {
    // Not JSON: it is just text.
  }
  return text;
}
