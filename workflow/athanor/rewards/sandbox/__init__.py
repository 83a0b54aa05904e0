"""Where what a model wrote may run: a process of its own that sees no file, no network and no other process of this machine."""
