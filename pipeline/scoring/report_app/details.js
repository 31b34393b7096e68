/** The pane of one video: player, verdict, timeline, facts, its events, what was left out. */
vigil.details = (() => {
  const { h, byId, name, say } = vigil.dom;
  const { clock, score, percent, counted, fileName } = vigil.words;
  const NORMAL = "Normal";
  let shown = null;

  function verdictBar(event) {
    const { verdict, trueClass, note } = vigil.verdicts.get(event);
    const kind = vigil.verdicts.own(event);
    const button = (which, words, key) =>
      h(
        "button",
        {
          type: "button",
          class: which,
          "aria-pressed": String(kind === which),
          "aria-keyshortcuts": key,
          onclick: () => judge(which),
        },
        words,
        h("kbd", {}, key),
      );
    const others = [...new Set([...vigil.data.classes, trueClass])].filter(
      (one) => one && one !== event.class && one !== NORMAL,
    );
    return h(
      "div",
      { class: "verdict", role: "group", "aria-label": "Verdict" },
      button("right", "✓ Right", "r"),
      button("wrong", "✗ Wrong", "w"),
      h(
        "label",
        { class: kind === "other" ? "other set" : "other" },
        h("span", {}, "Other class", h("kbd", {}, "c")),
        h(
          "select",
          {
            id: "true-class",
            onchange: (change) => {
              const chosen = change.target.value;
              vigil.verdicts.set([event], { verdict: chosen && "right", trueClass: chosen });
            },
          },
          h("option", { value: "" }, "–"),
          others.map((one) =>
            h("option", { value: one, selected: verdict === "right" && trueClass === one }, one),
          ),
        ),
      ),
      h(
        "label",
        { class: "note" },
        h("span", {}, "Note", h("kbd", {}, "n")),
        h("input", {
          id: "note",
          maxlength: 1000,
          value: note,
          autocomplete: "off",
          onchange: (change) => vigil.verdicts.set([event], { note: change.target.value.trim() }),
        }),
      ),
      vigil.verdicts.sentences(event).map((said) => h("p", { class: "said" }, name(said))),
    );
  }

  /** Give the open event a verdict; the same one again takes it back. */
  function judge(which) {
    const event = shown?.event;
    if (!event) {
      say("Open an event first: a verdict is on an event.");
      return;
    }
    const again = vigil.verdicts.own(event) === which;
    vigil.verdicts.mark([event], again ? "" : which);
    say(again ? "Verdict taken back." : `Marked ${which}.`);
  }

  function facts(details, video) {
    const rows = [
      [
        "Peak score",
        `${score(video.peak_score)}, threshold ${score(details.threshold)}${details.threshold_rule ? ` (${details.threshold_rule})` : ""}`,
      ],
      [
        "Length",
        `${clock(video.duration_seconds, true)}, ${details.num_frames} frames of ${details.num_frames_container || "an unknown number"}, ${details.fps.toFixed(2)} a second`,
      ],
      details.num_damaged > 0 && [
        "Damage",
        `${counted(details.num_damaged, "damaged frame")}, ${details.num_lost} of them lost`,
      ],
      details.recorded_at && [
        "Recorded",
        `from ${details.recorded_at} on (${details.recorded_at_source.replaceAll("_", " ")})`,
      ],
      ["Label", video.label],
      [
        "Classes",
        details.probabilities
          .slice(0, 4)
          .map(([one, share]) => `${one} ${percent(share)}`)
          .join(", "),
      ],
      details.truth && [
        "Annotated as",
        details.truth.classes.join(" + ") + (details.truth.intervals ? "" : ", frames unknown"),
      ],
      ["Scored", details.span_frames ? `in spans of ${details.span_frames} frames` : "as a whole"],
      typeof details.static_share === "number" && [
        "Static",
        `${percent(details.static_share)} of the clips: not computed, since nothing moved`,
      ],
      ["File", details.source ?? "unknown"],
    ];
    return h(
      "dl",
      { class: "facts" },
      rows
        .filter(Boolean)
        .map(([term, text]) => h("div", {}, h("dt", {}, term), h("dd", {}, name(text)))),
    );
  }

  /** Links to a clip and to the one with a caption, which may be the only one. */
  function clipLinks({ link, annotated }) {
    const to = (href, text) => h("a", { href, target: "_blank", rel: "noreferrer" }, text);
    if (link === annotated) return to(link, "Clip, with a caption");
    return [to(link, "Clip"), annotated && [", ", to(annotated, "with a caption")]];
  }

  function eventList(video, details, open) {
    if (!video.events.length) return h("p", { class: "faint" }, "No events.");
    const seen = (event) => details.actions[event.number - 1];
    const clipOf = (event) => details.clips[event.number - 1];
    return h(
      "ol",
      { class: "events" },
      video.events.map((event) =>
        h(
          "li",
          { class: event === open ? "open" : "" },
          h(
            "a",
            {
              href: vigil.state.fragment({ open: event.id }),
              "aria-current": event === open && "true",
              onclick: (click) => {
                click.preventDefault();
                vigil.app.open(event.id);
              },
            },
            h("time", {}, `${clock(event.start_seconds)} to ${clock(event.stop_seconds, true)}`),
            " ",
            h("strong", {}, event.class),
          ),
          h(
            "span",
            { class: "faint number" },
            ` ${percent(event.class_probability)}, peak ${score(event.peak_score)}`,
          ),
          vigil.verdicts.kind(event) &&
            h(
              "span",
              { class: `badge ${vigil.verdicts.kind(event)}` },
              vigil.verdicts.words(event),
            ),
          event.start_clock &&
            h("div", { class: "faint" }, `${event.start_clock} to ${event.stop_clock}`),
          clipOf(event) && h("div", {}, clipLinks(clipOf(event))),
          seen(event)?.length > 0 &&
            h(
              "div",
              {
                class: "faint",
                title:
                  "Classes of another dataset (Kinetics-400), named by the network that computed the features. A hint, not part of the decision.",
              },
              "the network sees: ",
              seen(event)
                .map(([action, share]) => `${action} ${share.toFixed(2)}`)
                .join(", "),
            ),
        ),
      ),
    );
  }

  function leftOut(details) {
    if (!details.left_out.length) return null;
    return h(
      "details",
      {},
      h(
        "summary",
        {},
        `${details.left_out.length} left out, because the classifier sees nothing unusual around them`,
      ),
      h(
        "ul",
        { class: "left-out" },
        details.left_out.map(([start, stop, peak, kind, time]) =>
          h(
            "li",
            {},
            h(
              "button",
              { type: "button", class: "link", onclick: () => shown.player.seek(start) },
              `${clock(start)} to ${clock(stop, true)}`,
            ),
            h(
              "span",
              { class: "faint number" },
              ` ${kind} ${score(peak)}${time ? `, ${time}` : ""}`,
            ),
          ),
        ),
      ),
    );
  }

  function draw(video, event, details) {
    const length = video.duration_seconds;
    const seek = (seconds) => shown.player.seek(seconds);
    const timeline = vigil.timeline.make(details, video.events, event, length, seek);
    const start = event?.start_seconds ?? 0;
    const clip = event && details.clips[event.number - 1];
    const player = vigil.player.make(details, length, start, timeline.move, clip);
    const verdict = h("div", { id: "verdict" }, event && verdictBar(event));
    const list = h("div", { id: "event-list" }, eventList(video, details, event));
    shown = { video, event, details, player };
    byId("pane-body").replaceChildren(
      player.element,
      verdict,
      timeline.element,
      ...details.warnings.map((warning) => h("p", { class: "warning" }, warning)),
      h("h3", {}, counted(video.events.length, "event")),
      list,
      leftOut(details) ?? "",
      h("h3", {}, "About this video"),
      facts(details, video),
    );
    timeline.move(start);
  }

  /** Show a video, at an event if one is given. */
  async function show(video, event) {
    close();
    const title = byId("pane-title");
    title.replaceChildren(name(fileName(video.name), { title: video.name }));
    byId("pane").hidden = false;
    byId("pane-body").replaceChildren(h("p", { class: "faint" }, "Loading ..."));
    document.body.classList.add("with-pane");
    try {
      const details = await vigil.load(video.number);
      const open = vigil.state.get().open;
      if (open === (event?.id ?? String(video.number))) draw(video, event, details);
    } catch (error) {
      byId("pane-body").replaceChildren(h("p", { class: "warning" }, error.message));
    }
    byId("pane").scrollTop = 0;
  }

  function close() {
    shown?.player.close();
    shown = null;
    byId("pane").hidden = true;
    document.body.classList.remove("with-pane");
  }

  /** Draw what depends on verdicts again. */
  function verdictsChanged() {
    if (!shown) return;
    const isTyping = byId("verdict").contains(document.activeElement);
    const focused = isTyping && document.activeElement.id;
    const pressed = isTyping && document.activeElement.getAttribute("aria-keyshortcuts");
    if (focused !== "note")
      // What somebody is writing stays, even if others' verdicts arrive.
      byId("verdict").replaceChildren(...(shown.event ? [verdictBar(shown.event)] : []));
    byId("event-list").replaceChildren(eventList(shown.video, shown.details, shown.event));
    if (focused) byId(focused).focus();
    else if (pressed) byId("verdict").querySelector(`[aria-keyshortcuts=${pressed}]`).focus();
  }

  return { show, close, judge, verdictsChanged, player: () => shown?.player };
})();
