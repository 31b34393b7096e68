/** Elements. Text always becomes text nodes, so that no name is read as markup. */
vigil.dom = (() => {
  const SECONDS_SAID = 8;
  const SVG = "http://www.w3.org/2000/svg";

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value != null) element.setAttribute(name, value);
    }
    element.append(...children.flat(2).filter((child) => child != null && child !== false));
    return element;
  }

  const h = (tag, attributes = {}, ...children) =>
    fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes = {}, ...children) =>
    fill(document.createElementNS(SVG, tag), attributes, children);
  const byId = (id) => document.getElementById(id);

  /** A name from outside, isolated from the direction of the text around it. */
  const name = (text, attributes = {}) => h("bdi", attributes, text);

  let leaving;

  /** Tell something for a while to everyone, those who do not see the page included. */
  function say(text) {
    const status = byId("status");
    status.textContent = text;
    status.hidden = false;
    clearTimeout(leaving);
    leaving = setTimeout(() => {
      status.hidden = true;
    }, SECONDS_SAID * 1000);
  }

  return { h, svg, byId, name, say };
})();
