/** Puts the parts together: views, filters, what is open and what is chosen. */
vigil.app = (() => {
  const { h, byId, say } = vigil.dom;
  const { counted, camera } = vigil.words;
  const { state, verdicts, cards } = vigil;
  const narrow = matchMedia("(max-width: 44rem)");
  const CARD_HEIGHT = vigil.data.hasStrips ? 196 : 122;

  const eventList = vigil.windowed(byId("cards"), {
    height: () => CARD_HEIGHT,
    minWidth: 270,
    gap: 12,
    draw: cards.draw,
  });
  const videoList = vigil.windowed(byId("rows"), {
    height: () => (narrow.matches ? 78 : 46),
    minWidth: 0,
    gap: 0,
    draw: vigil.table.draw,
  });
  const isEvents = () => state.get().view !== "videos";
  const list = () => (isEvents() ? eventList : videoList);
  const idOf = (item) => (isEvents() ? item.id : item.reason == null ? String(item.number) : null);

  /** Filter and sort again, and draw everything. */
  function refresh() {
    const now = state.get();
    byId("events").hidden = !isEvents();
    byId("videos").hidden = isEvents();
    for (const [name, place] of [
      ["events", "to-events"],
      ["videos", "to-videos"],
    ]) {
      const isHere = (name === "events") === isEvents();
      byId(place).href = state.fragment({ view: name });
      if (isHere) byId(place).setAttribute("aria-current", "page");
      else byId(place).removeAttribute("aria-current");
    }
    for (const field of byId("filters").elements) {
      if (!(field.name in now)) continue;
      if (field.value !== now[field.name]) field.value = now[field.name];
      field.closest("label").hidden =
        (field.dataset.view && field.dataset.view !== (isEvents() ? "events" : "videos")) ||
        (field.type === "time" && !hasTimes);
    }
    vigil.table.head();
    const items = isEvents() ? vigil.filters.events(now) : vigil.filters.videos(now);
    list().set(items);
    byId("table").setAttribute("aria-rowcount", items.length + 1);
    const total = isEvents()
      ? vigil.data.events.length
      : vigil.data.videos.length + vigil.data.failures.length;
    const all = counted(total, isEvents() ? "event" : "video");
    byId("shown").textContent =
      items.length === total ? all : `${items.length.toLocaleString("en")} of ${all}`;
    byId("nothing").hidden = items.length > 0;
    byId("clear").hidden = !state.filters.some((name) => now[name]);
    showBatch();
  }

  function change(changes) {
    state.set(changes);
    refresh();
  }

  /** The video and event of an id such as 12 or 12.3; neither if there is none. */
  function find(id) {
    const [video, number] = id.split(".").map(Number);
    const found = id && vigil.data.videos[video];
    if (!found) return {};
    return number ? { video: found, event: found.events[number - 1] } : { video: found };
  }

  /** Open a video or an event by its id, or close what is open. */
  function open(id) {
    const { video, event } = find(id);
    const isNew = Boolean(state.get().open) !== Boolean(id);
    state.set({ open: video ? id : "" });
    if (video) vigil.details.show(video, event);
    else vigil.details.close();
    if (id && !video) say("The address names a video that is not here.");
    list().redraw();
    const index = list()
      .items()
      .findIndex((item) => idOf(item) === id);
    if (index >= 0 && !(isNew && !id)) list().reveal(index);
  }

  /** Open the next or the previous one of those shown. */
  function step(by) {
    const items = list()
      .items()
      .filter((item) => idOf(item) !== null);
    const now = state.get().open;
    const isOpen = (item) =>
      idOf(item) === now || (!isEvents() && idOf(item) === now.split(".")[0]);
    const index = now ? items.findIndex(isOpen) : -1;
    const next = items[index < 0 ? 0 : index + by];
    if (next) open(idOf(next));
    else say(items.length ? "No more here." : "Nothing is shown.");
  }

  function showBatch() {
    const { chosen } = cards;
    byId("batch").hidden = !isEvents() || !vigil.data.events.length;
    byId("num-chosen").textContent = chosen.size
      ? `${chosen.size.toLocaleString("en")} chosen`
      : "";
    for (const button of byId("batch").querySelectorAll("[data-needs]"))
      button.hidden = !chosen.size;
    byId("choose-all").hidden = allChosen();
  }

  function chosenChanged() {
    showBatch();
    eventList.redraw();
  }

  const allChosen = () => {
    const items = eventList.items();
    return items.length > 0 && items.every((event) => cards.chosen.has(event));
  };

  function chooseOpen() {
    const { event } = find(state.get().open);
    if (event) cards.choose([event]);
    else say("Open an event first.");
  }

  function fillChoices() {
    const option = (value, words = value) => h("option", { value }, words);
    const classes = [...new Set(vigil.data.events.map((event) => event.class))].sort();
    byId("class").append(
      ...[...classes, ...vigil.data.classes.filter((one) => !classes.includes(one))].map((one) =>
        option(one),
      ),
    );
    byId("camera").append(...[...vigil.data.cameras].sort().map((one) => option(one, camera(one))));
    byId("camera")
      .closest("label")
      .classList.toggle("useless", vigil.data.cameras.length < 2);
  }

  let hasTimes = false;

  function begin() {
    hasTimes =
      [...vigil.data.events].some((event) => event.start_clock) ||
      vigil.data.videos.some((video) => video.recorded_at);
    fillChoices();
    byId("filters").addEventListener("input", (input) =>
      change({ [input.target.name]: input.target.value }),
    );
    byId("filters").addEventListener("submit", (submit) => submit.preventDefault());
    byId("clear").addEventListener("click", () =>
      change(Object.fromEntries(state.filters.map((name) => [name, ""]))),
    );
    byId("close").addEventListener("click", () => open(""));
    byId("next").addEventListener("click", () => step(1));
    byId("previous").addEventListener("click", () => step(-1));
    byId("choose-all").addEventListener("click", () => cards.choose(eventList.items()));
    byId("choose-none").addEventListener("click", () => cards.choose([...cards.chosen]));
    byId("export-chosen").addEventListener("click", () =>
      vigil.exchange.save([...cards.chosen], "events-chosen.csv"),
    );
    for (const which of ["right", "wrong"]) {
      byId(`chosen-${which}`).addEventListener("click", () =>
        verdicts.mark([...cards.chosen], which),
      );
    }
    for (const name of ["events", "videos"]) {
      byId(`to-${name}`).addEventListener("click", (click) => {
        click.preventDefault();
        change({ view: name });
      });
    }
    addEventListener("hashchange", () => {
      state.reread();
      refresh();
      open(state.get().open);
    });
    const fit = () => {
      byId("filter-box").open = !narrow.matches;
      videoList.redraw();
    };
    narrow.addEventListener("change", fit);
    fit();
    verdicts.onChange(() => {
      eventList.redraw();
      vigil.details.verdictsChanged();
    });
    vigil.exchange.begin();
    vigil.keys.begin();
    refresh();
    if (state.get().open) open(state.get().open);
    document.documentElement.dataset.ready = "";
  }

  return { begin, change, open, step, chooseOpen, chosenChanged };
})();

vigil.app.begin();
