/** The keyboard. Single keys can be turned off, for those who speak to their computer. */
vigil.keys = (() => {
  const { byId, say } = vigil.dom;
  const PLACE = "vigil keys";

  const play = () =>
    vigil.details.player()?.toggle() ||
    say("Nothing to play: open an event whose video the browser can play.");

  function focus(id) {
    const field = byId(id);
    if (field) field.focus();
    else say("Open an event first.");
  }

  const ACTIONS = {
    j: () => vigil.app.step(1),
    k: () => vigil.app.step(-1),
    " ": play,
    r: () => vigil.details.judge("right"),
    w: () => vigil.details.judge("wrong"),
    c: () => focus("true-class"),
    n: () => focus("note"),
    x: () => vigil.app.chooseOpen(),
    "/": () => focus("q"),
    "?": () => byId("help").showModal(),
  };

  const isField = (element) =>
    element.matches("input:not([type=checkbox]), select, textarea, [contenteditable]");
  const takesSpace = (element) =>
    element.matches("button, a, summary, video, input, [role=slider]");

  function press(event) {
    const { target, key } = event;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]")) return;
    if (key === "Escape") {
      if (isField(target)) target.blur();
      else vigil.app.open("");
      return;
    }
    if (isField(target) || !byId("keys-on").checked) return;
    if (key === " " && (takesSpace(target) || !vigil.state.get().open)) return;
    const action = ACTIONS[key];
    if (!action) return;
    event.preventDefault();
    action();
  }

  function begin() {
    const box = byId("keys-on");
    try {
      box.checked = localStorage.getItem(PLACE) !== "off";
    } catch {
      box.checked = true;
    }
    box.addEventListener("change", () => localStorage.setItem(PLACE, box.checked ? "on" : "off"));
    byId("show-help").addEventListener("click", ACTIONS["?"]);
    addEventListener("keydown", press);
  }

  return { begin };
})();
