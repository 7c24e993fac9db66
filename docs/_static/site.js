// What Sphinx and furo leave out for those who read by keyboard or screen reader.
for (const region of document.querySelectorAll("pre, .table-wrapper")) region.tabIndex = 0;
for (const caption of document.querySelectorAll(".caption[role=heading]")) caption.ariaLevel = 2;
