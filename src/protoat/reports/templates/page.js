"use strict";
(() => {
  const root = document.documentElement;
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ?? (prefersDark.matches ? "dark" : "light")) === "dark";

  // Charts take their colours from the page.
  const template = () => {
    const style = getComputedStyle(root);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = { gridcolor: colour("--panel"), linecolor: colour("--line"), zerolinecolor: colour("--line") };
    const bars = { color: colour("--text") };
    return {
      data: { bar: [{ error_x: bars, error_y: bars }], scatter: [{ error_x: bars, error_y: bars }] },
      layout: {
        font: { family: "system-ui, sans-serif", size: 13, color: colour("--text") },
        paper_bgcolor: colour("--back"),
        plot_bgcolor: colour("--back"),
        hoverlabel: { bgcolor: colour("--panel"), bordercolor: colour("--line"), font: { color: colour("--text") } },
        xaxis: axis,
        yaxis: axis,
      },
    };
  };

  const charts = [];
  const draw = (figure) => {
    const plot = figure.querySelector(".plot");
    const { data, layout } = JSON.parse(figure.querySelector('script[type="application/json"]').textContent);
    const compact = {
      margin: { l: 10, r: 24, t: 30, b: 50 },
      legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom" },
      autosize: true,
      template: template(),
    };
    for (const axis of Object.keys({ xaxis: 0, yaxis: 0, ...layout }).filter((key) => /^[xy]axis/.test(key))) {
      layout[axis] = { automargin: true, ...layout[axis] };
    }
    Plotly.newPlot(plot, data, { ...layout, ...compact }, { responsive: true, displaylogo: false, displayModeBar: false });
    charts.push(plot);
    if ("images" in figure.dataset) {
      showImages(figure, plot);
    }
  };

  // Text of a chart without the markup that plotly reads; nothing in it runs or is loaded.
  const plain = (text) =>
    new DOMParser().parseFromString(String(text).replace(/<br\s*\/?>/g, ", "), "text/html").body.textContent;

  const imageOf = (trace, index) => {
    const own = [trace.customdata?.[index]].flat(2);
    return own.find((value) => typeof value === "string" && value.startsWith("data:image/"));
  };

  const showImages = (figure, plot) => {
    const [image, about] = [figure.querySelector(".viewer img"), figure.querySelector(".viewer p")];
    const points = plot.data.flatMap((trace, curveNumber) =>
      Array.from({ length: trace.customdata?.length ?? 0 }, (_, pointNumber) => ({ curveNumber, pointNumber }))
    ).filter(({ curveNumber, pointNumber }) => imageOf(plot.data[curveNumber], pointNumber));
    let at = -1;
    const show = ({ curveNumber, pointNumber }) => {
      const trace = plot.data[curveNumber];
      const text = [trace.hovertext, trace.text].map((texts) => (Array.isArray(texts) ? texts[pointNumber] : texts));
      const words = plain(text.find((found) => found) ?? trace.name ?? "");
      image.src = imageOf(trace, pointNumber);
      image.alt = words;
      image.hidden = false;
      about.textContent = words;
    };
    plot.on("plotly_hover", (event) => {
      const { curveNumber, pointNumber } = event.points[0];
      at = points.findIndex((point) => point.curveNumber === curveNumber && point.pointNumber === pointNumber);
      if (at >= 0) show(points[at]);
    });
    for (const button of figure.querySelectorAll("button[data-step]")) {
      button.addEventListener("click", () => {
        if (!points.length) return;
        const step = Number(button.dataset.step);
        at = at < 0 ? (step > 0 ? 0 : points.length - 1) : (at + step + points.length) % points.length;
        Plotly.Fx.hover(plot, [points[at]]);
        show(points[at]);
      });
    }
  };

  const button = document.getElementById("theme");
  const label = () => {
    button.textContent = isDark() ? "Light colours" : "Dark colours";
  };
  const recolour = () => {
    label();
    for (const plot of charts) Plotly.relayout(plot, { template: template() });
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    recolour();
  });
  prefersDark.addEventListener("change", recolour);
  label();

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

  for (const figure of document.querySelectorAll("figure.chart")) draw(figure);
})();
