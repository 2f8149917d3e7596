// Builds the page of the tide clock: what a reader without a script engine never sees.
async function show() {
  const answer = await fetch("/app/tide-clock.json");
  const clock = await answer.json();
  const root = document.getElementById("root");
  const article = document.createElement("article");
  const heading = document.createElement("h1");
  heading.textContent = clock.title;
  article.append(heading);
  for (const text of clock.paragraphs) {
    const paragraph = document.createElement("p");
    paragraph.textContent = text;
    article.append(paragraph);
  }
  root.append(article);
  document.title = clock.title;
}
show();
