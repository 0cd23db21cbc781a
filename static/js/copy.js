// Copying: the page is often read over plain http, where browsers do not offer the clipboard.

const COPIED_STAYS_MS = 2000;
const copied = new WeakSet();

// Copies by a selection, which every page may do, and restores the previous selection and focus.
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

// Copies the text that the button names, and confirms it in the button for a moment.
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
