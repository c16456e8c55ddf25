"""What others promise and what we promise others, each tried against something real."""
