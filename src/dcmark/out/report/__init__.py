"""One self-contained page about an archive, to look at before trusting a dataset."""
