"""Tables of the DICOM standard, their edition recorded beside them."""
