"""Where the result is shown to people: GitHub, or a folder on this machine."""
