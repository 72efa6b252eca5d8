"""Data sets as files: which formats there are, where their files are, and what is in them."""
