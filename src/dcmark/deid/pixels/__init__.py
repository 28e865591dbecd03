"""Text burned into pixels: where it is likely, where it stands, and frames without it (PS3.15 E.3.1)."""
