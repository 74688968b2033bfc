// Draws the figures anew every ten seconds while the page is looked at. The page works without it.
"use strict";

const EVERY = 10000;
const board = document.getElementById("figures");
const state = document.getElementById("state");
const button = document.getElementById("pause");
let paused = false;
let asking = false;

function say(text) {
  if (state.textContent !== text) state.textContent = text;
}

function draw(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html");
  for (const part of fresh.querySelectorAll("[data-live]")) {
    board.querySelector(`[data-live=${part.dataset.live}]`)?.replaceChildren(...part.childNodes);
  }
  say("");
}

function stop(text) {
  clearInterval(timer);
  button.hidden = true;
  say(text);
}

async function ask() {
  if (asking || paused || document.hidden) return;
  asking = true;
  try {
    const answer = await fetch(board.dataset.from, { cache: "no-store", redirect: "manual" });
    const text = await answer.text();
    if (answer.ok) draw(text);
    // A redirect is to a sign-in page.
    else if ([0, 401, 403].includes(answer.status)) stop("Not updating: you are not signed in any more. Please sign in again.");
    else throw new Error(answer.statusText);
  } catch {
    say("No answer. Trying again.");
  } finally {
    asking = false;
  }
}

button.addEventListener("click", () => {
  paused = !paused;
  button.textContent = paused ? "Resume" : "Pause";
  say(paused ? "Paused." : "");
  ask();
});

const timer = setInterval(ask, EVERY);
document.addEventListener("visibilitychange", ask);
button.hidden = false;
