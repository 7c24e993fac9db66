// What Sphinx and furo leave out for those who read by keyboard or screen reader.
for (const region of document.querySelectorAll("pre, .table-wrapper")) region.tabIndex = 0;
for (const caption of document.querySelectorAll(".caption[role=heading]")) caption.ariaLevel = 2;
for (const [drawer, holds] of [["sidebar", "Pages"], ["toc", "On this page"]])
  for (const aside of document.querySelectorAll(`.${drawer}-drawer`)) aside.ariaLabel = holds;
for (const box of document.querySelectorAll(".sphx-glr-thumbcontainer")) {
  box.setAttribute("tooltip", box.getAttribute("tooltip").replace(/::$/, ""));
  for (const link of box.querySelectorAll("a")) link.ariaLabel = link.textContent;
}
document.getElementById("search-results")?.insertAdjacentHTML("beforebegin", "<h1>Search</h1>");
