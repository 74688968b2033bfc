// Warns before the session ends, keeps it while the page is used, and takes the page off the screen
// when the server says that it has ended; docs/heartbeat.md tells how. Written to be small: it is
// served without its comments and spaces. Times are in seconds.
"use strict";
(() => {
  const doc = document, my = doc.currentScript.dataset, clock = performance, { url } = my, { locks } = navigator,
    every = +my.every || 60,
    // WCAG 2.2.1: 20 seconds at least. One more, for that is how far apart two looks are.
    warn = Math.max(20, my.warn || 60) + 1,
    born = Date.now() - clock.now(),
    tabs = new BroadcastChannel(url);
  // heard: when there was news last, or it was asked for in vain. doubt: the server has to be asked
  // at once. end: no number without a session. who: a digest of the user of this page, or of its
  // anonymous session. user: whether the page was drawn for one. can: using the session makes it
  // last longer.
  let heard = -1 / 0, doubt = 1, end, who, user, can, active, busy, over, seen;

  // The one clock stands still while a laptop sleeps, the other can be set back.
  const now = () => Math.max(clock.now(), Date.now() - born) / 1e3;

  const [dialog, text, timer, button] = ["dialog", "p", "p", "button"].map(tag => doc.createElement(tag));
  dialog.append(text, timer, button);
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

  const report = detail => doc.dispatchEvent(new CustomEvent("heartbeat", { detail, cancelable: 1 }));

  const learn = (news, at, mine) => {
    // There is no session, or another one. An anonymous session may end when it is empty: only its
    // time makes that worth a word.
    const lost = (user || now() > end) && !news.who.includes(who);
    mine && tabs.postMessage([news, Date.now() - (now() - at) * 1e3]);
    // Another tab's news may be of before a sign-in: whose page this is, and that it has ended, only
    // the server says.
    if (!mine && (lost || user == null)) doubt = 1;
    else if (lost) {
      over = 1;
      if (report({ ...news, left: null })) {
        // Hidden, not removed: a browser brings back what was typed when the page is loaded again.
        for (const part of doc.body.children) part.style.display = part === dialog ? "" : "none";
        show(news.text, "", my.again);
      } else dialog.remove();
    } else if (at >= heard) {
      heard = at;
      end = at + (news.left ?? NaN);
      can = news.extendable;
      if (!user) [who] = news.who;
      user ??= news.signed_in;
      report(news);
    }
    tick();
  };

  const call = async () => {
    const extending = active && can, sent = now();
    // Not when the answer is here: there may be a new doubt by then.
    doubt = 0;
    try {
      const answer = await fetch(url, {
        method: extending ? "POST" : "GET",
        headers: { "X-Heartbeat": 1 },
        signal: AbortSignal.timeout(9e3),
      });
      if (answer.ok) {
        const news = await answer.json();
        active &&= !extending;
        learn(news, sent, 1);
      }
    } catch {}
    // Without an answer the session goes on, and the server is asked again.
    heard = Math.max(heard, sent);
  };

  const ask = async (last = heard) => {
    if (busy || over) return;
    busy = 1;
    // One tab asks for all. (Pages that are not secure have no locks.)
    await (locks ? locks.request(url, { ifAvailable: 1 }, lock => lock && call()) : call());
    busy = 0;
    // While busy, a tab shows no warning; another tab's news may have come before this one was
    // refused the lock.
    heard > last && tick();
  };

  const tick = () => {
    const left = end - now(), age = now() - heard, near = left - warn;
    if (over) return;
    if (
      doubt ||
      // Time is up, or somebody wants to go on.
      age >= 5 && (left < -1 || near <= 0 && active && can) ||
      // The turn of this minute; not shortly before the warning: then, so that the warning is true.
      age >= every && !doc.hidden && (user == null || near <= 0 || near >= every)
    ) ask();
    if (near <= 0) {
      const rest = Math.max(0, Math.ceil(left)),
        time = (rest / 60 | 0) + ":" + (rest % 60 + "").padStart(2, 0);
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
    // Never a path alone: one that begins with "//" is another site. "" is this page, without "#".
    if (over) location = new URL(my.next || "", location);
  };
  for (const kind of ["keydown", "click", "wheel", "touchmove"]) {
    addEventListener(kind, event => {
      active ||= event.isTrusted;
      if (dialog.open && can && active) ask();
    }, { capture: 1, passive: 1 });
  }
  addEventListener("pageshow", event => {
    if (event.persisted) over ? location.reload() : doubt = 1;
    tick();
  });
  doc.addEventListener("visibilitychange", tick);
  tabs.onmessage = ({ data: [news, at] }) => learn(news, now() - Math.max(0, Date.now() - at) / 1e3);
  // What the page was drawn with. From the browser's memory it is old, but whose page it is stays.
  if (my.state) {
    const news = JSON.parse(my.state);
    [who] = news.who;
    user = news.signed_in;
    if (clock.getEntriesByType("navigation")[0]?.type !== "back_forward") learn(news, doubt = 0, 1);
  }
  tick();
  setInterval(tick, 1e3);
})();
