/** The browser's own player, at a moment of a video; or why it cannot play, and where to look. */
vigil.player = (() => {
  const { h } = vigil.dom;
  const { clock } = vigil.words;

  /** As {element, seek(seconds), toggle()}; onTime(seconds) is called as time goes by. */
  function make(details, length, start, onTime) {
    let moment = start;
    const place = h("div", { class: "player" });
    const time = h("time", { class: "moment" }, clock(start));
    const differs = h("p", { class: "warning", hidden: true });
    let video = null;

    function cannot(why) {
      video = null;
      place.replaceChildren(
        h(
          "div",
          { class: "cannot" },
          h("p", {}, h("strong", {}, why)),
          h("p", {}, "Look at ", time, details.source && " of"),
          details.source && h("code", {}, details.source),
          details.link &&
            h(
              "p",
              {},
              h("a", { href: details.link, target: "_blank", rel: "noreferrer" }, "Open the file"),
            ),
        ),
      );
    }

    function begin() {
      if (!video.videoWidth) return cannot("This browser cannot show the pictures of this file.");
      video.currentTime = moment;
      const measured = video.duration;
      if (Number.isFinite(measured) && Math.abs(measured - length) > Math.max(2, 0.02 * length)) {
        differs.textContent =
          `The browser plays ${clock(measured, true)} of this file, its frames last ` +
          `${clock(length, true)}: times in the player may differ.`;
        differs.hidden = false;
      }
    }

    if (!details.link) {
      cannot(
        details.source
          ? "The video is not where it was when it was scored."
          : "The results do not say where the video is.",
      );
    } else {
      video = h("video", {
        src: details.link,
        controls: true,
        muted: true,
        playsinline: true,
        preload: "metadata",
        "aria-label": "The video",
        onloadedmetadata: begin,
        onerror: () => cannot("This browser cannot play this file."),
        ontimeupdate: () => {
          moment = video?.currentTime ?? moment;
          onTime(moment);
        },
      });
      video.muted = true;
      place.append(video);
    }

    function seek(seconds) {
      moment = seconds;
      time.textContent = clock(seconds);
      if (video?.readyState) video.currentTime = seconds;
      onTime(seconds);
    }

    function toggle() {
      if (!video) return false;
      if (video.paused) video.play().catch(() => cannot("This browser cannot play this file."));
      else video.pause();
      return true;
    }

    /** Let go of the file. */
    function close() {
      if (!video) return;
      const old = video;
      video = null;
      old.removeAttribute("src");
      old.load();
    }

    return { element: h("div", {}, place, differs), seek, toggle, close };
  }

  return { make };
})();
