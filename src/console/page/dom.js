// Making elements. Text is always set as text, never as markup: keys and values come from anybody.

/**
 * An element: `h("button.quiet", { onclick: save, disabled: true }, "Save")`.
 * Properties that begin with "on" are listeners, "class" adds classes, the others are attributes; children are
 * elements, texts, and lists of both; null, undefined and false are left out.
 */
export function h(selector, properties = {}, ...children) {
  const [tag, ...classes] = selector.split(".");
  const element = document.createElement(tag);
  element.classList.add(...classes);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.classList.add(...value.split(" ").filter(Boolean));
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...flat(children));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...flat(children));
  return element;
}

const flat = (children) => children.flat(Infinity).filter((child) => child || child === 0);

/** Puts `children` in the place of what is in `element`. */
export function fill(element, ...children) {
  element.replaceChildren(...flat(children));
  return element;
}

/** Asks a question in a dialog; resolves to whether it was answered with `action`. */
export function confirm(question, detail, action) {
  return new Promise((resolve) => {
    const close = (answer) => {
      dialog.close();
      dialog.remove();
      resolve(answer);
    };
    const dialog = h(
      "dialog",
      { "aria-label": question, oncancel: () => close(false) },
      h("h2", {}, question),
      h("p", {}, detail),
      h(
        "div.actions",
        {},
        h("button", { onclick: () => close(false), autofocus: true }, "Cancel"),
        h("button.danger", { onclick: () => close(true) }, action),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Calls `action` as soon as the page is in view, unless `signal` aborts it: what nobody sees is not asked for. */
export function whenVisible(signal, action) {
  if (!document.hidden) action();
  else document.addEventListener("visibilitychange", () => whenVisible(signal, action), { once: true, signal });
}

/** A line that says what went wrong, in the server's words. */
export const trouble = (error) =>
  h("p.trouble", { role: "alert" }, error instanceof TypeError ? `The member does not answer: ${error.message}` : error.message);
