/** Events as cards. */
vigil.cards = (() => {
  const { h, svg, name } = vigil.dom;
  const { clock, score, camera, fileName } = vigil.words;
  const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  const chosen = new Set();

  /** The scores of a video as a small curve, with a stretch of it marked. */
  function curve(video, start = 0, stop = 0) {
    const scale = 100 / (video.duration_seconds || 1);
    const levels = [...video.curve].map((digit) => 30 - (30 * DIGITS.indexOf(digit)) / 63);
    const points = levels.map((y, i) => {
      const [left, right] = [(100 * i) / levels.length, (100 * (i + 1)) / levels.length];
      return `${left.toFixed(2)} ${y.toFixed(1)} L${right.toFixed(2)} ${y.toFixed(1)}`;
    });
    return svg(
      "svg",
      { class: "curve", viewBox: "0 0 100 30", preserveAspectRatio: "none", "aria-hidden": "true" },
      stop > start &&
        svg("rect", {
          class: "event",
          x: start * scale,
          width: Math.max((stop - start) * scale, 1.5),
          height: 30,
        }),
      points.length > 0 && svg("path", { class: "line", d: `M${points.join(" L")}` }),
    );
  }

  /** Date and time of day if they are known, without seconds of the zone. */
  const when = (event) =>
    event.start_clock ? h("time", {}, event.start_clock) : h("span", {}, "time of day unknown");

  function draw(event, index, total) {
    const { open } = vigil.state.get();
    const verdict = vigil.verdicts.kind(event);
    const label = `choose ${event.class} at ${clock(event.start_seconds)} in ${event.video.name}`;
    return h(
      "article",
      {
        class: `card ${event.id === open ? "open" : ""} ${verdict && "reviewed"} ${vigil.data.hasStrips ? "with-strip" : ""}`,
        role: "listitem",
        "aria-posinset": index + 1,
        "aria-setsize": total,
      },
      h(
        "a",
        {
          href: vigil.state.fragment({ open: event.id }),
          "aria-current": event.id === open && "true",
          "data-part": "link",
          onclick: (click) => {
            if (click.ctrlKey || click.metaKey || click.shiftKey) return;
            click.preventDefault();
            vigil.app.open(event.id);
          },
        },
        h(
          "span",
          { class: "first" },
          h("strong", {}, event.class),
          verdict && h("span", { class: `badge ${verdict}` }, vigil.verdicts.words(event)),
          h("span", { class: "number" }, score(event.peak_score)),
        ),
        vigil.data.hasStrips && vigil.album.strip(event),
        curve(event.video, event.start_seconds, event.stop_seconds),
        h(
          "span",
          { class: "second" },
          when(event),
          h("span", { class: "number" }, `at ${clock(event.start_seconds)}`),
        ),
        h(
          "span",
          { class: "third", title: event.video.name },
          name(camera(event.video.camera), { class: "camera" }),
          name(fileName(event.video.name), { class: "file" }),
        ),
      ),
      h(
        "label",
        { class: "choose" },
        h("input", {
          type: "checkbox",
          checked: chosen.has(event),
          "aria-label": label,
          "data-part": "choose",
          onchange: () => choose([event]),
        }),
      ),
    );
  }

  /** Choose events, or no longer if all of them are chosen. */
  function choose(events) {
    const add = !events.every((event) => chosen.has(event));
    for (const event of events) add ? chosen.add(event) : chosen.delete(event);
    vigil.app.chosenChanged();
  }

  return { draw, curve, chosen, choose };
})();
