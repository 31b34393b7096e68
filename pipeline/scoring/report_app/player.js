/** The browser's own player, at a moment of a video; or why it cannot play, and where to look. */
vigil.player = (() => {
  const { h } = vigil.dom;
  const { clock } = vigil.words;

  /**
   * As {element, seek(seconds), toggle()}; onTime(seconds) is called as time goes by.
   *
   * If the browser cannot play the video, it plays the clip of the event, if there is one.
   */
  function make(details, length, start, onTime, clip) {
    let moment = start;
    let offset = 0; // seconds of the video before the file that plays
    let isClip = false;
    const place = h("div", { class: "player" });
    const time = h("time", { class: "moment" }, clock(start));
    const differs = h("p", { class: "warning", hidden: true });
    let video = null;

    function cannot(why) {
      if (clip && !isClip) {
        isClip = true;
        const caption = clip.link === clip.annotated ? ", with a caption" : "";
        differs.textContent = `${why} This is the clip of the event${caption}.`;
        differs.hidden = false;
        return play(clip.link, clip.start);
      }
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
      video.currentTime = moment - offset;
      const measured = video.duration;
      if (
        !isClip &&
        Number.isFinite(measured) &&
        Math.abs(measured - length) > Math.max(2, 0.02 * length)
      ) {
        differs.textContent =
          `The browser plays ${clock(measured, true)} of this file, its frames last ` +
          `${clock(length, true)}: times in the player may differ.`;
        differs.hidden = false;
      }
    }

    function play(link, from) {
      offset = from;
      video = h("video", {
        src: link,
        controls: true,
        muted: true,
        playsinline: true,
        preload: "metadata",
        "aria-label": isClip ? "The clip of the event" : "The video",
        onloadedmetadata: begin,
        onerror: () => cannot("This browser cannot play this file."),
        ontimeupdate: () => {
          if (video) moment = video.currentTime + offset;
          onTime(moment);
        },
      });
      video.muted = true;
      place.replaceChildren(video);
    }

    if (details.link) play(details.link, 0);
    else if (/^\w+:\/\//.test(details.source ?? "")) cannot("The video is not on this machine.");
    else if (details.source) cannot("The video is not where it was when it was scored.");
    else if (details.recorded_at_source === "stream") cannot("This was a stream.");
    else cannot("The results do not say where the video is.");

    function seek(seconds) {
      moment = seconds;
      time.textContent = clock(seconds);
      if (video?.readyState) video.currentTime = seconds - offset;
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
