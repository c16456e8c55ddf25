"""The console in a real Chromium, where there is one."""
