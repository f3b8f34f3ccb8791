"""Find, read and check ratings."""
