// News of one's own waiting requests: told by the browser where the person has allowed it.

import {announce} from "./say.js";

const root = document.documentElement;
const live = document.getElementById("live");

const mayNotify = () => "Notification" in window && Notification.permission === "granted";
const isMine = (ticket) => ticket.dataset.actor === live.dataset.actor;
const myTickets = (which) => live ? [...live.querySelectorAll(which)].filter(isMine) : [];
const told = new Set(myTickets("[data-news-key]").map((ticket) => ticket.dataset.newsKey));

// Whether the person waits for news that the browser may tell.
export function isAwaited() {
  return mayNotify() && myTickets("[data-ticket][data-state=waiting]").length > 0;
}

// Says to the style sheet whether the browser can still be asked: the button that asks is hidden elsewhere.
function showNotify() {
  root.dataset.notify = "Notification" in window && isSecureContext ? Notification.permission : "unavailable";
}

// Asks for the right to notify, only when the person wants it.
document.addEventListener("click", async (event) => {
  if (!event.target.closest("[data-notify-ask]")) return;
  await Notification.requestPermission();
  showNotify();
});

// Tells each piece of news once; one that is taken back (it fits no more) is told again when it comes again.
function tellNews() {
  const news = myTickets("[data-news-key]");
  for (const ticket of news) {
    if (told.has(ticket.dataset.newsKey)) continue;
    announce(ticket.dataset.news);
    if (!mayNotify()) continue;
    const options = {body: ticket.dataset.news, tag: ticket.dataset.ticket, lang: root.lang};
    const shown = new Notification(document.title, options);
    // Leads back to the page.
    shown.addEventListener("click", () => { window.focus(); shown.close(); });
  }
  told.clear();
  for (const ticket of news) told.add(ticket.dataset.newsKey);
}

// Every swap can bring news.
document.addEventListener("htmx:after:swap", tellNews);
showNotify();
