// What Sphinx and furo leave undone for those who use a keyboard or listen to a page.

for (const caption of document.querySelectorAll(".caption[role=heading]")) {
  caption.setAttribute("aria-level", "2");
}
for (const name of ["sidebar", "toc"]) {
  document.querySelector(`aside.${name}-drawer`)?.setAttribute("aria-label", name);
}
for (const cell of document.querySelectorAll("th")) {
  if (!cell.textContent.trim()) cell.replaceWith(document.createElement("td"));
}

// What is wider than the screen scrolls, so it takes the focus; formulas get their width late.
const wide = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});
for (const element of document.querySelectorAll("pre, div.math, .table-wrapper")) {
  wide.observe(element);
}
