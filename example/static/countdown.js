// Counts the session's time down, and asks the server every few seconds how it really is.
// The endpoint is passive: watching does not keep the session alive.
"use strict";

const EVERY = 5000;
const board = document.getElementById("session");
const over = document.getElementById("over");
const state = document.getElementById("state");
const arc = document.getElementById("arc");
const watching = state.textContent;

let facts = Object.fromEntries(["left", "span", "age", "idle"].map((name) => [name, Number(board.dataset[name])]));
let since = performance.now();
let asking = false;
let timer;

function clock(seconds) {
  const whole = Math.max(Math.floor(seconds), 0);
  const two = (number) => String(number).padStart(2, "0");
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

function show(name, text) {
  const place = board.querySelector(`[data-show=${name}]`);
  if (place.textContent !== text) place.textContent = text;
}

function say(text) {
  if (state.textContent !== text) state.textContent = text;
}

function tick() {
  const passed = (performance.now() - since) / 1000;
  const left = facts.left - passed;
  show("left", clock(left));
  show("age", clock(facts.age + passed));
  show("idle", clock(facts.idle + passed));
  arc.setAttribute("stroke-dasharray", `${Math.max(0, Math.min(100, (100 * left) / facts.span))} 200`);
  board.classList.toggle("late", left < 60);
  // Only the server knows whether it is over: this clock stands still while a laptop sleeps.
  if (left <= 0) ask();
}

function learn(answer) {
  facts = answer;
  since = performance.now();
  show("tier", answer.tier);
  show("user", answer.user || "nobody yet");
  show("uses", String(answer.uses));
  show("expires_at", `${answer.expires_at.slice(11, 19)} UTC`);
  say(watching);
  tick();
}

function finish(why) {
  if (why) document.getElementById("why").textContent = why;
  clearInterval(timer);
  clearInterval(poll);
  document.body.classList.add("ended");
  board.hidden = true;
  over.hidden = false;
  over.focus();
  document.title = "Session ended · Quayside";
}

async function ask() {
  if (asking || document.hidden) return;
  asking = true;
  try {
    const response = await fetch(board.dataset.watch, { cache: "no-store" });
    if (!response.ok) throw new Error(response.statusText);
    const answer = await response.json();
    if (answer.alive) learn(answer);
    else finish();
  } catch {
    say("The server does not answer. Trying again.");
  } finally {
    setTimeout(() => { asking = false; }, 500);
  }
}

timer = setInterval(tick, 250);
const poll = setInterval(ask, EVERY);
document.addEventListener("visibilitychange", ask);
// The heartbeat may hear of the end first, and knows why. This page says it in a card of its own.
document.addEventListener("heartbeat", (event) => {
  if (event.detail.left !== null) return;
  event.preventDefault();
  finish(event.detail.text);
});
tick();
