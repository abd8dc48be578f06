"""What `python -m pyrnn` does: forecasts of the yearly sunspot numbers."""
