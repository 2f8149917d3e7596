"""The chosen blocks as Markdown."""
