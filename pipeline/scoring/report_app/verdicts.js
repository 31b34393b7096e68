/**
 * The reviewer's verdicts: event -> right or wrong, the true class if it is another, a note, and
 * when. They are kept in this browser's storage, under the address of this page.
 */
vigil.verdicts = (() => {
  const PLACE = `vigil verdicts ${location.pathname}`;
  const listeners = [];
  let all = read();

  function read() {
    try {
      return new Map(JSON.parse(localStorage.getItem(PLACE) ?? "[]"));
    } catch {
      return new Map();
    }
  }

  function write() {
    try {
      localStorage.setItem(PLACE, JSON.stringify([...all]));
    } catch (error) {
      vigil.dom.say(
        `The browser keeps no verdicts (${error.message}): export them before you leave.`,
      );
    }
    for (const listener of listeners) listener();
  }

  const now = () => `${new Date().toISOString().slice(0, 19)}Z`;
  const NONE = { verdict: "", trueClass: "", note: "", at: "" };
  const keyOf = (event) => `${event.video.name}\n${event.start_frame}-${event.stop_frame}`;
  const get = (event) => all.get(keyOf(event)) ?? NONE;

  /** Change verdicts, given as [event, changes], keeping what the changes do not name. */
  function setEach(pairs) {
    for (const [event, changes] of pairs) {
      const changed = { ...get(event), at: now(), ...changes };
      if (changed.verdict || changed.note) all.set(keyOf(event), changed);
      else all.delete(keyOf(event));
    }
    write();
  }

  const set = (events, changes) => setEach(events.map((event) => [event, changes]));

  /** Mark events right or wrong, or neither. */
  const mark = (events, verdict) =>
    setEach(
      events.map((event) => [
        event,
        { verdict, trueClass: verdict === "right" ? event.class : "" },
      ]),
    );

  /** right, wrong, or the verdict that the event is of another class; "" without one. */
  const kind = (event) => {
    const { verdict, trueClass } = get(event);
    return verdict === "right" && trueClass !== event.class ? "other" : verdict;
  };

  /** The verdict in words, with a sign; "" without one. */
  function words(event) {
    const { trueClass } = get(event);
    return { right: "✓ right", wrong: "✗ wrong", other: `✎ ${trueClass}`, "": "" }[kind(event)];
  }

  addEventListener("storage", (change) => {
    if (change.key !== PLACE) return;
    all = read(); // written by another tab
    for (const listener of listeners) listener();
  });

  return {
    keyOf,
    get,
    set,
    setEach,
    mark,
    kind,
    words,
    onChange: (listener) => listeners.push(listener),
  };
})();
