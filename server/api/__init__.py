"""What programs may ask of the server."""
