/** Tables as text, as RFC 4180 has them. */
vigil.csv = (() => {
  const cell = (value) => {
    const text = value == null ? "" : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };

  const format = (rows) => rows.map((row) => `${row.map(cell).join(",")}\r\n`).join("");

  /** Rows of cells; throws if a quotation mark is not closed. */
  function parse(text) {
    const rows = [];
    const token = /("(?:[^"]|"")*"|[^",\r\n]*)(,|\r?\n|$)/y;
    let row = [];
    while (token.lastIndex < text.length) {
      const found = token.exec(text);
      if (!found) throw new Error(`row ${rows.length + 1} has a quotation mark out of place`);
      const [, raw, end] = found;
      row.push(raw.startsWith('"') ? raw.slice(1, -1).replaceAll('""', '"') : raw);
      if (end !== ",") {
        rows.push(row);
        row = [];
      } else if (token.lastIndex === text.length) row.push("");
    }
    if (row.length) rows.push(row);
    return rows;
  }

  return { format, parse };
})();
