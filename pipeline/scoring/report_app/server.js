/**
 * Verdicts of several people, kept by `vigil serve`. What is said here is seen at once, waits in
 * this browser until the server has it, and others' verdicts are asked for every few seconds.
 */
vigil.server = (() => {
  const { byId, say } = vigil.dom;
  const { counted } = vigil.words;
  const { verdicts } = vigil;
  const ADDRESS = document.querySelector("meta[name=vigil-server]").content;
  const UNSENT = `vigil unsent ${location.pathname}`;
  const REVIEWER = "vigil reviewer";
  const SECONDS = 5;
  const AT_A_TIME = 200;
  const known = new Map(); // what the server has, by person and event
  const inMemory = new Map(); // in place of a storage that is full or forbidden
  let last = 0;
  let isBusy = false;
  let numAtATime = AT_A_TIME;

  function load(place, otherwise) {
    try {
      const found = localStorage.getItem(place);
      if (found !== null) return JSON.parse(found);
    } catch {
      // Then it is in memory.
    }
    return inMemory.get(place) ?? otherwise;
  }

  function store(place, value) {
    try {
      localStorage.removeItem(place); // so that nothing old stays there if it is full
      localStorage.setItem(place, JSON.stringify(value));
      inMemory.delete(place);
    } catch {
      inMemory.set(place, value);
    }
  }

  const reviewer = () => load(REVIEWER, "");
  const unsent = () => new Map(load(UNSENT, []));
  const keyOf = (row) => `${row.video}\n${row.start_frame}-${row.stop_frame}`;
  const idOf = (row) => `${row.reviewer}\n${keyOf(row)}`;

  /** Tell how the server is, as long as it is so. */
  function tell(problem = "") {
    const number = unsent().size;
    const wait = number === 1 ? "waits" : "wait";
    const waiting = number ? ` ${counted(number, "verdict")} ${wait} in this browser.` : "";
    byId("connection").textContent = problem && problem + waiting;
    byId("connection").hidden = !problem;
  }

  /** Show what the server has, and what waits here. */
  function draw() {
    const me = reviewer();
    const own = new Map();
    const others = new Map();
    for (const row of [...known.values(), ...unsent().values()]) {
      const key = keyOf(row);
      const { verdict, true_class: trueClass, note, reviewed_at: at } = row;
      if (row.reviewer !== me) {
        const said = (others.get(key) ?? []).filter((one) => one.reviewer !== row.reviewer);
        if (verdict || note) said.push({ reviewer: row.reviewer, verdict, trueClass, note, at });
        others.set(key, said);
      } else if (verdict || note) own.set(key, { verdict, trueClass, note, at });
      else own.delete(key);
    }
    verdicts.take(own, others);
    byId("reviewer").textContent = me ? `Reviewer: ${me}` : "Who are you?";
  }

  function ask() {
    if (byId("who").open) return;
    byId("reviewer-name").value = reviewer();
    byId("who").showModal();
  }

  /** Take the name; what waits without one is by this person. */
  function named() {
    const name = byId("reviewer-name").value.trim();
    if (name) {
      store(REVIEWER, name);
      const rows = [...unsent().values()].map((row) =>
        row.reviewer ? row : { ...row, reviewer: name },
      );
      store(
        UNSENT,
        rows.map((row) => [idOf(row), row]),
      );
    } else if (unsent().size) say("Your verdicts wait in this browser until you give a name.");
    draw();
    exchange();
  }

  /** Have the server keep what is said of events. */
  function give(events) {
    const waiting = unsent();
    for (const event of events) {
      const { verdict, trueClass, note, at } = verdicts.get(event);
      const moment = new Date(at);
      const row = {
        video: event.video.name,
        start_frame: event.start_frame,
        stop_frame: event.stop_frame,
        reviewer: reviewer(),
        verdict,
        true_class: trueClass,
        note,
        reviewed_at: (Number.isNaN(moment.getTime()) ? new Date() : moment).toISOString(),
      };
      waiting.set(idOf(row), row);
    }
    store(UNSENT, [...waiting]);
    if (reviewer()) exchange();
    else ask();
  }

  async function call(query, request) {
    const response = await fetch(ADDRESS + query, { cache: "no-store", ...request });
    if (response.status === 401) throw new Error("Log in again: load this page with the token.");
    if (!response.ok) {
      const error = new Error(`The server answers with ${response.status}.`);
      error.status = response.status;
      throw error;
    }
    return response.json();
  }

  /** Send some of what waits; returns whether more may be sent. */
  async function send() {
    const rows = [...unsent().values()].filter((row) => row.reviewer).slice(0, numAtATime);
    if (!rows.length) return false;
    const refused = [];
    try {
      const answer = await call("", {
        method: "PUT",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ verdicts: rows }),
      });
      refused.push(...answer.refused);
    } catch (error) {
      if (![413, 422].includes(error.status)) throw error;
      if (rows.length > 1) {
        numAtATime = 1; // to find the one that is wrong
        return true;
      }
      refused.push({ index: 0, reason: "it cannot be stored" });
    }
    if (refused.length) {
      const { index, reason } = refused[0];
      say(
        `${counted(refused.length, "verdict")} refused: ${reason} (${rows[index].video}). Load the page again.`,
      );
    }
    const waiting = unsent(); // which may have changed since
    for (const row of rows) {
      if (JSON.stringify(waiting.get(idOf(row))) === JSON.stringify(row)) waiting.delete(idOf(row));
    }
    store(UNSENT, [...waiting]);
    return waiting.size > 0;
  }

  /** Ask for what others have said since. */
  async function receive() {
    const answer = await call(`?since=${last}`);
    if (answer.last < last) {
      known.clear(); // it is another database
      last = 0;
      return receive();
    }
    for (const row of answer.verdicts) {
      if (row.verdict || row.note) known.set(idOf(row), row);
      else known.delete(idOf(row));
    }
    last = answer.last;
    return answer.verdicts.length > 0;
  }

  /** Send what waits, and get what is new. */
  async function exchange() {
    if (isBusy) return;
    isBusy = true;
    try {
      const before = unsent().size;
      while (await send());
      numAtATime = AT_A_TIME;
      if ((await receive()) || before) draw();
      tell();
    } catch (error) {
      tell(error instanceof TypeError ? "The server cannot be reached." : error.message);
    } finally {
      isBusy = false;
    }
  }

  verdicts.onGive(give);
  byId("reviewer").addEventListener("click", ask);
  byId("who").addEventListener("close", named);
  addEventListener("online", exchange);
  document.addEventListener("visibilitychange", () => document.hidden || exchange());
  setInterval(() => document.hidden || exchange(), SECONDS * 1000);
  addEventListener("DOMContentLoaded", () => {
    draw();
    exchange();
  });

  return { exchange };
})();
