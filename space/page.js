// A pasted image goes to the upload of the tab that is open, in place of what lies there. In the head of the page: gradio
// runs a page's own `js` some time after the page is shown, and what is pasted before that would be lost.
document.addEventListener("paste", async (event) => {
  const files = [...(event.clipboardData?.files ?? [])];
  const panel = [...document.querySelectorAll("[role=tabpanel]")].find((one) => one.offsetParent !== null);
  if (!files.length || !panel) return;
  event.preventDefault();
  for (let tries = 0; tries < 20; tries++) {
    const input = panel.querySelector("input[type=file]");
    if (input) {
      const data = new DataTransfer();
      files.forEach((file) => data.items.add(file));
      input.files = data.files;
      input.dispatchEvent(new Event("change", { bubbles: true }));
      return;
    }
    panel.querySelector("button[aria-label='Clear'], button[aria-label^='Remove']")?.click();
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
});

// How strongly the heat map lies over the film.
document.addEventListener("input", (event) => {
  if (event.target.matches?.(".cxr-strength")) {
    document.documentElement.style.setProperty("--heat", event.target.value);
  }
});
