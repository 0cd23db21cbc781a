// The poll: which parts of the page ask for news when, and what the page says when no answer comes.

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

// A hidden tab asks for nothing, unless it promised to tell somebody, or somebody may unload a model of theirs; it
// catches up by visibilitychange when it is seen again.
document.addEventListener("htmx:config:request", (event) => {
  if (!isPoll(event) || !document.hidden) return;
  const {sourceElement, request} = event.detail.ctx;
  if (!isAwaited() && !isWatched(sourceElement)) event.preventDefault();
  request.headers["Warden-Hidden"] = "true";
});

// Every answer proves that the server is there; one to the poll, 204 too, brings the server's clock and the age of the
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

// The poll failed: the figures stay, and the page says how old they are until an answer comes again.
const lost = (event) => {
  if (!isPoll(event)) return;
  const status = event.detail.ctx.response?.status;
  if (status !== undefined && status < 500) return;
  if (offline) offline.hidden = false;
  tick();
};
document.addEventListener("htmx:error", lost);
document.addEventListener("htmx:response:error", lost);

// Another request that got no answer at all says so where results are announced.
document.addEventListener("htmx:error", (event) => {
  if (event.detail?.ctx && !isPoll(event) && !event.detail.ctx.response && offline) offline.hidden = false;
});
