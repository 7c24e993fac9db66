"use strict";
(() => {
  const root = document.documentElement;
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ?? (prefersDark.matches ? "dark" : "light")) === "dark";

  const button = document.getElementById("theme");
  const label = () => {
    button.textContent = isDark() ? "Light colours" : "Dark colours";
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    label();
  });
  prefersDark.addEventListener("change", label);
  label();

  // On a narrow screen the contents would fill the first of it.
  if (window.matchMedia("(max-width: 64rem)").matches) {
    for (const chapter of document.querySelectorAll("nav details")) chapter.open = false;
  }

  // The image of the point under the pointer, or of the next one; the points stand in the order in which they are drawn.
  const showPoints = (figure) => {
    const [image, about] = [figure.querySelector(".viewer img"), figure.querySelector(".viewer p")];
    const points = JSON.parse(figure.querySelector('script[type="application/json"]').textContent);
    const marks = [...figure.querySelectorAll('g[id*="-points-"] :is(use, path)')].filter((mark) => !mark.closest("defs"));
    let at = -1;
    const show = (place) => {
      marks[at]?.classList.remove("at");
      at = place;
      marks[at].classList.add("at");
      [image.src, image.alt] = points[at];
      image.hidden = false;
      about.textContent = points[at][1];
    };
    marks.forEach((mark, place) => mark.addEventListener("pointerenter", () => show(place)));
    for (const step of figure.querySelectorAll("button[data-step]")) {
      step.addEventListener("click", () => {
        const by = Number(step.dataset.step);
        show(at < 0 ? (by > 0 ? 0 : marks.length - 1) : (at + by + marks.length) % marks.length);
      });
    }
  };
  for (const viewer of document.querySelectorAll(".viewer")) showPoints(viewer.closest("figure"));

  for (const copy of document.querySelectorAll("button[data-copy]")) {
    copy.addEventListener("click", async () => {
      const code = copy.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code); // a page on disk may not write to the clipboard: Ctrl-C does
        copy.textContent = "Selected";
      }
    });
  }
})();
