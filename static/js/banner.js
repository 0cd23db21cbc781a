// The banner of messages to the person: the tab's title shows their number.

const notices = document.getElementById("notices");
const title = document.title;

const countInTitle = () => {
  const count = notices.querySelectorAll(".banner").length;
  document.title = count ? `(${count}) ${title}` : title;
};
if (notices) {
  countInTitle();
  new MutationObserver(countInTitle).observe(notices, {childList: true, subtree: true});
}
