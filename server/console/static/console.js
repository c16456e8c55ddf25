// Live parts: every ten seconds one event, which htmx waits for; none while nobody looks. What cannot be read stays,
// grey, with its time: an old figure that says so is better than none, and none is better than a wrong one.
"use strict";
const EVERY_MS = 10000;
const refresh = () => {
  if (!document.hidden && document.getElementById("live")) document.body.dispatchEvent(new Event("refresh"));
};
setInterval(refresh, EVERY_MS);
document.addEventListener("visibilitychange", refresh);

const stale = (why) => {
  const part = document.getElementById("live");
  if (!part || part.classList.contains("stale")) return;
  part.classList.add("stale");
  const word = part.querySelector(".live-word"), said = part.querySelector(".stale-word");
  if (word) word.textContent = "Stale";
  if (said) said.textContent = " · " + why + "; the page shows the last figures that it read";
};
const UNREAD = "the page cannot be read now: load it again";
const ANOTHER = "this browser is now signed in for another organisation: open this page again from your product";
const isAnother = (event) => location.pathname.startsWith("/my/") && event.detail?.ctx?.response?.status === 409;
const why = (event) => (isAnother(event) ? ANOTHER : UNREAD);
document.addEventListener("htmx:response:error", (event) => stale(why(event)));
document.addEventListener("htmx:error", () => stale("the server does not answer"));
