/** Videos as rows of a table; those that failed among them. */
vigil.table = (() => {
  const { h, byId, name } = vigil.dom;
  const { clock, score, percent, counted } = vigil.words;
  const COLUMNS = [
    ["name", "Video"],
    ["", "Score over time"],
    ["peak", "Peak"],
    ["label", "Label"],
    ["events", "Events"],
    ["damage", "Damaged"],
    ["length", "Length"],
  ];

  function head() {
    const { order } = vigil.state.get();
    const cells = COLUMNS.map(([key, title]) => {
      const sorted = { [key]: "descending", [`-${key}`]: "ascending" }[order];
      const sort = () => vigil.app.change({ order: order === key ? `-${key}` : key });
      return h(
        "span",
        { role: "columnheader", class: `cell ${key || "curves"}`, "aria-sort": key && sorted },
        key ? h("button", { type: "button", onclick: sort }, title) : title,
      );
    });
    byId("table-head").replaceChildren(h("div", { role: "row", class: "row" }, cells));
  }

  const cell = (kind, ...content) => h("span", { role: "cell", class: `cell ${kind}` }, content);

  function failed(video, attributes) {
    const where = [video.decoder, video.frame != null && `frame ${video.frame}`].filter(Boolean);
    return h(
      "div",
      { ...attributes, class: "row failed" },
      cell("name", name(video.name, { title: video.name })),
      cell(
        "reason",
        h("strong", {}, "✗ failed: "),
        name(video.reason),
        where.length > 0 && ` (${where.join(", ")})`,
      ),
    );
  }

  function draw(video, index) {
    const attributes = { role: "row", "aria-rowindex": index + 2 };
    if (video.reason != null) return failed(video, attributes);
    const id = String(video.number);
    const { open } = vigil.state.get();
    const isOpen = open.split(".")[0] === id;
    const notes = [
      video.num_warnings && counted(video.num_warnings, "warning"),
      video.num_left_out && `${video.num_left_out} left out`,
    ].filter(Boolean);
    const link = {
      href: vigil.state.fragment({ open: id }),
      title: video.name,
      "aria-current": isOpen && "true",
      "data-part": "link",
      onclick: (click) => {
        if (click.ctrlKey || click.metaKey || click.shiftKey) return;
        click.preventDefault();
        vigil.app.open(id);
      },
    };
    return h(
      "div",
      { ...attributes, class: `row ${isOpen ? "open" : ""}` },
      cell(
        "name",
        h("a", link, name(video.name)),
        notes.length > 0 && h("span", { class: "notes" }, notes.join(", ")),
      ),
      cell("curves", vigil.cards.curve(video)),
      cell("peak number", score(video.peak_score)),
      cell(
        "label",
        video.label,
        h("span", { class: "faint number" }, ` ${percent(video.label_probability)}`),
      ),
      cell(
        "events number",
        String(video.events.length),
        h("span", { class: "unit" }, video.events.length === 1 ? " event" : " events"),
      ),
      cell(
        "damage number",
        video.num_damaged ? String(video.num_damaged) : "–",
        h("span", { class: "unit" }, " damaged"),
      ),
      cell("length number", clock(video.duration_seconds, true)),
    );
  }

  return { head, draw };
})();
