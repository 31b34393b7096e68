/** Which events and videos are shown, and in which order. */
vigil.filters = (() => {
  const byText = (one, other) => (one < other ? -1 : Number(one > other));
  const byName = (one, other) => byText(one.name, other.name);
  const byTime = (one, other) => byText(one.start_clock, other.start_clock);
  const inVideo = (one, other) =>
    one.video.number - other.video.number || one.start_frame - other.start_frame;
  const timed = (compare) => (one, other) =>
    one.start_clock && other.start_clock
      ? compare(one, other) || inVideo(one, other)
      : Boolean(other.start_clock) - Boolean(one.start_clock) || inVideo(one, other);

  const EVENT_ORDERS = {
    worst: (one, other) => other.peak_score - one.peak_score || inVideo(one, other),
    newest: timed((one, other) => byTime(other, one)),
    oldest: timed(byTime),
    video: inVideo,
  };
  const number = (name) => (one, other) =>
    (other[name] ?? -1) - (one[name] ?? -1) || byName(one, other);
  const VIDEO_ORDERS = {
    peak: number("peak_score"),
    name: byName,
    label: (one, other) => byText(one.label ?? "", other.label ?? "") || byName(one, other),
    events: (one, other) => other.events.length - one.events.length || byName(one, other),
    damage: number("num_damaged"),
    length: number("duration_seconds"),
  };
  const sorted = new Map();

  /** What a table has under a name from the address; its first entry if there is none. */
  const entry = (table, name) =>
    Object.hasOwn(table, name) ? table[name] : Object.values(table)[0];

  function order(kind, items, orders, name) {
    const key = `${kind} ${name}`;
    const reversed = name.startsWith("-");
    const compare = entry(orders, name.replace("-", ""));
    if (!sorted.has(key))
      sorted.set(key, [...items].sort(reversed ? (a, b) => compare(b, a) : compare));
    return sorted.get(key);
  }

  function minutesOf(text) {
    const found = /^(\d\d):(\d\d)$/.exec(text);
    return found ? 60 * Number(found[1]) + Number(found[2]) : null;
  }

  /** Whether a time of day is in a range, which may include midnight. */
  function inHours(time, from, to) {
    if (from === null && to === null) return true;
    const minutes = vigil.words.minutes(time);
    if (minutes === null) return false;
    const [start, stop] = [from ?? 0, to ?? 1439];
    return start <= stop
      ? start <= minutes && minutes <= stop
      : start <= minutes || minutes <= stop;
  }

  const REVIEWED = {
    "": () => true,
    no: (kind) => kind === "",
    yes: (kind) => kind !== "",
    right: (kind) => kind === "right" || kind === "other",
    wrong: (kind) => kind === "wrong",
    other: (kind) => kind === "other",
  };

  function events(state) {
    const [from, to] = [minutesOf(state.from), minutesOf(state.to)];
    const [words, least] = [state.q.toLowerCase(), Number(state.score) || 0];
    const isAsked = entry(REVIEWED, state.reviewed);
    return order("events", vigil.data.events, EVENT_ORDERS, state.sort).filter(
      (event) =>
        event.peak_score >= least &&
        (!state.class || event.class === state.class) &&
        (!state.camera || event.video.camera === state.camera) &&
        (!words || event.video.search.includes(words)) &&
        inHours(event.start_clock, from, to) &&
        (!state.reviewed || isAsked(vigil.verdicts.kind(event))),
    );
  }

  const KINDS = {
    "": () => true,
    events: (video) => video.events.length > 0,
    none: (video) => !video.reason && video.events.length === 0,
    damaged: (video) => video.num_damaged > 0,
    warnings: (video) => video.num_warnings > 0,
    left_out: (video) => video.num_left_out > 0,
    failed: (video) => video.reason != null,
  };

  function videos(state) {
    const [words, least] = [state.q.toLowerCase(), Number(state.score) || 0];
    const isKind = entry(KINDS, state.kind);
    const isAsked = entry(REVIEWED, state.reviewed);
    const all = [...vigil.data.videos, ...vigil.data.failures];
    const [from, to] = [minutesOf(state.from), minutesOf(state.to)];
    return order("videos", all, VIDEO_ORDERS, state.order).filter(
      (video) =>
        (video.peak_score ?? 0) >= least &&
        (!state.class || video.label === state.class) &&
        (!state.camera || video.camera === state.camera) &&
        (!words || video.search.includes(words)) &&
        inHours(video.recorded_at, from, to) &&
        (!state.reviewed || video.events.some((event) => isAsked(vigil.verdicts.kind(event)))) &&
        isKind(video),
    );
  }

  return { events, videos };
})();
