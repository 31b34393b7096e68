/**
 * The timeline of a video: time to the right, score 0 to 1 upwards, with the threshold, events,
 * damage and truth, and a curve for each class. A click or an arrow key seeks.
 */
vigil.timeline = (() => {
  const { h, svg } = vigil.dom;
  const { clock, score } = vigil.words;
  const COLUMNS = 1000;
  const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400];

  /** Index of the segment at a time. */
  function segmentAt(edges, seconds) {
    let [low, high] = [0, edges.length - 2];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (edges[middle] <= seconds) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** Stretches [start, stop, value] of a window; close segments are joined, with their highest. */
  function columns(edges, values, [from, to]) {
    const shortest = (to - from) / COLUMNS;
    const found = [];
    for (let i = 0; i < values.length; i++) {
      if (edges[i + 1] < from || edges[i] > to) continue;
      const last = found.at(-1);
      if (last && edges[i + 1] - last[0] <= shortest) {
        last[1] = edges[i + 1];
        last[2] = Math.max(last[2], values[i]);
      } else found.push([edges[i], edges[i + 1], values[i]]);
    }
    return found;
  }

  function path(edges, values, window, closed) {
    const scale = COLUMNS / (window[1] - window[0] || 1);
    const x = (seconds) => ((seconds - window[0]) * scale).toFixed(1);
    const y = (value) => (100 - 100 * value).toFixed(1);
    const points = columns(edges, values, window).flatMap(([start, stop, value]) => [
      `${x(start)} ${y(value)}`,
      `${x(stop)} ${y(value)}`,
    ]);
    if (!points.length) return "";
    const ends = [points[0], points.at(-1)].map((point) => `${point.split(" ")[0]} 100`);
    return `M${(closed ? [ends[0], ...points, ends[1]] : points).join(" L")}`;
  }

  function ticks([from, to], width) {
    const most = Math.max(2, Math.floor(width / 90));
    const step = STEPS.find((one) => (to - from) / one < most) ?? (to - from) / most;
    const marks = [];
    for (let time = Math.ceil(from / step) * step; time <= to; time += step) {
      const share = (time - from) / (to - from || 1);
      const mark = h(
        "time",
        { class: share > 0.93 ? "last" : share < 0.02 ? "first" : "" },
        clock(time),
      );
      mark.style.left = `${100 * share}%`;
      marks.push(mark);
    }
    return h("div", { class: "ticks", "aria-hidden": "true" }, marks);
  }

  const drawing = (kind, ...content) =>
    svg(
      "svg",
      { class: kind, viewBox: "0 0 1000 100", preserveAspectRatio: "none", "aria-hidden": "true" },
      content,
    );

  /** The drawings of a window of time. */
  function draw(details, events, open, window, width) {
    const scale = COLUMNS / (window[1] - window[0] || 1);
    const block = (kind, [start, stop], y, height, least = 0) => {
      const left = Math.max(0, (start - window[0]) * scale);
      const right = Math.min(COLUMNS, (stop - window[0]) * scale);
      return (
        right >= 0 &&
        left <= COLUMNS &&
        svg("rect", { class: kind, x: left, width: Math.max(right - left, least), y, height })
      );
    };
    const level = 100 - 100 * details.threshold;
    return [
      drawing(
        "scores",
        events.map((event) =>
          block(
            event === open ? "event open" : "event",
            [event.start_seconds, event.stop_seconds],
            0,
            100,
            2,
          ),
        ),
        (details.truth?.intervals ?? []).map((range) => block("truth", range, 0, 7, 2)),
        svg("line", { class: "threshold", x1: 0, x2: COLUMNS, y1: level, y2: level }),
        svg("path", { class: "line", d: path(details.edges, details.scores, window) }),
        details.damage.map((range) => block("damage", range, 93, 7, 3)),
      ),
      details.class_scores.map(([name, values]) =>
        h(
          "div",
          { class: "class-row" },
          h("bdi", {}, name),
          drawing(
            "class-score",
            svg("path", { class: "area", d: path(details.edges, values, window, true) }),
          ),
        ),
      ),
      ticks(window, width),
    ];
  }

  /** What is at a time, in words. */
  function describe(details, seconds) {
    if (!details.scores.length) return clock(seconds);
    const index = segmentAt(details.edges, seconds);
    const classes = details.class_scores
      .map(([name, values]) => [name, values[index]])
      .filter(([, value]) => value >= 0.05)
      .sort((one, other) => other[1] - one[1]);
    const damaged = details.damage.some(([start, stop]) => start <= seconds && seconds <= stop);
    return [
      clock(seconds),
      `score ${score(details.scores[index])}`,
      ...classes.slice(0, 3).map(([name, value]) => `${name} ${score(value)}`),
      ...(damaged ? ["damaged frames"] : []),
    ].join(", ");
  }

  function legend(details, events) {
    const kinds = [
      ["line", "score"],
      ["threshold", `threshold ${score(details.threshold)}`],
      events.length > 0 && ["event", "event"],
      details.truth?.intervals?.length > 0 && ["truth", "annotated"],
      details.damage.length > 0 && ["damage", "damaged frames"],
      details.class_scores.length > 0 && ["area", "class scores"],
    ].filter(Boolean);
    return h(
      "ul",
      { class: "legend" },
      kinds.map(([kind, words]) => h("li", {}, h("i", { class: kind }), words)),
    );
  }

  /** The timeline as {element, move(seconds)}; seek(seconds) is called when the user chooses. */
  function make(details, events, open, length, seek) {
    const whole = [0, length];
    const margin = open ? Math.max(30, 2 * (open.stop_seconds - open.start_seconds)) : 0;
    const near = open && [
      Math.max(0, open.start_seconds - margin),
      Math.min(length, open.stop_seconds + margin),
    ];
    let window = whole;
    let now = 0;
    const said = h("output", { class: "hover" });
    const head = h("i", { class: "playhead" });
    const drawings = h("div", { class: "drawings" });
    const preview = vigil.album.preview(details.album);
    const slider = h(
      "div",
      {
        class: "slider",
        role: "slider",
        tabindex: "0",
        "aria-label": "Time in the video",
        "aria-valuemin": "0",
        "aria-valuemax": Math.ceil(length),
        "aria-valuenow": "0",
        onclick: (click) => seek(timeAt(click)),
        onpointerdown: point,
        onpointermove: point,
        onpointerleave: leave,
        onblur: leave,
        onkeydown: (press) => {
          const step = { ArrowLeft: -5, ArrowRight: 5, PageUp: 60, PageDown: -60 }[press.key];
          const target = { Home: window[0], End: window[1] }[press.key] ?? (step && now + step);
          if (target == null) return;
          press.preventDefault();
          seek(Math.min(length, Math.max(0, target)));
          preview?.show(now, shareOf(now));
        },
      },
      drawings,
      head,
      preview?.element,
    );

    function point(pointer) {
      const seconds = timeAt(pointer);
      said.textContent = describe(details, seconds);
      preview?.show(seconds, shareOf(seconds));
    }

    function leave(event) {
      if (event.pointerType === "touch") return; // a finger that is lifted; the next blur hides it
      said.textContent = describe(details, now);
      preview?.hide();
    }

    const shareOf = (seconds) => (seconds - window[0]) / (window[1] - window[0] || 1);

    function timeAt(pointer) {
      const area = slider.getBoundingClientRect();
      const share = (pointer.clientX - area.left) / area.width;
      return window[0] + Math.min(1, Math.max(0, share)) * (window[1] - window[0]);
    }

    function move(seconds) {
      now = seconds;
      const share = shareOf(seconds);
      head.hidden = share < 0 || share > 1;
      head.style.left = `${100 * share}%`;
      slider.setAttribute("aria-valuenow", Math.round(seconds));
      slider.setAttribute("aria-valuetext", describe(details, seconds));
      said.textContent = describe(details, seconds);
    }

    function show(other) {
      window = other;
      drawings.replaceChildren(
        ...draw(details, events, open, window, slider.clientWidth || 600).flat(),
      );
      move(now);
    }

    const zoom = h(
      "button",
      {
        type: "button",
        class: "zoom",
        "aria-pressed": "false",
        onclick: () => {
          show(window === whole ? near : whole);
          zoom.setAttribute("aria-pressed", window === near);
        },
      },
      "Around the event",
    );
    const isLong = near && near[1] - near[0] < 0.8 * length;
    const element = h(
      "section",
      { class: "timeline", "aria-label": "Timeline" },
      slider,
      h("div", { class: "below" }, said, isLong && zoom),
      legend(details, events),
    );
    new ResizeObserver(() => show(window)).observe(slider);
    return { element, move };
  }

  return { make, columns, segmentAt };
})();
