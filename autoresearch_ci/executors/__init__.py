"""Where runs happen: `container` (Docker) and `native` (a process of this machine)."""
