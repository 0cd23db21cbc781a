// Asking a model: the answer is shown as it arrives.

const PROBLEM_MARK = "\u001e";

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
    const body = new URLSearchParams(new FormData(form));
    const response = await fetch(form.dataset.stream, {method: "POST", body, signal});
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

// Sends the question by fetch, so that the pieces can be shown as they arrive; the next button stops the answer.
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
