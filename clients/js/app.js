/** The demo page: forms in, messages out.  What others wrote is only ever set as textContent. */

import { Refused, RoomClient, State } from "./client.js";
import { encodeText, readableText } from "./protocol.js";

const HTTP_DEADLINE_MS = 10_000;
const MEMBERS_EVERY_MS = 5_000;
const MAX_SHOWN = 500;
const NEAR_THE_END_PX = 80;

const page = Object.fromEntries(
  Array.from(document.querySelectorAll("[id]"), (element) => [
    element.id.replace(/-(\w)/g, (_, letter) => letter.toUpperCase()), element,
  ]),
);
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });

let client = null;
let userName = "";
let followsTheEnd = true; // as long as the reader has not scrolled up

/** Call the server's HTTP side with a form; return its JSON, or throw what it says (Refused: for good). */
async function post(path, fields, token) {
  const response = await fetch(path, {
    method: "POST",
    body: new URLSearchParams(fields),
    headers: token ? { Authorization: `Bearer ${token}` } : {},
    signal: AbortSignal.timeout(HTTP_DEADLINE_MS),
  });
  const answer = await response.json();
  if (answer.code === 1) return answer;
  // Over a limit, or on a node that drains: the same may be taken in a while.
  if (response.status === 429 || response.status === 503) throw new Error(answer.msg);
  throw new Refused({ code: answer.code, text: answer.msg });
}

async function fetchToken() {
  return (await post("/tk", { uid: userName })).data;
}

function join(name, room) {
  userName = name;
  const url = new URL("/room", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const joining = new RoomClient({ url: url.href, room, fetchToken });
  const shows = { state: showState, joined: showRoom, message: showMessage, heartbeat: showHeartbeat };
  for (const [name, show] of Object.entries(shows)) {
    // What a client that was left still has to say is of no interest.
    joining.addEventListener(name, ({ detail }) => joining === client && show(detail));
  }
  client = joining;
  client.run();
}

function leave() {
  client?.stop();
  client = null;
  showState({ state: State.STOPPED });
  page.chat.hidden = true;
  page.join.hidden = false;
  page.messages.replaceChildren();
  page.empty.hidden = false;
  page.name.focus();
}

const STATE_TEXTS = {
  [State.CONNECTING]: "connecting …", [State.JOINED]: "connected", [State.STOPPED]: "not connected",
};

function showState({ state, reason, retryInMs }) {
  page.connection.dataset.state = state;
  page.connectionText.textContent =
    state === State.WAITING ? `again in ${Math.ceil(retryInMs / 1000)} s` : STATE_TEXTS[state];
  if (state === State.WAITING && page.chat.hidden) page.joinError.textContent = reason || "no connection";
  if (state === State.WAITING && !page.chat.hidden) note(`Connection lost. ${reason}`);
  if (state === State.STOPPED && reason) {
    page.joinError.textContent = reason;
    leave();
  }
}

function showRoom({ room, members }) {
  const name = `# ${room}`;
  if (page.chat.hidden || page.roomName.textContent !== name) {
    page.messages.replaceChildren();
    page.empty.hidden = false;
  } else {
    note("Connected again. What was said meanwhile is not shown.");
  }
  page.joinError.textContent = "";
  page.join.hidden = true;
  page.chat.hidden = false;
  page.roomName.textContent = name;
  showMembers(members);
  document.title = `${room} – Roomcast`;
  const here = new URL(location.href);
  here.search = new URLSearchParams({ room });
  page.secondTab.href = here.href;
  history.replaceState(null, "", here);
  page.text.focus();
}

function showHeartbeat({ roundTripMs }) {
  page.roundTrip.textContent = `heartbeat ${Math.max(1, Math.round(roundTripMs))} ms`;
}

function showMembers(count) {
  if (count !== null) page.members.textContent = count === 1 ? "only you" : `${count} members`;
}

function showMessage({ room, important, sender, sentAtMs, data }) {
  if (room !== client?.room) return;
  const text = readableText(data);
  const sentAt = new Date(sentAtMs || Date.now());
  const item = element("li", "message");
  item.classList.toggle("important", important);
  item.classList.toggle("own", sender === userName);
  const avatar = element("span", "avatar", [...(sender || "?")][0].toUpperCase());
  avatar.setAttribute("aria-hidden", "true");
  avatar.style.setProperty("--hue", hueOf(sender));
  const head = element("p", "head");
  const time = element("time", "", clock.format(sentAt));
  time.dateTime = sentAt.toISOString();
  head.append(element("b", "sender", sender || "somebody"), time);
  if (important) head.append(element("span", "badge", "Important"));
  const bubble = element("div", "bubble");
  bubble.append(head, element("p", "text", text));
  item.append(avatar, bubble);
  append(item);
  if (important) page.urgent.textContent = `Important, from ${sender || "somebody"}: ${text}`;
}

function note(text) {
  append(element("li", "note", text));
}

function append(item) {
  page.empty.hidden = true;
  page.messages.append(item);
  while (page.messages.children.length > MAX_SHOWN) page.messages.firstElementChild.remove();
  if (followsTheEnd) scrollToEnd();
  else page.newer.hidden = false;
}

function scrollToEnd() {
  followsTheEnd = true;
  page.scroller.scrollTop = page.scroller.scrollHeight;
  page.newer.hidden = true;
}

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

/** Give everybody a colour that is the same on every screen. */
function hueOf(name) {
  let hash = 0;
  for (const letter of name) hash = (hash * 31 + letter.codePointAt(0)) % 360;
  return hash;
}

/** Run what a form or button asks for; what goes wrong is said beside it. */
async function attempt(action) {
  page.sendError.textContent = "";
  try {
    await action();
  } catch (error) {
    page.sendError.textContent = error.message;
  }
}

/** Take what was typed and give it to `send`; the field is free at once, and gets back what was not taken. */
function submitText(send) {
  const text = page.text.value.trim();
  const important = page.important.checked;
  page.text.focus();
  if (!text) return;
  page.text.value = "";
  page.important.checked = false;
  scrollToEnd();
  attempt(async () => {
    try {
      await send(text, important);
    } catch (error) {
      if (!page.text.value) {
        page.text.value = text;
        page.important.checked = important;
      }
      throw error;
    }
  });
}

page.joinForm.addEventListener("submit", (event) => {
  event.preventDefault();
  page.joinError.textContent = "";
  sessionStorage.setItem("name", page.name.value.trim());
  client?.stop();
  join(page.name.value.trim(), page.room.value.trim());
});

page.sendForm.addEventListener("submit", (event) => {
  event.preventDefault();
  submitText((text, important) => client.publish(encodeText(text), { important }));
});

page.post.addEventListener("click", () => {
  submitText((text) => post("/msg", { room_id: client.room, msg: text }, client.token));
});

page.switchForm.addEventListener("submit", (event) => {
  event.preventDefault();
  const room = page.switchRoom.value.trim();
  attempt(async () => {
    if (room !== client.room) await client.switchRoom(room);
    page.switchRoom.value = "";
  });
});

page.leave.addEventListener("click", leave);
page.newer.addEventListener("click", scrollToEnd);
page.scroller.addEventListener("scroll", () => {
  const { scrollHeight, scrollTop, clientHeight } = page.scroller;
  followsTheEnd = scrollHeight - scrollTop - clientHeight < NEAR_THE_END_PX;
  if (followsTheEnd) page.newer.hidden = true;
});
// A phone's keyboard makes the list smaller without scrolling it.
new ResizeObserver(() => followsTheEnd && scrollToEnd()).observe(page.scroller);

setInterval(() => {
  if (page.connection.dataset.state !== State.JOINED || document.hidden) return;
  client.members().then(showMembers, () => {}); // the connection's own state says what is wrong
}, MEMBERS_EVERY_MS);

const wishes = new URLSearchParams(location.search);
page.name.value = wishes.get("name") ?? sessionStorage.getItem("name")
  ?? `guest-${Math.random().toString(36).slice(2, 6)}`;
page.room.value = wishes.get("room") ?? "lobby";
page.name.select();
