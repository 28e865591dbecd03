"""dcmark: folders of medical images into one annotated, training-ready, reversible archive, and back."""

__version__ = "0.1.0"
