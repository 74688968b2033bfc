// Warns before the session ends, keeps it while the page is used, and takes the page off the screen
// when the server says that it has ended; docs/heartbeat.md tells how. Written to be small: it is
// served without its comments and spaces. Times are in seconds.
"use strict";
(() => {
  const doc = document, my = doc.currentScript.dataset, clock = performance, { url } = my;
  const every = +my.every || 60;
  // WCAG 2.2.1: 20 seconds at least. One more, for that is how far apart two looks are.
  const warn = Math.max(20, my.warn || 60) + 1;
  const born = Date.now() - clock.now();
  const tabs = new BroadcastChannel(url);
  // heard: when there was news last, or it was asked for in vain. end: NaN without a session. user:
  // whether the page was drawn for one. can: using the session makes it last longer.
  let heard = -1 / 0, end = NaN, user, can, active, busy, over, seen;

  // The one clock stands still while a laptop sleeps, the other can be set back.
  const now = () => Math.max(clock.now(), Date.now() - born) / 1e3;

  const dialog = doc.createElement("dialog");
  const [text, timer, button] = ["p", "p", "button"].map((name) => dialog.appendChild(doc.createElement(name)));
  dialog.id = "heartbeat";
  dialog.role = "alertdialog";
  dialog.ariaLabel = my.label;
  dialog.setAttribute("aria-describedby", text.id = "heartbeat-text");
  timer.role = "timer";

  const show = (...words) => {
    // Not written again when it is the same: somebody may be listening to it.
    [text, timer, button].map((part, i) => part.textContent === words[i] || (part.textContent = words[i]));
    if (!dialog.open) {
      doc.body.append(dialog);
      dialog.showModal();
    }
  };

  const report = (detail) => doc.dispatchEvent(new CustomEvent("heartbeat", { detail, cancelable: true }));

  const learn = (news, at, mine) => {
    const { left, signed_in } = news, gone = left === null;
    if (mine) tabs.postMessage([news, Date.now() - (now() - at) * 1e3]);
    // A stranger's session may go when it is empty. Only its time makes that worth a word.
    if (user ? gone || !signed_in : gone && now() > end) {
      // Another tab's news may be of before a sign-in: that this page's session has ended, only the
      // server tells.
      if (!mine) heard = -1 / 0;
      else if (over = report(news)) {
        // Hidden, not removed: a browser brings back what was typed when the page is loaded again.
        for (const part of doc.body.children) part.style.display = part === dialog ? "" : "none";
        show(news.text, "", my.again);
      } else {
        over = 1;
        dialog.remove();
      }
    } else if (at >= heard) {
      heard = at;
      end = gone ? NaN : at + left;
      can = news.extendable;
      user ??= signed_in;
      report(news);
    }
    tick();
  };

  const call = async () => {
    const extending = active && can, sent = now();
    try {
      const answer = await fetch(url, {
        method: extending ? "POST" : "GET",
        headers: { "X-Heartbeat": 1 },
        signal: AbortSignal.timeout(9e3),
      });
      if (answer.ok) {
        const news = await answer.json();
        busy = 0;
        if (extending) active = 0;
        learn(news, sent, 1);
      }
    } catch {}
    // Without an answer the session goes on, and the server is asked again.
    heard = Math.max(heard, sent);
  };

  const ask = async () => {
    if (busy || over) return;
    busy = 1;
    // One tab asks for all. (Pages that are not secure have no locks.)
    const locks = navigator.locks;
    await (locks ? locks.request(url, { ifAvailable: true }, (lock) => lock && call()) : call());
    busy = 0;
  };

  const tick = () => {
    const left = end - now(), age = now() - heard, near = left - warn;
    if (over) return;
    if (
      age === 1 / 0 ||
      // Time is up, or somebody wants to go on.
      (age >= 5 && (left < -1 || (near <= 0 && active && can))) ||
      // The turn of this minute; not shortly before the warning: then, so that the warning is true.
      (age >= every && !doc.hidden && (user === undefined || near <= 0 || near >= every))
    ) ask();
    if (near <= 0) {
      const rest = Math.max(0, Math.ceil(left));
      const time = (rest / 60 | 0) + ":" + (rest % 60 + "").padStart(2, 0);
      if (dialog.open || !(busy || seen)) show(can ? my.soon : my.last, time, can ? my.stay : my.seen);
    } else {
      seen = 0;
      dialog.close();
    }
  };

  // Seen from here on: a look at the time may come before the dialog tells that it is closed.
  button.onclick = () => (over || (seen = !can)) && dialog.close();
  dialog.onclose = () => {
    seen = !can;
    if (over) location = my.next || location.pathname + location.search;
  };
  for (const kind of ["keydown", "click", "wheel", "touchmove"]) {
    addEventListener(kind, (event) => {
      active ||= event.isTrusted;
      if (dialog.open && can && active) ask();
    }, { capture: true, passive: true });
  }
  addEventListener("pageshow", (event) => {
    if (event.persisted) over ? location.reload() : heard = -1 / 0;
    tick();
  });
  doc.addEventListener("visibilitychange", tick);
  tabs.onmessage = ({ data: [news, at] }) => learn(news, now() - Math.max(0, Date.now() - at) / 1e3);
  // What the page was drawn with, unless it is drawn from the browser's memory.
  if (my.state && clock.getEntriesByType("navigation")[0]?.type !== "back_forward") learn(JSON.parse(my.state), 0, 1);
  tick();
  setInterval(tick, 1e3);
})();
