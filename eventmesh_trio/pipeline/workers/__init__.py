"""Pages are read in processes of their own, which can be killed."""
