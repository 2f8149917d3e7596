"""From a tree to flat arrays: one walk, after which everything about a page is slices of lists."""
