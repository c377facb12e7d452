/**
 * A member of a room that comes back by itself.
 *
 *     RoomClient    the wish to be in a room: one loop of token, connection, sign-in, wait
 *      `- Connection   one WebSocket: requests with ids and deadlines, pushes
 */

import { CloseCode, mayReconnect, reconnectDelayMs } from "./closing.js";
import {
  Level, Malformed, PackageType,
  decodePush, decodeReply, decodeVerdict, encodePublish, encodeRequest, encodeSignIn,
} from "./protocol.js";

const CONNECT_DEADLINE_MS = 10_000;
const ANSWER_DEADLINE_MS = 10_000;
const DEFAULT_HEARTBEAT_TIMEOUT_S = 60;
const NOT_SIGNED_IN = 100;
const UNAVAILABLE = 503;
// A connection that lived for less says nothing about the next attempt.
const STABLE_AFTER_MS = 10_000;
const LOST = Object.freeze({ code: CloseCode.ABNORMAL, reason: "connection lost" });

/** The server understood, and will not do it. */
export class Refused extends Error {
  name = "Refused";

  constructor({ code, text }) {
    super(text || `refused (${code})`);
    this.code = code;
  }
}

/** The connection ended before the answer came; what was under way may have been taken. */
export class Disconnected extends Error {
  name = "Disconnected";

  constructor(closed) {
    super(closed.reason || "not connected");
    this.closed = closed;
  }
}

/** The server did not answer in time; what was under way may have been taken. */
export class NoAnswer extends Error {
  name = "NoAnswer";
}

/** Where a RoomClient stands. */
export const State = Object.freeze({
  CONNECTING: "connecting", JOINED: "joined", WAITING: "waiting", STOPPED: "stopped",
});

/** One WebSocket.  Dies with its socket; `closed` then resolves to {code, reason}. */
class Connection {
  #socket;
  #nextId = 1;
  #waiting = new Map();
  #onPush;
  #answerDeadlineMs;
  #end;

  constructor(url, onPush, answerDeadlineMs) {
    this.#onPush = onPush;
    this.#answerDeadlineMs = answerDeadlineMs;
    this.#socket = new WebSocket(url);
    this.#socket.binaryType = "arraybuffer";
    this.closed = new Promise((resolve) => { this.#end = resolve; });
    this.opened = new Promise((resolve) => { this.#socket.addEventListener("open", resolve); });
    this.#socket.addEventListener("message", ({ data }) => this.#receive(data));
    this.#socket.addEventListener("close", ({ code, reason }) => this.#finish({ code, reason }));
  }

  /** Send a request and resolve to its answer. */
  request(type, data) {
    const id = this.#nextId;
    this.#nextId += 1;
    return new Promise((resolve, reject) => {
      if (this.#socket.readyState !== WebSocket.OPEN) {
        reject(new Disconnected(LOST));
        return;
      }
      const timer = setTimeout(() => {
        this.#waiting.delete(id);
        reject(new NoAnswer("the server did not answer in time"));
      }, this.#answerDeadlineMs);
      this.#waiting.set(id, { resolve, reject, timer });
      this.#socket.send(encodeRequest(type, data, id));
    });
  }

  /** Close now, and do not wait for a server that may be gone. */
  close(closed) {
    this.#socket.close(1000);
    this.#finish(closed);
  }

  #receive(data) {
    try {
      const reply = decodeReply(new Uint8Array(data));
      if (reply.type === PackageType.MESSAGE) {
        this.#onPush(decodePush(reply.data));
        return;
      }
      const waiting = this.#waiting.get(reply.id);
      if (!waiting) return;
      this.#waiting.delete(reply.id);
      clearTimeout(waiting.timer);
      waiting.resolve(reply);
    } catch (error) {
      // A frame that makes no sense is skipped, whoever sent it; any other error is ours.
      if (!(error instanceof Malformed)) throw error;
      console.warn("frame skipped:", error.message);
    }
  }

  #finish(closed) {
    for (const { reject, timer } of this.#waiting.values()) {
      clearTimeout(timer);
      reject(new Disconnected(closed));
    }
    this.#waiting.clear();
    this.#end(closed);
  }
}

/**
 * Keeps its user in a room until `stop`.
 *
 * Events (CustomEvent, see `detail`):
 *   state      {state, reason, retryInMs}      State, why, and for WAITING how long
 *   message    {room, important, sender, sentAtMs, id, data}
 *   joined     {room, members}
 *   heartbeat  {roundTripMs}
 */
export class RoomClient extends EventTarget {
  #url;
  #fetchToken;
  #answerDeadlineMs;
  #token = null;
  #connection = null;
  #stopped = new AbortController();

  /**
   * @param {object} options
   * @param {string} options.url ws:// or wss:// address of /room
   * @param {string} options.room
   * @param {number} [options.answerDeadlineMs] of every request
   * @param {() => Promise<string>} options.fetchToken asked for the first token and for each new one;
   *   Refused from it is final, whatever its code, after any other error it is asked again
   */
  constructor({ url, room, fetchToken, answerDeadlineMs = ANSWER_DEADLINE_MS }) {
    super();
    this.#url = url;
    this.#fetchToken = fetchToken;
    this.#answerDeadlineMs = answerDeadlineMs;
    this.room = room;
  }

  /** The token in use, for HTTP calls besides; null before the first. */
  get token() {
    return this.#token;
  }

  /** Be in the room; resolves when it is over: after `stop`, or when coming back is no use. */
  async run() {
    for (let attempt = 0; !this.#stopped.signal.aborted; attempt += 1) {
      this.#tell(State.CONNECTING);
      const start = performance.now();
      const closed = await this.#live();
      if (this.#stopped.signal.aborted) break;
      if (!mayReconnect(closed.code)) {
        this.#tell(State.STOPPED, closed.reason || `closed with code ${closed.code}`);
        return;
      }
      if (closed.code === CloseCode.TOKEN_EXPIRED) this.#token = null;
      if (performance.now() - start > STABLE_AFTER_MS) attempt = 0;
      const retryInMs = reconnectDelayMs(closed, attempt, Math.random());
      this.#tell(State.WAITING, closed.reason, retryInMs);
      await this.#pause(retryInMs);
    }
    this.#tell(State.STOPPED);
  }

  /** Leave, for good. */
  stop() {
    this.#stopped.abort();
    this.#connection?.close({ code: CloseCode.NORMAL, reason: "" });
  }

  /** Say `data` in the room; resolves once the server has it. */
  async publish(data, { important = false } = {}) {
    const level = important ? Level.IMPORTANT : Level.NORMAL;
    await this.#ask(PackageType.MESSAGE, encodePublish({ room: this.room, level, data }));
  }

  /** Resolve to the number of members of the room. */
  async members() {
    const reply = await this.#ask(PackageType.MEMBERS);
    return Number(new TextDecoder().decode(reply.data));
  }

  /** Leave the room and join another; refused, the client stays where it is. */
  async switchRoom(room) {
    if (!this.#connection) throw new Disconnected(LOST);
    await this.#signIn(this.#connection, room);
  }

  /** One connection, from its token to its end: return why it ended. */
  async #live() {
    const fresh = this.#token === null;
    if (fresh) {
      try {
        this.#token = await this.#fetchToken();
      } catch (error) {
        // Not judged by its code, as a refused sign-in is: those are the conn server's.
        const code = error instanceof Refused ? CloseCode.NORMAL : CloseCode.ABNORMAL;
        return { code, reason: error.message };
      }
    }
    try {
      const deliver = (push) => this.#deliver(push);
      const connection = new Connection(this.#url, deliver, this.#answerDeadlineMs);
      this.#connection = connection;
      this.#stopped.signal.throwIfAborted();
      await within(CONNECT_DEADLINE_MS, connection.opened, connection.closed);
      const signedIn = await this.#signIn(connection, this.room);
      return await this.#beatUntilClosed(connection, signedIn);
    } catch (error) {
      return this.#closedBy(error, fresh);
    } finally {
      this.#connection?.close(LOST);
      this.#connection = null;
    }
  }

  /** Say what an error of a connection means for the next attempt. */
  #closedBy(error, fresh) {
    if (error instanceof Disconnected) return error.closed;
    if (error instanceof Refused) {
      const tokenIsOld = error.code === NOT_SIGNED_IN && !fresh;
      if (tokenIsOld) this.#token = null;
      const code = tokenIsOld || error.code === UNAVAILABLE ? CloseCode.ABNORMAL : CloseCode.NORMAL;
      return { code, reason: error.message };
    }
    return { code: CloseCode.ABNORMAL, reason: error.message };
  }

  async #signIn(connection, room) {
    const data = encodeSignIn({ token: this.#token, room });
    const { signedIn } = verdictOf(await connection.request(PackageType.SIGN_IN, data));
    this.room = room;
    this.#tell(State.JOINED);
    this.#emit("joined", { room, members: signedIn?.members ?? null });
    return signedIn;
  }

  async #beatUntilClosed(connection, signedIn) {
    const intervalMs = ((signedIn?.heartbeatTimeoutS || DEFAULT_HEARTBEAT_TIMEOUT_S) * 1000) / 3;
    const beat = async () => {
      const start = performance.now();
      try {
        await connection.request(PackageType.HEARTBEAT);
        this.#emit("heartbeat", { roundTripMs: performance.now() - start });
      } catch (error) {
        connection.close({ code: CloseCode.ABNORMAL, reason: error.message });
      }
    };
    const timer = setInterval(beat, intervalMs);
    try {
      await beat();
      return await connection.closed;
    } finally {
      clearInterval(timer);
    }
  }

  async #ask(type, data) {
    if (!this.#connection) throw new Disconnected(LOST);
    const reply = await this.#connection.request(type, data);
    if (reply.type !== type) verdictOf(reply);
    return reply;
  }

  #deliver({ room, level, messages }) {
    for (const message of messages) {
      this.#emit("message", { ...message, room, important: level === Level.IMPORTANT });
    }
  }

  /** Wait, or until the network is back, or until `stop`. */
  #pause(delayMs) {
    return new Promise((resolve) => {
      const over = new AbortController();
      const finish = () => {
        clearTimeout(timer);
        over.abort();
        resolve();
      };
      const timer = setTimeout(finish, delayMs);
      window.addEventListener("online", finish, { signal: over.signal });
      this.#stopped.signal.addEventListener("abort", finish, { signal: over.signal });
    });
  }

  #tell(state, reason = "", retryInMs = 0) {
    this.#emit("state", { state, reason, retryInMs });
  }

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

/** Return the Err of a reply, or throw it as Refused. */
function verdictOf(reply) {
  const verdict = decodeVerdict(reply.data);
  if (verdict.code !== 0) throw new Refused(verdict);
  return verdict;
}

/** Wait for `promise`; the connection's end or the deadline are errors. */
async function within(deadlineMs, promise, closed) {
  let timer;
  const deadline = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new NoAnswer("no connection in time")), deadlineMs);
  });
  const ended = closed.then((why) => { throw new Disconnected(why); });
  ended.catch(() => {}); // it will end one day, when nobody waits here any more
  try {
    await Promise.race([promise, ended, deadline]);
  } finally {
    clearTimeout(timer);
  }
}
