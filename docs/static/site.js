// On a phone a figure is small: a tap opens it at its own size.
document.addEventListener("DOMContentLoaded", () => {
  for (const image of document.querySelectorAll(".cell_output img")) {
    if (image.closest("a, .course-slider") || !/^(http|file)/.test(image.src)) continue;
    const link = document.createElement("a");
    link.href = image.src;
    link.className = "figure";
    image.replaceWith(link);
    link.append(image);
  }
});
