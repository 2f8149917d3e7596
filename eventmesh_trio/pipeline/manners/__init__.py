"""What hosts are owed, by all runs together: robots.txt, turns, and time when they ask for it."""
