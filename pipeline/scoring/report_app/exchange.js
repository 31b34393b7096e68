/** Events and verdicts as CSV files: out of the browser and back. */
vigil.exchange = (() => {
  const { h, byId, say } = vigil.dom;
  const { clock, counted } = vigil.words;
  const COLUMNS = [
    "video",
    "start_frame",
    "stop_frame",
    "start_seconds",
    "stop_seconds",
    "start_time",
    "stop_time",
    "peak_score",
    "class",
    "class_probability",
    "start_clock",
    "stop_clock",
    "events_in_video",
    "verdict",
    "true_class",
    "note",
    "reviewed_at",
  ];

  function row(event) {
    const { verdict, trueClass, note, at } = vigil.verdicts.get(event);
    return [
      event.video.name,
      event.start_frame,
      event.stop_frame,
      event.start_seconds.toFixed(3),
      event.stop_seconds.toFixed(3),
      clock(event.start_seconds),
      clock(event.stop_seconds, true),
      event.peak_score.toFixed(6),
      event.class,
      event.class_probability.toFixed(6),
      event.start_clock,
      event.stop_clock,
      event.video.events.length,
      verdict,
      trueClass,
      note,
      at,
    ];
  }

  /** Have the browser save events as CSV. */
  function save(events, fileName) {
    const isText = (event) =>
      !/[\uD800-\uDBFF](?![\uDC00-\uDFFF])|(?<![\uD800-\uDBFF])[\uDC00-\uDFFF]/.test(
        event.video.name,
      );
    const kept = events.filter(isText);
    const url = URL.createObjectURL(
      new Blob([vigil.csv.format([COLUMNS, ...kept.map(row)])], { type: "text/csv" }),
    );
    const link = h("a", { href: url, download: fileName });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
    const without = events.length - kept.length;
    say(
      `${counted(kept.length, "event")} exported to ${fileName}.` +
        (without
          ? ` ${counted(without, "event")} left out: the name of the video is not UTF-8.`
          : ""),
    );
  }

  const exportVerdicts = () =>
    save(
      vigil.data.events.filter((event) => vigil.verdicts.get(event).at),
      "verdicts.csv",
    );

  /** Take verdicts from the text of such a file, and tell how many fit an event here. */
  function importText(text) {
    const [header = [], ...rows] = vigil.csv.parse(text.replace(/^\uFEFF/, ""));
    const at = (name) => header.indexOf(name);
    const missing = ["video", "start_frame", "stop_frame", "verdict"].filter(
      (name) => at(name) < 0,
    );
    if (missing.length) throw new Error(`it has no column ${missing[0]}`);
    const known = new Map(vigil.data.events.map((event) => [vigil.verdicts.keyOf(event), event]));
    let [taken, unknown, invalid] = [0, 0, 0];
    const changes = [];
    for (const cells of rows) {
      const value = (name) => cells[at(name)] ?? "";
      const event = known.get(`${value("video")}\n${value("start_frame")}-${value("stop_frame")}`);
      const verdict = value("verdict");
      if (!["", "right", "wrong"].includes(verdict)) invalid++;
      else if (!event) unknown++;
      else if (verdict || value("note")) {
        const trueClass = verdict === "right" ? value("true_class") || event.class : "";
        changes.push([
          event,
          {
            verdict,
            trueClass,
            note: value("note"),
            at: value("reviewed_at") || new Date().toISOString(),
          },
        ]);
        taken++;
      }
    }
    vigil.verdicts.setEach(changes);
    return (
      `${counted(taken, "verdict")} imported.` +
      (unknown ? ` ${counted(unknown, "row")} left out: no such event here.` : "") +
      (invalid ? ` ${counted(invalid, "row")} left out: a verdict is right or wrong.` : "")
    );
  }

  async function importFile(change) {
    const [file] = change.target.files;
    if (!file) return;
    try {
      say(importText(await file.text()));
    } catch (error) {
      say(`${file.name} is not a table of verdicts (${error.message}): nothing was imported.`);
    }
    change.target.value = "";
  }

  function begin() {
    byId("export").addEventListener("click", exportVerdicts);
    byId("import").addEventListener("change", importFile);
  }

  return { begin, save, importText };
})();
