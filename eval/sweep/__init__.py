"""What a sweep over lambda and seeds found: its numbers, and their page."""
