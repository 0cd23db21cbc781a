// Page-wide events that attributes cannot express. Everything on the page works without this file, a little slower.
"use strict";

(() => {
  const root = document.documentElement;
  const live = document.getElementById("live");
  const dialog = document.getElementById("dialog");
  const dialogBody = document.getElementById("dialog-body");
  const say = document.getElementById("say");
  const offline = document.getElementById("offline");
  const units = (root.dataset.units || "s,min,h,d").split(",");
  const SAY_STAYS_MS = 9000;
  const PROBLEM_MARK = "\u001e";

  // --- Time: the server's clock and the age of the reading go on between two answers ---

  let clock = {server: Number(root.dataset.clock), at: performance.now()};
  let reading = null;

  const serverNow = () => clock.server + (performance.now() - clock.at) / 1000;

  function takeReadingAge(ageS) {
    reading = Number.isFinite(ageS) ? serverNow() - ageS : null;
  }

  // The same forms as whole_duration and short_age in webapp/web/formats.py.
  function elapsed(seconds) {
    const s = Math.max(0, Math.floor(seconds));
    const [sec, min, hour, day] = units;
    const join = (...parts) => parts.filter(([n]) => n).map(([n, unit]) => `${n}\u00a0${unit}`).join(" ");
    if (s < 60) return `${s}\u00a0${sec}`;
    if (s < 3600) return join([Math.floor(s / 60), min], [s % 60, sec]);
    if (s < 86400) return join([Math.floor(s / 3600), hour], [Math.floor((s % 3600) / 60), min]);
    return join([Math.floor(s / 86400), day], [Math.floor((s % 86400) / 3600), hour]);
  }

  function ago(seconds) {
    const s = Math.max(0, Math.floor(seconds));
    const [sec, min, hour, day] = units;
    const [n, unit] = s >= 86400 ? [s / 86400, day] : s >= 3600 ? [s / 3600, hour] : s >= 60 ? [s / 60, min] : [s, sec];
    return root.dataset.ago.replace("{}", `${Math.floor(n)}\u00a0${unit}`);
  }

  function write(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function tick() {
    const now = serverNow();
    for (const element of document.querySelectorAll("[data-since]")) {
      const seconds = now - Number(element.dataset.since);
      write(element, element.dataset.form === "ago" ? ago(seconds) : elapsed(seconds));
    }
    for (const element of document.querySelectorAll("[data-until]")) write(element, elapsed(Number(element.dataset.until) - now));
    if (reading === null) return;
    for (const element of document.querySelectorAll("[data-reading-age]")) write(element, ago(now - reading));
    for (const element of document.querySelectorAll("[data-offline-age]")) write(element, elapsed(now - reading));
  }

  const firstAge = document.querySelector("[data-reading-age]")?.dataset.readingAge;
  takeReadingAge(firstAge ? Number(firstAge) : NaN);
  setInterval(tick, 1000);

  // --- The poll ---

  const isPoll = (event) => {
    const source = event.detail?.ctx?.sourceElement;
    return Boolean(source) && (source === live || source.hasAttribute?.("data-poll"));
  };

  const notices = document.getElementById("notices");
  const isWatched = (source) => source === notices && Boolean(notices.querySelector("[data-watched]"));

  // A hidden tab asks for nothing, unless it promised to tell somebody, or somebody may unload a model of theirs; it catches up by
  // visibilitychange when it is seen again.
  document.addEventListener("htmx:config:request", (event) => {
    if (!isPoll(event) || !document.hidden) return;
    const {sourceElement, request} = event.detail.ctx;
    if (!isAwaited() && !isWatched(sourceElement)) event.preventDefault();
    request.headers["Warden-Hidden"] = "true";
  });

  // Says in the tab's title how many messages stand in the banner.
  const title = document.title;
  const countInTitle = () => {
    const count = notices.querySelectorAll(".banner").length;
    document.title = count ? `(${count}) ${title}` : title;
  };
  if (notices) {
    countInTitle();
    new MutationObserver(countInTitle).observe(notices, {childList: true, subtree: true});
  }

  // Every answer proves that the server is there; one to the poll, 204 too, brings the server's clock and the age of the figures.
  document.addEventListener("htmx:after:request", (event) => {
    const response = event.detail?.ctx?.response;
    if (!response || response.status >= 500) return;
    if (offline) offline.hidden = true;
    if (!isPoll(event)) return;
    const now = Number(response.headers.get("Warden-Clock"));
    if (now) {
      clock = {server: now, at: performance.now()};
      takeReadingAge(Number(response.headers.get("Warden-Reading-Age") ?? NaN));
    }
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

  // --- Results: a good one goes by itself, any can be sent away ---

  let goes = 0;
  if (say) {
    new MutationObserver(() => {
      clearTimeout(goes);
      const note = say.querySelector(".say--good");
      if (note) goes = setTimeout(() => note.remove(), SAY_STAYS_MS);
    }).observe(say, {childList: true});
  }

  // Closes a result by its button.
  document.addEventListener("click", (event) => {
    event.target.closest("[data-dismiss]")?.closest(".say")?.remove();
  });

  // --- News of one's own waiting requests: told by the browser where the person has allowed it ---

  const mayNotify = () => "Notification" in window && Notification.permission === "granted";
  const isMine = (ticket) => ticket.dataset.actor === live.dataset.actor;
  const myTickets = (which) => live ? [...live.querySelectorAll(which)].filter(isMine) : [];
  const told = new Set(myTickets("[data-news-key]").map((ticket) => ticket.dataset.newsKey));

  function isAwaited() {
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

  // Says it where results are announced, for whoever looks on or listens.
  function announce(text) {
    const note = document.createElement("p");
    const words = document.createElement("span");
    note.className = "say say--good";
    words.className = "say__text";
    words.textContent = text;
    note.append(words);
    say.replaceChildren(note);
  }

  // Tells each piece of news once; one that is taken back (it fits no more) is told again when it comes again.
  function tellNews() {
    const news = myTickets("[data-news-key]");
    for (const ticket of news) {
      if (told.has(ticket.dataset.newsKey)) continue;
      announce(ticket.dataset.news);
      if (!mayNotify()) continue;
      const shown = new Notification(document.title, {body: ticket.dataset.news, tag: ticket.dataset.ticket, lang: root.lang});
      shown.addEventListener("click", () => { window.focus(); shown.close(); });
    }
    told.clear();
    for (const ticket of news) told.add(ticket.dataset.newsKey);
  }

  document.addEventListener("htmx:after:swap", tellNews);
  showNotify();

  // --- Dialogs: their content comes by htmx, the server asks for them to be opened and closed ---

  // Opens the dialog that has just been filled; the focus goes where its content says, else to the first button.
  document.body.addEventListener("warden:dialog", () => {
    if (dialog && !dialog.open) dialog.showModal();
    dialogBody.querySelector("[autofocus]")?.focus();
  });

  // Closes it when what it asked for has begun.
  document.body.addEventListener("warden:close-dialog", () => dialog?.open && dialog.close());

  // An empty dialog polls nothing, and an answer under way is stopped with it.
  dialog?.addEventListener("close", () => {
    dialogBody.querySelector("[data-ask-stop]:not([hidden])")?.click();
    dialogBody.replaceChildren();
  });

  // A click beside the dialog closes it; one that began inside (a selection of text) does not.
  let pressedOutside = false;
  dialog?.addEventListener("pointerdown", (event) => { pressedOutside = event.target === dialog; });
  dialog?.addEventListener("click", (event) => {
    if (event.target === dialog && pressedOutside && event.clientX) dialog.close();
  });

  // --- Filling the form: advice, ways out and "choose" are links that say the form's values ---

  function fill(form, values) {
    const whole = values.has("mode");
    for (const field of form.elements) {
      if (!field.name || field.type === "hidden") continue;
      if (field.type === "checkbox") {
        if (whole) field.checked = (values.get(field.name) ?? "").split(",").includes(field.value);
      } else if (values.has(field.name)) {
        if (field.type === "radio") field.checked = field.value === values.get(field.name);
        else field.value = values.get(field.name);
      }
    }
    form.dispatchEvent(new Event("change", {bubbles: true}));
  }

  // Fills the form in place instead of loading the page anew.
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-fill]");
    const form = document.getElementById("switch-form");
    if (!link || !form || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    fill(form, new URL(link.href).searchParams);
    document.getElementById("switch").scrollIntoView({block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth"});
  });

  // A plan that is under way for what the form said a moment ago comes no more: it would put that back.
  const plan = document.getElementById("plan");
  for (const type of ["input", "change"]) {
    document.getElementById("switch-form")?.addEventListener(type, () => plan.dispatchEvent(new Event("htmx:abort")));
  }

  // Shows all models again without loading the page anew, so that the form keeps what was chosen.
  document.addEventListener("click", (event) => {
    const search = document.getElementById("models-q");
    if (!event.target.closest("[data-clear-search]") || !search) return;
    event.preventDefault();
    search.value = "";
    search.dispatchEvent(new Event("input", {bubbles: true}));
    search.focus();
  });

  // --- Asking a model: the answer is shown as it comes ---

  async function stream(form, box, signal) {
    const answer = box.querySelector("[data-ask-answer]");
    const state = box.querySelector("[data-ask-state]");
    const problem = box.querySelector("[data-ask-problem]");
    const told = (text) => { problem.textContent = text; problem.hidden = !text; };
    answer.textContent = "";
    answer.hidden = true;
    told("");
    state.textContent = form.dataset.waiting;
    try {
      const response = await fetch(form.dataset.stream, {method: "POST", body: new URLSearchParams(new FormData(form)), signal});
      if (!response.ok) {
        const plain = (response.headers.get("Content-Type") || "").startsWith("text/plain");
        state.textContent = "";
        return told(plain ? await response.text() : form.dataset.failed);
      }
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const {done, value} = await reader.read();
        if (done) break;
        text += value;
        const [said, why] = text.split(PROBLEM_MARK);
        const follows = answer.scrollHeight - answer.scrollTop - answer.clientHeight < 24;
        answer.textContent = said;
        answer.hidden = !said;
        answer.dataset.live = "";
        if (said) state.textContent = "";
        if (why !== undefined) told(why);
        if (follows) answer.scrollTop = answer.scrollHeight;
      }
      state.textContent = text ? "" : form.dataset.silent;
    } catch (error) {
      state.textContent = error.name === "AbortError" ? form.dataset.stopped : "";
      if (error.name !== "AbortError") told(form.dataset.failed);
    } finally {
      delete answer.dataset.live;
    }
  }

  // Sends the question by fetch, so that the pieces can be shown as they come; the button beside it stops the answer.
  document.addEventListener("submit", async (event) => {
    const form = event.target.closest("[data-ask-form]");
    if (!form) return;
    event.preventDefault();
    const box = form.closest("[data-ask]");
    const send = form.querySelector("[data-ask-send]");
    const stop = form.querySelector("[data-ask-stop]");
    if (send.disabled) return;
    const aborter = new AbortController();
    const abort = () => aborter.abort();
    stop.addEventListener("click", abort);
    send.disabled = true;
    stop.hidden = false;
    try {
      await stream(form, box, aborter.signal);
    } finally {
      stop.removeEventListener("click", abort);
      send.disabled = false;
      stop.hidden = true;
    }
  });

  // Ctrl+Enter in the question sends it.
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.target.closest?.("[data-ask-form]")?.requestSubmit();
  });

  // --- Copying: the page is often read over plain http, where browsers keep the clipboard to themselves ---

  const COPIED_STAYS_MS = 2000;
  const copied = new WeakSet();

  // Copies by a selection, which every page may, and puts back what was selected and focused.
  function copyBySelection(text) {
    const selection = getSelection();
    const ranges = Array.from({length: selection.rangeCount}, (_, index) => selection.getRangeAt(index));
    const focused = document.activeElement;
    const area = document.createElement("textarea");
    area.value = text;
    area.readOnly = true;
    area.className = "hidden-text";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    focused?.focus?.({preventScroll: true});
    selection.removeAllRanges();
    for (const range of ranges) selection.addRange(range);
    return done;
  }

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      return copyBySelection(text);
    }
  }

  // Copies the text that the button names, and says so in the button for a moment.
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copied]");
    if (!button || copied.has(button)) return;
    const text = button.dataset.copyText ?? document.querySelector(button.dataset.copy).textContent;
    if (!await copy(text)) return;
    const label = button.textContent;
    copied.add(button);
    button.textContent = button.dataset.copied;
    setTimeout(() => {
      button.textContent = label;
      copied.delete(button);
    }, COPIED_STAYS_MS);
  });

  // --- The log: follows its end while the reader is there, and stands still while something above is read ---

  const logCard = document.querySelector("[data-log]");
  const logLines = document.getElementById("log");
  if (logCard && logLines) followLog(logCard, logLines);

  function followLog(card, lines) {
    const NEAR_PX = 24;
    const KEPT_WHILE_READING = 5;
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

    // New lines came: go along, unless the reader is elsewhere or has text selected.
    new MutationObserver((changes) => {
      const added = changes.reduce((sum, change) => sum + change.addedNodes.length, 0);
      if (!added) return;
      if (follows && !isSelecting()) return goToEnd();
      follows = false;
      unseen += changes.flatMap((change) => [...change.addedNodes]).filter((node) => node.nodeType === 1).length;
      trim(limit * KEPT_WHILE_READING);
      show();
    }).observe(lines, {childList: true});

    // The reader scrolls: at the end the page follows again.
    lines.addEventListener("scroll", () => {
      follows = isAtEnd() && !isSelecting();
      if (follows) unseen = 0;
      show();
    }, {passive: true});

    // A window of another size has another end.
    addEventListener("resize", () => follows && goToEnd());

    toEnd.addEventListener("click", () => {
      getSelection().removeAllRanges();
      goToEnd();
    });

    // Stops asking for new lines, and catches up when it is let go.
    pause?.addEventListener("click", () => {
      const paused = pause.getAttribute("aria-pressed") !== "true";
      pause.setAttribute("aria-pressed", String(paused));
      pause.textContent = paused ? pause.dataset.paused : watchWord;
      if (!paused) document.body.dispatchEvent(new Event("warden:log"));
    });

    const isLogPoll = (event) => event.detail?.ctx?.sourceElement?.id === "log-poll";

    // A hidden tab and one that is paused ask for nothing.
    document.addEventListener("htmx:config:request", (event) => {
      if (isLogPoll(event) && (document.hidden || pause.getAttribute("aria-pressed") === "true")) event.preventDefault();
    });

    // Nothing is left to follow once the model has gone.
    document.addEventListener("htmx:after:swap", () => {
      if (pause && !document.getElementById("log-poll")) pause.hidden = true;
    });

    // The server does not answer, or does so again.
    document.addEventListener("htmx:error", (event) => {
      if (isLogPoll(event)) lost.hidden = false;
    });
    document.addEventListener("htmx:after:request", (event) => {
      if (isLogPoll(event) && event.detail.ctx.response) lost.hidden = event.detail.ctx.response.status < 500;
    });

    if (pause) pause.hidden = false;
    goToEnd();
  }
})();
