/** What is shown, kept in the fragment of the address, so that a view can be sent. */
vigil.state = (() => {
  const DEFAULTS = {
    view: "events",
    q: "",
    class: "",
    camera: "",
    from: "",
    to: "",
    score: "",
    reviewed: "",
    kind: "",
    sort: "worst",
    order: "peak",
    open: "",
  };
  let current = read();

  function read() {
    const given = new URLSearchParams(location.hash.slice(1));
    return Object.fromEntries(
      Object.entries(DEFAULTS).map(([name, value]) => [name, given.get(name) ?? value]),
    );
  }

  /** The fragment of the current state with changes. */
  function fragment(changes = {}) {
    const changed = Object.entries({ ...current, ...changes }).filter(
      ([name, value]) => value !== DEFAULTS[name],
    );
    return `#${new URLSearchParams(changed)}`;
  }

  function set(changes) {
    const url = fragment(changes);
    current = { ...current, ...changes };
    history.replaceState(null, "", url);
  }

  return {
    get: () => current,
    set,
    fragment,
    reread: () => {
      current = read();
    },
    filters: ["q", "class", "camera", "from", "to", "score", "reviewed", "kind"],
  };
})();
