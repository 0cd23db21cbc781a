// News of one's own queued launches, as browser notifications if the person has allowed them.

import {announce} from "./say.js";

const root = document.documentElement;
const live = document.getElementById("live");

const mayNotify = () => "Notification" in window && Notification.permission === "granted";
const isMine = (ticket) => ticket.dataset.actor === live.dataset.actor;
const myTickets = (which) => live ? [...live.querySelectorAll(which)].filter(isMine) : [];
const told = new Set(myTickets("[data-news-key]").map((ticket) => ticket.dataset.newsKey));

// Whether the person waits for news and allows notifications.
export function isAwaited() {
  return mayNotify() && myTickets("[data-ticket][data-state=waiting]").length > 0;
}

// Tells the style sheet whether permission can still be requested: otherwise the button for that is hidden.
function showNotify() {
  root.dataset.notify = "Notification" in window && isSecureContext ? Notification.permission : "unavailable";
}

// Requests permission to notify, only when the person wants it.
document.addEventListener("click", async (event) => {
  if (!event.target.closest("[data-notify-ask]")) return;
  await Notification.requestPermission();
  showNotify();
});

// Shows each piece of news once; news that was withdrawn (it no longer fits) is shown again if it returns.
function tellNews() {
  const news = myTickets("[data-news-key]");
  for (const ticket of news) {
    if (told.has(ticket.dataset.newsKey)) continue;
    announce(ticket.dataset.news);
    if (!mayNotify()) continue;
    const options = {body: ticket.dataset.news, tag: ticket.dataset.ticket, lang: root.lang};
    const shown = new Notification(document.title, options);
    // Returns to the page.
    shown.addEventListener("click", () => { window.focus(); shown.close(); });
  }
  told.clear();
  for (const ticket of news) told.add(ticket.dataset.newsKey);
}

// Every swap can contain news.
document.addEventListener("htmx:after:swap", tellNews);
showNotify();
