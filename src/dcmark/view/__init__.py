"""From archive to training set: selection, rendering, export."""
