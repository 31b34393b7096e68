/**
 * The data of the report. Scripts that `vigil report` wrote call `vigil.index` once, and
 * `vigil.video` for each video that is opened.
 */
const vigil = {};

(() => {
  const KEPT_DETAILS = 30;
  const details = new Map();
  const waiting = new Map();
  let query = "";

  /** Rows as objects with the names of the columns. */
  function objects(columns, rows) {
    return rows.map((row) => {
      const one = {};
      for (let i = 0; i < columns.length; i++) one[columns[i]] = row[i] ?? null;
      return one;
    });
  }

  vigil.index = (text) => {
    const index = JSON.parse(text);
    const videos = objects(index.video_columns, index.videos);
    videos.forEach((video, number) => {
      video.number = number;
      video.name = video.video;
      video.label = index.classes[video.label];
      video.events = [];
    });
    const events = objects(index.event_columns, index.events);
    for (const event of events) {
      event.video = videos[event.video];
      event.class = index.classes[event.class];
      event.number = event.video.events.push(event);
      event.id = `${event.video.number}.${event.number}`;
    }
    const failures = objects(index.failure_columns, index.failures);
    for (const failure of failures) {
      failure.name = failure.video;
      failure.events = [];
    }
    for (const one of [...videos, ...failures]) {
      one.camera = index.cameras[one.camera];
      one.search = one.name.toLowerCase();
    }
    const hasStrips = events.some((event) => event.strip != null);
    const { cameras, class_names: classes } = index;
    vigil.data = { videos, events, failures, cameras, classes, hasStrips };
    if (index.version) query = `?version=${index.version}`; // of results that a server may change
  };

  vigil.video = (number, text) => {
    details.set(number, JSON.parse(text));
    if (details.size > KEPT_DETAILS) details.delete(details.keys().next().value);
  };

  /** A promise of the details of a video. */
  vigil.load = (number) => {
    if (details.has(number)) return Promise.resolve(details.get(number));
    if (!waiting.has(number)) {
      const loading = new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = `report/videos/${number}.js${query}`;
        script.onload = () => resolve(details.get(number));
        const remedy = query ? "load this page again" : "run vigil report again";
        script.onerror = () => reject(new Error(`${script.src} cannot be read: ${remedy}`));
        document.head.append(script);
      }).finally(() => {
        waiting.delete(number);
      });
      waiting.set(number, loading);
    }
    return waiting.get(number);
  };
})();
