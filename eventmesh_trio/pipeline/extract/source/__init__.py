"""From bytes to a tree: what encoding, what kind of text, and a parser that nothing makes slow."""
