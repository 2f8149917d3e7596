"""Where URLs come from when all there is is a question: the providers of deep search."""
