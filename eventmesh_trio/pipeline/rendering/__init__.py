"""Pages that a browser builds: the browser, how it is spoken to, and what it may do."""
