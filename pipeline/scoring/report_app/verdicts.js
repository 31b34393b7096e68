/**
 * The reviewer's verdicts: event -> right or wrong, the true class if it is another, a note, and
 * when. They are kept in this browser's storage, under the address of this page. A page that
 * `vigil serve` serves has those of others, too.
 */
vigil.verdicts = (() => {
  const PLACE = `vigil verdicts ${location.pathname}`;
  const listeners = [];
  const takers = [];
  let all = read();
  let others = new Map(); // event -> what each of the others says, with their names

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
    for (const taker of takers) taker(pairs.map(([event]) => event));
  }

  /** Have the verdicts that a server keeps in place of those that are here. */
  function take(own, ofOthers) {
    all = own;
    others = ofOthers;
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

  const kindOf = ({ verdict, trueClass }, event) =>
    verdict === "right" && trueClass !== event.class ? "other" : verdict;

  /** right, wrong, or the verdict that the event is of another class; "" without one. */
  const own = (event) => kindOf(get(event), event);

  const ofOthers = (event) => others.get(keyOf(event)) ?? [];
  const opinions = (said) => said.filter((one) => one.verdict);
  const isSplit = (said) =>
    new Set(opinions(said).map((one) => `${one.verdict} ${one.trueClass}`)).size > 1;

  /** The reviewer's own verdict, or else that of the others: split if they do not agree. */
  function kind(event) {
    const said = opinions(ofOthers(event));
    if (own(event) || !said.length) return own(event);
    return isSplit(said) ? "split" : kindOf(said[0], event);
  }

  const inWords = (kind, trueClass) =>
    ({
      right: "✓ right",
      wrong: "✗ wrong",
      other: `✎ ${trueClass}`,
      split: "≠ no agreement",
      "": "",
    })[kind];

  /** The verdict in words, with a sign, and with names if it is of others; "" without one. */
  function words(event) {
    const mine = get(event);
    const said = opinions(ofOthers(event));
    if (mine.verdict)
      return (
        inWords(own(event), mine.trueClass) + (isSplit([mine, ...said]) ? ", others differ" : "")
      );
    const names = said.map((one) => one.reviewer).join(", ");
    return inWords(kind(event), said[0]?.trueClass) + (names && ` · ${names}`);
  }

  /** What each of the others says, a sentence each. */
  const sentences = (event) =>
    ofOthers(event).map(
      (one) =>
        `${one.reviewer}: ${[inWords(kindOf(one, event), one.trueClass), one.note].filter(Boolean).join(", ")}`,
    );

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
    take,
    own,
    kind,
    words,
    sentences,
    onChange: (listener) => listeners.push(listener),
    onGive: (taker) => takers.push(taker),
  };
})();
