"""For tests and for authors of plug-ins: stand-in datasets, synthetic files, contract suites."""
