/**
 * A long list of which only the part near the window is in the page.
 *
 * Items have one height, in pixels, and stand in columns of at least a width.
 */
vigil.windowed = (container, { height, minWidth, gap, draw }) => {
  let items = [];
  let drawn = new Map();
  let pending = false;

  function shape() {
    const width = container.clientWidth;
    const columns = minWidth ? Math.max(1, Math.floor((width + gap) / (minWidth + gap))) : 1;
    return { columns, wide: (width - gap * (columns - 1)) / columns, step: height() + gap };
  }

  function place(element, index, { columns, wide, step }) {
    const [row, column] = [Math.floor(index / columns), index % columns];
    element.style.width = `${wide}px`;
    element.style.transform = `translate(${column * (wide + gap)}px, ${row * step}px)`;
  }

  function update() {
    pending = false;
    if (!container.clientWidth) return; // hidden
    const size = shape();
    const top = -container.getBoundingClientRect().top;
    container.style.height = `${Math.ceil(items.length / size.columns) * size.step}px`;
    const first = Math.max(0, Math.floor((top - innerHeight / 2) / size.step)) * size.columns;
    const last = Math.ceil((top + 1.5 * innerHeight) / size.step) * size.columns;
    const now = new Map();
    for (let index = first; index < Math.min(last, items.length); index++) {
      const element = drawn.get(index) ?? draw(items[index], index, items.length);
      if (!element.isConnected) container.append(element);
      place(element, index, size);
      now.set(index, element);
    }
    for (const [index, element] of drawn) {
      if (now.has(index)) continue;
      if (element.contains(document.activeElement)) now.set(index, element);
      else element.remove();
    }
    drawn = now;
  }

  function schedule() {
    if (!pending) requestAnimationFrame(update);
    pending = true;
  }

  function redraw() {
    const focused = [...drawn].find(([, element]) => element.contains(document.activeElement));
    const selector = focused && document.activeElement.dataset.part;
    for (const element of drawn.values()) element.remove();
    drawn = new Map();
    update();
    if (selector) drawn.get(focused[0])?.querySelector(`[data-part=${selector}]`)?.focus();
  }

  addEventListener("scroll", schedule, { passive: true });
  new ResizeObserver(schedule).observe(container);

  return {
    set(others) {
      items = others;
      redraw();
    },
    redraw,
    items: () => items,
    /** Scroll so that an item is well within the window. */
    reveal(index) {
      const { columns, step } = shape();
      const at = container.getBoundingClientRect().top + Math.floor(index / columns) * step;
      if (at < 80 || at + step > innerHeight - 80) scrollBy(0, at - innerHeight / 3);
      update();
    },
  };
};
