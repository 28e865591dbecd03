"""What comes out: synthetic images, evaluations, reports."""
