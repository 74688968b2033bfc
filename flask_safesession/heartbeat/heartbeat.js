// Warns before the session ends, extends it while the page is used, and hides the page when the
// server reports that the session has ended; see docs/heartbeat.md. Written to be small: it is served
// without comments and spaces. Times are in seconds.
(() => {
  const doc = document, my = doc.currentScript.dataset, clock = performance, { url } = my, { locks } = navigator,
    every = +my.every || 60,
    // WCAG 2.2.1: 20 seconds at least. One more, since the time is checked once a second.
    warn = Math.max(20, my.warn || 60) + 1,
    born = Date.now() - clock.now(),
    tabs = new BroadcastChannel(url);
  // heard: the time of the last news, or of the last failed request. doubt: ask the server at once.
  // end: not a number without a session. who: a digest of the user of this page, or of its anonymous
  // session. user: whether the page was rendered for a user. can: using the session extends it.
  let heard = -1 / 0, doubt = 1, end, who, user, can, active, busy, over, seen;

  // One clock stops while a laptop sleeps, the other can be set back.
  const now = () => Math.max(clock.now(), Date.now() - born) / 1e3;

  // Each part gets its number as options, which are ignored.
  const [dialog, ...parts] = ["dialog", "h2", "p", "p", "button"].map(doc.createElement, doc),
    [, text, timer, button] = parts;
  dialog.append(...parts);
  dialog.id = "heartbeat";
  dialog.role = "alertdialog";
  dialog.setAttribute("aria-describedby", text.id = "heartbeat-text");
  timer.role = "timer";

  const show = (...words) => {
    dialog.ariaLabel = words[0];
    // Written only if it differs: a screen reader may be reading it.
    parts.map((part, i) => part.textContent === words[i] || (part.textContent = words[i]));
    dialog.open || (doc.body.append(dialog), dialog.showModal());
  };

  const report = detail => doc.dispatchEvent(new CustomEvent("heartbeat", { detail, cancelable: 1 }));

  const learn = (news, at, mine) => {
    // There is no session, or another one. An anonymous session may end because it is empty: that is
    // shown only if its time is up.
    const lost = (user || now() > end) && !news.who.includes(who);
    mine && tabs.postMessage([news, Date.now() - (now() - at) * 1e3]);
    // Another tab's news may be from before a sign-in: only the server decides whose page this is,
    // and that the session has ended.
    if (!mine && (lost || user == null)) doubt = 1;
    else if (lost) {
      over = 1;
      if (report({ ...news, left: null })) {
        // Hidden, not removed: a browser restores typed text when the page is loaded again.
        for (const part of doc.body.children) part.style.display = part === dialog ? "" : "none";
        show(my.over, news.text, "", my.again);
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
    // Not after the answer: there may be a new doubt by then.
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
    // Without an answer the session counts as live, and the server is asked again.
    heard = Math.max(heard, sent);
  };

  const ask = async (last = heard) => {
    if (busy || over) return;
    busy = 1;
    // One tab asks for all tabs. (Pages that are not secure have no locks.)
    await (locks ? locks.request(url, { ifAvailable: 1 }, lock => lock && call()) : call());
    busy = 0;
    // A busy tab shows no warning, and another tab's news may have come before the lock was refused.
    heard > last && tick();
  };

  const tick = () => {
    const left = end - now(), age = now() - heard, near = left - warn;
    if (over) return;
    if (
      doubt ||
      // Time is up, or the visitor is active during the warning.
      age >= 5 && (left < -1 || near <= 0 && active && can) ||
      // The regular request. Shortly before the warning it waits, so that the warning is correct.
      age >= every && !doc.hidden && (user == null || near <= 0 || near >= every)
    ) ask();
    if (near <= 0) {
      const rest = Math.max(0, Math.ceil(left)),
        time = (rest / 60 | 0) + ":" + (rest % 60 + "").padStart(2, 0);
      if (dialog.open || !(busy || seen)) show(my.head, can ? my.soon : my.last, time, can ? my.stay : my.seen);
    } else {
      seen = 0;
      dialog.close();
    }
  };

  // Set now: the timer may fire before the event that the dialog is closed.
  button.onclick = () => (over || (seen = !can)) && dialog.close();
  dialog.onclose = () => {
    seen = !can;
    // Never a bare path: "//" at its start means another site. "" is this page, without "#".
    if (over) location = new URL(my.next || "", location);
  };
  for (const kind of ["keydown", "click", "wheel", "touchmove"]) {
    addEventListener(kind, event => {
      active ||= event.isTrusted;
      if (dialog.open && can && active) ask();
    }, { passive: 1, capture: 1 });
  }
  addEventListener("pageshow", event => {
    if (event.persisted) over ? location.reload() : doubt = 1;
    tick();
  });
  doc.addEventListener("visibilitychange", tick);
  tabs.onmessage = ({ data: [news, at] }) => learn(news, now() - Math.max(0, Date.now() - at) / 1e3);
  // The state that the page was rendered with. It may be old (back button), but its user is right.
  if (my.state) {
    const news = JSON.parse(my.state);
    [who] = news.who;
    user = news.signed_in;
    if (clock.getEntriesByType("navigation")[0]?.type !== "back_forward") learn(news, doubt = 0, 1);
  }
  tick();
  setInterval(tick, 1e3);
})();
