"""Vectors that are found again: which index suits a corpus, the index itself, and how much of the truth it finds."""
