"""Taking sources and files apart: bytes to segments, tags, values and grids."""
