// Dialogs: htmx loads their content, and the server has them opened and closed.

const dialog = document.getElementById("dialog");
const dialogBody = document.getElementById("dialog-body");

// Opens the dialog that has just been filled; the focus moves where its content says, or else to the first button.
document.body.addEventListener("warden:dialog", () => {
  if (dialog && !dialog.open) dialog.showModal();
  dialogBody.querySelector("[autofocus]")?.focus();
});

// Closes it when the confirmed action has begun.
document.body.addEventListener("warden:close-dialog", () => dialog?.open && dialog.close());

// An empty dialog polls nothing, and an answer in progress is stopped with it.
dialog?.addEventListener("close", () => {
  dialogBody.querySelector("[data-ask-stop]:not([hidden])")?.click();
  dialogBody.replaceChildren();
});

// A click outside the dialog closes it, but not one that began inside (a selection of text).
let pressedOutside = false;
dialog?.addEventListener("pointerdown", (event) => { pressedOutside = event.target === dialog; });
dialog?.addEventListener("click", (event) => {
  if (event.target === dialog && pressedOutside && event.clientX) dialog.close();
});
