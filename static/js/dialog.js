// Dialogs: their content comes by htmx, the server asks for them to be opened and closed.

const dialog = document.getElementById("dialog");
const dialogBody = document.getElementById("dialog-body");

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
