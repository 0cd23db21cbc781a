// The log: follows its end while the reader is there, and stops while the reader has scrolled up.

const NEAR_PX = 24;
const KEPT_WHILE_READING = 5;
const logCard = document.querySelector("[data-log]");
const logLines = document.getElementById("log");
if (logCard && logLines) followLog(logCard, logLines);

function followLog(card, lines) {
  const limit = Number(card.dataset.limit);
  const toEnd = card.querySelector("[data-log-end]");
  const news = card.querySelector("[data-log-new]");
  const pause = card.querySelector("[data-log-pause]");
  const lost = card.querySelector("[data-log-lost]");
  const watchWord = pause?.textContent;
  let follows = true;
  let unseen = 0;

  const isAtEnd = () => lines.scrollHeight - lines.scrollTop - lines.clientHeight < NEAR_PX;
  const isSelecting = () => {
    const selection = getSelection();
    return !selection.isCollapsed && lines.contains(selection.anchorNode);
  };

  function show() {
    toEnd.hidden = follows;
    news.textContent = unseen ? toEnd.dataset.new.replace("{}", unseen) : "";
  }

  function trim(most) {
    while (lines.children.length > most) lines.firstElementChild.remove();
  }

  function goToEnd() {
    follows = true;
    unseen = 0;
    trim(limit);
    lines.scrollTop = lines.scrollHeight;
    show();
  }

  // New lines: scroll along, unless the reader is elsewhere or has text selected.
  new MutationObserver((changes) => {
    const added = changes.reduce((sum, change) => sum + change.addedNodes.length, 0);
    if (!added) return;
    if (follows && !isSelecting()) return goToEnd();
    follows = false;
    unseen += changes.flatMap((change) => [...change.addedNodes]).filter((node) => node.nodeType === 1).length;
    trim(limit * KEPT_WHILE_READING);
    show();
  }).observe(lines, {childList: true});

  // When the reader scrolls to the end, the page follows again.
  lines.addEventListener("scroll", () => {
    follows = isAtEnd() && !isSelecting();
    if (follows) unseen = 0;
    show();
  }, {passive: true});

  // A resized window has another end.
  addEventListener("resize", () => follows && goToEnd());

  // The button scrolls to the end, and the page follows again.
  toEnd.addEventListener("click", () => {
    getSelection().removeAllRanges();
    goToEnd();
  });

  // Pauses the requests for new lines; when resumed, it catches up.
  pause?.addEventListener("click", () => {
    const paused = pause.getAttribute("aria-pressed") !== "true";
    pause.setAttribute("aria-pressed", String(paused));
    pause.textContent = paused ? pause.dataset.paused : watchWord;
    if (!paused) document.body.dispatchEvent(new Event("warden:log"));
  });

  const isLogPoll = (event) => event.detail?.ctx?.sourceElement?.id === "log-poll";

  // A hidden or paused tab requests nothing.
  document.addEventListener("htmx:config:request", (event) => {
    if (isLogPoll(event) && (document.hidden || pause.getAttribute("aria-pressed") === "true")) event.preventDefault();
  });

  // There is nothing to follow once the model is gone.
  document.addEventListener("htmx:after:swap", () => {
    if (pause && !document.getElementById("log-poll")) pause.hidden = true;
  });

  // The server does not answer, or answers again.
  document.addEventListener("htmx:error", (event) => {
    if (isLogPoll(event)) lost.hidden = false;
  });
  document.addEventListener("htmx:after:request", (event) => {
    if (isLogPoll(event) && event.detail.ctx.response) lost.hidden = event.detail.ctx.response.status < 500;
  });

  if (pause) pause.hidden = false;
  goToEnd();
}
