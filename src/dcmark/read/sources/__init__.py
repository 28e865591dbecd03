"""Where files come from: one module per kind of source, put together in ``dcmark.read.containers``."""
