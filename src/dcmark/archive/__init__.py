"""The lossless store: schema, store, restore, verify, query."""
