"""The console, which is the pages for people at /console/."""
