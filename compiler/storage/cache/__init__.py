"""Cache of build steps by their cache keys, on this machine and in a store that a team shares."""
