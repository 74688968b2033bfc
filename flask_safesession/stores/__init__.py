"""Where sessions are kept. :mod:`.base` says what a store is; each other file is one backend."""
