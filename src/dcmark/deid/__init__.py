"""De-identification: policy as data, applied to bytes; and the vault that leads back."""
