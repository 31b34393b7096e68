/** Thumbnails of a video, which lie in sheets: one sheet is loaded when one of its own is shown. */
vigil.album = (() => {
  const { h } = vigil.dom;
  const { clock } = vigil.words;

  /** Where each thumbnail of an album is, in order of time: [seconds, sheet, column, row]. */
  function places(album) {
    return album.sheets.flatMap(([sheet, seconds]) =>
      seconds.map((time, i) => [time, sheet, i % album.columns, Math.floor(i / album.columns)]),
    );
  }

  /** The place nearest to a moment; none if it is out of reach, as where frames are lost. */
  function nearest(all, reach, seconds) {
    let [low, high] = [0, all.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (all[middle][0] <= seconds) low = middle + 1;
      else high = middle;
    }
    const distance = (place) => (place ? Math.abs(place[0] - seconds) : Number.POSITIVE_INFINITY);
    const [before, after] = [all[low - 1], all[low]];
    const best = distance(after) < distance(before) ? after : before;
    return distance(best) <= reach ? best : null;
  }

  /** The thumbnail at a moment as {element, show(seconds, share), hide()}; null without an album. */
  function preview(album) {
    if (!album) return null;
    const all = places(album);
    const [width, height] = album.size;
    const picture = h("img", { width, height, alt: "", onerror: () => hide() });
    const time = h("time", {});
    const element = h("div", { class: "preview", hidden: true }, picture, time);
    element.style.width = `${width}px`;

    function hide() {
      element.hidden = true;
    }

    /** Show it above a share, 0 to 1, of the width of what it lies in. */
    function show(seconds, share) {
      const place = nearest(all, album.reach, seconds);
      if (!place) return hide();
      const [found, sheet, column, row] = place;
      if (picture.getAttribute("src") !== sheet) picture.src = sheet;
      picture.style.objectPosition = `${-column * width}px ${-row * height}px`;
      time.textContent = clock(Math.max(found, 0)); // a stretch's first sheet may begin before it
      element.hidden = false;
      const room = element.parentElement.clientWidth - element.offsetWidth;
      const left = share * element.parentElement.clientWidth - element.offsetWidth / 2;
      element.style.left = `${Math.max(0, Math.min(room, left))}px`;
    }

    return { element, show, hide };
  }

  /** The strip of an event: thumbnails around its peak. */
  function strip(event) {
    const isThere = event.strip != null && event.video.album;
    return h(
      "span",
      { class: "strip" },
      isThere
        ? h("img", {
            src: `${event.video.album}/${event.strip}`,
            alt: `Thumbnails around ${clock(event.start_seconds)}`,
            decoding: "async",
            loading: "lazy",
            draggable: "false",
            onerror: (failed) => failed.target.replaceWith("The thumbnails are gone"),
          })
        : "No thumbnails",
    );
  }

  return { nearest, places, preview, strip };
})();
