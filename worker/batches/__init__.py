"""Files of usage that are added up once, as they arrive."""
