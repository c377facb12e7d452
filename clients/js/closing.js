/** What a close code tells the client: schema/closing.py, and how long to stay away.  Pure. */

export const CloseCode = Object.freeze({
  NORMAL: 1000, GOING_AWAY: 1001, ABNORMAL: 1006, TOKEN_EXPIRED: 4004, TOO_MANY_REQUESTS: 4029,
});

/** Codes after which coming back is no use; after every other, known or not, it may be. */
export const FINAL_CODES = Object.freeze([1000, 1002, 1003, 1007, 1009, 4003, 4100]);

const FIRST_DELAY_MS = 500;
const LONGEST_DELAY_MS = 30_000;
const SHORTEST_DELAY_MS = 100;
const TOO_MANY_REQUESTS_MS = 5_000;

/** Say whether coming back after a close with `code` can help. */
export function mayReconnect(code) {
  return !FINAL_CODES.includes(code);
}

/**
 * Return how many milliseconds to wait before the next attempt.
 *
 * Doubles with every failed attempt and is drawn at random below that, so that the clients of a server
 * that went away do not all come back in the same moment.
 *
 * @param {{code: number, reason: string}} closed why the last connection ended
 * @param {number} attempt failed attempts in a row, from 0
 * @param {number} random from 0 to below 1
 */
export function reconnectDelayMs({ code, reason }, attempt, random) {
  const ceiling = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** Math.min(attempt, 16));
  const delay = Math.max(SHORTEST_DELAY_MS, random * ceiling);
  if (code === CloseCode.TOO_MANY_REQUESTS) return TOO_MANY_REQUESTS_MS + delay;
  if (code === CloseCode.GOING_AWAY) return retryAfterMs(reason) + delay;
  return delay;
}

/** Read `{"retry_after_ms":N}`, the reason of a draining server; anything else is 0. */
function retryAfterMs(reason) {
  try {
    const told = JSON.parse(reason)?.retry_after_ms;
    return Number.isFinite(told) ? Math.min(Math.max(told, 0), LONGEST_DELAY_MS) : 0;
  } catch {
    return 0;
  }
}
