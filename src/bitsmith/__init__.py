"""bitsmith."""
