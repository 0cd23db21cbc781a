// The poll: when the parts of the page request news, and what the page shows if there is no answer.

import {takeClock, tick} from "./clock.js";
import {isAwaited} from "./notify.js";

const live = document.getElementById("live");
const notices = document.getElementById("notices");
const offline = document.getElementById("offline");

const isPoll = (event) => {
  const source = event.detail?.ctx?.sourceElement;
  return Boolean(source) && (source === live || source.hasAttribute?.("data-poll"));
};

const isWatched = (source) => source === notices && Boolean(notices.querySelector("[data-watched]"));

// A hidden tab requests nothing, unless its person waits for a notification or a model of theirs may be unloaded. It
// catches up by visibilitychange when it becomes visible.
document.addEventListener("htmx:config:request", (event) => {
  if (!isPoll(event) || !document.hidden) return;
  const {sourceElement, request} = event.detail.ctx;
  if (!isAwaited() && !isWatched(sourceElement)) event.preventDefault();
  request.headers["Warden-Hidden"] = "true";
});

// Every answer proves that the server is up; one to the poll, even 204, contains the server's clock and the age of the
// figures.
document.addEventListener("htmx:after:request", (event) => {
  const response = event.detail?.ctx?.response;
  if (!response || response.status >= 500) return;
  if (offline) offline.hidden = true;
  if (!isPoll(event)) return;
  const now = Number(response.headers.get("Warden-Clock"));
  if (now) takeClock(now, Number(response.headers.get("Warden-Reading-Age") ?? NaN));
  tick();
});

// The poll failed: the figures stay, and the page shows their age until there is an answer again.
const lost = (event) => {
  if (!isPoll(event)) return;
  const status = event.detail.ctx.response?.status;
  if (status !== undefined && status < 500) return;
  if (offline) offline.hidden = false;
  tick();
};
document.addEventListener("htmx:error", lost);
document.addEventListener("htmx:response:error", lost);

// If another request gets no answer at all, that is announced with the results.
document.addEventListener("htmx:error", (event) => {
  if (event.detail?.ctx && !isPoll(event) && !event.detail.ctx.response && offline) offline.hidden = false;
});
