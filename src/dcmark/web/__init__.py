"""The page and DICOMweb: the only part of dcmark that speaks HTTP (docs/reference/http.md)."""
