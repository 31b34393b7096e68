/** Numbers and times as people read them. */
vigil.words = (() => {
  const two = (number) => String(number).padStart(2, "0");

  /** Time in a video as h:mm:ss, rounded down, or up. */
  function clock(seconds, up = false) {
    const whole = up ? Math.ceil(seconds) : Math.floor(seconds);
    return `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}`;
  }

  const score = (value) => value.toFixed(3);
  const percent = (share) => `${(100 * share).toFixed(0)}%`;
  const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
  const camera = (name) => (name === "." ? "(top folder)" : name);
  const fileName = (name) => name.slice(name.lastIndexOf("/") + 1);

  /** Minutes of the day of a time such as 2024-05-01 23:59:58+02:00; null without one. */
  const minutes = (time) =>
    time ? 60 * Number(time.slice(11, 13)) + Number(time.slice(14, 16)) : null;

  return { clock, score, percent, counted, camera, fileName, minutes };
})();
