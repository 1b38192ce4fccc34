"""The study as pure code: what both sides agree on; imports neither side."""
